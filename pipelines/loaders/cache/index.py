"""The record of a cache: which files of its folder are copies of shards, and who may delete them.

An SQLite file, which processes change one after the other and which a kill does not harm. A name that nobody could have
guessed is in the record before there is a file of it, and only files of names in the record are ever deleted. A copy
that is being fetched or read is locked (`flock`), which ends with the process, however it ends.
"""

import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from shards.errors import StoreError

RECORD = "skelstream-cache.sqlite"

_BUSY_SECONDS = 60  # until the record is free; it is held for milliseconds
_TABLE = "CREATE TABLE IF NOT EXISTS copies (sha256 TEXT PRIMARY KEY, name TEXT UNIQUE, bytes INTEGER, whole INTEGER)"


class Record:
    """Copies by the SHA-256 of their shard. Methods raise OSError, and StoreError where the record is none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def tar(self, name: str) -> Path:
        """Where the copy of this name lies; its index is beside it."""
        return self._folder / f"{name}.tar"

    def find(self, sha256: str) -> str | None:
        """Name of the whole copy of a shard."""
        with self._changing() as record:
            row = record.execute("SELECT name FROM copies WHERE sha256 = ? AND whole", (sha256,)).fetchone()
        return row[0] if row else None

    def claim(self, sha256: str, size: int, limit: int | None) -> str | None:
        """A new name for a copy that the caller shall fetch; None while another one does, or nothing can make room."""
        with self._changing() as record:
            row = record.execute("SELECT name, whole FROM copies WHERE sha256 = ?", (sha256,)).fetchone()
            if row and (row[1] or not self._is_dead(row[0])):
                return None
            if row:
                self._delete(record, row[0])
            if not self._make_room(record, size, limit):
                return None
            name = f"{sha256[:16]}-{token_hex(8)}"
            record.execute("INSERT INTO copies VALUES (?, ?, ?, 0)", (sha256, name, size))
        return name

    def begin(self, name: str) -> int | None:
        """The locked file which says that somebody is fetching; None if another one took the claim for a dead one's.

        The record is held, so that nobody looks between the two calls.
        """
        with self._changing() as record:
            if not record.execute("SELECT 1 FROM copies WHERE name = ?", (name,)).fetchone():
                return None
            descriptor = os.open(part(self.tar(name)), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            return descriptor

    def finish(self, name: str) -> None:
        """The copy is whole."""
        with self._changing() as record:
            record.execute("UPDATE copies SET whole = 1 WHERE name = ?", (name,))

    def forget(self, name: str) -> None:
        """Delete a copy that is of no use."""
        self._unlink(name)  # before the record is written to, which a full disk does not allow
        with suppress(OSError, StoreError), self._changing() as record:
            self._delete(record, name)

    def discard(self, sha256: str) -> None:
        """Delete the copy of a shard unless it is in use."""
        with self._changing() as record:
            row = record.execute("SELECT name FROM copies WHERE sha256 = ? AND whole", (sha256,)).fetchone()
            if row:
                self._delete_unused(record, row[0])

    def evict(self, wanted: int) -> int:
        """Delete what is not in use, last used first, until so many bytes are free; how many are."""
        with self._changing() as record:
            return self._delete_oldest(record, wanted)

    def clear_up(self) -> None:
        """Delete what killed processes left half-written."""
        with self._changing() as record:
            for (name,) in record.execute("SELECT name FROM copies WHERE NOT whole").fetchall():
                if self._is_dead(name):
                    self._delete(record, name)

    def _make_room(self, record: sqlite3.Connection, size: int, limit: int | None) -> bool:
        if limit is None:
            return True
        (held,) = record.execute("SELECT COALESCE(SUM(bytes), 0) FROM copies").fetchone()
        missing: int = held + size - limit
        return missing <= 0 or self._delete_oldest(record, missing) >= missing

    def _delete_oldest(self, record: sqlite3.Connection, wanted: int) -> int:
        freed = 0
        copies = record.execute("SELECT name, bytes FROM copies WHERE whole").fetchall()
        for _, name, size in sorted((_last_used(self.tar(name)), name, size) for name, size in copies):
            if freed >= wanted:
                break
            if self._delete_unused(record, name):
                freed += size
        return freed

    def _delete_unused(self, record: sqlite3.Connection, name: str) -> bool:
        descriptor = open_locked(self.tar(name), fcntl.LOCK_EX)
        if descriptor is None and self.tar(name).exists():
            return False
        try:
            self._delete(record, name)
        finally:
            if descriptor is not None:
                os.close(descriptor)
        return True

    def _is_dead(self, name: str) -> bool:
        """Whether nobody is fetching this copy, which is not whole, any more."""
        return not _is_locked(part(self.tar(name))) and not _is_locked(self.tar(name))  # the one becomes the other

    def _delete(self, record: sqlite3.Connection, name: str) -> None:
        self._unlink(name)
        record.execute("DELETE FROM copies WHERE name = ?", (name,))

    def _unlink(self, name: str) -> None:
        for path in (self.tar(name), index_of(self.tar(name))):
            path.unlink(missing_ok=True)
            part(path).unlink(missing_ok=True)

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """A transaction, which no other thread or process has at the same time."""
        path = self._folder / RECORD
        try:
            with closing(sqlite3.connect(path, _BUSY_SECONDS, isolation_level=None)) as record:
                record.execute("BEGIN IMMEDIATE")
                record.execute(_TABLE)
                yield record  # an error closes the record without a commit
                record.execute("COMMIT")
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise OSError(errno.ENOSPC, str(error)) from error
            raise StoreError(
                f"{path}: found no record of a cache that can be used ({error}), expected our own: name another folder"
            ) from error


def index_of(tar: Path) -> Path:
    """The index beside a copy."""
    return tar.with_suffix(".idx")


def part(path: Path) -> Path:
    """Where a file is written before it gets its name."""
    return path.with_name(f".{path.name}.part")


def open_locked(path: Path, kind: int) -> int | None:
    """A descriptor with a lock of this kind; None if there is no such file, or it is locked otherwise."""
    try:
        descriptor = os.open(path, os.O_RDWR)  # a network file system may lock nothing that is open for reading only
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:
            return descriptor
    except BlockingIOError:
        pass
    os.close(descriptor)
    return None


def _is_locked(path: Path) -> bool:
    descriptor = open_locked(path, fcntl.LOCK_EX)
    if descriptor is None:
        return path.exists()
    os.close(descriptor)
    return False


def _last_used(tar: Path) -> int:
    try:
        return tar.stat().st_mtime_ns
    except FileNotFoundError:  # deleted by the user
        return 0
