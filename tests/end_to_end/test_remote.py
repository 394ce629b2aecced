"""Raw archives and stores in an object store: everything as on a disk, from the command to the batch."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from flows.cli.main import main
from flows.pages.quality import stats
from pipelines.conversion.convert import convert, default_scratch
from pipelines.loaders.resident import Resident
from pipelines.loaders.split import open_split
from pipelines.loaders.stream import Stream
from pipelines.planning.text import show_plan
from pipelines.quality.text import diff_recipes
from pipelines.repair.stores import repair_data, verify_data
from pipelines.synthetic import synthesize
from shards.errors import ConfigError, StoreError
from shards.manifest import MANIFEST, find_store
from shards.places import Place, place

ROOT = Path(__file__).resolve().parents[2]


def contents(folder: Place) -> dict[str, bytes]:
    """Every file below a folder, local or remote."""
    if isinstance(folder, Path):
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    folder.fs.invalidate_cache()
    root = folder.path.rstrip("/") + "/"
    return {name.removeprefix(root): folder.fs.cat_file(name) for name in folder.fs.find(folder.path)}


def archive(folder: Path, source: str = "ntu", zipped: bool = True) -> Path:
    return synthesize(source, folder, subjects=4, classes=3, samples=6, seed=5, zipped=zipped)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own cache is not touched."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@dataclass(frozen=True)
class World:
    """One conversion here and, from the same archive, there.

    Attributes:
        bucket: holds everything that is remote.
        raw: URL of the archive.
        data: URL of the folder of the store.
        here, there: the two stores.
    """

    bucket: Any
    raw: str
    data: str
    here: Path
    there: UPath


# a conversion into the bucket takes a second: tests that only read share one
_worlds: list[World] = []


@pytest.fixture
def world(s3: Any, tmp_path_factory: pytest.TempPathFactory) -> World:
    if not _worlds:
        root = tmp_path_factory.mktemp("world")
        packed = archive(root / "raw")
        here = convert("ntu", [packed], root / "data", workers=0).folder
        raw, data = s3.upload(packed, "raw"), f"{s3.url}/data"
        there = convert("ntu", [raw], data, workers=0, scratch=root / "scratch").folder
        assert isinstance(here, Path)
        assert isinstance(there, UPath)
        _worlds.append(World(s3, raw, data, here, there))
    return _worlds[0]


@pytest.mark.parametrize(
    ("source", "dtype", "zipped"),
    [("ntu", "float16", True), ("ntu", "float32", False), ("pkummd1", "fixed", True), ("pkummd2", "float32", False)],
)
def test_from_s3_to_s3_the_bytes_are_those_of_a_disk_and_nothing_is_left(
    s3: Any, tmp_path: Path, source: str, dtype: Any, zipped: bool
) -> None:
    raw = archive(tmp_path / "raw", source, zipped)
    here = convert(source, [raw], tmp_path / "data", dtype=dtype, workers=0)
    url, scratch = s3.upload(raw, "some raw/ä"), tmp_path / "scratch"
    there = convert(source, [url], f"{s3.url}/data", dtype=dtype, workers=2, scratch=scratch)
    assert (there.reused, there.manifest) == (False, here.manifest)
    assert str(there.folder) == f"{s3.url}/data/{here.folder.name}"
    assert contents(there.folder) == contents(here.folder)
    assert list(scratch.iterdir()) == []
    assert not default_scratch().exists()
    again = convert(source, [raw], place(f"{s3.url}/data/"), dtype=dtype, scratch=scratch)
    assert (again.reused, again.folder) == (True, there.folder)


def test_the_command_makes_the_same_and_a_second_one_does_nothing(s3: Any, world: World, tmp_path: Path) -> None:
    environment = os.environ | s3.server.settings | {"PYTHONPATH": str(ROOT)}
    words = ["preprocess", "ntu", world.raw, "--out", f"{s3.url}/out", "--workers", "2", "--plain"]

    def run() -> str:
        command = [sys.executable, "-m", "skelstream", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    folder = f"{s3.url}/out/{world.here.name}"
    assert run().startswith(f"wrote {folder}: 6 sequences")
    assert contents(place(folder)) == contents(world.here)
    cache = tmp_path / "cache" / "skelstream"
    assert list(cache.iterdir()) == []
    before = len(s3.server.requests)
    assert run().startswith(f"found {folder}: 6 sequences")
    asked = s3.server.requests[before:]
    assert {method for method, *_ in asked} == {"GET", "HEAD"}
    assert len(asked) <= 8  # four for the archive, three for the manifest
    assert list(cache.iterdir()) == []


def test_verify_and_deep_verify_find_nothing_or_what_is_wrong(s3: Any, world: World) -> None:
    assert verify_data(place(world.data)) == []
    assert verify_data(world.there, [place(world.raw)], share=1.0) == []
    for name, data in contents(world.here).items():
        s3.upload(data, f"bad/{world.here.name}/{name}")
    [broken] = [name for name in contents(world.here) if name.endswith("label/c/0")]
    s3.upload(b"", f"bad/{world.here.name}/{broken}")
    assert any(broken in problem for problem in verify_data(place(f"{s3.url}/bad")))


def test_statistics_and_differences_are_those_of_the_local_store(world: World, tmp_path: Path) -> None:
    assert stats(place(world.data)) == stats(world.here)
    pages = [tmp_path / f"{name}.html" for name in ("here", "there")]
    for page, data in zip(pages, (world.here, world.there), strict=True):
        stats(data, html=page)
    assert pages[1].stat().st_size > 10_000
    found = diff_recipes(world.there, world.here, csv=tmp_path / "rows.csv")
    assert "6 in both, 0 only in A, 0 only in B" in found
    assert "6 equal" in found


def test_a_plan_of_remote_input_knows_what_is_there(s3: Any, world: World) -> None:
    assert f"{world.there} holds this very conversion" in show_plan("ntu", [world.raw], world.data)
    before = len(s3.requests())
    assert "6 recordings to convert" in show_plan("ntu", [world.raw], f"{s3.url}/nothing")
    assert {method for method, *_ in s3.requests()[before:]} <= {"GET", "HEAD"}


@pytest.mark.parametrize("kind", [Resident, Stream])
def test_both_engines_give_the_batches_of_the_local_store(world: World, kind: Callable[..., Any]) -> None:
    found = []
    for data in (world.here.parent, place(world.data)):
        split = open_split(find_store(data, "ntu60"), "ntu60", "xsub", "train")
        engine, batches = kind(split, "cpu"), []
        for epoch in (0, 1):
            places = split.order(seed=3).epoch(epoch)[slice(None)]
            engine.announce(places)
            batches += [engine.batch(places[n : n + 2]) for n in range(0, len(places), 2)]
        found.append(
            [(b.sample_id.tolist(), b.label.tolist(), b.length.tolist(), b.frames.numpy().tobytes()) for b in batches]
        )
        engine.close()
    assert found[0] == found[1] != []


def test_a_remote_store_is_not_repaired_and_says_so(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    for data in (world.data, str(world.there)):
        assert main(["repair", data, world.raw]) == 1
        assert f"{world.there}: found a remote folder, expected a local one" in capsys.readouterr().err
    with pytest.raises((ConfigError, StoreError), match="found a remote folder"):
        repair_data(place(world.data))


def test_file_urls_are_paths(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = archive(tmp_path / "raw dir", zipped=False)
    data = f"file://{tmp_path}/data dir"
    assert main(["preprocess", "ntu", f"file://{raw}", "--out", data, "--workers", "0", "--plain"]) == 0
    folder = tmp_path / "data dir" / world.here.name
    assert f"wrote {folder}" in capsys.readouterr().out
    assert contents(folder) == contents(world.here)
    assert main(["verify", data]) == 0
    assert main(["repair", data]) == 0
    assert capsys.readouterr().out.endswith("nothing is broken\n")


def test_a_bucket_that_does_not_answer_is_one_error(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    options: dict[str, Any] = {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 0}}}
    with pytest.raises(StoreError, match=rf"^{world.there}: found no answer \(.*expected a folder that can be read"):
        convert("ntu", [world.raw], UPath(world.data, **options), scratch=tmp_path)


def test_a_bucket_that_is_not_there_is_one_error_and_the_work_is_kept(world: World, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"^s3://no-such-bucket/.*found no way to upload"):
        convert("ntu", [world.raw], "s3://no-such-bucket/data", scratch=tmp_path)
    assert (tmp_path / world.here.name / MANIFEST).exists()
