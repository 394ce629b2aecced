"""An evaluation that is killed, at any moment, ends with the results of an undisturbed one, and scores no row twice."""

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.options import PretrainOptions
from flows.pretrain import pretrain
from flows.tasks.bench import scoring
from pipelines.conversion.convert import convert
from pipelines.synthetic import synthesize
from tests.faults.killing import Command

SHORT = (
    *("linear.epochs=2", "linear.batch_size=16", "linear.crop=centre", "finetune.epochs=1", "semi.fractions=[0.5]"),
    *("semi.draws=1", "few_shot.ways=2", "few_shot.queries=1", "few_shot.shots=[1,2]", "few_shot.episodes=5"),
    *('occluded.kinds=["temporal"]', "robustness.noise=[0.1]", "robustness.missing_joints=[]"),
    *("robustness.shorter=[]", "robustness.rotated=[90]", "early.ratios=[0.5]"),
)

PLACES = """
import flows.evaluate
import models.evaluation.feature_store as feature_store
import models.evaluation.results as results

PLACES = {
    "features sync": (feature_store, "sync"),
    "features rename": (feature_store, "_rename"),
    "row": (flows.evaluate, "_run"),
    "results": (flows.evaluate, "write_results"),
    "results file": (results, "write_atomic"),
}
"""


class Evaluation(Command):
    """`skelstream evaluate RUN --tasks all`."""

    def begin(self, run: Path, *fault: object) -> int:
        """The process id."""
        arguments = ["evaluate", str(run), "--tasks", "all", "--plain", "--device", "cpu"]
        return self.start([*arguments, *(part for override in SHORT for part in ("--set", override))], *fault)


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evaluation]:
    made = Evaluation(tmp_path_factory.mktemp("command"), PLACES)
    yield made
    made.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that nobody has scored."""
    folder = tmp_path_factory.mktemp("killed")
    raw = synthesize("ntu", folder / "raw", subjects=4, classes=4, samples=24, seed=0, zipped=False)
    store = convert("ntu", [raw], folder / "data", workers=0).folder
    known: dict[str, Any] = {"data": store, "dataset": "ntu60", "protocol": "xview", "device": "cpu"}
    pretrain(PretrainOptions(method="pcm3pp+tiny+no-post", run=folder / "run", overrides=("train.epochs=1",), **known))
    return folder / "run"


@pytest.fixture(scope="module")
def undisturbed(command: Evaluation, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    shutil.copytree(run, folder)
    command.begin(folder)
    assert command.end() == 0
    return folder


def content(run: Path) -> dict[str, object]:
    """Every file that an evaluation writes, of results the rows without what tells their time."""
    found: dict[str, object] = {}
    for path in sorted(path for name in ("results", "features") for path in (run / name).rglob("*")):
        if path.suffix == ".json" and '"results"' in path.read_text():
            rows = json.loads(path.read_text())["results"]
            found[str(path.relative_to(run))] = [{**row, "time": None, "seconds": None} for row in rows]
        elif path.is_file() and path.suffix != ".lock" and path.name != ".lock":
            found[str(path.relative_to(run))] = path.read_bytes()
    return found


def mark(run: Path, name: str) -> int:
    """Write a mark over the time of all rows that are there, unless they have one; their number."""
    rows = 0
    for path in (run / "results").glob("[!.]*.json"):
        text, marked = re.subn(r'"time": "(20[^"]+|kept [^"]+)"', f'"time": "kept {name}"', path.read_text())
        path.write_text(text)
        rows += marked
    return rows


def marks(run: Path) -> list[str]:
    return [
        row["time"]
        for path in (run / "results").glob("[!.]*.json")
        for row in json.loads(path.read_text()).get("results", [])
    ]


def extracted(run: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of the folders of features."""
    stats = {path.name: path.stat() for path in (run / "features").glob("[!.]*")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


FAULTS = (
    ("features sync", 2, "before"),  # in the middle of the first features
    ("row", 1, "after"),  # features and class scores are there, the row is not
    ("results file", 2, "halfway"),  # one row of linear is there
    ("results", 5, "after"),  # in the middle of a task with several rows
    ("results file", 9, "halfway"),
)


def test_an_evaluation_that_is_killed_again_and_again_ends_as_an_undisturbed_one(
    command: Evaluation, undisturbed: Path, run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    done = 0
    for fault in FAULTS:
        command.begin(folder, *fault)
        assert command.end() == -signal.SIGKILL, fault
        before = extracted(folder)
        rows = mark(folder, "once")
        assert rows >= done, "rows were lost"
        assert marks(folder).count("kept once") == rows
        done = rows
    assert any(path.name.endswith(".tmp") for path in folder.rglob(".*")), "nothing half-written was left to remove"
    assert 0 < done < 30
    command.begin(folder)
    assert command.end() == 0
    assert {name: stat for name, stat in extracted(folder).items() if name in before} == before
    assert marks(folder).count("kept once") == done
    assert content(folder) == content(undisturbed)


def test_an_evaluation_that_is_killed_from_outside_goes_on(
    command: Evaluation, undisturbed: Path, run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    for awaited in ("features/[!.]*", "results/robustness.json"):
        process = command.begin(folder)
        while not list(folder.glob(awaited)):
            os.kill(process, 0)  # an error when it has ended by itself
            time.sleep(0.001)
        os.kill(process, signal.SIGKILL)
        assert command.end() == -signal.SIGKILL
        rows = mark(folder, "once")
    command.begin(folder)
    assert command.end() == 0
    assert marks(folder).count("kept once") == rows
    assert content(folder) == content(undisturbed)


def test_the_first_to_score_removes_what_was_left_half_written_and_others_do_not(tmp_path: Path) -> None:
    results = tmp_path / "results"
    left, whole = results / "class-scores" / ".linear.npz.01234567.tmp", results / "linear.json"
    left.parent.mkdir(parents=True)
    for path in (left, whole):
        path.write_bytes(b"half")
    with scoring(results):
        assert not left.exists()
        left.write_bytes(b"at work")
        with scoring(results):
            assert left.exists()
    assert whole.exists()
    with scoring(results):
        assert not left.exists()
