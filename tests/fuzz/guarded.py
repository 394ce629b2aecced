"""Memory that ends where a text ends: a read beyond it is a segmentation fault, not luck."""

import ctypes
import mmap
import sys

import numpy as np
import numpy.typing as npt

_PAGE = mmap.PAGESIZE
_CAPACITY = 1 << 18
_FORBIDDEN = 0  # PROT_NONE

Bytes = npt.NDArray[np.uint8]


def _fenced() -> Bytes:
    """Pages between two that nobody may touch."""
    size = _CAPACITY + 2 * _PAGE
    memory = np.frombuffer(mmap.mmap(-1, size), np.uint8)
    if sys.platform == "linux":
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        for start in (memory.ctypes.data, memory.ctypes.data + size - _PAGE):
            assert protect(start, _PAGE, _FORBIDDEN) == 0, ctypes.get_errno()
    return memory[_PAGE:-_PAGE]


_MEMORY = _fenced()


def guarded(data: bytes, front: bool) -> Bytes:
    """A read-only copy, its first (`front`) or last byte beside forbidden memory; overwrites the copy before it."""
    place = _MEMORY[: len(data)] if front else _MEMORY[_CAPACITY - len(data) :]
    place[:] = np.frombuffer(data, np.uint8)
    place = place.view()
    place.flags.writeable = False
    return place
