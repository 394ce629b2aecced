"""Order is arithmetic: the order of an epoch is a pure function of (seed, epoch), and position is the whole state."""

import numpy as np
import numpy.typing as npt
import torch

from pipelines.augmentations.draws import uniform
from shards.errors import ConfigError


def permutation(count: int, *, seed: int, epoch: int, name: str) -> npt.NDArray[np.int64]:
    """A random order of 0..count-1; `name` keeps the permutations of an epoch independent."""
    draws = uniform(seed, epoch, torch.arange(count), "order", name, 1)[:, 0]
    return np.asarray(torch.argsort(draws, stable=True).numpy(), dtype=np.int64)


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
