"""NTU RGB+D 60 and 120: one source, for the second holds the first."""

import re

from shards.errors import raw_error
from shards.schema import SampleInfo
from shards.sources import DataSet, Side, Source, by, name_fields, read_list, side

# Training performers: Shahroudy et al. 2016 (NTU RGB+D) and Liu et al. 2019 (NTU RGB+D 120), which extends the first.
NTU60_TRAIN_SUBJECTS = frozenset((1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38))
NTU120_TRAIN_SUBJECTS = NTU60_TRAIN_SUBJECTS | {
    45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78,
    80, 81, 82, 83, 84, 85, 86, 89, 91, 92, 93, 94, 95, 97, 98, 100, 103,
}  # fmt: skip
NTU60_SETUPS, NTU60_CLASSES = 17, 60

_NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})", re.ASCII)
_HIGHEST = (("setup", 32), ("camera", 3), ("performer", 106), ("replication", 2), ("action", 120))
_CLASSES = read_list("ntu_classes")
_by_camera = by("camera", train=(2, 3), test=(1,))


def _info(name: str) -> SampleInfo:
    setup, camera, subject, replication, action = map(int, name_fields(_NAME, name, "SsssCcccPpppRrrrAaaa"))
    for number, (what, highest) in zip((setup, camera, subject, replication, action), _HIGHEST, strict=True):
        if not 1 <= number <= highest:
            article = "an" if what == "action" else "a"
            raise raw_error(name, "name", f"{what} {number}", f"{article} {what} from 1 to {highest}")
    if (setup <= NTU60_SETUPS) != (action <= NTU60_CLASSES):
        held = "1 to 60 in setups 1 to 17" if setup <= NTU60_SETUPS else "61 to 120 in setups 18 to 32"
        raise raw_error(name, "name", f"action {action} in setup {setup}", f"an action from {held}")
    return SampleInfo(name, action - 1, subject, camera, setup, replication)


def _in_ntu60(info: SampleInfo) -> bool:
    return 1 <= info.setup <= NTU60_SETUPS and info.label < NTU60_CLASSES


def _ntu60_xsub(info: SampleInfo) -> Side | None:
    return side(info.subject in NTU60_TRAIN_SUBJECTS) if _in_ntu60(info) else None


def _ntu60_xview(info: SampleInfo) -> Side | None:
    return _by_camera(info) if _in_ntu60(info) else None


def _ntu120_xsub(info: SampleInfo) -> Side:
    return side(info.subject in NTU120_TRAIN_SUBJECTS)


def _ntu120_xset(info: SampleInfo) -> Side:
    return side(info.setup % 2 == 0)


NTU60 = DataSet(
    name="ntu60",
    source="ntu",
    num_classes=NTU60_CLASSES,
    rules={"xsub": _ntu60_xsub, "xview": _ntu60_xview},
    counts={"xsub": (40_091, 16_487), "xview": (37_646, 18_932)},
    class_names=_CLASSES[:NTU60_CLASSES],
)
NTU120 = DataSet(
    name="ntu120",
    source="ntu",
    num_classes=120,
    rules={"xsub": _ntu120_xsub, "xset": _ntu120_xset},
    counts={"xsub": (63_026, 50_919), "xset": (54_468, 59_477)},
    class_names=_CLASSES,
)
NTU = Source(
    name="ntu",
    title="NTU RGB+D 60 / 120",
    num_classes=120,
    info=_info,
    holds=(NTU60, NTU120),
    nested=True,
    # the 535 of NTU 120, a superset of NTU 60's 302
    missing=frozenset(read_list("ntu_missing")),
)
