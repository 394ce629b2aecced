"""Tar shards, byte for byte the same each time they are written, with the index that DALI and random access need."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from tarfile import USTAR_FORMAT, TarInfo
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.encoding import FRAMES_MEMBER as FRAMES_MEMBER  # where other modules look for it
from shards.encoding import Storage, encode_member, member_name
from shards.errors import StoreError
from shards.files import atomic_path, write_atomic
from shards.schema import SampleInfo, Segment

JSON_MEMBER = "json"
INDEX_VERSION = "v1.2"
BLOCK = 512
RECORD = 20 * BLOCK
"""A tar ends with two blocks of zeros, and is filled up to a whole number of these."""

# The key ends at the first dot of a member's name; a USTAR name has at most 100 bytes.
KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")


def write_shard(
    path: Path, samples: Iterable[tuple[str, npt.NDArray[Any], dict[str, Any]]], dtype: Storage = "float32"
) -> int:
    """Write one tar shard and its index, each at a temporary name first.

    Args:
        path: the shard, `NNNNNN.tar`; the index becomes `NNNNNN.idx` beside it.
        samples: key, frames (T, M, V, C) float32 or float16, and the JSON record of each. For `fixed` the record must
            state the number of `frames`.
        dtype: the storage of the frames.

    Returns:
        Number of samples written.

    Raises:
        StoreError: a key is repeated or cannot name a member, frames have another dtype or shape, or the storage cannot
            hold a coordinate.
    """
    lines: list[str] = []
    seen: set[str] = set()
    offset = 0
    with atomic_path(path) as temporary:
        with temporary.open("wb") as file:
            for key, frames, record in samples:
                _check(path, key, frames, seen)
                assert dtype != "fixed" or record.get("frames") == len(frames), f"{key}: the record states {record}"
                data = encode_member(frames, dtype, f"{path}: {key}")
                members = {member_name(dtype): data, JSON_MEMBER: encode_record(record)}
                for extension, member in members.items():
                    file.write(member_header(f"{key}.{extension}", len(member)))
                    file.write(member)
                    file.write(bytes(-len(member) % BLOCK))
                line, offset = _index_line(key, members, offset)
                lines.append(line)
            file.write(bytes(2 * BLOCK))
            file.write(bytes(-file.tell() % RECORD))
        if not lines:
            raise StoreError(f"{path}: found no sample, expected at least one for a shard")
    write_atomic(path.with_suffix(".idx"), "".join([f"{INDEX_VERSION} {len(lines)}\n", *lines]).encode("ascii"))
    return len(lines)


# `webdataset.TarWriter` writes the same bytes, as a test shows, but importing it imports torch: 1.4 s and 150 MB in
# every conversion.
def member_header(name: str, size: int) -> bytes:
    """The USTAR header of a member: mode 0644, owner `skelstream`, no time; equal content gives equal bytes."""
    member = TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o644, 0
    member.uname = member.gname = "skelstream"
    return member.tobuf(USTAR_FORMAT)


def sample_record(
    info: SampleInfo,
    *,
    index: int,
    frames: int,
    source: str,
    recipe: str,
    fingerprint: str,
    segment: Segment | None = None,
    video: str | None = None,
) -> dict[str, Any]:
    """The JSON record of a sample.

    Args:
        info: of the sample; of a trimmed action, with its own key and label and the rest of its video.
        index: the store's row, or for an untrimmed source the position in its segments.
        frames: number of frames in the shard.
        source, recipe, fingerprint: of the store.
        segment: where a trimmed action lies in its video; None for a trimmed source.
        video: key of that video.
    """
    record = info.to_json() | {
        "index": index,
        "frames": frames,
        "source": source,
        "recipe": recipe,
        "fingerprint": fingerprint,
    }
    if segment is None:
        return record
    place = {"video": video, "row": segment.row, "start": segment.start, "end": segment.end}
    return record | place | {"confidence": segment.confidence}


def encode_record(record: dict[str, Any]) -> bytes:
    """A record as JSON with sorted keys and no spaces."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _check(path: Path, key: str, frames: npt.NDArray[Any], seen: set[str]) -> None:
    if not KEY.fullmatch(key):
        raise StoreError(f"{path}: found key {key!r}, expected 1 to 80 letters, digits, '-' or '_'")
    if key in seen:
        raise StoreError(f"{path}: found key {key} twice, expected unique keys")
    if frames.dtype not in (np.float32, np.float16) or frames.ndim != 4 or not len(frames):
        raise StoreError(
            f"{path}: {key}: found frames {frames.shape} {frames.dtype}, expected (T, M, V, C) float32 or float16"
        )
    seen.add(key)


def _index_line(key: str, members: dict[str, bytes], offset: int) -> tuple[str, int]:
    """One line of the index (extension, data offset, size, name of each member) and the offset of the next sample."""
    fields: list[str] = []
    for extension, data in members.items():
        fields += [extension, str(offset + BLOCK), str(len(data)), f"{key}.{extension}"]
        offset += BLOCK + -(-len(data) // BLOCK) * BLOCK
    return " ".join(fields) + "\n", offset
