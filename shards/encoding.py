"""The three storages of frames: what each keeps of float32 coordinates, and as which array or bytes.

`float32` keeps everything. `float16` rounds to half precision. `fixed` rounds to whole units of 0.1 mm and stores their
differences along time, the first frame absolute. Specified in `shards/README.md`.
"""

import io
import math
import re
import struct
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from numcodecs import blosc

from shards.errors import StoreError
from shards.skeleton import NUM_COORDINATES, NUM_JOINTS, NUM_PERSONS

Storage = Literal["float32", "float16", "fixed"]
STORAGES: tuple[Storage, ...] = get_args(Storage)

FRAME_SHAPE = (NUM_PERSONS, NUM_JOINTS, NUM_COORDINATES)
FRAMES_MEMBER = "frames.npy"
FIXED_MEMBER = "frames.blosc"

UNITS_PER_METRE = 1e4
METRES_PER_UNIT = 1e-4
MAX_FIXED_METRES = 1e5
"""Ten times what a recipe lets through; the difference of two such values still fits 32 bits."""

MAX_MEMBER_FRAMES = 1_000_000
"""Nine hours at 30 Hz, 600 MB: what a damaged or hostile `fixed` member can make its reader allocate."""

# Bytes a sample of 108 frames and MB/s of float32 encoded on one core (tests/benchmarks/storage.py), by level of zstd:
# float32 level 1 34,100 at 510, 2 33,800 at 410, 3 33,400 at 220, 5 33,300 at 150; fixed level 1 15,000 at 670,
# 2 14,000 at 630, 3 13,900 at 390, 5 13,800 at 270. Beyond 2 each percent costs half the speed.
ZSTD_LEVEL = 2

# Blosc's own threads lay the blocks of a frame down in the order in which they finish: other bytes each time.
blosc.use_threads = False

_MAX_UNITS = round(MAX_FIXED_METRES * UNITS_PER_METRE)
_FRAME_SIZE = math.prod(FRAME_SHAPE)
_UNIT_TYPE = np.dtype("<i4")
# Blosc leaves blocks unshuffled whose elements do not come in eights, 14 % of the size.
_SHUFFLE_ELEMENTS = 8
_BLOSC_HEADER = struct.Struct("<4B3I")
_BLOSC_VERSION = 2
_NPY_MAGIC = b"\x93NUMPY\x01\x00"
_NPY_TYPES = (np.dtype("<f4"), np.dtype("<f2"))
# What numpy writes for arrays of plain numbers. Its reader lets much more pass (any expression of literals, names of
# other types, headers of Python 2), with its own errors and warnings.
_NPY_HEADER = re.compile(
    rb"\{'descr': '([<>|][a-zA-Z]\d?)', 'fortran_order': (True|False) ?, 'shape': \(((?:\d{1,9}(?:, |,?\)))+), \} *\n"
)

Floats = npt.NDArray[np.float32]
Units = npt.NDArray[np.int32]


def member_name(storage: Storage) -> str:
    """Extension of the member that holds the frames of a sample."""
    return FIXED_MEMBER if storage == "fixed" else FRAMES_MEMBER


def member_dtype(storage: Storage) -> np.dtype[Any]:
    """Of the frames that a shard's reader hands out."""
    return np.dtype(np.float16 if storage == "float16" else np.float32)


def array_dtype(storage: Storage) -> np.dtype[Any]:
    """Of the frames in the Zarr array of a store."""
    return np.dtype(np.int32) if storage == "fixed" else np.dtype(storage)


def storage_of(dtype: np.dtype[Any]) -> Storage | None:
    """The storage whose Zarr array has this dtype; None if there is none."""
    return next((storage for storage in STORAGES if array_dtype(storage) == dtype), None)


def kept(frames: npt.NDArray[Any], storage: Storage, where: str) -> Floats:
    """What a storage keeps of frames: encoded and decoded again, float32.

    Idempotent: what was kept once is kept exactly.

    Raises:
        StoreError: the storage cannot hold a value; the message begins with `where`.
    """
    if storage == "fixed":
        return from_units(to_units(frames, where))
    return to_float(frames, storage, where).astype(np.float32, copy=False)


def to_float(frames: npt.NDArray[Any], storage: Storage, where: str, first: int = 0) -> npt.NDArray[Any]:
    """Frames in the dtype of `float32` or `float16`; StoreError where half precision overflows."""
    if storage == "float32":
        return frames.astype(np.float32, copy=False)
    with np.errstate(over="ignore"):
        half = frames.astype(np.float16, copy=False)
    if not np.isfinite(half).all():
        raise _unfit(frames, float(np.finfo(np.float16).max), storage, where, first)
    return half


def to_units(frames: npt.NDArray[Any], where: str, first: int = 0) -> Units:
    """Whole units of 0.1 mm, ties to even, int32; StoreError for what is not finite or farther than 100 km.

    For any float32 `x` in range `to_units(from_units(to_units(x))) == to_units(x)`: below 1,024 m neighbouring float32
    are nearer than a unit, so that `from_units` moves a value by less than half a unit; above they are farther apart
    than a unit, so that it gives back `x` itself.
    """
    units = np.rint(np.multiply(frames, UNITS_PER_METRE, dtype=np.float64))
    if not _in_range(units):
        raise _unfit(frames, MAX_FIXED_METRES, "fixed", where, first)
    whole: Units = units.astype(np.int32)
    return whole


def from_units(units: Units) -> Floats:
    """Metres: the float64 product with 1e-4, rounded to float32."""
    return np.multiply(units, METRES_PER_UNIT, dtype=np.float64).astype(np.float32)


def _in_range(units: npt.NDArray[Any]) -> bool:
    # written so that NaN counts as out of range
    return bool(units.max(initial=0) <= _MAX_UNITS and units.min(initial=0) >= -_MAX_UNITS)


def _unfit(frames: npt.NDArray[Any], limit: float, storage: Storage, where: str, first: int) -> StoreError:
    frame = int(np.argmax(~(np.abs(frames.reshape(len(frames), -1)) <= limit).all(axis=1)))
    worst = float(np.abs(frames[frame]).max())
    return StoreError(
        f"{where}: frame {first + frame}: found a coordinate of {worst:g} m, expected at most {limit:g} m ({storage})"
    )


def encode_array(
    frames: Floats, storage: Storage, restart: int, where: str, number: int = 0
) -> tuple[npt.NDArray[Any], float]:
    """What the Zarr array of a store holds, and the largest error it makes.

    Args:
        frames: (n, M, V, C) float32, beginning with a chunk.
        storage: of the store.
        restart: frames of a chunk; with `fixed` the first frame of each is absolute, so that it can be read alone.
        where: how an error's message begins; it goes on with the frame.
        number: of the first frame, for that message.

    Returns:
        (n, M, V, C) float32, float16 or int32; and the largest |decoded - frames| in metres.
    """
    if storage == "float32":
        return frames, 0.0
    stored = np.empty(frames.shape, dtype=array_dtype(storage))
    error = 0.0
    # chunk by chunk, so that each stays in the cache: five times faster than all at once
    for first in range(0, len(frames), restart):
        exact, chunk = frames[first : first + restart], stored[first : first + restart]
        if storage == "fixed":
            units = to_units(exact, where, number + first)
            chunk[0] = units[0]
            np.subtract(units[1:], units[:-1], out=chunk[1:])
            decoded = from_units(units)
        else:
            chunk[...] = to_float(exact, storage, where, number + first)
            decoded = chunk.astype(np.float32)
        # their difference is exact: the two are neighbours, or one of them is tiny
        error = max(error, float(np.abs(decoded - exact).max()))
    return stored, error


def decode_array(stored: npt.NDArray[Any], restart: int, where: str) -> Floats:
    """The inverse of `encode_array`; `stored` begins with a chunk unless it is floats.

    Raises:
        StoreError: the differences add up to something that no writer stores.
    """
    if stored.dtype != np.int32:
        return stored.astype(np.float32, copy=False)
    frames = np.empty(stored.shape, dtype=np.float32)
    # chunk by chunk, so that each stays in the cache
    for first in range(0, len(stored), restart):
        units = np.cumsum(stored[first : first + restart], axis=0, dtype=np.int32)
        if not _in_range(units):
            raise StoreError(f"{where}: found differences that add up to {_farthest(units)}, expected frames in 0.1 mm")
        np.multiply(units, METRES_PER_UNIT, out=frames[first : first + restart], dtype=np.float64, casting="same_kind")
    return frames


def _farthest(units: Units) -> str:
    return f"{max(int(units.max()), -int(units.min())) * METRES_PER_UNIT:g} m"


def encode_member(frames: npt.NDArray[Any], storage: Storage, where: str) -> bytes:
    """Frames (T, M, V, C) as the bytes of their member of a shard.

    Raises:
        StoreError: the storage cannot hold a value, or `fixed` so many frames.
    """
    if storage != "fixed":
        return encode_npy(to_float(frames, storage, where))
    if len(frames) > MAX_MEMBER_FRAMES:
        raise StoreError(f"{where}: found {len(frames)} frames, expected at most {MAX_MEMBER_FRAMES}")
    # One coordinate's whole course after the other: 13 % smaller than frame after frame, and faster.
    units = to_units(frames, where).reshape(len(frames), _FRAME_SIZE).T
    differences = np.zeros(_padded(units.size), dtype=_UNIT_TYPE)
    planes = differences[: units.size].reshape(units.shape)
    planes[:, 0] = units[:, 0]
    np.subtract(units[:, 1:], units[:, :-1], out=planes[:, 1:])
    return bytes(blosc.compress(differences, b"zstd", ZSTD_LEVEL, blosc.BITSHUFFLE))


def _padded(size: int) -> int:
    return -(-size // _SHUFFLE_ELEMENTS) * _SHUFFLE_ELEMENTS


def decode_fixed(data: bytes | bytearray | memoryview, length: Any, where: str) -> Floats:
    """The frames of a `frames.blosc` member, (T, M, V, C) float32, new memory.

    Args:
        data: of the member.
        length: T, as the sample's record states it.
        where: how an error's message begins.

    Raises:
        StoreError: no such frames. The header is believed only where it agrees with the record and the member's size.
    """
    if type(length) is not int or not 1 <= length <= MAX_MEMBER_FRAMES:
        raise StoreError(f"{where}: found {length!r} frames by its record, expected 1 to {MAX_MEMBER_FRAMES}")
    size = length * _FRAME_SIZE
    _check_blosc(data, _padded(size) * _UNIT_TYPE.itemsize, where)
    differences = np.empty(_padded(size), dtype=_UNIT_TYPE)
    try:
        blosc.decompress(bytes(data), differences)
    except (RuntimeError, ValueError) as error:
        raise StoreError(f"{where}: found no frames ({error}), expected a Blosc frame") from None
    planes = differences[:size].reshape(_FRAME_SIZE, length)
    units = np.cumsum(planes, axis=1, dtype=np.int32, out=planes)
    if differences[size:].any() or not _in_range(units):
        raise StoreError(f"{where}: found differences that add up to {_farthest(units)}, expected frames in 0.1 mm")
    return np.ascontiguousarray(from_units(units).T).reshape(length, *FRAME_SHAPE)


def _check_blosc(data: bytes | bytearray | memoryview, expected: int, where: str) -> None:
    if len(data) < _BLOSC_HEADER.size:
        raise StoreError(f"{where}: found no frames ({len(data)} bytes), expected a Blosc frame")
    version, _, _, item, size, block, packed = _BLOSC_HEADER.unpack_from(data)
    if (version, item, packed) != (_BLOSC_VERSION, _UNIT_TYPE.itemsize, len(data)) or not 0 < block <= size:
        raise StoreError(f"{where}: found no frames ({bytes(data[:16]).hex()}), expected the header of a Blosc frame")
    if size != expected:
        raise StoreError(f"{where}: found a Blosc frame of {size} bytes, expected {expected} by its record")


def encode_npy(frames: npt.NDArray[Any]) -> bytes:
    """Frames as the bytes of an .npy file, version 1.0, C order."""
    return b"".join((_npy_header(frames.dtype, frames.shape), np.ascontiguousarray(frames).data.cast("B")))


@lru_cache(maxsize=4096)
def _npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    empty = np.broadcast_to(np.zeros((), dtype), shape)
    facts = {**np.lib.format.header_data_from_array_1_0(empty), "fortran_order": False}
    np.lib.format.write_array_header_1_0(buffer, facts)
    return buffer.getvalue()


def decode_npy(data: bytearray | memoryview, where: str) -> npt.NDArray[Any]:
    """View the bytes of a `frames.npy` member as its array, without a copy; writable if `data` is.

    Raises:
        StoreError: no such array; the message begins with `where`.
    """
    start = int.from_bytes(data[8:10], "little") + 10
    try:
        dtype, shape = _parse_header(bytes(data[:start]))
    except ValueError as error:
        raise StoreError(f"{where}: found no frames ({error}), expected an .npy array") from None
    if shape[1:] != FRAME_SHAPE or not shape[0] or dtype not in _NPY_TYPES:
        raise StoreError(f"{where}: found frames {shape} {dtype}, expected (T, 2, 25, 3) float32 or float16")
    if len(data) - start != dtype.itemsize * math.prod(shape):
        raise StoreError(f"{where}: found {len(data) - start} bytes of frames, expected {shape} {dtype}")
    return np.frombuffer(data, dtype=dtype, offset=start).reshape(shape)


# Samples of one length share their header byte for byte, so that parsing (20 us) becomes a look-up (0.05 us).
@lru_cache(maxsize=4096)
def _parse_header(header: bytes) -> tuple[np.dtype[Any], tuple[int, ...]]:
    if not header.startswith(_NPY_MAGIC):
        raise ValueError(f"it begins with {header[:8]!r}")
    found = _NPY_HEADER.fullmatch(header, len(_NPY_MAGIC) + 2)
    if not found:
        raise ValueError("a header of another form")
    descr, fortran_order, shape = (field.decode() for field in found.groups())
    if fortran_order == "True":
        raise ValueError("it is in Fortran order")
    try:
        dtype = np.dtype(descr)
    except TypeError as error:
        raise ValueError(str(error)) from None
    return dtype, tuple(int(size) for size in shape.rstrip(",)").split(", "))
