"""Deep verification: what agrees with itself but not with its raw input is found, named with its raw file and frame."""

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from pipelines.conversion.convert import convert
from pipelines.conversion.pack import ShardUnit, plan_packing
from pipelines.preprocessing.recipes import Recipe, recipe
from pipelines.repair import deep, reparse
from pipelines.repair.deep import deep_verify
from pipelines.repair.stores import verify_data
from pipelines.synthetic import synthesize
from shards.errors import ConfigError, DiskError
from shards.manifest import Manifest, file_entry, read_manifest, write_manifest
from shards.store import FRAMES_PER_SHARD, open_store, write_frames
from shards.verify.store import verify

Copy = Callable[..., Path]
SOURCES = {"ntu": "float32", "pkummd1": "fixed"}


@pytest.fixture(scope="module")
def raws(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("raw")
    return {
        source: synthesize(source, root / source, subjects=4, classes=3, samples=samples, seed=5, zipped=False)
        for source, samples in (("ntu", 14), ("pkummd1", 4))
    }


@pytest.fixture(scope="module")
def stores(raws: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("stores")
    found = {}
    for source, dtype in SOURCES.items():
        result = convert(source, [raws[source]], root / source, dtype=dtype, workers=1, samples_per_shard=4)
        assert isinstance(result.folder, Path)
        found[source] = result.folder
    return found


@pytest.fixture
def copy(stores: dict[str, Path], tmp_path: Path) -> Copy:
    def make(source: str = "ntu") -> Path:
        return shutil.copytree(stores[source], tmp_path / stores[source].name)

    return make


def window(source: str) -> Any:
    return recipe("pcm3", source).window if source == "pkummd1" else None


def make_consistent(folder: Path) -> None:
    """Shards and hashes made anew from a store that was tampered with, as somebody who knows the code can."""
    manifest, store = read_manifest(folder), open_store(folder / "store.zarr")
    recipe_, clips = recipe(manifest.recipe, manifest.source), np.diff(store.offsets).tolist()
    if store.segments is not None:
        clips = [recipe_.clip_length(s.end - s.start) for s in store.segments]
    packing = plan_packing(manifest.source, store.infos, clips, store.segments, 4)
    for plan in packing.shards:
        ShardUnit(folder, plan, manifest.source, manifest.recipe, manifest.fingerprint, manifest.dtype)()
    shutil.rmtree(folder / "done")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    entries = [file_entry(folder, path) for path in files]
    changes = {"files": entries, "cells": packing.cells, "shards": [plan.entry for plan in packing.shards]}
    write_manifest(folder, manifest.model_copy(update=changes))


def tamper_frames(folder: Path) -> None:
    store = open_store(folder / "store.zarr")
    frames = store.read(0, min(FRAMES_PER_SHARD, store.num_frames)).copy()
    frames[store.offsets[2] + 4, 1, 20, 1] += 0.25
    write_frames(folder / "store.zarr", 0, frames)


def tamper_column(name: str, row: int, value: int) -> Callable[[Path], None]:
    def tamper(folder: Path) -> None:
        zarr.open_array(folder / "store.zarr" / name, mode="r+")[row] = value

    return tamper


@pytest.mark.parametrize("source", SOURCES)
def test_a_sound_store_agrees_with_its_raw_input(raws: dict[str, Path], stores: dict[str, Path], source: str) -> None:
    check = deep_verify(stores[source], [raws[source]])
    assert check.problems == []
    assert check.checked == check.total == {"ntu": 14, "pkummd1": 4}[source]
    assert check.describe() == f"made {check.total} of {check.total} recordings again from the raw input (seed 0)"


@pytest.mark.parametrize("source", SOURCES)
def test_a_coordinate_changed_in_store_shards_and_hashes_is_found_by_the_deep_check_alone(
    copy: Copy, raws: dict[str, Path], source: str
) -> None:
    folder = copy(source)
    tamper_frames(folder)
    make_consistent(folder)
    assert verify(folder, window(source)) == []
    key = open_store(folder / "store.zarr").infos[2].key
    [problem] = deep_verify(folder, [raws[source]]).problems
    assert problem.startswith(f"{key} ({raws[source]}")
    assert "found other coordinates in 1 of " in problem
    assert "the first frame 5 (person 1, joint 20): y " in problem


@pytest.mark.parametrize(
    ("source", "column", "row", "value", "found"),
    [
        ("ntu", "bodies", 3, 0, "bodies=0"),
        ("ntu", "quality/empty_frames", 2, 3, "found quality Quality("),
        ("pkummd1", "segments/label", 1, 50, "found actions "),
        ("pkummd1", "segments/confidence", 0, 9, "found actions "),
    ],
)
def test_a_table_changed_in_store_shards_and_hashes_is_found_by_the_deep_check_alone(
    copy: Copy, raws: dict[str, Path], source: str, column: str, row: int, value: int, found: str
) -> None:
    folder = copy(source)
    tamper_column(column, row, value)(folder)
    make_consistent(folder)
    assert verify(folder, window(source)) == []
    [problem] = deep_verify(folder, [raws[source]]).problems
    assert found in problem


def test_a_changed_raw_file_is_named_and_so_is_the_inventory(
    stores: dict[str, Path], raws: dict[str, Path], tmp_path: Path
) -> None:
    raw = shutil.copytree(raws["ntu"], tmp_path / "raw")
    file = sorted(raw.rglob("*.skeleton"))[5]
    lines = file.read_text().split("\n")
    number = next(i for i, line in enumerate(lines) if len(line.split()) == 12)
    lines[number] = " ".join(["0.5", *lines[number].split()[1:]])
    file.write_text("\n".join(lines))
    inventory, problem = deep_verify(stores["ntu"], [raw]).problems
    assert inventory.startswith("raw input: found inventory ")
    assert "these are not the files that were converted" in inventory
    assert f"({file})" in problem
    assert problem.startswith(f"{file.stem} ")


def test_a_raw_file_that_is_gone_and_one_that_is_new_are_named(
    stores: dict[str, Path], raws: dict[str, Path], tmp_path: Path
) -> None:
    raw = shutil.copytree(raws["ntu"], tmp_path / "raw")
    store = open_store(stores["ntu"] / "store.zarr")
    file = next(path for path in sorted(raw.rglob("*.skeleton")) if path.stem == store.infos[1].key)
    other = file.with_name("S001C001P001R002A059.skeleton")
    file.rename(other)
    _, lost, new, *rest = deep_verify(stores["ntu"], [raw]).problems
    assert lost == f"raw input: found no file of {file.stem}, expected one of each row of the store"
    assert new == f"store.zarr: found no {other.stem}, expected a row of each recording of the raw input"
    assert rest == []


def test_a_recipe_of_another_version_is_named_and_nothing_is_compared(
    stores: dict[str, Path], raws: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def next_version(name: str, source: str) -> Recipe:
        found = recipe(name, source)
        return replace(found, version=found.version + 1)

    monkeypatch.setattr(reparse, "recipe", next_version)
    check = deep_verify(stores["ntu"], [raws["ntu"]])
    assert check.checked == 0
    [problem] = check.problems
    assert problem.startswith('manifest.json: recipe step 1: found {"name": "recipe", "recipe": "pcm3", "version": 1}')


def test_an_error_larger_than_the_manifest_states_is_named(copy: Copy, raws: dict[str, Path]) -> None:
    folder = copy("pkummd1")
    manifest: Manifest = read_manifest(folder)
    write_manifest(folder, manifest.model_copy(update={"max_error": manifest.max_error / 2}))
    assert any("found an error of 5.0" in line for line in deep_verify(folder, [raws["pkummd1"]]).problems)
    write_manifest(folder, manifest.model_copy(update={"max_error": manifest.max_error * 0.999}))
    assert deep_verify(folder, [raws["pkummd1"]]).problems != []


def test_a_temporary_folder_without_room_is_named(
    copy: Copy, raws: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(reparse.PartUnit, "__call__", full)
    with pytest.raises(DiskError, match=rf"^{tmp_path}/skelstream-\w+: found no space left .*TMPDIR names another"):
        deep_verify(copy("ntu"), [raws["ntu"]], share=1.0)


def test_the_part_that_is_checked_hangs_on_share_and_seed_alone(
    stores: dict[str, Path], raws: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deep, "AT_LEAST", 2)
    seen: list[list[str]] = []
    make = deep.remade

    def watch(manifest: Manifest, work: Path, number: int, recordings: Any) -> Any:
        seen.append([recording.key for recording in recordings])
        return make(manifest, work, number, recordings)

    monkeypatch.setattr(deep, "remade", watch)
    for share, seed in ((0.3, 1), (0.3, 1), (0.3, 2), (0.0, 1)):
        deep_verify(stores["ntu"], [raws["ntu"]], share, seed)
    assert seen[0] == seen[1] != seen[2]
    assert [len(keys) for keys in seen] == [5, 5, 5, 2]
    with pytest.raises(ConfigError, match=r"found a share of 1\.5, expected 0 to 1"):
        deep_verify(stores["ntu"], [raws["ntu"]], 1.5)


def test_the_command_says_what_it_made_again_and_what_differs(
    copy: Copy, raws: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy()
    assert verify_data(tmp_path, [raws["ntu"]], progress=True) == []
    assert "made 14 of 14 recordings again from the raw input (seed 0)" in capsys.readouterr().out
    tamper_frames(folder)
    make_consistent(folder)
    assert verify_data(tmp_path) == []
    [problem] = verify_data(tmp_path, [raws["ntu"]])
    assert problem.startswith(f"{folder.name}: S0")
    [problem] = verify_data(tmp_path, [raws["pkummd1"]])
    assert "found no raw file" in problem
