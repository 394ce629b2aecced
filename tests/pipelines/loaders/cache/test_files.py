"""The cache of remote shards: whole copies, once, within its bound, and no file of the user's touched."""

import errno
import fcntl
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from upath import UPath

from pipelines.loaders.cache import files as cache_module
from pipelines.loaders.cache.files import Cache
from pipelines.loaders.cache.index import RECORD
from pipelines.loaders.split import SplitShard, open_split
from shards.errors import ConfigError, StoreError
from shards.places import place
from shards.remote import Stopped
from tests.patience import PATIENCE

_numbers = count()


@pytest.fixture(scope="module")
def shards(folder: Path) -> Iterator[list[SplitShard]]:
    """The seven shards of ntu60 xsub train on a file system in memory, which is not asynchronous."""
    url = place(f"memory://cache-{next(_numbers)}")
    assert isinstance(url, UPath)
    url.fs.put(str(folder), url.path, recursive=True)
    yield [replace(shard, folder=url) for shard in open_split(folder, "ntu60", "xsub", "train").shards]
    url.fs.rm(url.path, recursive=True)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were fetched, in order."""
    seen: list[str] = []
    fetch = cache_module.fetch

    def recorded(where: UPath, *arguments: Any, **options: Any) -> str:
        seen.append(f"{where.parent.name}/{where.name}")
        return fetch(where, *arguments, **options)

    monkeypatch.setattr(cache_module, "fetch", recorded)
    return seen


def size(shard: SplitShard) -> int:
    return shard.file.bytes + shard.index_file.bytes


def name(shard: SplitShard) -> str:
    return shard.entry.path.removeprefix("shards/")


def read(cache: Cache, shard: SplitShard) -> bytes:
    with cache.hold(shard) as path:
        return path.read_bytes() + path.with_suffix(".idx").read_bytes()


def expected(shard: SplitShard) -> bytes:
    found: bytes = shard.path.read_bytes() + (shard.folder / shard.entry.index).read_bytes()
    return found


def held(folder: Path) -> int:
    """Bytes of all files but the record."""
    return sum(path.stat().st_size for path in folder.iterdir() if not path.name.startswith(RECORD))


def users_files(folder: Path, shards: list[SplitShard]) -> dict[Path, bytes]:
    """Files of the user's, with names like those of the cache."""
    sha256 = shards[0].file.sha256
    names = [f"{sha256}.tar", f".{sha256[:16]}-0123456789abcdef.tar.part", f"{sha256[:16]}-x.idx", "notes.txt", ".part"]
    folder.mkdir(exist_ok=True)
    files = {folder / name: name.encode() for name in names}
    for path, data in files.items():
        path.write_bytes(data)
    return files


def test_a_copy_is_the_shard_with_its_index_and_is_fetched_once(
    shards: list[SplitShard], fetched: list[str], tmp_path: Path
) -> None:
    cache = Cache(tmp_path / "made" / "cache")
    for _ in range(3):
        assert all(read(cache, shard) == expected(shard) for shard in shards)
    assert sorted(fetched) == sorted(f for s in shards for f in (name(s), name(s).replace(".tar", ".idx")))
    assert held(tmp_path / "made" / "cache") == sum(map(size, shards))


def test_another_run_finds_the_copies(shards: list[SplitShard], fetched: list[str], tmp_path: Path) -> None:
    read(Cache(tmp_path), shards[0])
    fetched.clear()
    assert read(Cache(tmp_path), shards[0]) == expected(shards[0])
    assert not fetched


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("suffix", [".tar", ".idx"])
@pytest.mark.parametrize("damage", [_cut, _flip, Path.unlink])
def test_a_damaged_copy_is_fetched_again(
    shards: list[SplitShard], fetched: list[str], tmp_path: Path, suffix: str, damage: Callable[[Path], None]
) -> None:
    read(Cache(tmp_path), shards[0])
    damage(next(tmp_path.glob(f"*{suffix}")))
    fetched.clear()
    cache = Cache(tmp_path)
    assert read(cache, shards[0]) == expected(shards[0])
    assert len(fetched) == 2
    assert held(tmp_path) == size(shards[0])


@pytest.mark.parametrize("damage", [_cut, Path.unlink])
def test_a_copy_that_is_cut_while_the_process_uses_it_is_fetched_again(
    shards: list[SplitShard], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    cache = Cache(tmp_path)
    read(cache, shards[0])
    damage(next(tmp_path.glob("*.tar")))
    assert read(cache, shards[0]) == expected(shards[0])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=st.lists(st.integers(0, 6), max_size=25), room=st.integers(0, 6), first=st.integers(0, 20))
def test_the_cache_holds_the_copies_last_used_that_fit(
    shards: list[SplitShard], tmp_path_factory: pytest.TempPathFactory, asked: list[int], room: int, first: int
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    limit = max(map(size, shards)) + sum(size(shard) for shard in shards[:room]) // 2
    kept: list[int] = []  # an obvious cache
    for step, number in enumerate(asked):
        cache = Cache(folder, limit) if step in (0, first) else cache  # noqa: F821 - of the step before
        assert read(cache, shards[number]) == expected(shards[number])
        if number in kept:
            kept.remove(number)
        else:
            while sum(size(shards[n]) for n in kept) + size(shards[number]) > limit:
                kept.pop(0)
        kept.append(number)
        assert held(folder) == sum(size(shards[n]) for n in kept) <= limit
        time.sleep(0.002)  # file systems that keep times coarsely
    shutil.rmtree(folder)


def test_what_is_in_use_is_not_evicted(shards: list[SplitShard], tmp_path: Path) -> None:
    a, b, c = shards[:3]
    cache = Cache(tmp_path, size(a) + max(size(b), size(c)))
    with cache.hold(a) as path:
        read(cache, b)
        read(Cache(tmp_path, size(a) + max(size(b), size(c))), c)
        assert path.read_bytes() == a.path.read_bytes()


def test_a_released_copy_goes_before_one_that_was_used_longer_ago(
    shards: list[SplitShard], fetched: list[str], tmp_path: Path
) -> None:
    a, b, c = shards[:3]
    cache = Cache(tmp_path, size(a) + size(b) + size(c) - 1)
    for shard in (a, b):
        read(cache, shard)
        time.sleep(0.01)
    cache.release(b)
    read(cache, c)
    fetched.clear()
    read(cache, a)
    assert not fetched
    read(cache, b)
    assert name(b) in fetched


def test_waiting_for_room_ends_when_there_is_some_or_when_it_is_stopped(
    shards: list[SplitShard], tmp_path: Path
) -> None:
    a, b = shards[:2]
    cache, stop = Cache(tmp_path, max(size(a), size(b))), threading.Event()
    with ThreadPoolExecutor(2) as pool:
        with cache.hold(a):
            waiting = pool.submit(read, cache, b)
            time.sleep(0.2)
            assert not waiting.done()
            threading.Timer(0.1, stop.set).start()
            with pytest.raises(Stopped), cache.hold(b, stop):
                pass
        assert waiting.result(timeout=PATIENCE) == expected(b)


def test_threads_and_processes_that_want_one_shard_fetch_it_once(
    shards: list[SplitShard], fetched: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = cache_module.fetch

    def slow(*arguments: Any, **options: Any) -> str:
        time.sleep(0.1)
        return fetch(*arguments, **options)

    monkeypatch.setattr(cache_module, "fetch", slow)
    caches = [Cache(tmp_path), Cache(tmp_path)]  # two know as little of each other as two processes
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda number: read(caches[number % 2], shards[0]), range(6)))
    assert found == [expected(shards[0])] * 6
    assert len(fetched) == 2


def test_files_of_the_user_stay_whatever_happens(shards: list[SplitShard], tmp_path: Path) -> None:
    files = users_files(tmp_path, shards)
    for _ in range(2):
        cache = Cache(tmp_path, max(map(size, shards)))
        for shard in shards:
            assert read(cache, shard) == expected(shard)
        for shard in shards:
            cache.discard(shard)
    assert {path: path.read_bytes() for path in files} == files
    assert set(tmp_path.iterdir()) == {*files, tmp_path / RECORD}


def test_a_cache_smaller_than_a_shard_is_refused_with_both_sizes(shards: list[SplitShard], tmp_path: Path) -> None:
    cache = Cache(tmp_path, 5000)
    with pytest.raises(ConfigError, match=rf"a cache of 5,000 bytes, expected at least the {size(shards[0]):,} of mem"):
        read(cache, shards[0])


@pytest.mark.parametrize("url", ["s3://bucket/cache", "memory://cache", Path("s3://bucket/cache")])
def test_a_cache_at_a_url_is_refused(url: Any) -> None:
    with pytest.raises(ConfigError, match="expected a folder on a local disk"):
        Cache(url if isinstance(url, Path) else place(url))  # type: ignore[arg-type]  # a URL is what is refused


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StoreError, match=rf"{tmp_path}: .*no locks available.*that can be written and locked"):
        Cache(tmp_path)


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="found a folder that cannot be used"):
        Cache(tmp_path / "file")


def test_a_file_in_the_place_of_the_record_is_refused_and_stays(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text("a text of the user's " * 100)
    with pytest.raises(StoreError, match=rf"{RECORD}: found no record of a cache"):
        Cache(tmp_path)
    assert (tmp_path / RECORD).read_text().startswith("a text of the user's")


def test_another_file_at_the_shards_place_is_refused_and_nothing_stays(
    shards: list[SplitShard], tmp_path: Path
) -> None:
    a, b = shards[0], shards[3]
    other = replace(a, file=a.file.model_copy(update={"sha256": b.file.sha256}))
    with pytest.raises(StoreError, match=rf"{a.path}: found SHA-256 {a.file.sha256}, expected {b.file.sha256}"):
        read(Cache(tmp_path), other)
    assert [path.name for path in tmp_path.iterdir()] == [RECORD]


def test_a_shard_that_is_not_there_is_one_error_and_nothing_stays(shards: list[SplitShard], tmp_path: Path) -> None:
    entry = shards[0].entry.model_copy(update={"path": "shards/gone.tar"})
    gone = replace(shards[0], entry=entry, file=shards[0].file.model_copy(update={"path": "shards/gone.tar"}))
    with pytest.raises(StoreError, match=r"shards/gone\.tar: found no way to read it \("):
        read(Cache(tmp_path), gone)
    assert [path.name for path in tmp_path.iterdir()] == [RECORD]


def fill_up(monkeypatch: pytest.MonkeyPatch, folder: Path, room: int, number: int) -> None:
    """Let the disk of `folder` have so many bytes in all."""
    fetch = cache_module.fetch

    class Disk:
        def __init__(self, file: Any) -> None:
            self._file = file

        def write(self, data: bytes) -> None:
            self._file.write(data[: len(data) // 2])
            self._file.flush()
            if held(folder) + len(data) - len(data) // 2 > room:
                raise OSError(number, os.strerror(number))
            self._file.write(data[len(data) // 2 :])
            self._file.flush()

    def fetch_to_disk(where: Any, file: Any, *a: Any, **o: Any) -> str:
        return fetch(where, Disk(file), *a, **o)  # type: ignore[arg-type]  # only what `fetch` needs of a file

    monkeypatch.setattr(cache_module, "fetch", fetch_to_disk)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_on_a_full_disk_other_copies_go_first(
    shards: list[SplitShard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    a, b, c = shards[:3]
    files = users_files(tmp_path, shards)
    fill_up(monkeypatch, tmp_path, sum(map(len, files.values())) + max(size(a) + size(b), size(c) + size(b)), number)
    cache = Cache(tmp_path)
    for shard in (a, b, c):
        assert read(cache, shard) == expected(shard)
        time.sleep(0.01)
    assert held(tmp_path) == size(b) + size(c) + sum(map(len, files.values()))
    assert {path: path.read_bytes() for path in files} == files


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_with_nothing_to_delete_is_one_error_and_nothing_stays(
    shards: list[SplitShard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fill_up(monkeypatch, tmp_path, size(shards[0]) - 1, number)
    with pytest.raises(StoreError, match=rf"{tmp_path}: found [\d,]+ bytes free, expected {size(shards[0]):,} for a"):
        read(Cache(tmp_path), shards[0])
    assert [path.name for path in tmp_path.iterdir()] == [RECORD]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """tiny_disk(bytes) -> a folder on a disk of that size."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mounted(room: int) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("no right to mount a disk")
        return folder

    yield mounted
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)


def test_a_real_full_disk_behaves_like_that(shards: list[SplitShard], tiny_disk: Callable[[int], Path]) -> None:
    largest = max(map(size, shards))
    folder = tiny_disk(2 * largest + (1 << 16))
    cache = Cache(folder)
    for shard in [*shards, *shards]:
        assert read(cache, shard) == expected(shard)
    for shard in shards:
        cache.discard(shard)
    (folder / "user").write_bytes(bytes(shutil.disk_usage(folder).free - largest // 2))
    with pytest.raises(StoreError, match=rf"{folder}: found [\d,]+ bytes free, expected {largest:,} for a copy of mem"):
        read(cache, max(shards, key=size))
    assert {path.name for path in folder.iterdir()} == {RECORD, "user"}


def test_a_disk_without_room_for_the_record_is_the_same_error(
    shards: list[SplitShard], tiny_disk: Callable[[int], Path]
) -> None:
    folder = tiny_disk(1 << 18)
    cache = Cache(folder)
    file = (folder / "user").open("wb", buffering=0)
    with file, suppress(OSError):
        while file.write(bytes(1 << 12)):
            pass
    with pytest.raises(StoreError, match=r"bytes free, expected"):
        read(cache, shards[0])
    with pytest.raises(StoreError, match=r"cannot be used|bytes free"):
        read(Cache(folder), shards[0])
