"""Workers of a Dask cluster that are killed, and come back, change nothing in the result."""

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.conversion import runners, stages
from pipelines.conversion.convert import convert
from pipelines.synthetic import synthesize
from shards.errors import ConfigError, StoreError
from tests.patience import PATIENCE

QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
DASK = [sys.executable, "-m", "dask"]


class Cluster:
    """A scheduler and two workers, each its own process; a killed one is followed by another."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "scheduler.json"
        self.host = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(self.file)]
        self.scratch = ["--local-directory", str(folder), "--nthreads", "1", "--memory-limit", "0"]
        self.scheduler = subprocess.Popen([*DASK, "scheduler", *self.host, "--port", "0"], **QUIET)
        self.workers = [self.worker(), self.worker()]

    def worker(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([*DASK, "worker", *self.host, *self.scratch, "--no-nanny"], **QUIET)

    def kill(self, number: int) -> None:
        self.workers[number].send_signal(signal.SIGKILL)
        self.workers[number].wait()

    @property
    def address(self) -> str:
        deadline = time.monotonic() + PATIENCE
        while not self.file.exists() or not self.file.read_text().strip():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return str(json.loads(self.file.read_text())["address"])

    def stop(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    folder = tmp_path / "dask"
    folder.mkdir()
    running = Cluster(folder)
    yield running
    running.stop()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_killed_workers_come_back_and_the_bytes_are_the_same(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = synthesize("ntu", tmp_path / "raw", subjects=4, classes=3, samples=60, seed=5, zipped=True)
    undisturbed = convert("ntu", [raw], tmp_path / "alone", workers=0, samples_per_shard=4)
    monkeypatch.setattr(stages, "FILES_PER_PART", 1)
    draw, kills, over = random.Random(0), [0], threading.Event()

    def kill() -> None:
        # three times, because Dask takes a unit whose worker died four times for the culprit (`allowed-failures`)
        while kills[0] < 3 and not over.wait(draw.uniform(0.01, 0.2)):
            number = draw.randrange(2)
            cluster.kill(number)
            cluster.workers[number] = cluster.worker()
            kills[0] += 1

    address = cluster.address
    killer = threading.Thread(target=kill)

    def start_killing(*arguments: object) -> Iterator[None]:
        if killer.ident is None:
            killer.start()
        return on_cluster(*arguments)

    on_cluster = runners._run_on_cluster
    monkeypatch.setattr(runners, "_run_on_cluster", start_killing)
    try:
        disturbed = convert("ntu", [raw], tmp_path / "data", scheduler=address, samples_per_shard=4)
    finally:
        over.set()
        killer.join()
    assert kills[0] >= 1
    assert contents(disturbed.folder) == contents(undisturbed.folder)


def test_a_cluster_that_loses_all_its_workers_is_one_clear_error_to_go_on_from(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = synthesize("ntu", tmp_path / "raw", subjects=4, classes=3, samples=12, seed=5, zipped=True)
    monkeypatch.setattr(stages, "FILES_PER_PART", 1)
    monkeypatch.setattr(runners, "_WORKERS_SECONDS", 1)
    monkeypatch.setattr(runners, "_LOOK_SECONDS", 0.2)
    on_cluster, address = runners._run_on_cluster, cluster.address

    def without_workers(*arguments: object) -> Iterator[None]:
        cluster.kill(0)
        cluster.kill(1)
        return on_cluster(*arguments)

    monkeypatch.setattr(runners, "_run_on_cluster", without_workers)
    with pytest.raises(StoreError, match="found no dask worker for 1 s"):
        convert("ntu", [raw], tmp_path / "data", scheduler=address, samples_per_shard=4)
    assert convert("ntu", [raw], tmp_path / "data", workers=2, samples_per_shard=4).reused is False


def test_an_address_without_a_scheduler_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = synthesize("ntu", tmp_path / "raw", subjects=4, classes=3, samples=4, seed=5, zipped=True)
    monkeypatch.setattr(runners, "_CONNECT_SECONDS", 1)
    with pytest.raises(ConfigError, match="found no dask scheduler with workers at"):
        convert("ntu", [raw], tmp_path / "data", scheduler="tcp://127.0.0.1:9")
