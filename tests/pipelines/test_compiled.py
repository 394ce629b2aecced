"""Compiled code that is kept: found again, made anew where it is damaged, and no reason to fail where it cannot be."""

import errno
import importlib.util
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import pytest
from numba.core import caching

from pipelines import compiled

ROOT = Path(__file__).resolve().parents[2]

SOURCE = """
from pipelines.compiled import helper, kernel

@helper
def _twice(x):
    return 2 * x

@kernel("int64(int64)", "float64(float64)")
def twice(x):
    return _twice(x)
"""


class Timers:
    """Takes the place of `threading`: no time passes but by its clock, and a timer rings at once if it is due."""

    def __init__(self) -> None:
        self.set: list[float] = []

    def Timer(self, seconds: float, function: Callable[[], None]) -> Any:  # noqa: N802  # its name
        self.set.append(seconds)
        if seconds == 0:
            function()
        return self

    def start(self) -> None: ...

    def cancel(self) -> None: ...


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> Timers:
    """No time passes unless a test says so, and nothing was told before."""
    timers = Timers()
    monkeypatch.setattr(compiled, "threading", timers)
    monkeypatch.setattr(compiled, "_patience", compiled._Patience())
    return timers


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timers: Timers) -> Path:
    folder = tmp_path / "kept"
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(folder))
    return folder


def load(tmp_path: Path, source: str = SOURCE) -> tuple[int, int]:
    """Import the source as a new process would: how many of its two functions were compiled, and how many found."""
    path = tmp_path / "tiny.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("tiny", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (module.twice(21), module.twice(0.25)) == (42, 0.5)
    stats = module.twice.stats
    return sum(stats.cache_misses.values()), sum(stats.cache_hits.values())


def files(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if path.is_file())


def test_code_is_compiled_once_and_found_by_the_next(tmp_path: Path, cache: Path) -> None:
    assert load(tmp_path) == (2, 0)
    assert [path.suffix for path in files(cache)] == [".nbc", ".nbc", ".nbi"]
    assert load(tmp_path) == (0, 2)
    assert load(tmp_path, SOURCE.replace("2 * x", "x + x")) == (2, 0)
    assert len(files(cache)) == 3


@pytest.mark.parametrize("which", [0, 1, 2], ids=["code", "code of the other type", "index"])
@pytest.mark.parametrize("how", ["emptied", "cut", "longer", "one bit", "a page", "unreadable", "gone"])
def test_damaged_code_is_compiled_anew_and_mended(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str], which: int, how: str
) -> None:
    load(tmp_path)
    path = files(cache)[which]
    whole = path.read_bytes()
    draw = random.Random(f"{which} {how}")
    bit = bytearray(whole)
    bit[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
    if how == "unreadable":
        path.unlink()
        path.mkdir()
    elif how == "gone":
        path.unlink()
    else:
        damaged = {
            "emptied": b"",
            "cut": whole[: draw.randrange(len(whole))],
            "longer": whole + b"\0",
            "one bit": bytes(bit),
            "a page": b"<html><body>Quota exceeded</body></html>",
        }
        path.write_bytes(damaged[how])
    assert load(tmp_path) == ((2, 0) if which == 2 else (1, 1))
    if how == "unreadable":  # it stays in the way, which is told
        assert f"{cache}" in capsys.readouterr().err
    else:
        assert load(tmp_path) == (0, 2)
        assert capsys.readouterr().err == ""


def test_code_of_another_version_of_numba_is_compiled_anew(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr(numba, "__version__", "0.1")
        load(tmp_path)
    assert load(tmp_path) == (2, 0)
    assert load(tmp_path) == (0, 2)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("at", ["opening", "writing", "renaming"])
def test_a_folder_that_takes_no_code_is_told_once_and_stops_nothing(
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    at: str,
) -> None:
    class Full:
        def __init__(self, path: str, mode: str) -> None:
            self.file = open(path, mode)  # noqa: PTH123, SIM115  # as Numba does; closed by `__exit__`

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *error: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> None:
            self.file.write(data[:10])
            raise OSError(number, os.strerror(number))

    def refuse(*arguments: Any) -> Any:
        raise OSError(number, os.strerror(number))

    if at == "renaming":
        monkeypatch.setattr(os, "replace", refuse)
    else:
        monkeypatch.setattr(caching, "open", refuse if at == "opening" else Full, raising=False)
    assert load(tmp_path) == (2, 0)
    [told] = capsys.readouterr().err.splitlines()
    assert told.startswith(f"skelstream: {cache}")
    assert f"({os.strerror(number)})" in told
    assert "NUMBA_CACHE_DIR can name another folder" in told
    assert files(cache) == []
    monkeypatch.undo()


def test_of_the_folders_the_first_that_can_be_written_is_taken(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "_is_writable", lambda folder: folder.name == "__pycache__")
    assert load(tmp_path) == (2, 0)
    assert files(cache) == []
    assert len(files(tmp_path / "__pycache__")) == 3
    assert load(tmp_path) == (0, 2)


def test_code_is_found_where_it_cannot_be_written(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(compiled, "_is_writable", lambda folder: folder.is_relative_to(tmp_path / "home"))
    assert load(tmp_path) == (0, 2)
    assert load(tmp_path, SOURCE + "# changed") == (2, 0)
    assert len(files(tmp_path / "home/skelstream/compiled")) == 3
    assert load(tmp_path, SOURCE + "# changed") == (0, 2)
    assert capsys.readouterr().err == ""


def test_a_user_without_a_home_and_with_nothing_that_can_be_written_is_told_and_goes_on(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    cache.touch()  # a file is no folder, for root neither
    (tmp_path / "__pycache__").touch()
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert load(tmp_path) == (2, 0)
    [told] = capsys.readouterr().err.splitlines()
    assert told.startswith(f"skelstream: {tmp_path / '__pycache__'}: found a place that cannot be written (")


@pytest.mark.parametrize("place", ["file/below", "file", "/dev/null", "/dev/null/below"])
def test_a_folder_that_cannot_be_is_known_not_to_be_writable(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    assert not compiled._is_writable(tmp_path / place)
    assert compiled._is_writable(tmp_path / "new/folder")


def test_a_long_compilation_is_told_once_and_a_short_one_not(
    tmp_path: Path, cache: Path, timers: Timers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter(range(0, 100))  # a second passes from one look at the clock to the next
    monkeypatch.setattr(compiled.time, "monotonic", lambda: float(next(now)))
    assert load(tmp_path) == (2, 0)
    assert timers.set == [2.0, 1.0]
    assert capsys.readouterr().err == ""
    assert load(tmp_path, SOURCE + "# changed") == (2, 0)
    assert timers.set == [2.0, 1.0, 0.0]
    assert capsys.readouterr().err.splitlines() == [
        "skelstream: compiling kernels for this machine, once: ten seconds to a minute"
    ]
    assert load(tmp_path, SOURCE + "# changed") == (0, 2)
    assert timers.set == [2.0, 1.0, 0.0]


# files that cannot grow, in a process of its own, with Numba's and our code as they are
LIMITED = """
import resource, sys
sys.path.insert(0, sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
import tiny
print(tiny.twice(21))
"""


def test_a_process_whose_files_cannot_grow_goes_on_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(SOURCE)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LIMITED, str(tmp_path)],
        cwd=ROOT, env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "kept")}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout == "42\n"
    [told] = [line for line in done.stderr.splitlines() if "compiling kernels" not in line]
    assert told.startswith(f"skelstream: {tmp_path / 'kept'}")
    assert "found no space left (File too large), expected room for compiled kernels" in told


CONVERTED = """
import sys
from pathlib import Path
from pipelines.conversion.convert import convert
from pipelines.synthetic import synthesize

here = Path(sys.argv[1])
synthesize("ntu", here / "raw", subjects=2, classes=2, samples=2, seed=0, zipped=False)
convert("ntu", [here / "raw"], here / "data", workers=1)
print(*sorted(name for name, module in sys.modules.items() if hasattr(module, "kernel") and "pipelines." in name))
"""


def test_a_conversion_compiles_no_kernel_of_views_or_of_quality(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CONVERTED, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        "pipelines.compiled",
        "pipelines.parsers.scan",
        "pipelines.preprocessing.kernels",
        "pipelines.preprocessing.survey",
    ]
