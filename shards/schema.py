"""What a sequence and a sample are, and the one axis legend.

Axis legend: N sample, T frame, M person, V joint, C coordinate (x, y, z in metres). Stored frames are (T, M, V, C);
encoders for sequences take (N, T, V*C*M), flattened in that order (index = v*6 + c*2 + m).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # it takes 0.1 s, and the help of commands names data sets
    import numpy as np
    import numpy.typing as npt

FORMAT_VERSION = 2
"""Version of everything below a store's folder; part of its fingerprint."""

UNKNOWN = -1
"""Subject, camera, setup or replication that a source does not tell."""


@dataclass(frozen=True)
class RawSequence:
    """One raw recording exactly as its file states it, before any recipe.

    Attributes:
        key: file name without folder and extension.
        frames: (T, S, V, C) float64; S slots in the order listed in each frame, zeros where no body is listed.
        num_bodies: (T,) int64, bodies listed in each frame.
        body_ids: (T, S) int64, 0 where no body is listed or the format has no ids.
    """

    key: str
    frames: "npt.NDArray[np.float64]"
    num_bodies: "npt.NDArray[np.int64]"
    body_ids: "npt.NDArray[np.int64]"


@dataclass(frozen=True)
class SampleInfo:
    """What is known of a sample besides its coordinates. `label` counts from 0; UNKNOWN (-1) where a source is silent.

    A row of a PKU-MMD store is an untrimmed video and has label UNKNOWN; its actions are `Segment`s.
    """

    key: str
    label: int
    subject: int = UNKNOWN
    camera: int = UNKNOWN
    setup: int = UNKNOWN
    replication: int = UNKNOWN
    bodies: int = 1

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class Quality:
    """What the raw recording of a store's row was like, before the recipe chose and changed anything.

    Attributes:
        frames: in the file.
        empty_frames: those that list no body.
        bodies: listed in the fullest frame.
        ids: different body ids; 0 where the format has none.
        switches: pairs of neighbouring frames and slots whose body id changes, though both frames fill the slot;
            recipes that go by slots see a person jump there.
        dropped_by_rank: bodies (ids, or slots where the recipe goes by slots) left out behind the two persons kept.
        dropped_by_length, dropped_by_spread, dropped_by_overlap: bodies left out by those rules of the recipe.
    """

    frames: int
    empty_frames: int = 0
    bodies: int = 1
    ids: int = 0
    switches: int = 0
    dropped_by_rank: int = 0
    dropped_by_length: int = 0
    dropped_by_spread: int = 0
    dropped_by_overlap: int = 0


@dataclass(frozen=True)
class Segment:
    """A labelled action: frames start..end-1 of store row `video`, from row `row` of its label file (from 0, blank rows
    not counted)."""

    video: int
    row: int
    start: int
    end: int
    label: int
    confidence: int


def segment_key(video_key: str, row: int) -> str:
    """Key of a trimmed action: the video's key and the row of its label file (from 0)."""
    return f"{video_key}_{row:03d}"
