"""What holds for every loader: each sample once, in an order of (seed, epoch), the same samples and views from both."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.loaders import Loader
from pipelines.loaders.resident import ResidentLoader
from pipelines.loaders.stream import StreamLoader
from pipelines.views import PCM3PPViewsConfig, evaluation_views, pcm3pp_views
from shards.batch import RaggedBatch
from shards.errors import ConfigError, StoreError

KINDS: list[Callable[..., Loader]] = [ResidentLoader, StreamLoader]

both = pytest.mark.parametrize("kind", KINDS, ids=["resident", "stream"])

# the folder is written once and only read
relaxed = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _open(kind: Callable[..., Loader], folder: Path, **options: Any) -> Loader:
    return kind(folder, "ntu60", "xsub", "train", **({"batch_size": 8, "seed": 0} | options))


def _ids(batches: list[RaggedBatch]) -> list[list[int]]:
    return [batch.sample_id.tolist() for batch in batches]


def _flat(batches: list[RaggedBatch]) -> list[int]:
    return [sample for batch in _ids(batches) for sample in batch]


@both
@relaxed
@given(batch_size=st.integers(1, 46), seed=st.integers(0, 2**40), epoch=st.integers(0, 1000))
def test_every_epoch_delivers_each_sample_exactly_once(
    kind: Callable[..., Loader], folder: Path, train_ids: list[int], batch_size: int, seed: int, epoch: int
) -> None:
    loader = _open(kind, folder, batch_size=batch_size, seed=seed, drop_last=False)
    batches = list(loader.epoch(epoch))
    assert loader.num_samples == 46
    assert len(batches) == len(loader)
    assert sorted(_flat(batches)) == train_ids
    assert all(len(batch) == batch_size for batch in batches[:-1])


@both
@relaxed
@given(
    batch_size=st.integers(1, 46),
    epoch=st.integers(0, 50),
    first=st.integers(0, 50),
    drop_last=st.booleans(),
    shuffle=st.booleans(),
)
def test_entering_an_epoch_at_a_step_equals_skipping_to_it(
    kind: Callable[..., Loader], folder: Path, batch_size: int, epoch: int, first: int, drop_last: bool, shuffle: bool
) -> None:
    loader = _open(kind, folder, batch_size=batch_size, drop_last=drop_last, shuffle=shuffle)
    assert _ids(list(loader.epoch(epoch, first))) == _ids(list(loader.epoch(epoch)))[first:]


@both
def test_the_order_is_reproduced_by_seed_and_epoch_and_changes_with_either(
    kind: Callable[..., Loader], folder: Path
) -> None:
    loader, again, other = _open(kind, folder), _open(kind, folder), _open(kind, folder, seed=1)
    assert _ids(list(loader.epoch(3))) == _ids(list(again.epoch(3)))
    # epochs are not remembered: the third is the same whether or not others came before it
    assert _ids(list(loader.epoch(3))) == _ids(list(again.epoch(3)))
    assert _flat(list(loader.epoch(3))) != _flat(list(loader.epoch(4)))
    assert _flat(list(loader.epoch(3))) != _flat(list(other.epoch(3)))


@both
def test_drop_last_leaves_out_only_the_batch_that_is_not_full(kind: Callable[..., Loader], folder: Path) -> None:
    kept = _ids(list(_open(kind, folder, drop_last=True).epoch(0)))
    every = _ids(list(_open(kind, folder, drop_last=False).epoch(0)))
    assert [len(batch) for batch in every] == [8] * 5 + [6]
    assert kept == every[:5]
    assert len(_open(kind, folder, drop_last=True)) == 5


@both
def test_samples_carry_their_own_frames_and_labels(
    kind: Callable[..., Loader], folder: Path, frames_of: Callable[[int], npt.NDArray[np.float32]]
) -> None:
    for batch in _open(kind, folder, drop_last=False).epoch(1):
        assert batch.frames.dtype == torch.float32
        for row, sample in enumerate(batch.sample_id.tolist()):
            start, length = int(batch.start[row]), int(batch.length[row])
            assert np.array_equal(batch.frames[start : start + length].numpy(), frames_of(sample))
            assert int(batch.label[row]) == sample % 60


@both
def test_half_precision_shards_stay_half_precision(
    kind: Callable[..., Loader],
    write_folder: Callable[..., Path],
    tmp_path: Path,
    frames_of: Callable[[int], npt.NDArray[np.float32]],
) -> None:
    batch = next(iter(_open(kind, write_folder(tmp_path, dtype="float16")).epoch(0)))
    assert batch.frames.dtype == torch.float16
    sample, start, length = int(batch.sample_id[0]), int(batch.start[0]), int(batch.length[0])
    assert np.array_equal(batch.frames[start : start + length].numpy(), frames_of(sample).astype(np.float16))


@both
def test_fixed_shards_are_delivered_as_float32(
    kind: Callable[..., Loader],
    write_folder: Callable[..., Path],
    tmp_path: Path,
    frames_of: Callable[[int], npt.NDArray[np.float32]],
) -> None:
    batch = next(iter(_open(kind, write_folder(tmp_path, dtype="fixed")).epoch(0)))
    assert batch.frames.dtype == torch.float32
    for row in range(len(batch)):
        start, length = int(batch.start[row]), int(batch.length[row])
        exact = frames_of(int(batch.sample_id[row]))
        assert np.abs(batch.frames[start : start + length].numpy() - exact).max() <= 0.51e-4


def test_without_shuffling_both_loaders_deliver_shard_after_shard(folder: Path) -> None:
    orders = [_flat(list(_open(kind, folder, shuffle=False, drop_last=False).epoch(7))) for kind in KINDS]
    # the cell "..xview-test.." comes before "..xview-train.."
    assert orders == [[*range(1, 76, 3), *range(0, 63, 3)]] * 2


def test_both_loaders_give_a_sample_the_same_views(folder: Path) -> None:
    config = PCM3PPViewsConfig(frames=32)
    seen: list[dict[int, dict[str, torch.Tensor]]] = []
    for kind in KINDS:
        samples: dict[int, dict[str, torch.Tensor]] = {}
        for step, batch in enumerate(_open(kind, folder, drop_last=False).epoch(2)):
            views = pcm3pp_views(batch, config, stream="joint", seed=5, epoch=2, step=step).views
            views["x"] = evaluation_views(batch, crop="random", stream="bone", seed=5, epoch=2).views["x"]
            for row, sample in enumerate(batch.sample_id.tolist()):
                samples[sample] = {name: views[name][row] for name in ("base", "key", "target", "clip", "x")}
        seen.append(samples)
    resident, stream = seen
    assert resident.keys() == stream.keys()
    for sample, views in resident.items():
        for name, x in views.items():
            assert torch.equal(stream[sample][name], x), (sample, name)


@both
def test_a_batch_larger_than_the_split_is_refused(kind: Callable[..., Loader], folder: Path) -> None:
    with pytest.raises(ConfigError, match="found 46 samples for batches of 47"):
        _open(kind, folder, batch_size=47)
    assert len(_open(kind, folder, batch_size=47, drop_last=False)) == 1


@both
def test_an_unknown_protocol_is_refused(kind: Callable[..., Loader], folder: Path) -> None:
    with pytest.raises(ConfigError, match="protocol 'xset', expected one of xsub, xview for ntu60"):
        kind(folder, "ntu60", "xset", "train", batch_size=1, seed=0)


@both
def test_an_empty_side_is_refused(kind: Callable[..., Loader], folder: Path) -> None:
    with pytest.raises(StoreError, match="found no sample of ntu120 xset test"):
        kind(folder, "ntu120", "xset", "test", batch_size=1, seed=0)


@both
def test_two_epochs_can_be_read_at_the_same_time(kind: Callable[..., Loader], folder: Path) -> None:
    loader = _open(kind, folder)
    pairs = list(zip(loader.epoch(0), loader.epoch(1), strict=True))
    assert _ids([a for a, _ in pairs]) == _ids(list(loader.epoch(0)))
    assert _ids([b for _, b in pairs]) == _ids(list(loader.epoch(1)))
    assert "skelstream-reader" not in {thread.name for thread in threading.enumerate()}
