"""A run that is killed, at any moment, ends as if nothing had happened."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from models.training.checkpoint import latest_checkpoint, load_checkpoint
from models.training.monitor import LOG, TIME_FIELDS
from shards.errors import CheckpointError

# run as a process of its own, so that it can be killed: PROGRAM RUN FAULT NUMBER
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
import torch
from torch import nn
from models.training.engine import TrainConfig, train
from shards.batch import Views


class Objective(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.encoder = nn.GRU(6, 5, batch_first=True)
            self.register_buffer("queue", torch.randn(16, 5))

    def draw(self, seed, epoch, step, n):
        return torch.rand(n, 1, 1, generator=torch.Generator().manual_seed(1000 * epoch + step))

    def forward(self, views, draws):
        feature = self.encoder(views.views["x"] * draws)[0][:, -1]
        term = (feature @ self.queue.clone().T).logsumexp(1).mean()
        with torch.no_grad():
            self.queue.copy_(torch.cat([feature, self.queue[:-4]]))
        return {"contrast": term, "size": feature.square().mean()}


class EpochViews:
    def __init__(self, before):
        self.before = before

    def __len__(self):
        return 6

    def epoch(self, epoch, first_step=0):
        for step in range(first_step, 6):
            self.before(6 * epoch + step)
            x = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(1000 * epoch + step))
            yield Views({"x": x}, torch.zeros(4, dtype=torch.int64), torch.arange(4))


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def main(run, fault, number):
    before = lambda step: None
    if fault == "step":
        before = lambda step: die() if step == number else None
    elif fault == "slow":
        before = lambda step: (Path(run, f"at_{step}").touch(), time.sleep(0.05))
    elif fault == "save":
        saves, save = [], torch.save
        def torn(payload, file):
            saves.append(None)
            if len(saves) == number:
                file.write(bytes(1000))
                file.flush()
                die()
            save(payload, file)
        torch.save = torn
    config = TrainConfig(epochs=4, batch_size=4, lr=0.1, milestones=(3,), checkpoint_every=1, log_every=2)
    train(Objective(), EpochViews(before), config, Path(run), meta={"fingerprint": "f"}, resume=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def start(program: Path, run: Path, fault: str, number: int = 0) -> "subprocess.Popen[str]":
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(program), str(run), fault, str(number)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def undisturbed(program: Path, run: Path) -> Path:
    runpy.run_path(str(program))["main"](str(run), "none", 0)
    return run


def lines_without_time(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(text) for text in (run / LOG).read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIME_FIELDS} for line in lines]


def assert_equal_runs(left: Path, right: Path) -> None:
    names = [sorted(path.name for path in (run / "checkpoints").iterdir()) for run in (left, right)]
    assert names[0] == names[1]
    for name in names[0]:
        assert (left / "checkpoints" / name).read_bytes() == (right / "checkpoints" / name).read_bytes()
    assert lines_without_time(left) == lines_without_time(right)


def test_a_run_killed_in_a_step_and_in_the_writing_of_a_checkpoint_ends_the_same(program: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    for fault, number, last in [("step", 3, None), ("step", 9, "epoch_0001.pt"), ("save", 2, "epoch_0002.pt")]:
        process = start(program, run, fault, number)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        latest = latest_checkpoint(run)
        assert (latest.name if latest else None) == last
    # the file that the last kill left half-written is no checkpoint, and goes with the next one
    leftovers = [path for path in (run / "checkpoints").iterdir() if path.name.endswith(".tmp")]
    assert [path.stat().st_size for path in leftovers] == [1000]
    runpy.run_path(str(program))["main"](str(run), "none", 0)
    assert_equal_runs(undisturbed(program, tmp_path / "whole"), run)


def test_a_terminated_process_leaves_the_very_step_it_was_in(program: Path, tmp_path: Path) -> None:
    run = tmp_path / "terminated"
    process = start(program, run, "slow")
    while not (run / "at_8").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    assert "no checkpoint to resume from, starting from scratch" in errors
    assert "Traceback" not in errors
    latest = latest_checkpoint(run)
    assert latest is not None
    assert 8 <= load_checkpoint(latest).step < 12
    runpy.run_path(str(program))["main"](str(run), "none", 0)
    whole = undisturbed(program, tmp_path / "whole")
    assert lines_without_time(whole) == lines_without_time(run)
    last = [latest_checkpoint(folder) for folder in (whole, run)]
    assert last[0] is not None
    assert last[1] is not None
    assert last[0].read_bytes() == last[1].read_bytes()


def test_a_garbled_last_checkpoint_is_told_and_removing_it_helps(program: Path, tmp_path: Path) -> None:
    whole = undisturbed(program, tmp_path / "whole")
    run = undisturbed(program, tmp_path / "garbled")
    last = latest_checkpoint(run)
    assert last is not None
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"epoch_0004\.pt.*remove it to go on from the one before"):
        undisturbed(program, run)
    last.unlink()
    assert_equal_runs(whole, undisturbed(program, run))
