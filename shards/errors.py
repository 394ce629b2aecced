"""The errors a user can cause. Each message says what was found, what was expected, and where."""

import errno
import os

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of an `OSError` for a disk, a quota or a permitted file size that is used up."""

_NO_PLACE = {
    getattr(errno, name)
    for name in (
        *("EACCES", "EPERM", "EROFS", "EEXIST", "ENOENT", "ENOTDIR", "EISDIR", "ENOTEMPTY", "ENAMETOOLONG", "ELOOP"),
        *("EINVAL", "EBUSY", "ETXTBSY"),
    )
}


class SkelstreamError(ValueError):
    """Root of every error caused by input, configuration or files; programming errors stay assertions."""


class RawInputError(SkelstreamError):
    """A raw file or archive is not what its format demands.

    Takes one finished message, so that it survives the pickling between Dask processes.
    """


class StoreError(SkelstreamError):
    """A store, shard, index or manifest is missing, incomplete or altered."""


class ConfigError(SkelstreamError):
    """An option is unknown or has a value that cannot work."""


class CheckpointError(SkelstreamError):
    """A checkpoint does not fit the data, the model or the format."""


class DiskError(OSError, SkelstreamError):
    """A disk refused to take a file or a folder: `errno` as of any OSError, `filename` what was to be written.

    `strerror` is the whole message, so that it survives the pickling between Dask processes.
    """

    def __str__(self) -> str:
        return str(self.strerror)


class ShortageError(SkelstreamError):
    """Disk or memory is short for what was asked, found before anything was begun."""


def describe_refusal(error: OSError) -> tuple[str, str]:
    """What a disk that refused was found to have, and what was expected of it, for a message."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno == errno.EEXIST:  # of a folder that was to be made
        reason = "a file lies where a folder should"
    if error.errno in NO_SPACE:
        return f"no space left ({reason})", "room"
    if error.errno in _NO_PLACE:
        return f"a place that cannot be written ({reason})", "a writable one"
    return f"an error of the disk ({reason})", "a sound one"


def raw_error(file: str, where: str, found: str, expected: str) -> RawInputError:
    """Build the one form of raw-input message.

    Args:
        file: name of the file, with the archive it lies in.
        where: line, frame or row, counted from 1 ("line 12"); empty for the whole file.
        found: what is there.
        expected: what the format demands.
    """
    place = f"{file}: {where}" if where else file
    return RawInputError(f"{place}: found {found}, expected {expected}")
