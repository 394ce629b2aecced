"""Skeleton topology: the one place that knows joints, parents, body parts and mirror pairs.

Joints are zero-based in Kinect v2 order.
"""

from typing import Literal, get_args

NUM_JOINTS = 25
NUM_PERSONS = 2
NUM_COORDINATES = 3

FRAME_SIZE = NUM_JOINTS * NUM_COORDINATES * NUM_PERSONS
"""Entries of a flat frame of a view, V*C*M."""

JOINT_NAMES = (
    "spine base", "spine mid", "neck", "head",
    "left shoulder", "left elbow", "left wrist", "left hand",
    "right shoulder", "right elbow", "right wrist", "right hand",
    "left hip", "left knee", "left ankle", "left foot",
    "right hip", "right knee", "right ankle", "right foot",
    "spine shoulder", "left hand tip", "left thumb", "right hand tip", "right thumb",
)  # fmt: skip

SPINE_BASE, SPINE_MID = 0, 1
LEFT_SHOULDER, RIGHT_SHOULDER = 4, 8

# Parent of each joint for the bone stream; the spine shoulder (20) is its own parent, so its bone is zero.
# Source: the bone pairs of JHang2020/PCM3 (hand tips and thumbs: 21 hangs on 22, 22 on 7, 23 on 24, 24 on 11).
PARENTS = (1, 20, 20, 2, 20, 4, 5, 6, 20, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18, 20, 22, 7, 24, 11)

# Five body parts in the order of JHang2020/PCM3 (whose left and right are swapped against Kinect's).
BODY_PARTS = (
    (0, 1, 2, 3, 20),  # trunk
    (8, 9, 10, 11, 23, 24),  # right arm
    (4, 5, 6, 7, 21, 22),  # left arm
    (16, 17, 18, 19),  # right leg
    (12, 13, 14, 15),  # left leg
)

# The joint on the other side of the body; joints of the trunk are their own.
MIRROR = (0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 20, 23, 24, 21, 22)

Stream = Literal["joint", "bone", "motion"]
"""What a view is made of: joint coordinates, bones (child minus parent), or motion (next frame minus this one)."""

STREAMS: tuple[Stream, ...] = get_args(Stream)
