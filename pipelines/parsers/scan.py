"""Compiled readers of canonical text: the common case of the text formats at gigabytes a second.

They accept less than the parsers in plain Python do, and decide nothing: what is not canonical (other blanks than one
space, a number that may need more than one rounding, a wrong count, any fault) is handed back, and the plain parser
reads it or names the fault with its line. What they do accept has the same bits.

A number is exact here when its digits make an integer below 2**53 and its power of ten is within 10**-22..10**22: both
are float64 values then, and one correctly rounded division or multiplication gives what `float(token)` gives.

Every load is bounded by hand, for they are raw loads: `_block` moves its 64 bytes to the front of where the text ends
(`size` >= 64), `_byte` is called with 0 <= at < size only, `_word` with 8 <= at <= size only.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir

from pipelines.compiled import helper, inlined, kernel

types: Any = numba.types

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_JOINTS, _COORDINATES, _PERSONS = 25, 3, 2
_HEADER_BLANKS, _JOINT_BLANKS = 9, 11
# The shortest body: header, "25" and joint lines of one-digit fields, each with LF; the last line may lack it.
_BODY_BYTES = 20 + 3 + _JOINTS * 24 - 1
_ROW_FIELDS = _PERSONS * _JOINTS * _COORDINATES

_BLANK, _MINUS, _PLUS, _POINT, _ZERO = (ord(c) for c in " -+.0")
_RETURN, _NEWLINE, _SMALL_E = ord("\r"), ord("\n"), ord("e")
_CASE_BIT = 0x20

_WIDTH = 64
_MAX_DIGITS = 18
_MAX_COUNT_DIGITS = 19
_EXACT_INTEGER = 2**53
_EXACT_POWER = 22
_POWERS = np.array([10.0**n for n in range(_EXACT_POWER + 1)])

_NO_EXPONENT = 1 << 20
_INTEGERS = np.array([10**n for n in range(9)])
_MAX_INT64 = np.uint64(2**63 - 1)

# Arithmetic on eight bytes at once, each holding a digit, the first digit lowest.
_NONE = np.uint64(0)
_ZEROS = np.uint64(0x3030303030303030)
_SEVENTH_BIT_ABOVE_9 = np.uint64(0x7676767676767676)
_HIGH_BITS = np.uint64(0x8080808080808080)
_PAIRS = np.uint64(0x000000FF000000FF)
_TO_UPPER_HALF = np.uint64(100 + (1_000_000 << 32))
_TO_LOWER_HALF = np.uint64(1 + (10_000 << 32))


def _emit_block(_context: Any, base: Any, at: Any, size: Any, end_byte: Any) -> Any:
    """Look at the up to 64 bytes from `at` (0 <= at < size, size >= 64).

    Returns three masks, one bit a byte and 0 beyond the text: bytes equal to `end_byte`, blanks, and bytes that are
    neither of them nor one of `0123456789-.eE`.
    """

    def emit(_target: Any, builder: Any, _signature: Any, values: Any) -> Any:
        base, at, size, end_byte = values
        vector, i64 = ir.VectorType(ir.IntType(8), _WIDTH), ir.IntType(64)
        last = builder.sub(size, i64(_WIDTH))
        start = builder.select(builder.icmp_signed("<", at, last), at, last)
        place = builder.inttoptr(builder.add(base, start), vector.as_pointer())
        text = builder.load(place, align=1)

        def all_of(byte: int) -> Any:
            return ir.Constant(vector, [byte] * _WIDTH)

        def equal(found: Any, wanted: Any) -> Any:
            return builder.icmp_unsigned("==", found, wanted)

        one = builder.insert_element(ir.Constant(vector, ir.Undefined), end_byte, ir.IntType(32)(0))
        ends = ir.Constant(ir.VectorType(ir.IntType(32), _WIDTH), [0] * _WIDTH)
        end = equal(text, builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), ends))
        blank = equal(text, all_of(_BLANK))
        # "-./0123456789" without "/".
        plain = builder.icmp_unsigned("<=", builder.sub(text, all_of(_MINUS)), all_of(ord("9") - _MINUS))
        plain = builder.and_(plain, builder.icmp_unsigned("!=", text, all_of(ord("/"))))
        plain = builder.or_(plain, equal(builder.or_(text, all_of(_CASE_BIT)), all_of(_SMALL_E)))
        other = builder.not_(builder.or_(plain, builder.or_(end, blank)))
        shift = builder.sub(at, start)
        masks = [builder.lshr(builder.bitcast(lanes, i64), shift) for lanes in (end, blank, other)]
        return _packed(builder, masks)

    return types.UniTuple(types.int64, 3)(types.uintp, types.int64, types.int64, types.uint8), emit


def _packed(builder: Any, values: Any) -> Any:
    packed = ir.Constant(ir.ArrayType(ir.IntType(64), len(values)), ir.Undefined)
    for i, value in enumerate(values):
        packed = builder.insert_value(packed, value, i)
    return packed


def _emit_byte(_context: Any, base: Any, at: Any) -> Any:
    """The byte at `at` as int64; 0 <= at < size."""

    def emit(_target: Any, builder: Any, _signature: Any, values: Any) -> Any:
        place = builder.inttoptr(builder.add(*values), ir.IntType(8).as_pointer())
        return builder.zext(builder.load(place), ir.IntType(64))

    return types.int64(types.uintp, types.int64), emit


def _emit_word(_context: Any, base: Any, end: Any) -> Any:
    """The 8 bytes before `end`, the last one the highest; 8 <= end <= size."""

    def emit(_target: Any, builder: Any, _signature: Any, values: Any) -> Any:
        base, end = values
        start = builder.sub(builder.add(base, end), ir.IntType(64)(8))
        return builder.load(builder.inttoptr(start, ir.IntType(64).as_pointer()), align=1)

    return types.uint64(types.uintp, types.int64), emit


def _emit_count_ones(_context: Any, mask: Any) -> Any:
    return types.int64(types.int64), lambda _target, builder, _signature, values: builder.ctpop(values[0])


def _emit_first_one(_context: Any, mask: Any) -> Any:
    """Index of the lowest bit that is set; 64 if there is none."""

    def emit(_target: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return builder.cttz(values[0], ir.IntType(1)(0))

    return types.int64(types.int64), emit


_intrinsic: Any = numba.extending.intrinsic
_block: Callable[[int, int, int, int], tuple[int, int, int]] = _intrinsic(_emit_block)
_byte: Callable[[int, int], int] = _intrinsic(_emit_byte)
_word: Callable[[int, int], np.uint64] = _intrinsic(_emit_word)
_count_ones: Callable[[int], int] = _intrinsic(_emit_count_ones)
_first_one: Callable[[int], int] = _intrinsic(_emit_first_one)


@inlined
def _number(base: int, start: int, end: int) -> float:
    """The number in [start, end), start < end, as `float` reads it; NaN if it is not one or not exact here.

    The form d.dddddddd, with up to 8 digits behind the point, is read in one go; `_any_number` takes the rest.
    """
    if end - start < 3 or end < 8:
        return _any_number(base, start, end)
    negative = _byte(base, start) == _MINUS
    point = start + 1 + negative
    digits = end - point - 1
    if not 1 <= digits <= 8:
        return _any_number(base, start, end)
    first = _byte(base, point - 1) - _ZERO
    unused = np.uint64(64 - 8 * digits)
    # Each byte becomes the value of its digit; what is in front of them becomes 0.
    fraction = ((_word(base, end) ^ _ZEROS) >> unused) << unused
    stray = (fraction | (fraction + _SEVENTH_BIT_ABOVE_9)) & _HIGH_BITS
    if stray != _NONE or _byte(base, point) != _POINT or not 0 <= first <= 9:
        return _any_number(base, start, end)
    fraction = fraction * np.uint64(10) + (fraction >> np.uint64(8))
    pairs = (fraction & _PAIRS) * _TO_UPPER_HALF
    others = ((fraction >> np.uint64(16)) & _PAIRS) * _TO_LOWER_HALF
    mantissa = np.int64((pairs + others) >> np.uint64(32))
    value = (first * _INTEGERS[digits] + mantissa) / _POWERS[digits]
    return float(-value if negative else value)


@helper
def _any_number(base: int, start: int, end: int) -> float:
    """The same for every form: sign, digits with or without a point, exponent; one byte at a time."""
    at, negative = start, False
    if at < end and _byte(base, at) in (_MINUS, _PLUS):
        negative = _byte(base, at) == _MINUS
        at += 1
    mantissa = digits = behind = 0
    seen_point = False
    while at < end:
        byte = _byte(base, at)
        if 0 <= byte - _ZERO <= 9:
            mantissa = mantissa * 10 + (byte - _ZERO)
            digits += 1
            behind += seen_point
            if digits > _MAX_DIGITS:
                return np.nan
        elif byte == _POINT and not seen_point:
            seen_point = True
        else:
            break
        at += 1
    power = 0
    if at < end:
        power = _exponent(base, at, end)
    power -= behind
    if digits == 0 or mantissa >= _EXACT_INTEGER or not -_EXACT_POWER <= power <= _EXACT_POWER:
        return np.nan
    value = mantissa / _POWERS[-power] if power < 0 else mantissa * _POWERS[power]
    return float(-value if negative else value)


@helper
def _exponent(base: int, start: int, end: int) -> int:
    """What "E-05" in [start, end) says, start < end; a huge value if it is not of that form with at most 3 digits."""
    at, negative = start + 1, False
    if _byte(base, start) | _CASE_BIT != _SMALL_E:
        return _NO_EXPONENT
    if at < end and _byte(base, at) in (_MINUS, _PLUS):
        negative = _byte(base, at) == _MINUS
        at += 1
    if not 1 <= end - at <= 3:
        return _NO_EXPONENT
    value = 0
    while at < end:
        digit = _byte(base, at) - _ZERO
        if not 0 <= digit <= 9:
            return _NO_EXPONENT
        value = value * 10 + digit
        at += 1
    return -value if negative else value


@helper
def _count(base: int, start: int, end: int) -> int:
    """The digits in [start, end) as an integer from 0 to 2**63 - 1; -1 if they are none."""
    if not 1 <= end - start <= _MAX_COUNT_DIGITS:
        return -1
    value = np.uint64(0)
    for at in range(start, end):
        digit = _byte(base, at) - _ZERO
        if not 0 <= digit <= 9:
            return -1
        value = value * np.uint64(10) + np.uint64(digit)  # 19 digits stay below 2**64
    return int(np.int64(value)) if value <= _MAX_INT64 else -1


@helper
def _line(base: int, start: int, size: int, end_byte: int) -> tuple[int, int, int]:
    """Find the end of the line from `start` < size, and check that its fields are plain and divided by single blanks.

    Returns:
        Where it ends (`size` if nothing ends it), the number of blanks, -1 where the line is not canonical, and a mask
        of the blanks among its first 64 bytes.
    """
    at, blanks, bad, first, after_blank = start, 0, 0, 0, 1
    while at < size:
        end, blank, other = _block(base, at, size, end_byte)
        before = (end & -end) - 1  # all bits if the line goes on
        blank &= before
        bad |= (other & before) | (blank & ((blank << 1) | after_blank))
        blanks += _count_ones(blank)
        if at == start:
            first = blank
        if end != 0:
            at += _first_one(end)
            break
        after_blank = 1 if blank < 0 else 0  # the highest bit is the sign
        at += _WIDTH
    at = min(at, size)
    if bad != 0 or at == start or _byte(base, at - 1) == _BLANK:
        return at, -1, first
    return at, blanks, first


@helper
def _next_line(base: int, end: int, size: int, end_byte: int) -> int:
    """Where the line after one that ends at `end` starts; -1 if a return has no newline behind it."""
    if end == size or end_byte == _NEWLINE:
        return min(end + 1, size)
    return end + 2 if end + 1 < size and _byte(base, end + 1) == _NEWLINE else -1


@helper
def _count_line(base: int, start: int, size: int, end_byte: int) -> tuple[int, int]:
    """A line that is one count: its value, and where the next one starts; -1 where it is not canonical."""
    if not 0 <= start < size:
        return -1, -1
    end, _, _ = _line(base, start, size, end_byte)
    return _count(base, start, end), _next_line(base, end, size, end_byte)


@inlined
def _joint_line(base: int, start: int, size: int, end_byte: int) -> tuple[int, float, float, float]:
    """A line of 12 fields: where the next one starts (-1 if this is not canonical), and the first three."""
    if not 0 <= start < size:
        return -1, 0.0, 0.0, 0.0
    end, blanks, x_mask = _line(base, start, size, end_byte)
    y_mask = x_mask & (x_mask - 1)
    z_mask = y_mask & (y_mask - 1)
    if blanks != _JOINT_BLANKS or z_mask == 0:
        return -1, 0.0, 0.0, 0.0
    x_end, y_end, z_end = start + _first_one(x_mask), start + _first_one(y_mask), start + _first_one(z_mask)
    x, y, z = _number(base, start, x_end), _number(base, x_end + 1, y_end), _number(base, y_end + 1, z_end)
    return _next_line(base, end, size, end_byte), x, y, z


@helper
def _header(base: int, start: int, size: int, end_byte: int) -> tuple[int, int]:
    """The lines of a body above its joints: its id and where the joints start; -1 where they are not canonical."""
    if not 0 <= start < size:
        return -1, -1
    end, blanks, first = _line(base, start, size, end_byte)
    if blanks != _HEADER_BLANKS or first == 0:
        return -1, -1
    body_id = _count(base, start, start + _first_one(first))
    joints, at = _count_line(base, _next_line(base, end, size, end_byte), size, end_byte)
    return body_id, at if joints == _JOINTS else -1


@helper
def _end_byte(base: int, size: int) -> int:
    """What ends the first line, and so must end all: a newline, or the return in front of it."""
    for at in range(size):
        byte = _byte(base, at)
        if byte in (_NEWLINE, _RETURN):
            return byte
    return _NEWLINE


@helper
def _bodies(base: int, size: int, at: int, num_bodies: Integers, ids: Integers, joints: Floats) -> int:
    """Read all frames from `at`; the number of bodies, -1 if the text is not canonical."""
    end_byte, total = _end_byte(base, size), 0
    for frame in range(len(num_bodies)):
        count, at = _count_line(base, at, size, end_byte)
        num_bodies[frame] = count
        for _ in range(count):
            body_id, at = _header(base, at, size, end_byte)
            if body_id < 0 or at < 0 or total == len(ids):
                return -1
            ids[total] = body_id
            unread = 0.0
            for joint in range(_JOINTS):
                at, x, y, z = _joint_line(base, at, size, end_byte)
                joints[total, joint, 0], joints[total, joint, 1], joints[total, joint, 2] = x, y, z
                unread += x + y + z  # NaN if one is
            if at < 0 or np.isnan(unread):
                return -1
            total += 1
        if count < 0 or at < 0:
            return -1
    return total if at == size else -1


@kernel("Tuple((boolean, float64[:,:,:,::1], int64[::1], int64[:,::1]))(Array(uint8, 1, 'C', readonly=True), int64)")
def ntu(data: Bytes, max_slots: int) -> tuple[bool, Floats, Integers, Integers]:
    """Read a canonical `.skeleton` text of at least 64 bytes.

    Args:
        max_slots: a text with more frames times bodies of the fullest frame is handed back.

    Returns:
        Whether it is canonical; if not, the rest means nothing. Frames (T, S, 25, 3), bodies of each frame (T,) and
        ids (T, S), as in `RawSequence`.
    """
    base, size = data.ctypes.data, data.size
    num_frames, at = _count_line(base, 0, size, _end_byte(base, size))
    # What the bytes can hold bounds what is allocated, whatever their counts promise: 2 bytes a frame at least.
    held = 0 <= num_frames <= size // 2 and at > 0
    num_bodies = np.zeros(num_frames if held else 0, np.int64)
    capacity = size // _BODY_BYTES
    ids, joints = np.empty(capacity, np.int64), np.empty((capacity, _JOINTS, _COORDINATES))
    total = _bodies(base, size, at, num_bodies, ids, joints) if held else -1
    slots = max(1, num_bodies.max()) if total > 0 else 1
    canonical = total >= 0 and len(num_bodies) * slots <= max_slots
    shape = (len(num_bodies), slots) if canonical else (0, 1)
    frames, frame_ids = np.zeros((*shape, _JOINTS, _COORDINATES)), np.zeros(shape, np.int64)
    first = 0
    for frame in range(shape[0]):
        for slot in range(num_bodies[frame]):
            frame_ids[frame, slot] = ids[first + slot]
            for joint in range(_JOINTS):  # as one assignment of arrays it takes 2 s longer to compile, of 4
                for axis in range(_COORDINATES):
                    frames[frame, slot, joint, axis] = joints[first + slot, joint, axis]
        first += num_bodies[frame]
    return canonical, frames, num_bodies, frame_ids


@helper
def _rows(base: int, size: int, rows: Floats) -> bool:
    """Read lines of 150 numbers, with or without one blank in front, into `rows` (T, 150); whether that is the text."""
    end_byte, start, block, ends = _end_byte(base, size), 0, -_WIDTH, 0
    for row in range(len(rows)):
        line_start, field, end, unread = start, 0, 0, 0.0
        while field < _ROW_FIELDS:
            while ends == 0 and block + _WIDTH < size:
                block += _WIDTH
                line_ends, blanks, _ = _block(base, block, size, end_byte)
                ends = line_ends | blanks
            end = block + _first_one(ends) if ends != 0 else size
            ends &= ends - 1
            if end <= start:  # a blank where a number should start
                if start != line_start or end >= size or _byte(base, end) != _BLANK:
                    return False
            else:
                if end < size and _byte(base, end) != (_BLANK if field < _ROW_FIELDS - 1 else end_byte):
                    return False
                rows[row, field] = value = _number(base, start, end)
                unread += value  # NaN if one is
                field += 1
            start = end + 1
        start = _next_line(base, end, size, end_byte)
        if start < 0 or np.isnan(unread):
            return False
    return start == size


@kernel("Tuple((boolean, float64[:,::1], int64[::1]))(Array(uint8, 1, 'C', readonly=True), int64)")
def pkummd(data: Bytes, num_lines: int) -> tuple[bool, Floats, Integers]:
    """Read a canonical PKU-MMD skeleton text of at least 64 bytes.

    Args:
        num_lines: how many there are; a wrong number makes the text not canonical.

    Returns:
        Whether it is canonical; if not, the rest means nothing. Frames (T, 150), and in how many of the two slots any
        number is not 0 (T,).
    """
    # 150 numbers of one digit with what divides them; the last line may lack its end.
    held = 0 < num_lines <= (data.size + 1) // (2 * _ROW_FIELDS)
    rows = np.empty((num_lines if held else 0, _ROW_FIELDS))
    num_bodies = np.zeros(len(rows), np.int64)
    canonical = held and _rows(data.ctypes.data, data.size, rows)
    half = _ROW_FIELDS // _PERSONS
    for row in range(len(rows) if canonical else 0):
        for person in range(_PERSONS):
            filled = False
            for value in rows[row, person * half : (person + 1) * half]:
                filled |= value != 0.0
            num_bodies[row] += filled
    return canonical, rows, num_bodies
