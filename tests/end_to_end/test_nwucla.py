"""The real NW-UCLA archive, from the zip to a store, by the command."""

import json
from pathlib import Path

import pytest

from flows.cli.main import main
from models.training.runlog import LOG
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


@pytest.fixture(scope="module")
def losses(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, float]]]:
    """The loss terms of the first 20 steps of PCM3++ by each loader."""
    found = {}
    for loader in ("resident", "stream", "dali"):
        run = tmp_path_factory.mktemp("runs") / loader
        words = ["pretrain", "pcm3pp-small", "--plain", "--data", str(data), "--dataset", "nwucla", "--device", "cpu"]
        words += ["--protocol", "xview", "--run", str(run), "--loader", loader]
        settings = ["objective.encoder.hidden=32", "train.precision=float32", "train.lr=0.02", "train.batch_size=51"]
        for setting in (
            *settings,
            "objective.queue_size=510",
            "train.epochs=1",
            "train.stages.post.epochs=0",
            "train.log_every=1",
        ):
            words += ["--set", setting]
        assert main(words) == 0
        lines = [json.loads(line) for line in (run / LOG).read_text().splitlines()]
        found[loader] = [line["terms"] for line in lines if line["kind"] == "step"]
    return found


@pytest.mark.parametrize(("loader", "tolerance"), [("stream", 0.0), ("dali", 1e-3)])
def test_twenty_steps_of_pcm3pp_have_one_loss_curve_by_every_loader(
    losses: dict[str, list[dict[str, float]]], loader: str, tolerance: float
) -> None:
    assert len(losses["resident"]) == 20
    for ours, theirs in zip(losses[loader], losses["resident"], strict=True):
        assert ours == pytest.approx(theirs, rel=tolerance, abs=0)
