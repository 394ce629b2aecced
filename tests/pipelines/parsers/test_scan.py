"""The compiled readers against the plain ones: what they accept has the same bits, and they read nothing else."""

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.parsers import ntu, pkummd, scan
from shards.errors import RawInputError

READERS = {"ntu": ntu.parse_any, "pkummd": pkummd.parse_any}


def accepted(kind: str, data: bytes) -> tuple[np.ndarray, ...] | None:
    """Frames, body counts and ids as the kernel reads them; None where it hands the text back."""
    array = np.frombuffer(data, np.uint8)
    if kind == "ntu":
        canonical, *found = scan.ntu(array, ntu.MAX_SLOTS)
        return tuple(found) if canonical else None
    canonical, rows, num_bodies = scan.pkummd(array, data.count(b"\n") + (not data.endswith(b"\n")))
    return (rows.reshape(-1, 2, 25, 3), num_bodies, np.zeros((len(rows), 2), np.int64)) if canonical else None


def agrees(kind: str, data: bytes) -> bool:
    """Whether the kernel accepts the text; asserts that the plain reader then gives the same bits."""
    found = accepted(kind, data)
    if found is None:
        return False
    plain = READERS[kind](data, "name", "file")
    for ours, expected in zip(found, (plain.frames, plain.num_bodies, plain.body_ids), strict=True):
        assert ours.shape == expected.shape
        assert ours.dtype == expected.dtype
        assert ours.tobytes() == expected.tobytes()
    return True


def ntu_text(tokens: list[str], bodies: list[int], newline: str, r: random.Random) -> bytes:
    lines = [str(len(bodies))]
    for count in bodies:
        lines.append(str(count))
        for _ in range(count):
            lines += [" ".join([str(r.randrange(2**63)), *r.choices(tokens, k=9)]), "25"]
            lines += [" ".join(r.choices(tokens, k=12)) for _ in range(25)]
    return newline.join([*lines, ""]).encode()


def pku_text(tokens: list[str], rows: int, newline: str, r: random.Random) -> bytes:
    lines = [" ".join(r.choices(tokens, k=150)) for _ in range(rows)]
    return (f"{newline} ".join(lines) + newline).encode()


EXACT = ("{:.7G}".format, "{:.7g}".format, "{:.6f}".format, "{:.3E}".format, "{:.0f}".format, "{:.1f}".format)


@st.composite
def canonical_texts(draw: st.DrawFn) -> tuple[str, bytes]:
    """Texts that must take the fast way; tokens from a drawn pool, laid out by a drawn seed."""
    numbers = draw(st.lists(st.floats(-1e4, 1e4).filter(lambda v: v == 0 or abs(v) > 1e-12), min_size=1, max_size=9))
    tokens = [draw(st.sampled_from(EXACT))(number).replace("E+", "E") for number in numbers]
    newline, r = draw(st.sampled_from(["\n", "\r\n"])), random.Random(draw(st.integers(0, 2**32)))
    if draw(st.booleans()):
        bodies = draw(st.lists(st.integers(0, 3), min_size=1, max_size=4).filter(any))
        data = ntu_text(tokens, bodies, newline, r)
        return "ntu", data.removesuffix(newline.encode()) if draw(st.booleans()) else data
    data = pku_text(tokens, draw(st.integers(1, 3)), newline, r)
    return "pkummd", data.removesuffix(newline.encode()) if draw(st.booleans()) else data


@settings(deadline=None)
@given(canonical_texts())
def test_canonical_texts_take_the_fast_way_and_have_the_same_bits(text: tuple[str, bytes]) -> None:
    assert agrees(*text)


@settings(deadline=None, max_examples=300)
@given(canonical_texts(), st.data())
def test_changed_and_cut_texts_are_handed_back_or_have_the_same_bits(
    text: tuple[str, bytes], more: st.DataObject
) -> None:
    kind, data = text
    pieces = st.one_of(
        st.binary(max_size=3), st.sampled_from([b"\n", b"\r\n", b" ", b"-", b"E-", b".", b"9", b"1" * 20])
    )
    for _ in range(more.draw(st.integers(1, 3))):
        at = more.draw(st.integers(0, len(data)))
        data = data[:at] + more.draw(pieces) + data[at + more.draw(st.sampled_from([0, 1, 2, 9, len(data)])) :]
    if len(data) >= 64:
        agrees(kind, data)


@settings(deadline=None)
@given(st.binary(min_size=64, max_size=400), st.sampled_from(["ntu", "pkummd"]))
def test_garbage_is_handed_back_or_has_the_same_bits(data: bytes, kind: str) -> None:
    agrees(kind, data)


SIGNS = st.sampled_from(["", "-", "+"])
DIGITS = st.text("0123456789", max_size=17)
TOKENS = st.one_of(
    st.builds("{}{}.{}".format, SIGNS, DIGITS, DIGITS),
    st.builds("{}{}.{}E{}{}".format, SIGNS, DIGITS, DIGITS, SIGNS, st.integers(0, 400)),
    st.builds("{}{}".format, SIGNS, DIGITS),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.text("0123456789.eE-+", min_size=1, max_size=12),
)


@settings(deadline=None, max_examples=1000)
@given(TOKENS.filter(bool))
def test_any_token_is_handed_back_or_read_as_float_reads_it(token: str) -> None:
    found = accepted("pkummd", " ".join([*["0.25"] * 149, token]).encode())
    if found is not None:
        assert found[0].reshape(-1)[149].tobytes() == np.float64(float(token)).tobytes()


@pytest.mark.parametrize(
    "token",
    [
        "0",
        "-0",
        "-0.0",
        "7",
        "2.61715",
        "0.05420245",
        "-7.257856E-05",
        "1e-7",
        "3.",
        ".5",
        "-.5",
        "123.4567",
        "1E22",
        "0.123456789012345",
        "9007199254740991",
        "0.00012345",
        "-0.000000",
        "0e5",
        "00.5",
        "1.5E-10",
    ],
)
def test_what_files_hold_takes_the_fast_way(token: str) -> None:
    found = accepted("pkummd", " ".join([*["0.25"] * 149, token]).encode())
    assert found is not None
    assert found[0].reshape(-1)[149].tobytes() == np.float64(float(token)).tobytes()


@pytest.mark.parametrize(
    "token",
    [
        "",
        "nan",
        "inf",
        "-",
        ".",
        "e5",
        "1e",
        "1e+",
        "1.2.3",
        "--1",
        "1-",
        "0x1",
        "1_0",
        "9007199254740993",
        "1e23",
        "0.1234567890123456789",
        "1e-23",
        "1e400",
        "1,5",
        "١",
        "1e0000001",
        "0.5:7",
        ":.5",
        "0.:5",
        "0/5",
        "0.5/",
    ],
)
def test_what_is_no_number_or_may_need_two_roundings_is_handed_back(token: str) -> None:
    assert accepted("pkummd", " ".join([*["0.25"] * 149, token]).encode()) is None


@pytest.mark.parametrize("body_id", [0, 72057594037944738, 72057594037944739, 2**63 - 1])
def test_ids_are_whole_integers(body_id: int) -> None:
    data = ntu_text(["0.5"], [1], "\n", random.Random(0)).split(b"\n")
    data[2] = b"%d" % body_id + data[2][data[2].index(b" ") :]
    found = accepted("ntu", b"\n".join(data))
    assert found is not None
    assert found[2].tolist() == [[body_id]]


@pytest.mark.parametrize("body_id", [b"9223372036854775808", b"9" * 19, b"1" * 20, b"-1", b"1.0", b""])
def test_ids_beyond_int64_are_handed_back(body_id: bytes) -> None:
    data = ntu_text(["0.5"], [1], "\n", random.Random(0)).split(b"\n")
    data[2] = body_id + data[2][data[2].index(b" ") :]
    assert accepted("ntu", b"\n".join(data)) is None


def test_golden_files_take_the_fast_way(golden: Path) -> None:
    files = sorted((golden / "ntu_raw").iterdir())
    slow = [path.stem for path in files if path.stat().st_size >= 64 and not agrees("ntu", path.read_bytes())]
    assert slow == ["S012C003P017R001A018", "S014C002P019R002A030"][: len(slow)]
    (video,) = (path for path in (golden / "pku").glob("*.txt") if not path.name.endswith(".label.txt"))
    assert agrees("pkummd", video.read_bytes())


GUARDED = """
import ctypes, mmap, random, sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
sys.path.insert(0, sys.argv[1])
import test_scan as tests

PAGE, NO_ACCESS = mmap.PAGESIZE, 0
r = random.Random(0)
tokens = ["0.5", "-2.61715", "7.257856E-05", "12", "-0.000001"]
texts = [("ntu", tests.ntu_text(tokens, [1, 0], newline, r)) for newline in ("\\n", "\\r\\n")]
texts += [("pkummd", tests.pku_text(tokens, 2, newline, r)) for newline in ("\\n", "\\r\\n")]

with ThreadPoolExecutor(8) as pool:  # the first calls, all at once
    assert all(pool.map(lambda text: tests.agrees(*text), texts * 8))

libc = ctypes.CDLL(None, use_errno=True)
area = mmap.mmap(-1, 5 * PAGE)
base = ctypes.addressof(ctypes.c_char.from_buffer(area))
for page in (0, 4):
    assert libc.mprotect(ctypes.c_void_p(base + page * PAGE), PAGE, NO_ACCESS) == 0
whole = np.frombuffer(area, np.uint8)

def guarded(kind, data):
    # Once with a page that cannot be read right behind the text, once with one right in front of it.
    lines = data.count(b"\\n") + (not data.endswith(b"\\n"))
    for start in (4 * PAGE - len(data), PAGE):
        place = whole[start : start + len(data)]
        place[:] = np.frombuffer(data, np.uint8)
        tests.scan.ntu(place, 1000) if kind == "ntu" else tests.scan.pkummd(place, lines)

runs = 0
for kind, data in texts:
    assert len(data) < 3 * PAGE
    for length in range(64, len(data) + 1):
        guarded(kind, data[:length])
        runs += 1
    for _ in range(3000):
        at = r.randrange(len(data))
        changed = data[:at] + r.choice([b"\\n", b"\\r", b" ", b"9", b"-", b"", b"E"]) + data[at + r.randrange(3) :]
        guarded(kind, changed[: r.randrange(64, len(changed) + 1)])
        runs += 1
print(runs)
"""


def test_nothing_is_read_outside_the_text_and_first_calls_of_many_threads_are_safe(
    request: pytest.FixtureRequest,
) -> None:
    """In a process of its own: a read beyond the text kills it, and array accesses are checked by Numba."""
    assert request.config.cache is not None
    checked = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(request.config.cache.mkdir("numba-boundscheck"))}
    command = [sys.executable, "-c", GUARDED, str(Path(__file__).parent)]
    done = subprocess.run(command, env=os.environ | checked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 15_000


def test_whoever_only_asks_for_names_does_not_wait_for_the_compiler() -> None:
    code = "import sys, flows.cli.main, pipelines.parsers; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_short_or_odd_text_is_read_all_the_same() -> None:
    assert ntu.parse(b"1\n0\n", "name", "file").num_bodies.tolist() == [0]
    with pytest.raises(RawInputError, match="line 1"):
        pkummd.parse(b"1 2", "name", "file")
