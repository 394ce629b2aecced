"""The data sets: classes, official counts, missing samples, known faults. Facts only; splits: `shards.protocols`.

A *source* is what is converted into one store; a *data set* is a selection of it that benchmarks name.
"""

import re
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from shards.errors import ConfigError, raw_error
from shards.schema import SampleInfo


@dataclass(frozen=True)
class Source:
    """One kind of raw archive.

    Attributes:
        name: as on the command line.
        title: as people call it.
        num_classes: labels are 0..num_classes-1.
        datasets: the data sets it holds.
        untrimmed: whether its recordings are videos with several labelled segments.
        known_faults: (key, row from 0) -> reason, for label rows that are wrong in the official release.
    """

    name: str
    title: str
    num_classes: int
    datasets: tuple[str, ...]
    untrimmed: bool = False
    known_faults: dict[tuple[str, int], str] = field(default_factory=dict)


@dataclass(frozen=True)
class DataSet:
    """A selection of a source. `counts` maps a protocol to its official (train, test) counts, without missing samples.

    For PKU-MMD the counts are videos, not actions.
    """

    name: str
    source: str
    num_classes: int
    counts: dict[str, tuple[int, int]]

    @property
    def protocols(self) -> tuple[str, ...]:
        return tuple(self.counts)


SOURCES = {
    s.name: s
    for s in (
        Source("ntu", "NTU RGB+D 60 / 120", 120, ("ntu60", "ntu120")),
        Source(
            "pkummd1",
            "PKU-MMD Phase I",
            51,
            ("pkummd1",),
            untrimmed=True,
            known_faults={("0043-L", 20): "the official row 21 reads 1,4925,4036,2: it starts after its end"},
        ),
        Source("pkummd2", "PKU-MMD Phase II", 51, ("pkummd2",), untrimmed=True),
        Source("nwucla", "Northwestern-UCLA", 10, ("nwucla",)),
    )
}

DATASETS = {
    d.name: d
    for d in (
        DataSet("ntu60", "ntu", 60, {"xsub": (40_091, 16_487), "xview": (37_646, 18_932)}),
        DataSet("ntu120", "ntu", 120, {"xsub": (63_026, 50_919), "xset": (54_468, 59_477)}),
        DataSet("pkummd1", "pkummd1", 51, {"xsub": (944, 132), "xview": (718, 358)}),
        DataSet("pkummd2", "pkummd2", 51, {"xsub": (775, 234), "xview": (671, 338)}),
        DataSet("nwucla", "nwucla", 10, {"xview": (1_020, 464)}),
    )
}

_NTU_NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})", re.ASCII)
_PKU1_NAME = re.compile(r"(\d{4})-([LMR])", re.ASCII)
_PKU2_NAME = re.compile(r"A(\d{2})N(\d{2})-([LMR])", re.ASCII)
_NWUCLA_NAME = re.compile(r"a(\d{2})_s(\d{2})_e(\d{2})_v(\d{2})", re.ASCII)

# NW-UCLA's action ids skip 7 and 10; its labels count the ten that are left.
_NWUCLA_ACTIONS = (1, 2, 3, 4, 5, 6, 8, 9, 11, 12)

PKU_CAMERAS = {"L": 1, "M": 2, "R": 3}


def source(name: str) -> Source:
    """The source of that name; ConfigError names the known ones."""
    if name not in SOURCES:
        raise ConfigError(f"unknown source {name!r}, expected one of {', '.join(SOURCES)}")
    return SOURCES[name]


def dataset(name: str) -> DataSet:
    """The data set of that name; ConfigError names the known ones."""
    if name not in DATASETS:
        raise ConfigError(f"unknown data set {name!r}, expected one of {', '.join(DATASETS)}")
    return DATASETS[name]


def read_list(name: str) -> tuple[str, ...]:
    """The names in `shards/resources/<name>.txt`: one a line, `#` begins a comment."""
    lines = (files("shards") / "resources" / f"{name}.txt").read_text(encoding="ascii").splitlines()
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))


@cache
def missing_samples(source_name: str) -> frozenset[str]:
    """Samples the publishers say to leave out (NTU: the 535 of NTU 120, a superset of NTU 60's 302)."""
    return frozenset(read_list("ntu_missing")) if source_name == "ntu" else frozenset()


def info_from_name(source_name: str, name: str) -> SampleInfo:
    """Read the labels that a file's name carries (PKU-MMD: label UNKNOWN, and no subject in Phase I).

    Raises:
        RawInputError: the name does not follow the source's pattern or names an unknown class.
    """
    reader = {"ntu": _ntu_info, "pkummd1": _pku1_info, "pkummd2": _pku2_info, "nwucla": _nwucla_info}[
        source(source_name).name
    ]
    return reader(name)


def _fields(pattern: re.Pattern[str], name: str, form: str) -> tuple[str, ...]:
    match = pattern.fullmatch(name)
    if match is None:
        raise raw_error(name, "name", repr(name), f"the form {form}")
    return match.groups()


def _ntu_info(name: str) -> SampleInfo:
    setup, camera, subject, replication, action = map(int, _fields(_NTU_NAME, name, "SsssCcccPpppRrrrAaaa"))
    if not 1 <= action <= 120:
        raise raw_error(name, "name", f"action {action}", "an action from 1 to 120")
    if not 1 <= setup <= 32:
        raise raw_error(name, "name", f"setup {setup}", "a setup from 1 to 32")
    if not 1 <= camera <= 3:
        raise raw_error(name, "name", f"camera {camera}", "a camera from 1 to 3")
    return SampleInfo(name, action - 1, subject, camera, setup, replication)


def _pku1_info(name: str) -> SampleInfo:
    _, view = _fields(_PKU1_NAME, name, "dddd-L, dddd-M or dddd-R")
    return SampleInfo(name, -1, camera=PKU_CAMERAS[view])


def _pku2_info(name: str) -> SampleInfo:
    group, subject, view = _fields(_PKU2_NAME, name, "AddNdd-L, AddNdd-M or AddNdd-R")
    return SampleInfo(name, -1, subject=int(subject), camera=PKU_CAMERAS[view], setup=int(group))


def _nwucla_info(name: str) -> SampleInfo:
    action, subject, episode, view = map(int, _fields(_NWUCLA_NAME, name, "aAA_sSS_eEE_vVV"))
    if action not in _NWUCLA_ACTIONS:
        raise raw_error(name, "name", f"action {action}", f"one of {_NWUCLA_ACTIONS}")
    return SampleInfo(name, _NWUCLA_ACTIONS.index(action), subject, view, replication=episode)
