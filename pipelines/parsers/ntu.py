"""NTU RGB+D `.skeleton` files: frames of bodies as Kinect v2 listed them.

Layout: frame count; per frame a body count; per body a header of 10 fields, the joint count 25, and 25 lines of 12
fields `x y z depthX depthY colorX colorY orientationW orientationX orientationY orientationZ trackingState`.
"""

from array import array
from itertools import chain

import numpy as np
import numpy.typing as npt

from pipelines.archives.damage import shown
from pipelines.parsers import text
from shards.errors import RawInputError, raw_error
from shards.schema import RawSequence
from shards.skeleton import NUM_COORDINATES, NUM_JOINTS

HEADER_FIELDS = 10
JOINT_FIELDS = 12

MAX_SLOTS = 250_000
"""Frames times bodies of the fullest frame: 150 MB, or 2.3 hours of one body at 30 Hz. A file whose counts go beyond
would fill the memory with zeros for bodies that are not there."""


def parse(data: bytes, name: str, origin: str) -> RawSequence:
    """Read a `.skeleton` file.

    Lines may end in LF or CRLF; a UTF-8 byte order mark in front is passed over. Coordinates must be finite. The other
    fields but the id are not kept: they must be there and be written in the bytes of numbers, so a NaN there does no
    harm. A file of 0 frames gives T = 0: whether that is an error is the caller's decision.

    Returns:
        Frames (T, S, 25, 3) in metres, camera space, each value equal to float(token); S is the largest body count, at
        least 1.

    Raises:
        RawInputError: with `origin` and the line, counted from 1.
    """
    if (scanned := text.scannable(data)) is not None:
        from pipelines.parsers import scan  # compiled code: 0.5 s, for who parses only

        canonical, frames, num_bodies, body_ids = scan.ntu(scanned, MAX_SLOTS)
        if canonical:
            return RawSequence(name, frames, num_bodies, body_ids)
    return parse_any(data, name, origin)


def parse_any(data: bytes, name: str, origin: str) -> RawSequence:
    """The same in plain Python, 50 times slower: the text that the kernel hands back, and the oracle of its tests."""
    return _Reader(text.number_lines(data, origin), origin).sequence(name)


class _Reader:
    """A position in the lines of one file, and what was read so far."""

    def __init__(self, lines: list[bytes], origin: str) -> None:
        self.lines = lines
        self.origin = origin
        self.at = 0
        self.values: array[float] = array("d")
        self.body_ids: list[int] = []
        self.first_joint_lines: list[int] = []

    def sequence(self, name: str) -> RawSequence:
        num_frames = self._count("the frame count")
        num_bodies = [self._frame(number) for number in range(1, num_frames + 1)]
        if self.at < len(self.lines):
            expected = f"the end of the file after {num_frames} frames"
            raise self._error(shown(self.lines[self.at]), expected, self.at)
        return self._assemble(name, np.array(num_bodies, np.int64))

    def _next(self, expected: str) -> list[bytes]:
        if self.at >= len(self.lines):
            raise text.truncated(self.origin, self.lines, expected)
        self.at += 1
        return self.lines[self.at - 1].split()

    def _error(self, found: str, expected: str, line: int | None = None) -> RawInputError:
        """About the line last read, or the line of that index."""
        return raw_error(self.origin, f"line {self.at if line is None else line + 1}", found, expected)

    def _count(self, what: str) -> int:
        tokens = self._next(what)
        count = text.count_of(tokens[0]) if len(tokens) == 1 else None
        if count is None:
            raise self._error(shown(b" ".join(tokens)), f"{what}, one non-negative integer")
        return count

    def _frame(self, number: int) -> int:
        num_bodies = self._count(f"the body count of frame {number}")
        for body in range(1, num_bodies + 1):
            self._body(f"body {body} of frame {number}")
        return num_bodies

    def _body(self, whose: str) -> None:
        header = self._next(f"the header of {whose}")
        body_id = text.count_of(header[0]) if len(header) == HEADER_FIELDS else None
        if body_id is None:
            found = shown(b" ".join(header))
            raise self._error(found, f"the header of {whose}, {HEADER_FIELDS} fields from an integer id")
        joints = self._count(f"the joint count of {whose}")
        if joints != NUM_JOINTS:
            raise self._error(f"{joints} joints in {whose}", f"{NUM_JOINTS}")
        self.body_ids.append(body_id)
        self._joints(whose)

    def _joints(self, whose: str) -> None:
        rows = [line.split() for line in self.lines[self.at : self.at + NUM_JOINTS]]
        for joint, row in enumerate(rows):
            if len(row) != JOINT_FIELDS:
                expected = f"joint {joint + 1} of {whose}, {JOINT_FIELDS} fields"
                found = f"{len(row)} fields in {shown(self.lines[self.at + joint])}"
                raise self._error(found, expected, self.at + joint)
        if len(rows) < NUM_JOINTS:
            raise text.truncated(self.origin, self.lines, f"joint {len(rows) + 1} of {whose}")
        kept = [row[:NUM_COORDINATES] for row in rows]
        try:
            text.append_numbers(self.values, chain.from_iterable(kept))
        except ValueError:
            for joint, tokens in enumerate(kept):
                self._check_numbers(tokens, self.at + joint)
        self.first_joint_lines.append(self.at)
        self.at += NUM_JOINTS

    def _check_numbers(self, tokens: list[bytes], line: int) -> None:
        if (token := text.bad_token(tokens)) is not None:
            raise self._error(shown(token), "a number", line)

    def _assemble(self, name: str, num_bodies: npt.NDArray[np.int64]) -> RawSequence:
        T, S = len(num_bodies), max(1, int(num_bodies.max(initial=0)))
        if T * S > MAX_SLOTS:
            raise raw_error(
                self.origin, "", f"{T} frames of up to {S} bodies", f"at most {MAX_SLOTS} of both multiplied"
            )
        frame = np.repeat(np.arange(T), num_bodies)
        slot = np.arange(len(frame)) - np.repeat(np.cumsum(num_bodies) - num_bodies, num_bodies)
        joints = np.frombuffer(self.values, np.float64).reshape(-1, NUM_JOINTS, NUM_COORDINATES)
        if (bad := text.first_non_finite(joints)) is not None:
            body, joint, _ = bad
            found = f"{joints[bad]} in frame {frame[body] + 1}, joint {joint + 1}"
            raise self._error(found, "finite coordinates", self.first_joint_lines[body] + joint)
        frames = np.zeros((T, S, NUM_JOINTS, NUM_COORDINATES))
        frames[frame, slot] = joints
        body_ids = np.zeros((T, S), np.int64)
        body_ids[frame, slot] = self.body_ids
        return RawSequence(name, frames, num_bodies, body_ids)
