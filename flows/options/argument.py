"""How a field of the options is typed on the command line."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

SPEED = "device and loader (they change no result)"
OTHER = "other"


@dataclass(frozen=True)
class Argument:
    """What the command line needs to know of a field besides its type, default and docstring.

    A field without one is `--its-name`, shown in the group of required or of other options.

    Attributes:
        flag: its name on the command line, such as "--set".
        metavar: what stands for its value in a usage.
        positional: it is typed without a name.
        several: how the values of a tuple are typed: as words behind one flag, or the flag again for each, or one word
            with commas.
        required: it has to be typed, although the field has a default for flows.
        default: where typed by hand it has another default than the field, which has that of flows.
        choices: gives the names that it takes; asked when they are needed, because it may import what takes a while.
        group: the heading under which the help shows it.
    """

    flag: str | None = None
    metavar: str | None = None
    positional: bool = False
    several: Literal["words", "repeat", "commas"] = "words"
    required: bool = False
    default: Any = None
    choices: Callable[[], Collection[str]] | None = None
    group: str | None = None


POSITIONAL = Argument(positional=True)


def list_sources() -> Collection[str]:
    """Names of all sources, one's own among them."""
    from shards.catalog import SOURCES  # looks for installed packages that bring their own

    return SOURCES


def list_datasets() -> Collection[str]:
    """Names of all data sets, one's own among them."""
    from shards.catalog import DATASETS

    return DATASETS
