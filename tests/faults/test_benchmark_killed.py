"""A benchmark that is killed, anywhere, ends with the tables and the runs of one that was left alone."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.synthetic import synthesize

# The command line, as a child of a process that has made the imports, for every line that it reads: arguments, and
# where the child kills itself: the function, its how manieth call, and whether before, halfway or after.
PROGRAM = """
import json, os, signal, sys
# what torch and a loader import at their first use: here once, not in every child
import pipelines.views.kernels
import torch._dynamo
import torch.fx.experimental.symbolic_shapes
import torch.utils.tensorboard.writer
import flows.benchmark.flow
import flows.benchmark.rounds as rounds
import flows.benchmark.run as run
import flows.benchmark.table as table
import flows.evaluate as evaluate
import models.training.engine as engine
import pipelines.convert as convert
from flows.cli import main

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


def die():
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def half(path, data):
    path.with_name(f".{path.name}.01234567.tmp").write_bytes(data[: len(data) // 2])


def arm(place, number, when):
    module, name = PLACES[place]
    plain, calls = getattr(module, name), []
    def armed(*arguments, **options):
        calls.append(None)
        if len(calls) != number:
            return plain(*arguments, **options)
        if when == "halfway":
            half(*arguments)
        if when == "after":
            plain(*arguments, **options)
        die()
    setattr(module, name, armed)


run._report = report
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        os.chdir(order["folder"])
        os.dup2(os.open("out.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
        if order["fault"]:
            arm(*order["fault"])
        code = main(["benchmark", "killed.yaml", "--plain"])
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

BENCHMARK: dict[str, Any] = {
    "name": "killed",
    "data": "data",
    "preprocess": [{"source": "ntu", "raw": ["../raw"], "workers": 0}],
    "methods": ["pcm3pp", "pcm3"],
    "datasets": ["ntu60/xview", "ntu120/xset"],
    "seeds": [0, 1],
    "tasks": ["linear", "retrieval"],
    "pretrain": {
        "objective": {"encoder.hidden": 8, "queue_size": 16},
        "train": {"batch_size": 8, "epochs": 2, "milestones": [], "post.epochs": 0, "checkpoint_every": 1},
        "views": {"frames": 16, "clip_frames": 4, "min_frames": 8},
    },
    "evaluate": {"linear": {"epochs": 1, "batch_size": 16, "crop": "centre"}, "baselines": False},
    "device": "cpu",
}
CELLS = 8


class Command:
    """`skelstream benchmark killed.yaml --plain` in processes of its own."""

    def __init__(self, folder: Path) -> None:
        program = folder / "program.py"
        program.write_text(PROGRAM)
        root = Path(__file__).resolve().parents[2]
        self.errors = (folder / "errors.txt").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", str(program)],
            env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "DO_NOT_TRACK": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def start(self, folder: Path, *fault: object) -> int:
        """The process id."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"folder": str(folder), "fault": fault}) + "\n")
        self.process.stdin.flush()
        return self._number()

    def end(self) -> int:
        return self._number()

    def run(self, folder: Path, *fault: object) -> int:
        """The exit status; minus the signal that ended it."""
        self.start(folder, *fault)
        return self.end()

    def said(self) -> str:
        self.errors.seek(0)
        return self.errors.read()

    def _number(self) -> int:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.said()
        return int(line)

    def close(self) -> None:
        self.process.communicate()
        self.errors.close()


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    made = Command(tmp_path_factory.mktemp("command"))
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
def undisturbed(command: Command, place: Callable[[str], Path]) -> Path:
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
    command: Command, place: Callable[[str], Path], undisturbed: Path
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
    assert table.count("| pcm3pp, joint |") == table.count("| pcm3, joint |") == 4
    # nothing was trained again: of the cell that was killed twice, all that came after its last checkpoint alone
    begun = [line for line in (folder / "out.txt").read_text().splitlines() if line.startswith("trains in")]
    assert len(begun) == CELLS + 2
    assert len(set(begun)) == CELLS + 1


def test_a_benchmark_killed_twice_at_a_moment_of_its_own_ends_as_one_left_alone(
    command: Command, place: Callable[[str], Path], undisturbed: Path
) -> None:
    folder = place("killed-twice")
    for cell, number in ((2, signal.SIGKILL), (6, signal.SIGTERM)):
        process = command.start(folder)
        while f"[{cell}/{CELLS}]" not in ((folder / "out.txt").read_text() if (folder / "out.txt").exists() else ""):
            time.sleep(0.01)
        os.kill(process, number)
        assert command.end() != 0
        assert not (folder / "runs" / "benchmarks" / "killed" / "rounds").exists()
    assert command.run(folder) == 0, command.said()
    assert outcome(folder) == outcome(undisturbed)
    assert scores(folder) == scores(undisturbed)
