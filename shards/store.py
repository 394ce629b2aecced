"""The ragged Zarr store: all frames of a source end to end, with offsets. Specified in `shards/README.md`."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt
import zarr
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from zarr.codecs import BloscCodec, Crc32cCodec, TransposeCodec
from zarr.storage import FsspecStore

from shards.encoding import (
    FRAME_SHAPE,
    ZSTD_LEVEL,
    Storage,
    array_dtype,
    decode_array,
    encode_array,
    storage_of,
)
from shards.errors import StoreError
from shards.files import sync
from shards.places import Place
from shards.remote import failures
from shards.schema import Quality, SampleInfo, Segment, segment_key
from shards.tables import GROUPS, INFO_COLUMNS, QUALITY, SEGMENTS, Columns, check_columns, infos_of, rows_of, to_columns

# A chunk is what a random read decodes (256 frames, 150 kB raw), a shard is one file and the unit of parallel writing
# (16,384 frames, 9.8 MB raw): NTU 120 becomes about 500 files.
FRAMES_PER_CHUNK = 256
FRAMES_PER_SHARD = 16_384

# One coordinate's whole course after the other compresses better than frame after frame: float32 by 6 %, fixed by 7 %,
# float16 by 13 %, and each faster.
_TIME_LAST = (1, 2, 3, 0)

FRAMES_AHEAD = 4096

# What zarr, its codecs and the file system raise on damaged arrays and metadata.
_READ_ERRORS = (
    ValueError, LookupError, TypeError, AttributeError, RuntimeError, OSError, ArithmeticError, MemoryError
)  # fmt: skip


def create(
    path: Path,
    infos: Sequence[SampleInfo],
    lengths: Sequence[int],
    segments: Sequence[Segment] | None,
    dtype: Storage = "float32",
    quality: Sequence[Quality] | None = None,
) -> None:
    """Create a store that has everything but its frames; it appears at `path` whole or not at all.

    Args:
        path: the store's folder, which must not exist.
        infos: of all samples, sorted by key, keys unique.
        lengths: frames of each sample, at least 1.
        segments: labelled actions of an untrimmed source; None for a trimmed one.
        dtype: the storage of the frames.
        quality: of the raw recording of each sample; None where it is not known.

    Raises:
        StoreError: `path` exists, or there is nothing to store.
    """
    if path.exists():
        raise StoreError(f"{path}: found something there, expected a path to create a store at")
    if not infos:
        raise StoreError(f"{path}: found no sample, expected at least one to store")
    columns = to_columns(infos, lengths, segments, quality)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        root = zarr.create_group(temporary, zarr_format=3)
        _create_frames(root, sum(lengths), dtype)
        for name, values in columns.items():
            _write_column(root, name, values)
        for file in temporary.rglob("*"):
            sync(file)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync(path.parent)


def _create_frames(root: zarr.Group, num_frames: int, dtype: Storage) -> None:
    root.create_array(
        "frames",
        shape=(num_frames, *FRAME_SHAPE),
        chunks=(FRAMES_PER_CHUNK, *FRAME_SHAPE),
        shards=(FRAMES_PER_SHARD, *FRAME_SHAPE),
        dtype=array_dtype(dtype),
        filters=[TransposeCodec(order=_TIME_LAST)],
        compressors=_compressors(array_dtype(dtype).itemsize, _shuffle(dtype)),
        fill_value=0,
        dimension_names=("frame", "person", "joint", "coordinate"),
    )


def _shuffle(dtype: Storage) -> Literal["shuffle", "bitshuffle"]:
    return "bitshuffle" if dtype == "fixed" else "shuffle"


def _compressors(itemsize: int, shuffle: Literal["shuffle", "bitshuffle"]) -> tuple[BloscCodec, Crc32cCodec]:
    # Blosc takes a flipped bit for data; the checksum costs 4 bytes a chunk.
    return BloscCodec(typesize=itemsize, cname="zstd", clevel=ZSTD_LEVEL, shuffle=shuffle), Crc32cCodec()


def _write_column(group: zarr.Group, name: str, values: npt.NDArray[Any]) -> None:
    chunks = tuple(max(1, size) for size in values.shape)
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=chunks,
        dtype=values.dtype,
        compressors=_compressors(values.itemsize, "shuffle"),
        fill_value=0,
        config={"write_empty_chunks": True},
    )
    if values.size:
        array[...] = values


def write_frames(path: Path, first: int, frames: npt.NDArray[np.float32]) -> float:
    """Write one Zarr shard of frames; different shards may be written by several threads or processes at once.

    Args:
        path: a created store.
        first: number of the first frame, a multiple of FRAMES_PER_SHARD.
        frames: (FRAMES_PER_SHARD, M, V, C), or fewer frames for the last shard.

    Returns:
        The largest difference between a coordinate as it will be read and as it was given, in metres.

    Raises:
        StoreError: the storage cannot hold a coordinate.
    """
    # zarr's own setting is one for all threads, and leaves out chunks of zeros where it is reset too early.
    array = _frames_array(path, mode="r+").with_config({"write_empty_chunks": True})
    total, dtype = array.shape[0], _storage(path, array)
    assert first % FRAMES_PER_SHARD == 0, f"frame {first} is no multiple of {FRAMES_PER_SHARD}"
    assert frames.dtype == np.float32, f"frames are {frames.dtype}"
    assert len(frames) == min(FRAMES_PER_SHARD, total - first), (
        f"{len(frames)} frames from {first} of {total} are no whole shard"
    )
    stored, error = encode_array(frames, dtype, FRAMES_PER_CHUNK, str(path), first)
    # zarr takes 1.4 times as long as writing its format by hand would, 0.8 s of the 6 s that 4,000 files take.
    array[first : first + len(frames)] = stored
    file = frame_shard_file(path, first // FRAMES_PER_SHARD)
    sync(file)
    sync(file.parent)
    return error


@overload
def frame_shard_file(path: Path, number: int) -> Path: ...
@overload
def frame_shard_file(path: Place, number: int) -> Place: ...
def frame_shard_file(path: Place, number: int) -> Place:
    """The file that holds frames number * FRAMES_PER_SHARD and on."""
    return path / "frames" / "c" / str(number) / "0" / "0" / "0"


def _opened(path: Place) -> Path | FsspecStore:
    """What zarr takes for a folder to read, or a local one to write."""
    if isinstance(path, Path):
        return path
    # The file system's own asynchronous form would open connections in zarr's event loop that nobody closes.
    return FsspecStore(AsyncFileSystemWrapper(path.fs, asynchronous=True), read_only=True, path=path.path)


def _frames_array(path: Place, mode: Any) -> zarr.Array[Any]:
    array = zarr.open_array(_opened(path / "frames"), mode=mode, zarr_format=3)
    if storage_of(array.dtype) is None or array.ndim != 4 or array.shape[1:] != FRAME_SHAPE:
        raise StoreError(
            f"{path}: found frames {array.shape} {array.dtype}, expected (F, 2, 25, 3) float32, float16 or int32"
        )
    return array


def _storage(path: Place, array: zarr.Array[Any]) -> Storage:
    storage = storage_of(array.dtype)
    assert storage is not None, f"{path}: the array was opened with a check of its dtype"
    return storage


@dataclass(frozen=True)
class StoredSample:
    """A sample and its frames first..stop-1 of the store; `segment` and the key `video` for a trimmed action."""

    info: SampleInfo
    first: int
    stop: int
    segment: Segment | None = None
    video: str | None = None


class Store:
    """A store to read. Frames are decoded on demand, tables are held.

    Attributes:
        dtype: the storage of the frames; they are always read as float32.
        offsets: (N+1,) int64; sample i is frames offsets[i]..offsets[i+1]-1.
        segments: the labelled actions of an untrimmed source, else None.
        quality: of the raw recordings, else None.
    """

    def __init__(self, path: Place, frames: zarr.Array[Any], columns: Columns) -> None:
        self.path = path
        self.num_frames: int = frames.shape[0]
        self.dtype: Storage = _storage(path, frames)
        self.offsets: npt.NDArray[np.int64] = columns["offsets"]
        self._frames = frames
        self._columns = columns
        self._seen: set[int] = set()

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def infos(self) -> list[SampleInfo]:
        """What is known of each sample, in the order of the rows."""
        return infos_of(self._columns)

    @cached_property
    def segments(self) -> list[Segment] | None:
        """The labelled actions, sorted by video and row; None for a trimmed source."""
        rows = rows_of(self._columns, SEGMENTS)
        return None if rows is None else [Segment(*row) for row in rows]

    @cached_property
    def quality(self) -> list[Quality] | None:
        """What the raw recording of each row was like; None where the store does not tell."""
        rows = rows_of(self._columns, QUALITY)
        return None if rows is None else [Quality(*row) for row in rows]

    @property
    def num_samples(self) -> int:
        """Rows, or the actions of an untrimmed source."""
        return len(self) if self.segments is None else len(self.segments)

    def locate(self, number: int) -> StoredSample:
        """What shards call sample `number`: a row, or an action with its own key and label."""
        if self.segments is None:
            return StoredSample(self.infos[number], int(self.offsets[number]), int(self.offsets[number + 1]))
        s = self.segments[number]
        video, first = self.infos[s.video], int(self.offsets[s.video])
        info = replace(video, key=segment_key(video.key, s.row), label=s.label)
        return StoredSample(info, first + s.start, first + s.end, s, video.key)

    def read(self, first: int, stop: int) -> npt.NDArray[np.float32]:
        """Frames first..stop-1 as (n, M, V, C) float32.

        Raises:
            StoreError: a file is missing (Zarr alone would read zeros) or damaged.
        """
        assert 0 <= first <= stop <= self.num_frames, f"frames {first}..{stop} of {self.num_frames}"
        for number in range(first // FRAMES_PER_SHARD, -(-stop // FRAMES_PER_SHARD)):
            self._check_file(number)
        # differences begin anew with each chunk
        begin = first - first % FRAMES_PER_CHUNK if self.dtype == "fixed" and first < stop else first
        try:
            stored = np.asarray(self._frames[begin:stop])
        except failures(self.path, _READ_ERRORS) as error:
            raise StoreError(
                f"{self.path}: found unreadable frames in {first}..{stop - 1} ({error}), expected {self.dtype}"
            ) from error
        return decode_array(stored, FRAMES_PER_CHUNK, f"{self.path}: frames {first}..{stop - 1}")[first - begin :]

    def _check_file(self, number: int) -> None:
        if number in self._seen:
            return
        file = frame_shard_file(self.path, number)
        try:
            there = file.is_file()
        except failures(self.path, (OSError,)) as error:
            raise StoreError(f"{file}: found no answer ({error}), expected frames of the store") from error
        if not there:
            raise StoreError(f"{file}: found no file, expected frames of the store")
        if not isinstance(file, Path):
            self._seen.add(number)  # a request each; local files are asked every time, which costs 2 us

    def sample(self, number: int) -> npt.NDArray[np.float32]:
        """All frames of one sample, (T, M, V, C) float32."""
        return self.read(int(self.offsets[number]), int(self.offsets[number + 1]))


class ReadAhead:
    """Reads a store in blocks of 2.5 MB. Samples in order mostly follow each other: 6,000 a second instead of 1,200."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._first = 0
        self._frames = store.read(0, 0)

    def read(self, first: int, stop: int) -> npt.NDArray[np.float32]:
        """Frames first..stop-1, as `Store.read`."""
        if first < self._first or stop > self._first + len(self._frames):
            self._frames = self._store.read(first, min(max(stop, first + FRAMES_AHEAD), self._store.num_frames))
            self._first = first
        return self._frames[first - self._first : stop - self._first]


def open_store(path: Place) -> Store:
    """Open a store to read.

    Raises:
        StoreError: absent, incomplete or garbled.
    """
    try:
        frames, columns = _read_tables(path)
    except StoreError:
        raise
    except failures(path, _READ_ERRORS) as error:
        raise StoreError(f"{path}: found an unreadable array ({error!r}), expected a store of this format") from error
    check_columns(path, frames.shape[0], columns)
    return Store(path, frames, columns)


def _read_tables(path: Place) -> tuple[zarr.Array[Any], Columns]:
    if not (path / "zarr.json").is_file():
        raise StoreError(f"{path}: found no zarr.json, expected a Zarr store")
    root = zarr.open_group(_opened(path), mode="r", zarr_format=3)
    names = ["offsets", "key", *INFO_COLUMNS]
    for group, columns in GROUPS.items():
        if (path / group).exists():
            names += [f"{group}/{column}" for column in columns]
    return _frames_array(path, mode="r"), {name: _read_column(path, root, name) for name in names}


def _read_column(path: Place, root: zarr.Group, name: str) -> npt.NDArray[Any]:
    array = root[name]
    if not isinstance(array, zarr.Array):
        raise StoreError(f"{path}: found a group named {name}, expected an array")
    if array.size and array.nchunks_initialized != array.nchunks:
        raise StoreError(f"{path}: found no data of {name}, expected {array.shape[0]} rows")
    return np.asarray(array[...])
