"""Hiding and pasting in flat views on the CPU, each in one pass that reads only what is seen in the end."""

from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.compiled import inlined, kernel
from pipelines.views.lanes import choose, load, pointer, settle, spread, store, store_past

LANES_SHA256 = "e6371f415708"
"""Of `lanes.py`: Numba keeps compiled code until this very file changes, so a change there has to change it too."""

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


@inlined
def _span(x: Any, out: Any, taken: int, at: int, count: int, shown: bool, past: bool) -> None:
    """Copy `count` entries from `taken` on to those from `at` on, or set these to zero."""
    stop, taken = at + count, taken - at
    while at < stop and at % 16:
        out[at] = x[taken + at] if shown else np.float32(0)
        at += 1
    zero = spread(np.float32(0))
    while at + 16 <= stop:
        lanes = load(x, taken + at) if shown else zero
        if past:
            store_past(out, at, lanes)
        else:
            store(out, at, lanes)
        at += 16
    while at < stop:
        out[at] = x[taken + at] if shown else np.float32(0)
        at += 1


_CHUNK = 8  # frames that are pasted into at a time; so many of 150 entries are whole cache lines
_FRAME = 150
_LAST = _FRAME - 16
ROOM = _CHUNK * _FRAME
"""Floats that a thread needs to paste, from a multiple of 64 bytes on."""

_READ = "Array({}, 1, 'C', readonly=True)".format
_TYPES = f"({_READ('float32')}, {_READ('uint8')}, int64, float32[::1], boolean, int64, int64, int64, int64)"


@kernel(f"int64{_TYPES}")
def hide_frames(
    x: Floats, shown: Bytes, on: int, out: Floats, aligned: bool, T: int, width: int, first: int, stop: int
) -> int:  # fmt: skip
    """Set frames of samples first..stop-1 to zero.

    Args:
        x: (N * T * width,).
        shown: (N * T,) or (T,), not zero for frames that stay.
        on: from a sample's first byte of `shown` to the next sample's: T, or 0 for the same.
        out: like x.
        aligned: `out` begins at a multiple of 64 bytes.
        T, width: frames of a view, and entries of a frame.

    Returns:
        -1.
    """
    source, to = pointer(x), pointer(out)
    for n in range(first, stop):
        start = 0
        for t in range(1, T + 1):
            if t == T or (shown[n * on + t] != 0) != (shown[n * on + start] != 0):
                begin, stays = (n * T + start) * width, shown[n * on + start] != 0
                _span(source, to, begin, begin, (t - start) * width, stays, aligned)
                start = t
    settle()
    return -1


@kernel(f"int64{_TYPES}")
def hide_entries(
    x: Floats, shown: Bytes, on: int, out: Floats, aligned: bool, T: int, width: int, first: int, stop: int
) -> int:  # fmt: skip
    """Set entries to zero: as `hide_frames`, but `shown` is (N * T * width,) or (T * width,), and `on` accordingly."""
    source, visible, to = pointer(x), pointer(shown), pointer(out)
    count = T * width
    whole = count // 16 * 16
    past = aligned and count == whole
    zero = spread(np.float32(0))
    for n in range(first, stop):
        for at in range(0, whole, 16):
            kept = choose(visible, n * on + at, load(source, n * count + at), zero)
            if past:
                store_past(to, n * count + at, kept)
            else:
                store(to, n * count + at, kept)
        for at in range(whole, count):
            out[n * count + at] = x[n * count + at] if shown[n * on + at] else np.float32(0)
    settle()
    return -1


@kernel(
    f"int64({_READ('float32')}, {_READ('int64')}, {_READ('int64')}, {_READ('uint8')}, int64, float32[::1],"
    " float32[::1], boolean, int64, int64, int64)"
)
def paste_rows(
    x: Floats, rows: Integers, frames: Integers, shown: Bytes, on: int, out: Floats, room: Floats, aligned: bool,
    T: int, first: int, stop: int,
) -> int:  # fmt: skip
    """Paste entries of partners into samples first..stop-1.

    Args:
        x: (rows * T * 150,), samples and partners.
        rows: (N,), where each sample's partner stands in x; sample n stands at n.
        frames: (N * T,) or (T,), the partner's frame of which entries are pasted, or -1.
        shown: (N * 150,) or (150,), not zero for entries that are pasted.
        on: 1 where each sample has its own `frames` and `shown`, 0 where they serve all.
        out: (N * T * 150,).
        room: (ROOM,); each thread its own.
        aligned: `out` begins at a multiple of 64 bytes.
        T: frames of a view.

    Returns:
        -1.
    """
    source, entries, buffer, to = pointer(x), pointer(shown), pointer(room), pointer(out)
    past = aligned and T % _CHUNK == 0
    for n in range(first, stop):
        for t in range(0, T, _CHUNK):
            count = min(_CHUNK, T - t) * _FRAME
            begin = (n * T + t) * _FRAME
            for row in range(count // _FRAME):
                own, at = begin + row * _FRAME, row * _FRAME
                taken = frames[on * n * T + t + row]
                if taken < 0:
                    for number in range(10):
                        place = min(16 * number, _LAST)
                        store(buffer, at + place, load(source, own + place))
                else:
                    other, pasted = (rows[n] * T + taken) * _FRAME, on * n * _FRAME
                    for number in range(10):
                        place = min(16 * number, _LAST)
                        lanes, others = load(source, other + place), load(source, own + place)
                        store(buffer, at + place, choose(entries, pasted + place, lanes, others))
            _span(buffer, to, 0, begin, count, True, past)
    settle()
    return -1
