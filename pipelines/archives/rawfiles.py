"""One raw file, wherever its bytes lie: read by its place alone, in one access, without an open handle to share.

A remote file is read by ranges of bytes. What fails on the way is tried again by the file system (s3fs five times, its
waits growing from 0.1 s; botocore below it by AWS_MAX_ATTEMPTS), not here; after that it is one RawInputError.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from isal import isal_zlib

from shards.errors import RawInputError, raw_error
from shards.places import Place
from shards.remote import failures

MAX_FILE_BYTES = 1 << 28
"""A raw file is held in memory whole. NTU files stay below 10 MB and PKU-MMD videos below 20 MB: 256 MiB is no such."""

LOCAL_HEADER_BYTES = 30
_LOCAL_MAGIC = b"PK\x03\x04"
# The local header repeats the name and has extra fields of its own length, which nothing but itself tells. Its length
# is guessed, so that header and data come by one access; the names and extra fields of all known archives fit.
_HEADER_GUESS = 256
# What a deflate stream may need beyond its output: a head can be had without fetching the rest.
_STREAM_SLACK = 4096
_RAW_DEFLATE = -15
_INFLATE_ERROR: type[Exception] = isal_zlib.error  # type: ignore[assignment] # the stub declares an instance


@dataclass(frozen=True)
class Member:
    """Where a zip member's compressed bytes lie.

    Keeping the place instead of an open archive makes reading stateless: no handle to share between processes, and no
    directory of 56,880 entries to parse again (0.2 s) for every file read.
    """

    header_offset: int
    compressed_size: int
    deflated: bool


@dataclass(frozen=True)
class RawFile:
    """One raw file in a folder or a zip; small and picklable, so that any worker can read it alone, on any thread.

    Attributes:
        name: base name without suffix.
        suffix: lower case, with its dot.
        origin: for people: a path or URL, or "archive.zip: inner/name".
        path: the file itself, or the zip it lies in.
        size: bytes, uncompressed.
        crc32: of the uncompressed bytes; None for a plain file that was listed without reading it.
        member: place in the zip; None for a plain file.
    """

    name: str
    suffix: str
    origin: str
    path: Place
    size: int
    crc32: int | None
    member: Member | None = None

    @property
    def where(self) -> str:
        """The origin, and for a member of a zip also where the zip lies."""
        return f"{self.origin} (in {self.path})" if self.member else self.origin

    def read(self) -> bytes:
        """The whole content. Inflating, checking and reading let other threads run.

        Raises:
            RawInputError: it is gone, damaged, or no longer what was listed (size and CRC are checked).
        """
        # One byte more than listed is the most that a lying member can make us hold.
        data = self.head(self.size + 1)
        if len(data) != self.size:
            raise raw_error(self.origin, "", f"{len(data)} or more bytes", f"the {self.size} bytes that were listed")
        # ISA-L's CRC takes 20 to 35 us a MB where zlib's takes 230.
        if self.crc32 is not None and (crc := isal_zlib.crc32(data)) != self.crc32:
            raise raw_error(self.origin, "", f"CRC {crc:08x}", f"the listed CRC {self.crc32:08x}")
        return data

    def head(self, limit: int) -> bytes:
        """At most the first `limit` bytes, unchecked; RawInputError if they cannot be read."""
        try:
            if self.member is None:
                return read_at(self.path, 0, limit) if self.size else b""
            return self._unpacked(self.member, limit)
        except RawInputError:
            raise
        except failures(self.path, (OSError, _INFLATE_ERROR)) as error:
            raise raw_error(self.origin, "", f"an unreadable file ({cause(error)})", "a readable one") from error

    def _unpacked(self, member: Member, limit: int) -> bytes:
        if limit <= 0:  # which means no limit to the inflater
            return b""
        wanted = min(member.compressed_size, limit + _STREAM_SLACK)
        data = _unpack(self._packed(member, wanted), member, limit)
        if len(data) == limit or wanted == member.compressed_size:
            return data
        return _unpack(self._packed(member, member.compressed_size), member, limit)

    def _packed(self, member: Member, count: int) -> memoryview:
        """The first `count` compressed bytes, or as many as the zip has."""
        data = read_at(self.path, member.header_offset, _HEADER_GUESS + count)
        start = data_offset(data, self.origin)
        if start > _HEADER_GUESS:
            return memoryview(read_at(self.path, member.header_offset + start, count))
        return memoryview(data)[start : start + count]


def _unpack(data: memoryview, member: Member, limit: int) -> bytes:
    return isal_zlib.decompressobj(_RAW_DEFLATE).decompress(data, limit) if member.deflated else bytes(data[:limit])


def data_offset(header: bytes, origin: str) -> int:
    """How far behind the start of its local header (30 bytes or more of it) a member's data begin."""
    if len(header) < LOCAL_HEADER_BYTES or not header.startswith(_LOCAL_MAGIC):
        raise raw_error(origin, "", "no member header where the zip's directory says", "an undamaged zip")
    name, extra = header[26:28], header[28:30]
    return LOCAL_HEADER_BYTES + int.from_bytes(name, "little") + int.from_bytes(extra, "little")


def read_at(place: Place, offset: int, count: int) -> bytes:
    """Up to `count` bytes from `offset` on; fewer at the end of the file.

    Opened for each access: 3 us beside the 380 of inflating 300 kB, and no descriptor that a thread or a fork
    could share or a full cache could close. Raises whatever the file system raises.
    """
    if not isinstance(place, Path):
        return bytes(place.fs.cat_file(place.path, start=offset, end=offset + count)) if count > 0 else b""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        data = os.pread(descriptor, count, offset)
        # A network file system may give a part.
        while len(data) < count and (more := os.pread(descriptor, count - len(data), offset + len(data))):
            data += more
        return data
    finally:
        os.close(descriptor)


def cause(error: BaseException) -> str:
    """The error of another library in one line, with its type where the text alone would not tell."""
    said = " ".join(str(error).split())
    if said and isinstance(error, (OSError, _INFLATE_ERROR)):
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
