"""Deep verification: recordings made again from the raw input, compared with what a finished store holds of them."""

import math
import random
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.conversion.parts import Parsed, part_frames
from pipelines.conversion.recordings import Recording
from pipelines.repair.reparse import RawInput, list_raw, recipe_difference, remade
from shards.encoding import kept
from shards.errors import ConfigError, SkelstreamError
from shards.files import name_refusals
from shards.manifest import MANIFEST, STORE, Manifest, Outcome, read_manifest
from shards.places import Place
from shards.schema import Segment
from shards.store import Store, open_store
from shards.verify.shards import on_threads

SHARE = 0.05
AT_LEAST = 100
"""Recordings that a deep verification makes again, whatever the share."""

_BATCH = 16  # recordings that a thread makes at a time
_NAMED = 5  # recordings that one line names at most
_ROUNDING = 1e-6  # of an error, which is a difference of rounded numbers

Frames = npt.NDArray[np.float32]


@dataclass(frozen=True)
class DeepCheck:
    """What a deep verification found.

    Attributes:
        problems: each in one line; empty when all is good.
        checked: recordings that were made again.
        total: recordings of the raw input that are to be converted.
        seed: that chose them.
    """

    problems: list[str]
    checked: int
    total: int
    seed: int

    def describe(self) -> str:
        """What was done, for people to read."""
        return f"made {self.checked:,} of {self.total:,} recordings again from the raw input (seed {self.seed})"


def deep_verify(
    folder: Place, raw: Sequence[Place], share: float = SHARE, seed: int = 0, progress: bool = False
) -> DeepCheck:
    """Make a random part of a store's recordings again from the raw input and compare.

    Frames must be equal bit for bit once they are encoded, and before that within the error that the manifest states;
    names, labels, segments, bodies, quality, repaired and dropped samples must be equal. It finds what `verify` cannot:
    a store that agrees with itself and not with its raw input.

    Args:
        folder: of a store that `verify` finds good.
        raw: what the store was converted from; where it lies now does not matter.
        share: of the recordings to make again, 0 to 1; at least `AT_LEAST` are taken.
        seed: of the choice.
        progress: whether to show progress bars.

    Raises:
        ConfigError: `share` is not within 0 to 1, or the manifest's source or recipe are unknown here.
        RawInputError: the raw input cannot be listed.
        StoreError: the manifest or the store cannot be read.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"found a share of {share}, expected 0 to 1")
    manifest = read_manifest(folder)
    difference = recipe_difference(manifest)
    if difference is not None:  # what the recipe makes now says nothing of what it made then
        return DeepCheck([difference], 0, 0, seed)
    found = list_raw(manifest.source, raw, progress)
    stored = _Stored(manifest, open_store(folder / STORE))
    problems = [*_inventory(manifest, found), *stored.presence(found.recordings)]
    total = len(found.recordings)
    number = min(total, max(AT_LEAST, math.ceil(share * total)))
    chosen = [found.recordings[i] for i in sorted(random.Random(seed).sample(range(total), number))]
    checks = [*_checks(stored, chosen, progress)]
    problems += [problem for check in checks for problem in check.problems]
    largest = max((check.max_error for check in checks), default=0.0)
    if number == total and not problems and not math.isclose(largest, manifest.max_error, rel_tol=_ROUNDING):
        problems.append(f"{MANIFEST}: found max_error {manifest.max_error:g}, expected {largest:g} by the raw input")
    return DeepCheck(problems, number, total, seed)


def _inventory(manifest: Manifest, found: RawInput) -> Iterator[str]:
    if found.inventory != manifest.inventory:
        yield (
            f"raw input: found inventory {found.inventory}, expected {manifest.inventory}: "
            "these are not the files that were converted"
        )


@dataclass(frozen=True)
class _Check:
    """Of some recordings: what differs, and the largest error of the storage."""

    problems: list[str]
    max_error: float


def _checks(stored: "_Stored", chosen: Sequence[Recording], progress: bool) -> Iterator[_Check]:
    batches = [tuple(chosen[start : start + _BATCH]) for start in range(0, len(chosen), _BATCH)]
    with (
        tempfile.TemporaryDirectory(prefix="skelstream-") as scratch,
        name_refusals(Path(scratch), what="what is parsed again (TMPDIR names another folder)"),
    ):
        work = partial(_check_batch, stored, Path(scratch))
        yield from on_threads(work, list(enumerate(batches)), "deep", "batch", progress=progress)


def _check_batch(stored: "_Stored", scratch: Path, batch: tuple[int, tuple[Recording, ...]]) -> _Check:
    problems: list[str] = []
    largest = 0.0
    for recording, parsed, frames in remade(stored.manifest, scratch, *batch):
        problems += stored.outcomes(recording, parsed)
        row = stored.rows.get(recording.key)
        if row is not None and parsed.info is not None:
            error, lines = stored.compare(row, recording, parsed, frames)
            problems += lines
            largest = max(largest, error)
    part_frames(scratch, batch[0]).unlink()
    return _Check(problems, largest)


class _Stored:
    """What a store holds of each recording."""

    def __init__(self, manifest: Manifest, store: Store) -> None:
        self.manifest = manifest
        self.rows = {info.key: row for row, info in enumerate(store.infos)}
        self._store = store
        self._quality = store.quality
        self._segments: dict[int, list[Segment]] = defaultdict(list)
        for segment in store.segments or ():
            self._segments[segment.video].append(segment)
        self._untrimmed = store.segments is not None
        self._dropped = self._by_recording(manifest.dropped)
        self._repaired = self._by_recording(manifest.repaired)

    def _by_recording(self, outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
        """Outcomes by the key of their recording; those of an action have their row behind it."""
        found: dict[str, list[Outcome]] = defaultdict(list)
        for outcome in outcomes:
            video = outcome.key.rpartition("_")[0]
            found[video if self._untrimmed and video in self.rows else outcome.key].append(outcome)
        return found

    def presence(self, recordings: Sequence[Recording]) -> Iterator[str]:
        """Whether raw input and store are of the same recordings, all of them."""
        there = {recording.key for recording in recordings}
        lost = sorted(self.rows.keys() - there)
        if lost:
            yield f"raw input: found no file of {_names(lost)}, expected one of each row of the store"
        new = sorted(there - self.rows.keys() - self._dropped.keys())
        if new:
            yield f"{STORE}: found no {_names(new)}, expected a row of each recording of the raw input"

    def outcomes(self, recording: Recording, parsed: Parsed) -> Iterator[str]:
        """What is left out and repaired. The reasons of faults name places, which may have changed."""
        key, origin = recording.key, recording.skeleton.origin
        if key in self.rows and parsed.info is None:
            yield f"{key} ({origin}): found a recording that cannot be used ({parsed.faults[0].reason}), expected a row"
            return
        dropped = sorted(outcome.key for outcome in [*parsed.excused, *parsed.faults])
        listed = sorted(outcome.key for outcome in self._dropped.get(key, ()))
        if dropped != listed:
            yield f"{key} ({origin}): found {_names(listed)} dropped, expected {_names(dropped)}"
        repaired, listed = (
            sorted(f"{outcome.key}: {outcome.reason}" for outcome in outcomes)
            for outcomes in (parsed.repaired, self._repaired.get(key, ()))
        )
        if repaired != listed:
            yield f"{key} ({origin}): found {_names(listed)} as repaired, expected {_names(repaired)}"

    def compare(self, row: int, recording: Recording, parsed: Parsed, frames: Frames) -> tuple[float, list[str]]:
        """The error of the storage, and how a row differs from what the raw file gives now."""
        where = f"{recording.key} ({recording.skeleton.origin})"
        facts: list[tuple[str, Any, Any]] = [
            ("", self._store.infos[row], parsed.info),
            ("quality ", None if self._quality is None else self._quality[row], parsed.quality),
            ("actions ", [_action(s) for s in self._segments[row]], [_action(a) for a in parsed.actions]),
        ]
        problems = [f"{where}: found {name}{a}, expected {b}" for name, a, b in facts if a != b]
        try:
            expected = kept(frames, self.manifest.dtype, where)
            stored = self._store.sample(row)
        except SkelstreamError as refusal:
            return 0.0, [*problems, f"{where}: {refusal}"]
        error = float(np.abs(frames.astype(np.float64) - expected).max())
        if error > self.manifest.max_error * (1 + _ROUNDING):
            limit = f"at most the {self.manifest.max_error:g} of the manifest"
            problems.append(f"{where}: found an error of {error:g} m, expected {limit}")
        return error, [*problems, *_frames(where, stored, expected)]


def _action(row: Any) -> tuple[int, ...]:
    return (row.row, row.start, row.end, row.label, row.confidence)


def _frames(where: str, stored: Frames, expected: Frames) -> Iterator[str]:
    shorter = min(len(stored), len(expected))
    # By their bits: -0.0 is not 0.0.
    a, b = (np.ascontiguousarray(frames[:shorter]).view(np.uint32) for frames in (stored, expected))
    different = np.argwhere(a != b)
    if len(different):
        frame, person, joint, axis = place = tuple(different[0].tolist())
        number = len(np.unique(different[:, 0]))
        yield (
            f"{where}: found other coordinates in {number} of {len(stored)} frames, the first frame {frame + 1} "
            f"(person {person}, joint {joint}): {'xyz'[axis]} {stored[place]:.9g}, expected {expected[place]:.9g}"
        )
    if len(stored) != len(expected):
        yield f"{where}: found {len(stored)} frames, expected {len(expected)} (first frame that differs: {shorter + 1})"


def _names(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (", ".join(names[:_NAMED]) or "none") + rest
