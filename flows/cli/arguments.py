"""The arguments of a command, its help and its values, all from the models of its options.

Made here from pydantic's fields over argparse, because no library pays for itself. CPU seconds (Python 3.11, one core)
of the help of all commands, and of `pretrain --help`: this 0.07 and 0.20; pydantic-settings' CliApp 0.24 and 0.23 with
two commands alone, for it imports the options of all; cyclopts 0.36 and 0.49, for it draws with rich. cyclopts offers
each positional as an option too, and each option as a positional; neither shows a usage with its errors, takes
`--set a=1 --set b=2` beside `--stream joint,bone`, or tells what is wrong with a value without pydantic's frame around
it. Both would need about as many lines of adaptation as these.
"""

import argparse
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from flows.options.argument import OTHER, Argument

_ARGUMENTS, _REQUIRED, _OPTIONS = "arguments", "required options", "options"
_HELP_COLUMN = 28


@dataclass(frozen=True)
class TypedField:
    """A field that the command line sets.

    Attributes:
        place: where its value goes: parameter of the command, field, and field of that where it is a model.
        field: its type, default and description.
        argument: how it is typed.
    """

    place: tuple[str, ...]
    field: FieldInfo
    argument: Argument

    @property
    def kind(self) -> Any:
        """Its type, without None and annotations."""
        return _bare(self.field.annotation)

    @property
    def required(self) -> bool:
        """Whether it has to be typed."""
        return self.argument.required or self.field.is_required()

    @property
    def is_path(self) -> bool:
        """Whether a shell completes it by the names of files."""
        parts = (*self.field.metadata, *_parts(self.field.annotation))
        return any(isinstance(part, AfterValidator) for part in parts)  # those that expand `~`; there are no others

    @property
    def group(self) -> str:
        """The heading under which the help shows it."""
        named = _ARGUMENTS if self.argument.positional else _REQUIRED if self.required else _OPTIONS
        return self.argument.group or named

    @property
    def label(self) -> str:
        """What a message calls it."""
        name = self.place[-1]
        if self.argument.positional:
            return self.argument.metavar or name.upper()
        return self.argument.flag or "--" + name.replace("_", "-")

    @property
    def usage(self) -> str:
        """How it is typed."""
        words = [] if self.argument.positional else [self.label]
        if self.kind is not bool:
            words += [self._metavar, *(["..."] if self._nargs in ("+", "*") else [])]
        return " ".join(words)

    @property
    def default(self) -> str:
        """What it is when it is not typed; "" where its description says so."""
        value = self.field.default if self.argument.default is None else self.argument.default
        if self.required or value is None or value is False or value == ():
            return ""
        separator = "," if self.argument.several == "commas" else " "
        return separator.join(map(str, value)) if isinstance(value, tuple) else str(value)

    @property
    def text(self) -> str:
        """What it is, from the docstring of its field, and the names that it takes."""
        names = "" if self.argument.choices is None else f" One of {', '.join(self.argument.choices())}."
        return self._description + names

    @property
    def _description(self) -> str:
        return " ".join((self.field.description or "").split())

    @property
    def _metavar(self) -> str:
        named = f"{{{','.join(get_args(self.kind))}}}" if get_origin(self.kind) is Literal else self.place[-1].upper()
        return self.argument.metavar or ("N" if self.kind is int else named)

    @property
    def _nargs(self) -> str | None:
        optional = self.argument.positional and not self.required
        if get_origin(self.kind) is tuple and self.argument.several == "words":
            return "*" if optional else "+"
        return "?" if optional else None

    def add_to(self, group: argparse._ArgumentGroup) -> argparse.Action:
        """Have a parser read it, as text; what was not typed has no value."""
        dest = ".".join(self.place)
        default = f" Default: {self.default}" if self.default else ""
        names = "" if self.argument.choices is None else " One of %(choices)s."  # asked for when they are shown
        words: dict[str, Any] = {
            "help": self._description.replace("%", "%%") + names + default.replace("%", "%%"),
            "default": argparse.SUPPRESS,
        }
        if not self.argument.positional:
            words |= {"dest": dest, "required": self.required}
        if self.kind is bool:
            words["action"] = "store_true"
        else:
            words |= {"metavar": self._metavar, "nargs": self._nargs}
            repeat = get_origin(self.kind) is tuple and self.argument.several == "repeat"
            words["action"] = "append" if repeat else "store"
        if get_origin(self.kind) is Literal:
            words["choices"] = get_args(self.kind)
        elif self.argument.choices is not None:
            words["choices"] = _Names(self.argument)
        return group.add_argument(dest if self.argument.positional else self.label, **words)

    def read(self, typed: Mapping[str, Any]) -> Any:
        """What was typed, or the default of the command line; None where that of the model holds."""
        value = typed.get(".".join(self.place), self.argument.default)
        if self.argument.several == "commas" and isinstance(value, str):
            return list(dict.fromkeys(filter(None, map(str.strip, value.split(",")))))
        return value


class _Names:
    """Choices that are asked for when they are needed."""

    def __init__(self, argument: Argument) -> None:
        assert argument.choices is not None
        self._list = argument.choices

    def __iter__(self) -> Iterator[str]:
        return iter(self._list())

    def __contains__(self, name: object) -> bool:
        return name in self._list()


def typed_fields(models: Mapping[str, type[BaseModel]]) -> list[TypedField]:
    """The arguments of a command whose parameters are these models, those of the help's first groups first."""
    found = [typed for name, model in models.items() for typed in _fields(model, (name,), None)]
    first = [_ARGUMENTS, _REQUIRED, _OPTIONS]
    rest = [group for group in dict.fromkeys(typed.group for typed in found) if group not in (*first, OTHER)]
    order = [*first, *rest, OTHER]
    return sorted(found, key=lambda typed: order.index(typed.group))


def _fields(model: type[BaseModel], place: tuple[str, ...], group: str | None) -> Iterator[TypedField]:
    for name, field in model.model_fields.items():
        given = [part for part in field.metadata if isinstance(part, Argument)]
        argument = given[-1] if given else Argument()
        kind = _bare(field.annotation)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _fields(kind, (*place, name), argument.group)
        else:
            yield TypedField((*place, name), field, replace(argument, group=argument.group or group))


def _bare(kind: Any) -> Any:
    """A type without None and annotations."""
    if get_origin(kind) is Annotated:
        return _bare(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return _bare(next(part for part in get_args(kind) if part is not NoneType))
    return kind


def _parts(kind: Any) -> Iterator[Any]:
    for part in get_args(kind):
        yield part
        yield from _parts(part)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps words with hyphens whole: they are typed so."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=_HELP_COLUMN)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)


def required_usage(prog: str, fields: Sequence[TypedField]) -> str:
    """What has to be typed; that there is more, if there is."""
    needed = [typed.usage for typed in fields if typed.required]
    optional = [f"[{typed.usage}]" for typed in fields if typed.argument.positional and not typed.required]
    more = ["[OPTION ...]"] if any(not (typed.required or typed.argument.positional) for typed in fields) else []
    return " ".join((prog, *needed, *optional, *more))


def make_parser(
    prog: str, about: str, examples: Sequence[str], fields: Sequence[TypedField]
) -> argparse.ArgumentParser:
    """The parser of a command: its help is grouped, shows defaults and ends with examples."""
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=required_usage("%(prog)s", fields),
        description=about,
        epilog="\n".join(("example:" if len(examples) == 1 else "examples:", *(f"  {line}" for line in examples))),
        formatter_class=_HelpFormatter,
        add_help=False,
    )
    groups = {
        title: parser.add_argument_group(title) for title in dict.fromkeys(t.group for t in fields) | {OTHER: None}
    }
    for typed in fields:
        typed.add_to(groups[typed.group])
    groups[OTHER].add_argument("-h", "--help", action="help", help="Show this help.")
    return parser


def read_options(
    parser: argparse.ArgumentParser,
    models: Mapping[str, type[BaseModel]],
    fields: Sequence[TypedField],
    words: Sequence[str],
) -> dict[str, BaseModel]:
    """The options that were typed, by parameter; what does not fit ends in the usage and status 2."""
    found, rest = parser.parse_known_intermixed_args(words)  # options may stand among the words of a positional
    if rest:
        near = ", ".join(get_close_matches(rest[0].partition("=")[0], [field.label for field in fields], n=2))
        parser.error(f"unrecognized arguments: {' '.join(rest)}{near and f'; nearest: {near}'}")
    typed = vars(found)
    trees: dict[str, Any] = {name: {} for name in models}
    for field in fields:
        if (value := field.read(typed)) is not None:
            *folders, name = field.place
            tree = trees
            for folder in folders:
                tree = tree.setdefault(folder, {})
            tree[name] = value
    try:
        return {name: model.model_validate(trees[name]) for name, model in models.items()}
    except ValidationError as error:
        parser.error("; ".join(_describe(item, fields) for item in error.errors()))


def _describe(item: ErrorDetails, fields: Sequence[TypedField]) -> str:
    """What is wrong with a value, as argparse says it."""
    places: dict[tuple[int | str, ...], str] = {typed.place[1:]: typed.label for typed in fields}
    label = next((places[item["loc"][:end]] for end in (1, 2) if item["loc"][:end] in places), "?")
    said = item["msg"].removeprefix("Value error, ")
    if said == item["msg"]:  # pydantic's own, which does not say what was found
        said = f"found {item['input']!r}: {said}"
    return f"argument {label}: {said}"
