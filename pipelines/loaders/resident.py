"""The split as flat frames on the device: an epoch touches no host memory but the order."""

from collections.abc import Iterator

import numpy as np
import torch

from pipelines.loaders.order import permutation, steps
from pipelines.loaders.split import Split, open_split
from shards.batch import RaggedBatch
from shards.errors import StoreError
from shards.places import Place
from shards.skeleton import NUM_COORDINATES, NUM_JOINTS, NUM_PERSONS


class ResidentLoader:
    """Reads all shards of a split once and keeps them on the device; a batch is windows on that one buffer.

    Args:
        folder: of the store, local or remote.
        dataset, protocol, split: which samples.
        batch_size: samples a batch.
        seed: of the order.
        device: where the frames live; they are float16 if the shards are, else float32.
        shuffle: a new order each epoch; False: by shard.
        drop_last: leave out a last batch that is not full.

    Raises:
        ConfigError: unknown protocol, or a batch larger than the split under `drop_last`.
        StoreError: no sample on that side, or a shard does not hold what its manifest says.
    """

    def __init__(
        self,
        folder: Place,
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
        side = open_split(folder, dataset, protocol, split)
        self._steps = steps(side.num_samples, batch_size, drop_last)
        self._batch_size, self._seed, self._shuffle = batch_size, seed, shuffle
        self._all = _read_all(side, torch.device(device))

    @property
    def num_samples(self) -> int:
        """Samples in the split."""
        return len(self._all)

    def __len__(self) -> int:
        return self._steps

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[RaggedBatch]:
        """The batches of an epoch from `first_step` on."""
        count = len(self._all)
        order = np.arange(count)
        if self._shuffle:
            order = permutation(count, seed=self._seed, epoch=epoch, name="samples")
        rows = torch.from_numpy(order).to(self._all.label.device)
        for step in range(first_step, self._steps):
            yield self._rows(rows[step * self._batch_size : (step + 1) * self._batch_size])

    def _rows(self, rows: torch.Tensor) -> RaggedBatch:
        everything = self._all
        return RaggedBatch(
            frames=everything.frames,
            start=everything.start[rows],
            length=everything.length[rows],
            label=everything.label[rows],
            sample_id=everything.sample_id[rows],
        )


def _read_all(side: Split, device: torch.device) -> RaggedBatch:
    """The whole split as one batch, in the order of its shards."""
    frames = np.empty((side.num_frames, NUM_PERSONS, NUM_JOINTS, NUM_COORDINATES), dtype=side.dtype)
    lengths, labels, ids = [], [], []
    end = 0
    for number, shard in enumerate(side.shards):
        items = side.read(side.index(number), range(shard.samples))
        found = sum(len(item.frames) for item in items)
        if found != shard.frames:
            raise StoreError(
                f"{side.folder / shard.path}: found {found} frames, expected {shard.frames} by the manifest"
            )
        np.concatenate([item.frames for item in items], out=frames[end : end + found])
        end += found
        lengths += [len(item.frames) for item in items]
        labels += [item.label for item in items]
        ids += [item.sample_id for item in items]
    length = torch.tensor(lengths)
    return RaggedBatch(
        frames=torch.from_numpy(frames).to(device),
        start=(length.cumsum(0) - length).to(device),
        length=length.to(device),
        label=torch.tensor(labels).to(device),
        sample_id=torch.tensor(ids).to(device),
    )
