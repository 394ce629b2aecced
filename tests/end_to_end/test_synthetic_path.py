"""The whole path on synthetic archives, as a newcomer would type it."""

from pathlib import Path

import pytest

from flows.cli.main import main
from models.evaluation.results import read_results
from shards.manifest import find_store, read_manifest

SETTINGS = (
    "objective.encoder.hidden=16",
    "objective.queue_size=128",
    "train.batch_size=32",
    "train.epochs=6",
    "train.stages.post.epochs=1",
    "train.milestones=[5]",
    "views.frames=32",
    "views.clip_frames=8",
    "views.min_frames=16",
)


def run(*words: str | Path) -> None:
    assert main([str(word) for word in words]) == 0


def archives(source: str, folder: Path, samples: int, *more: str) -> Path:
    sizes = ("--subjects", "8", "--classes", "4", "--samples", str(samples))
    run("synth", "--source", source, "--out", folder / "raw", *sizes, *more)
    return folder / "raw"


def converted(source: str, raw: Path, folder: Path) -> Path:
    run("preprocess", source, raw, "--out", folder / "data", "--workers", "0", "--plain")
    run("verify", folder / "data")
    return folder / "data"


def test_ntu_goes_from_raw_files_to_scores_and_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = converted("ntu", archives("ntu", tmp_path, 120, "--zip"), tmp_path)
    sets = [word for setting in SETTINGS for word in ("--set", setting)]
    where = ("--data", data, "--dataset", "ntu120", "--protocol", "xset", "--run", tmp_path / "run")
    run("pretrain", "pcm3pp", *where, "--device", "cpu", "--plain", *sets)
    run("evaluate", tmp_path / "run", "--set", "linear.epochs=10", "--device", "cpu", "--plain")
    run("report", tmp_path / "run")
    scores = {
        (result.task, result.subject): result.scores["accuracy"]
        for name in ("linear", "retrieval")
        for result in read_results(tmp_path / "run" / "results" / f"{name}.json")
    }
    assert len(scores) == 5
    # the classes can be told by their coordinates; four classes by chance: 25 %
    assert scores["retrieval", "coordinates"] > 0.6  # type: ignore[operator]
    assert scores["retrieval", "trained"] > 0.4  # type: ignore[operator]
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    for score in scores.values():
        assert f"{100 * score:.1f} %" in page
    said = capsys.readouterr()
    assert str(tmp_path / "run" / "report.html") in said.out
    assert "Warning" not in said.err


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("source", "videos"), [("pkummd1", 8), ("pkummd2", 8)])
def test_pku_mmd_videos_become_verified_actions(tmp_path: Path, source: str, videos: int, zipped: bool) -> None:
    data = converted(source, archives(source, tmp_path, videos, *(["--zip"] if zipped else [])), tmp_path)
    manifest = read_manifest(find_store(data, source))
    assert manifest.counts["sequences"] == videos
    assert manifest.counts["samples"] > videos
    for protocol in ("xsub", "xview"):
        sides = {cell.memberships[f"{source}/{protocol}"] for cell in manifest.cells.values()}
        assert sides == {"train", "test"}


def test_zips_and_folders_give_the_same_store(tmp_path: Path) -> None:
    stores = []
    for name, more in (("zips", ["--zip"]), ("folders", [])):
        raw = archives("pkummd1", tmp_path / name, 8, *more)
        stores.append(find_store(converted("pkummd1", raw, tmp_path / name), "pkummd1"))
    zips, folders = stores
    assert zips.name == folders.name
    for path in sorted(zips.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (folders / path.relative_to(zips)).read_bytes()
