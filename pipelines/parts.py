"""Raw files -> parts -> frames of the store: the first two stages of a conversion, as units of work.

A part is a batch of raw files, parsed and prepared: their frames end to end in one file, what is known of them in
another, which is written last and says that the part is done. Parts live in the work folder of a conversion:

    parts/NNNNNN.f32     frames (F, M, V, C) as little-endian float32, no header
    parts/NNNNNN.json    `Part`
    done/<unit>.json     `Done`: the files that a later unit wrote, with their hashes
    store.zarr, shards   the result so far
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.archives import RawFile, find_files
from pipelines.parsers import SUFFIXES, parse, pkummd
from pipelines.preprocessing.bodies import present
from pipelines.preprocessing.recipes import Recipe, recipe
from shards import catalog
from shards.cells import memberships
from shards.errors import RawInputError
from shards.manifest import STORE, FileEntry, Outcome, atomic_path, file_entry, write_atomic
from shards.schema import SampleInfo, segment_key
from shards.skeleton import NUM_COORDINATES, NUM_JOINTS, NUM_PERSONS
from shards.store import FRAMES_PER_SHARD, frame_shard_file, write_frames

FRAME_SHAPE = (NUM_PERSONS, NUM_JOINTS, NUM_COORDINATES)
FRAME_BYTES = 4 * NUM_PERSONS * NUM_JOINTS * NUM_COORDINATES

FILES_PER_PART = 64
"""Large enough that starting a unit costs nothing, small enough that a killed one loses about a second."""


@dataclass(frozen=True)
class Recording:
    """The raw files of one recording; an untrimmed video has a label file."""

    skeleton: RawFile
    labels: RawFile | None = None

    @property
    def key(self) -> str:
        return self.skeleton.name

    @property
    def files(self) -> tuple[RawFile, ...]:
        return (self.skeleton,) if self.labels is None else (self.skeleton, self.labels)


def list_recordings(source: str, raw: Sequence[Path], progress: bool = False) -> list[Recording]:
    """All recordings of a source in folders and zips, sorted by key.

    Raises:
        RawInputError: nothing there, a damaged zip, two files of one name, a video without labels.
    """
    untrimmed = catalog.source(source).untrimmed
    files = find_files(raw, SUFFIXES[source], allow_same_name=untrimmed, progress=progress)
    if untrimmed:
        return [Recording(*pair) for pair in pkummd.pair_files(files)]
    return [Recording(file) for file in files]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Parsed(_Frozen):
    """What became of one recording.

    Attributes:
        info: None where the recording cannot be used.
        frames: how many it has in the part.
        actions: the usable rows of its label file.
        repaired: what was changed.
        excused: what is left out because the official release is known to be wrong there.
        faults: what is wrong.
    """

    info: SampleInfo | None
    frames: int = 0
    actions: list[pkummd.LabelRow] = []
    repaired: list[Outcome] = []
    excused: list[Outcome] = []
    faults: list[Outcome] = []


class Part(_Frozen):
    """The second file of a part."""

    recordings: list[Parsed]

    @property
    def frames(self) -> int:
        return sum(parsed.frames for parsed in self.recordings)

    @property
    def faults(self) -> list[Outcome]:
        return [fault for parsed in self.recordings for fault in parsed.faults]


class Done(_Frozen):
    """Files that a unit has finished. They are hashed where they are written, while they are still in memory."""

    files: list[FileEntry]


def read_done(work: Path, unit: str) -> Done | None:
    """The files of a finished unit; None if it never finished or a file is not there as it was left."""
    try:
        done = Done.model_validate_json((work / "done" / f"{unit}.json").read_bytes())
        return done if all((work / f.path).stat().st_size == f.bytes for f in done.files) else None
    except (OSError, ValidationError):
        return None


def write_done(work: Path, unit: str, paths: Sequence[Path]) -> None:
    """Declare a unit finished that wrote the files `paths`."""
    done = Done(files=[file_entry(work, path) for path in paths])
    write_atomic(work / "done" / f"{unit}.json", done.model_dump_json().encode())


def part_frames(work: Path, number: int) -> Path:
    return work / "parts" / f"{number:06d}.f32"


def read_part(work: Path, number: int) -> Part | None:
    """A finished part, or None."""
    frames = part_frames(work, number)
    try:
        part = Part.model_validate_json(frames.with_suffix(".json").read_bytes())
        return part if frames.stat().st_size == part.frames * FRAME_BYTES else None
    except (OSError, ValidationError):
        return None


@dataclass(frozen=True)
class PartUnit:
    """Parse and prepare a batch of recordings.

    Attributes:
        strict: whether a fault is raised; else it is only written down. The part's bytes are the same.
    """

    work: Path
    number: int
    source: str
    recipe: str
    recordings: tuple[Recording, ...]
    strict: bool

    def __call__(self) -> None:
        """Make the part.

        Raises:
            RawInputError: strict, and something is wrong; it is the first fault by key.
        """
        path = part_frames(self.work, self.number)
        recipe_ = recipe(self.recipe, self.source)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            part = Part(recordings=[_prepare(recording, self.source, recipe_, file) for recording in self.recordings])
        write_atomic(path.with_suffix(".json"), part.model_dump_json().encode())
        if self.strict and part.faults:
            raise RawInputError(part.faults[0].reason)

    def is_done(self) -> bool:
        """Whether there is nothing left to do. A part with faults is made again: a bad disk may have been mended."""
        part = read_part(self.work, self.number)
        return part is not None and len(part.recordings) == len(self.recordings) and not part.faults


def _prepare(recording: Recording, source: str, recipe_: Recipe, file: BinaryIO) -> Parsed:
    """Parse one recording, append its frames to `file`, and tell what became of it."""
    skeleton = recording.skeleton
    try:
        info = catalog.info_from_name(source, skeleton.name)
        memberships(source, info)  # an official list may not know it
        raw = parse(source, skeleton.read(), skeleton.name, skeleton.origin)
        frames, bodies, repairs = recipe_.sample(raw)
        labelled = _read_labels(recording, source, recipe_, frames)
    except RawInputError as error:
        return Parsed(info=None, faults=[_fault(skeleton, error)])
    if not catalog.source(source).untrimmed:
        frames = recipe_.window(frames)
    file.write(np.ascontiguousarray(frames, dtype="<f4").data)
    repaired = [Outcome(key=skeleton.name, reason=reason) for reason in repairs] + labelled.repaired
    return labelled.model_copy(
        update={"info": replace(info, bodies=bodies), "frames": len(frames), "repaired": repaired}
    )


def _read_labels(recording: Recording, source: str, recipe_: Recipe, frames: npt.NDArray[np.float32]) -> Parsed:
    """The actions of a video, with what is wrong in single rows; empty for a trimmed source."""
    if recording.labels is None:
        return Parsed(info=None)
    file, key, facts = recording.labels, recording.key, catalog.source(source)
    rows, problems = pkummd.parse_labels(file.read(), file.origin, len(frames), facts.num_classes)
    known = facts.known_faults
    excused = [Outcome(key=segment_key(key, row), reason=known[key, row]) for row, _ in problems if (key, row) in known]
    faults = [Outcome(key=segment_key(key, row), reason=why) for row, why in problems if (key, row) not in known]
    repaired = [
        Outcome(key=segment_key(key, row.row), reason=reason)
        for row in rows
        for reason in _clip_remarks(row, recipe_, frames)
    ]
    return Parsed(info=None, actions=rows, repaired=repaired, excused=excused, faults=faults)


def _clip_remarks(row: pkummd.LabelRow, recipe_: Recipe, frames: npt.NDArray[np.float32]) -> list[str]:
    remarks = recipe_.repairs(row.end - row.start)
    if not present(frames[row.start : row.end]).any():
        # The reference keeps such clips, so that its counts are the official ones.
        remarks.append(f"no body in frames {row.start} to {row.end - 1}: kept as zeros")
    return remarks


def _fault(file: RawFile, error: RawInputError) -> Outcome:
    message = str(error)
    reason = message if file.origin in message else f"{file.origin}: {message}"
    # A file's name may hold bytes that are no text, which JSON cannot hold.
    key, reason = (text.encode(errors="backslashreplace").decode() for text in (file.name, reason))
    return Outcome(key=key, reason=reason)


@dataclass(frozen=True)
class StoreUnit:
    """Write one Zarr shard of frames.

    Attributes:
        number: of the shard.
        pieces: (part, first frame, stop frame) of what it holds.
    """

    work: Path
    number: int
    pieces: tuple[tuple[int, int, int], ...]

    @property
    def name(self) -> str:
        return f"store-{self.number:06d}"

    def __call__(self) -> None:
        store = self.work / STORE
        frames = np.concatenate([_read_piece(self.work, *piece) for piece in self.pieces])
        write_frames(store, self.number * FRAMES_PER_SHARD, frames)
        write_done(self.work, self.name, [frame_shard_file(store, self.number)])

    def is_done(self) -> bool:
        return read_done(self.work, self.name) is not None


def _read_piece(work: Path, part: int, first: int, stop: int) -> npt.NDArray[np.float32]:
    count = (stop - first) * FRAME_BYTES // 4
    flat = np.fromfile(part_frames(work, part), dtype="<f4", count=count, offset=first * FRAME_BYTES)
    return flat.astype(np.float32, copy=False).reshape(-1, *FRAME_SHAPE)


def store_units(work: Path, part_lengths: Sequence[int]) -> list[StoreUnit]:
    """Divide the frames of all parts, end to end, into Zarr shards."""
    starts = np.concatenate([[0], np.cumsum(part_lengths)]).astype(int).tolist()
    units = []
    for number in range(-(-starts[-1] // FRAMES_PER_SHARD)):
        first, stop = number * FRAMES_PER_SHARD, min((number + 1) * FRAMES_PER_SHARD, starts[-1])
        overlaps = ((p, max(first, a), min(stop, b)) for p, (a, b) in enumerate(pairwise(starts)))
        pieces = tuple((p, a - starts[p], b - starts[p]) for p, a, b in overlaps if a < b)
        units.append(StoreUnit(work, number, pieces))
    return units
