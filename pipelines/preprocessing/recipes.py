"""Recipes: by name, the steps from a parsed sequence to stored frames; not interchangeable, so a store names its own.

A recipe has two parts. `sample` makes of a raw recording the frames of two persons; `window` makes of such frames the
clip that is trained on. For trimmed sources a sample is its own window, and the store holds clips; for untrimmed ones
the store holds whole videos as they are, and the shards hold the window of each labelled action.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from pipelines.preprocessing import ctrgcn, quality, steps
from pipelines.preprocessing.bodies import MAX_SLOTS
from pipelines.preprocessing.normalize import align, centre, fill, normalize
from pipelines.preprocessing.steps import MAX_METRES, Frames, Operation, Scene, Stage, Step
from shards.catalog import source as source_of
from shards.errors import ConfigError
from shards.schema import Quality, RawSequence
from shards.skeleton import LEFT_SHOULDER, NUM_COORDINATES, NUM_PERSONS, RIGHT_SHOULDER, SPINE_BASE, SPINE_MID

__all__ = ["MAX_FRAMES", "MAX_METRES", "RECIPES", "Frames", "Recipe", "Sample", "Step", "recipe"]

MAX_FRAMES = 300
"""JHang2020/PCM3 keeps the first 300 frames of a clip (10 s at 30 Hz)."""


class Sample(NamedTuple):
    """What a recipe makes of a recording.

    Attributes:
        frames: (T, M, V, C) float32.
        bodies: persons with content.
        repairs: what was changed that a user should know.
        quality: what the recording was like.
    """

    frames: Frames
    bodies: int
    repairs: list[str]
    quality: Quality


@dataclass(frozen=True)
class Recipe:
    """How the frames of a source are prepared.

    Attributes:
        name: as on the command line and in the store's folder name.
        version: rises when the same steps begin to give other numbers.
        operations: in the order in which they are done.
        trims: whether `window` is for the labelled actions of a sample, not for the sample itself.
    """

    name: str
    version: int
    operations: tuple[Operation, ...]
    trims: bool = False

    @property
    def steps(self) -> tuple[Step, ...]:
        """Every step with its parameters, the recipe's name and version first; names what the recipe makes."""
        identity = {"name": "recipe", "recipe": self.name, "version": self.version}
        return (identity, *(operation.step for operation in self.operations))

    def sample(self, raw: RawSequence) -> Sample:
        """The two persons of a recording.

        Raises:
            RawInputError: it cannot be used: no frame, no body, garbage, or a rule of the recipe, which is named.
        """
        scene = _run(self._sampling, steps.begin(raw))
        frames = scene.frames.astype(np.float32, copy=False)
        repairs = [*scene.repairs, *([] if self.trims else self.repairs(len(frames)))]
        return Sample(frames, scene.bodies, repairs, quality.measure(raw, scene.dropped))

    def window(self, frames: Frames) -> Frames:
        """The clip that is trained on: (n, M, V, C) float32 -> (<= n, M, V, C) float32."""
        clip: Frames = _run(self._windowing, frames)
        return clip

    def refuses(self, frames: Frames) -> str | None:
        """Why the recipe leaves out this trimmed action of a video, (n, M, V, C) float32; None where it does not."""
        return next((reason for refusal in self._refusals if (reason := refusal(frames))), None)

    @property
    def max_frames(self) -> int | None:
        """Longest clip; None without limit."""
        return next((o.parameters["frames"] for o in self.operations if o.function is cut), None)

    def clip_length(self, num_frames: int) -> int:
        """Frames that `window` leaves of so many."""
        limit = self._limit
        return num_frames if limit is None else min(num_frames, limit)

    def repairs(self, num_frames: int) -> list[str]:
        """What `window` does to so many frames that a user should know."""
        left = self.clip_length(num_frames)
        return [f"cut from {num_frames} to {left} frames"] if left < num_frames else []

    @cached_property
    def _limit(self) -> int | None:
        return self.max_frames

    @cached_property
    def _sampling(self) -> "tuple[Callable[[Any], Any], ...]":
        return self._of("sample")

    @cached_property
    def _refusals(self) -> "tuple[Callable[[Any], Any], ...]":
        return self._of("refuse")

    @cached_property
    def _windowing(self) -> "tuple[Callable[[Any], Any], ...]":
        return fused(self._of("window"))

    def _of(self, stage: Stage) -> tuple[Operation, ...]:
        return tuple(operation for operation in self.operations if operation.stage == stage)


def _run(operations: tuple[Callable[[Any], Any], ...], value: Any) -> Any:
    for operation in operations:
        value = operation(value)
    return value


def recipe(name: str, source: str) -> Recipe:
    """The recipe of that name for a source; ConfigError names the known ones."""
    if name not in RECIPES:
        raise ConfigError(f"unknown recipe {name!r}, expected one of {', '.join(RECIPES)}")
    untrimmed = source_of(source).untrimmed
    version, make = _VARIANTS[name]
    return Recipe(name, version, (*_parsing(source), *make(source, untrimmed)), untrimmed)


def _pcm3(source: str, untrimmed: bool) -> tuple[Operation, ...]:
    return (*_PERSONS.get(source, _KEEP_SLOTS), *(_TRIM if untrimmed else ()), _cut_at(MAX_FRAMES), *NORMALIZATION)


def _raw(source: str, untrimmed: bool) -> tuple[Operation, ...]:
    return (*_PERSONS.get(source, _KEEP_SLOTS), *(_TRIM if untrimmed else ()))


def _ctrgcn(source: str, untrimmed: bool) -> tuple[Operation, ...]:
    if untrimmed:
        return (*_KEEP_SLOTS, *_TRIM, _REFUSE_EMPTY_CLIPS, _cut_at(None))
    persons = _ACTORS if source == "ntu" else _KEEP_SLOTS
    return (_DROP_EMPTY_FRAMES, *persons, _TRANSLATE, _cut_at(None))


_VARIANTS = {"pcm3": (1, _pcm3), "ctrgcn": (1, _ctrgcn), "raw": (1, _raw)}

RECIPES = tuple(_VARIANTS)
"""Names: as JHang2020/PCM3 prepares its data, as Uason-Chen/CTR-GCN and maoyunyao/MAMP do, and hardly at all."""


def cut(clip: Frames, frames: int | None) -> Frames:
    """The first `frames` frames; all where it is None."""
    return clip[:frames]


def no_body_in_clip(clip: Frames) -> str | None:
    """Why a clip that is zero everywhere is left out."""
    return None if clip.any() else f"no body in any of its {len(clip)} frames: the recipe leaves such clips out"


def fill_persons(frames: Frames) -> Frames:
    """`fill` for each person."""
    return np.stack([fill(frames[:, person]) for person in range(frames.shape[1])], axis=1)


def align_to(frames: Frames, axis: str, from_joint: int, to_joint: int) -> Frames:
    """`align` by the name of the axis."""
    return align(frames, from_joint, to_joint, np.eye(NUM_COORDINATES)["xyz".index(axis)])


def _align(axis: str, from_joint: int, to_joint: int) -> Operation:
    parameters = {"axis": axis, "from_joint": from_joint, "to_joint": to_joint}
    return Operation("window", "align", align_to, parameters, {"person": 0, "frame": 0})


NORMALIZATION = (
    Operation("window", "fill", fill_persons, notes={"leading": "removed per person", "trailing": "repeated"}),
    Operation("window", "centre", centre, notes={"joint": SPINE_MID, "person": 0, "every_frame": True}),
    _align("z", SPINE_BASE, SPINE_MID),
    _align("x", LEFT_SHOULDER, RIGHT_SHOULDER),
)
"""What `normalize` does in one pass."""


def fused(operations: tuple[Operation, ...]) -> tuple[Callable[[Any], Any], ...]:
    """The operations with `normalize` in place of a run of them that is its own; any other runs one by one."""
    for start in range(len(operations)):
        stop = start + len(NORMALIZATION)
        if operations[start:stop] == NORMALIZATION:
            return (*operations[:start], normalize, *fused(operations[stop:]))
    return operations


def _cut_at(frames: int | None) -> Operation:
    # CTR-GCN pads to 300 frames, which no NTU file exceeds, and keeps longer ones as they are: None, and no padding.
    return Operation("window", "cut", cut, {"frames": frames})


def _scene_step(name: str, function: Callable[..., Scene], **parameters: Any) -> Operation:
    return Operation("sample", name, function, parameters)


_KEEP_SLOTS = (Operation("sample", "keep slots", steps.keep_slots, notes={"keep": NUM_PERSONS}),)
_PERSONS = {
    "ntu": (
        Operation(
            "sample",
            "choose bodies",
            steps.choose,
            {"slots": MAX_SLOTS},
            {"keep": NUM_PERSONS, "by": "largest spread of the coordinates"},
        ),
    )
}


def _parsing(source: str) -> tuple[Operation, ...]:
    """What the source's parser has done before."""
    return tuple(
        Operation("parse", step["name"], notes={name: value for name, value in step.items() if name != "name"})
        for step in source_of(source).steps
    )


# Scripts in the style of AimCLR read the same label rows as [start - 1, end].
_TRIM = (Operation("trim", "trim", notes={"first_frame": 0, "start": "included", "end": "excluded"}),)
_REFUSE_EMPTY_CLIPS = Operation("refuse", "drop empty clips", no_body_in_clip)

_DROP_EMPTY_FRAMES = _scene_step("drop empty frames", ctrgcn.drop_empty_frames)
_ACTORS = (
    Operation("sample", "bodies by id", ctrgcn.bodies_by_id, notes={"gaps": "closed"}),
    _scene_step("drop short bodies", ctrgcn.drop_short, frames=ctrgcn.SHORT),
    _scene_step("drop wide bodies", ctrgcn.drop_wide, width_to_height=ctrgcn.WIDTH_TO_HEIGHT, share=ctrgcn.NOISY_SHARE),
    _scene_step("rank by motion", ctrgcn.rank_by_motion),
    _scene_step("fill actors", ctrgcn.fill_actors, actors=NUM_PERSONS),
    _scene_step("drop zero frames", ctrgcn.drop_zero_frames),
)
_TRANSLATE = Operation(
    "sample", "translate", ctrgcn.translate, {"joint": SPINE_MID}, {"person": 0, "frame": "first with content"}
)
