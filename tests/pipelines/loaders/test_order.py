"""The order of an epoch: permutations, windows, steps."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.loaders.order import by_shard, permutation, steps, windowed
from shards.errors import ConfigError

SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=12)


@settings(deadline=None)
@given(count=st.integers(0, 300), seed=st.integers(0, 2**40), epoch=st.integers(0, 1000))
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
    places = by_shard(sizes, shards)
    expected = [(shard, row) for shard in shards for row in range(sizes[shard])]
    assert list(zip(places.shard.tolist(), places.row.tolist(), strict=True)) == expected


@settings(deadline=None)
@given(sizes=SIZES, window=st.integers(1, 14), seed=st.integers(0, 1000), epoch=st.integers(0, 1000))
def test_a_windowed_order_holds_every_row_once_and_mixes_only_the_shards_of_a_window(
    sizes: list[int], window: int, seed: int, epoch: int
) -> None:
    places = windowed(sizes, window, seed=seed, epoch=epoch)
    found = list(zip(places.shard.tolist(), places.row.tolist(), strict=True))
    assert sorted(found) == [(shard, row) for shard in range(len(sizes)) for row in range(sizes[shard])]
    shards = permutation(len(sizes), seed=seed, epoch=epoch, name="shards").tolist()
    end = 0
    for first in range(0, len(sizes), window):
        inside = shards[first : first + window]
        begin, end = end, end + sum(sizes[shard] for shard in inside)
        assert {shard for shard, _ in found[begin:end]} == set(inside)


def test_samples_of_a_window_are_shuffled_across_its_shards() -> None:
    places = windowed([100] * 4, 4, seed=0, epoch=0)
    # within one shard after the other there would be 3 changes; 300 are expected of a full shuffle
    assert (np.diff(places.shard) != 0).sum() > 250
    assert (np.diff(places.row) < 0).sum() > 150


def test_windows_of_one_size_are_shuffled_differently() -> None:
    places = windowed([50] * 4, 1, seed=0, epoch=0)
    assert len({tuple(rows) for rows in places.row.reshape(4, 50).tolist()}) == 4


@settings(deadline=None)
@given(samples=st.integers(1, 500), batch_size=st.integers(1, 500))
def test_steps_cover_the_samples(samples: int, batch_size: int) -> None:
    assert steps(samples, batch_size, drop_last=False) == math.ceil(samples / batch_size)
    if samples >= batch_size:
        assert steps(samples, batch_size, drop_last=True) == samples // batch_size


def test_an_epoch_without_a_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match="46 samples for batches of 47, expected at least one whole batch"):
        steps(46, 47, drop_last=True)
    with pytest.raises(ConfigError, match="batch size 0, expected at least 1"):
        steps(46, 0, drop_last=False)
