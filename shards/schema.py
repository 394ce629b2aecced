"""What a sequence and a sample are, and the one axis legend.

Axis legend: N sample, T frame, M person, V joint, C coordinate (x, y, z in metres). Stored frames are (T, M, V, C);
encoders for sequences take (N, T, V*C*M), flattened in that order (index = v*6 + c*2 + m).
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FORMAT_VERSION = 1
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
    frames: npt.NDArray[np.float64]
    num_bodies: npt.NDArray[np.int64]
    body_ids: npt.NDArray[np.int64]


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
        return asdict(self)


@dataclass(frozen=True)
class Segment:
    """A labelled action: frames start..end-1 of store row `video`, from row `row` (from 0) of its label file."""

    video: int
    row: int
    start: int
    end: int
    label: int
    confidence: int


def segment_key(video_key: str, row: int) -> str:
    """Key of a trimmed action: the video's key and the row of its label file (from 0)."""
    return f"{video_key}_{row:03d}"
