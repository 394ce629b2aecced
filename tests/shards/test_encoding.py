"""The three storages: how far a value moves, that it moves once, and that garbage never becomes data."""

import struct
import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shards.encoding import (
    MAX_MEMBER_FRAMES,
    STORAGES,
    Storage,
    decode_array,
    decode_fixed,
    decode_npy,
    encode_array,
    encode_member,
    encode_npy,
    from_units,
    kept,
    to_units,
)
from shards.errors import StoreError

Frames = npt.NDArray[np.float32]

metres = st.floats(-1e5, 1e5, width=32)
near = st.floats(-8, 8, width=32)


def frames_of(coordinates: st.SearchStrategy[float], most: int = 6) -> st.SearchStrategy[Frames]:
    shapes = st.integers(1, most).map(lambda length: (length, 2, 25, 3))
    return shapes.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=coordinates))


@given(frames=frames_of(near))
def test_fixed_moves_a_coordinate_by_half_a_unit_and_the_rounding_of_float32(frames: Frames) -> None:
    moved = np.abs(kept(frames, "fixed", "").astype(np.float64) - frames)
    assert (moved <= 0.5e-4 + np.spacing(np.abs(frames))).all()


@given(frames=frames_of(near))
def test_float16_moves_a_coordinate_by_half_a_unit_in_the_last_place(frames: Frames) -> None:
    moved = np.abs(kept(frames, "float16", "").astype(np.float64) - frames)
    assert (moved <= np.maximum(np.abs(frames) * 2.0**-11, 2.0**-25)).all()


@settings(max_examples=500)
@given(value=metres)
def test_the_integers_come_back_from_the_float32_they_became(value: float) -> None:
    units = to_units(np.full((1, 2, 25, 3), value, np.float32), "")
    assert np.array_equal(to_units(from_units(units), ""), units)


def test_every_unit_up_to_838_metres_and_every_float32_near_a_change_of_spacing_comes_back() -> None:
    whole = np.arange(-(2**23), 2**23, dtype=np.int32)
    assert np.array_equal(to_units(from_units(whole), ""), whole)
    for power in range(-14, 17):
        near_power = np.float32(2.0**power).view(np.int32) + np.arange(-3000, 3000, dtype=np.int32)
        units = to_units(near_power.view(np.float32), "")
        assert np.array_equal(to_units(from_units(units), ""), units)


@pytest.mark.parametrize("storage", STORAGES)
@given(frames=frames_of(near))
def test_what_is_kept_is_kept_again(storage: Storage, frames: Frames) -> None:
    once = kept(frames, storage, "")
    assert once.dtype == np.float32
    assert np.array_equal(kept(once, storage, ""), once)


def test_fixed_rounds_ties_to_even_and_knows_no_negative_zero() -> None:
    halves = np.zeros((1, 2, 25, 3), np.float32)
    # 2^-5 m are 312.5 units, 3 x 2^-5 m are 937.5, both exactly
    halves[0, 0, 0] = 2.0**-5, 3 * 2.0**-5, -0.0
    assert to_units(halves, "")[0, 0, 0].tolist() == [312, 938, 0]
    assert not np.signbit(kept(halves, "fixed", "")[0, 0, 0, 2])


@pytest.mark.parametrize("storage", STORAGES)
@given(frames=frames_of(near, most=20), restart=st.integers(1, 8))
def test_an_array_is_decoded_from_any_chunk_on(storage: Storage, frames: Frames, restart: int) -> None:
    stored, error = encode_array(frames, storage, restart, "")
    expected = kept(frames, storage, "")
    assert error == np.abs(expected.astype(np.float64) - frames).max()
    assert np.array_equal(decode_array(stored, restart, ""), expected)
    for first in range(0, len(frames), restart):
        assert np.array_equal(decode_array(stored[first : first + restart], restart, ""), expected[first:][:restart])
        if storage == "fixed":
            assert np.array_equal(stored[first], to_units(frames[first : first + 1], "")[0])


def test_differences_are_those_of_a_plain_loop() -> None:
    frames = np.random.default_rng(0).normal(size=(11, 2, 25, 3)).astype(np.float32)
    stored, _ = encode_array(frames, "fixed", 4, "")
    for t in range(len(frames)):
        now = [round(float(x) * 1e4) for x in frames[t].ravel()]
        before = [0] * 150 if t % 4 == 0 else [round(float(x) * 1e4) for x in frames[t - 1].ravel()]
        assert stored[t].ravel().tolist() == [a - b for a, b in zip(now, before, strict=True)]


@given(frames=frames_of(metres, most=9))
def test_a_member_of_fixed_is_decoded_to_what_is_kept(frames: Frames) -> None:
    decoded = decode_fixed(encode_member(frames, "fixed", ""), len(frames), "")
    assert decoded.flags.c_contiguous
    assert decoded.flags.writeable
    assert np.array_equal(decoded, kept(frames, "fixed", ""))


def test_values_at_the_limit_survive_the_difference_between_them() -> None:
    frames = np.full((3, 2, 25, 3), 1e5, np.float32)
    frames[1] *= -1
    assert np.array_equal(decode_fixed(encode_member(frames, "fixed", ""), 3, ""), frames)
    stored, error = encode_array(frames, "fixed", 256, "")
    assert error == 0
    assert np.array_equal(decode_array(stored, 256, ""), frames)


@pytest.mark.parametrize("storage", ["float16", "fixed"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2e5, -2e5])
def test_what_a_storage_cannot_hold_is_refused_and_the_frame_named(storage: Storage, value: float) -> None:
    frames = np.zeros((7, 2, 25, 3), np.float32)
    frames[5, 1, 3, 2] = value
    for encode in (encode_member, kept, lambda f, s, where: encode_array(f, s, 4, where)):
        with pytest.raises(StoreError, match=r"^here: frame 5: found a coordinate of"):
            encode(frames, storage, "here")


GOOD = encode_member(np.random.default_rng(1).normal(size=(40, 2, 25, 3)).astype(np.float32), "fixed", "")


def header(*, size: int | None = None, block: int | None = None, version: int = 2, item: int = 4) -> bytes:
    """GOOD with another header."""
    _, coder, flags, _, was, length, packed = struct.unpack_from("<4B3I", GOOD)
    return struct.pack("<4B3I", version, coder, flags, item, size or was, block or length, packed) + GOOD[16:]


@pytest.mark.parametrize(
    ("data", "length", "message"),
    [
        (b"", 40, r"found no frames \(0 bytes\)"),
        (GOOD[:15], 40, r"found no frames \(15 bytes\)"),
        (GOOD[:-1], 40, "expected the header of a Blosc frame"),
        (GOOD + b"\0", 40, "expected the header of a Blosc frame"),
        (header(version=3), 40, "expected the header of a Blosc frame"),
        (header(item=2), 40, "expected the header of a Blosc frame"),
        (header(block=2**31), 40, "expected the header of a Blosc frame"),
        (header(size=2**31 - 1), 40, "found a Blosc frame of 2147483647 bytes, expected 24000 by its record"),
        (GOOD, 41, "found a Blosc frame of 24000 bytes, expected 24608 by its record"),
        (GOOD, 0, "found 0 frames by its record"),
        (GOOD, None, "found None frames by its record"),
        (GOOD, "40", "found '40' frames by its record"),
        (GOOD, True, "found True frames by its record"),
        (GOOD, MAX_MEMBER_FRAMES + 1, "expected 1 to 1000000"),
    ],
)
def test_a_hostile_member_is_refused(data: bytes, length: object, message: str) -> None:
    with pytest.raises(StoreError, match=f"^here: .*{message}"):
        decode_fixed(data, length, "here")


def test_a_declared_size_allocates_nothing_before_it_is_believed() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(StoreError):
            decode_fixed(header(size=2**31 - 8), 40, "here")
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@settings(max_examples=400)
@given(data=st.binary(max_size=400), length=st.integers(1, 3))
def test_random_bytes_behind_a_good_header_raise_or_give_frames(data: bytes, length: int) -> None:
    size = -(-length * 150 // 8) * 32
    member = struct.pack("<4B3I", 2, 1, 0x94, 4, size, size, len(data) + 16) + data
    try:
        frames = decode_fixed(member, length, "here")
    except StoreError as error:
        assert str(error).startswith("here: ")  # noqa: PT017 - both outcomes are right
    else:
        assert frames.shape == (length, 2, 25, 3)
        assert np.isfinite(frames).all()


@settings(max_examples=400)
@given(position=st.integers(0, len(GOOD) - 1), value=st.integers(0, 255))
def test_a_changed_byte_raises_or_gives_frames_of_the_right_shape(position: int, value: int) -> None:
    data = bytearray(GOOD)
    data[position] = value
    try:
        frames = decode_fixed(data, 40, "here")
    except StoreError:
        return
    assert frames.shape == (40, 2, 25, 3)
    assert np.isfinite(frames).all()


@settings(max_examples=300)
@given(data=st.binary(max_size=300))
def test_random_bytes_are_no_npy(data: bytes) -> None:
    with pytest.raises(StoreError, match=r"^here: "):
        decode_npy(bytearray(data), "here")


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_an_npy_is_byte_for_byte_the_one_of_numpy(dtype: type, tmp_path_factory: pytest.TempPathFactory) -> None:
    for length in (1, 9, 10, 12345):
        frames = np.random.default_rng(length).normal(size=(length, 2, 25, 3)).astype(dtype)
        path = tmp_path_factory.mktemp("npy") / "a.npy"
        np.save(path, frames)
        for layout in (frames, np.asfortranarray(frames), np.repeat(frames, 2, axis=0)[::2]):
            assert encode_npy(layout) == path.read_bytes()
        assert np.array_equal(decode_npy(bytearray(path.read_bytes()), ""), frames)
