"""Raw text to `RawSequence`, one format a file; this is the one entry that serves every source.

How to add a data set of one's own is told in `README.md` beside this file.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipelines.parsers import ntu, nwucla, pkummd
from shards.catalog import SOURCES, Catalogue
from shards.errors import ConfigError
from shards.schema import RawSequence
from shards.sources import Parser
from shards.sources.own import own_names, own_source

__all__ = ["PARSERS", "SUFFIXES", "BuiltIn", "Parser", "parse", "parser"]


@dataclass(frozen=True)
class BuiltIn:
    """A `Parser` without options.

    Attributes:
        suffixes: what the raw files end in; for PKU-MMD skeleton and label files alike (`pkummd.pair_files` parts
            them).
        parse: as `Parser.parse`.
    """

    suffixes: tuple[str, ...]
    parse: Callable[[bytes, str, str], RawSequence]


_BUILT_IN: dict[str, Parser] = {
    "ntu": BuiltIn((".skeleton",), ntu.parse),
    "pkummd1": BuiltIn((".txt",), pkummd.parse),
    "pkummd2": BuiltIn((".txt",), pkummd.parse),
    "nwucla": BuiltIn((".json",), nwucla.parse),
}


def _own_parser(source: str) -> Parser | None:
    own = own_source(source)
    return own.parser if own else None


def _own_suffixes(source: str) -> tuple[str, ...] | None:
    own = _own_parser(source)
    return own.suffixes if own else None


PARSERS: Mapping[str, Parser] = Catalogue(_BUILT_IN, _own_parser, own_names)
"""How the files of each source in `shards.catalog.SOURCES` are read."""

SUFFIXES: Mapping[str, tuple[str, ...]] = Catalogue(
    {name: built_in.suffixes for name, built_in in _BUILT_IN.items()}, _own_suffixes, own_names
)
"""What raw files of a source end in."""


def parser(source: str) -> Parser:
    """The parser of a source; ConfigError names the known ones, or what is wrong with an own one."""
    found = PARSERS.get(source)
    if found is None:
        raise ConfigError(f"unknown source {source!r}, expected one of {', '.join(SOURCES)}")
    return found


def parse(source: str, data: bytes, name: str, origin: str) -> RawSequence:
    """Read one recording of a source.

    Args:
        source: as in `shards.catalog.SOURCES`.
        data: the file's bytes.
        name: its base name, which becomes the key.
        origin: the file for error messages.

    Raises:
        ConfigError: unknown source.
        RawInputError: the file is not what the format demands.
    """
    return parser(source).parse(data, name, origin)
