"""How ranks share an epoch: each sample once, the same number of steps, and an exact way on from any step."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipelines.loaders.order import Order, Partition
from shards.errors import ConfigError

WORLDS = st.integers(1, 8)
SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=8)


def _ranks(samples: int, batch_size: int, world: int, drop_last: bool) -> list[Partition]:
    return [Partition(samples, batch_size, rank=rank, world=world, drop_last=drop_last) for rank in range(world)]


def _stream(order: Order, epoch: int, ranks: list[Partition], steps: range) -> list[list[tuple[int, int]]]:
    """The global batch of each step, as the ranks' blocks one behind another."""
    places = order.epoch(epoch)
    batches = []
    for step in steps:
        batch: list[tuple[int, int]] = []
        for rank in ranks:
            block = rank.block(step)
            part = places[rank.first(step) + np.arange(block.first, block.stop)]
            batch += zip(part.shard.tolist(), part.row.tolist(), strict=True)
        batches.append(batch)
    return batches


@settings(deadline=None, max_examples=300)
@given(
    samples=st.integers(1, 300),
    batch_size=st.integers(1, 64),
    world=WORLDS,
    drop_last=st.booleans(),
)
def test_the_blocks_of_all_ranks_cover_every_step_in_order_and_none_is_empty(
    samples: int, batch_size: int, world: int, drop_last: bool
) -> None:
    assume(world <= min(samples, batch_size))
    assume(not drop_last or (batch_size % world == 0 and batch_size <= samples))
    ranks = _ranks(samples, batch_size, world, drop_last)
    assert len({rank.steps for rank in ranks}) == 1
    seen: list[int] = []
    for step in range(ranks[0].steps):
        blocks = [rank.block(step) for rank in ranks]
        lengths = [len(block) for block in blocks]
        assert len({block.total for block in blocks}) == 1
        assert sum(lengths) == blocks[0].total
        assert max(lengths) - min(lengths) <= 1 <= min(lengths)
        seen += [ranks[0].first(step) + row for block in blocks for row in range(block.first, block.stop)]
    whole = samples // batch_size
    assert seen == list(range(whole * batch_size if drop_last else samples))
    assert ranks[0].steps - whole in ((0,) if drop_last else (0, 1))


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(20, 60), min_size=4, max_size=8),
    worlds=st.tuples(WORLDS, WORLDS),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_a_run_that_is_killed_again_and_again_and_goes_on_with_other_ranks_sees_what_an_undisturbed_one_sees(
    sizes: list[int], worlds: tuple[int, int], seed: int, data: st.DataObject
) -> None:
    batch_size = data.draw(st.integers(1, 80 // math.lcm(*worlds))) * math.lcm(*worlds)
    order = Order([sizes], window=3, seed=seed)
    steps = order.samples // batch_size
    alone = _ranks(order.samples, batch_size, 1, drop_last=True)
    undisturbed = [b for epoch in range(3) for b in _stream(order, epoch, alone, range(steps))]
    found: list[list[tuple[int, int]]] = []
    while len(found) < len(undisturbed):
        ranks = _ranks(order.samples, batch_size, data.draw(st.sampled_from(worlds)), drop_last=True)
        epoch, step = divmod(len(found), steps)
        kill = data.draw(st.integers(step + 1, steps))
        found += _stream(Order([sizes], window=3, seed=seed), epoch, ranks, range(step, kill))
    assert found == undisturbed


@settings(deadline=None)
@given(sizes=SIZES, batch_size=st.integers(1, 50), world=WORLDS, data=st.data())
def test_without_drop_last_any_number_of_ranks_sees_each_sample_once_in_one_order(
    sizes: list[int], batch_size: int, world: int, data: st.DataObject
) -> None:
    assume(world <= min(sum(sizes), batch_size))
    order = Order([sizes], seed=1)
    places = order.epoch(4)
    ranks = _ranks(order.samples, batch_size, world, drop_last=False)
    first = data.draw(st.integers(0, ranks[0].steps - 1))
    found = [pair for batch in _stream(order, 4, ranks, range(first, ranks[0].steps)) for pair in batch]
    everything = list(zip(places.shard.tolist(), places.row.tolist(), strict=True))
    assert found == everything[first * batch_size :]
    assert sorted(everything) == [(shard, row) for shard, size in enumerate(sizes) for row in range(size)]


def test_the_last_batch_is_spread_evenly_over_the_ranks() -> None:
    ranks = _ranks(19, 8, 2, drop_last=False)
    assert [rank.steps for rank in ranks] == [3, 3]
    assert [(rank.block(2).first, rank.block(2).stop, rank.block(2).total) for rank in ranks] == [(0, 1, 3), (1, 3, 3)]


def test_a_rest_that_does_not_reach_all_ranks_joins_the_batch_before_it() -> None:
    ranks = _ranks(19, 8, 4, drop_last=False)
    assert [rank.steps for rank in ranks] == [2] * 4
    assert [len(rank.block(0)) for rank in ranks] == [2] * 4
    assert [len(rank.block(1)) for rank in ranks] == [2, 3, 3, 3]
    assert ranks[0].block(1).total == 11


def test_fewer_samples_than_a_batch_are_one_step_unless_they_are_dropped() -> None:
    assert Partition(5, 8, drop_last=False).steps == 1
    assert Partition(5, 8, drop_last=False).block(0).total == 5


@pytest.mark.parametrize(
    ("samples", "batch_size", "rank", "world", "drop_last", "message"),
    [
        (46, 0, 0, 1, False, "found batch size 0, expected at least 1"),
        (46, -3, 0, 1, True, "found batch size -3, expected at least 1"),
        (46, 8, 2, 2, True, "found rank 2 of 2 ranks, expected one of 0 to 1"),
        (46, 8, -1, 2, True, "found rank -1 of 2 ranks, expected one of 0 to 1"),
        (46, 8, 0, 0, True, "found rank 0 of 0 ranks, expected one of 0 to 0"),
        (0, 8, 0, 1, False, "found an empty split, expected at least one sample"),
        (5, 8, 0, 8, False, "found 8 ranks for 5 samples, expected at most as many ranks as samples"),
        (46, 3, 0, 4, False, "found batch size 3 for 4 ranks, expected at least one sample a rank"),
        (46, 3, 0, 4, True, "found batch size 3 for 4 ranks, expected at least one sample a rank"),
        (46, 47, 0, 1, True, "found 46 samples for batches of 47, expected at least one whole batch"),
        (46, 10, 0, 4, True, "found batch size 10 for 4 ranks, expected a multiple of 4: 8 or 12 is nearest"),
        (46, 46, 0, 4, True, "found batch size 46 for 4 ranks, expected a multiple of 4: 44 is nearest"),
    ],
)
def test_what_cannot_be_shared_is_refused(
    samples: int, batch_size: int, rank: int, world: int, drop_last: bool, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Partition(samples, batch_size, rank=rank, world=world, drop_last=drop_last)
