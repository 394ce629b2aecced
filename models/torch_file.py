"""Files of torch.save, read as data alone, so that no code of theirs runs; and what else may lie under such a name."""

import codecs
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from shards.errors import CheckpointError

_AGAIN = "get the file again"
_SIGNED_IN = f"{_AGAIN}, signed in where its site asks for that"
_UNPACK = "unpack it"
_STATE_ALONE = "have its maker save the tensors alone: torch.save(model.state_dict(), FILE)"
# what torch.save began its files with before it made zips (version 1.6), and then only when asked to
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_ZIP = b"PK\x03\x04"
_HEAD = 1024
_STARTS = (
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer", "run git lfs pull"),
    (b"/annex/objects/", "a git-annex pointer", "run git annex get"),
    (b"\x1f\x8b", "gzip data", _UNPACK),
    (b"BZh", "bzip2 data", _UNPACK),
    (b"\xfd7zXZ\0", "xz data", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (b"\x89HDF", "an HDF5 file", _AGAIN),
    (b"\x80", "a Python pickle", _STATE_ALONE),
)
_ANSWERS = ((b"<", "a web page"), (b"{", "JSON, perhaps a server's answer"))
_FOREIGN_OBJECT = re.compile(r"GLOBAL (\S+)")


class _Found(NamedTuple):
    """What a file is instead, and what to do."""

    what: str
    remedy: str = _AGAIN


def read_torch_file(
    path: Path,
    expected: str,
    remedy: str = "",
    *,
    mapped: bool = False,
    damaged: Callable[[zipfile.ZipFile], str | None] = zipfile.ZipFile.testzip,
) -> Any:
    """What torch.save wrote: tensors, numbers, texts, and lists and dictionaries of them, on the CPU.

    Args:
        path: of the file.
        expected: what it should be, for the error.
        remedy: what else to do, for the error.
        mapped: leave the tensors in the file until they are used; not for the format before zips.
        damaged: the first damaged entry of the archive. torch itself does not compare its checksums; to compare all
            takes 1 s a GB.

    Raises:
        CheckpointError: no such file, damaged, of something else, or one that only running code of it could read.
    """
    found = _look(path, expected, damaged, mapped)
    if found is None:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except Exception as error:  # noqa: BLE001  # it fails in a dozen ways, and torch's texts advise to run its code
            found = _refused(error)
    raise CheckpointError(
        f"{path}: found {found.what}, expected {expected}; {', or '.join(filter(None, (found.remedy, remedy)))}"
    )


def _look(path: Path, expected: str, damaged: Callable[[zipfile.ZipFile], str | None], mapped: bool) -> _Found | None:
    """What a file is that torch need not be asked to read; None where it may."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
        if head.startswith(_LEGACY):
            return _Found("a file in torch's format before zips") if mapped else None
        if not head.startswith(_ZIP):
            return _identify(head)
        with zipfile.ZipFile(path) as archive:
            return _look_into(archive, damaged)
    except OSError as error:
        raise CheckpointError(
            f"{path}: found no file that can be read ({error.strerror}), expected {expected}"
        ) from error
    except Exception as error:  # noqa: BLE001  # zipfile fails in many ways
        # its list of entries stands at the end
        return _Found(f"a damaged zip ({error})" if zipfile.is_zipfile(path) else "a zip that was cut short")


def _identify(head: bytes) -> _Found:
    """What a file is that torch.save did not write, by its first bytes."""
    is_text = b"\0" not in head
    for start, what, remedy in _STARTS:
        if head.startswith(start):
            return _Found(what, remedy)
    for start, what in _ANSWERS:
        if is_text and head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(start):
            return _Found(what, _SIGNED_IN)
    if not head.strip(b"\0"):
        return _Found("nothing but NUL bytes" if head else "an empty file", _AGAIN)
    if head[8:9] == b"{":
        return _Found("a safetensors file")
    if head[257:262] == b"ustar":
        return _Found("a tar archive", _UNPACK)
    return _Found("text" if is_text and head.isascii() else "bytes of no format that is known here")


def _look_into(archive: zipfile.ZipFile, damaged: Callable[[zipfile.ZipFile], str | None]) -> _Found | None:
    names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        return _Found("a TorchScript program", _STATE_ALONE)
    if not any(name.endswith("/data.pkl") for name in names):
        within = next((name for name in names if name.endswith((".pth", ".pt", ".tar"))), None)
        return _Found(f"a zip of {', '.join(names[:3])}", f"unpack it and take {within}" if within else _AGAIN)
    place = damaged(archive)
    return None if place is None else _Found(f"damaged data ({place})")


def _refused(error: Exception) -> _Found:
    """What torch could not read."""
    named = _FOREIGN_OBJECT.search(str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if named is None:
        return _Found(f"damaged data, perhaps cut short ({type(error).__name__})")
    return _Found(f"a Python object ({named[1]}) that only code of the file could bring back", _STATE_ALONE)
