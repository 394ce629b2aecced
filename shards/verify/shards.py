"""Verification of the shards: every sample against the store, every tar block, every index, every split."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import count, pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from shards.catalog import dataset
from shards.catalog import source as source_of
from shards.cells import cell_name, memberships
from shards.cores import count_cores
from shards.encoding import kept, member_dtype, member_name
from shards.errors import SkelstreamError
from shards.manifest import MANIFEST, SHARDS, STORE, CellEntry, Manifest, ShardEntry
from shards.places import Place
from shards.progress import Progress
from shards.reader import ShardIndex, read_index, read_samples
from shards.store import ReadAhead, Store, StoredSample
from shards.verify.tar import walk_tar
from shards.writer import sample_record

Window = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
Item = TypeVar("Item")
Result = TypeVar("Result")

_NAMED = 5  # samples that one line names at most
_BATCH = 64  # samples decoded at once: 4 MB


def on_threads(
    work: Callable[[Item], Result], items: Iterable[Item], title: str, unit: str, *, progress: bool
) -> Iterator[Result]:
    """What `work` makes of each item, in their order. Reading, hashing and decoding release the interpreter lock."""
    todo = list(items)
    with ThreadPoolExecutor(count_cores()) as pool:
        yield from Progress(title, len(todo), unit, shown=progress).over(pool.map(work, todo))


def expected_samples(store: Store) -> list[StoredSample]:
    """The samples that the shards of a store must hold, in the order of their numbers."""
    return [store.locate(number) for number in range(store.num_samples)]


def check_shards(
    folder: Place, manifest: Manifest, store: Store, window: Window | None, progress: bool
) -> Iterator[str]:
    """Problems of the shards, the cells and the protocols of a folder whose store is sound in its tables."""
    samples = expected_samples(store)
    cells: dict[str, list[int]] = {}
    try:
        for number, sample in enumerate(samples):
            cells.setdefault(cell_name(manifest.source, sample.info), []).append(number)
    except SkelstreamError as error:
        yield f"{STORE}: {error}"
        return
    yield from _shard_names(manifest)
    found: dict[str, list[int]] = {name: [] for name in manifest.cells}
    frames: dict[str, int] = {}
    check = partial(_check_shard, _Context(folder, manifest, store, samples, window))
    held = on_threads(check, manifest.shards, "shards", "shard", progress=progress)
    for entry, shard in zip(manifest.shards, held, strict=True):
        yield from shard.problems
        yield from _order(entry, samples, [*found.setdefault(entry.cell, [])[-1:], *shard.numbers])
        found[entry.cell] += shard.numbers
        frames[entry.cell] = frames.get(entry.cell, 0) + shard.frames
    yield from _cells(manifest, samples, cells, found, frames)
    yield from _protocols(manifest, samples, found)


def _shard_names(manifest: Manifest) -> Iterator[str]:
    numbers: dict[str, Iterator[int]] = {}
    for entry in manifest.shards:
        name = f"{SHARDS}/{entry.cell}/{next(numbers.setdefault(entry.cell, count())):06d}"
        if (entry.path, entry.index) != (f"{name}.tar", f"{name}.idx"):
            yield f"{MANIFEST}: found shard {entry.path} with {entry.index}, expected {name}.tar with {name}.idx"


def _order(entry: ShardEntry, samples: Sequence[StoredSample], numbers: Sequence[int]) -> Iterator[str]:
    for before, after in pairwise(numbers):
        if after <= before:
            key = samples[after].info.key
            yield f"{entry.path}: {key}: found sample {after} after {before}, expected rising order in the cell"


@dataclass(frozen=True)
class _Context:
    folder: Place
    manifest: Manifest
    store: Store
    samples: list[StoredSample]
    window: Window | None
    numbers: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        numbers = {sample.info.key: number for number, sample in enumerate(self.samples)}
        object.__setattr__(self, "numbers", numbers)


@dataclass
class _Held:
    """What one shard holds: numbers of its samples, and the frames of all of them."""

    problems: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    samples: int = 0
    frames: int = 0


def _check_shard(context: _Context, entry: ShardEntry) -> _Held:
    held, path = _Held(), context.folder / entry.path
    ahead = ReadAhead(context.store)
    try:
        index, fault = walk_tar(path, member_name(context.manifest.dtype))
        if fault is not None:
            held.problems.append(f"{entry.path}: {fault}")
        for start in range(0, len(index), _BATCH):
            for key, array, record in read_samples(path, range(start, min(start + _BATCH, len(index))), index):
                held.samples, held.frames = held.samples + 1, held.frames + len(array)
                held.problems += _sample(context, ahead, f"{entry.path}: {key}", key, array, record)
                if key in context.numbers:
                    held.numbers.append(context.numbers[key])
        if fault is None:
            held.problems += _index(entry, index, read_index(path))
    except SkelstreamError as error:
        held.problems.append(f"{entry.path}: {error}")
    if (held.samples, held.frames) != (entry.samples, entry.frames):
        found, expected = (
            f"{s} samples, {f} frames" for s, f in ((held.samples, held.frames), (entry.samples, entry.frames))
        )
        held.problems.append(f"{entry.path}: found {found}, expected {expected}")
    return held


def _sample(
    context: _Context, ahead: "ReadAhead", where: str, key: str, array: npt.NDArray[Any], record: dict[str, Any]
) -> Iterator[str]:
    number = context.numbers.get(key)
    if number is None:
        yield f"{where}: found a sample that the store does not hold"
        return
    sample, manifest = context.samples[number], context.manifest
    frames = ahead.read(sample.first, sample.stop)
    if context.window is not None and sample.segment is not None:
        frames = context.window(frames)
    if not np.isfinite(array).all():
        yield f"{where}: found a coordinate that is not finite, expected finite ones"
    try:
        frames = kept(frames, manifest.dtype, where).astype(member_dtype(manifest.dtype), copy=False)
    except SkelstreamError as error:
        yield str(error)
    if array.dtype != frames.dtype or not np.array_equal(array, frames):
        yield f"{where}: found other frames, expected those of the store"
    expected = sample_record(
        sample.info,
        index=number,
        frames=len(frames),
        source=manifest.source,
        recipe=manifest.recipe,
        fingerprint=manifest.fingerprint,
        segment=sample.segment,
        video=sample.video,
    )
    for name in sorted(expected.keys() | record.keys()):
        if name not in record or name not in expected or record[name] != expected[name]:
            yield f"{where}: found {name} {record.get(name)!r}, expected {expected.get(name)!r}"


def _index(entry: ShardEntry, there: ShardIndex, listed: ShardIndex) -> Iterator[str]:
    rows, other = ([*zip(index.keys, index.spans.tolist(), strict=True)] for index in (there, listed))
    if rows != other:
        first = next(
            (a[0] for a, b in zip(rows, other, strict=False) if a != b), f"sample {min(len(rows), len(other))}"
        )
        yield f"{entry.index}: found an index that differs from its shard (first at {first}), expected equal ones"


def _cells(
    manifest: Manifest,
    samples: Sequence[StoredSample],
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


def _protocols(manifest: Manifest, samples: Sequence[StoredSample], found: dict[str, list[int]]) -> Iterator[str]:
    """Train and test of each protocol, put together from the shards as a reader does."""
    for data in source_of(manifest.source).datasets:
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


def _names(samples: Sequence[StoredSample], numbers: Iterable[int]) -> str:
    ordered = sorted(numbers)
    rest = f" and {len(ordered) - _NAMED} more" if len(ordered) > _NAMED else ""
    return ", ".join(samples[number].info.key for number in ordered[:_NAMED]) + rest
