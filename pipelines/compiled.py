"""The one way to Numba: functions compiled to machine code that run without the interpreter lock.

Import this, and modules that use it, inside functions only: Numba takes 0.3 s to import.

Compiled code is kept in the first of these folders that can be written: the one that NUMBA_CACHE_DIR names,
`__pycache__` beside the source, `~/.cache/skelstream/compiled`. Where there is none, or no room, every process compiles
again, and says so. What is damaged, or of another source or Numba, is compiled anew.
"""

import hashlib
import inspect
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core import caching, compiler

from shards.errors import describe_refusal
from shards.progress import tell

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

# its own types tell little of it
_njit: Any = numba.njit
_config: Any = numba.config
_IndexDataCacheFile: Any = caching.IndexDataCacheFile
_CompileResult: Any = compiler.CompileResult

# No fast-math anywhere: every value has the bits that plain IEEE arithmetic gives on any machine; but views, whose
# kernels ask for multiply-adds by name (views/lanes.py).
# Nobody calls a kernel from C, nor a helper from Python: without what these calls need, compilation takes 15 % less.
_OPTIONS = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
_WITHIN = _OPTIONS | {"no_cpython_wrapper": True}

_SECONDS = 2.0
"""Of compilation, after which it is told."""

_DIGEST = hashlib.sha256().digest_size


def kernel(*signatures: str) -> Callable[[Kernel], Kernel]:
    """Compile for exactly these types at import, so that the first calls of several threads meet finished code.

    Helpers belong into the file of their kernel: only its own file's changes make the kept code stale.
    """

    def compiled(function: Kernel) -> Kernel:
        dispatcher = _njit(**_OPTIONS)(function)
        dispatcher._cache = _KeptCode(function)
        for signature in signatures:
            dispatcher.compile(signature)
        dispatcher.disable_compile()
        return dispatcher  # type: ignore[no-any-return]  # it is called as the function

    return compiled


def helper(function: Kernel) -> Kernel:
    """Make a function callable from kernels; compiled into each of them."""
    return _njit(**_WITHIN)(function)  # type: ignore[no-any-return]  # it is called as the function


def inlined(function: Kernel) -> Kernel:
    """The same for what is called a million times a second: its code goes wherever it is called."""
    return _njit(forceinline=True, **_WITHIN)(function)  # type: ignore[no-any-return]  # it is called as the function


class _KeptCode(caching.NullCache):
    """What Numba asks for a kernel's code before it compiles, and gives it to afterwards.

    Numba's own ends in a traceback where a folder is full or a file is damaged, and never mends it.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        source = Path(inspect.getfile(function))
        name = f"{function.__module__}.{function.__qualname__}.{sys.implementation.cache_tag}"
        stamp = hashlib.sha256(source.read_bytes()).hexdigest()
        self._folders = _find_folders(source)
        self._files = [_Files(str(folder), name, stamp) for folder in self._folders]

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        target_context.refresh()
        for files in self._files:
            try:
                kept = files.load((sig, target_context.codegen().magic_tuple()))
                if kept is not None:
                    return _CompileResult._rebuild(target_context, *kept)
            except Exception:  # noqa: BLE001  # whatever is wrong with it, it is compiled anew
                continue
        _patience.begin()
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        _patience.end()
        try:
            self._folders[-1].mkdir(parents=True, exist_ok=True)
            self._files[-1].save((sig, data.codegen.magic_tuple()), data._reduce())
        except OSError as error:
            _patience.tell_unkept(self._folders[-1], error)


class _Files(_IndexDataCacheFile):  # type: ignore[misc]
    """Numba's files of one function, each with its SHA-256 at the end: damaged machine code would end the process."""

    def _load_index(self) -> Any:
        return super()._load_index() if _is_whole(self._index_path) else {}

    def _load_data(self, name: str) -> Any:
        if not _is_whole(self._data_path(name)):
            raise OSError("damaged")  # which Numba takes for a file that is not there
        return super()._load_data(name)

    @contextmanager
    def _open_for_write(self, filepath: str) -> Iterator[io.BytesIO]:
        content = io.BytesIO()
        with super()._open_for_write(filepath) as file:
            yield content
            file.write(content.getvalue() + hashlib.sha256(content.getvalue()).digest())


def _is_whole(path: str) -> bool:
    try:
        content = Path(path).read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-_DIGEST]).digest() == content[-_DIGEST:]


def _find_folders(source: Path) -> list[Path]:
    """Where code of a source file may be kept, up to the first folder that can be written, which is the last."""
    of_source = f"{source.parent.name}-{hashlib.sha256(str(source.parent).encode()).hexdigest()[:12]}"
    folders = [source.parent / "__pycache__"]
    if _config.CACHE_DIR:
        folders.insert(0, Path(_config.CACHE_DIR) / of_source)
    with suppress(RuntimeError):  # a user without a home
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folders.append(caches / "skelstream" / "compiled" / of_source)
    writable = (number for number, folder in enumerate(folders, 1) if _is_writable(folder))
    return folders[: next(writable, None)]


def _is_writable(folder: Path) -> bool:
    """Whether files may be made in a folder, which need not be there yet. Whether there is room, writing tells."""
    there = next((place for place in (folder, *folder.parents) if os.access(place, os.F_OK)), None)
    return there is not None and there.is_dir() and os.access(there, os.W_OK | os.X_OK)


class _Patience:
    """Tells the user, once each, that compilation takes a while, and that its result cannot be kept."""

    def __init__(self) -> None:
        self._spent = self._begun = 0.0
        self._timer: threading.Timer | None = None
        self._has_told = self._has_told_unkept = False

    def begin(self) -> None:
        """A function is about to be compiled."""
        self._begun = time.monotonic()
        if not self._has_told:
            self._timer = threading.Timer(max(0.0, _SECONDS - self._spent), self._tell)
            self._timer.daemon = True
            self._timer.start()

    def end(self) -> None:
        """It has been."""
        self._spent += time.monotonic() - self._begun
        if self._timer is not None:
            self._timer.cancel()

    def _tell(self) -> None:
        self._has_told = True
        tell("skelstream: compiling kernels for this machine, once: ten seconds to a minute")

    def tell_unkept(self, folder: Path, error: OSError) -> None:
        """The code could not be written into a folder."""
        if self._has_told_unkept:
            return
        self._has_told_unkept = True
        found, expected = describe_refusal(error)
        tell(
            f"skelstream: {folder}: found {found}, expected {expected} for compiled kernels: every command compiles"
            " them again; NUMBA_CACHE_DIR can name another folder"
        )


_patience = _Patience()
