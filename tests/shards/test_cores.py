"""How many cores a process may use: of its affinity, and of the time that its control groups give it."""

import os
from pathlib import Path

import pytest

from shards import cores
from shards.cores import count_affine_cores, count_cores


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up tree of control groups, of a process on 64 cores."""
    monkeypatch.setattr(cores, "_GROUPS", tmp_path)
    monkeypatch.setattr(cores, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(cores, "count_affine_cores", lambda: 64)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_without_limits_it_is_the_affinity(groups: Path) -> None:
    assert count_cores() == 64
    write(groups / "own", "0::/user/session\n")
    write(groups / "user/session/cpu.max", "max 100000\n")
    assert count_cores() == 64


@pytest.mark.parametrize(("quota", "expected"), [("100000", 1), ("150000", 2), ("800000", 8), ("5000", 1)])
def test_a_quota_of_version_2_counts_begun_cores(groups: Path, quota: str, expected: int) -> None:
    write(groups / "own", "0::/user/session\n")
    write(groups / "user/session/cpu.max", f"{quota} 100000\n")
    assert count_cores() == expected


def test_the_smallest_quota_on_the_way_up_counts(groups: Path) -> None:
    write(groups / "own", "0::/pod/container\n")
    write(groups / "pod/container/cpu.max", "max 100000\n")
    write(groups / "pod/cpu.max", "300000 100000\n")
    assert count_cores() == 3


def test_within_a_container_the_limit_lies_at_the_root_though_the_path_is_that_of_the_host(groups: Path) -> None:
    write(groups / "own", "0::/kubepods/pod1234\n")
    write(groups / "cpu.max", "200000 100000\n")
    assert count_cores() == 2


def test_a_quota_of_version_1_counts(groups: Path) -> None:
    write(groups / "own", "4:memory:/a\n2:cpu,cpuacct:/docker/a\n0::/\n")
    for name, text in (("cpu.cfs_quota_us", "400000\n"), ("cpu.cfs_period_us", "100000\n")):
        write(groups / "cpu,cpuacct/docker/a" / name, text)
    write(groups / "cpu,cpuacct/cpu.cfs_quota_us", "-1\n")
    write(groups / "cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    assert count_cores() == 4


@pytest.mark.parametrize("text", ["", "nonsense\n", "0::/a\n"])
def test_what_cannot_be_read_limits_nothing(groups: Path, text: str) -> None:
    write(groups / "own", text)
    write(groups / "a/cpu.max", "x y z")
    assert count_cores() == 64


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_the_affinity_is_that_of_the_process() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert count_affine_cores() == count_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert count_affine_cores() == len(before)
