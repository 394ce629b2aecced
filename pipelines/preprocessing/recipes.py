"""Recipes: by name, the steps from a parsed sequence to stored frames; not interchangeable, so a store names its own.

A recipe has two parts. `sample` makes of a raw recording the frames of two persons; `window` makes of such frames the
clip that is trained on. For trimmed sources a sample is its own window, and the store holds clips; for untrimmed ones
the store holds whole videos as they are, and the shards hold the window of each labelled action.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.preprocessing.bodies import MAX_SLOTS, as_persons, choose_bodies, count_bodies, present
from pipelines.preprocessing.normalize import normalize
from shards.catalog import source as source_of
from shards.errors import ConfigError, raw_error
from shards.schema import RawSequence
from shards.skeleton import LEFT_SHOULDER, NUM_PERSONS, RIGHT_SHOULDER, SPINE_BASE, SPINE_MID

Frames = npt.NDArray[np.float32]
Sample = tuple[Frames, int, list[str]]
Step = dict[str, Any]

RECIPES = ("pcm3", "raw")

MAX_FRAMES = 300
"""JHang2020/PCM3 keeps the first 300 frames of a clip (10 s at 30 Hz)."""

MAX_METRES = 1e4
"""A depth camera sees some 10 m. Far beyond it a number is garbage, and float16 ends at 65,504."""


@dataclass(frozen=True)
class Recipe:
    """How the frames of a source are prepared.

    Attributes:
        name: as on the command line and in the store's folder name.
        steps: every step with its parameters; part of the fingerprint of what it makes.
        sample: RawSequence -> frames (T, M, V, C) float32, number of bodies, what was repaired; or RawInputError.
        window: frames (n, M, V, C) float32 -> the clip, (<= n, M, V, C) float32.
        max_frames: longest clip; None without limit.
    """

    name: str
    steps: tuple[Step, ...]
    sample: Callable[[RawSequence], Sample]
    window: Callable[[Frames], Frames]
    max_frames: int | None = None

    def clip_length(self, num_frames: int) -> int:
        """Frames that `window` leaves of so many."""
        return num_frames if self.max_frames is None else min(num_frames, self.max_frames)

    def repairs(self, num_frames: int) -> list[str]:
        """What `window` does to so many frames that a user should know."""
        return _cut_remarks(num_frames, self.clip_length(num_frames))


def recipe(name: str, source: str) -> Recipe:
    """The recipe of that name for a source; ConfigError names the known ones."""
    if name not in RECIPES:
        raise ConfigError(f"unknown recipe {name!r}, expected one of {', '.join(RECIPES)}")
    untrimmed = source_of(source).untrimmed
    persons, body_steps = _PERSONS.get(source, (as_persons, _KEEP_SLOTS))
    window, window_steps, max_frames = (_pcm3_window, _PCM3_STEPS, MAX_FRAMES) if name == "pcm3" else (_same, (), None)
    steps = (*_SOURCE_STEPS.get(source, ()), *body_steps, *(_TRIM if untrimmed else ()), *window_steps)
    sample = partial(_sample, persons=persons, max_frames=None if untrimmed else max_frames)
    return Recipe(name, steps, sample, window, max_frames)


def _sample(
    raw: RawSequence, persons: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]], max_frames: int | None
) -> Sample:
    if not len(raw.frames):
        raise raw_error(raw.key, "", "0 frames", "at least one")
    chosen = persons(raw.frames)
    if not present(chosen).any():
        raise raw_error(raw.key, "", f"no body in any of {len(chosen)} frames", "a body in at least one")
    _refuse_far(raw.key, chosen)
    repairs = [] if max_frames is None else _cut_remarks(len(chosen), min(len(chosen), max_frames))
    return chosen.astype(np.float32), count_bodies(chosen), repairs


def _cut_remarks(before: int, after: int) -> list[str]:
    return [f"cut from {before} to {after} frames"] if after < before else []


def _refuse_far(key: str, frames: npt.NDArray[np.float64]) -> None:
    far = np.abs(frames).max(axis=(1, 2, 3))
    frame = int(np.argmax(~(far <= MAX_METRES)))  # written so that NaN counts as too far
    if not far[frame] <= MAX_METRES:
        raise raw_error(key, f"frame {frame + 1}", f"a coordinate of {far[frame]:g} m", f"at most {MAX_METRES:g} m")


def _same(frames: Frames) -> Frames:
    return frames


def _pcm3_window(frames: Frames) -> Frames:
    return normalize(frames[:MAX_FRAMES])


_CHOOSE_BODIES: tuple[Step, ...] = (
    {"name": "choose bodies", "slots": MAX_SLOTS, "keep": NUM_PERSONS, "by": "largest spread of the coordinates"},
)
_KEEP_SLOTS: tuple[Step, ...] = ({"name": "keep slots", "keep": NUM_PERSONS},)
_PERSONS = {"ntu": (choose_bodies, _CHOOSE_BODIES)}

_SOURCE_STEPS: dict[str, tuple[Step, ...]] = {
    "nwucla": ({"name": "map joints", "from": "Kinect v1", "to": "Kinect v2"},)
}

# Scripts in the style of AimCLR read the same label rows as [start - 1, end].
_TRIM: tuple[Step, ...] = ({"name": "trim", "first_frame": 0, "start": "included", "end": "excluded"},)

_PCM3_STEPS: tuple[Step, ...] = (
    {"name": "cut", "frames": MAX_FRAMES},
    {"name": "fill", "leading": "removed per person", "trailing": "repeated"},
    {"name": "centre", "joint": SPINE_MID, "person": 0, "every_frame": True},
    {"name": "align", "axis": "z", "from_joint": SPINE_BASE, "to_joint": SPINE_MID, "person": 0, "frame": 0},
    {"name": "align", "axis": "x", "from_joint": LEFT_SHOULDER, "to_joint": RIGHT_SHOULDER, "person": 0, "frame": 0},
)
