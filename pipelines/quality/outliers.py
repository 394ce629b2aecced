"""The worst samples of a store by five measures: which, by how much, and where in the sample it shows.

| list | score | found and usual |
|---|---|---|
| bone variation | how unusual the standard deviation of a bone's length over time is | metres |
| bone length | how unusual the median length of a bone is, too long or too short | metres |
| speed | the largest distance that a joint moves between two frames, metres a frame | metres a frame |
| emptiness | share of frames that show nobody: in the raw recording or in the store, whichever is larger | share |
| duration | how many times longer, or shorter, than the median | frames |

"How unusual" is a robust z: the distance of a sample's value from the median of all samples for the same bone, in
units of 1.4826 median absolute deviations, which is a standard deviation where values are normal. One unit is at least
NOISE, so that sources with rigid bones do not turn fractions of a millimetre into outliers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipelines.preprocessing.bodies import present
from pipelines.quality.measures import Measures, bone_lengths, moved
from shards.schema import Quality
from shards.store import Store

NOISE = 0.005
"""Metres by which bones of one real body differ from frame to frame at best (Kinect v2)."""

NO_BONE = 0.001
"""A bone with a shorter median, in metres, is none: the source does not have the joint."""

_NORMAL = 1.4826

Values = npt.NDArray[np.float64]


class Spot(NamedTuple):
    """Where in a sample something shows: frame from 0, person, joint (of a bone, its outer one); None: no one."""

    frame: int
    person: int | None = None
    joint: int | None = None


@dataclass(frozen=True)
class Ranking:
    """One measure of all samples.

    Attributes:
        name: of the measure.
        unit: of found and usual: "m", "m/frame", "share" or "frames".
        score: (N,) float64, what ranks the samples; larger is worse.
        found: (N,) float64, the sample's value that the score is made of.
        usual: (N,) float64, the value to expect in its place.
        locate: frames of the sample and its number -> where it shows.
        harmless: the score of a sample that there is nothing to say of.
    """

    name: str
    unit: str
    score: Values
    found: Values
    usual: Values
    locate: Callable[[npt.NDArray[np.float32], int], Spot]
    harmless: float = 0.0

    def worst(self, count: int) -> list[int]:
        """Numbers of the worst samples, the worst first, of equal ones the first; no harmless ones."""
        order = np.argsort(-self.score, kind="stable")[:count]
        return [int(number) for number in order if self.score[number] > self.harmless]


def rankings(store: Store, measures: Measures) -> list[Ranking]:
    """All five, in the order of the table."""
    return [
        # steadier than usual is no fault, shorter is
        _by_bone("bone variation", measures, measures.variations, robust_z(measures.variations), _most_unlike_itself),
        _by_bone("bone length", measures, measures.lengths, np.abs(robust_z(measures.lengths)), _most_unlike_usual),
        _by_speed(measures),
        _by_emptiness(store, measures),
        _by_duration(store),
    ]


def bone_medians(values: npt.NDArray[np.float32]) -> Values:
    """Median over all persons of all samples: (N, M, V) -> (V,), NaN where there is no value."""
    rows = values.reshape(-1, values.shape[-1]).T
    return np.array([np.median(row[~np.isnan(row)]) if not np.isnan(row).all() else np.nan for row in rows], np.float64)


def robust_z(values: npt.NDArray[np.float32], noise: float = NOISE) -> Values:
    """How unusual each value is among those of its bone, negative below the median: (N, M, V) -> (N, M, V)."""
    away = (values - bone_medians(values)).astype(np.float32)
    return np.asarray(away / np.maximum(_NORMAL * bone_medians(np.abs(away)), noise))


def _by_bone(
    name: str,
    measures: Measures,
    values: npt.NDArray[np.float32],
    scores: Values,
    find_frame: Callable[[Values, float], int],
) -> Ranking:
    lengths = bone_medians(measures.lengths)
    known = ~np.isnan(scores) & (lengths >= NO_BONE)
    flat = np.where(known, scores, 0).reshape(len(scores), -1)
    rows, cells = np.arange(len(flat)), flat.argmax(axis=1)
    persons, joints = np.unravel_index(cells, values.shape[1:])

    def locate(frames: npt.NDArray[np.float32], number: int) -> Spot:
        person, joint = int(persons[number]), int(joints[number])
        course = bone_lengths(frames, present(frames))[:, person, joint]
        return Spot(find_frame(course, float(lengths[joint])), person, joint)

    found = np.nan_to_num(values[rows, persons, joints].astype(np.float64))
    return Ranking(name, "m", np.maximum(flat[rows, cells], 0), found, bone_medians(values)[joints], locate)


def _most_unlike_itself(lengths: Values, _: float) -> int:
    return int(np.nanargmax(np.abs(lengths - np.nanmedian(lengths))))


def _most_unlike_usual(lengths: Values, usual: float) -> int:
    return int(np.nanargmax(np.abs(lengths - usual)))


def _by_speed(measures: Measures) -> Ranking:
    speeds = measures.top_speeds.astype(np.float64)
    usual = np.full(len(speeds), np.median(speeds))
    return Ranking("speed", "m/frame", speeds, speeds, usual, lambda frames, _: fastest(frames))


def fastest(frames: npt.NDArray[np.float32]) -> Spot:
    """Where a joint moves farthest between two frames (T, M, V, C).

    Of the two frames it is the one with the larger movement on its other side too: that is the frame of a joint that
    jumps away and back. No movement there (an end of the sample, an absence) counts as the larger; of equal ones it is
    the later frame.
    """
    distances = moved(frames, present(frames))
    pair, person, joint = np.unravel_index(int(np.nanargmax(distances)), distances.shape)
    course = np.pad(distances[:, person, joint], 1, constant_values=np.nan)
    before, after = np.nan_to_num(course[[pair, pair + 2]], nan=np.inf)
    return Spot(int(pair) + (0 if before > after else 1), int(person), int(joint))


def _by_emptiness(store: Store, measures: Measures) -> Ranking:
    lengths = np.diff(store.offsets)
    share = np.maximum(measures.empty / lengths, raw_emptiness(store.quality, len(store)))
    usual = np.full(len(share), np.median(share))
    return Ranking("emptiness", "share", share, share, usual, lambda frames, _: longest_gap(frames))


def raw_emptiness(quality: Sequence[Quality] | None, count: int) -> Values:
    """Share of frames that list nobody, (N,); zeros where it is not known."""
    if quality is None:
        return np.zeros(count)
    return np.array([q.empty_frames / max(1, q.frames) for q in quality])


def longest_gap(frames: npt.NDArray[np.float32]) -> Spot:
    """The first frame of the longest run of frames (T, M, V, C) that show nobody; 0 without one."""
    empty = ~present(frames).any(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], empty, [False]]).astype(np.int8)))
    starts, stops = edges[::2], edges[1::2]
    return Spot(int(starts[np.argmax(stops - starts)]) if len(starts) else 0)


def _by_duration(store: Store) -> Ranking:
    lengths: Any = np.diff(store.offsets).astype(np.float64)
    usual = np.full(len(lengths), np.median(lengths))
    score = np.maximum(lengths / usual, usual / lengths)
    return Ranking("duration", "frames", score, lengths, usual, lambda frames, _: Spot(0), harmless=1.0)
