"""Raw input of a finished store, listed and parsed again as its conversion did."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipelines.archives import inventory_digest
from pipelines.conversion.parts import FILES_PER_PART, FRAME_BYTES, Parsed, PartUnit, part_frames, read_part
from pipelines.conversion.recordings import Recording, list_recordings
from pipelines.conversion.runners import open_runner
from pipelines.preprocessing.recipes import recipe
from shards import catalog
from shards.cores import count_cores
from shards.encoding import FRAME_SHAPE
from shards.manifest import MANIFEST, Manifest
from shards.places import Place
from shards.progress import Progress

Frames = npt.NDArray[np.float32]


@dataclass(frozen=True)
class RawInput:
    """What a store was converted from, as it lies there now.

    Attributes:
        recordings: those to convert, sorted by key.
        inventory: digest of all raw files, as in the manifest.
    """

    recordings: list[Recording]
    inventory: str


def list_raw(source: str, raw: Sequence[Place], progress: bool = False) -> RawInput:
    """List raw input as a conversion does; RawInputError where that is impossible."""
    listed = list_recordings(source, raw, progress)
    missing = catalog.missing_samples(source)
    inventory = inventory_digest(file for recording in listed for file in recording.files)
    return RawInput([recording for recording in listed if recording.key not in missing], inventory)


def recipe_difference(manifest: Manifest) -> str | None:
    """Where the store's recipe is another than the one of this name here; None where they are equal.

    Raises:
        ConfigError: source or recipe are unknown here.
    """
    here = json.loads(json.dumps(recipe(manifest.recipe, manifest.source).steps))
    stored = [step for step in manifest.recipe_steps if step.get("name") != "pack"]
    if stored == here:
        return None
    number = next(
        (i for i, (a, b) in enumerate(zip(stored, here, strict=False)) if a != b), min(len(stored), len(here))
    )
    found, expected = (json.dumps(steps[number]) if number < len(steps) else "no more" for steps in (stored, here))
    return (
        f"{MANIFEST}: recipe step {number + 1}: found {found}, expected {expected} as recipe {manifest.recipe} has it"
    )


def remade(
    manifest: Manifest, work: Path, number: int, recordings: tuple[Recording, ...]
) -> Iterator[tuple[Recording, Parsed, Frames]]:
    """What a conversion makes of recordings now, by way of the part `number` of the folder `work`."""
    PartUnit(work, number, manifest.source, manifest.recipe, recordings, strict=False)()
    again = Reparsed(work, dict(_places(work, number, recordings)))
    for recording in recordings:
        yield recording, again.parsed(recording.key), again.frames(recording.key)


@dataclass(frozen=True)
class Reparsed:
    """Recordings that were parsed again, in parts of the folder `work`.

    Attributes:
        places: key -> number of the part, first frame in it, what became of the recording.
    """

    work: Path
    places: dict[str, tuple[int, int, Parsed]]

    def parsed(self, key: str) -> Parsed:
        return self.places[key][2]

    def frames(self, key: str, first: int = 0, stop: int | None = None) -> Frames:
        """Frames first..stop-1 of a recording, (n, M, V, C) float32."""
        part, offset, parsed = self.places[key]
        count = (parsed.frames if stop is None else stop) - first
        place = (offset + first) * FRAME_BYTES
        flat = np.fromfile(part_frames(self.work, part), dtype="<f4", count=count * FRAME_BYTES // 4, offset=place)
        return flat.astype(np.float32, copy=False).reshape(-1, *FRAME_SHAPE)


def reparse(work: Path, manifest: Manifest, recordings: Sequence[Recording], progress: bool = False) -> Reparsed:
    """Parse recordings again, on all cores; parts that an earlier call has finished in `work` are kept.

    Args:
        work: folder whose parts are of these recordings, each call in a folder of its own (`work_name`).
        manifest: of the store; its recipe is the one of this name here (`recipe_difference`).
    """
    batches = [tuple(recordings[start : start + FILES_PER_PART]) for start in range(0, len(recordings), FILES_PER_PART)]
    units = [
        PartUnit(work, n, manifest.source, manifest.recipe, batch, strict=False) for n, batch in enumerate(batches)
    ]
    todo = [unit for unit in units if not unit.is_done()]
    with open_runner(None, count_cores()) as runner:
        for _ in Progress("parse", len(todo), "part", shown=progress).over(runner(todo)):
            pass
    places = {key: place for unit in units for key, place in _places(work, unit.number, unit.recordings)}
    return Reparsed(work, places)


def work_name(recordings: Sequence[Recording]) -> str:
    """A name for the folder in which just these recordings are parsed again."""
    return hashlib.sha256("\n".join(recording.key for recording in recordings).encode()).hexdigest()[:12]


def _places(work: Path, number: int, recordings: Sequence[Recording]) -> Iterator[tuple[str, tuple[int, int, Parsed]]]:
    part, first = read_part(work, number), 0
    assert part is not None, f"part {number} was made"
    for recording, parsed in zip(recordings, part.recordings, strict=True):
        yield recording.key, (number, first, parsed)
        first += parsed.frames
