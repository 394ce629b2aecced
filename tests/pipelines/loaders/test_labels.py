"""The facts of samples, against the records in the shards."""

import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from upath import UPath

from pipelines.loaders.labels import sample_facts
from pipelines.loaders.split import Split, open_split
from shards.errors import StoreError
from shards.manifest import STORE, read_manifest, write_manifest
from shards.reader import read_shard
from shards.schema import SampleInfo, Segment
from shards.store import create
from shards.writer import write_shard


def _train(folder: Any) -> Split:
    return open_split(folder, "ntu60", "xsub", "train")


def _records(split: Split) -> list[tuple[int, int, int, str]]:
    """Id, label, frames and key of every sample, shard after shard."""
    return [
        (record["index"], record["label"], len(frames), key)
        for shard in split.shards
        for key, frames, record in read_shard(shard.path)
    ]


def test_facts_are_those_of_the_shards_records_in_stored_order(complete: Path) -> None:
    split = _train(complete)
    facts = sample_facts(split)
    assert len(facts) == 46
    columns = (facts.sample_id, facts.label, facts.length, facts.key)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == _records(split)
    assert facts.subject.tolist() == [1 + i % 5 for i in facts.sample_id.tolist()]
    assert facts.camera.tolist() == [1 + i % 3 for i in facts.sample_id.tolist()]
    assert {getattr(facts, f.name).dtype for f in fields(facts) if f.name != "key"} == {np.dtype(np.int64)}


def test_no_shard_is_read_for_them(
    write_folder: Callable[..., Path], write_tables: Callable[..., Path], tmp_path: Path
) -> None:
    split = _train(write_tables(write_folder(tmp_path)))
    for shard in split.shards:
        assert isinstance(shard.path, Path)
        shard.path.write_bytes(bytes(shard.file.bytes))
    assert len(sample_facts(split)) == 46


def test_facts_of_a_remote_split_are_those_of_the_local_one(complete: Path) -> None:
    there = UPath("memory://facts/store")
    for file in complete.rglob("*"):
        if file.is_file():
            there.fs.pipe_file(f"{there.path}/{file.relative_to(complete).as_posix()}", file.read_bytes())
    found, expected = sample_facts(_train(there)), sample_facts(_train(complete))
    for field in fields(expected):
        assert np.array_equal(getattr(found, field.name), getattr(expected, field.name)), field.name


@pytest.mark.parametrize("limit", [None, 40])
def test_actions_of_untrimmed_videos_have_their_own_key_and_label_and_the_length_that_the_recipe_leaves(
    write_other: Callable[..., Path], vouch: Callable[[Path], None], tmp_path: Path, limit: int | None
) -> None:
    folder = write_other(tmp_path)
    lengths: dict[int, int] = {}
    for path in sorted(folder.rglob("*.tar")):
        samples = list(read_shard(path))
        lengths |= {record["index"]: len(frames) for _, frames, record in samples}
        renamed = [(_key(record["index"]), frames[:limit], record) for _, frames, record in samples]
        write_shard(path, renamed)
    vouch(folder)
    steps: list[dict[str, Any]] = [{"name": "recipe", "version": 1}, {"name": "cut", "frames": limit}]
    write_manifest(folder, read_manifest(folder).model_copy(update={"recipe_steps": steps}))
    infos = [SampleInfo(f"000{video}-L", -1, subject=7 + video, camera=video) for video in (1, 2)]
    segments = [Segment(i // 12, i % 12, 10 * i, 10 * i + lengths[i], i % 51, 2) for i in range(20)]
    create(folder / STORE, infos, [400, 500], segments)
    split = open_split(folder, "pkummd1", "xsub", "train")
    facts = sample_facts(split)
    columns = (facts.sample_id, facts.label, facts.length, facts.key)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == _records(split)
    assert (limit is None) == (facts.length.max() > 40)
    assert facts.subject.tolist() == [8 + i // 12 for i in range(17)]
    assert facts.camera.tolist() == [1 + i // 12 for i in range(17)]


def _key(number: int) -> str:
    return f"000{1 + number // 12}-L_{number % 12:03d}"


def test_a_folder_without_its_store_is_refused(folder: Path) -> None:
    with pytest.raises(StoreError, match=r"found no zarr\.json, expected a Zarr store"):
        sample_facts(_train(folder))


def test_tables_of_another_store_are_refused_by_the_first_sample_they_do_not_hold(
    complete: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(complete, folder)
    shutil.rmtree(folder / STORE)
    create(folder / STORE, [SampleInfo(f"S{i:03d}", 0) for i in range(30)], [1] * 30, None)
    with pytest.raises(StoreError, match=r"00000\d\.tar: found sample S031, expected one of .*store\.zarr"):
        sample_facts(_train(folder))


def test_a_label_that_the_data_set_does_not_have_is_refused(complete: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(complete, folder)
    shutil.rmtree(folder / STORE)
    create(folder / STORE, [SampleInfo(f"S{i:03d}", 60 + i) for i in range(80)], [1] * 80, None)
    with pytest.raises(StoreError, match=r"found label 61 of sample 1, expected 0 to 59 of ntu60"):
        sample_facts(_train(folder))
