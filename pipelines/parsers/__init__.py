"""Raw text to `RawSequence`, one format a file; this is the one entry that serves every source."""

from pipelines.parsers import ntu, nwucla, pkummd
from shards.catalog import SOURCES
from shards.catalog import source as known_source
from shards.schema import RawSequence

SUFFIXES: dict[str, tuple[str, ...]] = {
    "ntu": (".skeleton",),
    "pkummd1": (".txt",),
    "pkummd2": (".txt",),
    "nwucla": (".json",),
}
"""What raw files of a source end in; for PKU-MMD skeleton and label files alike (`pkummd.pair_files` parts them)."""

_PARSERS = {"ntu": ntu.parse, "pkummd1": pkummd.parse, "pkummd2": pkummd.parse, "nwucla": nwucla.parse}

assert SUFFIXES.keys() == _PARSERS.keys() == SOURCES.keys()


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
    return _PARSERS[known_source(source).name](data, name, origin)
