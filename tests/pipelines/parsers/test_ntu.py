import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.parsers import parse as parse_source
from pipelines.parsers.ntu import parse
from shards.errors import ConfigError, RawInputError

NAME = "S001C001P001R001A001"
ORIGIN = "a.zip: S001C001P001R001A001.skeleton"


def body(body_id: int = 72057594037944738, x: str = "0.5") -> list[str]:
    joints = [f"{x} {j}.25 -2.5E-05 1 2 3 4 0 0 0 0 2" for j in range(25)]
    return [f"{body_id} 0 1 0 1 1 0 0.1 -0.2 2", "25", *joints]


def skeleton(*frames: list[list[str]], newline: str = "\r\n") -> bytes:
    lines = [str(len(frames))]
    for bodies in frames:
        lines += [str(len(bodies)), *(line for one in bodies for line in one)]
    return "".join(line + newline for line in lines).encode()


def refused(data: bytes) -> str:
    with pytest.raises(RawInputError) as caught:
        parse(data, NAME, ORIGIN)
    message = str(caught.value)
    assert message.startswith(ORIGIN)
    return message


def test_bodies_are_listed_in_the_order_of_each_frame() -> None:
    sequence = parse(skeleton([body(1, "1"), body(2, "2")], [], [body(2, "3")]), NAME, ORIGIN)
    assert sequence.key == NAME
    assert sequence.frames.shape == (3, 2, 25, 3)
    assert sequence.frames[:, :, 0, 0].tolist() == [[1, 2], [0, 0], [3, 0]]
    assert sequence.frames[0, 1, 24].tolist() == [2.0, 24.25, -2.5e-05]
    assert sequence.num_bodies.tolist() == [2, 0, 1]
    assert sequence.body_ids.tolist() == [[1, 2], [0, 0], [2, 0]]


def test_neighbouring_ids_beyond_2_to_the_53_stay_apart() -> None:
    ids = [2**56 + 5, 2**56 + 6, 2**63 - 1]
    sequence = parse(skeleton([body(i) for i in ids]), NAME, ORIGIN)
    assert sequence.body_ids.dtype == np.int64
    assert sequence.body_ids.tolist() == [ids]


def test_more_than_six_bodies_are_all_kept() -> None:
    assert parse(skeleton([body(i) for i in range(8)]), NAME, ORIGIN).frames.shape == (1, 8, 25, 3)


@pytest.mark.parametrize("data", [b"0", b"0\n", b"0\r\n", b" 0 \r\n\r\n \n"])
def test_a_file_of_zero_frames_has_length_zero(data: bytes) -> None:
    sequence = parse(data, NAME, ORIGIN)
    assert sequence.frames.shape == (0, 1, 25, 3)
    assert sequence.num_bodies.shape == (0,)
    assert sequence.body_ids.shape == (0, 1)


def test_line_ends_and_trailing_blank_lines_do_not_matter() -> None:
    crlf = skeleton([body()], [body()])
    expected = parse(crlf, NAME, ORIGIN).frames
    lf = crlf.replace(b"\r\n", b"\n")
    for data in (lf, crlf.removesuffix(b"\r\n"), lf.removesuffix(b"\n"), crlf + b"\r\n\r\n", lf + b" \t\n"):
        assert np.array_equal(parse(data, NAME, ORIGIN).frames, expected)


def test_a_nan_in_a_field_that_is_not_kept_does_no_harm() -> None:
    data = skeleton([body()]).replace(b" 1 2 3 4 ", b" NaN -Infinity 3 4 ")
    assert np.isfinite(parse(data, NAME, ORIGIN).frames).all()


@pytest.mark.parametrize(
    ("change", "line", "found"),
    [
        (lambda lines: lines[:40], 41, "end of the file"),
        (lambda lines: lines[:29], 30, "end of the file"),
        (lambda lines: lines[:2], 3, "end of the file"),
        (lambda lines: [], 1, "end of the file"),
        (lambda lines: [*lines[:7], lines[7].rsplit(" ", 1)[0], *lines[8:]], 8, "11 fields"),
        (lambda lines: [*lines[:7], lines[7] + " 1", *lines[8:]], 8, "13 fields"),
        (lambda lines: [*lines[:7], "", *lines[7:]], 8, "0 fields"),
        (lambda lines: [*lines[:7], lines[7].replace("3", "7.1.2", 1), *lines[8:]], 8, "7.1.2"),
        (lambda lines: [*lines[:7], *lines[8:]], 29, "1 fields"),
        (lambda lines: [*lines[:3], "24", *lines[4:]], 4, "24 joints"),
        (lambda lines: [*lines[:2], lines[2] + " 2", *lines[3:]], 3, "2 2'"),
        (lambda lines: [*lines[:2], lines[2].replace("7205", "7.05"), *lines[3:]], 3, "7.05"),
        (lambda lines: [lines[0], "1.0", *lines[2:]], 2, "1.0"),
        (lambda lines: ["-2", *lines[1:]], 1, "-2"),
        (lambda lines: ["2 2", *lines[1:]], 1, "2 2"),
        (lambda lines: ["1", *lines[1:]], 30, "'1'"),
        (lambda lines: ["3", *lines[1:]], 58, "end of the file"),
        (lambda lines: [*lines, "0"], 58, "'0'"),
        (lambda lines: [*lines[:9], lines[9].replace(" ", "_", 1), *lines[10:]], 10, "b'_'"),
        (lambda lines: [*lines[:9], lines[9].replace(" ", "\0", 1), *lines[10:]], 10, "x00"),
        (lambda lines: [*lines[:9], lines[9].replace(" ", "\x0c", 1), *lines[10:]], 10, "x0c"),
        (lambda lines: [*lines[:9], lines[9].replace(" ", "\r", 1), *lines[10:]], 10, "carriage return"),
    ],
)
def test_a_damaged_file_is_refused_with_its_line(change, line: int, found: str) -> None:  # type: ignore[no-untyped-def]
    lines = skeleton([body()], [body()], newline="\n").decode().splitlines()
    message = refused("\n".join(change(lines)).encode())
    assert f"line {line}: found" in message
    assert found in message.split(", expected")[0]


def test_fields_that_are_not_kept_need_only_be_there_in_the_bytes_of_numbers() -> None:
    data = skeleton([body()])
    expected = parse(data, NAME, ORIGIN)
    for changed in (data.replace(b" 1 2 3 4 ", b" --1 . e+ 3-4 "), data.replace(b" 0.1 -0.2 ", b" 0-1 5E ")):
        assert changed != data
        assert np.array_equal(parse(changed, NAME, ORIGIN).frames, expected.frames)
    assert "the byte b'x'" in refused(data.replace(b" 1 2 3 4 ", b" 1 x 3 4 ", 1))


@pytest.mark.parametrize("slots", [b"300000\n" + b"0\n" * 300_000, b"130000\n" + b"0\n" * 129_999 + b"2\n"])
def test_a_file_of_more_frames_and_bodies_than_memory_should_hold_is_refused(slots: bytes) -> None:
    lines = "\n".join(body()).encode() + b"\n"
    data = slots + lines * 2 if slots.endswith(b"2\n") else slots
    assert "at most 250000 of both multiplied" in refused(data)


@pytest.mark.parametrize("line", [0, 1])
def test_counts_beyond_all_memory_end_at_once(line: int) -> None:
    lines = skeleton([body()], newline="\n").split(b"\n")
    for count in (b"9223372036854775807", b"1000000000000"):
        lines[line] = count
        assert "end of the file" in refused(b"\n".join(lines))


@pytest.mark.parametrize("token", ["NaN", "nan", "-Infinity", "1e999"])
def test_a_coordinate_that_is_not_finite_is_refused_with_line_frame_and_joint(token: str) -> None:
    good, bad = body(), body()
    bad[6] = bad[6].replace("4.25", token)
    message = refused(skeleton([good], [good, bad]))
    assert "line 64: found" in message
    assert "frame 2, joint 5" in message


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(ConfigError, match="kinetics"):
        parse_source("kinetics", b"0", NAME, ORIGIN)


ALLOWED = re.compile(r"[0-9+.eE \t\r\nnaiftyNAIFTY-]*")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
WORD = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)


class RefusedError(Exception):
    pass


def demand(condition: object) -> None:
    if not condition:
        raise RefusedError


def reference(data: bytes) -> list[list[tuple[int, list[list[float]]]]]:
    """An obvious reader: token by token, frames of (id, joints), RefusedError for whatever the format forbids."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    demand(data.isascii() and ALLOWED.fullmatch(data.decode()))
    lines = [line.removesuffix("\r") for line in data.decode().split("\n")]
    demand("\r" not in "".join(lines))
    while lines and not lines[-1].strip(" \t"):
        lines.pop()
    queue = [re.split("[ \t]+", line.strip(" \t")) for line in lines]

    def take(fields: int) -> list[str]:
        demand(queue)
        row = queue.pop(0)
        demand(len(row) == fields)
        return row

    def count(token: str) -> int:
        demand(re.fullmatch("[0-9]{1,19}", token) and int(token) < 2**63)
        return int(token)

    def coordinates(row: list[str]) -> list[float]:
        demand(all(NUMBER.fullmatch(token) or WORD.fullmatch(token) for token in row[:3]))
        values = [float(token) for token in row[:3]]
        demand(np.isfinite(values).all())
        return values

    frames = []
    for _ in range(count(take(1)[0])):
        bodies = []
        for _ in range(count(take(1)[0])):
            body_id = count(take(10)[0])
            demand(count(take(1)[0]) == 25)
            bodies.append((body_id, [coordinates(take(12)) for _ in range(25)]))
        frames.append(bodies)
    demand(not queue)
    return frames


def agrees_with_the_reference(data: bytes) -> bool:
    """Whether the data is valid; asserts that parser and reference say the same."""
    try:
        expected = reference(data)
    except RefusedError:
        refused(data)
        return False
    sequence = parse(data, NAME, ORIGIN)
    assert sequence.num_bodies.tolist() == [len(bodies) for bodies in expected]
    for t, bodies in enumerate(expected):
        for s in range(sequence.frames.shape[1]):
            body_id, joints = bodies[s] if s < len(bodies) else (0, [[0.0] * 3] * 25)
            assert int(sequence.body_ids[t, s]) == body_id
            assert sequence.frames[t, s].tolist() == joints
    return True


FORMATS = (repr, "{:.7g}".format, "{:.7G}".format, "{:e}".format, "{:.3E}".format, "{:+.9f}".format)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Valid files: random tokens from a small drawn pool, laid out by a drawn seed: drawing each is slow."""
    numbers = draw(st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=6))
    pool = [draw(st.sampled_from(FORMATS))(number) for number in numbers]
    ids = draw(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=4))
    counts = draw(st.lists(st.integers(0, 3), max_size=3))
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    gaps = draw(st.sampled_from([[" "], [" ", "  ", "\t", " \t "]]))
    r = random.Random(draw(st.integers(0, 2**32)))

    def row(tokens: list[str]) -> str:
        edges = r.choice(["", *gaps]), r.choice(["", *gaps])
        return edges[0] + "".join(token + r.choice(gaps) for token in tokens[:-1]) + tokens[-1] + edges[1]

    lines = [row([str(len(counts))])]
    for bodies in counts:
        lines.append(row([str(bodies)]))
        for _ in range(bodies):
            lines += [row([str(r.choice(ids)), *r.choices(pool, k=9)]), row(["25"])]
            lines += [row(r.choices(pool, k=12)) for _ in range(25)]
    return (newline.join(lines) + draw(st.sampled_from(["", newline, newline * 3]))).encode()


@settings(deadline=None)
@given(files())
def test_every_value_of_a_valid_file_equals_float_of_its_token(data: bytes) -> None:
    assert agrees_with_the_reference(data)


@settings(deadline=None)
@given(files(), st.data())
def test_a_file_cut_anywhere_is_refused_or_still_means_what_it_says(data: bytes, more: st.DataObject) -> None:
    agrees_with_the_reference(data[: more.draw(st.integers(0, len(data)))])


@settings(deadline=None)
@given(files(), st.data())
def test_a_changed_file_is_refused_or_means_what_it_says(data: bytes, more: st.DataObject) -> None:
    for _ in range(more.draw(st.integers(1, 3))):
        at = more.draw(st.integers(0, len(data)))
        inserted = more.draw(
            st.one_of(st.binary(max_size=3), st.sampled_from([b"\n", b"\r", b" ", b"-", b"nan", b"9"]))
        )
        data = data[:at] + inserted + data[at + more.draw(st.integers(0, 3)) :]
    agrees_with_the_reference(data)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_parsed(data: bytes) -> None:
    agrees_with_the_reference(data)
