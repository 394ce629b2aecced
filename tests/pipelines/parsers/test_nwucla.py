import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.archives import find_files
from pipelines.parsers.nwucla import parse
from shards.errors import RawInputError

NAME = "a08_s01_e00_v02"
ORIGIN = "all_sqe.zip: all_sqe/a08_s01_e00_v02.json"


def content(**changes: Any) -> dict[str, Any]:
    frames = [[[t + 0.1, j, -0.25] for j in range(20)] for t in range(3)]
    return {"file_name": NAME, "skeletons": frames, "label": 7, **changes}


def refused(data: bytes) -> str:
    with pytest.raises(RawInputError) as caught:
        parse(data, NAME, ORIGIN)
    message = str(caught.value)
    assert message.startswith(ORIGIN)
    return message


def test_twenty_joints_become_twenty_five() -> None:
    sequence = parse(json.dumps(content()).encode(), NAME, ORIGIN)
    assert sequence.frames.shape == (3, 1, 25, 3)
    assert sequence.frames[1, 0, :, 1].tolist() == [*range(20), 2, 7, 7, 11, 11]
    assert sequence.frames[1, 0, 4].tolist() == [1.1, 4.0, -0.25]
    assert sequence.num_bodies.tolist() == [1, 1, 1]
    assert sequence.body_ids.tolist() == [[0], [0], [0]]


def test_a_sequence_of_no_frames_has_length_zero() -> None:
    assert parse(json.dumps(content(skeletons=[])).encode(), NAME, ORIGIN).frames.shape == (0, 1, 25, 3)


def changed(t: int, j: int, value: Any) -> list[Any]:
    frames = content()["skeletons"]
    frames[t][j] = value
    return list(frames)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"file_name": "a08_s01_e00_v03"}, "a08_s01_e00_v03"),
        ({"label": 8}, "label 8"),
        ({"label": 7.0}, "label 7.0"),
        ({"label": "7"}, "label '7'"),
        ({"extra": 1}, "extra"),
        ({"skeletons": None}, "NoneType"),
        ({"skeletons": [[[0.0] * 3] * 25]}, "frame 1: found 25 joints"),
        ({"skeletons": [[[0.0] * 3] * 20, 5]}, "frame 2: found a int"),
        ({"skeletons": changed(2, 4, [0.0, 1.0])}, "frame 3: found joint 5"),
        ({"skeletons": changed(2, 4, [0.0, 1.0, True])}, "frame 3: found joint 5"),
        ({"skeletons": changed(2, 4, [0.0, 1.0, "1"])}, "frame 3: found joint 5"),
        ({"skeletons": changed(1, 4, [0.0, float("nan"), 1.0])}, "frame 2: found nan in joint 5"),
        ({"skeletons": changed(1, 4, [0.0, float("inf"), 1.0])}, "frame 2: found inf in joint 5"),
        ({"skeletons": changed(1, 4, [0.0, 10**400, 1.0])}, "frame 2: found inf in joint 5"),
    ],
)
def test_a_wrong_sequence_is_refused_with_its_frame(changes: dict[str, Any], found: str) -> None:
    assert found in refused(json.dumps(content(**changes)).encode())


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "line 1 column 1"),
        (b"[]", "found a list"),
        (b"{}", "keys []"),
        (json.dumps(content()).encode()[:-30], "line 1 column"),
        (json.dumps(content()).encode() + b"1", "Extra data"),
        (b'{"label": \xff}', "line 1 column 11: found 'utf-8' codec can't decode byte 0xff"),
        (b'{"message": "Not Found"}', "keys ['message'] in '{\"message\": \"Not Found\"}'"),
        (b'{"message": "Not Found"}', "download the file again"),
        (b'{"label": 1,,}', "in '{\"label\": 1,,}', expected JSON"),
        (b"[" * 100_000, "recursion"),
        (b'{"label": 7, ' + json.dumps(content()).encode()[1:], "twice"),
    ],
)
def test_what_is_not_the_json_is_refused(data: bytes, found: str) -> None:
    assert found in refused(data)


@settings(deadline=None)
@given(st.lists(st.lists(st.one_of(st.floats(-1e300, 1e300), st.integers()), min_size=60, max_size=60), max_size=3))
def test_every_value_equals_float_of_its_token(values: list[list[float]]) -> None:
    skeletons = np.array(values, object).reshape(-1, 20, 3).tolist()
    sequence = parse(json.dumps(content(skeletons=skeletons)).encode(), NAME, ORIGIN)
    expected = [[float(value) for value in frame] for frame in values]
    assert sequence.frames[:, 0, :20].reshape(-1, 60).tolist() == expected


@settings(deadline=None)
@given(st.data())
def test_a_changed_file_is_parsed_or_refused(more: st.DataObject) -> None:
    data = json.dumps(content()).encode()
    at = more.draw(st.integers(0, len(data)))
    data = data[:at] + more.draw(st.binary(max_size=3)) + data[at + more.draw(st.integers(0, 4)) :]
    try:
        sequence = parse(data, NAME, ORIGIN)
    except RawInputError:
        refused(data)
    else:
        assert np.array_equal(sequence.frames[:, 0, :20], np.array(json.loads(data)["skeletons"], float))


def test_the_real_archive_is_read_whole(shared: Path) -> None:
    files = find_files([shared / "data/nw-ucla/all_sqe.zip"], (".json",))
    assert len(files) == 1484
    lengths = [len(parse(file.read(), file.name, file.origin).frames) for file in files[::10]]
    assert min(lengths) >= 1
    assert max(lengths) <= 201
