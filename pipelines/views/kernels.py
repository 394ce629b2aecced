"""The folded part of a view on the CPU, one sample after the other: resampling, a map of each joint, the stream.

A few frames at a time go through the steps in a buffer that stays in the first-level cache, each person by itself: five
blocks of five joints, 15 of 16 lanes. So a map of the joints needs no value of another block: the first column of each
joint's matrix times its x, in all three lanes, plus the second times y, plus the third times z. The last step writes
both persons into the view in the order of the encoders.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.compiled import inlined, kernel
from pipelines.views.lanes import (
    any_bit,
    load,
    load_firsts,
    load_pairs,
    load_seconds,
    load_spaced,
    load_thirds,
    multiply,
    multiply_add,
    pointer,
    settle,
    shifted,
    spread,
    spread_x,
    spread_y,
    spread_z,
    store,
    store_past,
    subtract,
)
from shards.skeleton import PARENTS

LANES_SHA256 = "e6371f415708"
"""Of `lanes.py`: Numba keeps compiled code until this very file changes, so a change there has to change it too."""

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

JOINT, BONE, MOTION = 0, 1, 2

_JOINTS = 25
_VALUES = 75  # of one person: 25 joints x 3
_FRAME = 150
_BLOCKS = 5  # of a person
_WIDTH = 15  # values of a block
_LAST = 59  # where sixteen lanes end with a person's last value: its last block, one lane further on
_PERSON = 16 * _BLOCKS  # room of a person in a buffer
_ROW = 2 * _PERSON
_CHUNK = 8  # frames in a buffer: 5 kB; so many frames of a view are whole cache lines
# The room: two buffers, x and y, of a frame more than a chunk for motion; frames of the view, the persons apart, each
# without gaps but for a lane behind; the columns of the maps.
_X, _Y = 0, (_CHUNK + 1) * _ROW
_OUT, _APART = 2 * _Y, _CHUNK * _VALUES + 8
_COLUMNS = _OUT + 2 * _APART
ROOM = _COLUMNS + 3 * _PERSON
"""Floats that a thread needs beside the views, from a multiple of 64 bytes on."""

_PARENTS = np.array(PARENTS)


@inlined
def _has_second(frames: Any, start: int, stop: int) -> bool:
    """Whether the second person is anything but zeros."""
    for frame in range(start, stop):
        at = frame * _FRAME + _VALUES
        if any_bit(frames, at, at + _LAST):
            return True
    return False


@inlined
def _columns(matrices: Any, n: int, count: int, room: Any) -> None:
    """The columns of the maps, in the lanes of the joints' values."""
    first = 9 * n * count
    for number in range(_BLOCKS):
        own = _COLUMNS + 16 * number
        if count == 1:
            for i in range(_WIDTH):
                for column in range(3):
                    room[own + column * _PERSON + i] = matrices[first + i % 3 * 3 + column]
        elif number < _BLOCKS - 1:
            at = first + 3 * _WIDTH * number
            store(room, own, load_firsts(matrices, at))
            store(room, own + _PERSON, load_seconds(matrices, at))
            store(room, own + 2 * _PERSON, load_thirds(matrices, at))
        else:
            at = first + 3 * _LAST
            store(room, own, shifted(load_firsts(matrices, at)))
            store(room, own + _PERSON, shifted(load_seconds(matrices, at)))
            store(room, own + 2 * _PERSON, shifted(load_thirds(matrices, at)))


@inlined
def _mapped(room: Any, number: int, x: Any) -> Any:
    at = _COLUMNS + 16 * number
    y = multiply_add(load(room, at + _PERSON), spread_y(x), multiply(load(room, at), spread_x(x)))
    return multiply_add(load(room, at + 2 * _PERSON), spread_z(x), y)


@inlined
def _sampled(frames: Any, person: int, number: int, between: bool, weight: Any) -> Any:
    """A block of the person that begins there, or of what lies between this frame and the next."""
    at = person + min(_WIDTH * number, _LAST)
    x = load(frames, at)
    if between:
        x = multiply_add(weight, subtract(load(frames, at + _FRAME), x), x)
    return shifted(x) if number == _BLOCKS - 1 else x


@inlined
def _resample(
    frames: Any, start: int, length: int, place: float, T: int, persons: int, mapped: bool, room: Any, to: int,
    person_on: int, block_on: int,
) -> None:  # fmt: skip
    """The frame at `place` of the view, which `temporal.sampling` locates in the sample, as a row of the room."""
    position = (place + 0.5) * (length / T) - 0.5
    last = length - 1
    if not position > 0:
        position = 0.0
    lower = last if position >= last else int(position)
    share = np.float32(position - lower)
    weight = spread(share)
    for person in range(persons):
        before, own = (start + lower) * _FRAME + person * _VALUES, to + person * person_on
        if share == 0 or lower == last:  # most crops of PCM3++ keep as many frames as a view has
            for number in range(_BLOCKS):
                x = _sampled(frames, before, number, False, weight)
                store(room, own + block_on * number, _mapped(room, number, x) if mapped else x)
        else:
            for number in range(_BLOCKS):
                x = _sampled(frames, before, number, True, weight)
                store(room, own + block_on * number, _mapped(room, number, x) if mapped else x)


@inlined
def _put(room: Any, rows: int, persons: int, mapped: bool, to: int, row_on: int, person_on: int, block_on: int) -> None:
    """x or its map, elsewhere in the room."""
    for row in range(rows):
        for person in range(persons):
            place, own = _X + row * _ROW + person * _PERSON, to + row * row_on + person * person_on
            for number in range(_BLOCKS):
                x = load(room, place + 16 * number)
                store(room, own + block_on * number, _mapped(room, number, x) if mapped else x)


@inlined
def _flush(room: Any, rows: int, persons: int, out: Any, to: int, past: bool) -> None:
    """The frames into the view; past the caches, which would first read from memory what is overwritten."""
    count = rows * _VALUES
    whole = count // 8 * 8
    for at in range(_OUT, _OUT + whole, 8):
        pairs = load_spaced(room, at) if persons == 1 else load_pairs(room, at, at + _APART)
        if past:
            store_past(out, to, pairs)
        else:
            store(out, to, pairs)
        to += 16
    for at in range(_OUT + whole, _OUT + count):
        out[to] = room[at]
        out[to + 1] = room[at + _APART] if persons == 2 else np.float32(0)
        to += 2


@inlined
def _take_joints(room: Any, rows: int, persons: int, joints: Any, first: int) -> None:
    """x[v] = y[joints[first + v]]."""
    for row in range(rows):
        for person in range(persons):
            place = row * _ROW + person * _PERSON
            for joint in range(_JOINTS):
                other = joints[first + joint]
                own, taken = place + 3 * joint + joint // 5, place + 3 * other + other // 5
                for c in range(3):
                    room[_X + own + c] = room[_Y + taken + c]


@inlined
def _to_bones(room: Any, rows: int, persons: int) -> None:
    """x[v] = y[v] - y[parent of v]."""
    _take_joints(room, rows, persons, pointer(_PARENTS), 0)
    for row in range(rows):
        for at in range(row * _ROW, row * _ROW + persons * _PERSON, 16):
            store(room, _X + at, subtract(load(room, _Y + at), load(room, _X + at)))


@inlined
def _to_motion(room: Any, rows: int, persons: int) -> None:
    """x[t] = x[t+1] - x[t]."""
    for row in range(rows):
        for at in range(_X + row * _ROW, _X + row * _ROW + persons * _PERSON, 16):
            store(room, at, subtract(load(room, at + _ROW), load(room, at)))


@inlined
def _within(frames: npt.NDArray[Any], start: int, length: int, source: Integers, n: int) -> bool:
    if length < 1 or start < 0 or start > len(frames) // _FRAME - length:
        return False
    for joint in range(source.shape[1]):  # noqa: SIM110 - Numba has no generators
        if not 0 <= source[n, joint] < _JOINTS:
            return False
    return True


def _read_only(dtype: str, axes: int) -> str:
    return f"Array({dtype}, {axes}, 'C', readonly=True)"


_PLACES = ", ".join([*[_read_only("int64", 1)] * 2, _read_only("float64", 2)])
_MAPS = ", ".join([_read_only("float32", 4), _read_only("int64", 2)])


@kernel(
    *(
        f"int64({_read_only(dtype, 1)}, {_PLACES}, {_MAPS}, int64, float32[::1], float32[::1], boolean, int64, int64,"
        " int64)"
        for dtype in ("float32", "uint16")
    )
)
def render_rows(
    frames: npt.NDArray[Any], start: Integers, length: Integers, index: npt.NDArray[np.float64], matrices: Floats,
    source: Integers, stream: int, out: Floats, room: Floats, aligned: bool, T: int, first: int,
    stop: int,
) -> int:  # fmt: skip
    """Make the views of samples first..stop-1.

    Args:
        frames: (F * 150,) float32, or float16 seen as uint16.
        start, length: (N,), the windows in frames.
        index: (N, T), or (0, 0) for all frames in their order.
        matrices: (N, 1 or V, 3, 3), or (N, 0, 3, 3) for the identity.
        source: (N, V), or (N, 0) for each joint itself.
        stream: JOINT, BONE or MOTION.
        out: (N * T * 150,), the views.
        room: (ROOM,), zeros at first; each thread its own.
        aligned: `out` begins at a multiple of 64 bytes.
        T: frames of a view.

    Returns:
        -1, or the first sample whose window lies outside `frames` or whose source is no joint; it is not made.
    """
    x, stored, views = pointer(room), pointer(frames), pointer(out)
    maps, taken = matrices.shape[1], source.shape[1] > 0
    ahead = 1 if stream == MOTION else 0
    past = aligned and T % _CHUNK == 0
    direct = not taken and stream == JOINT
    sampled = _Y if taken or (stream == BONE and not maps) else _X
    for n in range(first, stop):
        begin, count = start[n], length[n]
        if not _within(frames, begin, count, source, n):
            return n
        persons = 2 if _has_second(stored, begin, begin + count) else 1
        if maps:
            _columns(pointer(matrices), n, maps, x)
        for t in range(0, T, _CHUNK):
            rows, to = min(_CHUNK, T - t), (n * T + t) * _FRAME
            for row in range(rows + ahead):
                frame = min(t + row, T - 1)
                place = index[n, frame] if len(index) else float(frame)
                if direct:
                    own = _OUT + row * _VALUES
                    _resample(stored, begin, count, place, T, persons, maps > 0, x, own, _APART, _WIDTH)
                else:
                    own = sampled + row * _ROW
                    _resample(stored, begin, count, place, T, persons, False, x, own, _PERSON, 16)
            if taken:
                _take_joints(x, rows + ahead, persons, pointer(source), _JOINTS * n)
            if stream == MOTION:
                _to_motion(x, rows, persons)
            elif stream == BONE:
                if maps:
                    _put(x, rows, persons, True, _Y, _ROW, _PERSON, 16)
                _to_bones(x, rows, persons)
            if not direct:
                _put(x, rows, persons, maps > 0 and stream != BONE, _OUT, _VALUES, _APART, _WIDTH)
            _flush(x, rows, persons, views, to, past)
    settle()
    return -1
