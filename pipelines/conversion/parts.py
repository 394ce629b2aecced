"""Raw files -> parts -> frames of the store: the first two stages of a conversion, as units of work.

A part is a batch of raw files, parsed and prepared: their frames end to end in one file, what is known of them in
another, which is written last and says that the part is done. Parts live in the work folder of a conversion:

    parts/NNNNNN.f32     frames (F, M, V, C) as little-endian float32, no header
    parts/NNNNNN.json    `Part`, with the CRC of the frames: parts are not synced, one torn by a power cut is made again
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
from isal import isal_zlib

from pipelines.conversion.marks import is_done, read_checked, replacing, write_checked, write_done
from pipelines.conversion.recordings import Recording
from pipelines.parsers import parse, pkummd
from pipelines.preprocessing.bodies import present
from pipelines.preprocessing.recipes import Recipe, recipe
from shards import catalog
from shards.cells import memberships
from shards.encoding import FRAME_SHAPE
from shards.errors import RawInputError, StoreError
from shards.frozen import Frozen
from shards.manifest import STORE, Outcome
from shards.schema import Quality, SampleInfo, segment_key
from shards.skeleton import NUM_COORDINATES, NUM_JOINTS, NUM_PERSONS
from shards.store import FRAMES_PER_SHARD, frame_shard_file, write_frames

FRAME_BYTES = 4 * NUM_PERSONS * NUM_JOINTS * NUM_COORDINATES

FILES_PER_PART = 64
"""Large enough that starting a unit costs nothing, small enough that a killed one loses less than a second."""

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Parsed:
    """What became of one recording. No validated model, which takes 30 microseconds to make.

    Attributes:
        info: None where the recording cannot be used.
        quality: of the raw recording.
        frames: how many it has in the part.
        actions: the usable rows of its label file.
        repaired: what was changed.
        excused: what is left out because the official release is known to be wrong there, or by a rule of the recipe.
        faults: what is wrong.
    """

    info: SampleInfo | None
    quality: Quality | None = None
    frames: int = 0
    actions: tuple[pkummd.LabelRow, ...] = ()
    repaired: tuple[Outcome, ...] = ()
    excused: tuple[Outcome, ...] = ()
    faults: tuple[Outcome, ...] = ()


class Part(Frozen):
    """The second file of a part; `crc32` is of the first."""

    recordings: tuple[Parsed, ...]
    crc32: int

    @property
    def frames(self) -> int:
        return sum(parsed.frames for parsed in self.recordings)

    @property
    def faults(self) -> list[Outcome]:
        return [fault for parsed in self.recordings for fault in parsed.faults]


def part_frames(work: Path, number: int) -> Path:
    return work / "parts" / f"{number:06d}.f32"


def read_part(work: Path, number: int) -> Part | None:
    """What is known of a part that has as many frames as it says, or None."""
    frames = part_frames(work, number)
    try:
        part = Part.model_validate_json(read_checked(frames.with_suffix(".json")))
        return part if frames.stat().st_size == part.frames * FRAME_BYTES else None
    except (OSError, ValueError):
        return None


def _is_intact(path: Path, crc32: int) -> bool:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            crc = isal_zlib.crc32(block, crc)
    return crc == crc32


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
        with replacing(path) as file:
            writer = _FrameWriter(file)
            recipe_ = recipe(self.recipe, self.source)
            recordings = tuple(_prepare(recording, self.source, recipe_, writer) for recording in self.recordings)
            part = Part.model_construct(recordings=recordings, crc32=writer.crc32)
        write_checked(path.with_suffix(".json"), part.model_dump_json())
        if self.strict and part.faults:
            raise RawInputError(part.faults[0].reason)

    def is_done(self) -> bool:
        """Whether there is nothing left to do. A part with faults is made again: a bad disk may have been mended."""
        part = read_part(self.work, self.number)
        return (
            part is not None
            and len(part.recordings) == len(self.recordings)
            and not part.faults
            and _is_intact(part_frames(self.work, self.number), part.crc32)
        )


class _FrameWriter:
    """Appends frames to the first file of a part and keeps its CRC."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.crc32 = 0

    def write(self, frames: npt.NDArray[np.float32]) -> None:
        data = np.ascontiguousarray(frames, dtype="<f4").data.cast("B")
        self.crc32 = isal_zlib.crc32(data, self.crc32)
        self._file.write(data)


def _prepare(recording: Recording, source: str, recipe_: Recipe, writer: _FrameWriter) -> Parsed:
    """Parse one recording, pass its frames to `writer`, and tell what became of it."""
    skeleton = recording.skeleton
    try:
        info = catalog.info_from_name(source, skeleton.name)
        memberships(source, info)  # an official list may not know it
        raw = parse(source, skeleton.read(), skeleton.name, skeleton.origin)
        frames, bodies, repairs, quality = recipe_.sample(raw)
        labelled = _read_labels(recording, source, recipe_, frames)
    except RawInputError as error:
        return Parsed(info=None, faults=(_fault(recording, error),))
    if not catalog.source(source).untrimmed:
        frames = recipe_.window(frames)
    writer.write(frames)
    repaired = tuple(Outcome(key=skeleton.name, reason=reason) for reason in repairs)
    return replace(
        labelled,
        info=replace(info, bodies=bodies),
        quality=quality,
        frames=len(frames),
        repaired=repaired + labelled.repaired,
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
    refused = {row.row: why for row in rows if (why := recipe_.refuses(frames[row.start : row.end])) is not None}
    excused += [Outcome(key=segment_key(key, row), reason=why) for row, why in refused.items()]
    rows = [row for row in rows if row.row not in refused]
    repaired = [
        Outcome(key=segment_key(key, row.row), reason=reason)
        for row in rows
        for reason in _clip_remarks(row, recipe_, frames)
    ]
    return Parsed(None, None, 0, tuple(rows), tuple(repaired), tuple(excused), tuple(faults))


def _clip_remarks(row: pkummd.LabelRow, recipe_: Recipe, frames: npt.NDArray[np.float32]) -> list[str]:
    remarks = recipe_.repairs(row.end - row.start)
    if not present(frames[row.start : row.end]).any():
        # The reference keeps such clips, so that its counts are the official ones.
        remarks.append(f"no body in frames {row.start} to {row.end - 1}: kept as zeros")
    return remarks


def _fault(recording: Recording, error: RawInputError) -> Outcome:
    # A file's name may hold bytes that are no text, which JSON cannot hold.
    key, reason = (
        text.encode(errors="backslashreplace").decode() for text in (recording.key, recording.describe_error(error))
    )
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

    @property
    def frames(self) -> int:
        return sum(stop - first for _, first, stop in self.pieces)

    def __call__(self) -> None:
        store = self.work / STORE
        frames = np.concatenate([read_piece(self.work, *piece) for piece in self.pieces])
        error = write_frames(store, self.number * FRAMES_PER_SHARD, frames)
        write_done(self.work, self.name, [frame_shard_file(store, self.number)], error)

    def is_done(self) -> bool:
        return is_done(self.work, self.name)


def read_piece(work: Path, part: int, first: int, stop: int) -> npt.NDArray[np.float32]:
    """Frames first..stop-1 of a part; StoreError if it has not as many any more."""
    path, count = part_frames(work, part), (stop - first) * FRAME_BYTES // 4
    flat = np.fromfile(path, dtype="<f4", count=count, offset=first * FRAME_BYTES)
    if len(flat) != count:  # the end of the file or an error of the disk, of which NumPy does not tell
        raise StoreError(f"{path}: found {4 * len(flat)} bytes of frames {first} to {stop - 1}, expected {4 * count}")
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
