import logging
import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.archives import RawFile, find_files
from pipelines.parsers.pkummd import LabelRow, not_videos, pair_files, parse, parse_labels
from shards.errors import RawInputError

NAME = "0002-L"
ORIGIN = "pku.zip: 0002-L.txt"


def line(first: str = "1.5", second_body: str = "0.000000") -> str:
    return " ".join([first, *["0.25"] * 74, *[second_body] * 75])


def refused(data: bytes) -> str:
    with pytest.raises(RawInputError) as caught:
        parse(data, NAME, ORIGIN)
    message = str(caught.value)
    assert message.startswith(ORIGIN)
    return message


def test_a_line_is_a_frame_of_two_bodies() -> None:
    numbers = [f"{i / 7:.6f}" for i in range(150)]
    sequence = parse(" ".join(numbers).encode(), NAME, ORIGIN)
    assert sequence.key == NAME
    assert sequence.frames.shape == (1, 2, 25, 3)
    assert sequence.frames[0, 1, 3].tolist() == [float(token) for token in numbers[84:87]]
    assert sequence.body_ids.tolist() == [[0, 0]]


def test_a_slot_of_zeros_is_no_body() -> None:
    text = "\r\n ".join([line(), line(second_body="1"), " ".join(["0"] * 150)]) + "\r\n\r\n"
    sequence = parse(text.encode(), NAME, ORIGIN)
    assert sequence.num_bodies.tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("text", "number", "found"),
    [
        ("", 1, "end of the file"),
        ("\n \n", 1, "end of the file"),
        (f"{line()}\n{line()} 1", 2, "151 fields"),
        (f"{line()}\n{line()[:-9]}\n{line()}", 2, "149 fields"),
        (f"{line()}\n\n{line()}", 2, "0 fields"),
        (f"{line()}\n{line('1.2.3')}", 2, "1.2.3"),
        (f"{line()}\n{line('1,2')}", 2, "b','"),
        (f"{line()}\n{line('NaN')}", 2, "nan"),
        (f"{line()}\n{line('-inf')}", 2, "-inf"),
    ],
)
def test_a_damaged_file_is_refused_with_its_line(text: str, number: int, found: str) -> None:
    message = refused(text.encode())
    assert re.search(rf"line {number}\b", message)
    assert found in message.split(", expected")[0]


def test_a_nan_is_reported_with_frame_body_and_joint() -> None:
    tokens = line().split()
    tokens[75 + 3 * 4] = "NaN"
    assert "(frame 2, body 2, joint 5)" in refused(f"{line()}\n {' '.join(tokens)}\n".encode())


NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def reference(data: bytes) -> list[list[float]] | None:
    """An obvious reader; None for whatever the format forbids."""
    if not data.isascii():
        return None
    lines = [text.removesuffix("\r") for text in data.decode().split("\n")]
    while lines and not lines[-1].strip(" \t"):
        lines.pop()
    rows = [re.split("[ \t]+", text.strip(" \t")) for text in lines]
    for row in rows:
        if len(row) != 150 or not all(NUMBER.fullmatch(token) and np.isfinite(float(token)) for token in row):
            return None
    return [[float(token) for token in row] for row in rows] or None


def agrees_with_the_reference(data: bytes) -> bool:
    """Whether the data is valid; asserts that parser and reference say the same."""
    expected = reference(data)
    if expected is None:
        refused(data)
        return False
    assert parse(data, NAME, ORIGIN).frames.reshape(-1, 150).tolist() == expected
    return True


FORMATS = (repr, "{:.6f}".format, "{:.7G}".format, "{:e}".format)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    numbers = draw(st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=6))
    pool = [draw(st.sampled_from(FORMATS))(number) for number in numbers]
    gaps = draw(st.sampled_from([[" "], [" ", "  ", "\t"]]))
    newline = draw(st.sampled_from(["\n", "\r\n", "\n ", " \r\n"]))
    r = random.Random(draw(st.integers(0, 2**32)))
    rows = ["".join(r.choice(pool) + r.choice(gaps) for _ in range(150)) for _ in range(draw(st.integers(1, 3)))]
    return (newline.join(rows) + draw(st.sampled_from(["", newline, newline * 2]))).encode()


@settings(deadline=None)
@given(files())
def test_every_value_of_a_valid_file_equals_float_of_its_token(data: bytes) -> None:
    assert agrees_with_the_reference(data)


@settings(deadline=None)
@given(files(), st.data())
def test_a_changed_file_is_refused_or_means_what_it_says(data: bytes, more: st.DataObject) -> None:
    at = more.draw(st.integers(0, len(data)))
    inserted = more.draw(st.one_of(st.binary(max_size=3), st.sampled_from([b"\n", b"\r", b" ", b"nan", b""])))
    cut = more.draw(st.sampled_from([0, 1, 5, len(data)]))
    agrees_with_the_reference(data[:at] + inserted + data[at + cut :])


def labels(text: str) -> tuple[list[LabelRow], list[tuple[int, str]]]:
    return parse_labels(text.encode(), ORIGIN, num_frames=100, num_classes=51)


def test_label_rows_keep_their_place_in_the_file() -> None:
    rows, problems = labels("51,40,100,2\r\n1,0,12,0\r\n1, 5 ,6,1\r\n\r\n")
    assert rows == [LabelRow(0, 50, 40, 100, 2), LabelRow(1, 0, 0, 12, 0), LabelRow(2, 0, 5, 6, 1)]
    assert problems == []


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ("3,12,12,1", "start 12 and end 12"),
        ("1,4925,4036,2", "start 4925 and end 4036"),
        ("1,50,101,2", "frames 50 to 101"),
        ("1,-1,5,2", "frames -1 to 5"),
        ("52,1,5,2", "class 52"),
        ("0,1,5,2", "class 0"),
        ("1,1,5,-2", "confidence -2"),
        ("1,1,5", "'1,1,5'"),
        ("1,1,5,2,", "'1,1,5,2,'"),
        ("1,1,5.0,2", "5.0"),
        ("1,1,5_0,2", "5_0"),
        ("1,1,\u0665,2", "expected four integers"),
        ("", "''"),
        ("1,1,nan,2", "nan"),
        ("1,1,99999999999999999999,2", "99999"),
    ],
)
def test_a_bad_label_row_is_reported_and_the_others_are_kept(row: str, found: str) -> None:
    rows, problems = labels(f"7,1,20,2\n{row}\n8,20,30,2\n")
    assert [good.row for good in rows] == [0, 2]
    [(number, message)] = problems
    assert number == 1
    assert message.startswith(f"{ORIGIN}: row 2: found ")
    assert found in message


def test_a_label_file_without_rows_is_refused() -> None:
    with pytest.raises(RawInputError, match="label,start,end,confidence"):
        labels("\r\n\n")


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_every_row_of_any_bytes_is_either_good_or_reported(data: bytes) -> None:
    try:
        rows, problems = parse_labels(data, ORIGIN, 100, 51)
    except RawInputError:
        assert not data.decode("ascii", "replace").strip()
        return
    assert sorted([*(row.row for row in rows), *(row for row, _ in problems)]) == list(range(len(rows) + len(problems)))
    assert all(0 <= row.label < 51 and 0 <= row.start < row.end <= 100 for row in rows)


def listed(folder: Path, **texts: str) -> list[RawFile]:
    for name, text in texts.items():
        path = folder / name.replace("__", "/").replace("_", "-")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".txt").write_text(text)
    return find_files([folder], (".txt",), allow_same_name=True)


def test_skeleton_and_label_files_of_one_name_are_paired_by_content(tmp_path: Path) -> None:
    # The label folders sort before and after the skeleton folder, so that order cannot decide.
    files = listed(tmp_path, a__0002_L="5,1,2,1", m__0002_L=f" {line()}\n", m__A01N02_R=line(), z__A01N02_R="\n5,1,2,1")
    pairs = pair_files(files)
    assert [skeleton.name for skeleton, _ in pairs] == ["0002-L", "A01N02-R"]
    assert all(skeleton.path.parent.name == "m" for skeleton, _ in pairs)
    assert [label.path.parent.name for _, label in pairs] == ["a", "z"]


def test_files_that_are_no_videos_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = listed(tmp_path, a__0002_L="5,1,2,1", m__0002_L=line(), cross_subject="0002-L, 0003-L,", readme="text")
    with caplog.at_level(logging.WARNING):
        assert len(pair_files(files)) == 1
    assert sorted(file.name for file in not_videos(files)) == ["cross-subject", "readme"]
    assert "left out 2 files" in caplog.text
    assert "cross-subject" in caplog.text


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        ({"a__0002_L": line()}, "no label file"),
        ({"a__0002_L": "5,1,2,1"}, "no skeleton file"),
        ({"a__0002_L": line(), "b__0002_L": line(), "c__0002_L": "5,1,2,1"}, "2 skeleton files"),
        ({"a__0002_L": line(), "b__0002_L": "5,1,3,1", "c__0002_L": "5,1,2,1"}, "2 label files"),
        ({"a__readme": "text"}, "found no video"),
    ],
)
def test_videos_that_cannot_be_paired_are_refused(tmp_path: Path, texts: dict[str, str], found: str) -> None:
    with pytest.raises(RawInputError, match=found):
        pair_files(listed(tmp_path, **texts))
