"""The shards of one side of a protocol: what every loader reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.catalog import dataset as dataset_named
from shards.encoding import Storage, member_dtype
from shards.errors import ConfigError, StoreError
from shards.manifest import ShardEntry, read_manifest
from shards.places import Place
from shards.reader import ShardIndex, read_index, read_samples


@dataclass(frozen=True)
class Item:
    """A sample as a loader needs it: frames (T, M, V, C), zero-based label, and its number in the data set."""

    frames: npt.NDArray[Any]
    label: int
    sample_id: int


@dataclass(frozen=True)
class Split:
    """Attributes:
    folder: of the store.
    shards: of all cells on this side, by path.
    storage: of their frames.
    """

    folder: Place
    shards: tuple[ShardEntry, ...]
    storage: Storage

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the frames as they are read: float16, else float32."""
        return member_dtype(self.storage)

    @property
    def num_samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    @property
    def num_frames(self) -> int:
        return sum(shard.frames for shard in self.shards)

    def index(self, number: int) -> ShardIndex:
        """The index of a shard; StoreError when it does not list as many samples as the manifest."""
        shard = self.shards[number]
        index = read_index(self.folder / shard.path)
        if len(index) != shard.samples:
            raise StoreError(
                f"{self.folder / shard.index}: found {len(index)} samples, expected {shard.samples} by the manifest"
            )
        return index

    def read(self, index: ShardIndex, rows: Sequence[int]) -> list[Item]:
        """The samples at these rows of a shard, in the order asked for.

        Raises:
            StoreError: a sample is garbled, has frames of another dtype than the manifest says, or no label or index.
        """
        return [self._item(f"{index.path}: {key}", f, r) for key, f, r in read_samples(index.path, rows, index)]

    def _item(self, where: str, frames: npt.NDArray[Any], record: dict[str, Any]) -> Item:
        if frames.dtype != self.dtype:
            raise StoreError(f"{where}: found {frames.dtype} frames, expected {self.dtype} by the manifest")
        if not len(frames):
            raise StoreError(f"{where}: found no frame, expected at least one")
        label, sample_id = record.get("label"), record.get("index")
        if type(label) is not int or type(sample_id) is not int or label < 0 or sample_id < 0:
            raise StoreError(f"{where}: found label {label!r} and index {sample_id!r}, expected integers from 0")
        return Item(frames, label, sample_id)


def open_split(folder: Place, dataset: str, protocol: str, split: str) -> Split:
    """List the shards of a side.

    Raises:
        ConfigError: the data set has no such protocol, or no such side.
        StoreError: the store has no sample of it.
    """
    known = dataset_named(dataset).protocols
    if protocol not in known:
        raise ConfigError(f"found protocol {protocol!r}, expected one of {', '.join(known)} for {dataset}")
    if split not in ("train", "test"):
        raise ConfigError(f"found split {split!r}, expected train or test")
    manifest = read_manifest(folder)
    cells = {n for n, cell in manifest.cells.items() if cell.memberships.get(f"{dataset}/{protocol}") == split}
    shards = tuple(sorted((s for s in manifest.shards if s.cell in cells), key=lambda shard: shard.path))
    if not shards:
        raise StoreError(f"{folder}: found no sample of {dataset} {protocol} {split}, expected at least one")
    return Split(folder, shards, manifest.dtype)
