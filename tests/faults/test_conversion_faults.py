"""A conversion that is killed, interrupted, starved of disk or run twice at once still ends with the right bytes."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipelines.archives import RawFile
from pipelines.conversion import convert as convert_module
from pipelines.conversion import stages
from pipelines.conversion.convert import convert
from pipelines.conversion.pack import ShardUnit
from pipelines.conversion.parts import FRAME_BYTES
from pipelines.preprocessing.recipes import recipe
from pipelines.synthetic import synthesize
from shards.errors import RawInputError, StoreError
from shards.verify.store import verify
from tests.patience import PATIENCE

# Converts in forked children, each of which is disturbed in its own way, until one gets through undisturbed:
#   change    at the n-th change of the file system in the data folder: killed, or this and all later changes fail
#   write     at the n-th write to a file: this and all later writes fail
#   size      files can grow to n bytes
#   time      killed after n milliseconds
DISTURBED_AGAIN_AND_AGAIN = """
import io, json, os, resource, signal, sys, time, traceback
from pathlib import Path
from pipelines.conversion import stages
from pipelines.conversion.convert import convert
from shards.errors import StoreError

source, dtype, raw, data, disturbances = *sys.argv[1:5], json.loads(sys.argv[5])
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}
left = {}

def strike(what):
    if what in left:
        left[what] -= 1
        if left[what] <= 0:
            if error == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(error, os.strerror(error))

def audit(event, arguments):
    opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if (opened or event in CHANGES) and os.fsdecode(arguments[0]).startswith(data):
        strike("change")

class File(io.FileIO):
    def write(self, data):
        strike("write")
        return super().write(data)

def open_(path, mode="r", *arguments, **options):
    return io.BufferedWriter(File(path, mode)) if mode == "wb" else plain(path, mode, *arguments, **options)

def run():
    try:
        convert(source, [raw], data, dtype=dtype, workers=workers, samples_per_shard=4)
        return 0
    except StoreError as refused:
        assert str(refused).startswith(f"{data}: found "), refused
        return 3
    except BaseException:
        traceback.print_exc()
        return 1

plain, io.open = io.open, open_
sys.addaudithook(audit)
stages.FILES_PER_PART = 3
ends = []
for how, number, error, workers in disturbances:
    child = os.fork()
    if child == 0:
        if how == "size":
            resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))
        left[how] = number
        os._exit(run())
    if how == "time":
        time.sleep(number / 1000)
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 3, -signal.SIGKILL), (how, number, error, workers, status)
    ends.append(status)
    if status == 0:
        break
print(json.dumps(ends))
"""

ON_THREADS = """
import sys
from pathlib import Path
from pipelines.conversion import stages
from pipelines.conversion.convert import convert

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
    """What a conversion without any fault writes, by source and, where it is another, storage."""
    root = tmp_path_factory.mktemp("undisturbed")
    made = {}
    for name in ("ntu", "pkummd1", "ntu float16", "pkummd1 fixed"):
        source, _, dtype = name.partition(" ")
        raw = [archives[source]]
        result = convert(source, raw, root / name, dtype=dtype or "float32", workers=0, samples_per_shard=4)
        made[name] = contents(result.folder)
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def only_result(data: Path) -> dict[str, bytes]:
    """The content of the one folder in `data`, beside which nothing may be left."""
    [folder] = data.iterdir()
    assert not folder.name.startswith(".")
    return contents(folder)


Disturbance = tuple[str, int, int, int]
"""How, after which number, with which error (0 kills), and on how many threads."""

NONE: Disturbance = ("none", 0, 0, 0)


def disturb(name: str, raw: Path, data: Path, disturbances: list[Disturbance]) -> list[int]:
    """How the conversions ended, one after the other: 0 done, 3 one clear error, -9 killed."""
    source, _, dtype = name.partition(" ")
    where = [source, dtype or "float32", str(raw), str(data)]
    command = [sys.executable, "-c", DISTURBED_AGAIN_AND_AGAIN, *where, json.dumps([*disturbances, NONE])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ends: list[int] = json.loads(done.stdout)
    assert ends[-1] == 0
    return ends[:-1]


@pytest.mark.parametrize("name", ["ntu", "pkummd1 fixed"])
def test_killed_at_random_changes_it_ends_with_the_same_bytes(
    archives: dict[str, Path], undisturbed: dict[str, dict[str, bytes]], tmp_path: Path, name: str
) -> None:
    draw = random.Random(name)
    # Ever later, because a child that begins anew on the same unit must at some time get past it.
    points: list[Disturbance] = [("change", draw.randint(1, 20 + 5 * attempt), 0, 0) for attempt in range(40)]
    ends = disturb(name, archives[name.split()[0]], tmp_path, points)
    assert ends == [-signal.SIGKILL] * len(ends)
    assert len(ends) >= 5
    assert only_result(tmp_path) == undisturbed[name]


@pytest.mark.parametrize("name", ["ntu float16", "pkummd1"])
def test_killed_at_random_times_on_threads_it_ends_with_the_same_bytes(
    archives: dict[str, Path], undisturbed: dict[str, dict[str, bytes]], tmp_path: Path, name: str
) -> None:
    draw = random.Random(name)
    points: list[Disturbance] = [("time", draw.randint(1, 40 + 25 * attempt), 0, 3) for attempt in range(24)]
    ends = disturb(name, archives[name.split()[0]], tmp_path, points)
    assert ends == [-signal.SIGKILL] * len(ends)
    assert len(ends) >= 5
    assert only_result(tmp_path) == undisturbed[name]


@pytest.mark.parametrize(
    ("how", "furthest", "errors"),
    [
        ("write", 150, [errno.ENOSPC, errno.EDQUOT, errno.EIO]),
        ("change", 150, [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EIO]),
        ("size", 200_000, [errno.EFBIG]),
    ],
)
def test_a_disk_that_refuses_at_random_moments_is_one_clear_error_to_go_on_from(
    archives: dict[str, Path],
    undisturbed: dict[str, dict[str, bytes]],
    tmp_path: Path,
    how: str,
    furthest: int,
    errors: list[int],
) -> None:
    draw = random.Random(how)
    points: list[Disturbance] = [
        (how, draw.randint(1, furthest), draw.choice(errors), draw.choice([0, 3])) for _ in range(20)
    ]
    ends = disturb("ntu", archives["ntu"], tmp_path, points)
    assert ends == [3] * len(ends)
    assert len(ends) >= 3
    assert only_result(tmp_path) == undisturbed["ntu"]


def start(raw: Path, data: Path) -> "subprocess.Popen[bytes]":
    """A conversion on two threads that has just finished its first part."""
    process = subprocess.Popen([sys.executable, "-c", ON_THREADS, str(raw), str(data)], stderr=subprocess.DEVNULL)
    _wait_for_a_part(process, data)
    return process


def _wait_for_a_part(process: "subprocess.Popen[Any]", data: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not list(data.glob(".*.partial/parts/*.json")):
        assert process.poll() is None, "it ended before it was disturbed"
        assert time.monotonic() < deadline
        time.sleep(0.005)


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


# Torn files of a work folder


@pytest.fixture(scope="module")
def stopped(archives: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Data folders of conversions that were stopped: with all parts made, and with everything but the manifest."""
    root, made = tmp_path_factory.mktemp("stopped"), {}

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    for moment, what in (("parsed", "_write"), ("written", "write_manifest")):
        made[moment] = root / moment
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stages, "FILES_PER_PART", 3)
            patch.setattr(stages, what, interrupt)
            with pytest.raises(KeyboardInterrupt):
                convert("ntu", [archives["ntu"]], made[moment], workers=0, samples_per_shard=4)
    return made


TEARS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),  # as after a power cut, where the size reached the disk before the data
    "half zeros": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "inverted": lambda data: data[: len(data) // 2] + bytes(255 - byte for byte in data[len(data) // 2 :]),
    "one bit": lambda data: data[: len(data) // 3] + bytes([data[len(data) // 3] ^ 1]) + data[len(data) // 3 + 1 :],
    "digits": lambda data: data.translate(bytes.maketrans(b"56", b"65")),
    "longer": lambda data: data + b"more",
}


@pytest.mark.parametrize("tear", [*TEARS, "gone"])
@pytest.mark.parametrize("moment", ["parsed", "written"])
def test_torn_files_of_a_killed_conversion_are_made_again(
    stopped: dict[str, Path],
    archives: dict[str, Path],
    undisturbed: dict[str, dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    tear: str,
) -> None:
    monkeypatch.setattr(stages, "FILES_PER_PART", 3)
    shutil.copytree(stopped[moment], tmp_path, dirs_exist_ok=True)
    files = sorted(path for path in tmp_path.glob(".*.partial/**/*") if path.is_file())
    for path in random.Random(f"{moment} {tear}").sample(files, len(files) // 3):
        if tear == "gone":
            path.unlink()
        else:
            path.write_bytes(TEARS[tear](path.read_bytes()))
    convert("ntu", [archives["ntu"]], tmp_path, workers=0, samples_per_shard=4)
    assert only_result(tmp_path) == undisturbed["ntu"]


@pytest.mark.parametrize(
    "torn",
    ["parts/000001.f32", "parts/000001.json", "store.zarr/frames/c/0/0/0/0", "store.zarr/key/zarr.json", "*.tar"],
)
def test_one_torn_file_is_found_by_its_content_alone(
    stopped: dict[str, Path],
    archives: dict[str, Path],
    undisturbed: dict[str, dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    torn: str,
) -> None:
    monkeypatch.setattr(stages, "FILES_PER_PART", 3)
    shutil.copytree(stopped["written"], tmp_path, dirs_exist_ok=True)
    [work] = tmp_path.glob(".*.partial")
    path = sorted(work.rglob(torn))[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    convert("ntu", [archives["ntu"]], tmp_path, workers=0, samples_per_shard=4)
    assert only_result(tmp_path) == undisturbed["ntu"]


def test_a_part_that_shrinks_while_it_is_used_is_one_clear_error_to_go_on_from(
    archives: dict[str, Path], undisturbed: dict[str, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_packing = stages.plan_packing

    def shrink(*arguments: Any) -> Any:
        [part] = tmp_path.glob(".*.partial/parts/*.f32")
        os.truncate(part, part.stat().st_size // FRAME_BYTES // 2 * FRAME_BYTES)
        return plan_packing(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(stages, "plan_packing", shrink)
        with pytest.raises(StoreError, match=r"000000\.f32: found \d+ bytes of frames \d+ to \d+, expected"):
            convert("ntu", [archives["ntu"]], tmp_path, workers=2, samples_per_shard=4)
    convert("ntu", [archives["ntu"]], tmp_path, workers=2, samples_per_shard=4)
    assert only_result(tmp_path) == undisturbed["ntu"]


# Input that changes between listing and reading


def _changed_after_listing(change: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    listing = convert_module.list_recordings

    def list_and_change(*arguments: Any) -> Any:
        listed = listing(*arguments)
        change()
        return listed

    monkeypatch.setattr(convert_module, "list_recordings", list_and_change)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "grows": (lambda path: path.write_bytes(path.read_bytes() + b"\n"), "found .* bytes, expected the .* listed"),
    "shrinks": (lambda path: os.truncate(path, 1000), "found 1000 or more bytes, expected the .* listed"),
    "differs": (
        lambda path: path.write_bytes(path.read_bytes().replace(b"1", b"2")),
        "found CRC .*, expected the listed",
    ),
    "vanishes": (lambda path: path.unlink(), "found an unreadable file .*No such file"),
    "becomes a folder": (lambda path: (path.unlink(), path.mkdir()), "found an unreadable file .*Is a directory"),
}


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("case", CHANGES)
def test_a_raw_file_that_changes_after_it_was_listed_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, workers: int
) -> None:
    raw = synthesize("ntu", tmp_path / "raw", subjects=4, classes=3, samples=6, seed=5, zipped=False)
    path = sorted(raw.rglob("*.skeleton"))[2]
    change, message = CHANGES[case]
    with monkeypatch.context() as patched:
        _changed_after_listing(lambda: change(path), patched)
        with pytest.raises(RawInputError, match=rf"{path.name}: {message}"):
            convert("ntu", [raw], tmp_path / "data", workers=workers)
    assert all(path.name.startswith(".") for path in (tmp_path / "data").iterdir())
    if case == "differs":  # which the parser cannot know; what is there now has another name
        assert convert("ntu", [raw], tmp_path / "data", on_error="drop", workers=workers).reused is False


@pytest.mark.parametrize("by", ["another seed", "another packing", "nothing", "text"])
def test_a_zip_that_is_replaced_after_it_was_listed_is_one_clear_error(
    archives: dict[str, Path], undisturbed: dict[str, dict[str, bytes]], tmp_path: Path, monkeypatch: Any, by: str
) -> None:
    [original] = archives["ntu"].glob("*.zip")
    path = Path(shutil.copy(original, tmp_path / "raw.zip"))
    other = synthesize("ntu", tmp_path / "other", subjects=4, classes=3, samples=14, seed=6, zipped=True)

    def replace() -> None:
        path.unlink()
        if by == "another seed":
            shutil.copy(next(other.glob("*.zip")), path)
        elif by == "another packing":
            with zipfile.ZipFile(original) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
                for name in sorted(old.namelist(), reverse=True):
                    new.writestr(name, old.read(name))
        elif by == "text":
            path.write_bytes(b"no zip")

    with monkeypatch.context() as patched:
        _changed_after_listing(replace, patched)
        with pytest.raises(RawInputError, match=r"raw\.zip: .*found"):
            convert("ntu", [path], tmp_path / "data", workers=2, samples_per_shard=4)
    shutil.copy(original, path)
    convert("ntu", [path], tmp_path / "data", workers=2, samples_per_shard=4)
    assert only_result(tmp_path / "data") == undisturbed["ntu"]


# Two at once, and signals

TOGETHER = """
import json, os, random, signal, sys, time
from pipelines.conversion import stages
from pipelines.conversion.convert import convert
from shards.errors import StoreError

raw, data, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
stages.FILES_PER_PART = 1
draw = random.Random(0)

def started(folder):
    child = os.fork()
    if child == 0:
        try:
            convert("ntu", [raw], folder, workers=2, samples_per_shard=4)
        except StoreError as error:
            os._exit(3 if "found another process writing it" in str(error) else 4)
        except BaseException:
            os._exit(5)
        os._exit(0)
    return child

for number in range(rounds):
    folder = f"{data}/{number}"
    children = []
    for _ in range(3):
        children.append(started(folder))
        time.sleep(draw.choice([0, 0, draw.uniform(0, 0.3)]))
    if number % 2:
        time.sleep(draw.uniform(0, 0.1))
        os.kill(children[draw.randrange(3)], signal.SIGKILL)
    ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    again = os.waitstatus_to_exitcode(os.waitpid(started(folder), 0)[1])
    print(json.dumps([*ends, again]))
"""


def test_three_at_once_and_one_of_them_killed_make_one_result_and_clear_errors(
    archives: dict[str, Path], undisturbed: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", TOGETHER, str(archives["ntu"]), str(tmp_path), "8"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rounds = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rounds) == 8
    for number, (*ends, again) in enumerate(rounds):
        assert set(ends) <= ({0, 3, -signal.SIGKILL} if number % 2 else {0, 3}), rounds
        assert 0 in ends or number % 2, rounds
        assert again == 0
        assert only_result(tmp_path / str(number)) == undisturbed["ntu"]
    assert any(3 in ends for ends in rounds)


def test_threads_of_one_process_at_once_make_one_result(
    archives: dict[str, Path], undisturbed: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    def run(_: int) -> str:
        try:
            convert("ntu", [archives["ntu"]], tmp_path, workers=2, samples_per_shard=4)
        except StoreError as error:
            return str(error)
        return "made"

    with ThreadPoolExecutor(4) as pool:
        ends = list(pool.map(run, range(4)))
    assert "made" in ends
    assert all(end == "made" or "found another process writing it" in end for end in ends)
    assert only_result(tmp_path) == undisturbed["ntu"]


SLOWLY = """
import sys, time
from pipelines.archives import RawFile
from pipelines.conversion import stages
from flows.cli.main import main

stages.FILES_PER_PART = 1
read = RawFile.read
RawFile.read = lambda self: (time.sleep(0.2), read(self))[1]
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("number", "code", "said"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "")])
def test_an_interrupted_command_ends_in_order_and_the_next_goes_on(
    archives: dict[str, Path], tmp_path: Path, number: int, code: int, said: str
) -> None:
    words = ["preprocess", "ntu", str(archives["ntu"]), "--out", str(tmp_path), "--workers", "2", "--plain"]
    process = subprocess.Popen([sys.executable, "-c", SLOWLY, *words], stderr=subprocess.PIPE, text=True)
    _wait_for_a_part(process, tmp_path)
    process.send_signal(number)
    errors = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert said in errors.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []
    assert [path.name for path in tmp_path.glob("*.lock")] == []
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob(".*.partial/parts/*.json")}
    assert 0 < len(before) < 14
    alone = convert("ntu", [archives["ntu"]], tmp_path / "alone", workers=0)
    done = subprocess.run([sys.executable, "-m", "skelstream", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / alone.folder.name) == contents(alone.folder)
