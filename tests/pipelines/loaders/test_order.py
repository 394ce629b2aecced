"""The order of an epoch: permutations, windows, and what they are of (seed, epoch)."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.loaders.order import Order, Places, by_shard, permutation, windowed
from shards.errors import ConfigError

SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=12)

SEEDS = st.integers(0, 2**40)
EPOCHS = st.integers(0, 1000)


def _pairs(places: Places) -> list[tuple[int, int]]:
    return list(zip(places.shard.tolist(), places.row.tolist(), strict=True))


def _slow(sizes: list[int], window: int, seed: int, epoch: int) -> list[tuple[int, int]]:
    """The definition: all rows in the order of permuted shards, then each window of shards permuted."""
    shards = permutation(len(sizes), seed=seed, epoch=epoch, name="shards").tolist()
    order: list[tuple[int, int]] = []
    for number, at in enumerate(range(0, len(sizes), window)):
        rows = [(shard, row) for shard in shards[at : at + window] for row in range(sizes[shard])]
        chosen = permutation(len(rows), seed=seed, epoch=epoch, name=f"window {number}")
        order += [rows[place] for place in chosen.tolist()]
    return order


@settings(deadline=None)
@given(count=st.integers(0, 300), seed=SEEDS, epoch=EPOCHS)
def test_a_permutation_holds_every_number_once_and_is_reproduced_by_its_key(count: int, seed: int, epoch: int) -> None:
    order = permutation(count, seed=seed, epoch=epoch, name="samples")
    assert sorted(order.tolist()) == list(range(count))
    assert np.array_equal(order, permutation(count, seed=seed, epoch=epoch, name="samples"))


def test_permutations_differ_by_seed_epoch_and_name() -> None:
    orders = {
        tuple(permutation(50, seed=seed, epoch=epoch, name=name).tolist())
        for seed in (0, 1)
        for epoch in (0, 1)
        for name in ("samples", "shards")
    }
    assert len(orders) == 8


def test_every_number_comes_to_every_place_equally_often() -> None:
    orders = np.array([permutation(6, seed=0, epoch=epoch, name="samples") for epoch in range(3000)])
    for place in range(6):
        counts = np.bincount(orders[:, place], minlength=6)
        # 500 each are expected, standard deviation 20
        assert (abs(counts - 500) < 100).all()


@settings(deadline=None)
@given(sizes=SIZES, data=st.data())
def test_shards_in_a_given_order_are_read_row_by_row(sizes: list[int], data: st.DataObject) -> None:
    shards = data.draw(st.permutations(range(len(sizes))))
    expected = [(shard, row) for shard in shards for row in range(sizes[shard])]
    assert _pairs(by_shard(sizes, shards)) == expected


@settings(deadline=None)
@given(sizes=SIZES, window=st.integers(1, 14), seed=SEEDS, epoch=EPOCHS)
def test_a_windowed_order_holds_every_row_once_and_mixes_only_the_shards_of_a_window(
    sizes: list[int], window: int, seed: int, epoch: int
) -> None:
    found = _pairs(windowed(sizes, window, seed=seed, epoch=epoch))
    assert sorted(found) == [(shard, row) for shard in range(len(sizes)) for row in range(sizes[shard])]
    shards = permutation(len(sizes), seed=seed, epoch=epoch, name="shards").tolist()
    end = 0
    for first in range(0, len(sizes), window):
        inside = shards[first : first + window]
        begin, end = end, end + sum(sizes[shard] for shard in inside)
        assert {shard for shard, _ in found[begin:end]} == set(inside)


@settings(deadline=None)
@given(sizes=SIZES, window=st.integers(1, 14), seed=SEEDS, epoch=EPOCHS, data=st.data())
def test_any_part_of_a_windowed_order_is_that_part_of_the_whole(
    sizes: list[int], window: int, seed: int, epoch: int, data: st.DataObject
) -> None:
    first = data.draw(st.integers(0, sum(sizes) - 1))
    stop = data.draw(st.integers(first + 1, sum(sizes)))
    whole = _slow(sizes, window, seed, epoch)
    assert _pairs(windowed(sizes, window, seed=seed, epoch=epoch, first=first, stop=stop)) == whole[first:stop]


def test_samples_of_a_window_are_shuffled_across_its_shards() -> None:
    places = windowed([100] * 4, 4, seed=0, epoch=0)
    # within one shard after the other there would be 3 changes; 300 are expected of a full shuffle
    assert (np.diff(places.shard) != 0).sum() > 250
    assert (np.diff(places.row) < 0).sum() > 150


def test_windows_of_one_size_are_shuffled_differently() -> None:
    places = windowed([50] * 4, 1, seed=0, epoch=0)
    assert len({tuple(rows) for rows in places.row.reshape(4, 50).tolist()}) == 4


def test_the_order_of_a_seed_and_an_epoch_never_changes() -> None:
    # a run must go on, after years, in the order in which it began
    expected = [(0, 1), (1, 3), (0, 2), (1, 0), (1, 2), (0, 0), (1, 1)]
    assert _pairs(Order([[3, 4]], seed=7).epoch(2)) == expected


@settings(deadline=None)
@given(sizes=SIZES, window=st.integers(0, 14), seed=SEEDS, epoch=EPOCHS)
def test_the_order_of_one_source_is_the_windowed_one(sizes: list[int], window: int, seed: int, epoch: int) -> None:
    order = Order([sizes], window=window, seed=seed)
    assert order.samples == sum(sizes)
    assert _pairs(order.epoch(epoch)) == _slow(sizes, window or len(sizes), seed, epoch)


@settings(deadline=None)
@given(sizes=SIZES, window=st.integers(0, 14), seed=SEEDS, epoch=EPOCHS, shuffle=st.booleans(), data=st.data())
def test_the_order_of_some_rows_is_that_of_as_many_samples_by_the_rows_they_stand_in(
    sizes: list[int], window: int, seed: int, epoch: int, shuffle: bool, data: st.DataObject
) -> None:
    rows = [sorted(data.draw(st.sets(st.integers(0, 500), min_size=size, max_size=size))) for size in sizes]
    expected = _slow(sizes, window or len(sizes), seed, epoch)
    if not shuffle:
        expected = [(shard, row) for shard, size in enumerate(sizes) for row in range(size)]
    order = Order([sizes], window=window, seed=seed, shuffle=shuffle, rows=rows)
    assert _pairs(order.epoch(epoch)) == [(shard, rows[shard][row]) for shard, row in expected]


def test_rows_belong_to_the_shards_of_all_sources() -> None:
    order = Order([[2], [1, 1]], seed=0, shuffle=False, rows=[[4, 7], [5], [0]])
    assert _pairs(order.epoch(0)) == [(0, 4), (0, 7), (1, 5), (2, 0)]


def test_the_order_is_reproduced_by_seed_and_epoch_and_changes_with_either() -> None:
    def order(seed: int, epoch: int) -> list[tuple[int, int]]:
        return _pairs(Order([[20, 30, 10]], seed=seed).epoch(epoch))

    assert order(3, 5) == order(3, 5)
    assert len({tuple(order(seed, epoch)) for seed in range(4) for epoch in range(4)}) == 16


def test_without_shuffling_every_epoch_goes_shard_by_shard() -> None:
    order = Order([[2, 3]], seed=0, shuffle=False)
    assert _pairs(order.epoch(0)) == _pairs(order.epoch(9)) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]


def test_places_have_a_length_and_are_taken_by_slices_and_by_numbers() -> None:
    places = by_shard([2, 3], [1, 0])
    numbers: npt.NDArray[np.int64] = np.array([4, 0])
    assert len(places) == 5
    assert _pairs(places[1:3]) == [(1, 1), (1, 2)]
    assert _pairs(places[numbers]) == [(0, 1), (1, 0)]


def test_an_order_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="found a window of -1 shards, expected 1 or more, or 0 for all"):
        Order([[3]], window=-1, seed=0)
    empty: list[list[list[int]]] = [[], [[]], [[3], []], [[0]]]
    for sizes in empty:
        with pytest.raises(ConfigError, match="found an empty split, expected at least one sample of each source"):
            Order(sizes, seed=0)
