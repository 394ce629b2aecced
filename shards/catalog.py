"""The catalogue: every source and data set by name, the built-in ones and one's own (`shards.sources.own`).

Facts only: how a source's files are read is `pipelines.parsers`.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from shards.errors import ConfigError
from shards.schema import SampleInfo
from shards.sources import DataSet, Source, read_list
from shards.sources.ntu import NTU
from shards.sources.nwucla import NWUCLA
from shards.sources.own import own_names, own_source
from shards.sources.pkummd import PKUMMD1, PKUMMD2

__all__ = [
    "DATASETS",
    "SOURCES",
    "Catalogue",
    "DataSet",
    "Source",
    "dataset",
    "info_from_name",
    "missing_samples",
    "read_list",
    "source",
]

T = TypeVar("T")


class Catalogue(Mapping[str, T]):
    """Entries by name: built-in ones first, which no own one can replace, then own ones.

    Own ones are looked for when a name is not built in, and when the names are listed.
    """

    def __init__(
        self, built_in: Mapping[str, T], own: Callable[[str], T | None], names: Callable[[], list[str]]
    ) -> None:
        self._built_in, self._own, self._names = built_in, own, names

    def __getitem__(self, name: str) -> T:
        """The entry; KeyError when there is none, ConfigError when there is one that cannot be loaded."""
        found = self._built_in[name] if name in self._built_in else self._own(name)
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._built_in, *self._names()]))

    def __len__(self) -> int:
        return sum(1 for _ in self)


_BUILT_IN = {s.name: s for s in (NTU, PKUMMD1, PKUMMD2, NWUCLA)}


def _own_names() -> list[str]:
    return [name for name in own_names() if name not in _BUILT_IN]


def _own_source(name: str) -> Source | None:
    own = None if name in _BUILT_IN else own_source(name)
    return own.source if own else None


def _own_dataset(name: str) -> DataSet | None:
    # An own data set is called as its source, or begins so: no other package has to be imported.
    found = _own_source(name.partition("-")[0])
    return next((data for data in found.holds if data.name == name), None) if found else None


def _own_datasets() -> list[str]:
    return [name for source_name in _own_names() for name in _datasets_of(source_name)]


def _datasets_of(source_name: str) -> tuple[str, ...]:
    try:
        found = _own_source(source_name)
    except ConfigError:  # told when it is asked for by name; until then it must not spoil a list
        return ()
    return found.datasets if found else ()


SOURCES: Mapping[str, Source] = Catalogue(_BUILT_IN, _own_source, _own_names)

DATASETS: Mapping[str, DataSet] = Catalogue(
    {d.name: d for s in _BUILT_IN.values() for d in s.holds}, _own_dataset, _own_datasets
)


def source(name: str) -> Source:
    """The source of that name; ConfigError names the known ones, or what is wrong with an own one."""
    return _named(SOURCES, "source", name)


def dataset(name: str) -> DataSet:
    """The data set of that name; ConfigError names the known ones, or what is wrong with an own one."""
    return _named(DATASETS, "data set", name)


def _named(catalogue: Mapping[str, T], kind: str, name: str) -> T:
    found = catalogue.get(name)
    if found is None:
        raise ConfigError(f"unknown {kind} {name!r}, expected one of {', '.join(catalogue)}")
    return found


def class_names(name: str) -> tuple[str, ...]:
    """What people call the classes of a data set, in the order of the labels; numbers where they have no names."""
    known = dataset(name)
    return known.class_names or tuple(f"class {label}" for label in range(known.num_classes))


def missing_samples(source_name: str) -> frozenset[str]:
    """Samples the publishers say to leave out (NTU: the 535 of NTU 120, a superset of NTU 60's 302)."""
    return source(source_name).missing


def info_from_name(source_name: str, name: str) -> SampleInfo:
    """Read the labels that a file's name carries (PKU-MMD: label UNKNOWN, and no subject in Phase I).

    Raises:
        RawInputError: the name does not follow the source's pattern or names an unknown class.
    """
    return source(source_name).info(name)
