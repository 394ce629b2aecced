"""What holds for every engine: each sample once, in an order of (seed, epoch), and the same views from all of them."""

import threading
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

from flows.recipes.pcm3 import PCM3PPViewsConfig
from pipelines.loaders.loader import Engine, TorchEngine, ViewLoader
from pipelines.loaders.order import Partition
from pipelines.loaders.resident import Resident
from pipelines.loaders.split import open_split
from pipelines.loaders.stream import Stream
from pipelines.views.downstream import evaluation_spec
from pipelines.views.spec import ViewSpec
from shards.batch import RaggedBatch, Views
from shards.errors import ConfigError

KINDS = ["resident", "stream", "dali"]
WHOLE = evaluation_spec("full", "joint", 16)
VIEWS = PCM3PPViewsConfig(frames=32, min_frames=8)

every = pytest.mark.parametrize("kind", KINDS)
holding = pytest.mark.parametrize("samples", [Resident, Stream])

# the folder is written once and only read; opening a DALI graph takes a while
relaxed = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@contextmanager
def _open(
    kind: str,
    folder: Path,
    spec: ViewSpec = WHOLE,
    *,
    batch_size: int = 8,
    seed: int = 0,
    shuffle: bool = True,
    drop_last: bool = True,
    window: int = 2,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[ViewLoader]:
    split, cpu = open_split(folder, "ntu60", "xsub", "train"), torch.device("cpu")
    order = split.order(window=window, seed=seed, shuffle=shuffle)
    partition = Partition(order.samples, batch_size, rank=rank, world=world, drop_last=drop_last)
    engine: Engine
    if kind == "dali":
        pytest.importorskip("nvidia.dali")
        from pipelines.loaders.dali import DaliEngine

        engine = DaliEngine(split, spec, cpu, seed=seed, batch_size=batch_size)
    else:
        engine = TorchEngine((Resident if kind == "resident" else Stream)(split, cpu), spec, seed)
    loader = ViewLoader(engine, order, partition, spec, seed=seed, workers=workers)
    try:
        yield loader
    finally:
        loader.close()


def _ids(batches: list[Views]) -> list[list[int]]:
    return [batch.sample_id.tolist() for batch in batches]


def _epoch(kind: str, folder: Path, epoch: int, first: int = 0, **options: Any) -> list[list[int]]:
    with _open(kind, folder, **options) as loader:
        assert loader.num_samples == 46
        batches = _ids(list(loader.epoch(epoch, first)))
        assert len(batches) == max(0, len(loader) - first)
    return batches


@every
@relaxed
@given(batch_size=st.integers(1, 46), seed=st.integers(0, 2**40), epoch=st.integers(0, 1000), window=st.integers(0, 4))
def test_every_epoch_delivers_each_sample_exactly_once(
    kind: str, folder: Path, train_ids: list[int], batch_size: int, seed: int, epoch: int, window: int
) -> None:
    batches = _epoch(kind, folder, epoch, batch_size=batch_size, seed=seed, window=window, drop_last=False)
    assert sorted(chain.from_iterable(batches)) == train_ids
    assert all(len(batch) == batch_size for batch in batches[:-1])


@every
@relaxed
@given(
    batch_size=st.integers(1, 46),
    epoch=st.integers(0, 50),
    first=st.integers(0, 50),
    drop_last=st.booleans(),
    shuffle=st.booleans(),
    workers=st.integers(0, 2),
)
def test_entering_an_epoch_at_a_step_equals_skipping_to_it(
    kind: str, folder: Path, batch_size: int, epoch: int, first: int, drop_last: bool, shuffle: bool, workers: int
) -> None:
    options = {"batch_size": batch_size, "drop_last": drop_last, "shuffle": shuffle}
    whole = _epoch(kind, folder, epoch, **options)
    assert _epoch(kind, folder, epoch, first, **options, workers=workers) == whole[first:]


@every
def test_the_order_is_reproduced_by_seed_and_epoch_and_changes_with_either(kind: str, folder: Path) -> None:
    with _open(kind, folder) as loader, _open(kind, folder) as again:
        third = _ids(list(loader.epoch(3)))
        assert third == _ids(list(again.epoch(3)))
        # epochs are not remembered: the third is the same whether or not others came before it
        assert third == _ids(list(loader.epoch(3)))
        assert third != _ids(list(loader.epoch(4)))
    assert third != _epoch(kind, folder, 3, seed=1)


@every
def test_drop_last_leaves_out_only_the_batch_that_is_not_full(kind: str, folder: Path) -> None:
    whole = _epoch(kind, folder, 0, drop_last=False)
    assert [len(batch) for batch in whole] == [8] * 5 + [6]
    assert _epoch(kind, folder, 0, drop_last=True) == whole[:5]


@pytest.mark.parametrize("window", [0, 1, 2, 16])
def test_all_engines_have_one_order(folder: Path, window: int) -> None:
    orders = [_epoch(kind, folder, 7, window=window, drop_last=False) for kind in KINDS]
    assert orders[0] == orders[1] == orders[2]


def test_without_shuffling_all_engines_deliver_shard_after_shard(folder: Path) -> None:
    for kind in KINDS:
        # the cell "..xview-test.." comes before "..xview-train.."
        batches = _epoch(kind, folder, 7, shuffle=False, drop_last=False)
        assert list(chain.from_iterable(batches)) == [*range(1, 76, 3), *range(0, 63, 3)]


@pytest.mark.parametrize(("workers", "world"), [(0, 1), (2, 1), (1, 2), (0, 4)])
@pytest.mark.parametrize("kind", ["stream", "dali"])
def test_all_engines_give_the_views_of_the_resident_one(folder: Path, kind: str, workers: int, world: int) -> None:
    spec = VIEWS.spec(("joint",))
    with _open("resident", folder, spec, batch_size=8, seed=5) as loader:
        expected = list(loader.epoch(2))
    for rank in range(world):
        with _open(kind, folder, spec, batch_size=8, seed=5, workers=workers, rank=rank, world=world) as loader:
            found = list(loader.epoch(2))
        part = slice(8 // world * rank, 8 // world * (rank + 1))
        for ours, theirs in zip(found, expected, strict=True):
            assert torch.equal(ours.sample_id, theirs.sample_id[part])
            assert torch.equal(ours.label, theirs.label[part])
            for name, x in theirs.views.items():
                torch.testing.assert_close(ours.views[name], x[part], rtol=0, atol=1e-5, msg=name)
            for name, mask in theirs.masks.items():
                assert torch.equal(ours.masks[name], mask[part] if len(mask) > 1 else mask), name


@holding
def test_samples_carry_their_own_frames_and_labels(
    samples: Callable[..., Any], folder: Path, frames_of: Callable[[int], npt.NDArray[np.float32]]
) -> None:
    batch = _some(samples, folder)
    assert batch.frames.dtype == torch.float32
    for row, sample in enumerate(batch.sample_id.tolist()):
        start, length = int(batch.start[row]), int(batch.length[row])
        assert np.array_equal(batch.frames[start : start + length].numpy(), frames_of(sample))
        assert int(batch.label[row]) == sample % 60


@holding
@pytest.mark.parametrize(("storage", "tolerance"), [("float16", 0.0), ("fixed", 0.51e-4)])
def test_frames_keep_half_precision_and_are_else_single(
    samples: Callable[..., Any],
    storage: str,
    tolerance: float,
    write_folder: Callable[..., Path],
    tmp_path: Path,
    frames_of: Callable[[int], npt.NDArray[np.float32]],
) -> None:
    batch = _some(samples, write_folder(tmp_path, dtype=storage))
    assert batch.frames.dtype == (torch.float16 if storage == "float16" else torch.float32)
    for row, sample in enumerate(batch.sample_id.tolist()):
        start, length = int(batch.start[row]), int(batch.length[row])
        exact = torch.from_numpy(frames_of(sample)).to(batch.frames.dtype)
        assert (batch.frames[start : start + length] - exact).abs().max() <= tolerance


def _some(samples: Callable[..., Any], folder: Path) -> RaggedBatch:
    split = open_split(folder, "ntu60", "xsub", "train")
    holder = samples(split, torch.device("cpu"))
    batch: RaggedBatch = holder.batch(split.order(window=2, seed=0, shuffle=True).epoch(1)[np.arange(20)])
    holder.close()
    return batch


@every
def test_a_batch_larger_than_the_split_is_refused(kind: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match="46 samples"), _open(kind, folder, batch_size=47):
        pass
    with _open(kind, folder, batch_size=47, drop_last=False) as loader:
        assert len(loader) == 1


def test_a_negative_number_of_workers_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="found -1 workers"), _open("resident", folder, workers=-1):
        pass


@every
def test_two_epochs_can_be_read_at_the_same_time_and_leave_no_thread(kind: str, folder: Path) -> None:
    before = threading.active_count()
    with _open(kind, folder, workers=2) as loader:
        pairs = list(zip(loader.epoch(0), loader.epoch(1), strict=True))
        assert _ids([a for a, _ in pairs]) == _epoch(kind, folder, 0)
        assert _ids([b for _, b in pairs]) == _epoch(kind, folder, 1)
    assert threading.active_count() == before
