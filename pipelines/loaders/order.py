"""Order is arithmetic: the order of an epoch is a pure function of (seed, epoch), and position is the whole state."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pipelines.augmentations.draws import uniform
from shards.errors import ConfigError


def permutation(count: int, *, seed: int, epoch: int, name: str) -> npt.NDArray[np.int64]:
    """A random order of 0..count-1; `name` keeps the permutations of an epoch independent."""
    draws = uniform(seed, epoch, torch.arange(count), "order", name, 1)[:, 0]
    return np.asarray(torch.argsort(draws, stable=True).numpy(), dtype=np.int64)


@dataclass(frozen=True)
class Places:
    """Where the samples of an epoch lie, in the order of the epoch: number of the shard and row in it, both (n,)."""

    shard: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]

    def __getitem__(self, part: slice | npt.NDArray[np.int64]) -> "Places":
        return Places(self.shard[part], self.row[part])


def by_shard(sizes: Sequence[int], shards: Sequence[int] | npt.NDArray[np.int64]) -> Places:
    """Shard after shard, each row by row; `sizes` are the samples of each shard."""
    rows = [np.arange(sizes[number], dtype=np.int64) for number in shards]
    return Places(np.repeat(np.asarray(shards, dtype=np.int64), [len(r) for r in rows]), np.concatenate(rows))


def windowed(sizes: Sequence[int], window: int, *, seed: int, epoch: int) -> Places:
    """A random order that reads few shards at a time: shards permuted, then samples shuffled among `window` shards."""
    shards = permutation(len(sizes), seed=seed, epoch=epoch, name="shards")
    order: list[npt.NDArray[np.int64]] = []
    end = 0
    for number, first in enumerate(range(0, len(sizes), window)):
        count = sum(sizes[shard] for shard in shards[first : first + window])
        order.append(end + permutation(count, seed=seed, epoch=epoch, name=f"window {number}"))
        end += count
    return by_shard(sizes, shards)[np.concatenate(order)]


def steps(samples: int, batch_size: int, drop_last: bool) -> int:
    """Batches in an epoch.

    Raises:
        ConfigError: a batch size below 1, or an epoch without a batch.
    """
    if batch_size < 1:
        raise ConfigError(f"found batch size {batch_size}, expected at least 1")
    count = samples // batch_size if drop_last else -(-samples // batch_size)
    if count == 0:
        raise ConfigError(f"found {samples} samples for batches of {batch_size}, expected at least one whole batch")
    return count
