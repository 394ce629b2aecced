"""What is particular to the resident loader: one buffer, read and checked once."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipelines.loaders.resident import ResidentLoader
from shards.errors import StoreError
from shards.manifest import read_manifest, write_manifest


def _open(folder: Path) -> ResidentLoader:
    return ResidentLoader(folder, "ntu60", "xsub", "train", batch_size=8, seed=0)


def test_all_batches_are_windows_on_one_buffer(folder: Path) -> None:
    loader = _open(folder)
    batches = [*loader.epoch(0), *loader.epoch(1)]
    assert len({batch.frames.data_ptr() for batch in batches}) == 1
    assert all((batch.start + batch.length <= len(batch.frames)).all() for batch in batches)


def test_the_buffer_holds_every_frame_of_the_split_once(folder: Path) -> None:
    loader = ResidentLoader(folder, "ntu60", "xsub", "train", batch_size=46, seed=0)
    batch = next(iter(loader.epoch(0)))
    order = torch.argsort(batch.start)
    assert torch.equal(batch.start[order][1:], batch.length[order].cumsum(0)[:-1])
    assert int(batch.length.sum()) == len(batch.frames)


def test_the_shards_are_not_needed_after_loading(write_folder: Callable[..., Path], tmp_path: Path) -> None:
    loader = _open(write_folder(tmp_path))
    for path in tmp_path.rglob("*.tar"):
        path.unlink()
    assert sum(len(batch) for batch in loader.epoch(0)) == 40


def test_a_shard_with_other_frames_than_its_manifest_says_is_refused(
    write_folder: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = read_manifest(write_folder(tmp_path))
    changed = [shard.model_copy(update={"frames": shard.frames + 1}) for shard in manifest.shards]
    write_manifest(tmp_path, manifest.model_copy(update={"shards": changed}))
    with pytest.raises(StoreError, match=r"000000\.tar: found \d+ frames, expected \d+ by the manifest"):
        _open(tmp_path)


def test_a_missing_shard_is_refused(write_folder: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / read_manifest(write_folder(tmp_path)).shards[0].path
    path.unlink()
    with pytest.raises(StoreError, match=path.name):
        _open(tmp_path)
