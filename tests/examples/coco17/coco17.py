"""Five gestures by three people, filmed in COCO's 17 joints: one JSON file a recording, in millimetres, y downwards."""

import json
import re

import numpy as np

from shards.errors import raw_error
from shards.joints import Origin, joint_map
from shards.schema import RawSequence, SampleInfo
from shards.sources import DataSet, OwnSource, Source, by, name_fields

GESTURES = ("wave", "point", "clap", "bow", "kick")

COCO_JOINTS = (
    "nose", "left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder", "left elbow",
    "right elbow", "left wrist", "right wrist", "left hip", "right hip", "left knee", "right knee", "left ankle",
    "right ankle",
)  # fmt: skip
HIPS, SHOULDERS = ("left hip", "right hip"), ("left shoulder", "right shoulder")
KINECT_JOINTS: dict[str, Origin] = {
    "spine base": HIPS,
    "spine mid": HIPS + SHOULDERS,
    "spine shoulder": SHOULDERS,
    "neck": {"nose": 0.3, "left shoulder": 0.35, "right shoulder": 0.35},
    "head": ("left ear", "right ear"),
}
for side in ("left", "right"):
    for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle"):
        KINECT_JOINTS[f"{side} {joint}"] = f"{side} {joint}"
    for joint, nearest in (("hand", "wrist"), ("hand tip", "wrist"), ("thumb", "wrist"), ("foot", "ankle")):
        KINECT_JOINTS[f"{side} {joint}"] = f"{side} {nearest}"  # COCO has neither hands nor feet
TO_KINECT = joint_map(COCO_JOINTS, KINECT_JOINTS)

NAME = re.compile(r"([a-z]+)_s(\d+)_r(\d+)", re.ASCII)


def info(name: str) -> SampleInfo:
    """Read a name such as `wave_s2_r1`: gesture, subject, repetition."""
    gesture, subject, repetition = name_fields(NAME, name, "GESTURE_sSUBJECT_rREPETITION")
    if gesture not in GESTURES:
        raise raw_error(name, "name", f"gesture {gesture!r}", f"one of {', '.join(GESTURES)}")
    return SampleInfo(name, GESTURES.index(gesture), subject=int(subject), replication=int(repetition))


class Coco17Parser:
    """`[[{"id": 4, "joints": [[x, y, z], ... 17 times]}, ... each body], ... each frame]`."""

    suffixes = (".json",)

    def __init__(self, metres: float) -> None:
        self.metres = metres  # of one unit of the files

    def parse(self, data: bytes, name: str, origin: str) -> RawSequence:
        """Read a recording; what is no such JSON raises, and the caller makes one error of it that names the file."""
        listed = json.loads(data)
        T, S = len(listed), max(map(len, listed), default=0)
        joints, ids = np.zeros((T, S, 17, 3)), np.zeros((T, S), np.int64)
        for t, bodies in enumerate(listed):
            for s, body in enumerate(bodies):
                ids[t, s] = body["id"]
                if np.shape(body["joints"]) != (17, 3):
                    raise raw_error(origin, f"frame {t + 1}", f"joints {np.shape(body['joints'])}", "(17, 3)")
                joints[t, s] = body["joints"]
        frames = TO_KINECT(joints * self.metres * (1, -1, 1))  # y upwards, as Kinect has it
        return RawSequence(name, frames, np.array([len(bodies) for bodies in listed], np.int64), ids)


OWN = OwnSource(
    source=Source(
        name="coco17",
        title="Gestures in COCO joints",
        num_classes=len(GESTURES),
        info=info,
        holds=(DataSet("coco17", "coco17", len(GESTURES), rules={"xsub": by("subject", train=(1, 2), test=(3,))}),),
        # Part of every store's identity: count the version up when the parser gives other numbers.
        steps=({"name": "map joints", "from": "COCO 17", "to": "Kinect v2", "version": 1},),
    ),
    parser=Coco17Parser(metres=0.001),
)
