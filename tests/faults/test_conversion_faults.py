"""A conversion that is killed, interrupted, starved of disk or run twice at once still ends with the right bytes."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from pipelines import convert as convert_module
from pipelines import stages
from pipelines.archives import RawFile
from pipelines.convert import convert
from pipelines.pack import ShardUnit
from pipelines.preprocessing.recipes import recipe
from pipelines.synthetic import synthesize
from shards.errors import RawInputError, StoreError
from shards.verify import verify

# Converts in forked children, each of which is killed at its n-th change of the file system, until one gets through.
KILLED_AGAIN_AND_AGAIN = """
import json, os, signal, sys
from pathlib import Path
import webdataset
from pipelines import stages
from pipelines.convert import convert

raw, data, points = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}
left = None

def count(event, arguments):
    global left
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if left is not None and (event in CHANGES or writes):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
stages.FILES_PER_PART = 3
kills = 0
for point in points:
    child = os.fork()
    if child == 0:
        left = point
        convert("SOURCE", [raw], data, workers=0, samples_per_shard=4)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status == 0:
        break
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
    kills += 1
print(kills, status)
"""

ON_THREADS = """
import sys
from pathlib import Path
from pipelines import stages
from pipelines.convert import convert

if __name__ == "__main__":
    stages.FILES_PER_PART = 1
    convert("ntu", [Path(sys.argv[1])], Path(sys.argv[2]), workers=2, samples_per_shard=4)
"""


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("archives")
    return {
        source: synthesize(source, root / source, subjects=4, classes=3, samples=samples, seed=5, zipped=True)
        for source, samples in (("ntu", 14), ("pkummd1", 6))
    }


@pytest.fixture(scope="module")
def undisturbed(archives: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """What a conversion without any fault writes."""
    root = tmp_path_factory.mktemp("undisturbed")
    return {
        source: contents(convert(source, [raw], root / source, workers=0, samples_per_shard=4).folder)
        for source, raw in archives.items()
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def only_result(data: Path) -> dict[str, bytes]:
    """The content of the one folder in `data`, beside which nothing may be left."""
    [folder] = data.iterdir()
    assert not folder.name.startswith(".")
    return contents(folder)


@pytest.mark.parametrize("source", ["ntu", "pkummd1"])
def test_killed_at_random_moments_it_ends_with_the_same_bytes(
    archives: dict[str, Path], undisturbed: dict[str, dict[str, bytes]], tmp_path: Path, source: str
) -> None:
    draw = random.Random(source)
    # Ever later, because a child that begins anew on the same unit must at some time get past it.
    points = [draw.randint(1, 12 + 3 * attempt) for attempt in range(60)] + [10**9]
    script = KILLED_AGAIN_AND_AGAIN.replace("SOURCE", source)
    command = [sys.executable, "-c", script, str(archives[source]), str(tmp_path), json.dumps(points)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kills, status = map(int, done.stdout.split())
    assert status == 0
    assert kills >= 5
    assert only_result(tmp_path) == undisturbed[source]


def start(raw: Path, data: Path) -> "subprocess.Popen[bytes]":
    """A conversion on two threads that has just finished its first part."""
    process = subprocess.Popen([sys.executable, "-c", ON_THREADS, str(raw), str(data)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(data.glob(".*.partial/parts/*.json")):
        assert process.poll() is None, "it ended before it was disturbed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return process


def test_a_killed_conversion_leaves_a_state_to_go_on_from_and_two_at_once_are_refused(
    archives: dict[str, Path], undisturbed: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    process = start(archives["ntu"], tmp_path)
    process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(StoreError, match="found another process writing it"):
            convert("ntu", [archives["ntu"]], tmp_path, workers=0, samples_per_shard=4)
    finally:
        process.kill()
        process.wait()
    assert convert("ntu", [archives["ntu"]], tmp_path, workers=0, samples_per_shard=4).reused is False
    assert only_result(tmp_path) == undisturbed["ntu"]


def test_finished_parts_are_not_parsed_again(
    archives: dict[str, Path], undisturbed: dict[str, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "FILES_PER_PART", 3)
    read, names = RawFile.read, []

    def stop_at_the_tenth(self: RawFile) -> bytes:
        names.append(self.name)
        if len(names) == 10:
            raise KeyboardInterrupt
        return read(self)

    monkeypatch.setattr(RawFile, "read", stop_at_the_tenth)
    with pytest.raises(KeyboardInterrupt):
        convert("ntu", [archives["ntu"]], tmp_path, workers=0, samples_per_shard=4)
    assert all(path.name.startswith(".") for path in tmp_path.iterdir())
    convert("ntu", [archives["ntu"]], tmp_path, workers=0, samples_per_shard=4)
    assert set(names[:9]) & set(names[10:]) == set()
    assert only_result(tmp_path) == undisturbed["ntu"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_clear_error_to_go_on_from(
    archives: dict[str, Path],
    undisturbed: dict[str, dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    calls, fsync = 0, os.fsync

    def full_at_the_twentieth(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls >= 20:
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full_at_the_twentieth)
    with pytest.raises(StoreError, match=f"{tmp_path}: found no space left"):
        convert("ntu", [archives["ntu"]], tmp_path, workers=0, samples_per_shard=4)
    assert all(path.name.startswith(".") for path in tmp_path.iterdir())
    monkeypatch.setattr(os, "fsync", fsync)
    convert("ntu", [archives["ntu"]], tmp_path, workers=0, samples_per_shard=4)
    assert only_result(tmp_path) == undisturbed["ntu"]


def test_a_sample_that_could_not_be_read_is_taken_when_it_can_be(
    archives: dict[str, Path], undisturbed: dict[str, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, unreadable = RawFile.read, sorted(k for k in _keys(archives["ntu"]))[4]

    def fail(self: RawFile) -> bytes:
        if self.name == unreadable:
            raise RawInputError(f"{self.origin}: the disk is gone for a moment")
        return read(self)

    def interrupt(self: ShardUnit) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RawFile, "read", fail)
        patched.setattr(ShardUnit, "__call__", interrupt)
        with pytest.raises(KeyboardInterrupt):
            convert("ntu", [archives["ntu"]], tmp_path, workers=0, on_error="drop", samples_per_shard=4)
    convert("ntu", [archives["ntu"]], tmp_path, workers=0, on_error="drop", samples_per_shard=4)
    assert only_result(tmp_path) == undisturbed["ntu"]


def _keys(archive: Path) -> list[str]:
    names: list[str] = []
    for path in archive.glob("*.zip"):
        with zipfile.ZipFile(path) as file:
            names += file.namelist()
    return [Path(name).stem for name in names]


def test_a_stopped_conversion_goes_on_with_drop_to_what_drop_alone_gives(tmp_path: Path) -> None:
    raw = synthesize("ntu", tmp_path / "raw", subjects=4, classes=3, samples=8, seed=5, zipped=False)
    bad = sorted(raw.rglob("*.skeleton"))[3]
    bad.write_bytes(bad.read_bytes()[:-300])
    with pytest.raises(RawInputError):
        convert("ntu", [raw], tmp_path / "twice", workers=0)
    twice = convert("ntu", [raw], tmp_path / "twice", workers=0, on_error="drop")
    once = convert("ntu", [raw], tmp_path / "once", workers=0, on_error="drop")
    assert contents(twice.folder) == contents(once.folder)
    assert verify(once.folder, recipe("pcm3", "ntu").window) == []


def test_what_a_killed_process_left_at_temporary_names_is_removed(
    archives: dict[str, Path], undisturbed: dict[str, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(work: Path, final: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(stages, "write_manifest", interrupt)
        with pytest.raises(KeyboardInterrupt):
            convert("ntu", [archives["ntu"]], tmp_path, workers=0, samples_per_shard=4)
    [work] = (path for path in tmp_path.iterdir() if path.is_dir())
    for torn in (
        "store.zarr/frames/c/0/0/0/0.partial",
        "store.zarr/.x.tmp",
        "shards/.000000.tar.1.tmp",
        "parts/.a.tmp",
    ):
        (work / torn).write_bytes(b"torn")
    with monkeypatch.context() as patched:
        patched.setattr(convert_module, "_publish", interrupt)
        with pytest.raises(KeyboardInterrupt):  # between the manifest and the name
            convert("ntu", [archives["ntu"]], tmp_path, workers=0, samples_per_shard=4)
    convert("ntu", [archives["ntu"]], tmp_path, workers=0, samples_per_shard=4)
    assert only_result(tmp_path) == undisturbed["ntu"]
