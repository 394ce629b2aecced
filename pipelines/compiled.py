"""The one way to Numba: functions compiled to machine code that run without the interpreter lock.

Import this, and modules that use it, inside functions only: Numba takes 0.3 s to import.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

_njit: Any = numba.njit  # its stubs know neither lists of signatures nor options as a dictionary

# No fast-math anywhere: every value has the bits that plain IEEE arithmetic gives on any machine; but views, whose
# kernels ask for multiply-adds by name (views/lanes.py).
_OPTIONS = {"nogil": True, "error_model": "numpy"}


def kernel(*signatures: str) -> Callable[[Kernel], Kernel]:
    """Compile for exactly these types at import, so that the first calls of several threads meet finished code.

    Compiled code is kept beside the source, or in the user's cache folder; where neither can be written, compilation is
    repeated by every process. Helpers belong into the file of their kernel: only its own file's changes make the kept
    code stale.
    """

    def compiled(function: Kernel) -> Kernel:
        try:
            return cast(Kernel, _njit(list(signatures), cache=True, **_OPTIONS)(function))
        except RuntimeError as error:  # Numba's "cannot cache function: no locator available"
            if "cache" not in str(error):
                raise
            return cast(Kernel, _njit(list(signatures), **_OPTIONS)(function))

    return compiled


def helper(function: Kernel) -> Kernel:
    """Make a function callable from kernels; compiled into each of them."""
    return cast(Kernel, _njit(**_OPTIONS)(function))


def inlined(function: Kernel) -> Kernel:
    """The same for what is called a million times a second: its code goes wherever it is called."""
    return cast(Kernel, _njit(forceinline=True, **_OPTIONS)(function))
