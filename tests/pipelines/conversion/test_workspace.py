"""What a disk refuses while a store is made: said of the data folder, but of what lies elsewhere by its own name."""

import errno
import os
from pathlib import Path

import pytest

from pipelines.conversion.workspace import disk_errors
from shards.errors import DiskError, StoreError


def told(data: Path, error: OSError) -> str:
    with pytest.raises(StoreError) as caught, disk_errors(data):
        raise error
    return str(caught.value)


@pytest.mark.parametrize(
    ("number", "found", "expected"),
    [
        (errno.ENOSPC, "no space left (No space left on device)", "room"),
        (errno.EDQUOT, "no space left (Disk quota exceeded)", "room"),
        (errno.EFBIG, "no space left (File too large)", "room"),
        (errno.EACCES, "a place that cannot be written (Permission denied)", "a writable one"),
        (errno.EROFS, "a place that cannot be written (Read-only file system)", "a writable one"),
        (errno.EIO, "an error of the disk (Input/output error)", "a sound one"),
    ],
)
def test_an_error_says_what_was_found_and_where(number: int, found: str, expected: str) -> None:
    reason, then = os.strerror(number), "for the store: then run again, it goes on from here"
    assert told(Path("/data"), OSError(number, reason)) == f"/data: found {found}, expected {expected} {then}"
    for name in ("/data/.ntu.partial/done", "/"):
        message = told(Path("/data"), OSError(number, reason, name))
        assert message == f"/data: found {found} at {name}, expected {expected} {then}"
    message = told(Path("/data"), DiskError(number, "a whole message", "/data/shards/000000.tar"))
    assert message == f"/data: found {found} at /data/shards/000000.tar, expected {expected} {then}"


def test_what_does_not_lie_in_the_data_folder_is_not_put_on_it() -> None:
    message = told(Path("/data"), OSError(errno.ENOSPC, "No space left on device", "/home/user/.cache/kernel.nbc"))
    assert message.startswith("/home/user/.cache/kernel.nbc: found no space left")
    assert "/data" not in message
