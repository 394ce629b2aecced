"""A finished folder -> the same folder on an object store, its manifest last."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upath import UPath

from shards.errors import StoreError
from shards.files import sha256_file
from shards.manifest import MANIFEST, FileEntry, file_entry
from shards.progress import Progress
from shards.remote import failures

UPLOADS = 8
"""Files under way at once."""

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Uploaded:
    """What an upload did: files and bytes that were sent, and files that were there."""

    sent: int
    bytes: int
    there: int


def upload(
    folder: Path, target: UPath, files: Sequence[FileEntry], *, workers: int = UPLOADS, progress: bool = False
) -> Uploaded:
    """Copy a finished folder to a remote one; an interrupted upload goes on where it was.

    A file is left alone if one of its size and MD5 is there: S3 (as ETag of a file sent in one piece) and Google state
    it. Where the object store states none, the file is sent again. What was sent must then have that size and MD5, or
    be read back with the SHA-256 of the manifest. The manifest is sent when everything else is there, and one that is
    there while something is missing is removed first: where there is a manifest, the folder is complete.

    Args:
        folder: with the manifest.
        target: the remote folder.
        files: those of the manifest.
        workers: files under way at once.
        progress: show a bar.

    Raises:
        StoreError: a local file is not what the manifest says, or the remote folder cannot be written; names the URL.
    """
    there = _listing(target)
    manifest = file_entry(folder, folder / MANIFEST)
    missing = [entry for entry in files if not _is_there(folder, entry, there)]
    if not missing and _is_there(folder, manifest, there):
        return Uploaded(0, 0, len(files) + 1)
    if missing and MANIFEST in there:
        _remove(target / MANIFEST)
    size = sum(entry.bytes for entry in missing)
    bar = Progress("upload", size, "B", shown=progress, scaled=True)
    with bar, ThreadPoolExecutor(workers) as pool:
        sending = [(entry, pool.submit(_send, folder, target, entry)) for entry in missing]
        try:
            for entry, future in sending:
                future.result()
                bar.advance(entry.bytes)
        finally:
            for _, future in sending:
                future.cancel()
    _send(folder, target, manifest)
    sent = [*missing, manifest]
    return Uploaded(len(sent), sum(entry.bytes for entry in sent), len(files) - len(missing))


def _listing(target: UPath) -> dict[str, Mapping[str, Any]]:
    """What is known of every file below `target`, by its path in it."""
    root = target.path.rstrip("/") + "/"
    try:
        target.fs.invalidate_cache()
        found = target.fs.find(target.path, detail=True)
    except FileNotFoundError:
        return {}
    except failures(target) as error:
        raise StoreError(f"{target}: found no answer ({error}), expected a folder to upload to") from error
    return {name.removeprefix(root): info for name, info in found.items() if name.startswith(root)}


def _is_there(folder: Path, entry: FileEntry, there: Mapping[str, Mapping[str, Any]]) -> bool:
    info = there.get(entry.path)
    if info is None or info.get("size") != entry.bytes:
        return False
    stated = _stated_md5(info)
    return stated is not None and stated == _local_md5(folder, entry)


def _stated_md5(info: Mapping[str, Any]) -> str | None:
    """The MD5 that an object store states in the facts of a file, as 32 hex digits.

    The ETag of S3 is one for a file sent in one piece and not encrypted by a managed key; others look differently or
    match nothing.
    """
    if isinstance(info.get("md5Hash"), str):
        return base64.b64decode(info["md5Hash"]).hex()
    tag = str(info.get("ETag", "")).strip('"')
    return tag if len(tag) == 32 else None


def _local_md5(folder: Path, entry: FileEntry) -> str:
    """MD5 of a local file, which is first found to be what the manifest says."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    path = folder / entry.path
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                md5.update(block)
                sha256.update(block)
    except OSError as error:
        raise StoreError(f"{path}: found no readable file ({error}), expected one that the manifest lists") from error
    if sha256.hexdigest() != entry.sha256:
        raise StoreError(f"{path}: found other content, expected SHA-256 {entry.sha256}")
    return md5.hexdigest()


def _send(folder: Path, target: UPath, entry: FileEntry) -> None:
    """Send one file and see that it arrived."""
    url = target / entry.path
    md5 = _local_md5(folder, entry)
    try:
        url.fs.put_file(str(folder / entry.path), url.path)
        url.fs.invalidate_cache()
        # asked anew: another thread may have put a listing from before into the cache that they share
        info = url.fs.info(url.path, refresh=True)
        same = info.get("size") == entry.bytes and (_stated_md5(info) == md5 or sha256_file(url) == entry.sha256)
    except failures(url) as error:
        raise StoreError(f"{url}: found no way to upload ({error}), expected a folder that can be written") from error
    if not same:
        found = f"other content ({info.get('size')} bytes) after the upload"
        raise StoreError(f"{url}: found {found}, expected the {entry.bytes} bytes sent")


def _remove(url: UPath) -> None:
    try:
        url.fs.rm_file(url.path)
    except failures(url) as error:
        raise StoreError(f"{url}: found a manifest that cannot be removed ({error}), expected to write anew") from error
