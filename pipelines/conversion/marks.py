"""Marks that a unit of work leaves: what it wrote, with hashes, so that a later run knows what it can keep."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from isal import isal_zlib

from shards.files import sha256_file
from shards.frozen import Frozen
from shards.manifest import FileEntry, file_entry


class Done(Frozen):
    """Files that a unit has finished. They are hashed where they are written, while they are still in memory.

    `max_error` is the largest difference (metres) between a stored coordinate and the float32 it stands for.
    """

    files: list[FileEntry]
    max_error: float = 0.0


def read_done(work: Path, unit: str) -> Done | None:
    """The files of a finished unit; None if it never finished or a file is not there in its size."""
    try:
        done = Done.model_validate_json(read_checked(work / "done" / f"{unit}.json"))
        return done if all((work / f.path).stat().st_size == f.bytes for f in done.files) else None
    except (OSError, ValueError):
        return None


def is_done(work: Path, unit: str) -> bool:
    """Whether an earlier run finished the unit and its files are still what it wrote."""
    done = read_done(work, unit)
    return done is not None and all(sha256_file(work / file.path) == file.sha256 for file in done.files)


def write_done(work: Path, unit: str, paths: Sequence[Path], max_error: float = 0.0) -> None:
    """Declare a unit finished that wrote the files `paths`.

    The marker is not synced: the files are, and `is_done` would see that a marker does not fit them.
    """
    done = Done(files=[file_entry(work, path) for path in paths], max_error=max_error)
    write_checked(work / "done" / f"{unit}.json", done.model_dump_json())


def write_checked(path: Path, text: str) -> None:
    """Write a text and, as its last line, the CRC by which `read_checked` knows that it is all of it."""
    data = text.encode()
    with replacing(path) as file:
        file.write(b"%b\n%08x\n" % (data, isal_zlib.crc32(data)))


def read_checked(path: Path) -> bytes:
    """What `write_checked` wrote; ValueError if it is not that any more."""
    whole = path.read_bytes()
    data = whole[: -len("\n00000000\n")]
    if whole != b"%b\n%08x\n" % (data, isal_zlib.crc32(data)):
        raise ValueError(f"{path}: found other content, expected what its CRC tells")
    return data


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write `path` whole or not at all, without waiting for the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
