"""Actions in untrimmed videos, labelled or detected, as arrays.

One convention holds in the whole product: `end` is EXCLUSIVE, an action is the frames start..end-1, as in
`shards.schema.Segment`. Both published evaluators take the numbers as they stand, without any conversion:

- ECHO960/PKU-MMD (`official`) computes lengths as end - start, which is right for exclusive ends;
- JHang2020/Simple-Skeleton-Detection (`average_precision`) computes them as end - start + 1, as if the ends were
  inclusive, though it feeds exclusive ones: each interval is one frame longer to it. Published figures are made so;
  subtracting 1 from the ends first would give other numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shards.errors import ConfigError

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Events:
    """K labelled intervals of videos; build them with `Events.of` or `concatenate`.

    Attributes:
        video: (K,) index of the video.
        label: (K,) class, from 1; 0 is the background and never an event.
        start: (K,) first frame.
        end: (K,) the frame after the last one.
        score: (K,) confidence; of ground truth it is read by nobody.

    Raises:
        ConfigError: unequal lengths, or a row (counted from 0) with a video below 0, a label below 1, a start below 0
            or not below the end, or a score that is no finite number.
    """

    video: IntArray
    label: IntArray
    start: IntArray
    end: IntArray
    score: FloatArray

    def __post_init__(self) -> None:
        shapes = {name: getattr(self, name).shape for name in ("video", "label", "start", "end", "score")}
        if len(set(shapes.values())) != 1 or self.video.ndim != 1:
            raise ConfigError(f"events: found arrays of shapes {shapes}, expected one dimension and equal lengths")
        _refuse(self.video < 0, "video", self.video, "0 or more")
        _refuse(self.label < 1, "label", self.label, "1 or more (0 is the background)")
        _refuse(self.start < 0, "start", self.start, "0 or more")
        wrong = np.flatnonzero(self.start >= self.end)
        if len(wrong):
            row = wrong[0]
            raise ConfigError(
                f"events: row {row}: found start {self.start[row]} and end {self.end[row]}, expected start < end "
                "(ends are exclusive)"
            )
        _refuse(~np.isfinite(self.score), "score", self.score, "a finite number")

    def __len__(self) -> int:
        return len(self.video)

    @classmethod
    def of(
        cls,
        video: npt.ArrayLike,
        label: npt.ArrayLike,
        start: npt.ArrayLike,
        end: npt.ArrayLike,
        score: npt.ArrayLike = 1.0,
    ) -> "Events":
        """Events of anything array-like; a single number for `video` or `score` holds for all.

        Raises:
            ConfigError: as the class, or numbers that are not whole where whole ones are due.
        """
        starts = _whole("start", start)
        videos, scores = _whole("video", video), np.asarray(score, dtype=np.float64)
        return cls(
            np.broadcast_to(videos, starts.shape) if videos.ndim == 0 else videos,
            _whole("label", label),
            starts,
            _whole("end", end),
            np.broadcast_to(scores, starts.shape) if scores.ndim == 0 else scores,
        )

    def take(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> "Events":
        """The events at `rows`: a mask (K,) or indices."""
        return Events(self.video[rows], self.label[rows], self.start[rows], self.end[rows], self.score[rows])


def concatenate(parts: Sequence[Events]) -> Events:
    """The events of all parts, one after the other; no part gives no event."""
    if not parts:
        return Events.of([], [], [], [])
    return Events(
        np.concatenate([part.video for part in parts]),
        np.concatenate([part.label for part in parts]),
        np.concatenate([part.start for part in parts]),
        np.concatenate([part.end for part in parts]),
        np.concatenate([part.score for part in parts]),
    )


def check_evaluable(
    truth: Events, detections: Events, videos: IntArray, num_classes: int, tious: Sequence[float]
) -> None:
    """Refuse what an evaluator could only score wrongly.

    Args:
        truth: ground truth.
        detections: what was found.
        videos: (V,) indices of all evaluated videos.
        num_classes: of the data set, without the background.
        tious: thresholds of the temporal intersection over union.

    Raises:
        ConfigError: no ground truth, no videos or one of them twice, an event of another video or with a label above
            `num_classes` (with its row), or a threshold that is not in (0, 1].
    """
    if len(truth) == 0:
        raise ConfigError("ground truth: found no event, expected at least one")
    if len(videos) == 0 or len(np.unique(videos)) != len(videos):
        raise ConfigError(f"videos: found {len(videos)} indices, expected at least one and each once")
    for name, events in (("ground truth", truth), ("detections", detections)):
        _refuse(events.label > num_classes, "label", events.label, f"1..{num_classes}", name)
        strange = ~np.isin(events.video, videos)
        _refuse(strange, "video", events.video, f"one of the {len(videos)} evaluated videos", name)
    if not tious or not all(0 < tiou <= 1 for tiou in tious):
        raise ConfigError(f"tIoU: found thresholds {list(tious)}, expected at least one, all above 0 and at most 1")


def _whole(name: str, values: npt.ArrayLike) -> IntArray:
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise ConfigError(f"events: {name}: found numbers of type {array.dtype}, expected whole numbers")
    return array.astype(np.int64)


def _refuse(
    wrong: npt.NDArray[np.bool_], name: str, values: IntArray | FloatArray, expected: str, where: str = "events"
) -> None:
    rows = np.flatnonzero(wrong)
    if len(rows):
        raise ConfigError(f"{where}: row {rows[0]}: found {name} {values[rows[0]]}, expected {expected}")
