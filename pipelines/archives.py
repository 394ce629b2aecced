"""Raw archives: folders and zips, in any layout, read without unpacking to disk.

A raw file is matched by its base name alone: publishers and users nest, split and flatten the same archives in their
own ways.
"""

import hashlib
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from tqdm import tqdm

from shards.errors import raw_error

_BLOCK = 1 << 20
_LOCAL_HEADER_BYTES = 30
_LOCAL_MAGIC = b"PK\x03\x04"
_ENCRYPTED = 0x1


@dataclass(frozen=True)
class _Member:
    """Where a zip member's compressed bytes lie.

    Keeping the place instead of an open archive makes reading stateless: no handle to share between processes, and no
    directory of 56,880 entries to parse again (0.2 s) for every file read.
    """

    header_offset: int
    compressed_size: int
    deflated: bool


@dataclass(frozen=True)
class RawFile:
    """One raw file in a folder or a zip; small and picklable, so that any worker can read it alone.

    Attributes:
        name: base name without suffix.
        suffix: lower case, with its dot.
        origin: for people: a path, or "archive.zip: inner/name".
        path: the file itself, or the zip it lies in.
        size: bytes, uncompressed.
        crc32: of the uncompressed bytes.
        member: place in the zip; None for a plain file.
    """

    name: str
    suffix: str
    origin: str
    path: Path
    size: int
    crc32: int
    member: _Member | None = None

    def read(self) -> bytes:
        """The whole content.

        Raises:
            RawInputError: it is gone, damaged, or no longer what was listed (size and CRC are checked).
        """
        data = self.head(self.size + 1)
        if len(data) != self.size:
            raise raw_error(self.origin, "", f"{len(data)} or more bytes", f"the {self.size} bytes that were listed")
        if zlib.crc32(data) != self.crc32:
            raise raw_error(self.origin, "", f"CRC {zlib.crc32(data):08x}", f"the listed CRC {self.crc32:08x}")
        return data

    def head(self, limit: int) -> bytes:
        """At most the first `limit` bytes, unchecked; RawInputError if they cannot be read."""
        try:
            with self.path.open("rb") as file:
                if self.member is None:
                    return file.read(limit)
                return _decompress(_compressed_bytes(file, self.member, self.origin), self.member, limit)
        except (OSError, zlib.error) as error:
            raise raw_error(self.origin, "", f"an unreadable file ({error})", "a readable one") from error


def _compressed_bytes(file: BinaryIO, member: _Member, origin: str) -> bytes:
    # The local header repeats the name and has an extra field of its own length: only it tells where the data begin.
    file.seek(member.header_offset)
    header = file.read(_LOCAL_HEADER_BYTES)
    if len(header) < _LOCAL_HEADER_BYTES or not header.startswith(_LOCAL_MAGIC):
        raise raw_error(origin, "", "no member header where the zip's directory says", "an undamaged zip")
    skip = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    file.seek(skip, os.SEEK_CUR)
    return file.read(member.compressed_size)


def _decompress(data: bytes, member: _Member, limit: int) -> bytes:
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, limit) if member.deflated else data[:limit]


def find_files(
    raw: Sequence[Path], suffixes: tuple[str, ...], *, allow_same_name: bool = False, progress: bool = False
) -> list[RawFile]:
    """List the raw files of folders (with all below them), zips (also those lying in a folder) and single files.

    Files of other suffixes, hidden files and `__MACOSX` are no raw files.

    Args:
        raw: paths; each must hold at least one raw file.
        suffixes: with their dots; case does not matter.
        allow_same_name: for sources whose skeleton and label files share one name.
        progress: show a bar while plain files are read for their CRC.

    Returns:
        Sorted by name, then by content, so that the order does not depend on where the files lie.

    Raises:
        RawInputError: a path that is missing or holds nothing; a zip that is damaged, encrypted, unsupported, or has a
            member that is a link or points outside; two files of one name.
    """
    plain: list[tuple[Path, str]] = []
    packed: list[RawFile] = []
    for path in map(Path, raw):
        found_plain, zips = _walk(path, suffixes)
        found_packed = [file for archive in zips for file in _zip_files(archive, suffixes)]
        if not found_plain and not found_packed:
            raise raw_error(str(path), "", "no raw file", f"files that end in {' or '.join(suffixes)}")
        plain += found_plain
        packed += found_packed
    files = sorted([*_plain_files(plain, progress), *packed], key=lambda f: (f.name, f.suffix, f.size, f.crc32))
    if not allow_same_name:
        _refuse_same_name(files)
    return files


def inventory_digest(files: Iterable[RawFile]) -> str:
    """Sha256 hex of what the files are (name, size, CRC), not of where they lie: a zip and its folder agree."""
    rows = sorted(f"{f.name}{f.suffix}\t{f.size}\t{f.crc32:08x}\n" for f in files)
    return hashlib.sha256("".join(rows).encode()).hexdigest()


def _refuse_same_name(files: list[RawFile]) -> None:
    for first, second in pairwise(files):
        if first.name == second.name:
            places = " and ".join(f"{f.origin} (in {f.path})" if f.member else f.origin for f in (first, second))
            raise raw_error(first.name + first.suffix, "", f"two files of this name: {places}", "one")


def _matches(inner: str, suffixes: tuple[str, ...]) -> bool:
    path = PurePosixPath(inner)
    if any(part == "__MACOSX" or (part.startswith(".") and part != "..") for part in path.parts):
        return False
    return path.suffix.lower() in {suffix.lower() for suffix in suffixes}


def _walk(root: Path, suffixes: tuple[str, ...]) -> tuple[list[tuple[Path, str]], list[Path]]:
    """The raw files (path, origin) and the zips of one path a user gave."""
    if root.is_dir():
        inner = [path.relative_to(root) for path in _files_below(root)]
        plain = [(root / path, str(root / path)) for path in inner if _matches(path.as_posix(), suffixes)]
        return plain, [root / path for path in inner if _matches(path.as_posix(), (".zip",))]
    if not root.exists():
        raise raw_error(str(root), "", "nothing", "a folder, a zip or a raw file")
    if root.suffix.lower() in {suffix.lower() for suffix in suffixes}:
        return [(root, str(root))], []
    return [], [root]


def _files_below(root: Path) -> Iterator[Path]:
    # Linked folders are followed: skipping them would lose samples in silence. Each real folder is entered once.
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=_refuse_folder):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        yield from (Path(folder, name) for name in names)


def _refuse_folder(error: OSError) -> None:
    raise raw_error(str(error.filename), "", f"an unreadable folder ({error.strerror})", "a readable one") from error


def _plain_files(found: list[tuple[Path, str]], progress: bool) -> list[RawFile]:
    # Threads: zlib.crc32 and file reads release the interpreter lock.
    with ThreadPoolExecutor() as pool:
        results = pool.map(lambda item: _plain_file(*item), found)
        return list(tqdm(results, "listing", len(found), unit="file", disable=not (progress and found)))


def _plain_file(path: Path, origin: str) -> RawFile:
    try:
        status = path.stat()
        size, crc = _checksum(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise raw_error(origin, "", f"an unreadable file ({error})", "a readable one") from error
    return RawFile(path.stem, path.suffix.lower(), origin, path, size, crc)


# Listing happens twice in a first conversion (is the result there? then the work): unpacked archives are read once.
@cache
def _checksum(path: Path, _size: int, _modified_ns: int) -> tuple[int, int]:
    """Size and CRC-32 of a file's bytes; the other arguments tell a changed file apart."""
    size = crc = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            size += len(block)
            crc = zlib.crc32(block, crc)
    return size, crc


def _zip_files(path: Path, suffixes: tuple[str, ...]) -> list[RawFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            archive_bytes = path.stat().st_size
    except (zipfile.BadZipFile, OSError, UnicodeDecodeError, NotImplementedError) as error:
        raise raw_error(str(path), "", f"no readable zip ({error})", "a folder, a zip or a raw file") from error
    # Some Windows programs write backslashes into zips.
    names = [member.filename.replace("\\", "/") for member in members]
    pairs = zip(members, names, strict=True)
    return [_zip_file(path, archive_bytes, m, n) for m, n in pairs if not m.is_dir() and _matches(n, suffixes)]


def _zip_file(path: Path, archive_bytes: int, member: zipfile.ZipInfo, name: str) -> RawFile:
    origin = f"{path.name}: {name}"
    _refuse_member(member, name, origin)
    if not 0 <= member.header_offset <= archive_bytes - member.compress_size:
        raise raw_error(origin, "", "a member that lies beyond the end of the zip", "an undamaged zip")
    place = _Member(member.header_offset, member.compress_size, member.compress_type == zipfile.ZIP_DEFLATED)
    inner = PurePosixPath(name)
    return RawFile(inner.stem, inner.suffix.lower(), origin, path, member.file_size, member.CRC, place)


def _refuse_member(member: zipfile.ZipInfo, name: str, origin: str) -> None:
    if member.flag_bits & _ENCRYPTED:
        raise raw_error(origin, "", "an encrypted member", "one without a password")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise raw_error(origin, "", "a member that is a link", "a file")
    if name.startswith("/") or ".." in PurePosixPath(name).parts or re.match(r"[A-Za-z]:", name):
        raise raw_error(origin, "", "a member name that points outside the zip", "a relative one without '..'")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise raw_error(origin, "", f"zip compression method {member.compress_type}", "stored (0) or deflate (8)")
