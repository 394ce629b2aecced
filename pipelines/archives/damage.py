"""What raw files often are instead of what their names say, and what a person can do about it.

Asked only when a file could not be read, so it costs nothing where all is well.
"""

import codecs
import re
from typing import NamedTuple

MARK = codecs.BOM_UTF8
"""The UTF-8 byte order mark that Windows programs put in front of a text; it changes no number."""

HEAD_BYTES = 1024
"""Of a file, by which most is known."""

_AGAIN = "get the file again"
_UNPACK = "unpack it"
_ARRAYS = "the publishers' raw files are read, not arrays made of them"
_STARTS: tuple[tuple[tuple[bytes, ...], str, str], ...] = (
    ((b"version https://git-lfs.github.com/spec/",), "a Git LFS pointer", "run git lfs pull"),
    ((b"/annex/objects/",), "a git-annex pointer", "run git annex get"),
    ((b"PK\x03\x04", b"PK\x05\x06"), "a zip", "unpack it or let its name end in .zip"),
    ((b"\x1f\x8b",), "gzip data", _UNPACK),
    ((b"BZh",), "bzip2 data", _UNPACK),
    ((b"\xfd7zXZ\0",), "xz data", _UNPACK),
    ((b"\x28\xb5\x2f\xfd",), "Zstandard data", _UNPACK),
    ((b"7z\xbc\xaf\x27\x1c",), "a 7z archive", _UNPACK),
    ((b"Rar!\x1a\x07",), "a RAR archive", _UNPACK),
    ((b"\x93NUMPY",), "a NumPy array", _ARRAYS),
    ((b"MATLAB ",), "a MATLAB file", _ARRAYS),
    ((b"\x89HDF\r\n\x1a\n",), "an HDF5 file", _ARRAYS),
    (tuple(b"\x80%c" % version for version in range(2, 6)), "a Python pickle", _ARRAYS),
)
_TAR, _TAR_AT = b"ustar", 257
_ENCODINGS = (
    ("UTF-32", 4, (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)),
    ("UTF-16", 2, (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)),
)
_MIN_WIDE_BYTES = 8

_DIVIDERS = {b",": "commas", b";": "semicolons", b"|": "bars"}
_NULS = re.compile(rb"\0{4,}")
_DECIMAL_COMMA = re.compile(rb"[+-]?\d*,\d+([eE][+-]?\d+)?")
# With few digits its printf rounds the word too: -1.#IND, 1.#QNAN0, 1.#J, 1.$.
_VISUAL_C = re.compile(rb"[+-]?(1\.(#[A-Za-z]+|\$)\d*|nan\([a-z]+\))")


class Damage(NamedTuple):
    """What was found, and what to do: both parts of a sentence."""

    found: str
    remedy: str

    def expected(self, what: str) -> str:
        """What the format demands, and the remedy."""
        return f"{what}: {self.remedy}" if self.remedy else what


def identify(data: bytes, own: bytes = b"") -> Damage | None:
    """What a file as a whole is, if it is one of the things that are often found in the place of raw text.

    Args:
        data: the file, or its first bytes.
        own: what the expected format may itself begin with, such as the bracket of JSON.
    """
    head = data.removeprefix(MARK)[:HEAD_BYTES]
    for starts, what, remedy in _STARTS:
        if head.startswith(starts):
            return Damage(what, remedy)
    if head[_TAR_AT:].startswith(_TAR):
        return Damage("a tar archive", _UNPACK)
    if encoding := _wide_encoding(head):
        return Damage(f"{encoding} text", f"convert it, as by iconv -f {encoding} -t UTF-8")
    if data and not data.strip(b"\0"):
        return Damage("nothing but NUL bytes", f"its content was lost, {_AGAIN}")
    return _answer(head.lstrip().lower(), own)


def _wide_encoding(head: bytes) -> str | None:
    for name, width, marks in _ENCODINGS:
        if head.startswith(marks):
            return name
        # ASCII in wide units without a mark: the first or the last byte of each tells, the others are NUL.
        units = head[: len(head) // width * width]
        for end, lane in (("LE", units[::width]), ("BE", units[width - 1 :: width])):
            if len(units) >= _MIN_WIDE_BYTES and 0 not in lane and units.count(0) == len(units) - len(lane):
                return name + end
    return None


def _answer(head: bytes, own: bytes) -> Damage | None:
    """What a server may have answered instead of the file."""
    if head.startswith(b"<"):
        xml = head.startswith((b"<?xml", b"<error")) and b"<html" not in head and b"<!doctype html" not in head
        what = "XML (perhaps a server's answer)" if xml else "a web page"
        return Damage(what, "download the file again, signed in where its site asks for that")
    if head[:1] in (b"{", b"[") and head[:1] not in own:
        return Damage("JSON (perhaps a server's answer)", "download the file again, or name another source")
    return None


def describe(data: bytes, at: int, what: str, own: bytes = b"") -> Damage:
    """Why a text could not be read: what it is as a whole, else what is wrong at a byte; with the line itself.

    Args:
        data: the file.
        at: index of the first byte that does not fit.
        what: is wrong there, in case that is nothing known.
        own: signs that do fit the format: its brackets and commas.
    """
    start = data.rfind(b"\n", 0, at) + 1
    end = data.find(b"\n", at)
    line, at_in_line = data[start : None if end < 0 else end], at - start
    if whole := identify(data, own):
        return Damage(f"{whole.found}, {shown(line, at_in_line)}", whole.remedy)
    here = _spoilt(data, at, line, at_in_line, own) or Damage(what, "")
    return Damage(f"{here.found} in {shown(line, at_in_line)}", here.remedy)


def _spoilt(data: bytes, at: int, line: bytes, at_in_line: int, own: bytes) -> Damage | None:
    rest = data[at:]
    nuls = len(rest) - len(rest.lstrip(b"\0"))
    if nuls > 1:
        return Damage(f"{nuls} NUL bytes", f"a part of its content was lost, {_AGAIN}")
    if rest.startswith(MARK):
        return Damage("a byte order mark inside the text", "remove it")
    for word in _VISUAL_C.finditer(line):
        if word.start() <= at_in_line <= word.end():
            token = word[0].decode("ascii")
            return Damage(
                f"{token!r}, as Visual C++ writes NaN and infinity,",
                "write NaN where it is no coordinate, else leave the sample out",
            )
    divider = rest[:1]
    if divider not in _DIVIDERS or divider in own:
        return None
    tokens = [token for token in line.split() if divider in token]
    if divider == b"," and all(map(_DECIMAL_COMMA.fullmatch, tokens)):
        return Damage("decimal commas", "write points instead of commas")
    named = _DIVIDERS[divider]
    return Damage(f"fields divided by {named}", f"write blanks instead of {named}")


def shown(line: bytes, at: int = 0, limit: int = 60) -> str:
    """A line of a file for an error message, printable, cut to the part around byte `at`."""
    start = max(0, min(at - limit // 3, len(line) - limit))
    part = _NULS.sub(b"\0...\0", line[start : start + limit].strip())
    before, after = "..." if start else "", "..." if len(line.rstrip()) > start + limit else ""
    return ascii(f"{before}{part.decode('latin-1')}{after}")
