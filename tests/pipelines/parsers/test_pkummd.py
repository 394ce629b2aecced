import logging
import random
import re
import zipfile
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
        (f"{line()}\n{line('1,2')}", 2, "decimal commas"),
        (f"{line()}\n{line().replace(' ', ',')}", 2, "fields divided by commas"),
        (f"{line()}\n{line('1;2')}", 2, "fields divided by semicolons"),
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
    data = data.removeprefix(b"\xef\xbb\xbf")
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


@pytest.mark.parametrize("blank", ["\n", "\r\n", " \t\r\n", "\n\n\n"])
def test_blank_rows_are_no_samples_wherever_they_are(blank: str) -> None:
    expected = labels("1,3,20,2\n9,22,38,1\n")
    assert labels(f"{blank}1,3,20,2\n{blank}9,22,38,1\n{blank}") == expected
    assert [row.row for row in expected[0]] == [0, 1]


def test_a_bad_row_behind_blank_ones_is_named_by_its_row_and_its_line() -> None:
    rows, [(number, message)] = labels("\n1,3,20,2\n\n9,22,38\n")
    assert [good.row for good in rows] == [0]
    assert number == 1
    assert message == f"{ORIGIN}: row 2 (line 4): found '9,22,38', expected four integers label,start,end,confidence"


@pytest.mark.parametrize("text", ["", "\r\n\n", " ", "\ufeff"])
def test_a_label_file_without_rows_is_refused(text: str) -> None:
    with pytest.raises(RawInputError, match=r"found no row in \d bytes, expected rows label,start,end,confidence"):
        labels(text)


@pytest.mark.parametrize(
    ("text", "line", "found"),
    [
        ("1 3 20 2\n9 22 38 1\n", 1, "no row of 4 fields in '1 3 20 2'"),
        ("\n1;3;20;2\n", 2, "no row of 4 fields in '1;3;20;2'"),
        (f"{line()}\n{line()}\n", 1, "no row of 4 fields in '1.5 0.25"),
        ("1,3,20,2\n9,22,38,1\n" + "\0" * 400, 3, "400 NUL bytes in"),
        ("1,3,20,2\n9,2\0,38,1\n", 2, "a NUL byte in"),
    ],
)
def test_a_label_file_that_is_none_is_refused_as_a_whole(text: str, line: int, found: str) -> None:
    with pytest.raises(RawInputError) as caught:
        labels(text)
    assert str(caught.value).startswith(f"{ORIGIN}: line {line}: found {found}")
    assert "expected rows label,start,end,confidence divided by commas" in str(caught.value)


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_every_row_of_any_bytes_is_either_good_or_reported(data: bytes) -> None:
    try:
        rows, problems = parse_labels(data, ORIGIN, 100, 51)
    except RawInputError:
        with pytest.raises(RawInputError, match=f"^{re.escape(ORIGIN)}: line "):
            parse_labels(data, ORIGIN, 100, 51)
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


# What is left of a file after every accident: its kind cannot be told by its content.
NEITHER = ["", "\n", "<html>Sign in</html>", "1;3;20;2", "1 3 20 2", line().replace(" ", ","), line("0,5"), "1,2,3"]


@pytest.mark.parametrize("content", NEITHER)
@pytest.mark.parametrize("folders", [("skeleton", "label"), ("a", "z"), ("z", "a")])
@pytest.mark.parametrize("damaged", ["skeleton", "labels", "both"])
def test_a_damaged_file_is_not_taken_for_the_other_kind(
    tmp_path: Path, content: str, folders: tuple[str, str], damaged: str
) -> None:
    skeleton, label = folders
    texts = {f"{skeleton}__0002_M": line(), f"{label}__0002_M": "5,1,2,1"}
    texts[f"{skeleton}__0002_L"] = line() if damaged == "labels" else content
    texts[f"{label}__0002_L"] = "5,1,2,1" if damaged == "skeleton" else content
    pairs = pair_files(listed(tmp_path, **texts))
    assert [[file.path.parent.name for file in pair] for pair in pairs] == [[skeleton, label]] * 2


@pytest.mark.parametrize("content", [line(), "5,1,2,1"])
def test_two_files_of_one_kind_are_told_apart_by_the_folder_of_each(tmp_path: Path, content: str) -> None:
    texts = {"a__0002_M": line(), "b__0002_M": "5,1,2,1", "a__0002_L": content, "b__0002_L": content}
    pairs = pair_files(listed(tmp_path, **texts))
    assert [[file.path.parent.name for file in pair] for pair in pairs] == [["a", "b"]] * 2


def test_of_two_damaged_files_the_folder_of_labels_or_else_the_smaller_file_holds_them(tmp_path: Path) -> None:
    [(skeleton, label)] = pair_files(listed(tmp_path / "named", skeleton__0002_L="", Train_Label__0002_L="<html>"))
    assert (skeleton.size, label.size) == (0, 6)
    [(skeleton, label)] = pair_files(listed(tmp_path / "nameless", x__0002_L="1;3;20;2", y__0002_L="0;" * 150))
    assert (skeleton.size, label.size) == (300, 8)


def test_the_folders_of_two_flat_zips_are_two(tmp_path: Path) -> None:
    for name, whole in (("a.zip", line()), ("b.zip", "5,1,2,1")):
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            file.writestr("0002-M.txt", whole)
            file.writestr("0002-L.txt", "")
    pairs = pair_files(find_files([tmp_path], (".txt",), allow_same_name=True))
    assert [[file.path.name for file in pair] for pair in pairs] == [["a.zip", "b.zip"]] * 2


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        ({"a__0002_L": ""}, "no label file"),
        ({"a__0002_L": "", "a__0002_M": "5,1,2,1", "b__0002_M": line()}, "no skeleton file"),
        ({"a__0002_L": line(), "b__0002_L": line()}, "2 skeleton files"),
        ({"a__0002_L": "5,1,2,1", "b__0002_L": "5,1,2,1"}, "no skeleton file"),
        ({"a__0002_L": line(), "b__0002_L": "5,1,2,1", "c__0002_L": "", "c__0002_M": "5,1,2,1"}, "2 label files"),
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
