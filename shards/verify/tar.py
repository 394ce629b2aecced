"""Verification of the form of a tar shard: members in their order, headers bit for bit, nothing between and behind."""

import os
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from shards.errors import StoreError
from shards.places import Place
from shards.reader import ShardIndex
from shards.remote import failures
from shards.writer import BLOCK, JSON_MEMBER, RECORD, member_header


def walk_tar(path: Place, frames_member: str) -> tuple[ShardIndex, str | None]:
    """Follow a tar from header to header: the samples up to its end or its first fault, and the fault.

    A canonical tar holds nothing but the pairs of members that `shards.writer` writes: headers of one form, zeros
    behind each member, two blocks of zeros at the end and more up to the record. Readers skip over much else.

    Args:
        path: the shard.
        frames_member: extension of the members that hold frames.

    Raises:
        StoreError: it cannot be read.
    """
    members: list[tuple[str, int, int]] = []
    fault = None
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            for member in _members(file, size):
                if isinstance(member, str):
                    fault = member
                else:
                    members.append(member)
    except failures(path) as error:
        raise StoreError(f"found an unreadable shard ({error}), expected a tar file") from error
    pairs = list(zip(members[::2], members[1::2], strict=False))
    keys, spans = [], []
    for (name, *frames), (json_name, *record) in pairs:
        key = name.partition(".")[0]
        if (name, json_name) != (f"{key}.{frames_member}", f"{key}.{JSON_MEMBER}"):
            fault = f"found members {name} and {json_name}, expected {frames_member} and {JSON_MEMBER} of one sample"
            break
        keys.append(key)
        spans.append([*frames, *record])
    if fault is None and len(members) % 2:
        fault = f"found {members[-1][0]} alone at the end of the tar, expected pairs of members"
    return ShardIndex(path, tuple(keys), np.array(spans, dtype=np.int64).reshape(-1, 4), frames_member), fault


def _members(file: BinaryIO, size: int) -> Iterator[tuple[str, int, int] | str]:
    """Name, offset and size of each member; a fault is the last."""
    header, offset = _read(file, 0, BLOCK), 0
    while header.strip(b"\0"):
        found = _parse_header(header)
        if found is None:
            yield f"found a header at byte {offset} that is not canonical, expected a regular member of this format"
            return
        name, length = found
        end = offset + BLOCK + length
        following = offset + BLOCK + -(-length // BLOCK) * BLOCK
        if following > size:
            yield f"found the end of the file in {name}, expected a whole tar file"
            return
        tail = _read(file, end, following - end + BLOCK)
        if tail[: following - end].strip(b"\0"):
            yield f"found data behind {name} at byte {end}, expected zeros up to the next block"
            return
        yield name, offset + BLOCK, length
        header, offset = tail[following - end :], following
    expected = -(-(offset + 2 * BLOCK) // RECORD) * RECORD
    if size != expected:
        yield f"found {size} bytes with the last member's end at {offset}, expected {expected} of a whole tar file"
    elif _read(file, offset, size - offset).strip(b"\0"):
        yield f"found data behind the last member, at byte {offset}, expected zeros up to the end"


def _read(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)


def _parse_header(header: bytes) -> tuple[str, int] | None:
    """Name and size of a member, or None where the header is not, bit for bit, the one that the writer gives it."""
    try:
        member = tarfile.TarInfo(header[:100].rstrip(b"\0").decode("ascii"))
        member.size = int(header[124:135], 8)
    except ValueError:
        return None
    return (member.name, member.size) if member_header(member.name, member.size) == header else None
