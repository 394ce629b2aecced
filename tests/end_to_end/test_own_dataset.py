"""A data set of one's own, from its package to a batch: the example of `pipelines/parsers/README.md`."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.conversion.convert import convert
from pipelines.loaders.resident import Resident
from pipelines.loaders.split import open_split
from pipelines.parsers import parse, parser
from pipelines.repair.stores import verify_data
from shards.errors import RawInputError
from shards.manifest import find_store, read_manifest
from shards.skeleton import JOINT_NAMES
from shards.store import open_store

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "tests" / "examples" / "coco17"
GESTURES = ("wave", "point", "clap", "bow", "kick")
NAMES = sorted(f"{gesture}_s{subject}_r{time}" for gesture in GESTURES for subject in (1, 2, 3) for time in (1, 2))


def recording(name: str, frames: int = 12) -> list[list[dict[str, object]]]:
    """A person of id 7 in every frame, a second one of id 8 in every other; millimetres, y downwards."""
    rng = np.random.default_rng(sum(name.encode()))
    walk = rng.normal(0, 300, (2, 1, 17, 3)) + rng.normal(0, 20, (2, frames, 17, 3)) + (0, 0, 3000)
    bodies = [[{"id": 7 + b, "joints": walk[b, t].round(3).tolist()} for b in range(2)] for t in range(frames)]
    return [listed[: 1 + t % 2] for t, listed in enumerate(bodies)]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty recordings."""
    folder = tmp_path_factory.mktemp("recordings")
    for name in NAMES:
        (folder / f"{name}.json").write_text(json.dumps(recording(name)))
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages in which `pip install -e` has left the metadata of the example."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    folder = tmp_path_factory.mktemp("site")
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [f"[{group}]\n{n} = {v}\n" for group, points in project["entry-points"].items() for n, v in points.items()]
    (info / "entry_points.txt").write_text("".join(lines))
    return folder


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example is installed in this process."""
    for folder in (site, EXAMPLE):
        monkeypatch.syspath_prepend(folder)


@pytest.fixture
def command(site: Path, tmp_path: Path) -> Callable[..., str]:
    """The command line in a process of its own, which finds the example by PYTHONPATH; gives what it prints."""

    def run(*words: str | Path) -> str:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (site, EXAMPLE, ROOT)))}
        line = [sys.executable, "-m", "skelstream", *map(str, words)]
        done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.usefixtures("installed")
def test_the_example_goes_from_raw_files_to_a_batch(raw: Path, tmp_path: Path) -> None:
    result = convert("coco17", [raw], tmp_path, workers=0)
    assert verify_data(tmp_path) == []
    manifest = read_manifest(find_store(tmp_path, "coco17"))
    assert (manifest.source, manifest.counts["samples"], manifest.dropped) == ("coco17", 30, [])
    sizes = {cell.memberships["coco17/xsub"]: cell.samples for cell in manifest.cells.values()}
    assert sizes == {"train": 20, "test": 10}
    split = open_split(result.folder, "coco17", "xsub", "train")
    batch = Resident(split, torch.device("cpu")).batch(split.order(window=1, seed=0, shuffle=True).epoch(0))
    assert batch.frames.shape[1:] == (2, 25, 3)
    assert batch.length.tolist() == [12] * 20
    assert sorted(batch.label.tolist()) == sorted([*range(5)] * 4)


@pytest.mark.usefixtures("installed")
def test_the_store_holds_the_mapped_joints_in_metres_with_y_upwards(raw: Path, tmp_path: Path) -> None:
    store = open_store(convert("coco17", [raw], tmp_path, workers=0, recipe="raw").folder / "store.zarr")
    row = NAMES.index("kick_s3_r2")
    info, frames = store.infos[row], store.sample(row)
    assert (info.key, info.label, info.subject, info.replication, info.bodies) == ("kick_s3_r2", 4, 3, 2, 2)
    coco = np.array(recording("kick_s3_r2")[1][1]["joints"]) * 0.001 * (1, -1, 1)
    hips = {"spine base": (coco[11] + coco[12]) / 2, "left knee": coco[13], "right foot": coco[16]}
    for joint, expected in hips.items():
        np.testing.assert_allclose(frames[1, 1, JOINT_NAMES.index(joint)], expected, rtol=1e-6)
    assert not frames[0, 1].any()


@pytest.mark.usefixtures("installed")
def test_what_the_parser_does_is_part_of_the_stores_identity(raw: Path, tmp_path: Path) -> None:
    steps = read_manifest(convert("coco17", [raw], tmp_path, workers=0).folder).recipe_steps
    assert {"name": "map joints", "from": "COCO 17", "to": "Kinect v2", "version": 1} in steps


@pytest.mark.usefixtures("installed")
def test_a_parser_gives_the_frames_slots_and_ids_of_its_file() -> None:
    sequence = parse("coco17", json.dumps(recording("bow_s1_r1")).encode(), "bow_s1_r1", "bow_s1_r1.json")
    assert sequence.frames.shape == (12, 2, 25, 3)
    assert sequence.num_bodies.tolist() == [1, 2] * 6
    assert sequence.body_ids.tolist() == [[7, 0], [7, 8]] * 6
    assert parser("coco17").suffixes == (".json",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[[{", "JSONDecodeError"),
        ("[[{}]]", r"KeyError \('id'\)"),
        ("7", "TypeError"),
        ("[" * 100_000, "RecursionError"),
        ('[[{"id": 1, "joints": [[0, 0, 0]]}]]', r"frame 1: found joints \(1, 3\), expected \(17, 3\)"),
        (
            f'[[{{"id": 1, "joints": {[[0, 0, 1e400]] * 17}}}]]'.replace("inf", "Infinity"),
            "frame 1: found (nan|inf|-inf) in body 1",
        ),
    ],
)
@pytest.mark.usefixtures("installed")
def test_a_bad_file_is_one_error_that_names_it(content: str, message: str) -> None:
    with pytest.raises(RawInputError, match=rf"^bad\.json: .*{message}"):
        parse("coco17", content.encode(), "wave_s1_r1", "bad.json")


def test_the_command_line_finds_the_installed_package(command: Callable[..., str], raw: Path, tmp_path: Path) -> None:
    said = command("preprocess", "coco17", raw, "--out", tmp_path / "data", "--workers", "0", "--plain")
    assert "30 sequences" in said
    assert command("verify", tmp_path / "data").rstrip().endswith("good")
    assert "coco17" in " ".join(command("pretrain", "--help").split())


def test_the_readme_shows_the_files_of_the_example() -> None:
    readme = (ROOT / "pipelines" / "parsers" / "README.md").read_text(encoding="utf-8")
    for language, file in (("python", "coco17.py"), ("toml", "pyproject.toml")):
        text = (EXAMPLE / file).read_text(encoding="utf-8")
        assert f"```{language}\n{text}```" in readme, file
