"""Mutations that know a format: what random bytes reach once in a million, a count, a checksum or a field, they hit."""

import json
import random
import re
import struct
from collections.abc import Callable
from hashlib import sha256
from typing import Any

Mutator = Callable[[bytes, random.Random], bytes]

TOKENS = [
    *(
        b"0 -0 1 2 25 024 025 +1 -1 1.5 .5 5. . - + e E5 1e5 1E-05 1e-400 1e999 1_0 0x1 nan NaN -inf infinity 1e1e1"
        b" 9007199254740993 9223372036854775807 9223372036854775808 18446744073709551616 250001"
        b" 0.1234567890123456789 -0.0 123456789.12345678 0.000000000000000000000001 1e22 1e23 1.7976931348623159e308"
        b" 5e-324 a01_s01_e00_v01 frames.npy frames.blosc json a.json v1.2 512 513 4611686018427387904"
    ).split(),
    *[b"", b"\0", b"\xff", b"\xef\xbb\xbf", b"\xc2\xa0", b"\x0c", b"\x1c", b"9" * 30, b"0." + b"3" * 70],
]
BREAKS = [b" ", b"  ", b"\t", b"\n", b"\r\n", b"\r", b",", b"\n\n", b"\x0b", b" \n", b"\x85", b""]

VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2.0, 1e308, -0.0, float("nan"), float("inf"), 10**30, "", "1", "..", "../a", "/a"),
    *(
        "a/../b",
        "a\\b",
        "a\0b",
        "a//b",
        "./a",
        "\ud800",
        "f" * 64,
        "F" * 64,
        [],
        {},
        [[]],
        {"a": 1},
        "float16",
        "fixed",
    ),
    *([0.5] * 3, [[0.5] * 3] * 20, [1, 2], ["x", 2, 3], [True, 0, 0], 3, "a01_s01_e00_v01"),
]


def text(data: bytes, rng: random.Random) -> bytes:
    """One to three edits of tokens, breaks and lines."""
    for _ in range(rng.randint(1, 3)):
        if rng.random() < 0.6:
            data = _token(data, rng)
        else:
            lines = data.splitlines(keepends=True) or [b""]
            at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
            line = lines[other]
            edits = [[*lines[:at], *lines[at + 1 :]], [*lines[:at], line, *lines[at:]], lines[:at], lines[at:]]
            data = b"".join(rng.choice(edits))
    return data


def _token(data: bytes, rng: random.Random) -> bytes:
    parts = re.split(rb"([\s,]+)", data)  # tokens at even places, breaks at odd ones
    at = rng.randrange(len(parts))
    choices = [parts[rng.randrange(len(parts))], b"", rng.choice(BREAKS if at % 2 else TOKENS)]
    if not at % 2 and parts[at].isdigit() and len(parts[at]) < 20:
        choices.append(str(max(0, int(parts[at]) + rng.choice((-1, 1, 512, -512)))).encode())
    parts[at] = rng.choice(choices[1:] if rng.random() < 0.8 else choices[:1])
    return b"".join(parts)


def _places(value: Any) -> list[tuple[Any, Any]]:
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    found = [(value, key) for key in keys]
    for key in keys:
        found += _places(value[key])
    return found


def json_value(data: bytes, rng: random.Random, seal: bool = False) -> bytes:
    """One value or key replaced, removed or copied; `seal` mends the checksum of a manifest, most of the time."""
    try:
        content = json.loads(data)
        places = _places(content)
    except (ValueError, RecursionError):
        return text(data, rng)
    if not places:
        return json.dumps(rng.choice(VALUES)).encode()
    holder, key = rng.choice(places)
    edit = rng.randrange(5)
    if edit == 0:
        del holder[key]
    elif edit == 1 and isinstance(holder, dict):
        holder[rng.choice(("a", "", "sha256", "path", "label"))] = holder.pop(key)
    elif edit == 2:
        other, there = rng.choice(places)
        holder[key] = json.loads(json.dumps(other[there])) if there in other or isinstance(other, list) else None
    else:
        holder[key] = rng.choice(VALUES)
    if seal and isinstance(content, dict) and rng.random() < 0.9:
        content.pop("sha256", None)
        content["sha256"] = sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    return json.dumps(content).encode()


def manifest(data: bytes, rng: random.Random) -> bytes:
    return json_value(data, rng, seal=True)


_TAR_FIELDS = [(0, 100), (100, 8), (108, 8), (124, 12), (136, 12), (148, 8), (156, 1), (157, 100), (257, 8), (345, 155)]
_TAR_VALUES = [
    b"",
    b"\0",
    b"a.json\0",
    b"00000000010\0",
    b"77777777777\0",
    b"\x80" + b"\0" * 10 + b"\1",
    b"-1",
    b"ustar ",
]
_TYPES = b"\x0001234567gxLKSA"


def tar(data: bytes, rng: random.Random) -> bytes:
    """A field of a member's header changed, most of the time with its checksum mended; or a member's content."""
    out = bytearray(data)
    headers = [at for at in range(0, len(out) - 511, 512) if out[at + 257 : at + 262] == b"ustar"]
    if not headers or rng.random() < 0.2:
        return _blocks(data, rng)
    at = rng.choice(headers)
    if rng.random() < 0.4:  # the block behind the header: a record or the head of frames
        content = bytes(out[at + 512 : at + 1024]).rstrip(b"\0")
        changed = text(content, rng) if rng.random() < 0.5 else raw(content, rng)
        out[at + 512 : at + 1024] = changed[:512].ljust(512, b"\0")
        if rng.random() < 0.7:  # and its size, if it says so
            out[at + 124 : at + 136] = b"%011o\0" % len(changed)
    else:
        offset, size = rng.choice(_TAR_FIELDS)
        value = bytes([rng.choice(_TYPES)]) if size == 1 else rng.choice(_TAR_VALUES)
        out[at + offset : at + offset + size] = value[:size].ljust(size, rng.choice((b"\0", b" ")))
    if rng.random() < 0.9:
        out[at + 148 : at + 156] = b" " * 8
        out[at + 148 : at + 156] = b"%06o\0 " % sum(out[at : at + 512])
    return bytes(out)


def _blocks(data: bytes, rng: random.Random) -> bytes:
    blocks = [data[at : at + 512] for at in range(0, len(data), 512)] or [bytes(512)]
    at, other = rng.randrange(len(blocks)), rng.randrange(len(blocks))
    edits = [
        [*blocks[:at], *blocks[at + 1 :]],
        [*blocks[:at], blocks[other], *blocks[at:]],
        [*blocks[:at], bytes(512), *blocks[at:]],
        [*blocks[:at], bytes(512), bytes(512)],
        [*blocks[:at], raw(blocks[at], rng)[:512].ljust(512, b"\0"), *blocks[at + 1 :]],
    ]
    return b"".join(rng.choice(edits))


_SIGNATURES = (b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7")
_NUMBERS = (0, 1, 2, 8, 9, 0x7F, 0xFF, 0xFFFE, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)


def archive(data: bytes, rng: random.Random) -> bytes:
    """A number in a record of a zip changed."""
    starts = [found.start() for mark in _SIGNATURES for found in re.finditer(re.escape(mark), data)]
    if not starts or rng.random() < 0.2:
        return raw(data, rng)
    out = bytearray(data)
    for _ in range(rng.randint(1, 2)):
        at = rng.choice(starts) + 4 + rng.randrange(46)
        form = rng.choice(("<H", "<L", "<B"))
        size = struct.calcsize(form)
        if at + size <= len(out):
            (old,) = struct.unpack_from(form, out, at)
            new = rng.choice((rng.choice(_NUMBERS), old + rng.randint(-3, 3)))
            struct.pack_into(form, out, at, new % (1 << 8 * size))
    return bytes(out)


def raw(data: bytes, rng: random.Random) -> bytes:
    """One to four edits that know nothing."""
    for _ in range(rng.randint(1, 4)):
        at, length, other = rng.randint(0, len(data)), rng.randrange(40), rng.randint(0, len(data))
        edits = [
            data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :],
            data[:at] + data[at + length :],
            data[:at],
            data[:at] + data[other : other + length] + data[at:],
            data[:at] + rng.choice(TOKENS) + data[at:],
        ]
        data = rng.choice(edits)
    return data


MUTATORS: dict[str, Mutator] = {
    "ntu": text,
    "pkummd1": text,
    "labels": text,
    "nwucla": json_value,
    "tar": tar,
    "index": text,
    "manifest": manifest,
    "archive": archive,
}
"""By target."""


def mutate(target: str, data: bytes, rng: random.Random) -> bytes:
    """Mutate an input of a target, mostly in the way of its format."""
    return (MUTATORS[target] if rng.random() < 0.75 else raw)(data, rng)
