"""The real NW-UCLA archive, from the zip to a store, by the command."""

from pathlib import Path

import pytest

from flows.cli import main
from shards.manifest import Manifest, read_manifest


@pytest.fixture(scope="module")
def archive(shared: Path) -> Path:
    path = shared / "data" / "nw-ucla" / "all_sqe.zip"
    if not path.is_file():
        pytest.skip("no NW-UCLA archive beside the checkout")
    return path


@pytest.fixture(scope="module")
def data(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which the archive was converted."""
    folder = tmp_path_factory.mktemp("nwucla")
    assert main(["preprocess", "nwucla", str(archive), "--out", str(folder), "--workers", "0", "--plain"]) == 0
    return folder


@pytest.fixture(scope="module")
def store(data: Path) -> Path:
    (folder,) = (path for path in data.iterdir() if path.is_dir())
    return folder


@pytest.fixture(scope="module")
def manifest(store: Path) -> Manifest:
    return read_manifest(store)


def test_every_sequence_is_there(manifest: Manifest) -> None:
    assert manifest.counts["sequences"] == manifest.counts["samples"] == 1_484
    assert (manifest.counts["dropped"], manifest.dropped) == (0, [])


def test_the_sides_have_their_official_sizes(manifest: Manifest) -> None:
    sizes = {"train": 0, "test": 0}
    for cell in manifest.cells.values():
        assert cell.memberships.keys() == {"nwucla/xview"}
        sizes[cell.memberships["nwucla/xview"]] += cell.samples
    assert sizes == {"train": 1_020, "test": 464}


def test_verify_finds_nothing(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(data)]) == 0
    assert capsys.readouterr().out.rstrip().endswith("good")


def test_a_second_run_does_nothing(archive: Path, data: Path, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    assert main(["preprocess", "nwucla", str(archive), "--out", str(data), "--workers", "0", "--plain"]) == 0
    assert capsys.readouterr().out.startswith(f"found {store}: 1,484 sequences")
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before
