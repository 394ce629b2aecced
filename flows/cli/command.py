"""A command: a function whose parameters are models of options, and which help and reference describe."""

import argparse
import shutil
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, get_type_hints

if TYPE_CHECKING:
    from pydantic import BaseModel

    from flows.cli.arguments import TypedField

Call = Callable[..., int | None]


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        name: the word that names it.
        call: what carries it out; returns the exit status, None for 0.
        examples: it as one types it.
    """

    name: str
    call: Call
    examples: tuple[str, ...]

    @property
    def about(self) -> str:
        """What it does, in a sentence: the docstring of its function."""
        return " ".join((self.call.__doc__ or "").split())

    @property
    def models(self) -> "dict[str, type[BaseModel]]":
        """The models of its options, by parameter."""
        from flows import options  # not above: the list of all commands would wait for it, and for pydantic

        return {
            name: kind for name, kind in get_type_hints(self.call, localns=vars(options)).items() if name != "return"
        }

    @property
    def fields(self) -> "list[TypedField]":
        """Its arguments, in the order of its help."""
        from flows.cli.arguments import typed_fields

        return typed_fields(self.models)

    def make_parser(self) -> argparse.ArgumentParser:
        """Its help and usage."""
        from flows.cli.arguments import make_parser

        about = textwrap.fill(self.about, line_width())
        return make_parser(f"skelstream {self.name}", about, self.examples, self.fields)

    def read(self, words: Sequence[str]) -> Callable[[], int | None]:
        """The call that the words after its name ask for; words that ask for none end in its usage, with status 2."""
        from flows.cli.arguments import read_options

        return partial(self.call, **read_options(self.make_parser(), self.models, self.fields, words))


def command(*examples: str, name: str | None = None) -> Callable[[Call], Command]:
    """Make a command of a function, named as the function is unless `name` says another name."""
    return lambda call: Command(name or call.__name__.replace("_", "-"), call, examples)


def line_width() -> int:
    """Characters of a line of help: those of the terminal, as argparse counts them."""
    return shutil.get_terminal_size().columns - 2
