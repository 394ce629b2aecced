"""What lies below a place: a folder with all its subfolders, on a disk or in an object store, or one file."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from upath import UPath

from pipelines.archives.rawfiles import cause
from shards.errors import RawInputError, raw_error
from shards.places import Place
from shards.remote import failures

HIDDEN = "hidden"
"""The kind of files that systems leave behind: hidden ones and `__MACOSX`."""

_STAMPS = ("ETag", "etag", "LastModified", "mtime", "updated", "created", "generation")


class Facts(NamedTuple):
    """Bytes of a file, and a text that is another one when the file has changed (empty: nobody tells)."""

    size: int
    stamp: str


@dataclass(frozen=True)
class Entry:
    """A file below a place.

    Attributes:
        place: the file.
        inner: its path below the place that was named, with "/".
        listed: what the listing of an object store told; None for a local file, which is asked when it is needed.
    """

    place: Place
    inner: str
    listed: Facts | None = None

    def facts(self) -> Facts:
        """Size and stamp; RawInputError for what is no file."""
        if self.listed is not None:
            return self.listed
        try:
            status = self.place.stat()
        except OSError as error:
            raise raw_error(str(self.place), "", f"an unreadable file ({error})", "a readable one") from error
        if not stat.S_ISREG(status.st_mode):
            raise raw_error(str(self.place), "", "a pipe, a device or a folder", "a file")
        return Facts(status.st_size, str(status.st_mtime_ns))


def kind(inner: str) -> str:
    """The lower-case suffix with its dot; `HIDDEN` for what is no user's file; "no suffix"."""
    parts = inner.split("/")
    if any(part == "__MACOSX" or (part.startswith(".") and part not in (".", "..")) for part in parts):
        return HIDDEN
    _, dot, suffix = parts[-1].rpartition(".")
    return dot + suffix.lower() if dot and suffix else "no suffix"


def stem(inner: str) -> str:
    """The base name without its suffix."""
    return inner.rpartition("/")[2].rpartition(".")[0]


def entries(root: Place) -> Iterator[Entry]:
    """All files below a place, or the one file that it is.

    Raises:
        RawInputError: nothing there, or it cannot be read: an absent bucket, no credentials, no answer in time.
    """
    if isinstance(root, Path):
        yield from _local_entries(root)
        return
    try:
        found = _remote_entries(root)
    except FileNotFoundError as error:
        raise _nothing(root, f" ({cause(error)})") from error
    except failures(root) as error:
        raise raw_error(str(root), "", f"an unreadable place ({cause(error)})", "a readable one") from error
    yield from found


def _nothing(root: Place, why: str = "") -> RawInputError:
    return raw_error(str(root), "", f"nothing{why}", "a folder, a zip or a raw file")


def _local_entries(root: Path) -> Iterator[Entry]:
    try:
        folder = stat.S_ISDIR(root.stat().st_mode)
    except FileNotFoundError:
        raise _nothing(root) from None
    except OSError as error:
        raise raw_error(str(root), "", f"an unreadable place ({error})", "a readable one") from error
    if not folder:
        yield Entry(root, root.name)
        return
    for below, name in _files_below(root):
        yield Entry(root / below / name, f"{below}/{name}" if below else name)


def _files_below(root: Path) -> Iterator[tuple[str, str]]:
    # Linked folders are followed: skipping them would lose samples in silence. Each real folder is entered once.
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=_refuse_folder):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        below = folder.removeprefix(str(root)).strip("/")
        yield from ((below, name) for name in names)


def _refuse_folder(error: OSError) -> None:
    raise raw_error(str(error.filename), "", f"an unreadable folder ({error.strerror})", "a readable one") from error


def _remote_entries(root: UPath) -> list[Entry]:
    """All objects below a prefix by as many requests as the store wants for a listing; or the one object that it is."""
    fs = root.fs
    fs.invalidate_cache()  # another process may have written since
    top = fs.info(root.path)
    if top["type"] == "file":
        return [Entry(root, root.name, _facts(top))]
    found: dict[str, dict[str, Any]] = fs.find(root.path, detail=True)
    prefix = root.path.rstrip("/") + "/"
    return [
        Entry(UPath(f"{root.protocol}://{name}", **root.storage_options), name.removeprefix(prefix), _facts(info))
        for name, info in sorted(found.items())
        if info["type"] == "file" and not name.endswith("/")  # an object that stands for a folder
    ]


def _facts(info: dict[str, Any]) -> Facts:
    return Facts(int(info["size"]), " ".join(str(info[key]) for key in _STAMPS if info.get(key)))
