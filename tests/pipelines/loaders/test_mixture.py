"""Several sources as one stream: how often each sample comes, where, under which label and id."""

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.loaders.mixture import Part, mix_parts
from pipelines.loaders.order import Order, Places
from pipelines.loaders.split import SOURCE_BIT, Item, Split, open_split
from shards.errors import ConfigError

relaxed = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])

SOURCES = st.lists(
    st.tuples(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 40)), min_size=1, max_size=4
)


def _pairs(places: Places) -> list[tuple[int, int]]:
    return list(zip(places.shard.tolist(), places.row.tolist(), strict=True))


def _items(split: Split) -> dict[tuple[int, int], Item]:
    return {
        (number, row): item
        for number, shard in enumerate(split.shards)
        for row, item in enumerate(split.read(number, range(shard.entry.samples), split.index(number)))
    }


@pytest.fixture
def ntu(folder: Path) -> Split:
    return open_split(folder, "ntu60", "xsub", "train")


@pytest.fixture
def pku(other: Path) -> Split:
    return open_split(other, "pkummd1", "xsub", "train")


@settings(deadline=None, max_examples=200)
@given(sources=SOURCES, window=st.integers(0, 5), seed=st.integers(0, 2**40), epochs=st.integers(1, 6))
def test_every_sample_of_a_source_is_taken_equally_often_up_to_one(
    sources: list[tuple[list[int], int]], window: int, seed: int, epochs: int
) -> None:
    sizes, counts = [source[0] for source in sources], [source[1] for source in sources]
    order = Order(sizes, counts, window=window, seed=seed)
    assert order.samples == sum(counts)
    seen: Counter[tuple[int, int]] = Counter()
    for epoch in range(epochs):
        places = _pairs(order.epoch(epoch))
        assert len(places) == order.samples
        seen.update(places)
        first = 0
        for number, source in enumerate(sizes):
            taken = [seen[first + shard, row] for shard, size in enumerate(source) for row in range(size)]
            whole, rest = divmod((epoch + 1) * counts[number], sum(source))
            assert Counter(taken) == Counter({whole + 1: rest, whole: sum(source) - rest}) - Counter()
            first += len(source)


@settings(deadline=None, max_examples=50)
@given(sources=SOURCES, window=st.integers(0, 5), seed=st.integers(0, 2**40), epoch=st.integers(0, 5))
def test_an_epoch_takes_the_next_samples_of_the_endless_sequence_of_each_source(
    sources: list[tuple[list[int], int]], window: int, seed: int, epoch: int
) -> None:
    sizes, counts = [source[0] for source in sources], [source[1] for source in sources]
    places = _pairs(Order(sizes, counts, window=window, seed=seed).epoch(epoch))
    once = Order(sizes, window=window, seed=seed)
    first = 0
    for source, count in zip(sizes, counts, strict=True):
        inside = range(first, first + len(source))
        needed = math.ceil((epoch + 1) * count / sum(source))
        endless = [pair for own in range(needed) for pair in _pairs(once.epoch(own)) if pair[0] in inside]
        found = [pair for pair in places if pair[0] in inside]
        assert found == endless[epoch * count : (epoch + 1) * count]
        first += len(source)


def test_sources_are_spread_evenly_over_an_epoch() -> None:
    order = Order([[100] * 8, [50] * 4], window=2, seed=0)
    first = np.concatenate([order.epoch(epoch).shard < 8 for epoch in range(20)])
    # 80 of 100 places are the first source's, with a standard deviation of 4
    assert (abs(first.reshape(-1, 100).sum(1) - 80) < 20).all()
    assert len({tuple(row) for row in first.reshape(20, -1).tolist()}) == 20


def test_sources_of_equal_shards_have_orders_of_their_own() -> None:
    places = Order([[20, 20], [20, 20]], seed=0).epoch(0)
    first, second = (places[np.flatnonzero((places.shard >= 2) == which)] for which in (False, True))
    assert _pairs(first) != _pairs(Places(second.shard - 2, second.row))


def test_only_the_shards_of_a_window_of_each_source_are_open_at_a_time() -> None:
    order = Order([[10] * 12, [10] * 6], window=3, seed=5)
    shards = order.epoch(1).shard
    for source in (shards[shards < 12], shards[shards >= 12]):
        for window in source.reshape(-1, 30):
            assert len(set(window.tolist())) == 3


def test_without_shuffling_source_comes_after_source() -> None:
    order = Order([[2], [1, 1]], [1, 2], seed=0, shuffle=False)
    assert _pairs(order.epoch(0)) == [(0, 0), (1, 0), (2, 0)]
    assert _pairs(order.epoch(1)) == [(0, 1), (1, 0), (2, 0)]


@relaxed
@given(seed=st.integers(0, 2**40), epoch=st.integers(0, 100), window=st.integers(0, 8))
def test_a_mixture_of_one_is_that_one(ntu: Split, seed: int, epoch: int, window: int) -> None:
    alone = mix_parts([Part(ntu)])
    assert alone == ntu
    order = alone.order(window=window, seed=seed)
    assert _pairs(order.epoch(epoch)) == _pairs(ntu.order(window=window, seed=seed).epoch(epoch))


@relaxed
@given(weight=st.floats(0.01, 3), samples=st.integers(1, 200))
def test_weights_and_counts_say_how_many_samples_an_epoch_takes(
    ntu: Split, pku: Split, weight: float, samples: int
) -> None:
    split = mix_parts([Part(ntu, weight=weight), Part(pku, samples=samples)])
    epoch = split.order(seed=0).epoch(3)
    assert split.num_samples == 46 + 17
    assert int((epoch.shard < 7).sum()) == max(1, math.floor(46 * weight + 0.5))
    assert int((epoch.shard >= 7).sum()) == samples


def test_half_a_source_is_followed_by_its_other_half(ntu: Split, pku: Split) -> None:
    order = mix_parts([Part(ntu, weight=0.5), Part(pku)]).order(seed=3)
    halves = [[pair for pair in _pairs(order.epoch(epoch)) if pair[0] < 7] for epoch in (0, 1)]
    assert [len(half) for half in halves] == [23, 23]
    assert len({*halves[0], *halves[1]}) == 46


def test_samples_keep_their_frames_and_tell_their_source(
    ntu: Split, pku: Split, frames_of: Callable[[int], npt.NDArray[np.float32]]
) -> None:
    split = mix_parts([Part(ntu), Part(pku)])
    items = _items(split)
    assert len({item.sample_id for item in items.values()}) == 63
    assert {item.sample_id >> SOURCE_BIT for item in items.values()} == {0, 1}
    for (shard, _), item in items.items():
        source, index = divmod(item.sample_id, 1 << SOURCE_BIT)
        assert source == split.shards[shard].source == (shard >= 7)
        assert np.array_equal(item.frames, frames_of(index))
    first = {place: item.sample_id for place, item in _items(ntu).items()}
    assert {place: items[place].sample_id for place in first} == first


@pytest.mark.parametrize(("classes", "labels"), [(None, range(60, 111)), (tuple(range(50, -1, -1)), range(50, -1, -1))])
def test_labels_stand_behind_those_of_the_sources_before_unless_they_are_mapped(
    ntu: Split, pku: Split, classes: tuple[int, ...] | None, labels: range
) -> None:
    for item in _items(mix_parts([Part(ntu), Part(pku, classes=classes)])).values():
        source, index = divmod(item.sample_id, 1 << SOURCE_BIT)
        assert item.label == (labels[index] if source else index % 60)


def test_labels_go_up_to_the_largest_of_any_source(ntu: Split, pku: Split) -> None:
    assert mix_parts([Part(ntu), Part(pku)]).num_classes == 111
    assert mix_parts([Part(pku), Part(ntu)]).num_classes == 111
    assert mix_parts([Part(ntu), Part(pku, classes=(0,) * 51)]).num_classes == 60
    assert mix_parts([Part(ntu, classes=(3,) * 60), Part(pku)]).num_classes == 4 + 51
    assert ntu.num_classes == 60


def test_two_selections_of_one_source_share_their_labels(
    folder: Path, pku: Split, write_folder: Callable[..., Path], tmp_path: Path
) -> None:
    train, test = (open_split(folder, "ntu60", "xsub", side) for side in ("train", "test"))
    larger = open_split(write_folder(tmp_path, fingerprint="2" * 12), "ntu120", "xset", "train")
    split = mix_parts([Part(train), Part(pku), Part(test), Part(larger)])
    assert [source.classes[0] for source in split.sources] == [0, 120, 0, 0]
    assert split.num_classes == 171


def test_frames_are_widened_unless_all_sources_are_half_precision(
    ntu: Split, write_other: Callable[..., Path], write_folder: Callable[..., Path], tmp_path: Path
) -> None:
    half = open_split(write_other(tmp_path / "pku", dtype="float16"), "pkummd1", "xsub", "train")
    halves = open_split(write_folder(tmp_path / "ntu", dtype="float16"), "ntu60", "xsub", "train")
    both = mix_parts([Part(ntu), Part(half)])
    assert both.dtype == np.float32
    assert {item.frames.dtype for item in _items(both).values()} == {np.dtype(np.float32)}
    assert np.array_equal(_items(both)[7, 2].frames, _items(half)[0, 2].frames.astype(np.float32))
    assert mix_parts([Part(halves), Part(half)]).dtype == np.float16


def test_sources_of_different_recipes_are_refused(ntu: Split, write_other: Callable[..., Path], tmp_path: Path) -> None:
    other = open_split(write_other(tmp_path, recipe="ctrgcn"), "pkummd1", "xsub", "train")
    message = "pkummd1 xsub train: found data of the recipe ctrgcn, expected raw as of ntu60 xsub train"
    with pytest.raises(ConfigError, match=message):
        mix_parts([Part(ntu), Part(other)])


def test_the_same_samples_twice_are_refused(folder: Path, ntu: Split) -> None:
    message = r"000000\.tar, which ntu60 xsub train holds too, expected sources without a common sample"
    for again in (ntu, open_split(folder, "ntu60", "xview", "train"), open_split(folder, "ntu120", "xset", "train")):
        with pytest.raises(ConfigError, match=f"{again.sources[0].name}: found .*{message}"):
            mix_parts([Part(ntu), Part(again)])


@pytest.mark.parametrize("weight", [0.0, -1.0, math.inf, math.nan])
def test_a_weight_that_takes_nothing_is_refused(ntu: Split, pku: Split, weight: float) -> None:
    with pytest.raises(ConfigError, match=f"pkummd1 xsub train: found weight {weight}, expected a number above 0"):
        mix_parts([Part(ntu), Part(pku, weight=weight)])


def test_a_count_that_takes_nothing_is_refused(ntu: Split, pku: Split) -> None:
    with pytest.raises(ConfigError, match="pkummd1 xsub train: found 0 samples an epoch, expected at least 1"):
        mix_parts([Part(ntu), Part(pku, samples=0)])


def test_a_mixture_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="found no source, expected at least one"):
        mix_parts([])


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ((0,) * 50, "found 50 labels, expected one for each of 51 classes"),
        ((0,) * 52, "found 52 labels, expected one for each of 51 classes"),
        ((), "found 0 labels, expected one for each of 51 classes"),
        ((0,) * 50 + (-1,), "found label -1 for class 50, expected 0 to 110: the sources have 111 classes together"),
        ((111,) + (0,) * 50, "found label 111 for class 0, expected 0 to 110: the sources have 111 classes together"),
        ((True,) * 51, "found label True for class 0, expected 0 to 110"),
    ],
)
def test_labels_that_do_not_fit_are_refused(ntu: Split, pku: Split, classes: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=f"pkummd1 xsub train: {message}"):
        mix_parts([Part(ntu), Part(pku, classes=classes)])
