"""A run that is killed, at any moment, ends as if nothing had happened."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from models.training.checkpoint import latest_checkpoint, load_checkpoint
from models.training.runlog import LOG, TIME_FIELDS
from tests.patience import PATIENCE

STEPS, MAIN, POST = 5, 2, 2

# A process that does the undisturbed run, and then starts one as a child of itself for every line that it reads:
# folder, fault, number. So a run can be killed a hundred times without waiting for imports.
PROGRAM = """
import os, resource, signal, sys, time
from pathlib import Path
import torch
import tensorboard.summary.writer.record_writer
from models.encoders.gru import GRUConfig
from models.objectives.pcm3pp import PCM3PP, PCM3PPConfig
from models.training.engine import train
from models.training.schedule import Stage, TrainConfig
from shards.batch import Views
from shards.errors import CheckpointError

NAMES = ("base", "key", "target", "mix", "clip")


class EpochViews:
    def __init__(self, before):
        self.before = before

    def __len__(self):
        return 5

    def epoch(self, epoch, first_step=0):
        for step in range(first_step, 5):
            self.before(5 * epoch + step)
            generator = torch.Generator().manual_seed(1000 * epoch + step)
            views = {name: torch.randn(4, 5, 6, generator=generator) for name in NAMES}
            mask = torch.rand(1, 5, 6, generator=generator) < 0.5
            views["masked"] = views["target"] * mask
            yield Views(
                views=views,
                label=torch.zeros(4, dtype=torch.int64),
                sample_id=torch.arange(4),
                masks={"masked": mask},
                mix_partner=torch.arange(4).roll(1),
                mix_weight=torch.rand(4, generator=generator),
            )


def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)


def nth(number, plain, strike):
    calls = []
    def wrapper(*arguments, **options):
        calls.append(None)
        return (strike if len(calls) == number else plain)(*arguments, **options)
    return wrapper


def torn(payload, file):
    file.write(bytes(1000))
    file.flush()
    die()


def main(run, fault, number):
    before = lambda step: None
    if fault == "step":
        before = lambda step: die() if step == number else None
    elif fault == "slow":
        before = lambda step: (Path(run, f"at_{step}").touch(), time.sleep(0.05))
    elif fault == "save":
        torch.save = nth(number, torch.save, torn)
    elif fault == "sync":
        os.fsync = nth(number, os.fsync, die)
    elif fault == "rename":
        Path.replace = nth(number, Path.replace, die)
    elif fault == "renamed":
        plain = Path.replace
        Path.replace = nth(number, plain, lambda *arguments: (plain(*arguments), die()))
    elif fault == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))
    config = TrainConfig(
        epochs=2, batch_size=4, lr=0.1, milestones=(1,), checkpoint_every=1, checkpoint_steps=3, log_every=2,
        stages=(Stage(name="post", epochs=2, lr=0.05, terms=("distill", "prediction")),), explosion=0,
    )
    objective = PCM3PP(PCM3PPConfig(encoder=GRUConfig(input_size=6, hidden=8), queue_size=16, feature_dim=5))
    train(objective, EpochViews(before), config, Path(run), meta={"fingerprint": "f"}, resume=True)


main(sys.argv[1], "none", 0)
print(0, flush=True)
for line in sys.stdin:
    run, fault, number = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if child == 0:
        try:
            main(run, fault, int(number))
        except CheckpointError as error:
            Path(run, "error").write_text(str(error))
            os._exit(3)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Runner:
    """Talks to the process of `PROGRAM`."""

    def __init__(self, folder: Path) -> None:
        self.whole, program = folder / "whole", folder / "program.py"
        program.write_text(PROGRAM)
        root = Path(__file__).resolve().parents[2]
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", str(program), str(self.whole)],
            env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.end() == 0

    def start(self, run: Path, fault: str = "none", number: int = 0) -> int:
        """Begin or go on with a run, with a fault in it; its process."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{run}\t{fault}\t{number}\n")
        self.process.stdin.flush()
        return self._answer()

    def end(self) -> int:
        """How the run ended: exit status, or minus the signal."""
        return self._answer()

    def run(self, run: Path, fault: str = "none", number: int = 0) -> int:
        self.start(run, fault, number)
        return self.end()

    def _answer(self) -> int:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        return int(line)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    started = Runner(tmp_path_factory.mktemp("program"))
    yield started
    started.process.communicate(timeout=PATIENCE)


@pytest.fixture
def whole(runner: Runner) -> Path:
    """A run that nothing disturbed."""
    return runner.whole


def lines_without_time(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(text) for text in (run / LOG).read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIME_FIELDS} for line in lines]


def files(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def assert_equal_runs(left: Path, right: Path, told: object = "") -> None:
    assert files(left) == files(right), told
    for name in files(left):
        assert (left / "checkpoints" / name).read_bytes() == (right / "checkpoints" / name).read_bytes(), (name, told)
    assert lines_without_time(left) == lines_without_time(right), told


def test_an_undisturbed_run_leaves_the_checkpoints_it_should(whole: Path) -> None:
    assert files(whole) == [
        "epoch_0002.pt",  # the last of the main stage
        "epoch_0003.pt",
        "epoch_0003_step_000003.pt",
        "epoch_0004.pt",
    ]
    last = load_checkpoint(whole / "checkpoints" / "epoch_0004.pt")
    assert {"queue.keys", "key_encoder.input_norm.running_mean", "prompts.base"} <= last.objective.keys()
    assert len(lines_without_time(whole)) == (MAIN + POST) * (STEPS // 2 + 1)


def test_a_run_killed_at_every_step_in_turn_ends_the_same(runner: Runner, whole: Path, tmp_path: Path) -> None:
    for step in range(STEPS * (MAIN + POST)):
        assert runner.run(tmp_path, "step", step) == -signal.SIGKILL
        latest = latest_checkpoint(tmp_path)
        # there is one after each epoch, and one after its first three steps, written when the views of the fourth come
        within = 3 if step % STEPS > 3 else 0
        assert (load_checkpoint(latest).step if latest else 0) == step - step % STEPS + within
    assert runner.run(tmp_path) == 0
    assert_equal_runs(whole, tmp_path)


def test_a_run_killed_once_at_a_random_step_ends_the_same(runner: Runner, whole: Path, tmp_path: Path) -> None:
    for step in random.sample(range(STEPS * (MAIN + POST)), 3):
        run = tmp_path / str(step)
        assert runner.run(run, "step", step) == -signal.SIGKILL
        assert runner.run(run) == 0
        assert_equal_runs(whole, run, step)


def test_a_run_killed_as_it_writes_a_checkpoint_ends_the_same(runner: Runner, whole: Path, tmp_path: Path) -> None:
    for number in (1, 4, 2 * (MAIN + POST)):
        run = tmp_path / str(number)
        assert runner.run(run, "save", number) == -signal.SIGKILL
        leftovers = [path.stat().st_size for path in (run / "checkpoints").iterdir() if path.name.endswith(".tmp")]
        assert leftovers == [1000]
        assert runner.run(run) == 0
        assert_equal_runs(whole, run, number)


@pytest.mark.parametrize("fault", ["sync", "rename", "renamed"])
def test_a_run_killed_in_writing_again_and_again_ends_the_same(
    runner: Runner, whole: Path, tmp_path: Path, fault: str
) -> None:
    number = 1
    while (end := runner.run(tmp_path, fault, number)) != 0:
        assert end == -signal.SIGKILL
        number += 1
    assert number > 3
    assert_equal_runs(whole, tmp_path)


def test_a_run_killed_at_random_moments_ends_the_same(runner: Runner, whole: Path, tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    draws = random.Random(seed)
    for _ in range(10):
        process = runner.start(tmp_path)
        time.sleep(draws.uniform(0, 0.5))
        with suppress(ProcessLookupError):  # it may have come to its end
            os.kill(process, signal.SIGKILL)
        assert runner.end() in (0, -signal.SIGKILL)
    assert runner.run(tmp_path) == 0
    assert_equal_runs(whole, tmp_path, f"the moments were drawn by seed {seed}")


@pytest.mark.parametrize("at", [7, 13])
def test_a_terminated_process_leaves_the_very_step_it_was_in(
    runner: Runner, whole: Path, tmp_path: Path, at: int
) -> None:
    process = runner.start(tmp_path, "slow")
    while not (tmp_path / f"at_{at}").exists():
        time.sleep(0.005)
    os.kill(process, signal.SIGTERM)
    assert runner.end() == -signal.SIGTERM
    latest = latest_checkpoint(tmp_path)
    assert latest is not None
    assert at <= load_checkpoint(latest).step < at + 4
    assert runner.run(tmp_path) == 0
    assert lines_without_time(whole) == lines_without_time(tmp_path)
    last = "checkpoints/epoch_0004.pt"
    assert (whole / last).read_bytes() == (tmp_path / last).read_bytes()


def test_a_full_disk_stops_with_one_error_and_the_run_goes_on_when_there_is_room(
    runner: Runner, whole: Path, tmp_path: Path
) -> None:
    assert runner.run(tmp_path, "step", 7) == -signal.SIGKILL
    before = files(tmp_path)
    size = max(path.stat().st_size for path in (tmp_path / "checkpoints").iterdir())
    assert runner.run(tmp_path, "full", size - 1000) == 3
    message = (tmp_path / "error").read_text()
    assert "found no space left (File too large)" in message
    assert f"{before[-1]} stays, resume from it" in message
    assert files(tmp_path) == before
    assert runner.run(tmp_path) == 0
    assert_equal_runs(whole, tmp_path)


def test_a_garbled_last_checkpoint_is_told_and_removing_it_helps(runner: Runner, whole: Path, tmp_path: Path) -> None:
    assert runner.run(tmp_path) == 0
    last = latest_checkpoint(tmp_path)
    assert last is not None
    last.write_bytes(last.read_bytes()[:-100])
    assert runner.run(tmp_path) == 3
    message = (tmp_path / "error").read_text()
    assert "epoch_0004.pt: found a zip that was cut short" in message
    assert "remove it to go on from the one before" in message
    last.unlink()
    assert runner.run(tmp_path) == 0
    assert_equal_runs(whole, tmp_path)
