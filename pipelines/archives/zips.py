"""What a zip holds: its directory alone is read, and a zip that cannot be trusted or read is refused by name.

The directory of a remote zip takes one or two requests. A zip inside a zip, as publishers' bundles have, is read
through if it is stored there as it is. One that is compressed again has no place for a member to lie at; it is refused,
as is a third zip inside: leaving them out would lose samples in silence.
"""

import os
import re
import stat
import struct
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipelines.archives.damage import HEAD_BYTES, Damage, identify
from pipelines.archives.folders import kind, stem
from pipelines.archives.rawfiles import LOCAL_HEADER_BYTES, MAX_FILE_BYTES, Member, RawFile, cause, data_offset, read_at
from shards.errors import raw_error
from shards.places import Place
from shards.remote import failures

ZIP = ".zip"
_ENCRYPTED = 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# A deflate stream spends at least two bits on a match, which gives at most 258 bytes.
_MAX_RATIO = 1032
# 114,480 files take 13 MB.
_MAX_DIRECTORY_BYTES = 1 << 26
_TAIL_BYTES = 1 << 17
_END = struct.Struct("<4s4H2LH")
_END_MAGIC = b"PK\x05\x06"
_LOCATOR_BYTES = 20
_END64 = struct.Struct("<4sQ2H2L4Q")
_END64_MAGIC = b"PK\x06\x06"
_IN_END64 = 0xFFFF
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Archive:
    """A zip: bytes `start`..`start + size` of a file. `origin` names it for people, `label` before a member's name."""

    place: Place
    size: int
    origin: str
    label: str
    start: int = 0
    inside_zip: bool = False


class _Window:
    """The bytes of an archive as `zipfile` reads them. The end, where it looks several times, is fetched once."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._position = 0
        self._tail_start = max(0, archive.size - _TAIL_BYTES)
        self.tail = self._fetch(self._tail_start, archive.size - self._tail_start)

    def _fetch(self, offset: int, count: int) -> bytes:
        return read_at(self._archive.place, self._archive.start + offset, count)

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._archive.size}[whence]
        if base + offset < 0:
            raise OSError("a place before its start")  # by which `zipfile` notices that there is no room for zip64
        self._position = base + offset
        return self._position

    def read(self, count: int = -1) -> bytes:
        left = max(0, self._archive.size - self._position)
        count = left if count < 0 else min(count, left)
        if count > _MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"a directory of {count} bytes, more than {_MAX_DIRECTORY_BYTES}")
        start = self._position
        self._position += count
        if start >= self._tail_start:
            return self.tail[start - self._tail_start :][:count]
        return self._fetch(start, count)


def zip_files(archive: Archive, suffixes: frozenset[str], ignored: Counter[str]) -> list[RawFile]:
    """The raw files of a zip, and of the zips that lie stored in it.

    Args:
        archive: the zip.
        suffixes: lower case, with their dots.
        ignored: counts the kinds of all other files.

    Raises:
        RawInputError: the zip is damaged, has members that share bytes, or one to be read that is encrypted, a link,
            points outside, is named twice, declares an impossible size, or is packed in an unsupported way.
    """
    members, end = _directory(archive)
    _refuse_overlaps(archive, members, end)
    found: list[RawFile] = []
    seen: set[str] = set()
    for member in members:
        # Some Windows programs write backslashes into zips.
        name = member.filename.replace("\\", "/")
        if name.endswith("/"):
            continue
        what = kind(name)
        if what not in suffixes and what != ZIP:
            ignored[what] += 1
            continue
        origin = f"{archive.label}: {name}"
        _refuse_member(member, name, origin)
        if name in seen:
            raise raw_error(origin, "", "two members of this name in the zip", "one")
        seen.add(name)
        if what in suffixes:
            found.append(_file(archive, member, name, origin))
        else:
            found += zip_files(_inner_archive(archive, member, name), suffixes, ignored)
    return found


def _directory(archive: Archive) -> tuple[list[zipfile.ZipInfo], int]:
    """The members, in the order of the directory, and where the directory begins."""
    errors = (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, OverflowError)
    try:
        window = _Window(archive)
        with zipfile.ZipFile(window) as opened:
            members, end = opened.infolist(), opened.start_dir
        _refuse_count(window.tail, len(members))
    except failures(archive.place, errors) as error:
        known = _known_damage(archive) if isinstance(error, zipfile.BadZipFile) else None
        found = f"no readable zip ({known.found if known else cause(error)})"
        expected = "a folder, a zip or a raw file"
        raise raw_error(archive.origin, "", found, known.expected(expected) if known else expected) from error
    return members, end


def _known_damage(archive: Archive) -> Damage | None:
    """What lies there instead of a zip."""
    try:
        head = read_at(archive.place, archive.start, min(archive.size, HEAD_BYTES))
    except failures(archive.place):
        return None
    return None if head.startswith(b"PK") else identify(head)


def _refuse_count(tail: bytes, listed: int) -> None:
    """The end record tells a number of members, which `zipfile` does not look at."""
    at = len(tail) - _END.size
    if not (tail[at:].startswith(_END_MAGIC) and tail.endswith(b"\0\0")):
        at = tail.rfind(_END_MAGIC)
    if at < 0 or at + _END.size > len(tail):  # behind a comment longer than the tail: no zip can have one
        raise zipfile.BadZipFile("no end record")
    total, modulus = _END.unpack_from(tail, at)[4], 1 << 16
    at64 = at - _LOCATOR_BYTES - _END64.size
    if total == _IN_END64 and at64 >= 0 and tail.startswith(_END64_MAGIC, at64):
        total, modulus = _END64.unpack_from(tail, at64)[7], 1 << 64
    # Writers that know no zip64 let the count wrap.
    if total != listed % modulus:
        raise zipfile.BadZipFile(f"{listed} members in a directory that declares {total}")


def _refuse_overlaps(archive: Archive, members: Sequence[zipfile.ZipInfo], end: int) -> None:
    """Members that share bytes are how a small zip unpacks to petabytes. None may reach into the directory at `end`."""
    placed = sorted(members, key=lambda member: member.header_offset)
    for member in placed:
        if member.header_offset < 0 or _stop(member) > end:
            origin = f"{archive.label}: {member.filename}"
            raise raw_error(origin, "", "a member that lies outside the zip", "an undamaged zip")
    for first, second in pairwise(placed):
        if _stop(first) > second.header_offset:
            two = f"{first.filename} and {second.filename}"
            raise raw_error(archive.origin, "", f"members that share bytes: {two}", "an undamaged zip")


def _stop(member: zipfile.ZipInfo) -> int:
    """Where a member ends at the earliest: the local header alone tells how long its names are."""
    return member.header_offset + LOCAL_HEADER_BYTES + member.compress_size


def _refuse_member(member: zipfile.ZipInfo, name: str, origin: str) -> None:
    if member.flag_bits & _ENCRYPTED:
        raise raw_error(origin, "", "an encrypted member", "one without a password")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise raw_error(origin, "", "a member that is a link", "a file")
    if name.startswith("/") or ".." in name.split("/") or re.match(r"[A-Za-z]:", name):
        raise raw_error(origin, "", "a member name that points outside the zip", "a relative one without '..'")
    if _CONTROL.search(name):
        raise raw_error(repr(origin), "", "a control character in a member's name", "a name of letters")
    if member.compress_type not in _METHODS:
        raise raw_error(origin, "", f"zip compression method {member.compress_type}", "stored (0) or deflate (8)")
    stored = member.compress_type == zipfile.ZIP_STORED
    if member.file_size > member.compress_size * (1 if stored else _MAX_RATIO):
        packed = f"{member.file_size} bytes declared for {member.compress_size} packed ones"
        raise raw_error(origin, "", packed, f"at most {1 if stored else _MAX_RATIO} times as many")


def _file(archive: Archive, member: zipfile.ZipInfo, name: str, origin: str) -> RawFile:
    refuse_size(member.file_size, origin)
    deflated = member.compress_type == zipfile.ZIP_DEFLATED
    place = Member(archive.start + member.header_offset, member.compress_size, deflated)
    return RawFile(stem(name), kind(name), origin, archive.place, member.file_size, member.CRC, place)


def refuse_size(size: int, origin: str) -> None:
    """RawInputError if a raw file is larger than any recording."""
    if size > MAX_FILE_BYTES:
        raise raw_error(origin, "", f"a file of {size} bytes", f"at most {MAX_FILE_BYTES}")


def _inner_archive(archive: Archive, member: zipfile.ZipInfo, name: str) -> Archive:
    origin = f"{archive.origin}: {name}"
    if archive.inside_zip or member.compress_type != zipfile.ZIP_STORED:
        found = "a zip inside a zip inside a zip" if archive.inside_zip else "a zip compressed once more inside a zip"
        raise raw_error(origin, "", found, "it unpacked: unpack the outer zip and name the folder")
    try:
        header = read_at(archive.place, archive.start + member.header_offset, LOCAL_HEADER_BYTES)
    except failures(archive.place) as error:
        raise raw_error(origin, "", f"an unreadable file ({cause(error)})", "a readable one") from error
    start = archive.start + member.header_offset + data_offset(header, origin)
    return Archive(archive.place, member.compress_size, origin, f"{archive.label}: {name}", start, inside_zip=True)
