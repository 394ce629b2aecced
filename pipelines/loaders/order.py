"""Order is arithmetic: the order of an epoch is a pure function of (seed, epoch), and position is the whole state."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pipelines.augmentations.draws import uniform
from pipelines.views import Block
from shards.errors import ConfigError

WINDOW = 16
"""Shards shuffled together."""

Numbers = npt.NDArray[np.int64]


def permutation(count: int, *, seed: int, epoch: int, name: str) -> Numbers:
    """A random order of 0..count-1; `name` keeps the permutations of an epoch independent."""
    draws = uniform(seed, epoch, torch.arange(count), "order", name, 1)[:, 0]
    return np.asarray(torch.argsort(draws, stable=True).numpy(), dtype=np.int64)


@dataclass(frozen=True)
class Places:
    """Where samples lie, in the order in which they are wanted: number of the shard and row in it, both (n,)."""

    shard: Numbers
    row: Numbers

    def __len__(self) -> int:
        return len(self.shard)

    def __getitem__(self, part: slice | Numbers) -> "Places":
        return Places(self.shard[part], self.row[part])


def by_shard(sizes: Sequence[int], shards: Sequence[int] | Numbers) -> Places:
    """Shard after shard, each row by row; `sizes` are the samples of each shard."""
    numbers = np.asarray(shards, dtype=np.int64)
    counts = np.asarray(sizes, dtype=np.int64)[numbers]
    first = np.repeat(np.cumsum(counts) - counts, counts)
    return Places(np.repeat(numbers, counts), np.arange(len(first), dtype=np.int64) - first)


def windowed(
    sizes: Sequence[int],
    window: int,
    *,
    seed: int,
    epoch: int,
    name: str = "",
    first: int = 0,
    stop: int | None = None,
) -> Places:
    """A random order that reads few shards at a time: shards permuted, then samples shuffled among `window` shards.

    Args:
        sizes: samples of each shard.
        window: shards; 0 for all of them.
        seed, epoch: of the order.
        name: keeps the orders of several sources independent.
        first, stop: only this part of the order; windows outside it are not drawn.
    """
    shards = permutation(len(sizes), seed=seed, epoch=epoch, name=f"{name}shards")
    ends = np.cumsum(np.asarray(sizes, dtype=np.int64)[shards])
    stop, window = int(ends[-1]) if stop is None else stop, window or len(sizes)
    parts: list[Places] = []
    begin = 0
    for number, at in enumerate(range(0, len(sizes), window)):
        inside = shards[at : at + window]
        end = int(ends[at + len(inside) - 1])
        if first < end and begin < stop:
            rows = permutation(end - begin, seed=seed, epoch=epoch, name=f"{name}window {number}")
            parts.append(by_shard(sizes, inside)[rows[max(first - begin, 0) : stop - begin]])
        begin = end
    return _joined(parts)


class Order:
    """The order of one source, or of several as one stream; see `epoch`.

    Args:
        sizes: of each source, the samples of each of its shards; shards are numbered through all sources.
        counts: samples of each source that an epoch takes; by default all, once.
        window: shards of a source shuffled together; 0 for all of them.
        seed: of the run.
        shuffle: False takes source after source, shard by shard.
        rows: in which the samples of each shard stand, shards through all sources; None where they are 0, 1, 2, ...

    Raises:
        ConfigError: no sample, or a negative window.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[int]],
        counts: Sequence[int] | None = None,
        *,
        window: int = WINDOW,
        seed: int,
        shuffle: bool = True,
        rows: Sequence[Sequence[int]] | None = None,
    ) -> None:
        if window < 0:
            raise ConfigError(f"found a window of {window} shards, expected 1 or more, or 0 for all")
        if not all(sum(source) for source in sizes) or not sizes:
            raise ConfigError("found an empty split, expected at least one sample of each source")
        self._sizes = [tuple(source) for source in sizes]
        self._counts = [sum(source) for source in sizes] if counts is None else list(counts)
        self._window, self._seed, self._shuffle = window, seed, shuffle
        self._rows: Numbers | None = None
        if rows is not None:
            lengths = [size for source in self._sizes for size in source]
            assert lengths == [len(of_shard) for of_shard in rows], f"{lengths} samples in {rows}"
            self._first = np.cumsum([0, *lengths])
            self._rows = np.concatenate([np.asarray(of_shard, dtype=np.int64) for of_shard in rows])

    @property
    def samples(self) -> int:
        """Of an epoch, of all ranks together."""
        return sum(self._counts)

    def epoch(self, epoch: int) -> Places:
        """All samples of an epoch, a pure function of (seed, epoch).

        The epochs of a source, each in its own order, make one endless sequence. Sample k that epoch e takes of it is
        its element e * count + k: so each sample is taken equally often, up to one. A permutation says which source
        comes when; each keeps its own order, so that no more shards are open than a window has, for each source.
        """
        places = self._places(epoch)
        if self._rows is None:
            return places
        return Places(places.shard, self._rows[self._first[places.shard] + places.row])

    def _places(self, epoch: int) -> Places:
        """The same, rows counted among the samples that are taken of a shard."""
        taken = _joined([self._take(number, epoch) for number in range(len(self._sizes))])
        if len(self._sizes) == 1 or not self._shuffle:
            return taken
        slots = permutation(self.samples, seed=self._seed, epoch=epoch, name="sources")
        source = np.repeat(np.arange(len(self._counts)), self._counts)[slots]
        turn = np.empty(self.samples, dtype=np.int64)
        turn[np.argsort(source, kind="stable")] = np.arange(self.samples)
        return taken[turn]

    def _take(self, number: int, epoch: int) -> Places:
        """What an epoch takes of a source, in the source's order."""
        size, count = sum(self._sizes[number]), self._counts[number]
        at, stop = epoch * count, (epoch + 1) * count
        parts: list[Places] = []
        while at < stop:
            own_epoch, first = divmod(at, size)
            parts.append(self._part(number, own_epoch, first, min(size, first + stop - at)))
            at += len(parts[-1])
        taken = _joined(parts)
        shards_before = sum(len(sizes) for sizes in self._sizes[:number])
        return Places(taken.shard + shards_before, taken.row)

    def _part(self, number: int, epoch: int, first: int, stop: int) -> Places:
        """Positions first..stop-1 of one epoch of a source."""
        sizes = self._sizes[number]
        if not self._shuffle:
            return by_shard(sizes, range(len(sizes)))[first:stop]
        # the first source has the order that it has alone
        name = f"source {number} " if number else ""
        return windowed(sizes, self._window, seed=self._seed, epoch=epoch, name=name, first=first, stop=stop)


def _joined(parts: Sequence[Places]) -> Places:
    return Places(np.concatenate([part.shard for part in parts]), np.concatenate([part.row for part in parts]))


class Partition:
    """The global batches of an epoch, and the block of each that a rank takes.

    Blocks are contiguous, so that what the ranks gather in their order is the global batch. All ranks have the same
    number of steps, and at least one row in each. A position (epoch, step) means the same for any number of ranks with
    the same global batch; without `drop_last`, up to the last whole batch, which a short rest may have joined.

    Args:
        samples: of an epoch.
        batch_size: of the global batch.
        rank, world: whose blocks; `world` ranks count from 0.
        drop_last: leave out a last batch that is not full. Otherwise it is spread as evenly as can be, or joins the
            batch before it where it has fewer rows than there are ranks.

    Raises:
        ConfigError: no sample; more ranks than samples or than rows of a batch; under `drop_last` no whole batch, or
            one that the ranks cannot share evenly; a rank that is not one of 0..world-1.
    """

    def __init__(self, samples: int, batch_size: int, *, rank: int = 0, world: int = 1, drop_last: bool = True) -> None:
        _check(samples, batch_size, rank, world, drop_last)
        self._batch_size, self._rank, self._world = batch_size, rank, world
        whole, rest = divmod(samples, batch_size)
        joins = whole > 0 and rest < world
        self._steps = whole + (0 if drop_last or joins else 1)
        self._last = batch_size if drop_last else samples - (self._steps - 1) * batch_size

    @property
    def steps(self) -> int:
        """Global batches of an epoch."""
        return self._steps

    def first(self, step: int) -> int:
        """Position of a global batch in the order of the epoch."""
        return step * self._batch_size

    def block(self, step: int) -> Block:
        """The rank's rows of a global batch."""
        assert 0 <= step < self._steps, f"step {step} of {self._steps}"
        total = self._last if step == self._steps - 1 else self._batch_size
        return Block(total * self._rank // self._world, total * (self._rank + 1) // self._world, total)


def _check(samples: int, batch_size: int, rank: int, world: int, drop_last: bool) -> None:
    if batch_size < 1:
        raise ConfigError(f"found batch size {batch_size}, expected at least 1")
    if world < 1 or not 0 <= rank < world:
        raise ConfigError(f"found rank {rank} of {world} ranks, expected one of 0 to {max(world, 1) - 1}")
    if samples < 1:
        raise ConfigError("found an empty split, expected at least one sample")
    if world > samples:
        raise ConfigError(f"found {world} ranks for {samples} samples, expected at most as many ranks as samples")
    if batch_size < world:
        raise ConfigError(f"found batch size {batch_size} for {world} ranks, expected at least one sample a rank")
    if not drop_last:
        return
    if samples < batch_size:
        raise ConfigError(f"found {samples} samples for batches of {batch_size}, expected at least one whole batch")
    if batch_size % world:
        lower = batch_size - batch_size % world
        nearest = " or ".join(str(size) for size in (lower, lower + world) if size <= samples)
        raise ConfigError(
            f"found batch size {batch_size} for {world} ranks, expected a multiple of {world}: {nearest} is nearest"
        )
