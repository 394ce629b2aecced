"""Whole copies of remote shards on a local disk, shared by all processes of a machine, and bounded."""

import fcntl
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from upath import UPath

from pipelines.loaders.cache.index import Record, index_of, open_locked, part
from pipelines.loaders.split import SplitShard
from shards.errors import NO_SPACE, ConfigError, StoreError
from shards.files import sha256_file, sync
from shards.remote import STALL, Stopped, fetch

_POLL = 0.05  # seconds; other processes do not say when they are done
_LONG = 7 * 24 * 3600 * 10**9  # nanoseconds by which a copy becomes older when it is released; they keep their order
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # `Path` makes one slash of two


class Cache:
    """A folder of copies.

    Processes that share a folder fetch a shard once. A copy is found again by the SHA-256 of the shard in its manifest;
    its size is compared each time that it is used, its hash once a process, and a damaged one is fetched again. What
    was used longest ago goes first when there is no room, unless somebody is reading it. Only what the cache has
    written, by its record, is ever deleted.

    Args:
        folder: of the cache; made if absent.
        limit: bytes of all copies together, of all processes; None: as many as the disk takes.
        stall: of `shards.remote.fetch`.

    Raises:
        ConfigError: the folder is a URL.
        StoreError: the folder cannot be written or locked, or its record is no record.
    """

    def __init__(self, folder: Path, limit: int | None = None, *, stall: float = STALL) -> None:
        if not isinstance(folder, Path) or _URL.match(str(folder)):
            raise ConfigError(f"found a cache at {folder}, expected a folder on a local disk")
        self.folder, self._limit, self._stall = folder, limit, stall
        self._record = Record(folder)
        self._changed = threading.Condition()
        self._names: dict[str, str] = {}  # SHA-256 -> name of a copy that this process has verified
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._record.clear_up()
        except OSError as error:
            raise self._unusable(error) from error

    def check(self, shard: SplitShard) -> None:
        """ConfigError if the shard does not fit."""
        if self._limit is not None and copy_size(shard) > self._limit:
            raise ConfigError(
                f"{self.folder}: found a cache of {self._limit:,} bytes, expected at least the {copy_size(shard):,} of"
                f" {shard.path}, better those of all shards that are shuffled together"
            )

    @contextmanager
    def hold(self, shard: SplitShard, stop: threading.Event | None = None) -> Iterator[Path]:
        """A whole local copy of a shard, its index beside it, for as long as the context lasts.

        Args:
            shard: a remote one.
            stop: ends the wait for it with `shards.remote.Stopped`.

        Raises:
            ConfigError: as of `check`.
            StoreError: the shard cannot be fetched, or is not that of the manifest, or there is no room on the disk.
        """
        self.check(shard)
        try:
            path, descriptor = self._acquire(shard, stop)
        except OSError as error:
            raise (self._full(shard) if error.errno in NO_SPACE else self._unusable(error)) from error
        try:
            yield path
        finally:
            os.close(descriptor)

    def release(self, shard: SplitShard) -> None:
        """Say that a copy will not be used for long: it goes before those that are in use, which may be older."""
        name = self._names.get(shard.file.sha256)
        then = time.time_ns() - _LONG
        with suppress(OSError):
            if name is not None:
                os.utime(self._record.tar(name), ns=(then, then))

    def discard(self, shard: SplitShard) -> None:
        """Delete the copy of a shard unless it is in use."""
        self._names.pop(shard.file.sha256, None)
        with suppress(OSError):
            self._record.discard(shard.file.sha256)

    def _acquire(self, shard: SplitShard, stop: threading.Event | None) -> tuple[Path, int]:
        """A whole copy, and a descriptor that keeps it from being evicted."""
        while (found := self._found(shard)) is None:
            try:
                fetched = self._fetch_if_due(shard, stop)
            except OSError as error:
                if error.errno not in NO_SPACE or not self._record.evict(copy_size(shard)):
                    raise
                continue
            if not fetched:
                with self._changed:
                    self._changed.wait(_POLL)
                if stop is not None and stop.is_set():
                    raise Stopped
        return found

    def _found(self, shard: SplitShard) -> tuple[Path, int] | None:
        """As `_acquire`, if a copy is there and sound."""
        verified = self._names.get(shard.file.sha256)
        name = verified or self._record.find(shard.file.sha256)
        if name is None:
            return None
        path = self._record.tar(name)
        descriptor = open_locked(path, fcntl.LOCK_SH)
        if descriptor is not None and _is_sound(shard, path, descriptor, verified is not None):
            now = time.time_ns()  # of a finer clock than the kernel's own
            os.utime(descriptor, ns=(now, now))
            self._names[shard.file.sha256] = name
            return path, descriptor
        self._names.pop(shard.file.sha256, None)
        if descriptor is not None or not path.exists():
            self._record.forget(name)
        if descriptor is not None:
            os.close(descriptor)
        return None

    def _fetch_if_due(self, shard: SplitShard, stop: threading.Event | None) -> bool:
        """Fetch a shard, whole or not at all, unless another one does or all that could make room is in use."""
        name = self._record.claim(shard.file.sha256, copy_size(shard), self._limit)
        descriptor = None if name is None else self._record.begin(name)
        if name is None or descriptor is None:
            return False
        try:
            self._fetch(shard, name, stop)
        except BaseException:
            self._record.forget(name)
            raise
        finally:
            os.close(descriptor)
            with self._changed:
                self._changed.notify_all()
        return True

    def _fetch(self, shard: SplitShard, name: str, stop: threading.Event | None) -> None:
        tar = self._record.tar(name)
        for path, file in ((index_of(tar), shard.index_file), (tar, shard.file)):
            place = shard.folder / file.path
            assert isinstance(place, UPath)
            with part(path).open("wb") as target:  # the part of the tar is there, and locked
                found = fetch(place, target, file.bytes, stall=self._stall, stop=stop)
                target.flush()
                os.fsync(target.fileno())
            if found != file.sha256:
                raise StoreError(
                    f"{place}: found SHA-256 {found}, expected {file.sha256} by the manifest: damaged, or another file"
                )
        for path in (index_of(tar), tar):
            part(path).replace(path)
        sync(self.folder)
        self._record.finish(name)
        self._names[shard.file.sha256] = name

    def _full(self, shard: SplitShard) -> StoreError:
        free = shutil.disk_usage(self.folder).free
        return StoreError(
            f"{self.folder}: found {free:,} bytes free, expected {copy_size(shard):,} for a copy of {shard.path}: make"
            " room, name a cache folder on another disk, or bound the cache to what the disk has"
        )

    def _unusable(self, error: OSError) -> StoreError:
        return StoreError(
            f"{self.folder}: found a folder that cannot be used ({error}), expected one for the cache on a local disk"
            " that can be written and locked"
        )


def copy_size(shard: SplitShard) -> int:
    """Bytes of a shard and its index."""
    return shard.file.bytes + shard.index_file.bytes


def _is_sound(shard: SplitShard, tar: Path, descriptor: int, verified: bool) -> bool:
    index = index_of(tar)
    try:
        sizes = os.fstat(descriptor).st_size, index.stat().st_size
        if sizes != (shard.file.bytes, shard.index_file.bytes):
            return False
        return verified or (sha256_file(tar), sha256_file(index)) == (shard.file.sha256, shard.index_file.sha256)
    except OSError:  # the index is not there, or the disk does not give it back
        return False
