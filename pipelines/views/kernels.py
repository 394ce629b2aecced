"""The folded part of a view on the CPU, one sample after the other: resampling, a map of each joint, the stream.

A few frames at a time go through the steps in a buffer that stays in the first-level cache, each person by itself with
its 75 values side by side; the last step writes both persons into the view in the order of the encoders.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.compiled import inlined, kernel
from pipelines.views.lanes import (
    add,
    any_bit,
    load,
    multiply,
    pointer,
    settle,
    spread,
    store,
    store_pairs,
    store_past,
    subtract,
)
from shards.skeleton import PARENTS

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

JOINT, BONE, MOTION = 0, 1, 2

_JOINTS = 25
_VALUES = 75  # of one person: 25 joints x 3
_FRAME = 150
_LAST = 59  # five blocks of 16 lanes cover 75 values; the last one overlaps the fourth
_BEFORE = 16  # before a person in a buffer, of which a map reads the last two and multiplies them by zero
_PERSON = 112  # room of a person: 16, the 75 values, and some behind; whole cache lines
_ROW = 2 * _PERSON
_CHUNK = 8  # frames in a buffer: 7 kB; so many frames of a view are whole cache lines
# The room: two buffers, x and y, of which x has a frame more than a chunk for motion; frames of the view, and the bands
# of a map.
_X, _Y = 0, (_CHUNK + 1) * _ROW
_OUT = 2 * _Y
_BANDS = _OUT + _CHUNK * _FRAME
ROOM = _BANDS + 5 * _VALUES
"""Floats that a thread needs beside the views, from a multiple of 64 bytes on."""

_PARENTS = np.array(PARENTS)


@inlined
def _block(number: int) -> int:
    """First value of a block of lanes."""
    return min(16 * number, _LAST)


@inlined
def _has_second(frames: Any, start: int, stop: int) -> bool:
    """Whether the second person is anything but zeros."""
    for frame in range(start, stop):
        at = frame * _FRAME + _VALUES
        for number in range(5):
            if any_bit(frames, at + _block(number)):
                return True
    return False


@inlined
def _resample(
    frames: Any, start: int, length: int, place: float, T: int, persons: int, room: Any, to: int
) -> None:  # fmt: skip
    """The frame at `place` of the view, which `temporal.sampling` locates in the sample, into a row of a buffer."""
    position = (place + 0.5) * (length / T) - 0.5
    last = length - 1
    if not position > 0:
        position = 0.0
    lower = last if position >= last else int(position)
    share = np.float32(position - lower)
    to += _BEFORE
    for person in range(persons):
        before, own = (start + lower) * _FRAME + person * _VALUES, to + person * _PERSON
        if share == 0 or lower == last:  # most crops of PCM3++ keep as many frames as a view has
            for number in range(5):
                store(room, own + _block(number), load(frames, before + _block(number)))
        else:
            weight = spread(share)
            for number in range(5):
                a = load(frames, before + _block(number))
                b = load(frames, before + _FRAME + _block(number))
                store(room, own + _block(number), add(a, multiply(weight, subtract(b, a))))


@inlined
def _bands(matrices: Any, n: int, count: int, room: Any) -> None:
    """The maps as five bands: y[i] = sum over s of bands[s, i] * x[i + s - 2], for the 75 values of a person."""
    for i in range(5 * _VALUES):
        room[_BANDS + i] = 0
    for joint in range(_JOINTS):
        matrix = (n * count + min(joint, count - 1)) * 9
        for row in range(3):
            for column in range(3):
                room[_BANDS + (column - row + 2) * _VALUES + 3 * joint + row] = matrices[matrix + 3 * row + column]


@inlined
def _band(room: Any, number: int, at: int) -> Any:
    return load(room, _BANDS + number * _VALUES + at)


@inlined
def _mapped(room: Any, at: int, b0: Any, b1: Any, b2: Any, b3: Any, b4: Any) -> Any:
    outer = add(multiply(b0, load(room, at - 2)), multiply(b4, load(room, at + 2)))
    inner = add(multiply(b1, load(room, at - 1)), multiply(b3, load(room, at + 1)))
    return add(multiply(b2, load(room, at)), add(inner, outer))


@inlined
def _map(room: Any, rows: int, persons: int) -> None:
    """y = map of x."""
    for number in range(5):
        at = _block(number)
        b0, b1, b2 = _band(room, 0, at), _band(room, 1, at), _band(room, 2, at)
        b3, b4 = _band(room, 3, at), _band(room, 4, at)
        for row in range(rows):
            for person in range(persons):
                place = row * _ROW + person * _PERSON + _BEFORE + at
                store(room, _Y + place, _mapped(room, _X + place, b0, b1, b2, b3, b4))


@inlined
def _map_out(room: Any, rows: int, persons: int) -> None:
    """The map of x as frames of the view."""
    zero = spread(np.float32(0))
    for number in range(5):
        at = _block(number)
        b0, b1, b2 = _band(room, 0, at), _band(room, 1, at), _band(room, 2, at)
        b3, b4 = _band(room, 3, at), _band(room, 4, at)
        if persons == 1:
            for row in range(rows):
                first = _mapped(room, _X + row * _ROW + _BEFORE + at, b0, b1, b2, b3, b4)
                store_pairs(room, _OUT + row * _FRAME + 2 * at, first, zero)
        else:
            for row in range(rows):
                place = _X + row * _ROW + _BEFORE + at
                first = _mapped(room, place, b0, b1, b2, b3, b4)
                second = _mapped(room, place + _PERSON, b0, b1, b2, b3, b4)
                store_pairs(room, _OUT + row * _FRAME + 2 * at, first, second)


@inlined
def _put_out(room: Any, rows: int, persons: int) -> None:
    """x as frames of the view."""
    zero = spread(np.float32(0))
    for row in range(rows):
        for number in range(5):
            at = _block(number)
            place = _X + row * _ROW + _BEFORE + at
            second = load(room, place + _PERSON) if persons == 2 else zero
            store_pairs(room, _OUT + row * _FRAME + 2 * at, load(room, place), second)


@inlined
def _flush(room: Any, rows: int, out: Any, to: int, past: bool) -> None:
    """The frames into the view; past the caches, which would first read from memory what is overwritten."""
    count = rows * _FRAME
    whole = count // 16 * 16
    if past:
        for at in range(0, whole, 16):
            store_past(out, to + at, load(room, _OUT + at))
    else:
        for at in range(0, whole, 16):
            store(out, to + at, load(room, _OUT + at))
    for at in range(whole, count):
        out[to + at] = room[_OUT + at]


@inlined
def _take_joints(room: Any, rows: int, persons: int, joints: Any, first: int) -> None:
    """x[v] = y[joints[first + v]]."""
    for row in range(rows):
        for person in range(persons):
            place = row * _ROW + person * _PERSON + _BEFORE
            for joint in range(_JOINTS):
                own, other = place + 3 * joint, place + 3 * joints[first + joint]
                for c in range(3):
                    room[_X + own + c] = room[_Y + other + c]


@inlined
def _to_bones(room: Any, rows: int, persons: int) -> None:
    """x[v] = y[v] - y[parent of v]."""
    _take_joints(room, rows, persons, pointer(_PARENTS), 0)
    for row in range(rows):
        for person in range(persons):
            for number in range(5):  # not by `_block`: no value may be taken twice
                at = row * _ROW + person * _PERSON + _BEFORE + 16 * number
                store(room, _X + at, subtract(load(room, _Y + at), load(room, _X + at)))


@inlined
def _to_motion(room: Any, rows: int, persons: int) -> None:
    """x[t] = x[t+1] - x[t]."""
    for row in range(rows):
        for person in range(persons):
            for number in range(5):
                at = _X + row * _ROW + person * _PERSON + _BEFORE + 16 * number
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
    sampled = _Y if taken or (stream == BONE and not maps) else _X
    for n in range(first, stop):
        begin, count = start[n], length[n]
        if not _within(frames, begin, count, source, n):
            return n
        persons = 2 if _has_second(stored, begin, begin + count) else 1
        if maps:
            _bands(pointer(matrices), n, maps, x)
        for t in range(0, T, _CHUNK):
            rows, to = min(_CHUNK, T - t), (n * T + t) * _FRAME
            for row in range(rows + ahead):
                frame = min(t + row, T - 1)
                place = index[n, frame] if len(index) else float(frame)
                _resample(stored, begin, count, place, T, persons, x, sampled + row * _ROW)
            if taken:
                _take_joints(x, rows + ahead, persons, pointer(source), _JOINTS * n)
            if stream == MOTION:
                _to_motion(x, rows, persons)
            elif stream == BONE:
                if maps:
                    _map(x, rows, persons)
                _to_bones(x, rows, persons)
            if maps and stream != BONE:
                _map_out(x, rows, persons)
            else:
                _put_out(x, rows, persons)
            _flush(x, rows, views, to, past)
    settle()
    return -1
