"""The official splits: on which side of a protocol a sample stands. Pure functions of what its name tells."""

import re
from collections.abc import Callable
from functools import cache
from typing import Literal

from shards.catalog import PKU_CAMERAS, dataset, read_list
from shards.errors import ConfigError, raw_error
from shards.schema import SampleInfo

Side = Literal["train", "test"]

# Training performers: Shahroudy et al. 2016 (NTU RGB+D) and Liu et al. 2019 (NTU RGB+D 120), which extends the first.
NTU60_TRAIN_SUBJECTS = frozenset((1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38))
NTU120_TRAIN_SUBJECTS = NTU60_TRAIN_SUBJECTS | {
    45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78,
    80, 81, 82, 83, 84, 85, 86, 89, 91, 92, 93, 94, 95, 97, 98, 100, 103,
}  # fmt: skip
NTU60_SETUPS, NTU60_CLASSES = 17, 60

_SEGMENT = re.compile(r"(.+)_\d{3,}")


def split(dataset_name: str, protocol: str, info: SampleInfo) -> Side | None:
    """Side of a sample in a protocol, or None when the data set does not hold the sample.

    An untrimmed video and every action trimmed from it stand on the same side.

    Raises:
        ConfigError: unknown data set or protocol.
        RawInputError: the protocol's official list or rule does not know the sample.
    """
    known = dataset(dataset_name).protocols
    if protocol not in known:
        raise ConfigError(f"unknown protocol {protocol!r} of {dataset_name}, expected one of {', '.join(known)}")
    return _RULES[dataset_name, protocol](info)


def video_key(key: str) -> str:
    """Key of the video that a trimmed action comes from; a video's own key is returned as it is."""
    match = _SEGMENT.fullmatch(key)
    return match[1] if match else key


def _side(train: bool) -> Side:
    return "train" if train else "test"


def _in_ntu60(info: SampleInfo) -> bool:
    return 1 <= info.setup <= NTU60_SETUPS and info.label < NTU60_CLASSES


def _ntu60_xsub(info: SampleInfo) -> Side | None:
    return _side(info.subject in NTU60_TRAIN_SUBJECTS) if _in_ntu60(info) else None


def _ntu60_xview(info: SampleInfo) -> Side | None:
    return _by_camera(info, train=(2, 3), test=(1,)) if _in_ntu60(info) else None


def _ntu120_xsub(info: SampleInfo) -> Side | None:
    return _side(info.subject in NTU120_TRAIN_SUBJECTS)


def _ntu120_xset(info: SampleInfo) -> Side | None:
    return _side(info.setup % 2 == 0)


def _pku_xview(info: SampleInfo) -> Side | None:
    return _by_camera(info, train=(PKU_CAMERAS["M"], PKU_CAMERAS["R"]), test=(PKU_CAMERAS["L"],))


def _nwucla_xview(info: SampleInfo) -> Side | None:
    return _by_camera(info, train=(1, 2), test=(3,))


def _by_camera(info: SampleInfo, train: tuple[int, ...], test: tuple[int, ...]) -> Side:
    if info.camera not in train + test:
        raise raw_error(info.key, "name", f"camera {info.camera}", f"one of {sorted(train + test)}")
    return _side(info.camera in train)


@cache
def _official(name: str) -> frozenset[str]:
    return frozenset(read_list(name))


def _by_list(source: str) -> Callable[[SampleInfo], Side]:
    def side(info: SampleInfo) -> Side:
        video = video_key(info.key)
        in_train, in_test = (video in _official(f"{source}_xsub_{part}") for part in ("train", "test"))
        if in_train == in_test:
            raise raw_error(
                video, "name", "a video that is not on the official list", f"one of the cross-subject list of {source}"
            )
        return _side(in_train)

    return side


_RULES: dict[tuple[str, str], Callable[[SampleInfo], Side | None]] = {
    ("ntu60", "xsub"): _ntu60_xsub,
    ("ntu60", "xview"): _ntu60_xview,
    ("ntu120", "xsub"): _ntu120_xsub,
    ("ntu120", "xset"): _ntu120_xset,
    ("pkummd1", "xsub"): _by_list("pkummd1"),
    ("pkummd1", "xview"): _pku_xview,
    ("pkummd2", "xsub"): _by_list("pkummd2"),
    ("pkummd2", "xview"): _pku_xview,
    ("nwucla", "xview"): _nwucla_xview,
}
