"""A terminal that closes, and other ways in which a session ends: the training saves the very step, and says so."""

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch

from flows.machine.packages import HOME
from flows.options import PretrainOptions
from flows.pretrain import pretrain
from models.training.checkpoint import latest_checkpoint, load_checkpoint
from models.training.runlog import read_log
from tests.flows.serving import PATIENCE, environment, until

EPOCHS = 40
METHOD = "pcm3pp+tiny+no-post"
OVERRIDES = (f"train.epochs={EPOCHS}", "train.milestones=[30]", "train.checkpoint_every=40")


@pytest.fixture
def start(store: Path, tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Starts a long training in RUN, in a session of its own."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(*more: str, prefix: tuple[str, ...] = (), **streams: object) -> "subprocess.Popen[bytes]":
        sets = [word for override in OVERRIDES for word in ("--set", override)]
        command = [*prefix, sys.executable, str(HOME / "skelstream.py"), "pretrain", METHOD, "--data", str(store)]
        options = ["--dataset", "ntu60", "--protocol", "xview", "--run", str(tmp_path / "run"), "--device", "cpu"]
        process = subprocess.Popen(  # type: ignore[call-overload]  # streams are of many types
            [*command, *options, *sets, *more],
            env=environment(tmp_path / "home"), **{"start_new_session": True} | streams,
        )  # fmt: skip
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def saved_step(run: Path) -> str:
    path = latest_checkpoint(run)
    assert path is not None, "nothing was saved"
    assert re.fullmatch(r"epoch_\d+(_step_\d+)?\.pt", path.name)
    return path.name


def test_a_terminal_that_closes_costs_no_step_and_leaves_no_server(
    start: Callable[..., "subprocess.Popen[bytes]"], store: Path, tmp_path: Path
) -> None:
    master, slave = pty.openpty()
    run = tmp_path / "run"

    def own_terminal() -> None:
        os.setsid()
        os.close(os.open(os.ttyname(slave), os.O_RDWR))  # it becomes that of the session

    process = start(stdin=slave, stdout=slave, stderr=slave, start_new_session=False, preexec_fn=own_terminal)
    os.close(slave)
    os.set_blocking(master, False)

    def trained() -> bool:
        with suppress(BlockingIOError):
            os.read(master, 1 << 16)  # else it waits for somebody to read
        return len(read_log(run)) > 2 or process.poll() is not None

    until(trained)
    known = psutil.Process(process.pid).children(recursive=True)
    assert known, "its server"
    os.close(master)
    assert process.wait(PATIENCE) == 128 + signal.SIGHUP
    assert len(read_log(run)) < EPOCHS
    saved_step(run)
    until(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in known))
    known = {"data": store, "dataset": "ntu60", "protocol": "xview", "device": "cpu"}
    options = {"method": METHOD, "overrides": OVERRIDES, **known}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pretrain(PretrainOptions(**options, run=run))
    pretrain(PretrainOptions(**options, run=tmp_path / "undisturbed"))
    torch.set_num_threads(threads)
    ends = [load_checkpoint(path) for folder in (run, tmp_path / "undisturbed") if (path := latest_checkpoint(folder))]
    assert all(torch.equal(ends[0].objective[name], value) for name, value in ends[1].objective.items())


@pytest.mark.parametrize(
    "numbers",
    [
        (signal.SIGHUP, signal.SIGHUP),  # a shell that closes, then the kernel
        (signal.SIGTERM, signal.SIGHUP),  # a session that is ended
        (signal.SIGHUP, signal.SIGTERM),
        (signal.SIGUSR1,),  # a batch system, before the time is over
        (signal.SIGXCPU,),
        (signal.SIGQUIT,),
    ],
    ids=lambda numbers: " ".join(number.name for number in numbers),
)
def test_every_signal_that_ends_a_process_saves_first(
    numbers: tuple[signal.Signals, ...], start: Callable[..., "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with (tmp_path / "said").open("w+") as said:
        process = start("--plain", stdout=said, stderr=said)
        until(lambda: len(read_log(run)) > 1 or process.poll() is not None)
        for number in numbers:
            process.send_signal(number)
        assert process.wait(PATIENCE) in {128 + number for number in numbers}  # two at once come in any order
    assert "Traceback" not in (tmp_path / "said").read_text()
    assert "pretrain: with --resume" in (tmp_path / "said").read_text()
    saved_step(run)


def test_a_training_under_nohup_outlives_its_terminal(
    start: Callable[..., "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    with (tmp_path / "said").open("w") as said:
        process = start("--plain", prefix=("nohup",), stdout=said, stderr=said)
        until(lambda: len(read_log(tmp_path / "run")) > 1 or process.poll() is not None)
        process.send_signal(signal.SIGHUP)
        assert process.wait(PATIENCE) == 0
    assert len(read_log(tmp_path / "run")) == EPOCHS


def test_output_that_nobody_reads_ends_a_command_without_a_word(tmp_path: Path) -> None:
    command = f"{sys.executable} {HOME / 'skelstream.py'} methods"
    script = f"{command} | head -c 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout[1:].strip() in ("0", str(128 + signal.SIGPIPE))


def test_a_training_whose_bar_nobody_reads_goes_on(
    start: Callable[..., "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    process = start("--plain", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    process.stderr.readline()
    process.stderr.close()
    assert process.wait(PATIENCE) == 0
    assert len(read_log(tmp_path / "run")) == EPOCHS
