"""What is particular to the stream loader: its reader thread, and what it reads when."""

import gc
import os
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pipelines.loaders.order import windowed
from pipelines.loaders.split import Item, Split, open_split
from pipelines.loaders.stream import PREFETCH, StreamLoader
from shards.errors import ConfigError, StoreError
from shards.manifest import read_manifest
from shards.reader import ShardIndex


def _open(folder: Path, **options: Any) -> StreamLoader:
    return StreamLoader(folder, "ntu60", "xsub", "train", **({"batch_size": 2, "seed": 0} | options))


def _readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "skelstream-reader"]


def _consume_in_time(loader: StreamLoader) -> None:
    """Consume an epoch, and raise what it raises; a reader that dies unheard would let it wait for ever."""
    raised: list[BaseException] = []

    def consume() -> None:
        try:
            list(loader.epoch(0))
        except StoreError as error:
            raised.append(error)

    consumer = threading.Thread(target=consume, daemon=True)
    consumer.start()
    consumer.join(timeout=10)
    assert not consumer.is_alive()
    for error in raised:
        raise error


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Every (shard, row) read, in order."""
    seen: list[tuple[str, int]] = []
    read = Split.read

    def recorded(self: Split, index: ShardIndex, rows: list[int]) -> list[Item]:
        seen.extend((str(index.path), row) for row in rows)
        return read(self, index, rows)

    monkeypatch.setattr(Split, "read", recorded)
    return seen


def test_a_finished_epoch_leaves_no_thread(folder: Path) -> None:
    assert len(list(_open(folder).epoch(0))) == 23
    assert not _readers()


def test_an_abandoned_epoch_ends_its_thread(folder: Path) -> None:
    iterator = _open(folder).epoch(0)
    next(iterator)
    assert len(_readers()) == 1
    del iterator
    gc.collect()
    assert not _readers()


def test_an_error_in_the_consumer_ends_the_thread(folder: Path) -> None:
    def consume() -> None:
        for _ in _open(folder).epoch(0):
            raise KeyError("consumer")

    with pytest.raises(KeyError, match="consumer"):
        consume()
    gc.collect()
    assert not _readers()


def test_an_epoch_that_is_never_begun_starts_no_thread(folder: Path) -> None:
    iterator = _open(folder).epoch(0)
    assert not _readers()
    del iterator


def test_reading_ahead_is_bounded(folder: Path, reads: list[tuple[str, int]]) -> None:
    iterator = _open(folder).epoch(0)
    next(iterator)
    # one batch with the consumer, those in the queue, one in the reader's hand
    most = 2 * (1 + PREFETCH + 1)
    deadline = time.monotonic() + 5
    while len(reads) < most and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert len(reads) == most
    iterator.close()  # type: ignore[attr-defined]


def test_entering_at_a_step_reads_nothing_before_it(folder: Path, reads: list[tuple[str, int]]) -> None:
    loader = _open(folder, drop_last=False)
    list(loader.epoch(0, 20))
    assert len(reads) == 46 - 20 * 2


def test_every_sample_is_read_once_an_epoch(folder: Path, reads: list[tuple[str, int]]) -> None:
    list(_open(folder, drop_last=False, batch_size=5).epoch(0))
    assert len(reads) == len(set(reads)) == 46


def test_only_the_shards_of_a_window_are_read_at_a_time(folder: Path, reads: list[tuple[str, int]]) -> None:
    list(_open(folder, window=1, batch_size=1).epoch(0))
    shards = [shard for shard, _ in reads]
    assert len(set(shards)) == 7
    assert sum(a != b for a, b in pairwise(shards)) == 6


def test_samples_come_in_the_windowed_order_whatever_the_batch(folder: Path) -> None:
    side = open_split(folder, "ntu60", "xsub", "train")
    sizes = [shard.samples for shard in side.shards]
    ids = [[item.sample_id for item in side.read(side.index(n), range(size))] for n, size in enumerate(sizes)]
    places = windowed(sizes, 3, seed=4, epoch=6)
    expected = [ids[shard][row] for shard, row in zip(places.shard, places.row, strict=True)]
    for batch_size in (1, 5, 46):
        loader = _open(folder, window=3, seed=4, batch_size=batch_size, drop_last=False)
        assert [i for batch in loader.epoch(6) for i in batch.sample_id.tolist()] == expected


@pytest.mark.parametrize("window", [1, 2, 7, 100])
def test_any_window_delivers_every_sample(folder: Path, train_ids: list[int], window: int) -> None:
    loader = _open(folder, window=window, drop_last=False)
    assert sorted(i for batch in loader.epoch(0) for i in batch.sample_id.tolist()) == train_ids


def test_a_window_without_a_shard_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="window of 0 shards"):
        _open(folder, window=0)


def test_a_damaged_shard_is_an_error_where_the_batches_are_consumed(
    write_folder: Callable[..., Path], tmp_path: Path
) -> None:
    loader = _open(write_folder(tmp_path), batch_size=46)
    path = tmp_path / read_manifest(tmp_path).shards[0].path
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(StoreError, match=path.name):
        _consume_in_time(loader)
    assert not _readers()


def test_a_missing_shard_is_an_error_where_the_batches_are_consumed(
    write_folder: Callable[..., Path], tmp_path: Path
) -> None:
    loader = _open(write_folder(tmp_path), batch_size=46)
    path = tmp_path / read_manifest(tmp_path).shards[0].path
    path.unlink()
    with pytest.raises(StoreError, match=path.name):
        _consume_in_time(loader)
    assert not _readers()


def test_reading_works_where_the_system_takes_no_advice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fadvise")
    assert len(list(_open(folder).epoch(0))) == 23
