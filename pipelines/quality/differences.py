"""Where two finished stores of one source differ: their recipes step by step, their samples one by one and in sum.

Frames are compared one by one from the first, as far as both samples go; persons by their place, in frames where both
have one. Both stores are read in blocks, so memory does not grow with them.
"""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.preprocessing.bodies import count_bodies, present
from pipelines.preprocessing.recipes import Frames, recipe
from shards.errors import ConfigError
from shards.files import write_atomic
from shards.manifest import STORE, Manifest, Outcome, read_manifest
from shards.places import Place
from shards.progress import Progress
from shards.store import Store, StoredSample, open_store
from shards.verify.shards import expected_samples

Floats = npt.NDArray[np.float64]

FRAMES_AT_ONCE = 4096
"""Read and compared together: 2.5 MB of each store, 40 MB with everything in between."""

UNKNOWN_REASON = "not among its raw files"


@dataclass(frozen=True)
class Compared:
    """The samples that both stores hold, in the order of their keys; N of them.

    Attributes:
        keys: (N,) of the samples.
        frames, bodies: (N, 2) of each sample in store A and B.
        mean, largest: (N,) distance of joints, metres; NaN where no person is there in both.
        shape: (N,) what is left of the main body's distance, root mean square in metres, when every frame's centre and
            the best single rotation of the whole sequence are taken out. Near 0: the same movement, posed otherwise.
        swapped: (N,) whether A's main body is the other person of B (`shape` is then of these two).
    """

    keys: npt.NDArray[np.str_]
    frames: npt.NDArray[np.int64]
    bodies: npt.NDArray[np.int64]
    mean: Floats
    largest: Floats
    shape: Floats
    swapped: npt.NDArray[np.bool_]


_NO_COUNTS = np.zeros((0, 2), np.int64)
_NO_METRES = np.zeros(0)
_NOTHING = Compared(
    np.zeros(0, np.str_), _NO_COUNTS, _NO_COUNTS, _NO_METRES, _NO_METRES, _NO_METRES, np.zeros(0, np.bool_)
)


@dataclass(frozen=True)
class Differences:
    """Two stores beside each other.

    Attributes:
        a, b: their manifests.
        compared: the samples of both.
        only_a, only_b: samples of one store, with the reason why the other one lacks it.
    """

    a: Manifest
    b: Manifest
    compared: Compared
    only_a: list[Outcome]
    only_b: list[Outcome]

    def most_different(self, count: int = 10) -> list[int]:
        """Positions in `compared` of the samples that differ most: in shape (to 10 micrometres), distance, frames."""
        c = self.compared
        frames = np.abs(c.frames[:, 0] - c.frames[:, 1])
        shape, mean = np.nan_to_num(c.shape).round(5), np.nan_to_num(c.mean)
        worst = np.lexsort((-frames, -mean, -shape))
        return [int(i) for i in worst[:count] if shape[i] or mean[i] or frames[i]]

    def write_csv(self, path: Path) -> None:
        """Write a row of every sample of either store, in the order of their keys; whole or not at all.

        Raises:
            DiskError: the file cannot be written.
        """
        c, text = self.compared, io.StringIO()
        rows: list[list[Any]] = []
        for i, key in enumerate(c.keys):
            metres = map(_number, (c.mean[i], c.largest[i], c.shape[i]))
            rows.append([key, "both", *c.frames[i], *c.bodies[i], *metres, int(c.swapped[i]), ""])
        for side, outcomes in (("a", self.only_a), ("b", self.only_b)):
            rows += [[outcome.key, side, *[""] * 8, outcome.reason] for outcome in outcomes]
        rows.sort(key=lambda row: str(row[0]))
        csv.writer(text, lineterminator="\n").writerows([CSV_COLUMNS, *rows])
        write_atomic(path, text.getvalue().encode())


CSV_COLUMNS = (
    "key", "in", "frames_a", "frames_b", "bodies_a", "bodies_b", "mean_m", "max_m", "shape_m", "swapped", "reason"
)  # fmt: skip


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6f}"


def differences(a: Place, b: Place, *, progress: bool = False) -> Differences:
    """Compare two finished stores of one source.

    Args:
        a, b: their folders.
        progress: show a bar.

    Raises:
        ConfigError: they are of different sources.
        StoreError: one is unfinished or damaged.
    """
    sides = [_Side(place, read_manifest(place)) for place in (a, b)]
    left, right = sides
    if left.manifest.source != right.manifest.source:
        found = f"stores of {left.manifest.source} and {right.manifest.source}"
        raise ConfigError(f"{a} and {b}: found {found}, expected two of one source")
    keys = [key for key in left.samples if key in right.samples]
    blocks = [_NOTHING, *_compare(left, right, keys, progress)]
    compared = Compared(*(np.concatenate([getattr(block, f.name) for block in blocks]) for f in fields(Compared)))
    return Differences(left.manifest, right.manifest, compared, left.lacking_in(right), right.lacking_in(left))


@dataclass(frozen=True)
class _Side:
    """One of the two stores; its clips are read in blocks, best in the order of the store."""

    folder: Place
    manifest: Manifest

    @cached_property
    def store(self) -> Store:
        return open_store(self.folder / STORE)

    @cached_property
    def samples(self) -> dict[str, StoredSample]:
        return {sample.info.key: sample for sample in expected_samples(self.store)}

    @cached_property
    def window(self) -> Callable[[Frames], Frames] | None:
        """What makes clips of the frames; a trimmed source's store holds the clips themselves."""
        return None if self.store.segments is None else recipe(self.manifest.recipe, self.manifest.source).window

    def clips(self, keys: Sequence[str]) -> Iterator[Frames]:
        """The clips of these samples."""
        at, ahead = 0, self.store.read(0, 0)
        for key in keys:
            first, stop = self.samples[key].first, self.samples[key].stop
            if first < at or stop > at + len(ahead):
                at, ahead = first, self.store.read(first, min(max(stop, first + FRAMES_AT_ONCE), self.store.num_frames))
            frames = ahead[first - at : stop - at]
            yield frames if self.window is None else self.window(frames)

    def lacking_in(self, other: "_Side") -> list[Outcome]:
        """The samples that the other store lacks, with what it says of them."""
        reasons = {outcome.key: outcome.reason for outcome in other.manifest.dropped}
        return [
            Outcome(key=key, reason=reasons.get(key) or reasons.get(sample.video or key) or UNKNOWN_REASON)
            for key, sample in self.samples.items()
            if key not in other.samples
        ]


def _compare(left: _Side, right: _Side, keys: list[str], progress: bool) -> Iterator[Compared]:
    """Compare in blocks of samples, each as soon as it has frames enough."""
    names: list[str] = []
    pairs: list[tuple[Frames, Frames]] = []
    clips = zip(keys, left.clips(keys), right.clips(keys), strict=True)
    for key, a, b in Progress("compare", len(keys), "sample", shown=progress).over(clips):
        names.append(key)
        pairs.append((a, b))
        if sum(min(len(a), len(b)) for a, b in pairs) >= FRAMES_AT_ONCE:
            yield compare_clips(names, pairs)
            names, pairs = [], []
    if pairs:
        yield compare_clips(names, pairs)


def compare_clips(keys: Sequence[str], pairs: Sequence[tuple[Frames, Frames]]) -> Compared:
    """Compare pairs of clips (T, M, V, C), T at least 1."""
    lengths = np.array([(len(a), len(b)) for a, b in pairs], np.int64)
    bodies = np.array([(count_bodies(a), count_bodies(b)) for a, b in pairs], np.int64)
    common = lengths.min(axis=1)
    starts = np.cumsum(common) - common
    a, b = (np.concatenate([pair[i][:n] for pair, n in zip(pairs, common, strict=True)]) for i in (0, 1))
    there_a, there_b = present(a), present(b)
    mean, largest = _distances(a, b, there_a & there_b, starts)
    same = _shape(a[:, 0], b[:, 0], there_a[:, 0] & there_b[:, 0], starts)
    other = _shape(a[:, 0], b[:, 1], there_a[:, 0] & there_b[:, 1], starts)
    swapped = np.nan_to_num(other, nan=np.inf) < np.nan_to_num(same, nan=np.inf)
    return Compared(np.array(keys), lengths, bodies, mean, largest, np.where(swapped, other, same), swapped)


def _distances(
    a: Frames, b: Frames, both: npt.NDArray[np.bool_], starts: npt.NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Mean and largest distance of the joints of each clip, which begins at `starts`; `both` is (F, M)."""
    distance = np.sqrt(np.square(a - b, dtype=np.float64).sum(axis=3)) * both[..., None]
    count = np.add.reduceat(both.sum(axis=1), starts) * a.shape[2]
    mean = _ratio(np.add.reduceat(distance.sum(axis=(1, 2)), starts), count)
    largest = np.maximum.reduceat(distance.max(axis=(1, 2)), starts)
    return mean, np.where(count > 0, largest, np.nan)


def _shape(a: Frames, b: Frames, both: npt.NDArray[np.bool_], starts: npt.NDArray[np.int64]) -> Floats:
    """Root mean square distance of two bodies (F, V, C) of each clip after centring and one rotation (Kabsch)."""
    x, y = (_centred(body) * both[:, None, None] for body in (a, b))
    energy = np.add.reduceat((np.square(x) + np.square(y)).sum(axis=(1, 2)), starts)
    products = np.add.reduceat(x.transpose(0, 2, 1) @ y, starts)
    u, s, vt = np.linalg.svd(products)
    s[:, -1] *= np.sign(np.linalg.det(u @ vt))  # a mirror image is no rotation
    left = np.maximum(energy - 2 * s.sum(axis=1), 0)
    count = np.add.reduceat(both.astype(np.int64), starts) * a.shape[1]
    return np.sqrt(_ratio(left, count))


def _centred(body: Frames) -> Floats:
    wide = body.astype(np.float64)
    # Five times as fast as `mean` over the joints, which lie strided.
    middle: Floats = np.einsum("fvc->fc", wide)[:, None] / wide.shape[1]
    return wide - middle


def _ratio(total: Floats, count: npt.NDArray[np.int64]) -> Floats:
    ratio: Floats = np.full(len(total), np.nan)
    np.divide(total, count, out=ratio, where=count > 0)
    return ratio
