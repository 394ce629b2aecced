"""Leases on GPUs, without a GPU: they are locks on named files."""

import multiprocessing
import os
import signal
import stat
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from flows.machine import gpus as lease
from flows.machine.gpus import held, joined, lease_gpus, visible
from shards.errors import ConfigError
from tests.patience import PATIENCE

NAMES = ["GPU-a", "GPU-b", "GPU-c"]
FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Leases of this test alone, looked at often."""
    where = tmp_path / "leases"
    monkeypatch.setenv(lease.FOLDER, str(where))
    monkeypatch.setattr(lease, "_POLL", 0.01)
    for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return where


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three GPUs, as far as leases see."""
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    monkeypatch.setattr(lease, "gpu_names", lambda: tuple(NAMES))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(NAMES))


def start_holder(names: list[str], about: str) -> multiprocessing.process.BaseProcess:
    """A process that holds the first free one until it is killed; returns once it does."""
    ready, tell = FORK.Pipe(duplex=False)

    def hold() -> None:
        with held(names, 1, about=about):
            tell.send(True)
            time.sleep(60)

    process = FORK.Process(target=hold)
    process.start()
    assert ready.poll(20)
    return process


def kill(process: multiprocessing.process.BaseProcess) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def test_the_first_free_one_is_taken_and_given_back() -> None:
    with held(NAMES, 1, about="one") as first:
        with held(NAMES, 1, about="two") as second:
            assert (first, second) == ([0], [1])
        with held(NAMES, 2, about="three") as others:
            assert others == [1, 2]
    with held(NAMES, 3, about="four") as every:
        assert every == [0, 1, 2]


def test_who_does_not_wait_is_told_the_process_and_the_run_that_hold_it() -> None:
    with (
        held(["GPU-a"], 1, about="run runs/night"),
        pytest.raises(ConfigError, match=rf"GPU-a held by process {os.getpid()} \(run runs/night\).*share_gpu"),
        held(["GPU-a"], 1, about="other", wait=False),
    ):
        pass


def test_who_waits_says_for_whom_once_and_goes_on_when_it_is_free() -> None:
    said: list[str] = []
    got = threading.Event()

    def wait() -> None:
        with held(["GPU-a"], 1, about="second", say=said.append):
            got.set()

    with held(["GPU-a"], 1, about="first"):
        thread = threading.Thread(target=wait)
        thread.start()
        assert not got.wait(0.2)
    thread.join(PATIENCE)
    assert got.is_set()
    assert len(said) == 1
    assert "(first)" in said[0]


def test_all_are_taken_or_none() -> None:
    with held(["GPU-b"], 1, about="one"):
        with (
            pytest.raises(ConfigError, match=r"than the 3 wanted: GPU GPU-b held by process \d+ \(one\), expected"),
            held(NAMES, 3, about="three", wait=False),
        ):
            pass
        with held(["GPU-a", "GPU-c"], 2, about="two", wait=False) as taken:
            assert taken == [0, 1]


def test_several_who_want_several_never_wait_for_each_other() -> None:
    turns: list[int] = []

    def work(number: int) -> None:
        names = NAMES if number % 2 else NAMES[::-1]
        for _ in range(5):
            with held(names, 2, about=str(number), say=lambda text: None):
                turns.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(turns) == [number for number in range(4) for _ in range(5)]


def test_the_kernel_frees_what_a_killed_process_held() -> None:
    process = start_holder(["GPU-a"], "killed")
    with pytest.raises(ConfigError, match=f"process {process.pid} "), held(["GPU-a"], 1, about="", wait=False):
        pass
    kill(process)
    with held(["GPU-a"], 1, about="next", wait=False) as taken:
        assert taken == [0]


def test_a_rank_that_joined_keeps_the_lease_when_its_starter_is_killed() -> None:
    process = start_holder(["GPU-a"], "starter")
    with joined(["GPU-a"], about="rank"):
        kill(process)
        with pytest.raises(ConfigError, match=rf"{os.getpid()} \(rank\)"), held(["GPU-a"], 1, about="", wait=False):
            pass
    with held(["GPU-a"], 1, about="next", wait=False):
        pass


def test_other_users_may_lease_too_whatever_the_umask(folder: Path) -> None:
    before = os.umask(0o077)
    try:
        with held(["GPU-a"], 1, about="strict"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o1777
    assert stat.S_IMODE((folder / "GPU-a").stat().st_mode) == 0o666


@pytest.mark.parametrize("kind", ["folder", "link", "hard link", "fifo"])
def test_nothing_is_written_through_what_somebody_has_put_in_the_way(folder: Path, tmp_path: Path, kind: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    if kind == "folder":
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.mkdir()
        make: dict[str, Callable[[], None]] = {
            "link": lambda: (folder / "GPU-a").symlink_to(victim),
            "hard link": lambda: (folder / "GPU-a").hardlink_to(victim),
            "fifo": lambda: os.mkfifo(folder / "GPU-a"),
        }
        make[kind]()
    with pytest.raises(ConfigError, match="cannot be used"), held(["GPU-a"], 1, about="attacked"):
        pass
    assert victim.read_text() == "mine"
    assert not any((tmp_path / "elsewhere").glob("*"))


def test_the_cpu_needs_no_lease(folder: Path) -> None:
    with lease_gpus(torch.device("cpu"), count=2, about="run") as devices:
        assert devices == (torch.device("cpu"), torch.device("cpu"))
    assert not folder.exists()


@pytest.mark.usefixtures("gpus")
def test_a_training_takes_a_gpu_that_no_other_has() -> None:
    with (
        lease_gpus(torch.device("cuda"), about="one") as one,
        lease_gpus(torch.device("cuda"), count=2, about="two") as two,
    ):
        assert one == (torch.device("cuda", 0),)
        assert two == (torch.device("cuda", 1), torch.device("cuda", 2))
    with lease_gpus(torch.device("cuda", 2), about="that very one") as devices:
        assert devices == (torch.device("cuda", 2),)


@pytest.mark.usefixtures("gpus")
def test_a_rank_of_torchrun_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with lease_gpus(torch.device("cuda", 1), about="one"):
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(ConfigError, match="GPU-b held by"), lease_gpus(torch.device("cuda", 1), about="rank 1"):
            pass
        with lease_gpus(torch.device("cuda", 0), about="rank 0") as devices:
            assert devices == (torch.device("cuda", 0),)


@pytest.mark.usefixtures("gpus")
def test_ranks_that_we_started_join_our_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    with lease_gpus(torch.device("cuda", 1), about="starter"):
        for name, value in {"RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "skelstream"}.items():
            monkeypatch.setenv(name, value)
        with lease_gpus(torch.device("cuda", 1), about="rank") as devices:
            assert devices == (torch.device("cuda", 1),)


@pytest.mark.usefixtures("gpus")
def test_who_shares_goes_ahead_and_still_keeps_out_who_does_not() -> None:
    with (
        lease_gpus(torch.device("cuda", 0), about="alone"),
        lease_gpus(torch.device("cuda", 0), share=True, about="shared"),
    ):
        pass
    with lease_gpus(torch.device("cuda"), share=True, about="shared") as devices:
        assert devices == (torch.device("cuda", 0),)
        with lease_gpus(torch.device("cuda"), about="alone") as others:
            assert others == (torch.device("cuda", 1),)


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(("before", "during"), [(None, "2,1"), ("GPU-x,GPU-y,5", "5,GPU-y")])
def test_started_processes_see_the_leased_gpus_alone(
    monkeypatch: pytest.MonkeyPatch, before: str | None, during: str
) -> None:
    if before is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    with visible([torch.device("cuda", 2), torch.device("cuda", 1)]):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == during
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == before
    with visible([torch.device("cpu")]):
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == before


def test_a_gpu_is_named_by_its_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda n: SimpleNamespace(uuid=f"1234-{n}"))
    assert lease.gpu_names() == ("1234-0", "1234-1")
