"""What recipes are made of: operations that record what they do, and the recording on its way through them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pipelines.preprocessing.bodies import MAX_SLOTS, as_persons, choose_bodies, present
from shards.errors import raw_error
from shards.schema import RawSequence

Frames = npt.NDArray[np.float32]
Step = dict[str, Any]
Stage = Literal["parse", "sample", "trim", "refuse", "window"]

MAX_METRES = 1e4
"""A depth camera sees some 10 m. Far beyond it a number is garbage, and float16 ends at 65,504."""


@dataclass(frozen=True)
class Operation:
    """A named step of a recipe: what it does and what a manifest says of it come from the same object.

    Attributes:
        stage: where it runs. "sample": Scene -> Scene. "refuse": clip -> reason to leave it out, or None. "window":
            clip -> clip. What the parser ("parse") or the label file ("trim") does has no function here.
        name: of the step.
        function: what it does; takes `parameters` as keywords.
        parameters: recorded, and handed to the function.
        notes: recorded only: what the function cannot do otherwise.
    """

    stage: Stage
    name: str
    function: Callable[..., Any] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def step(self) -> Step:
        return {"name": self.name, **self.parameters, **self.notes}

    def __call__(self, value: Any) -> Any:
        assert self.function is not None, f"{self.name} is done elsewhere"
        return self.function(value, **self.parameters)


class Dropped(NamedTuple):
    """Bodies that a recipe left out, by reason; the fields of `shards.schema.Quality` without `dropped_by_`."""

    rank: int = 0
    length: int = 0
    spread: int = 0
    overlap: int = 0


class Track(NamedTuple):
    """The frames of one body id, one after the other without the gaps.

    Attributes:
        frames: (n, V, C) float32.
        first: number of the first one.
        motion: variance of x, y and z over all joints and frames, in sum; square metres.
    """

    frames: Frames
    first: int
    motion: float

    @property
    def last(self) -> int:
        return self.first + len(self.frames) - 1


class Scene(NamedTuple):
    """A recording between two operations.

    Attributes:
        raw: what was read, as far as it is left.
        frames: (T, M, V, C) of the persons, once they are chosen; until then (T, S, V, C) of the slots.
        bodies: persons with content, once they are chosen.
        tracks: bodies by id, for recipes that tell them apart so.
        several: whether there was more than one id.
        dropped: bodies left out.
        repairs: what a user should know.
    """

    raw: RawSequence
    frames: npt.NDArray[Any]
    bodies: int = 0
    tracks: tuple[Track, ...] = ()
    several: bool = False
    dropped: Dropped = Dropped()
    repairs: tuple[str, ...] = ()


def begin(raw: RawSequence) -> Scene:
    """The scene that the first operation gets.

    Raises:
        RawInputError: no frame, or a coordinate that no camera can have seen (NaN too).
    """
    if not len(raw.frames):
        raise raw_error(raw.key, "", "0 frames", "at least one")
    if not (raw.frames.max(initial=0) <= MAX_METRES and raw.frames.min(initial=0) >= -MAX_METRES):
        far = np.abs(raw.frames).max(axis=(1, 2, 3))
        frame = int(np.argmax(~(far <= MAX_METRES)))  # written so that NaN counts as too far
        found = f"a coordinate of {far[frame]:g} m"
        raise raw_error(raw.key, f"frame {frame + 1}", found, f"at most {MAX_METRES:g} m")
    return Scene(raw, raw.frames)


def with_persons(scene: Scene, frames: npt.NDArray[Any]) -> Scene:
    """The scene with its persons chosen, (T, M, V, C); RawInputError when none of them is ever there."""
    bodies = int(present(frames).any(axis=0).sum())
    if not bodies:
        raise no_body(scene.raw)
    return scene._replace(frames=frames, bodies=bodies)


def no_body(raw: RawSequence) -> Exception:
    """The error of a recording that shows nobody."""
    return raw_error(raw.key, "", f"no body in any of {len(raw.frames)} frames", "a body in at least one")


def choose(scene: Scene, slots: int = MAX_SLOTS) -> Scene:
    """Take the two slots of largest spread, the largest first."""
    frames, bodies, listed = choose_bodies(scene.frames, slots)
    if not bodies:
        raise no_body(scene.raw)
    return scene._replace(frames=frames, bodies=bodies, dropped=scene.dropped._replace(rank=listed - bodies))


def keep_slots(scene: Scene) -> Scene:
    """Take the first two slots as they are."""
    chosen = with_persons(scene, as_persons(scene.frames))
    listed = int(present(scene.frames).any(axis=0).sum())
    return chosen._replace(dropped=chosen.dropped._replace(rank=listed - chosen.bodies))
