"""Features kept on disk: extracted once, shared by all tasks and processes, in files that any tool can read.

<root>/<key>/values.npy      (N, D) float32
             label.npy       (N,) int64
             sample_id.npy   (N,) int64
             about.json      what they depend on; size, shape and SHA-256 of each file

The key is made of all that the features depend on, so that what is there is never out of date. A folder appears whole,
by one rename; `about.json` in it means complete.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from models.evaluation.features import Features
from shards.errors import StoreError, describe_refusal
from shards.files import lock_file, sha256_file, sync
from shards.frozen import Frozen
from shards.manifest import Count, Sha256

FORMAT_VERSION = 1
ABOUT = "about.json"
# file -> type of its numbers, in the order of the fields of `Features`
_TYPES = {"values.npy": "<f4", "label.npy": "<i8", "sample_id.npy": "<i8"}
_LEFT = re.compile(r"\.([0-9a-f]{16})\.(?:[0-9a-f]{8}\.tmp|lock)")


class _File(Frozen):
    bytes: Count
    sha256: Sha256
    shape: tuple[Count, ...]


class _About(Frozen):
    """`about.json`."""

    version: int
    about: dict[str, Any]
    files: dict[str, _File]


def feature_key(about: Mapping[str, Any]) -> str:
    """Name of the folder for what the features depend on: the first 16 hex digits of the SHA-256 of its JSON."""
    return hashlib.sha256(_canonical({"version": FORMAT_VERSION, "about": dict(about)})).hexdigest()[:16]


def stored_features(root: Path, about: Mapping[str, Any], extract: Callable[[], Features]) -> Features:
    """The features that depend on `about`: read where they are, else extracted and kept.

    Of several processes that want the same, one extracts and the others wait for it. One that is killed leaves nothing
    that counts, and the next begins anew: extraction takes minutes at most, less than parts to resume from are worth.

    Args:
        root: folder of all features; made if absent. One that cannot be written is enough to read.
        about: everything that changes a number, as JSON has it: SHA-256 of the checkpoint (or that the encoder is a
            random one, and its seed), fingerprint of the data, data set, protocol, side, stream, views, layer,
            precision.
        extract: makes the features.

    Returns:
        On the CPU, mapped from the files, so that only what is used is read; changes stay in memory.

    Raises:
        StoreError: see `read_features`; or the folder cannot be written, or the disk is full, and nothing is left.
    """
    folder = root / feature_key(about)
    with _disk_errors(folder):
        if not _is_there(folder):
            root.mkdir(parents=True, exist_ok=True)
            _remove_stale(root)
    if not _is_there(folder):
        with _locked(folder, wait=True):
            if not _is_there(folder):
                _write(folder, about, extract())
    return read_features(folder, about)


def read_features(folder: Path, about: Mapping[str, Any] | None = None) -> Features:
    """Features of a folder, after a check of sizes, shapes and types.

    Damage within a file is found by `verify_features` alone: hashing reads every byte, and a task may need few.

    Args:
        folder: as `stored_features` wrote it.
        about: what they have to depend on; None takes any.

    Raises:
        StoreError: a file is missing, cut short, of another format, or of something else than `about`.
    """
    record = _read_about(folder)
    if about is not None and _canonical(record.about) != _canonical(dict(about)):
        raise _damaged(folder / ABOUT, "features of something else", "those of the same checkpoint, data and options")
    arrays = [_read_array(folder / name, record.files[name]) for name in _TYPES]
    values, label, sample_id = (torch.from_numpy(array) for array in arrays)
    if not (values.dim() == 2 and label.shape == sample_id.shape == values.shape[:1]):
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise _damaged(folder / ABOUT, f"arrays of shapes {shapes}", "(N, D), (N,) and (N,)")
    return Features(values, label, sample_id)


def verify_features(folder: Path) -> None:
    """Read every byte of a folder and compare it with the hashes, which reading it leaves out.

    Raises:
        StoreError: as `read_features`, or a file whose content has changed.
    """
    read_features(folder)
    for name, entry in _read_about(folder).files.items():
        found = sha256_file(folder / name)
        if found != entry.sha256:
            raise _damaged(folder / name, f"content with SHA-256 {found}", entry.sha256)


def _is_there(folder: Path) -> bool:
    # an empty folder, such as deleting it by hand may leave, gives way to the rename
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def _write(folder: Path, about: Mapping[str, Any], features: Features) -> None:
    """Write a folder whole or not at all; the same features give the same bytes."""
    tensors = (features.values, features.label, features.sample_id)
    temporary = folder.with_name(f".{folder.name}.{token_hex(4)}.tmp")
    with _disk_errors(folder):
        try:
            temporary.mkdir()
            files = {}
            for (name, kind), tensor in zip(_TYPES.items(), tensors, strict=True):
                files[name] = _write_array(temporary / name, np.ascontiguousarray(tensor.detach().cpu().numpy(), kind))
            record = _About(version=FORMAT_VERSION, about=dict(about), files=files)
            text = json.dumps(record.model_dump(mode="json"), indent=2, sort_keys=True, allow_nan=False)
            (temporary / ABOUT).write_text(text + "\n", encoding="utf-8")
            for path in (temporary / ABOUT, temporary):
                sync(path)
            _rename(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        sync(folder.parent)


def _rename(temporary: Path, folder: Path) -> None:
    try:
        temporary.rename(folder)
    except OSError:
        # on file systems where a lock holds on one machine alone, another may have been first: its features stay
        if not _is_there(folder):
            raise


def _write_array(path: Path, array: NDArray[Any]) -> _File:
    with path.open("wb") as file:
        # not `np.save`, whose error on a full disk does not say that it is full
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)
    sync(path)
    return _File(bytes=path.stat().st_size, sha256=sha256_file(path), shape=array.shape)


def _read_about(folder: Path) -> _About:
    path = folder / ABOUT
    try:
        tree = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, f"no readable JSON ({type(error).__name__})", "what the features depend on") from error
    version = tree.get("version") if isinstance(tree, dict) else None
    if version != FORMAT_VERSION:
        raise _damaged(path, f"features of format version {version!r}", str(FORMAT_VERSION))
    try:
        record = _About.model_validate(tree)
    except ValidationError as error:
        raise _damaged(path, f"fields that do not fit ({error.error_count()} problems)", "those of features") from error
    if set(record.files) != set(_TYPES):
        raise _damaged(path, f"the files {', '.join(sorted(record.files)) or 'none'}", ", ".join(_TYPES))
    return record


def _read_array(path: Path, entry: _File) -> NDArray[Any]:
    try:
        size = path.stat().st_size
        if size != entry.bytes:
            raise _damaged(path, f"{size:,} bytes", f"{entry.bytes:,}")
        # copy on write: torch wants arrays that can be written, and the file stays as it is; this never unpickles
        array = np.lib.format.open_memmap(path, mode="c")
    except StoreError:
        raise
    except (OSError, ValueError) as error:
        raise _damaged(path, f"no readable array ({error})", "a whole file") from error
    found, expected = (array.dtype.str, array.shape), (_TYPES[path.name], entry.shape)
    if found != expected:
        raise _damaged(path, f"an array of {found[0]} {found[1]}", f"one of {expected[0]} {expected[1]}")
    return array


def _damaged(path: Path, found: str, expected: str) -> StoreError:
    return StoreError(
        f"{path}: found {found}, expected {expected}: delete the folder {path.parent}, the features are extracted again"
    )


def _canonical(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


@contextmanager
def _locked(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the right to write a folder, if `wait` as soon as others leave it; whether it was to be had.

    The kernel takes the right back when the process dies, however it dies.
    """
    path = folder.with_name(f".{folder.name}.lock")
    with _disk_errors(folder):
        descriptor = lock_file(path, wait=wait)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            path.unlink(missing_ok=True)
            os.close(descriptor)


def _remove_stale(root: Path) -> None:
    """Remove what killed processes left; a folder that is being written is locked."""
    for path in root.iterdir():
        if match := _LEFT.fullmatch(path.name):
            with _locked(root / match[1], wait=False) as held:
                if held:
                    shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        found, expected = describe_refusal(error)
        raise StoreError(
            f"{folder}: found {found}, expected {expected} for the features; nothing of them is left"
        ) from error
