"""PKU-MMD, both phases: untrimmed videos of two body slots, and their label files.

A skeleton file is one line a frame with 150 numbers: body 1 (25 x x y z), then body 2, zeros when absent. A label file
of the same base name holds rows `label,start,end,confidence`.
"""

import logging
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.archives import RawFile, damage
from pipelines.parsers import text
from shards.catalog import info_from_name
from shards.errors import RawInputError, raw_error
from shards.places import Place
from shards.schema import RawSequence
from shards.skeleton import NUM_COORDINATES, NUM_JOINTS, NUM_PERSONS

LINE_FIELDS = NUM_PERSONS * NUM_JOINTS * NUM_COORDINATES
LABEL_FIELDS = 4
_LINE = f"{LINE_FIELDS} numbers divided by blanks"

_INTEGER = re.compile(rb"-?\d{1,9}")
_BLANKS = b" \t\r"
_ROWS = "rows label,start,end,confidence divided by commas"
# Longer than any first line seen (150 numbers of 9 to 20 characters).
_HEAD_BYTES = 8192
# On a remote place each is a request.
_HEADS_AT_ONCE = 16
_log = logging.getLogger(__name__)
_Folder = tuple[Place | None, str]

Weight = tuple[int, int, int, int, str]
"""What speaks for labels in a file, as `weigh_files` says: content, folder, its name, size, place."""


@dataclass(frozen=True)
class LabelRow:
    """An action of a video: frames start..end-1 (from 0). `label` counts from 0, `row` too, blank ones left out."""

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
    lines = text.number_lines(data, origin, _LINE)
    if not lines:
        raise text.truncated(origin, lines, _LINE)
    values: array[float] = array("d")
    for number, line in enumerate(lines, start=1):
        _append_line(values, line, origin, f"line {number}")
    frames = np.frombuffer(values, np.float64).reshape(-1, NUM_PERSONS, NUM_JOINTS, NUM_COORDINATES)
    if (bad := text.first_non_finite(frames)) is not None:
        frame, body, joint, _ = bad
        where = f"line {frame + 1} (frame {frame + 1}, body {body + 1}, joint {joint + 1})"
        raise raw_error(origin, where, f"{frames[bad]}", "finite coordinates")
    return _sequence(name, frames, frames.any(axis=(2, 3)).sum(axis=1, dtype=np.int64))


def _sequence(name: str, rows: npt.NDArray[np.float64], num_bodies: npt.NDArray[np.int64]) -> RawSequence:
    frames = rows.reshape(-1, NUM_PERSONS, NUM_JOINTS, NUM_COORDINATES)
    return RawSequence(name, frames, num_bodies, np.zeros(frames.shape[:2], np.int64))


def _append_line(values: "array[float]", line: bytes, origin: str, where: str) -> None:
    tokens = line.split()
    if len(tokens) != LINE_FIELDS:
        raise raw_error(origin, where, f"{len(tokens)} fields in {damage.shown(line)}", _LINE)
    try:
        text.append_numbers(values, tokens)
    except ValueError:
        raise raw_error(origin, where, damage.shown(text.bad_token(tokens) or b""), "a number") from None


def parse_labels(
    data: bytes, origin: str, num_frames: int, num_classes: int
) -> tuple[list[LabelRow], list[tuple[int, str]]]:
    """Read a label file; single rows can be wrong, in official files too, without spoiling the video.

    Args:
        data: the file. A UTF-8 byte order mark in front and blank rows anywhere are passed over.
        origin: the file for error messages.
        num_frames: length of the video.
        num_classes: labels in the file run from 1 to this.

    Returns:
        The good rows, and (row from 0, finished error message) of each bad one: not four integers, an unknown class,
        start >= end, or frames outside the video.

    Raises:
        RawInputError: the file has no row at all, or is no label file: another kind of content, or a part of it lost.
    """
    data = data.removeprefix(damage.MARK)
    numbered = [(number, line) for number, line in enumerate(data.split(b"\n"), start=1) if line.strip(_BLANKS)]
    if not numbered:
        raise raw_error(origin, "line 1", f"no row in {len(data)} bytes", _ROWS)
    rows: list[LabelRow] = []
    problems: list[tuple[int, str]] = []
    for row, (number, line) in enumerate(numbered):
        where = f"row {row + 1}" + (f" (line {number})" if number != row + 1 else "")
        try:
            rows.append(_label_row(row, line, origin, where, num_frames, num_classes))
        except RawInputError as error:
            problems.append((row, str(error)))
    if problems:
        _refuse_no_labels(data, [line for _, line in numbered], origin)
    return rows, problems


def _refuse_no_labels(data: bytes, rows: list[bytes], origin: str) -> None:
    """Rows of what is no label file are no samples that could be dropped one by one."""
    at, what = data.find(b"\0"), "a NUL byte"
    if at < 0:
        if any(row.count(b",") == LABEL_FIELDS - 1 for row in rows) and damage.identify(data, b",") is None:
            return
        at, what = data.index(rows[0]), f"no row of {LABEL_FIELDS} fields"
    line, seen = data.count(b"\n", 0, at) + 1, damage.describe(data, at, what, b",")
    raise raw_error(origin, f"line {line}", seen.found, seen.expected(_ROWS))


def _label_row(row: int, line: bytes, origin: str, where: str, num_frames: int, num_classes: int) -> LabelRow:
    fields = [field.strip(_BLANKS) for field in line.split(b",")]
    if len(fields) != LABEL_FIELDS or not all(map(_INTEGER.fullmatch, fields)):
        raise raw_error(origin, where, damage.shown(line), "four integers label,start,end,confidence")
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

    They are told apart as `weigh_files` says. Files that are no video's (`not_videos`) are left out and counted in a
    warning of this module's logger.

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
    weights = weigh_files([file for group in groups.values() for file in group])
    return [pair(name, groups[name], weights) for name in sorted(groups)]


def weigh_files(files: Sequence[RawFile]) -> dict[RawFile, Weight]:
    """What speaks for each file of a video to hold labels (above 0) or a skeleton (below), the stronger reason first.

    The first row of a sound file says it. An empty or damaged one is what its folder's other files are; so is one of
    two of the same content, of which one lies in the wrong place. Among damaged ones the folder's name decides else,
    then the size: one of them has to be read as a skeleton, so that the error can say what is wrong with it.
    """
    with ThreadPoolExecutor(_HEADS_AT_ONCE) as pool:
        kinds = list(pool.map(lambda file: _kind_of(file.head(_HEAD_BYTES)), files))
    folders: Counter[_Folder] = Counter()
    for file, kind in zip(files, kinds, strict=True):
        folders[_folder(file)] += kind
    weights: dict[RawFile, Weight] = {}
    for file, kind in zip(files, kinds, strict=True):
        others = folders[_folder(file)] - kind
        side = (others > 0) - (others < 0)
        weights[file] = (
            kind,
            side if side != kind else 0,
            *((0, 0, "") if kind else (_folder(file)[1].lower().count("label"), -file.size, file.origin)),
        )
    return weights


def _kind_of(head: bytes) -> int:
    """Of the first row that is not blank: 1 of labels, -1 of a skeleton, 0 of neither."""
    row = head.removeprefix(damage.MARK).strip().split(b"\n", 1)[0]
    fields, tokens = [field.strip() for field in row.split(b",")], row.split()
    if len(fields) == LABEL_FIELDS and all(map(_INTEGER.fullmatch, fields)):
        return 1
    return -1 if len(tokens) == LINE_FIELDS and text.bad_token(tokens) is None else 0


def _folder(file: RawFile) -> _Folder:
    return file.path if file.member else None, file.origin[: -len(file.name + file.suffix)]


def pair(name: str, files: Sequence[RawFile], weights: Mapping[RawFile, Weight]) -> tuple[RawFile, RawFile]:
    """The skeleton file and the label file of a video; RawInputError unless there is one of each."""
    if len(files) == 2:
        first, second = sorted(files, key=weights.__getitem__)
        if weights[first] < weights[second]:
            return first, second
    labels = [file for file in files if weights[file][:3] > (0, 0, 0)]
    skeletons = [file for file in files if file not in labels]
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
