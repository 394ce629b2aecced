"""The right to write a result, and what the disk says to it."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shards.errors import NO_SPACE, StoreError
from shards.lock import acquire

_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR)


@contextmanager
def locked(final: Path) -> Iterator[None]:
    """Hold the only right to write the folder `final`. The kernel releases it when the process dies, however it dies.

    Raises:
        StoreError: another process holds it.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    path = final.with_name(f".{final.name}.lock")
    descriptor = acquire(path)
    if descriptor is None:
        raise StoreError(f"{final}: found another process writing it, expected to be the only one")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def disk_errors(data: Path) -> Iterator[None]:
    """Turn what a disk refuses or fails to do into a StoreError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            found, expected = "no space left", "room for the store: make some and run again, it goes on from here"
        elif error.errno in _UNWRITABLE:
            found, expected = f"a folder that cannot be written ({error})", "a writable one"
        else:
            found, expected = f"an error of the disk ({error})", "a sound one: run again, it goes on from here"
        raise StoreError(f"{data}: found {found}, expected {expected}") from error
