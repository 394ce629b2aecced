"""The ragged Zarr store: all frames of a source end to end, with offsets. Specified in `shards/README.md`."""

import os
import shutil
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from shards.errors import StoreError
from shards.manifest import sync
from shards.schema import SampleInfo, Segment
from shards.skeleton import NUM_COORDINATES, NUM_JOINTS, NUM_PERSONS

# A chunk is what a random read decodes (256 frames, 150 kB raw), a shard is one file and the unit of parallel writing
# (16,384 frames, 9.8 MB raw): NTU 120 becomes about 500 files.
FRAMES_PER_CHUNK = 256
FRAMES_PER_SHARD = 16_384
FRAME_SHAPE = (NUM_PERSONS, NUM_JOINTS, NUM_COORDINATES)

INFO_COLUMNS = ("label", "subject", "camera", "setup", "replication", "bodies")
SEGMENT_COLUMNS = ("video", "row", "start", "end", "label", "confidence")

# What zarr, its codecs and the file system raise on damaged arrays and metadata.
_READ_ERRORS = (
    ValueError, LookupError, TypeError, AttributeError, RuntimeError, OSError, ArithmeticError, MemoryError
)  # fmt: skip


def create(path: Path, infos: Sequence[SampleInfo], lengths: Sequence[int], segments: Sequence[Segment] | None) -> None:
    """Create a store that has everything but its frames; it appears at `path` whole or not at all.

    Args:
        path: the store's folder, which must not exist.
        infos: of all samples, sorted by key, keys unique.
        lengths: frames of each sample, at least 1.
        segments: labelled actions of an untrimmed source; None for a trimmed one.

    Raises:
        StoreError: `path` exists, or there is nothing to store.
    """
    if path.exists():
        raise StoreError(f"{path}: found something there, expected a path to create a store at")
    if not infos:
        raise StoreError(f"{path}: found no sample, expected at least one to store")
    keys = [info.key for info in infos]
    assert len(infos) == len(lengths), "one length a sample"
    assert all(length >= 1 for length in lengths), "a sample has at least one frame"
    assert all(a < b for a, b in pairwise(keys)), "keys are sorted and unique"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        _write_tables(temporary, infos, lengths, segments)
        for file in temporary.rglob("*"):
            sync(file)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync(path.parent)


def _write_tables(
    path: Path, infos: Sequence[SampleInfo], lengths: Sequence[int], segments: Sequence[Segment] | None
) -> None:
    root = zarr.create_group(path, zarr_format=3)
    offsets = np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))]).astype(np.int64)
    root.create_array(
        "frames",
        shape=(int(offsets[-1]), *FRAME_SHAPE),
        chunks=(FRAMES_PER_CHUNK, *FRAME_SHAPE),
        shards=(FRAMES_PER_SHARD, *FRAME_SHAPE),
        dtype="float32",
        compressors=_compressors(4),
        fill_value=0.0,
        dimension_names=("frame", "person", "joint", "coordinate"),
    )
    _write_column(root, "offsets", offsets)
    _write_column(root, "key", _encode_keys([info.key for info in infos]))
    for name in INFO_COLUMNS:
        _write_column(root, name, np.array([getattr(info, name) for info in infos], dtype=np.int32))
    if segments is not None:
        group = root.create_group("segments")
        for name in SEGMENT_COLUMNS:
            _write_column(group, name, np.array([getattr(s, name) for s in segments], dtype=np.int64))


def _compressors(itemsize: int) -> tuple[BloscCodec, Crc32cCodec]:
    # Blosc takes a flipped bit for data; the checksum costs 4 bytes a chunk.
    return BloscCodec(typesize=itemsize, cname="zstd", clevel=5, shuffle="shuffle"), Crc32cCodec()


def _write_column(group: zarr.Group, name: str, values: npt.NDArray[Any]) -> None:
    chunks = tuple(max(1, size) for size in values.shape)
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=chunks,
        dtype=values.dtype,
        compressors=_compressors(values.itemsize),
        fill_value=0,
        config={"write_empty_chunks": True},
    )
    if values.size:
        array[...] = values


def _encode_keys(keys: Sequence[str]) -> npt.NDArray[np.uint8]:
    encoded = [key.encode("ascii") for key in keys]
    width = max(map(len, encoded))
    return np.frombuffer(b"".join(key.ljust(width, b"\0") for key in encoded), dtype=np.uint8).reshape(-1, width)


def write_frames(path: Path, first: int, frames: npt.NDArray[np.float32]) -> None:
    """Write one Zarr shard of frames; different shards may be written by several processes at once.

    Args:
        path: a created store.
        first: number of the first frame, a multiple of FRAMES_PER_SHARD.
        frames: (FRAMES_PER_SHARD, M, V, C), or fewer frames for the last shard.
    """
    with zarr.config.set({"array.write_empty_chunks": True}):
        array = _frames_array(path, mode="r+")
    total = array.shape[0]
    assert first % FRAMES_PER_SHARD == 0, f"frame {first} is no multiple of {FRAMES_PER_SHARD}"
    assert frames.dtype == np.float32, f"frames are {frames.dtype}"
    assert len(frames) == min(FRAMES_PER_SHARD, total - first), (
        f"{len(frames)} frames from {first} of {total} are no whole shard"
    )
    array[first : first + len(frames)] = frames
    file = frame_shard_file(path, first // FRAMES_PER_SHARD)
    sync(file)
    sync(file.parent)


def frame_shard_file(path: Path, number: int) -> Path:
    """The file that holds frames number * FRAMES_PER_SHARD and on."""
    return path / "frames" / "c" / str(number) / "0" / "0" / "0"


def _frames_array(path: Path, mode: Any) -> zarr.Array[Any]:
    array = zarr.open_array(path / "frames", mode=mode, zarr_format=3)
    if array.dtype != np.float32 or array.ndim != 4 or array.shape[1:] != FRAME_SHAPE:
        raise StoreError(f"{path}: found frames {array.shape} {array.dtype}, expected (F, 2, 25, 3) float32")
    return array


class Store:
    """A store to read. Frames are decoded on demand, tables are held.

    Attributes:
        offsets: (N+1,) int64; sample i is frames offsets[i]..offsets[i+1]-1.
        segments: the labelled actions of an untrimmed source, else None.
    """

    def __init__(self, path: Path, frames: zarr.Array[Any], tables: dict[str, npt.NDArray[Any]]) -> None:
        self.path = path
        self.num_frames: int = frames.shape[0]
        self.offsets: npt.NDArray[np.int64] = tables["offsets"]
        self._frames = frames
        self._tables = tables

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def infos(self) -> list[SampleInfo]:
        """What is known of each sample, in the order of the rows."""
        keys = [_decode_key(row) for row in self._tables["key"]]
        columns = (self._tables[name].tolist() for name in INFO_COLUMNS)
        return [SampleInfo(*fields) for fields in zip(keys, *columns, strict=True)]

    @cached_property
    def segments(self) -> list[Segment] | None:
        """The labelled actions, sorted by video and row; None for a trimmed source."""
        if "segments/video" not in self._tables:
            return None
        columns = (self._tables[f"segments/{name}"].tolist() for name in SEGMENT_COLUMNS)
        return [Segment(*fields) for fields in zip(*columns, strict=True)]

    def read(self, first: int, stop: int) -> npt.NDArray[np.float32]:
        """Frames first..stop-1 as (n, M, V, C) float32.

        Raises:
            StoreError: a file is missing (Zarr alone would read zeros) or damaged.
        """
        assert 0 <= first <= stop <= self.num_frames, f"frames {first}..{stop} of {self.num_frames}"
        for number in range(first // FRAMES_PER_SHARD, -(-stop // FRAMES_PER_SHARD)):
            if not frame_shard_file(self.path, number).is_file():
                raise StoreError(f"{frame_shard_file(self.path, number)}: found no file, expected frames of the store")
        try:
            return np.asarray(self._frames[first:stop], dtype=np.float32)
        except _READ_ERRORS as error:
            raise StoreError(
                f"{self.path}: found unreadable frames in {first}..{stop - 1} ({error}), expected float32"
            ) from error

    def sample(self, number: int) -> npt.NDArray[np.float32]:
        """All frames of one sample, (T, M, V, C) float32."""
        return self.read(int(self.offsets[number]), int(self.offsets[number + 1]))


def _decode_key(row: npt.NDArray[np.uint8]) -> str:
    return row.tobytes().rstrip(b"\0").decode("ascii")


def open_store(path: Path) -> Store:
    """Open a store to read.

    Raises:
        StoreError: absent, incomplete or garbled.
    """
    if not (path / "zarr.json").is_file():
        raise StoreError(f"{path}: found no zarr.json, expected a Zarr store")
    try:
        frames = _frames_array(path, mode="r")
        root = zarr.open_group(path, mode="r", zarr_format=3)
        tables = {name: _read_column(path, root, name) for name in ("offsets", "key", *INFO_COLUMNS)}
        if (path / "segments").exists():
            tables |= {f"segments/{name}": _read_column(path, root, f"segments/{name}") for name in SEGMENT_COLUMNS}
    except StoreError:
        raise
    except _READ_ERRORS as error:
        raise StoreError(f"{path}: found an unreadable array ({error!r}), expected a store of this format") from error
    _check_tables(path, frames.shape[0], tables)
    return Store(path, frames, tables)


def _read_column(path: Path, root: zarr.Group, name: str) -> npt.NDArray[Any]:
    array = root[name]
    if not isinstance(array, zarr.Array):
        raise StoreError(f"{path}: found a group named {name}, expected an array")
    if array.size and array.nchunks_initialized != array.nchunks:
        raise StoreError(f"{path}: found no data of {name}, expected {array.shape[0]} rows")
    return np.asarray(array[...])


def _check_tables(path: Path, num_frames: int, tables: dict[str, npt.NDArray[Any]]) -> None:
    offsets, keys = tables["offsets"], tables["key"]
    if (
        offsets.ndim != 1
        or not len(offsets)
        or offsets[0] != 0
        or offsets[-1] != num_frames
        or (np.diff(offsets) < 1).any()
    ):
        raise StoreError(f"{path}: found offsets that do not rise from 0 to {num_frames}, expected one window a sample")
    if keys.ndim != 2 or keys.dtype != np.uint8 or keys.max(initial=0) > 127:
        raise StoreError(f"{path}: found keys {keys.shape} {keys.dtype}, expected (N, L) uint8 of ASCII")
    for name in ("key", *INFO_COLUMNS):
        if len(tables[name]) != len(offsets) - 1:
            raise StoreError(f"{path}: found {len(tables[name])} rows of {name}, expected {len(offsets) - 1}")
    lengths = {len(tables[name]) for name in tables if name.startswith("segments/")}
    if len(lengths) > 1:
        raise StoreError(f"{path}: found segment columns of {sorted(lengths)} rows, expected one length")
