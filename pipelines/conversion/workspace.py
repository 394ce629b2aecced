"""The right to write a result, and what the disk says to it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shards.errors import StoreError, describe_refusal
from shards.files import lock_file


@contextmanager
def locked(final: Path) -> Iterator[None]:
    """Hold the only right to write the folder `final`. The kernel releases it when the process dies, however it dies.

    Raises:
        StoreError: another process holds it.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    path = final.with_name(f".{final.name}.lock")
    descriptor = lock_file(path)
    if descriptor is None:
        raise StoreError(f"{final}: found another process writing it, expected to be the only one")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def disk_errors(data: Path) -> Iterator[None]:
    """Turn what a disk refuses or fails to do into a StoreError that says where, and what to do.

    That is `data`, unless the error names something that does not lie in it.
    """
    try:
        yield
    except OSError as error:
        where, at = str(data), ""
        if isinstance(error.filename, str | bytes):
            name = os.fsdecode(error.filename)
            within = Path(name).is_relative_to(data) or data.is_relative_to(name)
            where, at = (where, f" at {name}") if within else (name, "")
        found, expected = describe_refusal(error)
        raise StoreError(
            f"{where}: found {found}{at}, expected {expected} for the store: then run again, it goes on from here"
        ) from error
