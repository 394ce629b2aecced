"""A benchmark that is killed, anywhere, ends with the tables and the runs of one that was left alone."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.synthetic import synthesize
from tests.faults.killing import Command

PLACES = """
import flows.deployments.benchmark
import flows.benchmark.rounds as rounds
import flows.benchmark.run as run
import flows.benchmark.table as table
import flows.evaluate as evaluate
import models.training.engine as engine
import pipelines.conversion.convert as convert

PLACES = {
    "publish": (convert, "_publish"),
    "checkpoint": (engine, "save_checkpoint"),
    "row": (evaluate, "write_results"),
    "yaml": (run, "write_atomic"),
    "tables": (table, "write_atomic"),
    "report": (run, "_report"),
    "round": (run, "write_model"),
}


def report(done):
    path = done.config.folder / "report.html"
    path.write_text("".join(planned.run.name for planned in done.cells))


run._report = report
"""

BENCHMARK: dict[str, Any] = {
    "name": "killed",
    "data": "data",
    "preprocess": [{"source": "ntu", "raw": ["../raw"], "workers": 0}],
    "methods": ["pcm3pp+tiny+no-post", "pcm3+tiny"],
    "datasets": ["ntu60/xview", "ntu120/xset"],
    "seeds": [0, 1],
    "tasks": ["linear", "retrieval"],
    "pretrain": {"train": {"checkpoint_every": 1}},
    "evaluate": {"linear": {"epochs": 1, "batch_size": 16, "crop": "centre"}, "baselines": False},
    "device": "cpu",
}
CELLS = 8


class Benchmark(Command):
    """`skelstream benchmark killed.yaml --plain` in a folder."""

    def begin(self, folder: Path, *fault: object) -> int:
        """The process id."""
        return self.start(["benchmark", "killed.yaml", "--plain"], *fault, folder=folder, out="out.txt")

    def run(self, folder: Path, *fault: object) -> int:
        """The exit status; minus the signal that ended it."""
        self.begin(folder, *fault)
        return self.end()


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Benchmark]:
    made = Benchmark(tmp_path_factory.mktemp("command"), PLACES)
    yield made
    made.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A working directory with the benchmark's file, beside the raw archives."""
    root = tmp_path_factory.mktemp("places")
    synthesize("ntu", root / "raw", subjects=4, classes=3, samples=24, seed=0, zipped=True)

    def make(name: str) -> Path:
        folder = root / name
        folder.mkdir()
        (folder / "killed.yaml").write_text(yaml.safe_dump(BENCHMARK))
        return folder

    return make


@pytest.fixture(scope="module")
def undisturbed(command: Benchmark, place: Callable[[str], Path]) -> Path:
    folder = place("undisturbed")
    assert command.run(folder) == 0, command.said()
    return folder


def outcome(folder: Path) -> dict[str, bytes]:
    """All that has to be the same, by its path: tables, report, rounds, configurations, and the last checkpoints."""
    wanted = ("benchmarks/**/*", "*/config.json", "*/checkpoints/epoch_0002.pt")
    paths = {path for pattern in wanted for path in (folder / "runs").glob(pattern)}
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_file()}


def scores(folder: Path) -> dict[str, list[Any]]:
    """Of each file of results, what is not of the time that scoring took."""
    return {
        str(path.relative_to(folder)): [
            {name: row[name] for name in ("subject", "setting", "options", "scores", "checkpoint_sha256")}
            for row in json.loads(path.read_text())["results"]
        ]
        for path in (folder / "runs").glob("*/results/*.json")
    }


def test_a_benchmark_killed_at_every_stage_ends_as_one_left_alone(
    command: Benchmark, place: Callable[[str], Path], undisturbed: Path
) -> None:
    folder = place("killed")
    faults = [
        ("publish", 1, "before"),  # the conversion
        ("yaml", 1, "halfway"),
        ("checkpoint", 3, "before"),  # the second cell, in its first epoch
        ("checkpoint", 1, "after"),
        ("row", 1, "before"),  # the second cell is trained, and not scored
        ("row", 4, "after"),  # the third has its linear row
        ("tables", 2, "halfway"),
        ("report", 1, "before"),
        ("round", 1, "before"),
    ]
    for fault in faults:
        assert command.run(folder, *fault) == -signal.SIGKILL, (fault, command.said())
        assert not (folder / "runs" / "benchmarks" / "killed" / "rounds").exists()
    assert command.run(folder) == 0, command.said()
    assert outcome(folder) == outcome(undisturbed)
    assert scores(folder) == scores(undisturbed)
    table = (folder / "runs" / "benchmarks" / "killed" / "table.md").read_text()
    assert [table.count(f"| {method}, joint |") for method in BENCHMARK["methods"]] == [4, 4]
    # nothing was trained again: of the cell that was killed twice, all that came after its last checkpoint alone
    begun = [line for line in (folder / "out.txt").read_text().splitlines() if line.startswith("trains in")]
    assert len(begun) == CELLS + 2
    assert len(set(begun)) == CELLS + 1


def test_a_benchmark_killed_twice_at_a_moment_of_its_own_ends_as_one_left_alone(
    command: Benchmark, place: Callable[[str], Path], undisturbed: Path
) -> None:
    folder = place("killed-twice")
    for cell, number in ((2, signal.SIGKILL), (6, signal.SIGTERM)):
        process = command.begin(folder)
        while f"[{cell}/{CELLS}]" not in ((folder / "out.txt").read_text() if (folder / "out.txt").exists() else ""):
            time.sleep(0.01)
        os.kill(process, number)
        assert command.end() != 0
        assert not (folder / "runs" / "benchmarks" / "killed" / "rounds").exists()
    assert command.run(folder) == 0, command.said()
    assert outcome(folder) == outcome(undisturbed)
    assert scores(folder) == scores(undisturbed)
