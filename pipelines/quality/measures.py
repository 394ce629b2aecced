"""What each sample of a store is like, measured from its frames: one pass, in blocks of whole samples.

Measured are distances between joints and between frames, which no recipe changes: bone lengths survive any centring and
turning. Where a recipe centres every frame on a person, speed is relative to that person's middle of the spine. A body
counts where it is present (`pipelines.preprocessing.bodies.present`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shards.progress import Progress
from shards.skeleton import NUM_COORDINATES, NUM_JOINTS, NUM_PERSONS, PARENTS
from shards.store import FRAMES_PER_SHARD, Store

BLOCK_FRAMES = FRAMES_PER_SHARD
"""Frames read at once, 10 MB; a longer sample is read whole."""

SPEED_STEP = 0.0005
SPEED_BINS = 2000
"""Speeds of joints are counted in steps of half a millimetre a frame up to a metre a frame, and one bin beyond."""

FAST = 0.99
"""The quantile of all speeds of a sample that says how fast it is, whatever single jumps it has."""


@dataclass(frozen=True)
class Measures:
    """Numbers of N samples, and counts over all their frames. NaN where a person or bone is never there.

    A pair is two neighbouring frames of a sample. A person moves in a pair if present in both of its frames.

    Attributes:
        lengths: (N, M, V) float32, median over time of the distance of a joint to its parent, metres.
        variations: (N, M, V) float32, standard deviation of that distance over time, metres.
        top_speeds: (N,) float32, largest distance that a joint moves in a pair, metres a frame; 0 where nobody moves.
        fast_speeds: (N,) float32, the quantile `FAST` of these distances over all joints and persons, metres a frame.
        empty: (N,) int64, frames in which nobody is present.
        pairs: (N,) int64, pairs in which somebody moves.
        duplicates: (N,) int64, those of them whose two frames are equal in every coordinate.
        speeds: (V, SPEED_BINS + 1) int64, how often a joint moves how far; see SPEED_STEP.
        frozen: (V,) int64, how often a joint moves by exactly nothing, where it is not at the origin in both frames.
        lowest, highest: (C,) float32 over all bodies that are present, metres.
    """

    lengths: npt.NDArray[np.float32]
    variations: npt.NDArray[np.float32]
    top_speeds: npt.NDArray[np.float32]
    fast_speeds: npt.NDArray[np.float32]
    empty: npt.NDArray[np.int64]
    pairs: npt.NDArray[np.int64]
    duplicates: npt.NDArray[np.int64]
    speeds: npt.NDArray[np.int64]
    frozen: npt.NDArray[np.int64]
    lowest: npt.NDArray[np.float32]
    highest: npt.NDArray[np.float32]


def measure_store(store: Store, *, progress: bool = False) -> Measures:
    """Measure every sample of a store.

    Memory is that of a block and of 432 bytes a sample (NTU 120: 49 MB), however many frames there are.

    Raises:
        StoreError: frames are missing or damaged.
    """
    with Progress("measuring", store.num_frames, "frame", shown=progress, scaled=True) as bar:
        measures = nothing_measured(len(store))
        for first, stop in sample_blocks(store.offsets, BLOCK_FRAMES):
            begin, end = int(store.offsets[first]), int(store.offsets[stop])
            measure_frames(store.read(begin, end), store.offsets[first : stop + 1] - begin, measures, first)
            bar.advance(end - begin)
    return measures


def sample_blocks(offsets: npt.NDArray[np.int64], frames: int) -> Iterator[tuple[int, int]]:
    """Divide samples into runs first..stop-1 of at most so many frames, or of one longer sample."""
    first = 0
    while first < len(offsets) - 1:
        stop = int(np.searchsorted(offsets, offsets[first] + frames, side="right")) - 1
        stop = max(stop, first + 1)
        yield first, stop
        first = stop


def measure_frames(
    frames: npt.NDArray[np.float32], offsets: npt.NDArray[np.int64], into: Measures, first: int = 0
) -> None:
    """Measure samples whose frames (F, M, V, C) lie end to end, sample i in offsets[i]..offsets[i+1]-1.

    Their numbers are put `into` the rows from `first` on, their counts are added.
    """
    from pipelines.preprocessing.kernels import present
    from pipelines.quality.measuring import (  # not above: Numba takes 0.3 s to import
        measure_bones,
        measure_motion,
        measure_range,
    )

    frames = np.ascontiguousarray(frames)
    there = present(frames)
    rows = slice(first, first + len(offsets) - 1)
    measure_bones(frames, there, offsets, np.array(PARENTS), into.lengths[rows], into.variations[rows])
    measure_motion(
        frames,
        there,
        offsets,
        1 / SPEED_STEP,
        FAST,
        into.top_speeds[rows],
        into.fast_speeds[rows],
        into.pairs[rows],
        into.duplicates[rows],
        into.speeds,
        into.frozen,
    )
    into.empty[rows] = np.add.reduceat(~there.any(axis=1), offsets[:-1])
    measure_range(frames, there, into.lowest, into.highest)


def nothing_measured(count: int) -> Measures:
    """Measures of so many samples to measure into."""
    bones, axes = (count, NUM_PERSONS, NUM_JOINTS), (NUM_COORDINATES,)
    return Measures(
        lengths=np.full(bones, np.nan, np.float32),
        variations=np.full(bones, np.nan, np.float32),
        top_speeds=np.zeros(count, np.float32),
        fast_speeds=np.zeros(count, np.float32),
        empty=np.zeros(count, np.int64),
        pairs=np.zeros(count, np.int64),
        duplicates=np.zeros(count, np.int64),
        speeds=np.zeros((NUM_JOINTS, SPEED_BINS + 1), np.int64),
        frozen=np.zeros(NUM_JOINTS, np.int64),
        lowest=np.full(axes, np.inf, np.float32),
        highest=np.full(axes, -np.inf, np.float32),
    )


def speed_quantile(counts: npt.NDArray[np.int64], share: float) -> float:
    """The quantile of counted speeds, (SPEED_BINS + 1,), to the middle of its step; metres a frame, 0 without any."""
    total = int(counts.sum())
    if not total:
        return 0.0
    step = int(np.searchsorted(np.cumsum(counts), share * total))
    return (step + 0.5) * SPEED_STEP


def moved(frames: npt.NDArray[np.float32], there: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """How far each joint moves: (T, M, V, C), (T, M) -> (T - 1, M, V) metres, NaN where the person does not move."""
    distance = np.linalg.norm(np.diff(frames.astype(np.float64), axis=0), axis=-1)
    return np.where((there[1:] & there[:-1])[:, :, None], distance, np.nan)


def bone_lengths(frames: npt.NDArray[np.float32], there: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Distance of each joint to its parent: (T, M, V, C), (T, M) -> (T, M, V) metres, NaN where nobody is present."""
    wide = frames.astype(np.float64)
    distance = np.linalg.norm(wide - wide[:, :, PARENTS], axis=-1)
    return np.where(there[:, :, None], distance, np.nan)
