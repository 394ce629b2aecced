"""PKU-MMD, both phases: untrimmed videos of two body slots, and their label files.

A skeleton file is one line a frame with 150 numbers: body 1 (25 x x y z), then body 2, zeros when absent. A label file
of the same base name holds rows `label,start,end,confidence`.
"""

import logging
import re
from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.archives import RawFile
from pipelines.parsers import text
from shards.catalog import info_from_name
from shards.errors import RawInputError, raw_error
from shards.schema import RawSequence
from shards.skeleton import NUM_COORDINATES, NUM_JOINTS, NUM_PERSONS

LINE_FIELDS = NUM_PERSONS * NUM_JOINTS * NUM_COORDINATES
LABEL_FIELDS = 4

_INTEGER = re.compile(r"-?\d{1,9}", re.ASCII)
# Longer than any first line seen (150 numbers of 9 to 20 characters).
_HEAD_BYTES = 8192
# On a remote place each is a request.
_HEADS_AT_ONCE = 16
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelRow:
    """An action of a video: frames start..end-1 (from 0). `row` counts from 0 in the file, `label` from 0."""

    row: int
    label: int
    start: int
    end: int
    confidence: int


def parse(data: bytes, name: str, origin: str) -> RawSequence:
    """Read a skeleton file.

    Returns:
        Frames (T, 2, 25, 3) in metres, each value equal to float(token). A slot counts as a body where any of its
        numbers is not 0; ids are 0, since the format has none.

    Raises:
        RawInputError: with `origin` and the line, counted from 1; an empty file too.
    """
    if (scanned := text.scannable(data)) is not None:
        from pipelines.parsers import scan  # compiled code: 0.5 s, for who parses only

        canonical, rows, num_bodies = scan.pkummd(scanned, data.count(b"\n") + (not data.endswith(b"\n")))
        if canonical:
            return _sequence(name, rows, num_bodies)
    return parse_any(data, name, origin)


def parse_any(data: bytes, name: str, origin: str) -> RawSequence:
    """The same in plain Python, 28 times slower: the text that the kernel hands back, and the oracle of its tests."""
    lines = text.number_lines(data, origin)
    if not lines:
        raise text.truncated(origin, lines, f"a line of {LINE_FIELDS} numbers")
    values: array[float] = array("d")
    for number, line in enumerate(lines, start=1):
        _append_line(values, line.split(), origin, f"line {number}")
    frames = np.frombuffer(values, np.float64).reshape(-1, NUM_PERSONS, NUM_JOINTS, NUM_COORDINATES)
    if (bad := text.first_non_finite(frames)) is not None:
        frame, body, joint, _ = bad
        where = f"line {frame + 1} (frame {frame + 1}, body {body + 1}, joint {joint + 1})"
        raise raw_error(origin, where, f"{frames[bad]}", "finite coordinates")
    return _sequence(name, frames, frames.any(axis=(2, 3)).sum(axis=1, dtype=np.int64))


def _sequence(name: str, rows: npt.NDArray[np.float64], num_bodies: npt.NDArray[np.int64]) -> RawSequence:
    frames = rows.reshape(-1, NUM_PERSONS, NUM_JOINTS, NUM_COORDINATES)
    return RawSequence(name, frames, num_bodies, np.zeros(frames.shape[:2], np.int64))


def _append_line(values: "array[float]", tokens: list[bytes], origin: str, where: str) -> None:
    if len(tokens) != LINE_FIELDS:
        raise raw_error(origin, where, f"{len(tokens)} fields", f"{LINE_FIELDS} numbers")
    try:
        text.append_numbers(values, tokens)
    except ValueError:
        raise raw_error(origin, where, text.shown(text.bad_token(tokens) or b""), "a number") from None


def parse_labels(
    data: bytes, origin: str, num_frames: int, num_classes: int
) -> tuple[list[LabelRow], list[tuple[int, str]]]:
    """Read a label file; single rows can be wrong, in official files too, without spoiling the video.

    Args:
        num_frames: length of the video.
        num_classes: labels in the file run from 1 to this.

    Returns:
        The good rows, and (row from 0, finished error message) of each bad one: not four integers, an unknown class,
        start >= end, or frames outside the video.

    Raises:
        RawInputError: the file has no row at all.
    """
    lines = data.decode("ascii", "replace").rstrip().split("\n")
    if lines == [""]:
        raise raw_error(origin, "line 1", "the end of the file", "a row label,start,end,confidence")
    rows: list[LabelRow] = []
    problems: list[tuple[int, str]] = []
    for row, line in enumerate(lines):
        try:
            rows.append(_label_row(row, line, origin, num_frames, num_classes))
        except RawInputError as error:
            problems.append((row, str(error)))
    return rows, problems


def _label_row(row: int, line: str, origin: str, num_frames: int, num_classes: int) -> LabelRow:
    where = f"row {row + 1}"
    fields = [field.strip(" \t\r") for field in line.split(",")]
    if len(fields) != LABEL_FIELDS or not all(_INTEGER.fullmatch(field) for field in fields):
        raise raw_error(origin, where, repr(line.strip()[:60]), "four integers label,start,end,confidence")
    label, start, end, confidence = map(int, fields)
    if not 1 <= label <= num_classes:
        raise raw_error(origin, where, f"class {label}", f"a class from 1 to {num_classes}")
    if start >= end:
        raise raw_error(origin, where, f"start {start} and end {end}", "a start before its end")
    if start < 0 or end > num_frames:
        raise raw_error(origin, where, f"frames {start} to {end}", f"frames within the video's 0 to {num_frames}")
    if confidence < 0:
        raise raw_error(origin, where, f"confidence {confidence}", "one of 0 or more")
    return LabelRow(row, label - 1, start, end, confidence)


def not_videos(files: Iterable[RawFile]) -> list[RawFile]:
    """The files whose name is no video's, such as the official split lists."""
    return [file for file in files if not _is_video(file.name)]


def pair_files(files: list[RawFile]) -> list[tuple[RawFile, RawFile]]:
    """Pair each video's skeleton file with its label file, which bears the same name elsewhere.

    They are told apart by content: only label files have commas in their first line. Files that are no video's
    (`not_videos`) are left out and counted in a warning of this module's logger.

    Returns:
        (skeleton, labels) sorted by name.

    Raises:
        RawInputError: a video without labels, labels without video, two of either, or no video at all.
    """
    ignored = not_videos(files)
    if ignored:
        _log.warning("left out %d files that are no videos: %s", len(ignored), ", ".join(f.origin for f in ignored))
    groups: dict[str, list[RawFile]] = defaultdict(list)
    for file in files:
        if _is_video(file.name):
            groups[file.name].append(file)
    if not groups:
        raise RawInputError(f"found no video among {len(files)} text files, expected names such as 0002-L or A01N02-L")
    labels = label_files([file for group in groups.values() for file in group])
    return [pair(name, groups[name], labels) for name in sorted(groups)]


def label_files(files: Sequence[RawFile]) -> set[RawFile]:
    """Those of the files that hold labels: only they have commas in their first line."""
    with ThreadPoolExecutor(_HEADS_AT_ONCE) as pool:
        heads = pool.map(lambda file: file.head(_HEAD_BYTES), files)
        return {file for file, head in zip(files, heads, strict=True) if b"," in head.strip().split(b"\n", 1)[0]}


def pair(name: str, files: Sequence[RawFile], label_files: set[RawFile]) -> tuple[RawFile, RawFile]:
    """The skeleton file and the label file of a video; RawInputError unless there is one of each."""
    labels = [file for file in files if file in label_files]
    skeletons = [file for file in files if file not in label_files]
    for kind, found in (("skeleton", skeletons), ("label", labels)):
        if len(found) != 1:
            places = " and ".join(file.where for file in found or files)
            what = f"{len(found)} {kind} files:" if found else f"no {kind} file beside"
            raise raw_error(name, "", f"{what} {places}", f"one {kind} file")
    return skeletons[0], labels[0]


def _is_video(name: str) -> bool:
    return any(_fits(source, name) for source in ("pkummd1", "pkummd2"))


def _fits(source: str, name: str) -> bool:
    try:
        info_from_name(source, name)
    except RawInputError:
        return False
    return True
