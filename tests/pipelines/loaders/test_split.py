"""Which shards belong to a side, and what their samples must hold."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.loaders.split import open_split
from shards.encoding import Storage
from shards.errors import ConfigError, StoreError
from shards.writer import write_shard


def test_a_side_is_the_union_of_its_cells(folder: Path) -> None:
    train = open_split(folder, "ntu60", "xsub", "train")
    assert train.num_samples == 46
    assert len(train.shards) == 7
    assert open_split(folder, "ntu60", "xsub", "test").num_samples == 6
    assert open_split(folder, "ntu60", "xview", "train").num_samples == 27
    assert open_split(folder, "ntu120", "xset", "train").num_samples == 52


def test_shards_come_in_the_order_of_their_paths(folder: Path) -> None:
    paths = [shard.path for shard in open_split(folder, "ntu120", "xset", "train").shards]
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


@pytest.mark.parametrize(
    ("dtype", "record", "message"),
    [
        ("float16", {"index": 0, "label": 0}, "found float16 frames, expected float32"),
        ("float32", {"label": 0}, "found label 0 and index None"),
        ("float32", {"index": 0}, "found label None and index 0"),
        ("float32", {"index": 0, "label": -1}, "found label -1 and index 0"),
        ("float32", {"index": 0, "label": "3"}, "found label '3' and index 0"),
        ("float32", {"index": True, "label": 3}, "found label 3 and index True"),
    ],
)
def test_a_sample_that_is_not_what_the_manifest_says_is_refused_by_name(
    write_folder: Callable[..., Path], tmp_path: Path, dtype: Storage, record: dict[str, Any], message: str
) -> None:
    side = open_split(write_folder(tmp_path), "ntu60", "xsub", "test")
    frames = np.ones((4, 2, 25, 3), dtype=dtype)
    write_shard(tmp_path / side.shards[0].path, [(f"k{i}", frames, record) for i in range(6)], dtype)
    with pytest.raises(StoreError, match=rf"000000\.tar: k2: {message}"):
        side.read(side.index(0), [2])


def test_a_shard_with_another_number_of_samples_is_refused(write_folder: Callable[..., Path], tmp_path: Path) -> None:
    side = open_split(write_folder(tmp_path), "ntu60", "xsub", "test")
    write_shard(tmp_path / side.shards[0].path, [("k", np.ones((4, 2, 25, 3), np.float32), {"index": 0, "label": 0})])
    with pytest.raises(StoreError, match=r"000000\.idx: found 1 samples, expected 6 by the manifest"):
        side.index(0)
