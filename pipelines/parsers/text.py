"""What the text formats share: strict lines of plain ASCII numbers.

Canonical text is read by the compiled kernels of `scan`. All other text comes here, where numbers are converted by
`float` itself: both give the bits of `float(token)`, and only this side names what is wrong and where.
"""

import sys
from array import array
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from pipelines.archives import damage
from shards.errors import RawInputError, raw_error

MIN_SCANNED_BYTES = 64
"""Texts shorter than what the kernels load at once are left to Python."""

# Digits, signs, exponents and blanks, and the letters of "NaN" and "Infinity", which are reported as such. Whatever
# else `float` or `split` would let pass (underscores, form feeds, other alphabets) is refused before they see it.
_ALLOWED = b"0123456789+-.eE \t\r\n" + b"naifty" + b"NAIFTY"
_MAX_INT64_DIGITS = 19


def scannable(data: bytes) -> npt.NDArray[np.uint8] | None:
    """The bytes as an array for the kernels of `scan`; None where these cannot read."""
    skipped = len(damage.MARK) if data.startswith(damage.MARK) else 0
    if len(data) - skipped < MIN_SCANNED_BYTES or sys.byteorder != "little":
        return None
    return np.frombuffer(data, np.uint8, offset=skipped)


def number_lines(data: bytes, origin: str, expected: str = "plain numbers and blanks") -> list[bytes]:
    """Split a text of numbers at LF or CRLF, without a byte order mark and the blank lines at its end.

    Args:
        data: the file.
        origin: the file for error messages.
        expected: of a line, for error messages.

    Raises:
        RawInputError: a byte that belongs to no number, or a lone carriage return; names the line.
    """
    data = data.removeprefix(damage.MARK)
    if stray := data.translate(None, _ALLOWED):
        at = data.index(stray[:1])
        line, seen = data.count(b"\n", 0, at) + 1, damage.describe(data, at, f"the byte {stray[:1]!r}")
        raise raw_error(origin, f"line {line}", seen.found, seen.expected(expected))
    lines = data.split(b"\n")
    if data.count(b"\r") != data.count(b"\r\n"):
        _refuse_lone_returns(lines, origin)
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _refuse_lone_returns(lines: list[bytes], origin: str) -> None:
    for number, line in enumerate(lines, start=1):
        if b"\r" in line[:-1]:
            raise raw_error(origin, f"line {number}", "a carriage return inside", "lines that end in LF or CRLF")


def count_of(token: bytes) -> int | None:
    """The integer from 0 to 2**63 - 1 a token writes in digits, else None; never by way of a float (exact to 2**53)."""
    if not token.isdigit() or len(token) > _MAX_INT64_DIGITS:
        return None
    count = int(token)
    return count if count < 2**63 else None


def append_numbers(values: "array[float]", tokens: Iterable[bytes]) -> None:
    """Append every token as float64; ValueError if one is not a number."""
    values.extend(map(float, tokens))


def bad_token(tokens: Iterable[bytes]) -> bytes | None:
    """The first token that is not a number, None if all are."""
    return next((token for token in tokens if not _is_number(token)), None)


def _is_number(token: bytes) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return True


def first_non_finite(frames: npt.NDArray[np.float64]) -> tuple[int, ...] | None:
    """Index of the first NaN or infinite entry, None if all are finite."""
    if np.isfinite(frames).all():
        return None
    return tuple(int(i) for i in np.argwhere(~np.isfinite(frames))[0])


def truncated(origin: str, lines: list[bytes], expected: str) -> RawInputError:
    """The error of a file that ends too early."""
    return raw_error(origin, f"line {len(lines) + 1}", "the end of the file", expected)
