"""Training in several ranks as a user starts it: the same run, one voice, and an orderly end whatever happens."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from flows.build import pick_ranks_device
from flows.cli import main as cli
from flows.cli import rank as cli_rank
from flows.machine import launch, rank
from flows.options import PretrainOptions
from flows.pretrain import pretrain, resolve
from models.training.checkpoint import latest_checkpoint, load_checkpoint
from models.training.runlog import LOG, TIME_FIELDS, read_log
from shards.errors import ConfigError
from tests.patience import PATIENCE

Make = Callable[..., PretrainOptions]


def command(options: PretrainOptions, *more: str) -> list[str]:
    sets = [word for override in options.overrides for word in ("--set", override)]
    given = [
        word
        for name in ("data", "dataset", "protocol", "run", "device")
        for word in (f"--{name}", str(getattr(options, name)))
    ]
    return ["pretrain", options.method, *given, *sets, "--plain", *more]


def start(arguments: list[str], **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "skelstream", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def lines_of(errors: str) -> list[str]:
    """What was said beside the progress bar."""
    return [line for line in errors.replace("\r", "\n").splitlines() if "skelstream: " in line]


def untimed(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(text) for text in (run / LOG).read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIME_FIELDS} for line in lines]


def test_two_ranks_make_the_run_of_one_process_and_speak_once(
    run: Path,
    options: Make,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "ERROR")  # as the command sets it
    ours = options(tmp_path / "two $local_rank")
    before = dict(os.environ), signal.getsignal(signal.SIGTERM)
    assert cli.main(command(ours, "--gpus", "2")) == 0
    assert (dict(os.environ), signal.getsignal(signal.SIGTERM)) == before
    said = capfd.readouterr()
    assert said.out == f"{ours.run / 'checkpoints' / 'epoch_0002.pt'}: 2 epochs, 8 steps\n"
    assert said.err.count("loader: ") == 1
    assert "arning" not in said.err
    for name in ("config.json", "run.json"):
        assert (ours.run / name).read_bytes() == (run / name).read_bytes()
    found, expected = (load_checkpoint(folder / "checkpoints" / "epoch_0002.pt") for folder in (ours.run, run))
    for kind in ("objective", "optimizer"):
        for name, value in getattr(expected, kind).items():
            torch.testing.assert_close(getattr(found, kind)[name], value, rtol=0, atol=1e-5, msg=f"{kind} {name}")
    for line, alone in zip(untimed(ours.run), untimed(run), strict=True):
        for name, value in alone.items():
            nested = isinstance(value, dict)
            assert line[name] == (pytest.approx(value, rel=1e-4, abs=1e-5) if nested or name == "loss" else value), name
    assert cli.main(command(ours, "--gpus", "2")) == 0
    assert capfd.readouterr() == (said.out, "")


def await_steps(process: "subprocess.Popen[str]", run: Path, steps: int) -> None:
    """Wait until the log tells of so many steps; lines are written every step."""
    while not any(line["step"] >= steps for line in read_log(run, "step")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def ranks_of(process: "subprocess.Popen[str]") -> dict[int, psutil.Process]:
    return {int(child.environ()["RANK"]): child for child in psutil.Process(process.pid).children()}


def test_a_run_in_ranks_goes_on_after_a_termination_and_after_the_death_of_a_rank(
    options: Make, tmp_path: Path
) -> None:
    changes = ("train.epochs=15", "train.checkpoint_steps=2", "train.log_every=1", "train.keep_checkpoints=2")
    ours = options(tmp_path / "run", *changes)
    for number, (steps, said, status) in enumerate(
        [
            (4, "skelstream: terminated; the same command goes on from there (pretrain: with --resume)", 143),
            (12, "rank 1 was ended by SIGKILL; the same command goes on from there, with --resume", 1),
        ]
    ):
        process = start(command(ours, "--gpus", "2", "--resume"))
        await_steps(process, ours.run, steps)
        ranks = ranks_of(process)
        assert ranks.keys() == {0, 1}
        (process.terminate if number == 0 else ranks[1].kill)()
        output, errors = process.communicate(timeout=PATIENCE)
        assert (process.returncode, output) == (status, "")
        (line,) = lines_of(errors)
        assert line.endswith(said)
        assert "Traceback" not in errors
        assert not any(child.is_running() for child in ranks.values())
        path = latest_checkpoint(ours.run)
        assert path is not None
        assert load_checkpoint(path).step >= steps - 2 * number
    result = pretrain(ours.model_copy(update={"resume": True}))
    assert (result.epochs, result.steps) == (15, 60)
    assert [line["step"] for line in read_log(ours.run, "step")] == list(range(1, 61))


def test_an_error_in_ranks_is_told_once_and_leaves_no_process(
    options: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ours = options(tmp_path / "run")
    ours.run.mkdir()
    before = set(psutil.Process().children())  # other tests of this process may have left some, such as a cluster's
    with (ours.run / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert cli.main(command(ours, "--gpus", "2")) == 1
    said = capfd.readouterr()
    (line,) = lines_of(said.err)
    assert line == f"skelstream: error: {ours.run}: found another process training in it, expected to be the only one"
    assert (said.out, said.err.count("Traceback")) == ("", 0)
    assert set(psutil.Process().children()) <= before


def test_ranks_started_by_hand_refuse_to_disagree(options: Make, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = [
        start(
            command(options(tmp_path / "run", f"train.lr=0.{1 + number}")),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
            **dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), "2"),
            **dict.fromkeys(("RANK", "LOCAL_RANK"), str(number)),
        )
        for number in range(2)
    ]
    for process in processes:
        output, errors = process.communicate(timeout=PATIENCE)
        assert (process.returncode, output) == (1, "")
        text = "rank 1: found config.train.lr 0.2, expected 0.1 as on rank 0"
        assert lines_of(errors) == [f"skelstream: error: {text}"]
        assert "Traceback" not in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("gpus", "device", "message"),
    [
        ("3", "cpu", "--gpus 3: train.batch_size is 8, expected a multiple of 3"),
        ("2", "auto", "--gpus 2: found 1 CUDA devices, expected at least 2, or --device cpu"),
        ("2", "cuda", "--gpus 2: found 1 CUDA devices, expected at least 2, or --device cpu"),
        ("2", "cuda:0", "--device cuda:0 with --gpus 2: expected auto, cuda or cpu; each rank takes its own"),
    ],
)
def test_ranks_that_cannot_be_are_refused_before_any_starts(
    options: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    gpus: str,
    device: str,
    message: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert cli.main(command(options(tmp_path / "run", device=device), "--gpus", gpus)) == 1
    assert capfd.readouterr() == ("", f"skelstream: error: {message}\n")
    assert not (tmp_path / "run").exists()


def test_as_many_gpus_as_asked_for_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [pick_ranks_device(name, 2).type for name in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]


def be_rank(monkeypatch: pytest.MonkeyPatch, number: int, error_file: Path | None, run_id: str = rank.RUN_ID) -> None:
    variables = {"RANK": str(number), "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": run_id}
    if error_file is not None:
        variables["TORCHELASTIC_ERROR_FILE"] = str(error_file)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_a_rank_starts_no_ranks_and_takes_no_single_device(
    options: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_rank(monkeypatch, 0, None)
    with pytest.raises(ConfigError, match="--gpus: found a rank that torchrun started"):
        resolve(options(tmp_path / "run", gpus=2))
    with pytest.raises(ConfigError, match="--device cuda:1 in a rank"):
        resolve(options(tmp_path / "run", device="cuda:1"))


@pytest.mark.parametrize(
    ("number", "run_id", "spoken"),
    [(0, rank.RUN_ID, False), (1, rank.RUN_ID, False), (0, "by hand", True), (1, "by hand", False)],
)
def test_a_rank_leaves_its_error_to_its_launcher_and_the_leader_speaks_under_torchrun(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    run_id: str,
    spoken: bool,
) -> None:
    be_rank(monkeypatch, number, tmp_path / "error.json", run_id)
    assert cli.main(["verify", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith("skelstream: error: ") == spoken
    ((kind, text),) = rank.left_errors(tmp_path)
    assert kind == rank.USER
    assert text.startswith(f"{tmp_path / 'none'}: found no")


def test_an_error_of_the_program_in_a_rank_is_left_with_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    be_rank(monkeypatch, 1, tmp_path / "error.json")
    assert cli_rank.main("{}", progress=False) == 1
    assert capsys.readouterr() == ("", "")
    ((kind, text),) = rank.left_errors(tmp_path)
    assert kind == rank.BUG
    assert text.startswith("Traceback")
    assert "ValidationError" in text


def failure(exitcode: int, timestamp: int) -> ProcessFailure:
    made = ProcessFailure(0, 1, exitcode, "none")
    made.timestamp = timestamp
    return made


def test_the_error_told_is_the_one_that_explains_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, (kind, text) in enumerate([(rank.BUG, "lost connection"), (rank.USER, "no such folder")]):
        (tmp_path / str(number)).mkdir()
        be_rank(monkeypatch, number, tmp_path / str(number) / "error.json")
        rank.leave_error(text, kind)
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "error.json").write_text('{"message": {"mess')
    with pytest.raises(launch.RankError, match=r"^no such folder$"):
        launch._raise_users_error(tmp_path)
    (tmp_path / "1" / "error.json").unlink()
    launch._raise_users_error(tmp_path)
    killed = {0: failure(1, 100), 1: failure(-signal.SIGKILL, 101)}
    assert "rank 1 was ended by SIGKILL" in str(launch._cause(tmp_path, killed))
    killed_late = {0: failure(1, 100), 1: failure(-signal.SIGKILL, 130)}
    assert str(launch._cause(tmp_path, killed_late)).endswith("in a rank:\nlost connection")
    (tmp_path / "0" / "error.json").unlink()
    assert "rank 0 ended with exit status 1" in str(launch._cause(tmp_path, killed_late))
    assert "rank 1 was ended by SIGTERM" in str(launch._cause(tmp_path, {1: failure(128 + signal.SIGTERM, 1)}))


def test_ranks_share_the_cores_unless_the_user_says_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "count_cores", lambda: 12)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for ranks, threads in ((1, "12"), (5, "2"), (16, "1")):
        with launch._environment(ranks, tmp_path):
            assert os.environ["OMP_NUM_THREADS"] == threads
        assert "OMP_NUM_THREADS" not in os.environ
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with launch._environment(2, tmp_path):
        assert os.environ["OMP_NUM_THREADS"] == "7"
    assert os.environ["OMP_NUM_THREADS"] == "7"


# a rank of its own: what it and its launcher listen on, into a file beside the others
LISTENERS = """
import os, sys
from pathlib import Path
import psutil
import torch
from models.training.distributed import process_group

with process_group(torch.device("cpu")):
    torch.distributed.barrier()
    processes = [psutil.Process(), psutil.Process().parent()]
    found = {c.laddr.ip for p in processes for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    Path(sys.argv[1], os.environ["RANK"]).write_text(" ".join(sorted(found)))
    torch.distributed.barrier()
"""


def test_nothing_that_ranks_listen_on_is_open_to_other_machines(tmp_path: Path) -> None:
    pytest.importorskip("psutil")
    launch.launch(["-c", LISTENERS, str(tmp_path)], 2)
    for number in ("0", "1"):
        found = set((tmp_path / number).read_text().split())
        assert found, "gloo listens for the other rank at least"
        assert all(ip.startswith("127.") or ip in ("::1", "::ffff:127.0.0.1") for ip in found), found
