"""Store -> tar shards by cell, one unit a shard."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.conversion.marks import is_done, write_done
from pipelines.conversion.parts import read_piece
from pipelines.preprocessing.recipes import recipe
from shards.cells import cell_name, memberships
from shards.encoding import Storage, kept
from shards.manifest import SHARDS, STORE, CellEntry, ShardEntry
from shards.schema import SampleInfo, Segment
from shards.store import ReadAhead, Store, open_store
from shards.writer import sample_record, write_shard


@dataclass(frozen=True)
class ShardPlan:
    """What one tar shard will hold.

    Attributes:
        cell: name of its cell.
        number: in the cell.
        ids: of its samples, rising: store rows, or for an untrimmed source positions in `segments`.
        frames: of all its clips.
    """

    cell: str
    number: int
    ids: tuple[int, ...]
    frames: int

    @property
    def path(self) -> str:
        return f"{SHARDS}/{self.cell}/{self.number:06d}.tar"

    @property
    def index(self) -> str:
        return f"{SHARDS}/{self.cell}/{self.number:06d}.idx"

    @property
    def entry(self) -> ShardEntry:
        return ShardEntry(cell=self.cell, path=self.path, index=self.index, samples=len(self.ids), frames=self.frames)


@dataclass(frozen=True)
class Packing:
    """Every cell and every shard of a result, both in the order of their names."""

    cells: dict[str, CellEntry]
    shards: list[ShardPlan]


def plan_packing(
    source: str,
    infos: Sequence[SampleInfo],
    clip_lengths: Sequence[int],
    segments: Sequence[Segment] | None,
    samples_per_shard: int,
) -> Packing:
    """Group the samples of a store by cell and cut each cell into shards.

    Args:
        source: name of the source.
        infos: of the store's rows.
        clip_lengths: frames of each sample as packed.
        segments: the actions of an untrimmed source, which are its samples; else None.
        samples_per_shard: samples in every shard of a cell but the last.
    """
    rows = range(len(infos)) if segments is None else [segment.video for segment in segments]
    names = [cell_name(source, info) for info in infos]
    groups: dict[str, list[int]] = defaultdict(list)
    for sample_id, row in enumerate(rows):
        groups[names[row]].append(sample_id)
    cells, shards = {}, []
    for name, ids in sorted(groups.items()):
        frames = sum(clip_lengths[i] for i in ids)
        cells[name] = CellEntry(memberships=memberships(source, infos[rows[ids[0]]]), samples=len(ids), frames=frames)
        for number, start in enumerate(range(0, len(ids), samples_per_shard)):
            some = tuple(ids[start : start + samples_per_shard])
            shards.append(ShardPlan(name, number, some, sum(clip_lengths[i] for i in some)))
    return Packing(cells, shards)


@dataclass(frozen=True)
class ShardUnit:
    """Write one tar shard and its index.

    Attributes:
        starts: number of the first frame of every part, in a conversion: frames are taken from the parts and rounded as
            the store rounds them, which is twice as fast as decoding the store again. None takes them from the store.
    """

    work: Path
    plan: ShardPlan
    source: str
    recipe: str
    fingerprint: str
    dtype: Storage
    starts: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        return f"pack-{self.plan.cell}-{self.plan.number:06d}"

    def __call__(self) -> None:
        """Write both files.

        Raises:
            StoreError: the store cannot be read.
        """
        path = self.work / self.plan.path
        write_shard(path, self._samples(), self.dtype)
        write_done(self.work, self.name, [path, self.work / self.plan.index])

    def is_done(self) -> bool:
        return is_done(self.work, self.name)

    def _samples(self) -> Iterator[tuple[str, npt.NDArray[Any], dict[str, Any]]]:
        path = self.work / STORE
        store = _opened(path, (path / "zarr.json").stat().st_mtime_ns)
        source = ReadAhead(store) if self.starts is None else _Parts(self.work, self.starts, self.dtype)
        window = recipe(self.recipe, self.source).window
        for number in self.plan.ids:
            sample = store.locate(number)
            frames = source.read(sample.first, sample.stop)
            clip = frames if sample.segment is None else window(frames)
            record = sample_record(
                sample.info,
                index=number,
                frames=len(clip),
                source=self.source,
                recipe=self.recipe,
                fingerprint=self.fingerprint,
                segment=sample.segment,
                video=sample.video,
            )
            yield sample.info.key, clip, record


# The tables of NTU 120 take 0.3 s to read; every shard of a conversion needs them.
@lru_cache(maxsize=1)
def _opened(path: Path, _modified_ns: int) -> Store:
    return open_store(path)


@dataclass(frozen=True)
class _Parts:
    """Frames of the parts of a conversion, as the store keeps them. No sample lies in two parts."""

    work: Path
    starts: tuple[int, ...]
    dtype: Storage

    def read(self, first: int, stop: int) -> npt.NDArray[np.float32]:
        part = bisect_right(self.starts, first) - 1
        start = self.starts[part]
        return kept(read_piece(self.work, part, first - start, stop - start), self.dtype, f"part {part}")
