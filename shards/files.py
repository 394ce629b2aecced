"""Files and folders that are written whole or not at all, their hashes, and locks that a dying process leaves behind.

The kernel frees a lock when whoever holds it dies.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

from shards.errors import ConfigError, DiskError, describe_refusal
from shards.places import Place


@contextmanager
def atomic_path(path: Path, what: str = "this file") -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed to `path`, on failure removed.

    Args:
        path: of the file.
        what: what its content is called in errors.

    Raises:
        DiskError: see `name_refusals`.
    """
    temporary = path.with_name(f".{path.name}.{token_hex(4)}.tmp")
    with name_refusals(path, temporary, what):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            sync(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync(path.parent)


@contextmanager
def name_refusals(path: Path, temporary: Path | None = None, what: str = "this file") -> Iterator[None]:
    """Name `path` where the disk refuses to have it written: of itself, a full disk says "No space left on device".

    Args:
        path: the file or folder that is written.
        temporary: its name until it is whole.
        what: what its content is called.

    Raises:
        DiskError: what was found and expected at `path`. An OSError about something else passes as it is.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, ConnectionError | TimeoutError) or not error.errno:
            raise
        if not _is_about(error, path, temporary):  # a file that is read to write this one
            raise
        found, expected = describe_refusal(error)
        raise DiskError(error.errno, f"{path}: found {found}, expected {expected} for {what}", str(path)) from error


def _is_about(error: OSError, path: Path, temporary: Path | None) -> bool:
    """Whether the error names the file or folder, what lies in it or what it lies in; or, as a full disk, nothing."""
    if not isinstance(error.filename, str | bytes):
        return True
    name = Path(os.fsdecode(error.filename))
    return path.is_relative_to(name) or any(name.is_relative_to(own) for own in (path, temporary or path))


def sync(path: Path) -> None:
    """Force a file's or a folder's content to the disk: a rename may otherwise outlive what it names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` whole or not at all; DiskError says why it cannot be."""
    with atomic_path(path, f"its {len(data):,} bytes") as temporary:
        temporary.write_bytes(data)


def sha256_file(path: Place) -> str:
    """SHA-256 of a file as 64 hex digits, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # BinaryIO names no `readinto`


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `out`; it becomes `out` at the end, and vanishes where the block fails.

    When `out` holds the very same files already, it stays as it is.

    Raises:
        ConfigError: `out` holds anything else; it is not touched.
        DiskError: see `name_refusals`.
    """
    temporary = out.with_name(f".{out.name}.{token_hex(4)}.tmp")
    with name_refusals(out, temporary, "what belongs in it"):
        try:
            temporary.mkdir(parents=True)
            yield temporary
            if _files(out):
                _check_same(out, temporary)
                return
            for path in [*temporary.rglob("*"), temporary]:
                sync(path)
            temporary.replace(out)  # an empty folder gives way
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        sync(out.parent)


def _files(folder: Path) -> dict[str, Path]:
    """What is in the folder, by its path inside; nothing where there is no folder."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: found a file, expected a folder, or nothing")
    return {os.fspath(path.relative_to(folder)): path for path in sorted(folder.rglob("*"))}


def _check_same(out: Path, made: Path) -> None:
    found, expected = _files(out), _files(made)
    other = sorted(
        name
        for name in found.keys() | expected.keys()
        if name not in found or name not in expected or _content(found[name]) != _content(expected[name])
    )
    if other:
        raise ConfigError(
            f"{out}: found other content ({', '.join(other)}), expected an empty folder or none; "
            "remove it or choose another"
        )


def _content(path: Path) -> bytes | None:
    return None if path.is_dir() else path.read_bytes()


def lock_file(path: Path, *, wait: bool = False, create: bool = True) -> int | None:
    """Lock the file exclusively; the caller removes it, then closes the descriptor, to leave it.

    Args:
        path: of the lock; no link is followed.
        wait: until others leave it.
        create: the file where it is not there.

    Returns:
        Its descriptor; None when another process holds it.

    Raises:
        OSError: the file cannot be opened or made.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | (os.O_CREAT if create else 0), 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # one who left between our two calls took the file with it: then this lock is on nothing
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:
            pass
        except BlockingIOError:
            os.close(descriptor)
            return None
        os.close(descriptor)
