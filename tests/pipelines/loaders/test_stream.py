"""What is particular to the stream engine: what it reads when, from where, and what it leaves behind."""

import gc
import os
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from upath import UPath

from pipelines.loaders.cache import fetch as copies
from pipelines.loaders.cache import files as cache_module
from pipelines.loaders.order import Places
from pipelines.loaders.prefetch import ahead
from pipelines.loaders.resident import Resident
from pipelines.loaders.split import Split, open_split
from pipelines.loaders.stream import Stream
from shards.batch import RaggedBatch
from shards.errors import ConfigError, StoreError
from shards.places import place
from tests.patience import PATIENCE

_numbers = count()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def local(folder: Path) -> Split:
    return open_split(folder, "ntu60", "xsub", "train")


def upload(folder: Path, split: Split) -> Split:
    """The same split with its shards on a file system in memory."""
    url = place(f"memory://stream-{next(_numbers)}")
    assert isinstance(url, UPath)
    url.fs.put(str(folder), url.path, recursive=True)
    return replace(split, shards=tuple(replace(shard, folder=url) for shard in split.shards))


@pytest.fixture
def remote(folder: Path, local: Split) -> Iterator[Split]:
    split = upload(folder, local)
    yield split
    url = split.shards[0].folder
    assert isinstance(url, UPath)
    url.fs.rm(url.path, recursive=True)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Shards that were fetched, in order."""
    seen: list[str] = []
    fetch = cache_module.fetch

    def recorded(where: UPath, *arguments: Any, **options: Any) -> str:
        if where.suffix == ".tar":
            seen.append(str(where))
        return fetch(where, *arguments, **options)

    monkeypatch.setattr(cache_module, "fetch", recorded)
    return seen


def epoch(split: Split, number: int = 0, window: int = 3) -> Places:
    places = split.order(window=window, seed=4).epoch(number)
    return places[np.arange(split.num_samples)]


def batches(stream: Stream, places: Places, size: int = 5, workers: int = 0) -> Iterator[RaggedBatch]:
    stream.announce(places)
    steps = range(-(-len(places) // size))
    return ahead(lambda n: stream.batch(places[n * size : (n + 1) * size]), steps, workers=workers, depth=4)


def samples(batch: RaggedBatch) -> list[tuple[int, int, bytes]]:
    found = []
    for row, number in enumerate(batch.sample_id.tolist()):
        start, length = int(batch.start[row]), int(batch.length[row])
        found.append((number, int(batch.label[row]), batch.frames[start : start + length].numpy().tobytes()))
    return found


def all_samples(found: Iterator[RaggedBatch]) -> list[tuple[int, int, bytes]]:
    return [sample for batch in found for sample in samples(batch)]


def fetchers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("skelstream-fetch")]


def held(folder: Path) -> int:
    """Bytes of copies in a cache at work, where files get other names or go at any time."""
    found: dict[int, int] = {}
    for path in folder.glob("*-*.[ti][ad]*"):
        with suppress(FileNotFoundError):
            facts = path.stat()
            found[facts.st_ino] = facts.st_size
    return sum(found.values())


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


@pytest.mark.parametrize("workers", [0, 3])
def test_batches_are_those_of_the_resident_engine(local: Split, workers: int) -> None:
    places, resident = epoch(local), Resident(local, "cpu")
    assert all_samples(batches(Stream(local, "cpu"), places, workers=workers)) == samples(resident.batch(places))


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("cached", [False, True])
def test_batches_from_remote_shards_are_those_of_local_ones(
    local: Split, remote: Split, temporary: Path, tmp_path: Path, workers: int, cached: bool
) -> None:
    stream, here = Stream(remote, "cpu", cache=tmp_path / "cache" if cached else None), Stream(local, "cpu")
    for number in (0, 1):
        places = epoch(local, number)
        assert all_samples(batches(stream, places, workers=workers)) == samples(here.batch(places))
    stream.close()
    assert not fetchers()
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("dtype", ["float16", "float32", "fixed"])
def test_frames_come_in_the_type_of_the_split(write_folder: Callable[..., Path], tmp_path: Path, dtype: str) -> None:
    split = open_split(write_folder(tmp_path, dtype), "ntu60", "xsub", "train")
    batch = Stream(split, "cpu").batch(epoch(split)[np.arange(4)])
    assert batch.frames.dtype == (torch.float16 if dtype == "float16" else torch.float32)
    assert batch.frames.shape == (int(batch.length.sum()), 2, 25, 3)
    assert batch.start.tolist() == (batch.length.cumsum(0) - batch.length).tolist()


def test_a_sample_may_be_asked_for_twice_and_by_many_threads(local: Split) -> None:
    places, stream = epoch(local), Stream(local, "cpu")
    expected = samples(stream.batch(places))
    double = places[np.array([3, 3, 0, 3])]
    assert samples(stream.batch(double)) == [expected[n] for n in (3, 3, 0, 3)]
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda n: samples(stream.batch(places[np.array([n])])), range(len(places))))
    assert [sample for part in parts for sample in part] == expected


def test_reading_works_where_the_system_takes_no_advice(local: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fadvise")
    assert len(Stream(local, "cpu").batch(epoch(local))) == 46


def test_a_local_split_makes_no_cache(local: Split, tmp_path: Path) -> None:
    stream = Stream(local, "cpu", cache=tmp_path / "cache")
    stream.announce(epoch(local))
    stream.close()
    assert not (tmp_path / "cache").exists()


def test_remote_shards_are_fetched_once_an_epoch_in_the_order_of_their_use(
    remote: Split, fetched: list[str], temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "FETCHERS", 1)
    stream, places = Stream(remote, "cpu"), epoch(remote)
    found = batches(stream, places)
    until(lambda: len(fetched) == 7)
    assert fetched == [str(remote.shards[n].path) for n in dict.fromkeys(places.shard.tolist())]
    assert len(all_samples(found)) == 46
    assert len(fetched) == 7
    stream.close()


def test_an_epoch_entered_late_fetches_only_what_is_left(remote: Split, fetched: list[str], temporary: Path) -> None:
    stream, places = Stream(remote, "cpu"), epoch(remote, window=1)
    last = places[np.arange(43, 46)]
    assert len(all_samples(batches(stream, last))) == 3
    assert Counter(fetched) == Counter({str(remote.shards[n].path) for n in last.shard.tolist()})
    stream.close()


def test_fetching_ahead_is_bounded_by_number(
    remote: Split, fetched: list[str], temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "AHEAD", 2)
    stream, places = Stream(remote, "cpu"), epoch(remote, window=1)
    found = batches(stream, places, size=1)
    until(lambda: len(fetched) == 2)
    next(found)
    until(lambda: len(fetched) == 3)
    time.sleep(0.1)
    assert len(fetched) == 3
    assert len(all_samples(found)) == 45
    assert len(fetched) == 7
    stream.close()


def test_fetching_ahead_is_bounded_by_bytes(
    remote: Split, fetched: list[str], temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "AHEAD_BYTES", 1)
    stream, places = Stream(remote, "cpu"), epoch(remote, window=1)
    found = batches(stream, places, size=1)
    until(lambda: len(fetched) == 1)
    time.sleep(0.1)
    assert len(fetched) == 1
    assert len(all_samples(found)) == 46
    stream.close()


def test_a_temporary_copy_goes_after_its_last_use(remote: Split, temporary: Path) -> None:
    stream, places = Stream(remote, "cpu"), epoch(remote, window=1)
    left = Counter(places.shard.tolist())
    found = batches(stream, places, size=1)
    until(lambda: len(list(temporary.rglob("*.tar"))) == 7)
    for shard in places.shard.tolist():
        next(found)
        left[shard] -= 1
        assert len(list(temporary.rglob("*.tar"))) == sum(count > 0 for count in left.values())
    stream.close()
    assert not list(temporary.iterdir())


def test_another_announcement_replaces_the_one_before(remote: Split, temporary: Path) -> None:
    stream = Stream(remote, "cpu")
    one, two = batches(stream, epoch(remote, 0), size=1), batches(stream, epoch(remote, 1), size=1)
    pairs = list(zip(one, two, strict=True))
    here = Stream(remote, "cpu")
    for number, side in enumerate(zip(*pairs, strict=True)):
        assert all_samples(iter(side)) == all_samples(batches(here, epoch(remote, number)))
    stream.close()
    here.close()


def test_a_cache_is_kept_and_nothing_is_fetched_again(
    remote: Split, fetched: list[str], tmp_path: Path, temporary: Path
) -> None:
    for _ in range(2):
        stream = Stream(remote, "cpu", cache=tmp_path / "cache")
        for number in (0, 1):
            assert len(all_samples(batches(stream, epoch(remote, number)))) == 46
        stream.close()
    assert len(fetched) == 7
    assert len(list((tmp_path / "cache").glob("*.tar"))) == 7


def test_a_bounded_cache_that_holds_a_window_is_enough_to_fetch_each_shard_once(
    remote: Split, fetched: list[str], tmp_path: Path
) -> None:
    sizes = sorted(shard.file.bytes + shard.index_file.bytes for shard in remote.shards)
    stream = Stream(remote, "cpu", cache=tmp_path, cache_bytes=sum(sizes[-4:]))
    places = epoch(remote, window=3)
    for _ in batches(stream, places, size=1):
        assert held(tmp_path) <= sum(sizes[-4:])
    assert len(fetched) == 7
    stream.close()


def test_a_cache_smaller_than_a_window_is_slow_and_right(local: Split, remote: Split, tmp_path: Path) -> None:
    largest = max(shard.file.bytes + shard.index_file.bytes for shard in remote.shards)
    stream, places = Stream(remote, "cpu", cache=tmp_path, cache_bytes=largest), epoch(local)
    found = all_samples(batches(stream, places, size=9, workers=2))
    assert found == samples(Stream(local, "cpu").batch(places))
    stream.close()


def test_a_cache_that_does_not_hold_the_largest_shard_is_refused_at_once(remote: Split, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a cache of 1,000 bytes, expected at least the"):
        Stream(remote, "cpu", cache=tmp_path, cache_bytes=1000)


def test_a_limit_without_a_cache_is_refused(local: Split) -> None:
    with pytest.raises(ConfigError, match="a limit of 1,000 bytes without a cache"):
        Stream(local, "cpu", cache_bytes=1000)


def test_a_forgotten_stream_leaves_no_thread_and_no_file(remote: Split, temporary: Path) -> None:
    stream = Stream(remote, "cpu")
    iterator = batches(stream, epoch(remote), workers=2)
    next(iterator)
    assert list(temporary.iterdir())
    del stream, iterator
    gc.collect()
    until(lambda: not fetchers())
    assert not list(temporary.iterdir())


def test_what_went_wrong_while_fetching_is_raised_where_the_shard_is_used(
    remote: Split, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = remote.shards[3].path
    assert isinstance(url, UPath)
    url.fs.rm_file(url.path)
    stream = Stream(remote, "cpu")
    places = epoch(remote, window=1)
    first = int(np.flatnonzero(places.shard == 3)[0])
    found = batches(stream, places, size=1, workers=2)
    for _ in range(first):
        next(found)
    with pytest.raises(StoreError, match=rf"{url}: found no way to read it"):
        next(found)
    stream.close()
    assert not fetchers()
    assert not list(temporary.iterdir())


def damaged(write_folder: Callable[..., Path], folder: Path) -> tuple[Split, Path]:
    split = open_split(write_folder(folder), "ntu60", "xsub", "train")
    path = split.shards[2].path
    assert isinstance(path, Path)
    return split, path


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:700])


def _cut_and_filled_up(path: Path) -> None:
    size = path.stat().st_size
    os.truncate(path, 700)
    os.truncate(path, size)


def _reorder(path: Path) -> None:
    """Exchange the first two samples; the tar is still one, of the same size."""
    lines = path.with_suffix(".idx").read_text().splitlines()[1:3]
    start = [int(line.split()[1]) - 512 for line in lines]
    data = path.read_bytes()
    stop = int(path.with_suffix(".idx").read_text().splitlines()[3].split()[1]) - 512
    path.write_bytes(data[: start[0]] + data[start[1] : stop] + data[start[0] : start[1]] + data[stop:])


def _without_index(path: Path) -> None:
    path.with_suffix(".idx").unlink()


def _replaced(path: Path) -> None:
    other = next(other for other in sorted(path.parent.glob("*.tar")) if other != path)
    shutil.copy(other, path)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut, "found 700 bytes, expected"),
        (_cut_and_filled_up, "found no "),
        (_reorder, "expected it by the index"),
        (_without_index, "found no readable index"),
        (_replaced, "expected"),
        (Path.unlink, "found no readable shard"),
    ],
)
def test_a_damaged_shard_is_one_error_where_the_batches_are_consumed(
    write_folder: Callable[..., Path], tmp_path: Path, damage: Callable[[Path], None], message: str, workers: int
) -> None:
    split, path = damaged(write_folder, tmp_path)
    damage(path)
    with pytest.raises(StoreError, match=rf"{path.stem}\.(tar|idx).*{message}"):
        list(batches(Stream(split, "cpu"), epoch(split), workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut, "bytes from byte 0 on instead of"),
        (_cut_and_filled_up, "found SHA-256"),
        (_reorder, "found SHA-256"),
        (_without_index, "found no way to read it"),
        (_replaced, "expected"),
        (Path.unlink, "found no way to read it"),
    ],
)
def test_a_damaged_remote_shard_is_found_before_it_is_read(
    write_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], None],
    message: str,
    workers: int,
) -> None:
    monkeypatch.setattr("shards.remote.BACKOFF", 0.001)
    split, path = damaged(write_folder, tmp_path / "store")
    damage(path)
    stream = Stream(upload(tmp_path / "store", split), "cpu", cache=tmp_path / "cache")
    with pytest.raises(StoreError, match=rf"memory://.*{path.stem}\.(tar|idx): .*{message}"):
        list(batches(stream, epoch(split), workers=workers))
    stream.close()
    assert not [path for path in (tmp_path / "cache").iterdir() if "part" in path.name]
