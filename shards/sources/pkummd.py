"""PKU-MMD, Phases I and II: untrimmed videos, filmed from three sides."""

import re
from collections.abc import Mapping
from functools import cache

from shards.errors import raw_error
from shards.schema import UNKNOWN, SampleInfo
from shards.sources import DataSet, Rule, Side, Source, by, name_fields, read_list, side, video_key

PKU_CAMERAS = {"L": 1, "M": 2, "R": 3}

_NAME_1 = re.compile(r"(\d{4})-([LMR])", re.ASCII)
_NAME_2 = re.compile(r"A(\d{2})N(\d{2})-([LMR])", re.ASCII)


def _info_1(name: str) -> SampleInfo:
    _, view = name_fields(_NAME_1, name, "dddd-L, dddd-M or dddd-R")
    return SampleInfo(name, UNKNOWN, camera=PKU_CAMERAS[view])


def _info_2(name: str) -> SampleInfo:
    group, subject, view = name_fields(_NAME_2, name, "AddNdd-L, AddNdd-M or AddNdd-R")
    return SampleInfo(name, UNKNOWN, subject=int(subject), camera=PKU_CAMERAS[view], setup=int(group))


@cache
def _official(name: str) -> frozenset[str]:
    return frozenset(read_list(name))


def _by_list(source: str) -> Rule:
    def rule(info: SampleInfo) -> Side:
        video = video_key(info.key)
        in_train, in_test = (video in _official(f"{source}_xsub_{part}") for part in ("train", "test"))
        if in_train == in_test:
            raise raw_error(
                video, "name", "a video that is not on the official list", f"one of the cross-subject list of {source}"
            )
        return side(in_train)

    return rule


_by_camera = by("camera", train=(PKU_CAMERAS["M"], PKU_CAMERAS["R"]), test=(PKU_CAMERAS["L"],))


def _data(name: str, counts: Mapping[str, tuple[int, int]]) -> tuple[DataSet]:
    rules = {"xsub": _by_list(name), "xview": _by_camera}
    return (DataSet(name, name, 51, rules, counts, read_list("pkummd_classes")),)


PKUMMD1 = Source(
    name="pkummd1",
    title="PKU-MMD Phase I",
    num_classes=51,
    info=_info_1,
    holds=_data("pkummd1", {"xsub": (944, 132), "xview": (718, 358)}),
    untrimmed=True,
    known_faults={("0043-L", 20): "the official row 21 reads 1,4925,4036,2: it starts after its end"},
)
PKUMMD2 = Source(
    name="pkummd2",
    title="PKU-MMD Phase II",
    num_classes=51,
    info=_info_2,
    holds=_data("pkummd2", {"xsub": (775, 234), "xview": (671, 338)}),
    untrimmed=True,
)
