"""Which shards belong to a side, and what their samples must hold."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.loaders.split import Item, Split, open_split
from shards.encoding import Storage
from shards.errors import ConfigError, StoreError
from shards.files import sha256_file
from shards.manifest import read_manifest, write_manifest
from shards.reader import read_shard
from shards.writer import write_shard


def test_a_side_is_the_union_of_its_cells(folder: Path) -> None:
    train = open_split(folder, "ntu60", "xsub", "train")
    assert train.num_samples == 46
    assert len(train.shards) == 7
    assert open_split(folder, "ntu60", "xsub", "test").num_samples == 6
    assert open_split(folder, "ntu60", "xview", "train").num_samples == 27
    assert open_split(folder, "ntu120", "xset", "train").num_samples == 52


def test_shards_come_in_the_order_of_their_paths(folder: Path) -> None:
    paths = [shard.entry.path for shard in open_split(folder, "ntu120", "xset", "train").shards]
    assert paths == sorted(paths)


@pytest.mark.parametrize(
    ("dataset", "protocol", "split", "message"),
    [
        ("ntu61", "xsub", "train", "unknown data set 'ntu61', expected one of ntu60"),
        ("ntu60", "xset", "train", "protocol 'xset', expected one of xsub, xview for ntu60"),
        ("ntu60", "xsub", "validation", "split 'validation', expected train or test"),
    ],
)
def test_an_unknown_choice_is_refused(folder: Path, dataset: str, protocol: str, split: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_split(folder, dataset, protocol, split)


def test_a_side_without_a_sample_is_refused(folder: Path) -> None:
    with pytest.raises(StoreError, match="found no sample of ntu120 xset test"):
        open_split(folder, "ntu120", "xset", "test")


def test_an_unfinished_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no manifest\.json"):
        open_split(tmp_path, "ntu60", "xsub", "train")


def test_a_split_tells_its_samples_frames_classes_and_files(folder: Path) -> None:
    side = open_split(folder, "ntu60", "xsub", "train")
    assert side.num_classes == 60
    assert side.dtype == np.dtype(np.float32)
    assert side.num_frames == sum(len(item.frames) for n in range(7) for item in _all(side, n))
    for number, shard in enumerate(side.shards):
        assert side.size(number) == shard.path.stat().st_size
        assert side.sha256(number) == sha256_file(shard.path)
    assert side.order(seed=0).samples == 46


def test_a_sample_can_be_read_from_a_copy_of_its_shard(folder: Path, tmp_path: Path) -> None:
    side = open_split(folder, "ntu60", "xsub", "train")
    index = replace(side.index(1), path=tmp_path / "copy.tar")
    (tmp_path / "copy.tar").write_bytes(side.shards[1].path.read_bytes())
    found = side.read(1, [3, 0], index)
    assert [item.sample_id for item in found] == [_all(side, 1)[row].sample_id for row in (3, 0)]


@pytest.mark.parametrize(
    ("dtype", "record", "message"),
    [
        ("float16", {"index": 0, "label": 0}, "found float16 frames, expected float32"),
        ("float32", {"label": 0}, "found label 0 and index None"),
        ("float32", {"index": 0}, "found label None and index 0"),
        ("float32", {"index": 0, "label": -1}, "found label -1 and index 0"),
        ("float32", {"index": 0, "label": "3"}, "found label '3' and index 0"),
        ("float32", {"index": True, "label": 3}, "found label 3 and index True"),
        ("float32", {"index": 1 << 40, "label": 3}, "found label 3 and index 1099511627776"),
        ("float32", {"index": 0, "label": 60}, "found label 60, expected 0 to 59 of ntu60"),
        (
            "float32",
            {"index": 0, "label": 3, "fingerprint": "f" * 12},
            "found fingerprint 'ffffffffffff', expected '000000000000' by the manifest: the shard is of another store",
        ),
        ("float32", {"index": 0, "label": 3, "fingerprint": None}, "found fingerprint None, expected '000000000000'"),
    ],
)
def test_a_sample_that_is_not_what_the_manifest_says_is_refused_by_name(
    write_folder: Callable[..., Path],
    vouch: Callable[[Path], None],
    tmp_path: Path,
    dtype: Storage,
    record: dict[str, Any],
    message: str,
) -> None:
    path = open_split(write_folder(tmp_path), "ntu60", "xsub", "test").shards[0].path
    assert isinstance(path, Path)
    frames = np.ones((4, 2, 25, 3), dtype=dtype)
    write_shard(path, [(f"k{i}", frames, {"fingerprint": "0" * 12} | record) for i in range(6)], dtype)
    vouch(tmp_path)
    side = open_split(tmp_path, "ntu60", "xsub", "test")
    with pytest.raises(StoreError, match=rf"000000\.tar: k2: {message}"):
        side.read(0, [2], side.index(0))


@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_a_sample_without_frames_is_refused_by_name(
    write_folder: Callable[..., Path], vouch: Callable[[Path], None], tmp_path: Path, storage: Storage
) -> None:
    path = open_split(write_folder(tmp_path, dtype=storage), "ntu60", "xsub", "test").shards[0].path
    assert isinstance(path, Path)
    frames = np.ones((4, 2, 25, 3), dtype=storage)
    facts = {"fingerprint": "0" * 12, "index": 0, "label": 0}
    write_shard(path, [(f"k{i}", frames, facts) for i in range(6)], storage)
    # the writer refuses it too, so into the header of the third array
    parts = path.read_bytes().split(b"(4, 2, 25, 3)")
    path.write_bytes(b"(4, 2, 25, 3)".join(parts[:3]) + b"(0, 2, 25, 3)" + b"(4, 2, 25, 3)".join(parts[3:]))
    vouch(tmp_path)
    side = open_split(tmp_path, "ntu60", "xsub", "test")
    with pytest.raises(StoreError) as caught:
        side.read(0, [2], side.index(0))
    assert "000000.tar: k2: found " in str(caught.value)
    assert "(0, 2, 25, 3)" in str(caught.value)


def test_a_shard_with_another_number_of_samples_is_refused(write_folder: Callable[..., Path], tmp_path: Path) -> None:
    side = open_split(write_folder(tmp_path), "ntu60", "xsub", "test")
    write_shard(_path(side), [("k", np.ones((4, 2, 25, 3), np.float32), {"index": 0, "label": 0})])
    with pytest.raises(StoreError, match=r"000000\.idx: found 1 samples, expected 6 by the manifest"):
        side.index(0)


def test_a_missing_index_is_refused_by_name(write_folder: Callable[..., Path], tmp_path: Path) -> None:
    side = open_split(write_folder(tmp_path), "ntu60", "xsub", "test")
    _path(side).with_suffix(".idx").unlink()
    with pytest.raises(StoreError, match=r"000000\.idx: found no readable index .*, expected one beside its shard"):
        side.index(0)


def test_a_missing_shard_is_refused_by_name(write_folder: Callable[..., Path], tmp_path: Path) -> None:
    side = open_split(write_folder(tmp_path), "ntu60", "xsub", "test")
    _path(side).unlink()
    with pytest.raises(StoreError, match=r"000000\.tar: found no readable shard .*, expected a tar file"):
        side.index(0)


def test_a_truncated_shard_is_refused_by_name(write_folder: Callable[..., Path], tmp_path: Path) -> None:
    side = open_split(write_folder(tmp_path), "ntu60", "xsub", "test")
    data = _path(side).read_bytes()
    _path(side).write_bytes(data[:-512])
    expected = rf"000000\.tar: found {len(data) - 512} bytes, expected {len(data)} by the manifest: it was cut"
    with pytest.raises(StoreError, match=expected):
        side.index(0)


def test_a_shard_whose_samples_stand_in_another_order_is_refused_by_name(
    write_folder: Callable[..., Path], tmp_path: Path
) -> None:
    side = open_split(write_folder(tmp_path), "ntu60", "xsub", "test")
    path = _path(side)
    index = path.with_suffix(".idx").read_bytes()
    size = path.stat().st_size
    write_shard(path, reversed(list(read_shard(path))))
    assert path.stat().st_size == size
    with pytest.raises(StoreError, match=r"000000\.idx: found SHA-256 [0-9a-f]{64}, expected [0-9a-f]{64} by the man"):
        side.index(0)
    # with the old index beside it, the first sample that is read tells
    path.with_suffix(".idx").write_bytes(index)
    with pytest.raises(
        StoreError, match=r"000000\.tar: S\d+: found no S\d+\.json at byte \d+, expected it by the index"
    ):
        side.read(0, range(6), side.index(0))


def test_a_shard_of_another_store_in_the_place_of_ours_is_refused_by_name(
    write_folder: Callable[..., Path], tmp_path: Path
) -> None:
    side = open_split(write_folder(tmp_path / "ours"), "ntu60", "xsub", "test")
    foreign = open_split(write_folder(tmp_path / "foreign", fingerprint="f" * 12), "ntu60", "xsub", "test")
    # the same samples: equal sizes, keys and index
    _path(side).write_bytes(_path(foreign).read_bytes())
    with pytest.raises(StoreError, match=r"000000\.tar: S002: found fingerprint 'ffffffffffff', expected '0{12}'"):
        side.read(0, [0], side.index(0))


def test_a_shard_that_the_manifest_does_not_vouch_for_is_refused(
    write_folder: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = read_manifest(write_folder(tmp_path))
    files = [file for file in manifest.files if not file.path.endswith("000001.idx")]
    write_manifest(tmp_path, manifest.model_copy(update={"files": files}))
    with pytest.raises(StoreError, match=r"manifest\.json: found no file .*000001\.idx, expected size and SHA-256"):
        open_split(tmp_path, "ntu60", "xsub", "train")


def _all(side: Split, number: int) -> list[Item]:
    return side.read(number, range(side.shards[number].entry.samples), side.index(number))


def _path(side: Split) -> Path:
    """Of the only shard."""
    path = side.shards[0].path
    assert isinstance(path, Path)
    return path
