"""From labelled actions to one label a frame, and the rule for actions that overlap.

Source: JHang2020/Simple-Skeleton-Detection. Class 0 is background, class c + 1 the action of label c.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shards.schema import Segment

BACKGROUND = 0

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Overlaps:
    """What the rule for overlapping actions decided; only training labels depend on it, the ground truth does not.

    Attributes:
        frames: claimed by more than one action.
        actions: that share a frame with another.
        hidden: actions of which no frame is left to them.
    """

    frames: int = 0
    actions: int = 0
    hidden: int = 0

    def __add__(self, other: "Overlaps") -> "Overlaps":
        return Overlaps(self.frames + other.frames, self.actions + other.actions, self.hidden + other.hidden)


def frame_labels(num_frames: int, actions: Sequence[Segment]) -> tuple[Labels, Overlaps]:
    """The class of every frame of a video.

    Where actions overlap, a frame belongs to the one whose row comes last in the label file, as in the reference. (Rows
    are mostly in the order of their starts: then it is the action that began last.)

    Args:
        num_frames: of the video.
        actions: of the video, each within its frames.

    Returns:
        (T,) int64: 0 for background, label + 1 in an action; and what overlapped.
    """
    owner = np.full(num_frames, -1)
    claims = np.zeros(num_frames, np.int64)
    in_order = sorted(actions, key=lambda action: action.row)
    for number, action in enumerate(in_order):
        owner[action.start : action.end] = number
        claims[action.start : action.end] += 1
    shared = claims > 1
    overlaps = Overlaps(
        frames=int(shared.sum()),
        actions=sum(bool(shared[action.start : action.end].any()) for action in actions),
        hidden=len(actions) - len(np.unique(owner[owner >= 0])),
    )
    # owner -1 takes the last entry
    classes = np.array([*(action.label + 1 for action in in_order), BACKGROUND], np.int64)
    return classes[owner], overlaps
