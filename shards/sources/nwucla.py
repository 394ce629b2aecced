"""Northwestern-UCLA, in the form linked by Uason-Chen/CTR-GCN."""

import re

from shards.errors import raw_error
from shards.schema import SampleInfo
from shards.sources import DataSet, Source, by, name_fields, read_list

_NAME = re.compile(r"a(\d{2})_s(\d{2})_e(\d{2})_v(\d{2})", re.ASCII)

# The action ids skip 7 and 10; labels count the ten that are left.
_ACTIONS = (1, 2, 3, 4, 5, 6, 8, 9, 11, 12)


def _info(name: str) -> SampleInfo:
    action, subject, episode, view = map(int, name_fields(_NAME, name, "aAA_sSS_eEE_vVV"))
    if action not in _ACTIONS:
        raise raw_error(name, "name", f"action {action}", f"one of {_ACTIONS}")
    for what, number, highest in (("subject", subject, 10), ("camera", view, 3)):
        if not 1 <= number <= highest:
            raise raw_error(name, "name", f"{what} {number}", f"a {what} from 1 to {highest}")
    return SampleInfo(name, _ACTIONS.index(action), subject, view, replication=episode)


NWUCLA = Source(
    name="nwucla",
    title="Northwestern-UCLA",
    num_classes=10,
    info=_info,
    holds=(
        DataSet(
            name="nwucla",
            source="nwucla",
            num_classes=10,
            rules={"xview": by("camera", train=(1, 2), test=(3,))},
            counts={"xview": (1_020, 464)},
            class_names=read_list("nwucla_classes"),
        ),
    ),
    steps=({"name": "map joints", "from": "Kinect v1", "to": "Kinect v2"},),
)
