"""Batches from tar shards as they are read: memory for a few shards, whatever the size of the split."""

import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pipelines.loaders.order import permutation, steps
from pipelines.loaders.split import open_split
from shards.batch import RaggedBatch
from shards.errors import StoreError
from shards.manifest import ShardEntry
from shards.reader import Sample, read_index, read_samples

WINDOW = 4
"""Shards shuffled together."""

PREFETCH = 4
"""Batches ready ahead of the consumer."""


class StreamLoader:
    """Reads the shards of a split in a new order each epoch and shuffles inside windows of `WINDOW` shards.

    A thread reads ahead; at most one window of samples and `PREFETCH` batches are in memory. The order is a pure
    function of (seed, epoch), and a later `first_step` skips by arithmetic: windows before it are not read.

    Args, Raises: as `ResidentLoader`.
    """

    def __init__(
        self,
        folder: Path,
        dataset: str,
        protocol: str,
        split: str,
        *,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        shuffle: bool = True,
        drop_last: bool = True,
    ) -> None:
        self._split = open_split(folder, dataset, protocol, split)
        self._steps = steps(self._split.num_samples, batch_size, drop_last)
        self._batch_size, self._seed, self._device, self._shuffle = batch_size, seed, torch.device(device), shuffle

    @property
    def num_samples(self) -> int:
        """Samples in the split."""
        return self._split.num_samples

    def __len__(self) -> int:
        return self._steps

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[RaggedBatch]:
        """The batches of an epoch from `first_step` on."""
        if first_step >= self._steps:
            return
        ready: queue.Queue[RaggedBatch | BaseException | None] = queue.Queue(PREFETCH)
        stop = threading.Event()
        reader = threading.Thread(
            target=self._read_ahead, args=(epoch, first_step, ready, stop), name="skelstream-reader", daemon=True
        )
        reader.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield self._to_device(item)
        finally:
            stop.set()
            reader.join()

    def _read_ahead(
        self,
        epoch: int,
        first_step: int,
        ready: "queue.Queue[RaggedBatch | BaseException | None]",
        stop: threading.Event,
    ) -> None:
        # whatever goes wrong here is raised where the batches are consumed
        end: BaseException | None = None
        try:
            for batch in self._batches(epoch, first_step, stop):
                if not _put(ready, batch, stop):
                    return
        except BaseException as error:  # noqa: BLE001 - see above
            end = error
        _put(ready, end, stop)

    def _batches(self, epoch: int, first_step: int, stop: threading.Event) -> Iterator[RaggedBatch]:
        skip, left = first_step * self._batch_size, self._steps - first_step
        rest: list[Sample] = []
        for number, window in enumerate(self._windows(epoch)):
            count = sum(shard.samples for shard in window)
            if skip >= count:
                skip -= count
                continue
            rest += self._read_window(epoch, number, window, skip, stop)
            skip = 0
            while len(rest) >= self._batch_size and left:
                yield _pack(rest[: self._batch_size])
                rest, left = rest[self._batch_size :], left - 1
            if not left or stop.is_set():
                return
        if rest and left:
            yield _pack(rest)

    def _windows(self, epoch: int) -> list[list[ShardEntry]]:
        shards = self._split.shards
        order = np.arange(len(shards))
        if self._shuffle:
            order = permutation(len(shards), seed=self._seed, epoch=epoch, name="shards")
        return [[shards[i] for i in order[first : first + WINDOW]] for first in range(0, len(shards), WINDOW)]

    def _read_window(
        self, epoch: int, number: int, window: Sequence[ShardEntry], skip: int, stop: threading.Event
    ) -> list[Sample]:
        """The samples of a window in the epoch's order, without the first `skip`."""
        count = sum(shard.samples for shard in window)
        order: npt.NDArray[np.int64] = np.arange(count)
        if self._shuffle:
            order = permutation(count, seed=self._seed, epoch=epoch, name=f"window {number}")
        samples: list[Sample] = []
        for shard in window:
            if stop.is_set():
                return []
            path = self._split.folder / shard.path
            index = read_index(path)
            if len(index) != shard.samples:
                raise StoreError(f"{path}: found {len(index)} samples, expected {shard.samples} by the manifest")
            samples += read_samples(path, range(len(index)), index)
        return [samples[i] for i in order[skip:]]

    def _to_device(self, batch: RaggedBatch) -> RaggedBatch:
        if self._device.type == "cpu":
            return batch
        return RaggedBatch(
            *(
                tensor.pin_memory().to(self._device, non_blocking=True)
                for tensor in (batch.frames, batch.start, batch.length, batch.label, batch.sample_id)
            )
        )


def _put(
    ready: "queue.Queue[RaggedBatch | BaseException | None]",
    item: RaggedBatch | BaseException | None,
    stop: threading.Event,
) -> bool:
    """Wait for a place in the queue unless the consumer has gone; whether the item was taken."""
    while not stop.is_set():
        try:
            ready.put(item, timeout=0.05)
        except queue.Full:
            continue
        return True
    return False


def _pack(samples: Sequence[Sample]) -> RaggedBatch:
    length = torch.tensor([len(frames) for _, frames, _ in samples])
    return RaggedBatch(
        frames=torch.from_numpy(np.concatenate([frames for _, frames, _ in samples])),
        start=length.cumsum(0) - length,
        length=length,
        label=torch.tensor([record["label"] for _, _, record in samples]),
        sample_id=torch.tensor([record["index"] for _, _, record in samples]),
    )
