"""The one loader: an order, a rank's part of it, an engine that holds or reads samples, and the views made of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipelines.loaders.order import Order, Partition, Places
from pipelines.loaders.prefetch import ahead
from pipelines.views import Block, make_views, needed_rows
from pipelines.views.spec import ViewSpec
from shards.batch import RaggedBatch, Views
from shards.errors import ConfigError

PREFETCH = 4
"""Batches ready ahead of the consumer, at most, where workers make them."""


class Samples(Protocol):
    """Where an engine has its samples. Methods may be called from several threads at once."""

    def batch(self, places: Places) -> RaggedBatch:
        """These samples, in this order, on the engine's device; a pure function of `places`."""
        ...

    def announce(self, places: Places) -> None:
        """All places that an epoch is about to ask for, in this order, so that they can be fetched ahead."""
        ...

    def close(self) -> None:
        """Give back what is held: threads, temporary files."""
        ...


class Engine(Protocol):
    """What turns places of an epoch into views. Methods may be called from several threads at once."""

    def views(self, places: Places, block: Block, epoch: int, step: int) -> Views:
        """The views of the samples at `places`, which are those of `needed_rows`; a pure function of the arguments."""
        ...

    def announce(self, places: Places) -> None:
        """As of `Samples`."""
        ...

    def close(self) -> None:
        """As of `Samples`."""
        ...


@dataclass(frozen=True)
class TorchEngine:
    """Views made by torch and our kernels from samples that are resident or streamed."""

    samples: Samples
    spec: ViewSpec
    seed: int

    def views(self, places: Places, block: Block, epoch: int, step: int) -> Views:
        batch = self.samples.batch(places)
        return make_views(batch, self.spec, seed=self.seed, epoch=epoch, step=step, block=block)

    def announce(self, places: Places) -> None:
        self.samples.announce(places)

    def close(self) -> None:
        self.samples.close()


class ViewLoader:
    """`shards.batch.EpochViews` of one side of a protocol, or of a mixture, as one rank sees them.

    Every step is a pure function of (seed, epoch, step) and of the rank's place in the world; so position is the whole
    state, workers make steps independently, and another engine or number of ranks goes on exactly where one stopped.

    Args:
        engine: resident, stream or dali.
        order: of the samples.
        partition: of each global batch among the ranks.
        spec: the views, as the engine makes them.
        seed: of the views.
        workers: threads that make steps ahead; 0 makes each when it is asked for.
        about: which engine it is and why, for whoever asks.
    """

    def __init__(
        self,
        engine: Engine,
        order: Order,
        partition: Partition,
        spec: ViewSpec,
        *,
        seed: int,
        workers: int = 0,
        about: str = "",
    ) -> None:
        if workers < 0:
            raise ConfigError(f"found {workers} workers, expected 0 or more")
        self._engine, self._order, self._partition = engine, order, partition
        self._spec, self._seed, self._workers = spec, seed, workers
        self.about = about

    @property
    def num_samples(self) -> int:
        """Samples of an epoch, of all ranks together."""
        return self._order.samples

    def __len__(self) -> int:
        return self._partition.steps

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Views]:
        """The views of each step of an epoch from `first_step` on."""
        order = self._order.epoch(epoch)
        steps = range(first_step, len(self))
        self._engine.announce(order[self._rows(epoch, steps)])

        def make(step: int) -> Views:
            places = order[self._rows(epoch, range(step, step + 1))]
            return self._engine.views(places, self._partition.block(step), epoch, step)

        return ahead(make, steps, workers=self._workers, depth=PREFETCH)

    def close(self) -> None:
        """Give back what the engine holds."""
        self._engine.close()

    def _rows(self, epoch: int, steps: range) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Positions in the order of the epoch that this rank needs for these steps."""
        rows = [
            self._partition.first(step)
            + np.array(
                needed_rows(self._spec, self._partition.block(step), seed=self._seed, epoch=epoch, step=step),
                dtype=np.int64,
            )
            for step in steps
        ]
        return np.concatenate(rows) if rows else np.empty(0, dtype=np.int64)
