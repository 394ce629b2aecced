"""Loaders: one interface, whatever holds the samples."""

from collections.abc import Iterator
from typing import Protocol

from shards.batch import RaggedBatch


class Loader(Protocol):
    """The samples of one side of a protocol, batch by batch; each exactly once an epoch."""

    @property
    def num_samples(self) -> int:
        """Samples in the split."""
        ...

    def __len__(self) -> int:
        """Batches in an epoch."""
        ...

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[RaggedBatch]:
        """The batches of `epoch` (from 0) from `first_step` on; equal to skipping that many batches."""
        ...
