"""Northwestern-UCLA as JSON: `{"file_name", "skeletons": [T][20][3], "label"}`, Kinect v1, one body.

The archive is the one linked in Uason-Chen/CTR-GCN; `label` counts from 1.
"""

import json
import reprlib
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.archives import damage
from pipelines.parsers import text
from shards.catalog import info_from_name
from shards.errors import RawInputError, raw_error
from shards.schema import RawSequence

KEYS = {"file_name", "skeletons", "label"}
NUM_KINECT1_JOINTS = 20
_MAX_INTEGER_DIGITS = 15
# No damage here, as they would be among plain numbers.
_SIGNS = b"{[,;|"

# Kinect v1 joints 0-19 keep their place in Kinect v2's order; spine shoulder = shoulder centre, hand tips and thumbs
# = the hands.
FROM_KINECT1 = (*range(NUM_KINECT1_JOINTS), 2, 7, 7, 11, 11)


def parse(data: bytes, name: str, origin: str) -> RawSequence:
    """Read a sequence and check that what it says of itself agrees with its name.

    Returns:
        Frames (T, 1, 25, 3) in metres, each value equal to float(token); one body in every frame, ids 0.

    Raises:
        RawInputError: with `origin` and the line or frame, counted from 1.
    """
    content = _load(data, origin)
    if not isinstance(content, dict) or content.keys() != KEYS:
        raise _other_content(content, data, origin)
    _check_identity(content, name, origin)
    joints = _joints(content["skeletons"], origin)
    frames = joints[:, None, FROM_KINECT1, :]
    T = len(frames)
    return RawSequence(name, frames, np.ones(T, np.int64), np.zeros((T, 1), np.int64))


def _load(data: bytes, origin: str) -> Any:
    data = data.removeprefix(damage.MARK)
    try:
        return json.loads(data.decode("utf-8"), parse_int=_integer, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise _no_json(data, len(error.doc[: error.pos].encode()), error.msg, origin) from error
    except UnicodeDecodeError as error:
        raise _no_json(data, error.start, str(error), origin) from error
    except (ValueError, RecursionError) as error:
        raise _no_json(data, 0, str(error), origin) from error


def _no_json(data: bytes, at: int, what: str, origin: str) -> RawInputError:
    if b"\0" in data:  # which JSON never has: a lost block is noticed a little before or behind it
        at = data.index(b"\0")
    line, column = data.count(b"\n", 0, at) + 1, at - data.rfind(b"\n", 0, at)
    seen = damage.describe(data, at, what, _SIGNS)
    return raw_error(origin, f"line {line} column {column}", seen.found, seen.expected("JSON"))


def _other_content(content: Any, data: bytes, origin: str) -> RawInputError:
    is_object = isinstance(content, dict)
    found = f"the keys {reprlib.repr(sorted(content))}" if is_object else f"a {type(content).__name__}"
    # A server's answer is JSON too.
    remedy = "" if is_object and not KEYS.isdisjoint(content) else ": download the file again, or name another source"
    expected = f"an object with the keys {sorted(KEYS)}{remedy}"
    return raw_error(origin, "", f"{found} in {damage.shown(data)}", expected)


def _integer(token: str) -> int | float:
    # Longer ones are no label; as coordinates they would overflow when cast to float64.
    return int(token) if len(token) <= _MAX_INTEGER_DIGITS else float(token)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key that is there twice")
    return content


def _check_identity(content: dict[str, Any], name: str, origin: str) -> None:
    if content["file_name"] != name:
        raise raw_error(
            origin, "", f"file_name {reprlib.repr(content['file_name'])}", f"{name!r}, the name of the file"
        )
    label, expected = content["label"], info_from_name("nwucla", name).label + 1
    if type(label) is not int or label != expected:
        raise raw_error(origin, "", f"label {reprlib.repr(label)}", f"label {expected}, by the name of the file")


def _joints(skeletons: Any, origin: str) -> npt.NDArray[np.float64]:
    if not isinstance(skeletons, list):
        raise raw_error(origin, "", f"skeletons that are a {type(skeletons).__name__}", "a list of frames")
    for number, frame in enumerate(skeletons, start=1):
        if problem := _frame_problem(frame):
            raise raw_error(origin, f"frame {number}", problem, f"{NUM_KINECT1_JOINTS} joints of 3 numbers")
    joints = np.array(skeletons, np.float64).reshape(-1, NUM_KINECT1_JOINTS, 3)
    if (bad := text.first_non_finite(joints)) is not None:
        raise raw_error(origin, f"frame {bad[0] + 1}", f"{joints[bad]} in joint {bad[1] + 1}", "finite coordinates")
    return joints


def _frame_problem(frame: Any) -> str | None:
    if not isinstance(frame, list):
        return f"a {type(frame).__name__}"
    if len(frame) != NUM_KINECT1_JOINTS:
        return f"{len(frame)} joints"
    for number, joint in enumerate(frame, start=1):
        if not isinstance(joint, list) or len(joint) != 3 or not all(type(value) in (float, int) for value in joint):
            return f"joint {number} as {reprlib.repr(joint)}"
    return None
