"""Verification: recompute all that a store's folder claims, and name everything that is wrong."""

import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from shards.catalog import SOURCES, dataset, info_from_name, missing_samples
from shards.cells import cell_name, memberships
from shards.errors import SkelstreamError, StoreError
from shards.manifest import (
    MANIFEST,
    SHARDS,
    STORE,
    CellEntry,
    Manifest,
    ShardEntry,
    counts,
    fingerprint,
    folder_name,
    read_manifest,
    sha256_file,
)
from shards.reader import read_index, read_shard
from shards.schema import SampleInfo, Segment, segment_key
from shards.skeleton import NUM_PERSONS
from shards.store import FRAMES_PER_SHARD, Store, open_store
from shards.writer import FRAMES_MEMBER, JSON_MEMBER, sample_record

Window = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]

_NAMED = 5  # samples that one line names at most


@dataclass(frozen=True)
class _Expected:
    """A sample as the store gives it: frames first..stop-1, before the window."""

    info: SampleInfo
    first: int
    stop: int
    segment: Segment | None


def verify(folder: Path, window: Window | None = None, progress: bool = False) -> list[str]:
    """Recompute identity, hashes, store, cells, splits, counts and shards of a finished folder.

    Args:
        folder: `<source>-<recipe>-<fingerprint>`.
        window: what the recipe does to a trimmed action of an untrimmed source, (n, M, V, C) -> (T, M, V, C); None
            leaves the frames as they are.
        progress: whether to show progress bars.

    Returns:
        Every problem in one line that names the file or sample; empty when all is good.
    """
    try:
        manifest = read_manifest(folder)
    except StoreError as error:
        return [str(error)]
    problems = [*_identity(folder, manifest), *_files(folder, manifest, progress)]
    if manifest.source not in SOURCES:
        return problems
    try:
        store = open_store(folder / STORE)
        infos = store.infos
    except (StoreError, ValueError) as error:
        return [*problems, f"{STORE}: {error}"]
    problems += [*_rows(manifest, infos), *_frames(store, progress)]
    wrong = list(_segments(manifest, store))
    if wrong:
        return [*problems, *wrong]
    return [*problems, *_samples(folder, manifest, store, window, progress)]


def _identity(folder: Path, manifest: Manifest) -> Iterator[str]:
    if manifest.source not in SOURCES:
        yield f"{MANIFEST}: found source {manifest.source!r}, expected one of {', '.join(SOURCES)}"
    name = fingerprint(manifest.source, manifest.inventory, manifest.recipe_steps, manifest.dtype)
    if manifest.fingerprint != name:
        yield f"{MANIFEST}: found fingerprint {manifest.fingerprint}, expected {name} by its source, recipe and format"
    expected = folder_name(manifest.source, manifest.recipe, name)
    if folder.resolve().name != expected:
        yield f"{folder}: found a folder of this name, expected {expected}"


def _files(folder: Path, manifest: Manifest, progress: bool) -> Iterator[str]:
    listed = {entry.path: entry for entry in manifest.files}
    if len(listed) != len(manifest.files):
        yield f"{MANIFEST}: found a file listed twice, expected each once"
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()} - {MANIFEST}
    yield from (f"{path}: found a file that the manifest does not list" for path in sorted(there - listed.keys()))
    yield from (
        f"{path}: found no file, expected one that the manifest lists" for path in sorted(listed.keys() - there)
    )
    for path in tqdm(sorted(there & listed.keys()), desc="files", unit=" files", disable=not progress):
        size = (folder / path).stat().st_size
        if size != listed[path].bytes:
            yield f"{path}: found {size} bytes, expected {listed[path].bytes}"
        elif sha256_file(folder / path) != listed[path].sha256:
            yield f"{path}: found other content, expected SHA-256 {listed[path].sha256}"


def _rows(manifest: Manifest, infos: list[SampleInfo]) -> Iterator[str]:
    for before, after in pairwise(info.key for info in infos):
        if before >= after:
            yield f"{STORE}: found {after} after {before}, expected keys sorted and unique"
    missing = missing_samples(manifest.source)
    for info in infos:
        try:
            named = replace(info_from_name(manifest.source, info.key), bodies=info.bodies)
        except SkelstreamError as error:
            yield f"{STORE}: {error}"
            continue
        if named != info:
            yield f"{STORE}: {info.key}: found {info}, expected {named} by its name"
        if not 0 <= info.bodies <= NUM_PERSONS:
            yield f"{STORE}: {info.key}: found {info.bodies} bodies, expected 0 to {NUM_PERSONS}"
        if info.key in missing:
            yield f"{STORE}: {info.key}: found a sample of the official missing list, expected none"


def _frames(store: Store, progress: bool) -> Iterator[str]:
    for first in tqdm(range(0, store.num_frames, FRAMES_PER_SHARD), desc="store", unit=" shards", disable=not progress):
        try:
            frames = store.read(first, min(first + FRAMES_PER_SHARD, store.num_frames))
        except StoreError as error:
            yield f"{STORE}: {error}"
            continue
        bad = first + np.flatnonzero(~np.isfinite(frames).all(axis=(1, 2, 3)))
        for row in np.unique(np.searchsorted(store.offsets, bad, side="right") - 1):
            yield f"{STORE}: {store.infos[row].key}: found a coordinate that is not finite, expected finite ones"


def _segments(manifest: Manifest, store: Store) -> Iterator[str]:
    source, segments = SOURCES[manifest.source], store.segments
    if (segments is not None) != source.untrimmed:
        found = "no segments" if segments is None else "segments"
        yield f"{STORE}: found {found}, expected {'some' if source.untrimmed else 'none'} for source {source.name}"
    for before, after in pairwise((s.video, s.row) for s in segments or ()):
        if before >= after:
            yield f"{STORE}: segments: found {after} after {before}, expected (video, row) sorted and unique"
    for number, s in enumerate(segments or ()):
        where = f"{STORE}: segment {number}"
        if not 0 <= s.video < len(store):
            yield f"{where}: found video {s.video}, expected 0 to {len(store) - 1}"
            continue
        length = int(store.offsets[s.video + 1] - store.offsets[s.video])
        where += f" ({segment_key(store.infos[s.video].key, s.row)})"
        if not 0 <= s.start < s.end <= length or s.row < 0:
            yield f"{where}: found frames {s.start} to {s.end} of row {s.row}, expected 0 <= start < end <= {length}"
        if not 0 <= s.label < source.num_classes:
            yield f"{where}: found label {s.label}, expected 0 to {source.num_classes - 1}"


def _expected(store: Store) -> list[_Expected]:
    offsets = store.offsets.tolist()
    if store.segments is None:
        return [_Expected(info, offsets[i], offsets[i + 1], None) for i, info in enumerate(store.infos)]
    videos = [(s, store.infos[s.video], offsets[s.video]) for s in store.segments]
    return [
        _Expected(replace(video, key=segment_key(video.key, s.row), label=s.label), first + s.start, first + s.end, s)
        for s, video, first in videos
    ]


def _samples(folder: Path, manifest: Manifest, store: Store, window: Window | None, progress: bool) -> Iterator[str]:
    samples = _expected(store)
    cells: dict[str, list[int]] = {}
    try:
        for number, sample in enumerate(samples):
            cells.setdefault(cell_name(manifest.source, sample.info), []).append(number)
    except SkelstreamError as error:
        yield f"{STORE}: {error}"
        return
    reader = _ShardCheck(folder, manifest, store, samples, window)
    found: dict[str, list[int]] = {name: [] for name in manifest.cells}
    for entry in tqdm(manifest.shards, desc="shards", unit=" shards", disable=not progress):
        yield from reader.check(entry, found.setdefault(entry.cell, []))
    yield from _cells(manifest, samples, cells, found, reader.frames)
    yield from _protocols(manifest, samples, found)
    yield from _counts(manifest, store, len(samples))


class _ShardCheck:
    """Compares shards with the store; `frames` gathers the frames of each cell."""

    def __init__(
        self, folder: Path, manifest: Manifest, store: Store, samples: list[_Expected], window: Window | None
    ) -> None:
        self._folder, self._manifest, self._store, self._samples = folder, manifest, store, samples
        self._window = window
        self._numbers = {sample.info.key: number for number, sample in enumerate(samples)}
        self._shards: dict[str, int] = {}
        self.frames: dict[str, int] = {}

    def check(self, entry: ShardEntry, found: list[int]) -> Iterator[str]:
        """Problems of one shard; the numbers of its samples are added to `found`."""
        number = self._shards[entry.cell] = self._shards.get(entry.cell, -1) + 1
        name = f"{SHARDS}/{entry.cell}/{number:06d}"
        if (entry.path, entry.index) != (f"{name}.tar", f"{name}.idx"):
            yield f"{MANIFEST}: found shard {entry.path} with {entry.index}, expected {name}.tar with {name}.idx"
        samples = frames = 0
        try:
            for key, array, record in read_shard(self._folder / entry.path):
                samples, frames = samples + 1, frames + len(array)
                yield from self._sample(f"{entry.path}: {key}", key, array, record, found)
            yield from _index(self._folder, entry)
        except SkelstreamError as error:
            yield f"{entry.path}: {error}"
        self.frames[entry.cell] = self.frames.get(entry.cell, 0) + frames
        if (samples, frames) != (entry.samples, entry.frames):
            yield f"{entry.path}: found {samples} samples, {frames} frames, expected {entry.samples}, {entry.frames}"

    def _sample(
        self, where: str, key: str, array: npt.NDArray[Any], record: dict[str, Any], found: list[int]
    ) -> Iterator[str]:
        number = self._numbers.get(key)
        if number is None:
            yield f"{where}: found a sample that the store does not hold"
            return
        if found and number <= found[-1]:
            yield f"{where}: found sample {number} after {found[-1]}, expected rising order in the cell"
        found.append(number)
        frames = self._frames(self._samples[number])
        if array.dtype != frames.dtype or not np.array_equal(array, frames):
            yield f"{where}: found other frames, expected those of the store"
        if not np.isfinite(array).all():
            yield f"{where}: found a coordinate that is not finite, expected finite ones"
        yield from self._record(where, number, len(frames), record)

    def _frames(self, sample: _Expected) -> npt.NDArray[Any]:
        frames: npt.NDArray[Any] = self._store.read(sample.first, sample.stop)
        if self._window is not None and sample.segment is not None:
            frames = self._window(frames)
        with np.errstate(over="ignore"):  # an overflow to infinity is reported as such
            return frames.astype(self._manifest.dtype)

    def _record(self, where: str, number: int, length: int, record: dict[str, Any]) -> Iterator[str]:
        sample = self._samples[number]
        video = None if sample.segment is None else self._store.infos[sample.segment.video].key
        expected = sample_record(
            sample.info,
            index=number,
            frames=length,
            source=self._manifest.source,
            recipe=self._manifest.recipe,
            fingerprint=self._manifest.fingerprint,
            segment=sample.segment,
            video=video,
        )
        for name in sorted(expected.keys() | record.keys()):
            if name not in record or name not in expected or record[name] != expected[name]:
                yield f"{where}: found {name} {record.get(name)!r}, expected {expected.get(name)!r}"


def _index(folder: Path, entry: ShardEntry) -> Iterator[str]:
    index = read_index(folder / entry.path)
    with tarfile.open(folder / entry.path) as tar:
        there = [(member.name, member.offset_data, member.size) for member in tar]
    listed = []
    for key, (frames, size, record, record_size) in zip(index.keys, index.spans.tolist(), strict=True):
        listed += [(f"{key}.{FRAMES_MEMBER}", frames, size), (f"{key}.{JSON_MEMBER}", record, record_size)]
    if listed != there:
        first = next((a for a, b in zip(listed, there, strict=False) if a != b), (f"{len(listed)} members",))
        yield f"{entry.index}: found an index that differs from its shard (first at {first[0]}), expected equal ones"


def _cells(
    manifest: Manifest,
    samples: list[_Expected],
    cells: dict[str, list[int]],
    found: dict[str, list[int]],
    frames: dict[str, int],
) -> Iterator[str]:
    for name in sorted(manifest.cells.keys() | cells.keys() | found.keys()):
        expected, there = set(cells.get(name, ())), found.get(name, [])
        if not expected:
            yield f"{MANIFEST}: found a cell {name} that no sample belongs to"
        lacking, foreign = expected.difference(there), set(there) - expected
        if lacking:
            yield f"{SHARDS}/{name}: found no {_names(samples, lacking)}, expected in this cell"
        if foreign:
            yield f"{SHARDS}/{name}: found {_names(samples, foreign)}, expected in another cell"
        if expected:
            sides = memberships(manifest.source, samples[min(expected)].info)
            entry = CellEntry(memberships=sides, samples=len(expected), frames=frames.get(name, 0))
            if manifest.cells.get(name) != entry:
                yield f"{MANIFEST}: cell {name}: found {manifest.cells.get(name)!r}, expected {entry!r}"


def _protocols(manifest: Manifest, samples: list[_Expected], found: dict[str, list[int]]) -> Iterator[str]:
    """Train and test of each protocol, put together from the shards as a reader does."""
    for data in SOURCES[manifest.source].datasets:
        for protocol in dataset(data).protocols:
            name = f"{data}/{protocol}"
            sides: dict[str, list[int]] = {"train": [], "test": []}
            for cell, entry in manifest.cells.items():
                if name in entry.memberships:
                    sides.setdefault(entry.memberships[name], []).extend(found.get(cell, ()))
            both = set(sides["train"]) & set(sides["test"])
            if both:
                yield f"{name}: found {_names(samples, both)} in train and test, expected on one side"
            official = {n for n, s in enumerate(samples) if name in memberships(manifest.source, s.info)}
            neither = official.difference(sides["train"], sides["test"])
            if neither:
                yield f"{name}: found {_names(samples, neither)} neither in train nor in test, expected on one side"


def _counts(manifest: Manifest, store: Store, num_samples: int) -> Iterator[str]:
    expected = counts(
        sequences=len(store),
        samples=num_samples,
        frames=store.num_frames,
        dropped=len(manifest.dropped),
        repaired=len(manifest.repaired),
    )
    for name in sorted(expected.keys() | manifest.counts.keys()):
        if manifest.counts.get(name) != expected.get(name):
            yield f"{MANIFEST}: found {manifest.counts.get(name)} {name}, expected {expected.get(name)}"


def _names(samples: list[_Expected], numbers: Iterable[int]) -> str:
    ordered = sorted(numbers)
    rest = f" and {len(ordered) - _NAMED} more" if len(ordered) > _NAMED else ""
    return ", ".join(samples[number].info.key for number in ordered[:_NAMED]) + rest
