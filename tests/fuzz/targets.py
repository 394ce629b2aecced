"""What fuzzing feeds: bytes in, and either the one documented error or a result that can be trusted.

A target raises AssertionError when garbage was accepted; any other exception is a crash. Both are findings.
"""

import atexit
import json
import os
import re
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from pipelines.archives import find_files
from pipelines.archives.damage import MARK
from pipelines.parsers import ntu as ntu_parser
from pipelines.parsers import nwucla as nwucla_parser
from pipelines.parsers import pkummd, scan, text
from shards.encoding import decode_fixed
from shards.errors import ConfigError, RawInputError, StoreError
from shards.manifest import MANIFEST, encode_manifest, read_manifest
from shards.reader import read_index, read_samples, read_shard
from shards.schema import RawSequence
from tests.fuzz.guarded import guarded
from tests.fuzz.seeds import SHARD, shard

ORIGIN = "fuzz"
NWUCLA = "a01_s01_e00_v01"

# In memory where there is some: a file an input, 20,000 inputs a second. Removed when the process ends.
_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) and "TMPDIR" not in os.environ else None
_TEMPORARY = tempfile.TemporaryDirectory(prefix="skelstream-fuzz-", dir=_MEMORY)
_FOLDER = Path(_TEMPORARY.name)
atexit.register(_TEMPORARY.cleanup)


def _names_its_file(error: Exception, *names: str) -> None:
    assert any(name in str(error) for name in names), f"the error names no file: {error}"
    assert len(str(error)) < 1000, "an error longer than a page"


def _parsed(parse: Callable[[bytes, str, str], RawSequence], data: bytes, name: str = "key") -> RawSequence | None:
    try:
        sequence = parse(data, name, ORIGIN)
    except RawInputError as error:
        _names_its_file(error, ORIGIN)
        return None
    frames, T = sequence.frames, len(sequence.frames)
    assert frames.dtype == np.float64
    assert frames.shape[2:] == (25, 3)
    assert sequence.num_bodies.shape == (T,)
    assert sequence.body_ids.shape == frames.shape[:2]
    assert np.isfinite(frames).all(), "a coordinate that is not finite was accepted"
    return sequence


def _same(a: RawSequence | None, b: RawSequence | None) -> None:
    assert (a is None) == (b is None), "one parser accepts what the other refuses"
    if a is not None and b is not None:
        for name in ("frames", "num_bodies", "body_ids"):
            first, second = getattr(a, name), getattr(b, name)
            assert first.shape == second.shape
            assert first.tobytes() == second.tobytes(), f"the parsers differ in {name}"


def ntu(data: bytes) -> None:
    """The kernel reads nothing beyond the text, agrees with the plain parser, and both with float() of the tokens."""
    sequence = _parsed(ntu_parser.parse_any, data)
    _same(_parsed(ntu_parser.parse, data), sequence)
    if text.scannable(data) is not None:
        for front in (True, False):
            scan.ntu(guarded(data, front), ntu_parser.MAX_SLOTS)
    if sequence is not None:
        _states_ntu(data.removeprefix(MARK), sequence)


def _states_ntu(data: bytes, sequence: RawSequence) -> None:
    lines = iter([line.split() for line in data.split(b"\n")])
    num_frames = int(next(lines)[0])
    assert num_frames == len(sequence.frames)
    for frame in range(num_frames):
        num_bodies = int(next(lines)[0])
        assert num_bodies == sequence.num_bodies[frame]
        for slot in range(num_bodies):
            assert int(next(lines)[0]) == sequence.body_ids[frame, slot]
            assert int(next(lines)[0]) == 25
            for joint in range(25):
                fields = next(lines)
                assert len(fields) == 12
                xyz = np.array([float(token) for token in fields[:3]])
                assert xyz.tobytes() == sequence.frames[frame, slot, joint].tobytes()
        assert not sequence.frames[frame, num_bodies:].any()
    assert not any(lines), "lines behind the last frame were accepted"


def pkummd1(data: bytes) -> None:
    """The kernel reads nothing beyond the text, agrees with the plain parser, and both with float() of the tokens."""
    sequence = _parsed(pkummd.parse_any, data)
    _same(_parsed(pkummd.parse, data), sequence)
    if text.scannable(data) is not None:
        for front in (True, False):
            for lines in (data.count(b"\n"), data.count(b"\n") + 1):
                scan.pkummd(guarded(data, front), lines)
    if sequence is not None:
        lines = [line.split() for line in data.removeprefix(MARK).rstrip().split(b"\n")]
        values = np.array([[float(token) for token in line] for line in lines])
        assert values.tobytes() == sequence.frames.tobytes()


def labels(data: bytes) -> None:
    """Every accepted row is four integers within the video and its classes."""
    try:
        rows, problems = pkummd.parse_labels(data, ORIGIN, 500, 51)
    except RawInputError as error:
        _names_its_file(error, ORIGIN)
        return
    assert all(len(problem) < 1000 for _, problem in problems), "an error longer than a page"
    lines = [line for line in data.removeprefix(MARK).decode("ascii", "replace").split("\n") if line.strip(" \t\r")]
    assert sorted([*(row.row for row in rows), *(row for row, _ in problems)]) == list(range(len(lines)))
    for row in rows:
        assert 0 <= row.start < row.end <= 500
        assert 0 <= row.label < 51
        assert re.fullmatch(r"[\s,\d-]*", lines[row.row], re.ASCII)
        fields = [int(field) for field in lines[row.row].split(",")]
        assert fields == [row.label + 1, row.start, row.end, row.confidence]


def nwucla(data: bytes) -> None:
    """Every accepted coordinate is what the JSON says."""
    sequence = _parsed(nwucla_parser.parse, data, NWUCLA)
    if sequence is None:
        return
    content = json.loads(data)
    assert content["file_name"] == NWUCLA
    kinect1 = np.array(content["skeletons"], dtype=np.float64).reshape(-1, 20, 3)
    assert np.array_equal(sequence.frames[:, 0, :20], kinect1)


def _members(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The members of a tar, by block after block from its front; nothing but zeros may follow."""
    at = 0
    while any(block := data[at : at + 512]):
        header = tarfile.TarInfo.frombuf(block, "ascii", "strict")
        assert header.isreg(), "something that is no file was passed over"
        yield header.name, data[at + 512 : at + 512 + header.size]
        at += 512 + -(-header.size // 512) * 512
    assert len(data) - at >= 1024, "a tar without its end was accepted"
    assert not any(data[at:]), "bytes behind the end were passed over"


def tar(data: bytes) -> None:
    """A shard gives every sample that lies in it, or an error."""
    path = _FOLDER / "000000.tar"
    path.write_bytes(data)
    try:
        samples = list(read_shard(path))
    except StoreError as error:
        _names_its_file(error, str(path))
        return
    members = list(_members(data))
    assert len(members) == 2 * len(samples), "a member was passed over"
    for (key, frames, record), (frames_name, npy), (record_name, state) in zip(
        samples, members[::2], members[1::2], strict=True
    ):
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,80}", key), f"a key that no writer gives: {key!r}"
        assert record_name == f"{key}.json"
        assert frames.shape[1:] == (2, 25, 3)
        assert len(frames)
        if frames_name == f"{key}.frames.blosc":
            assert np.array_equal(frames, decode_fixed(npy, record["frames"], ""))
        else:
            assert frames_name == f"{key}.frames.npy"
            assert npy.endswith(frames.tobytes())
        assert json.loads(state) == record
        json.dumps(record, allow_nan=False)
    assert len({key for key, _, _ in samples}) == len(samples), "a key that is there twice was accepted"


def index(data: bytes) -> None:
    """An index gives the samples of its shard, each whole and under its own key, or an error."""
    path = _FOLDER / "indexed" / "000000.tar"
    if not path.exists():
        path.parent.mkdir()
        path.write_bytes(shard("float32")[0])
    path.with_suffix(".idx").write_bytes(data)
    try:
        listed = read_index(path)
        samples = read_samples(path, range(len(listed)), listed)
    except StoreError as error:
        _names_its_file(error, str(_FOLDER))
        return
    expected = {key: (frames, record) for key, frames, record in SHARD}
    assert len({key for key, _, _ in samples}) == len(samples), "a key that is there twice was accepted"
    for key, frames, record in samples:
        assert key in expected, "a key that is not there was accepted"
        assert np.array_equal(frames, expected[key][0]), "an index led to frames that are not there"
        assert record == expected[key][1], "a record of another sample was accepted"


def manifest(data: bytes) -> None:
    """A manifest is whole, of the stated types, with paths that stay inside its folder, or an error."""
    (_FOLDER / MANIFEST).write_bytes(data)
    try:
        found = read_manifest(_FOLDER)
    except StoreError as error:
        _names_its_file(error, str(_FOLDER))
        return
    stated, kept = json.loads(data), json.loads(encode_manifest(found))
    del stated["sha256"], kept["sha256"]  # of their texts: 0 and 0.0 are one number, but two texts
    stated["max_error"] = float(stated["max_error"])
    assert kept == stated, "something was changed into what was expected"
    for path in [entry.path for entry in found.files] + [p for s in found.shards for p in (s.path, s.index)]:
        assert (_FOLDER / path).resolve().is_relative_to(_FOLDER.resolve())
    for entry in found.files:
        assert re.fullmatch("[0-9a-f]{64}", entry.sha256)
        assert entry.bytes >= 0


def archive(data: bytes) -> None:
    """A zip gives its members with the size and CRC they declare, or an error."""
    path = _FOLDER / "archive.zip"
    path.write_bytes(data)
    try:
        for file in find_files([path], (".txt",)):
            content = file.read()
            assert (len(content), zlib.crc32(content)) == (file.size, file.crc32)
            assert file.member is not None
            assert data[file.member.header_offset :].startswith(b"PK\3\4")
    except (RawInputError, ConfigError) as error:
        _names_its_file(error, "archive.zip", ".txt")


TARGETS: dict[str, Callable[[bytes], None]] = {
    "ntu": ntu,
    "pkummd1": pkummd1,
    "labels": labels,
    "nwucla": nwucla,
    "tar": tar,
    "index": index,
    "manifest": manifest,
    "archive": archive,
}
