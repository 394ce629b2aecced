"""Some samples of a split: each exactly once by every engine, and nothing else read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from upath import UPath

from flows.recipes.pcm3 import PCM3PPViewsConfig
from pipelines.loaders.labels import SampleFacts, sample_facts
from pipelines.loaders.loader import Engine, TorchEngine, ViewLoader
from pipelines.loaders.mixture import Part, mix_parts
from pipelines.loaders.order import Partition
from pipelines.loaders.resident import Resident
from pipelines.loaders.split import Item, Split, open_split
from pipelines.loaders.stream import Stream
from pipelines.loaders.subset import only
from pipelines.views.downstream import evaluation_spec
from pipelines.views.spec import ViewSpec
from shards.batch import Views
from shards.errors import ConfigError, StoreError
from shards.reader import ShardIndex

VIEWS = PCM3PPViewsConfig(frames=32, min_frames=8).spec(("joint",))
WHOLE = evaluation_spec("full", "joint", 16)
TRAIN = sorted([*range(0, 21 * 3, 3), *range(1, 25 * 3 + 1, 3)])
"""Ids on the side ntu60 xsub train; shards hold them in steps of three."""

SPREAD = [1, 4, 25, 70, 73, 0, 60]
"""Of six of the seven shards: two of the first, one of each other; the fourth has no other sample."""

CHOSEN = st.sets(st.sampled_from(TRAIN), min_size=1)
relaxed = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="session")
def train(complete: Path) -> Split:
    return open_split(complete, "ntu60", "xsub", "train")


@pytest.fixture(scope="session")
def facts(train: Split) -> SampleFacts:
    return sample_facts(train)


@contextmanager
def _open(
    kind: str,
    split: Split,
    spec: ViewSpec = WHOLE,
    *,
    batch_size: int = 4,
    seed: int = 0,
    window: int = 2,
    shuffle: bool = True,
    rank: int = 0,
    world: int = 1,
) -> Iterator[ViewLoader]:
    order, cpu = split.order(window=window, seed=seed, shuffle=shuffle), torch.device("cpu")
    partition = Partition(order.samples, batch_size, rank=rank, world=world, drop_last=False)
    engine: Engine
    if kind == "dali":
        pytest.importorskip("nvidia.dali")
        from pipelines.loaders.dali import DaliEngine

        engine = DaliEngine(split, spec, cpu, seed=seed, batch_size=batch_size)
    else:
        engine = TorchEngine((Resident if kind == "resident" else Stream)(split, cpu), spec, seed)
    loader = ViewLoader(engine, order, partition, spec, seed=seed)
    try:
        yield loader
    finally:
        loader.close()


def _ids(batches: list[Views]) -> list[int]:
    return list(chain.from_iterable(batch.sample_id.tolist() for batch in batches))


@relaxed
@given(chosen=CHOSEN, seed=st.integers(0, 2**40), epoch=st.integers(0, 500), window=st.integers(0, 4))
@pytest.mark.parametrize("kind", ["resident", "stream"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_holds_each_chosen_sample_exactly_once_whatever_the_number_of_ranks(
    kind: str, shuffle: bool, train: Split, facts: SampleFacts, chosen: set[int], seed: int, epoch: int, window: int
) -> None:
    split = only(train, list(chosen), facts)
    assert split.num_samples == len(chosen)
    world = 1 + seed % min(3, len(chosen))
    options: dict[str, Any] = {"seed": seed, "window": window, "shuffle": shuffle}
    with _open(kind, split, **options) as loader:
        alone = [batch.sample_id.tolist() for batch in loader.epoch(epoch)]
        assert loader.num_samples == len(chosen)
    assert sorted(chain.from_iterable(alone)) == sorted(chosen)
    parts = []
    for rank in range(world):
        with _open(kind, split, rank=rank, world=world, **options) as loader:
            parts.append([batch.sample_id.tolist() for batch in loader.epoch(epoch)])
    together = [list(chain.from_iterable(step)) for step in zip(*parts, strict=True)]
    assert list(chain.from_iterable(together)) == list(chain.from_iterable(alone))


@relaxed
@given(chosen=CHOSEN)
def test_unshuffled_the_chosen_samples_come_as_in_the_whole(train: Split, facts: SampleFacts, chosen: set[int]) -> None:
    with _open("resident", only(train, list(chosen), facts), shuffle=False) as loader:
        found = _ids(list(loader.epoch(0)))
    assert found == [number for number in facts.sample_id.tolist() if number in chosen]


@pytest.mark.parametrize("kind", ["stream", "dali"])
def test_all_engines_give_the_views_of_a_subset_that_the_resident_one_gives(
    kind: str, train: Split, facts: SampleFacts
) -> None:
    split = only(train, SPREAD, facts)
    for epoch in range(3):
        with _open("resident", split, VIEWS, seed=5) as loader, _open(kind, split, VIEWS, seed=5) as other:
            expected, found = list(loader.epoch(epoch)), list(other.epoch(epoch))
            assert [batch.sample_id.tolist() for batch in list(other.epoch(epoch, 1))] == [
                batch.sample_id.tolist() for batch in expected[1:]
            ]
        assert _ids(found) == _ids(expected)
        for ours, theirs in zip(found, expected, strict=True):
            assert torch.equal(ours.label, theirs.label)
            for name, x in theirs.views.items():
                torch.testing.assert_close(ours.views[name], x, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("samples", [Resident, Stream])
def test_samples_of_a_subset_have_their_own_frames_and_labels(
    samples: Callable[..., Any], train: Split, facts: SampleFacts, frames_of: Callable[[int], npt.NDArray[np.float32]]
) -> None:
    split = only(train, SPREAD, facts)
    batch = samples(split, "cpu").batch(split.order(seed=3).epoch(1))
    assert sorted(batch.sample_id.tolist()) == sorted(SPREAD)
    for row, sample in enumerate(batch.sample_id.tolist()):
        start, length = int(batch.start[row]), int(batch.length[row])
        assert np.array_equal(batch.frames[start : start + length].numpy(), frames_of(sample))
        assert int(batch.label[row]) == sample % 60


def test_the_order_is_reproduced_by_seed_and_epoch_and_changes_with_either(train: Split, facts: SampleFacts) -> None:
    split = only(train, TRAIN[::2], facts)
    found = {}
    for seed in range(2):
        for epoch in range(2):
            with _open("resident", split, seed=seed) as loader:
                found[seed, epoch] = tuple(_ids(list(loader.epoch(epoch))))
                assert found[seed, epoch] == tuple(_ids(list(loader.epoch(epoch))))
    assert len(set(found.values())) == 4


def test_all_samples_are_the_split_itself_also_of_a_subset(train: Split, facts: SampleFacts) -> None:
    assert only(train, TRAIN[::-1], facts) == train
    some = only(train, SPREAD, facts)
    assert only(some, SPREAD[::-1], sample_facts(some)) == some


@relaxed
@given(chosen=CHOSEN, data=st.data())
def test_a_subset_of_a_subset_is_that_of_the_whole(
    train: Split, facts: SampleFacts, chosen: set[int], data: st.DataObject
) -> None:
    inner = list(data.draw(st.sets(st.sampled_from(sorted(chosen)), min_size=1)))
    outer = only(train, list(chosen), facts)
    assert sorted(sample_facts(outer).sample_id.tolist()) == sorted(chosen)
    assert only(outer, inner, sample_facts(outer)) == only(train, inner, facts)


def test_labels_and_classes_stay_those_of_the_whole(train: Split, facts: SampleFacts) -> None:
    split = only(train, facts.sample_id[facts.label == 3], facts)
    assert split.num_classes == train.num_classes == 60
    with _open("resident", split) as loader:
        assert {int(label) for batch in loader.epoch(0) for label in batch.label} == {3}


def test_the_resident_engine_reads_and_holds_the_chosen_samples_alone(
    train: Split,
    facts: SampleFacts,
    frames_of: Callable[[int], npt.NDArray[np.float32]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []
    read = Split.read

    def recorded(self: Split, number: int, rows: Any, index: ShardIndex) -> list[Item]:
        items = read(self, number, rows, index)
        seen.extend(item.sample_id for item in items)
        return items

    monkeypatch.setattr(Split, "read", recorded)
    split = only(train, SPREAD, facts)
    batch = Resident(split, "cpu").batch(split.order(seed=0).epoch(0))
    assert sorted(seen) == sorted(SPREAD)
    assert len(batch.frames) == split.num_frames == sum(len(frames_of(sample)) for sample in SPREAD)


@pytest.mark.parametrize("kind", ["resident", "stream"])
def test_shards_without_a_chosen_sample_are_not_needed(
    kind: str, write_folder: Callable[..., Path], write_tables: Callable[..., Path], tmp_path: Path
) -> None:
    whole = open_split(write_tables(write_folder(tmp_path)), "ntu60", "xsub", "train")
    split = only(whole, SPREAD, sample_facts(whole))
    needed = {shard.path for shard in split.shards}
    assert len(needed) == 6 < len(whole.shards)
    for shard in whole.shards:
        if shard.path not in needed:
            assert isinstance(shard.path, Path)
            shard.path.unlink()
            shard.path.with_suffix(".idx").unlink()
    with _open(kind, split) as loader:
        assert sorted(_ids(list(loader.epoch(0)))) == sorted(SPREAD)


@pytest.mark.parametrize("kind", ["resident", "stream"])
def test_a_subset_of_a_remote_split_is_that_of_the_local_one(
    kind: str, complete: Path, train: Split, facts: SampleFacts
) -> None:
    there = UPath("memory://subset/store")
    for file in complete.rglob("*"):
        if file.is_file():
            there.fs.pipe_file(f"{there.path}/{file.relative_to(complete).as_posix()}", file.read_bytes())
    remote = open_split(there, "ntu60", "xsub", "train")
    with (
        _open(kind, only(remote, SPREAD, sample_facts(remote))) as loader,
        _open(kind, only(train, SPREAD, facts)) as local,
    ):
        for ours, theirs in zip(loader.epoch(2), local.epoch(2), strict=True):
            assert torch.equal(ours.sample_id, theirs.sample_id)
            assert torch.equal(ours.views["x"], theirs.views["x"])


def test_a_subset_mixes_with_another_source(train: Split, facts: SampleFacts, other: Path) -> None:
    split = mix_parts([Part(only(train, SPREAD, facts)), Part(open_split(other, "pkummd1", "xsub", "train"))])
    with _open("resident", split) as loader:
        ids = _ids(list(loader.epoch(0)))
    assert sorted(number for number in ids if number < 1 << 40) == sorted(SPREAD)
    assert len(ids) == len(set(ids)) == len(SPREAD) + 17


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "ntu60 xsub train: found a subset without a sample, expected at least one"),
        ([0, 3, 0], "ntu60 xsub train: found sample 0 2 times, expected each once"),
        ([0, 2], "found sample 2 in a subset, expected some of the 46 samples of the split"),
        ([0, -1, 99, 2], "found sample -1 and 2 more in a subset, expected some of the 46 samples"),
    ],
)
def test_a_subset_that_cannot_be_is_refused(train: Split, facts: SampleFacts, ids: list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        only(train, ids, facts)


def test_a_sample_that_is_not_as_long_as_the_store_says_is_refused(train: Split, facts: SampleFacts) -> None:
    wrong = SampleFacts(**{**vars(facts), "length": facts.length + 1})
    with pytest.raises(StoreError, match=r"000000\.tar: found \d+ frames, expected \d+ of 2 samples by the store"):
        Resident(only(train, SPREAD, wrong), "cpu")
