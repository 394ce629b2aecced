"""The split as flat frames on the device: an epoch touches no host memory but the order."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipelines.loaders.order import Places
from pipelines.loaders.split import Split
from shards.batch import RaggedBatch
from shards.cores import count_cores
from shards.encoding import FRAME_SHAPE
from shards.errors import ConfigError, StoreError

READERS = 4
"""Threads that read shards, at most, and no more than cores: each holds a shard in memory beside the buffer."""


class Resident:
    """`pipelines.loaders.loader.Samples` that reads all samples of a split once; a batch is windows on one buffer.

    Args:
        split: which samples; float16 if all its shards are, else float32.
        device: where the frames live.

    Raises:
        ConfigError: the device has no room for the frames.
        StoreError: a shard does not hold what its manifest says.
    """

    def __init__(self, split: Split, device: torch.device | str) -> None:
        self._device = torch.device(device)
        entries = [shard.entry for shard in split.shards]
        # Positions of a shard's first row, and of its first frame. All rows have a place, also those of samples that
        # the split does not have: 32 bytes each, so that a row is found without a search.
        self._first = np.cumsum([0, *(entry.samples for entry in entries)])
        frames = np.cumsum([0, *(shard.frames for shard in split.shards)])
        self._frames = _room(split, self._device)
        facts = np.full((4, self._first[-1]), -1, dtype=np.int64)

        def load(number: int) -> None:
            buffer = self._frames[frames[number] : frames[number + 1]]
            rows = self._first[number] + np.asarray(split.shards[number].rows)
            facts[:, rows] = _load(split, number, int(frames[number]), buffer)

        # Two threads on two cores, best of five: float32 20,000 samples/s instead of 16,000; fixed 6,900 either way.
        with ThreadPoolExecutor(min(READERS, count_cores()), thread_name_prefix="skelstream-resident") as pool:
            list(pool.map(load, range(len(entries))))
        self._facts = torch.from_numpy(facts).to(self._device)

    def batch(self, places: Places) -> RaggedBatch:
        """Windows of these samples on the frames of the whole split."""
        rows = torch.from_numpy(self._first[places.shard] + places.row)
        start, length, label, sample_id = self._facts[:, rows.to(self._device, non_blocking=True)].unbind()
        return RaggedBatch(self._frames, start, length, label, sample_id)

    def announce(self, places: Places) -> None:
        """Everything is there already."""

    def close(self) -> None:
        """Give the memory back, as soon as no batch is in use any more."""
        self._frames = self._facts = torch.empty(0)


@dataclass(frozen=True)
class Shared:
    """`pipelines.loaders.loader.Samples` that other loaders use too: closing this one gives nothing back."""

    samples: Resident

    def batch(self, places: Places) -> RaggedBatch:
        """As of `Resident`."""
        return self.samples.batch(places)

    def announce(self, places: Places) -> None:
        """Everything is there already."""

    def close(self) -> None:
        """The samples stay."""


def _room(split: Split, device: torch.device) -> Tensor:
    dtype = torch.float16 if split.dtype == np.float16 else torch.float32
    try:
        return torch.empty((split.num_frames, *FRAME_SHAPE), dtype=dtype, device=device)
    except RuntimeError as error:
        size = split.num_frames * int(np.prod(FRAME_SHAPE)) * dtype.itemsize / 1e9
        raise ConfigError(
            f"found no room for {split.num_frames} frames ({size:.3g} GB) on {device}, expected a device that holds"
            " the split (--loader stream needs memory for a few batches only)"
        ) from error


def _load(split: Split, number: int, start: int, buffer: Tensor) -> list[list[int]]:
    """Read a shard's frames into `buffer`; start, length, label and id of each of its samples."""
    shard = split.shards[number]
    items = split.read(number, shard.rows, split.index(number))
    lengths = [len(item.frames) for item in items]
    if sum(lengths) != len(buffer):
        by = "by the manifest" if shard.chosen is None else f"of {len(items)} samples by the store"
        raise StoreError(f"{shard.path}: found {sum(lengths)} frames, expected {len(buffer)} {by}")
    if buffer.device.type == "cpu":
        np.concatenate([item.frames for item in items], out=buffer.numpy())
    else:
        buffer.copy_(torch.from_numpy(np.concatenate([item.frames for item in items])))
    starts = start + np.cumsum(lengths) - lengths
    return [starts.tolist(), lengths, [item.label for item in items], [item.sample_id for item in items]]
