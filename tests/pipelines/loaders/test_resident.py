"""The resident engine: one buffer, read and checked once, and batches that are windows on it."""

import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pipelines.loaders import resident
from pipelines.loaders.mixture import Part, mix_parts
from pipelines.loaders.resident import Resident
from pipelines.loaders.split import SOURCE_BIT, Item, Split, open_split
from shards.encoding import Storage
from shards.errors import ConfigError, StoreError
from shards.manifest import read_manifest, write_manifest
from shards.reader import ShardIndex


def _train(folder: Path) -> Split:
    return open_split(folder, "ntu60", "xsub", "train")


def test_samples_come_in_the_order_asked_for_with_their_frames_labels_and_ids(
    folder: Path, frames_of: Callable[[int], npt.NDArray[np.float32]]
) -> None:
    split = _train(folder)
    samples = Resident(split, "cpu")
    places = split.order(window=3, seed=4).epoch(6)[5:40]
    batch = samples.batch(places)
    expected = [
        split.read(shard, [row], split.index(shard))[0]
        for shard, row in zip(places.shard.tolist(), places.row.tolist(), strict=True)
    ]
    assert batch.sample_id.tolist() == [item.sample_id for item in expected]
    assert batch.label.tolist() == [item.label for item in expected]
    for start, length, sample in zip(
        batch.start.tolist(), batch.length.tolist(), batch.sample_id.tolist(), strict=True
    ):
        assert np.array_equal(batch.frames[start : start + length].cpu().numpy(), frames_of(sample))


def test_all_batches_are_windows_on_one_buffer(folder: Path) -> None:
    split = _train(folder)
    samples, places = Resident(split, "cpu"), split.order(seed=0).epoch(0)
    batches = [samples.batch(places[first : first + 8]) for first in range(0, 40, 8)]
    assert len({batch.frames.data_ptr() for batch in batches}) == 1
    assert all((batch.start + batch.length <= len(batch.frames)).all() for batch in batches)


def test_the_buffer_holds_every_frame_of_the_split_once(folder: Path) -> None:
    split = _train(folder)
    batch = Resident(split, "cpu").batch(split.order(seed=0).epoch(0))
    order = torch.argsort(batch.start)
    assert torch.equal(batch.start[order][1:], batch.length[order].cumsum(0)[:-1])
    assert int(batch.length.sum()) == len(batch.frames) == split.num_frames


@pytest.mark.parametrize(
    ("dtype", "expected", "error"),
    [("float16", torch.float16, 4e-3), ("fixed", torch.float32, 0.51e-4), ("float32", torch.float32, 0.0)],
)
def test_frames_have_the_precision_of_their_storage(
    write_folder: Callable[..., Path],
    tmp_path: Path,
    frames_of: Callable[[int], npt.NDArray[np.float32]],
    dtype: Storage,
    expected: torch.dtype,
    error: float,
) -> None:
    split = _train(write_folder(tmp_path, dtype=dtype))
    batch = Resident(split, "cpu").batch(split.order(seed=0).epoch(0)[:9])
    assert batch.frames.dtype == expected
    for start, length, sample in zip(
        batch.start.tolist(), batch.length.tolist(), batch.sample_id.tolist(), strict=True
    ):
        found = batch.frames[start : start + length].float().numpy()
        assert np.abs(found - frames_of(sample)).max() <= error


def test_a_mixture_is_resident_like_one_split(
    folder: Path,
    write_other: Callable[..., Path],
    tmp_path: Path,
    frames_of: Callable[[int], npt.NDArray[np.float32]],
) -> None:
    half = open_split(write_other(tmp_path, dtype="float16"), "pkummd1", "xsub", "train")
    split = mix_parts([Part(_train(folder)), Part(half, weight=2)])
    batch = Resident(split, "cpu").batch(split.order(seed=0).epoch(0))
    assert len(batch) == 46 + 2 * 17
    assert batch.frames.dtype == torch.float32
    for start, length, sample in zip(
        batch.start.tolist(), batch.length.tolist(), batch.sample_id.tolist(), strict=True
    ):
        source, index = divmod(sample, 1 << SOURCE_BIT)
        expected = frames_of(index).astype(np.float16 if source else np.float32).astype(np.float32)
        assert np.array_equal(batch.frames[start : start + length].numpy(), expected)


def test_the_shards_are_not_needed_after_loading(write_folder: Callable[..., Path], tmp_path: Path) -> None:
    split = _train(write_folder(tmp_path))
    samples = Resident(split, "cpu")
    for path in tmp_path.rglob("*.tar"):
        path.unlink()
    assert len(samples.batch(split.order(seed=0).epoch(0))) == 46


def test_every_sample_is_read_once_and_no_reader_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    read = Split.read

    def recorded(self: Split, number: int, rows: Any, index: ShardIndex) -> list[Item]:
        seen.extend((number, row) for row in rows)
        return read(self, number, rows, index)

    monkeypatch.setattr(Split, "read", recorded)
    split = _train(folder)
    samples = Resident(split, "cpu")
    samples.announce(split.order(seed=0).epoch(0))
    samples.batch(split.order(seed=0).epoch(0))
    assert len(seen) == len(set(seen)) == 46
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("skelstream-resident")]


def test_the_frames_are_freed_when_it_is_closed(folder: Path) -> None:
    split = _train(folder)
    samples = Resident(split, "cpu")
    frames = weakref.ref(samples.batch(split.order(seed=0).epoch(0)[:2]).frames)
    assert frames() is not None
    samples.close()
    samples.close()
    assert frames() is None


def test_one_reader_gives_what_several_give(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = _train(folder)
    places = split.order(seed=0).epoch(0)
    several = Resident(split, "cpu").batch(places)
    monkeypatch.setattr(resident, "READERS", 1)
    one = Resident(split, "cpu").batch(places)
    assert torch.equal(one.frames, several.frames)
    assert torch.equal(one.start, several.start)


def test_a_shard_with_other_frames_than_its_manifest_says_is_refused(
    write_folder: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = read_manifest(write_folder(tmp_path))
    changed = [shard.model_copy(update={"frames": shard.frames + 1}) for shard in manifest.shards]
    write_manifest(tmp_path, manifest.model_copy(update={"shards": changed}))
    with pytest.raises(StoreError, match=r"000000\.tar: found \d+ frames, expected \d+ by the manifest"):
        Resident(_train(tmp_path), "cpu")


def test_a_split_that_the_device_cannot_hold_is_refused(write_folder: Callable[..., Path], tmp_path: Path) -> None:
    manifest = read_manifest(write_folder(tmp_path))
    changed = [shard.model_copy(update={"frames": 10**12}) for shard in manifest.shards]
    write_manifest(tmp_path, manifest.model_copy(update={"shards": changed}))
    with pytest.raises(
        ConfigError, match=r"found no room for 7000000000000 frames \(4\.2e\+06 GB\) on cpu, expected a"
    ):
        Resident(_train(tmp_path), "cpu")


def test_a_missing_shard_is_refused(write_folder: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / read_manifest(write_folder(tmp_path)).shards[0].path
    path.unlink()
    with pytest.raises(StoreError, match=path.name):
        Resident(_train(tmp_path), "cpu")
