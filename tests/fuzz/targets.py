"""What fuzzing feeds: bytes in, and either the one documented error or a result that can be trusted.

A target raises AssertionError when garbage was accepted; any other exception is a crash. Both are findings.
"""

import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipelines.archives import find_files
from pipelines.parsers import parse, pkummd
from shards.errors import ConfigError, RawInputError, StoreError
from shards.manifest import MANIFEST, read_manifest
from shards.reader import read_index, read_samples, read_shard
from shards.schema import RawSequence, SampleInfo
from shards.writer import sample_record, write_shard

ORIGIN = "fuzz"
NAMES = {"ntu": "S001C001P001R001A001", "pkummd1": "0002-L", "nwucla": "a01_s01_e00_v01"}

# On memory where there is some: a file an input, 20,000 inputs a second.
_FOLDER = Path(tempfile.mkdtemp(prefix="skelstream-fuzz-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))


def _names_its_file(error: Exception, *names: str) -> None:
    assert any(name in str(error) for name in names), f"the error names no file: {error}"


def _parsed(source: str, data: bytes) -> RawSequence | None:
    try:
        return parse(source, data, NAMES[source], ORIGIN)
    except RawInputError as error:
        _names_its_file(error, ORIGIN, NAMES[source])
        return None


def _consistent(sequence: RawSequence) -> None:
    frames, T = sequence.frames, len(sequence.frames)
    assert frames.dtype == np.float64
    assert frames.shape[2:] == (25, 3)
    assert sequence.num_bodies.shape == (T,)
    assert sequence.body_ids.shape == frames.shape[:2]
    assert np.isfinite(frames).all(), "a coordinate that is not finite was accepted"


def ntu(data: bytes) -> None:
    """Every accepted coordinate is float() of the token in its place, read here the obvious way."""
    sequence = _parsed("ntu", data)
    if sequence is None:
        return
    _consistent(sequence)
    lines = iter([line.split() for line in data.split(b"\n")])
    num_frames = int(next(lines)[0])
    assert num_frames == len(sequence.frames)
    for frame in range(num_frames):
        num_bodies = int(next(lines)[0])
        assert num_bodies == sequence.num_bodies[frame]
        for slot in range(num_bodies):
            assert int(next(lines)[0]) == sequence.body_ids[frame, slot]
            assert next(lines) == [b"25"]
            for joint in range(25):
                fields = next(lines)
                assert len(fields) == 12
                xyz = np.array([float(token) for token in fields[:3]])
                assert xyz.tobytes() == sequence.frames[frame, slot, joint].tobytes()
        assert not sequence.frames[frame, num_bodies:].any()
    assert not any(lines), "lines behind the last frame were accepted"


def pkummd1(data: bytes) -> None:
    """Every accepted number is float() of its token."""
    sequence = _parsed("pkummd1", data)
    if sequence is None:
        return
    _consistent(sequence)
    lines = [line.split() for line in data.rstrip().split(b"\n")]
    values = np.array([[float(token) for token in line] for line in lines])
    assert values.tobytes() == sequence.frames.tobytes()


def labels(data: bytes) -> None:
    """Every accepted row is four integers within the video and its classes."""
    try:
        rows, problems = pkummd.parse_labels(data, ORIGIN, 500, 51)
    except RawInputError:
        return
    assert len({row.row for row in rows} | {row for row, _ in problems}) == len(rows) + len(problems)
    lines = data.decode("ascii", "replace").rstrip().split("\n")
    for row in rows:
        assert 0 <= row.start < row.end <= 500
        assert 0 <= row.label < 51
        fields = [int(field) for field in lines[row.row].split(",")]
        assert fields == [row.label + 1, row.start, row.end, row.confidence]


def nwucla(data: bytes) -> None:
    """Every accepted coordinate is what the JSON says."""
    sequence = _parsed("nwucla", data)
    if sequence is None:
        return
    _consistent(sequence)
    content = json.loads(data)
    assert content["file_name"] == NAMES["nwucla"]
    kinect1 = np.array(content["skeletons"], dtype=np.float64).reshape(-1, 20, 3)
    assert np.array_equal(sequence.frames[:, 0, :20], kinect1)


def tar(data: bytes) -> None:
    """A shard gives whole samples or an error."""
    path = _FOLDER / "000000.tar"
    path.write_bytes(data)
    try:
        for key, frames, record in read_shard(path):
            assert isinstance(key, str)
            assert isinstance(record, dict)
            assert frames.shape[1:] == (2, 25, 3)
    except StoreError as error:
        _names_its_file(error, str(path))


def index(data: bytes) -> None:
    """An index gives whole samples of a good shard or an error."""
    path = _FOLDER / "indexed" / "000000.tar"
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        write_shard(path, [(key, np.full((2, 2, 25, 3), 0.5, np.float32), _record(key)) for key in ("a", "b")])
    path.with_suffix(".idx").write_bytes(data)
    try:
        listed = read_index(path)
        samples = read_samples(path, range(len(listed)), listed)
    except StoreError as error:
        _names_its_file(error, str(_FOLDER))
        return
    for _, frames, record in samples:
        assert (frames == 0.5).all(), "an index led to frames that are not there"
        assert record["label"] == 3


def _record(key: str) -> dict[str, object]:
    return sample_record(SampleInfo(key, 3), index=0, frames=2, source="ntu", recipe="raw", fingerprint="0" * 12)


def manifest(data: bytes) -> None:
    """A manifest is whole, with paths that stay inside its folder, or an error."""
    (_FOLDER / MANIFEST).write_bytes(data)
    try:
        found = read_manifest(_FOLDER)
    except StoreError as error:
        _names_its_file(error, str(_FOLDER))
        return
    for entry in found.files:
        assert (_FOLDER / entry.path).resolve().is_relative_to(_FOLDER.resolve())
        assert re.fullmatch("[0-9a-f]{64}", entry.sha256)


def archive(data: bytes) -> None:
    """A zip gives its members with the CRC they declare, or an error."""
    path = _FOLDER / "archive.zip"
    path.write_bytes(data)
    try:
        for file in find_files([path], (".txt",)):
            assert len(file.read()) == file.size
    except (RawInputError, ConfigError):
        return


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
