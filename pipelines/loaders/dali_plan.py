"""Which operations of a view the DALI graph makes, and the values that it is fed for them.

Values are drawn on the host by the same functions as everywhere: DALI draws nothing. Frames are interpolated between
two gathers and not by `fn.tensor_resize`, whose positions are float32 and of a crop alone; gathers take the float64
positions of `temporal.sampling`, of a crop and changes of time in one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from pipelines.augmentations.operation import JointMatrices, Key, Linear, Mask, Samples, TimeMap
from pipelines.augmentations.streams import ToStream
from pipelines.augmentations.temporal import sampling
from pipelines.views.draw import Drawn, Step, draw_view, joint_matrices, time_index
from pipelines.views.spec import View, ViewSpec
from shards.batch import flatten_mask
from shards.errors import StoreError
from shards.skeleton import NUM_COORDINATES, NUM_JOINTS, NUM_PERSONS

NodeKind = Literal["retimed", "mapped", "mapped_each", "difference", "masked", "same"]

INPUTS: dict[NodeKind, int] = {"retimed": 3, "mapped": 1, "mapped_each": 3, "difference": 0, "masked": 1, "same": 0}
"""Values that a sample feeds to each kind of node."""

_HOST = torch.device("cpu")


@dataclass(frozen=True)
class Stage:
    """An operation in the graph: its kind, for messages, and the nodes that make it."""

    kind: str
    node: NodeKind


@dataclass(frozen=True)
class Plan:
    """What of a view the graph makes.

    Attributes:
        view: as specified.
        stages: the first of its steps (`unfolded`), made in the graph.
        inside: whether the graph makes any of it; a view of another one needs that one complete in the graph.
        left: which of its operations torch applies after the graph.
        reason: why the first of them is not in the graph.
    """

    view: View
    stages: tuple[Stage, ...]
    inside: bool
    left: tuple[int, ...] = ()
    reason: str = ""

    @property
    def before(self) -> list[str]:
        """Kinds of the operations in the graph."""
        return [operation.kind for number, operation in enumerate(self.view.operations) if number not in self.left]

    @property
    def after(self) -> list[str]:
        """Kinds of the operations left, the first with the reason."""
        kinds = [self.view.operations[number].kind for number in self.left]
        return [f"{kinds[0]} ({self.reason})", *kinds[1:]] if kinds else []

    @property
    def nodes(self) -> list[Stage]:
        """All stages in the graph, the resampling of a stored sample included."""
        opening = [Stage(self.view.operations[0].kind, "retimed")] if self.view.of is None else []
        return [*opening, *self.stages]


class _Folded(Linear):
    """The maps of joints that `Drawn` holds folded into one, as a step."""

    kind: Literal["linear"] = "linear"

    source: ClassVar[str] = "several operations, folded"

    def joint_map(self, params: JointMatrices) -> JointMatrices:
        return params


def unfolded(drawn: Drawn) -> tuple[Step, ...]:
    """All of a view but its resampling, as steps."""
    joints = () if drawn.joints is None else (Step(_Folded(), drawn.joints),)
    stream = () if drawn.stream == "joint" else (Step(ToStream(stream=drawn.stream), None),)
    return (*joints, *stream, *drawn.steps)


def plan_graph(spec: ViewSpec) -> dict[str, Plan]:
    """What the graph makes of each view, by name."""
    plans: dict[str, Plan] = {}
    for view in spec.views:
        if view.mix is not None:
            plans[view.name] = _outside(view, "its partner may be another rank's")
        elif view.of is not None and (not plans[view.of].inside or plans[view.of].left):
            plans[view.name] = _outside(view, f"{view.of} is not complete before")
        else:
            plans[view.name] = _plan(view, spec.frames)
    return plans


def resampling(drawn: Drawn, length: Tensor, frames: int) -> list[Tensor]:
    """What "retimed" is fed for views of stored samples, of `length` (N,) frames: three tensors (N, T, ...)."""
    window = drawn.window
    assert window is not None
    # DALI would name a frame of its batch, but not the sample
    assert bool(((window.first >= 0) & (window.length > 0) & (window.first + window.length <= length)).all())
    lower, upper, weight = sampling(window.length, frames, drawn.index)
    first = window.first[:, None]
    return _between(first + lower, first + upper, weight)


def values(step: Step, samples: int, frames: int) -> list[Tensor]:
    """What the stage of a step is fed: one tensor (N, ...) on the host for each of its inputs."""
    operation = step.operation
    if isinstance(operation, Linear):
        matrices = joint_matrices(step).matrices
        if matrices.shape[1] == 1:
            return [matrices[:, 0].contiguous()]
        # of (N, V, row, column), each column as (N, 1, 1, V, row)
        return [matrices[:, None, None, :, :, column].contiguous() for column in range(NUM_COORDINATES)]
    if isinstance(operation, TimeMap):
        index = time_index(step, frames)
        lower = index.to(torch.int64)
        return _between(lower, (lower + 1).clamp(max=frames - 1), (index - lower).to(torch.float32))
    if isinstance(operation, Mask):
        shown = visible(step, samples, frames, _HOST)
        return [shown.expand(samples, -1, -1, -1)[..., None].contiguous()]
    return []


def _between(lower: Tensor, upper: Tensor, weight: Tensor) -> list[Tensor]:
    return [lower.to(torch.int32), upper.to(torch.int32), weight[..., None, None, None].contiguous()]


def visible(step: Step, samples: int, frames: int, device: torch.device) -> Tensor:
    """The mask of a step whose operation looks at draws alone, (N or 1, T, M or 1, V or 1) bool."""
    operation = step.operation
    assert isinstance(operation, Mask)
    shape = (samples, frames, NUM_PERSONS, NUM_JOINTS, NUM_COORDINATES)
    shown = operation.visible(_Unseen(shape, device), step.params)
    return shown if step.applies is None else shown | ~step.applies[:, None, None, None]


def flat_mask(steps: Sequence[Step], samples: int, frames: int, device: torch.device) -> Tensor | None:
    """What these steps masked together, as `render.apply_steps` says it."""
    mask: Tensor | None = None
    for step in steps:
        if isinstance(step.operation, Mask):
            shown = flatten_mask(visible(step, samples, frames, device))
            mask = shown if mask is None else mask & shown
    return mask


class _Inspected(Exception):  # noqa: N818 - not an error
    """A mask needs the coordinates of a view."""


class _Unseen(Tensor):
    """A view of which shape, dtype and device are known; whoever looks at its coordinates gets `_Inspected`."""

    @staticmethod
    def __new__(cls, shape: tuple[int, ...], device: torch.device) -> "_Unseen":
        made: _Unseen = Tensor._make_wrapper_subclass(cls, shape, dtype=torch.float32, device=device)
        return made

    @classmethod
    def __torch_dispatch__(cls, *_: Any, **__: Any) -> Any:
        raise _Inspected


def _plan(view: View, frames: int) -> Plan:
    # which stages a view has, is the same for all samples: one is drawn to see
    samples, key = Samples(torch.zeros(1, dtype=torch.int64), torch.full((1,), frames)), Key(0, 0, 0, view.name)
    masks = [operation for operation in view.operations if isinstance(operation, Mask)]
    count = len(view.operations) - len(masks)  # masks stand last
    unmasked = view.model_copy(update={"operations": view.operations[:count]})
    drawn = draw_view(unmasked, samples, frames, seed=0, epoch=0, step=0)
    steps = unfolded(drawn)
    stages: list[Stage] = []
    for step in steps:
        stage = _stage(step, frames)
        if isinstance(stage, str):
            left = _left(unmasked, steps[len(stages) :], folded=count - len(drawn.steps))
            left = (*left, *range(count, len(view.operations)))
            return Plan(view, tuple(stages), view.of is None or bool(stages), left, stage)
        stages.append(stage)
    for number, operation in enumerate(masks):
        if not _looks_at_draws_alone(operation, samples, key, frames):
            left = tuple(range(count + number, len(view.operations)))
            return Plan(view, tuple(stages), view.of is None or bool(stages), left, "depends on the samples")
        stages.append(Stage(operation.kind, "masked"))
    return Plan(view, tuple(stages), view.of is None or bool(stages))


def _looks_at_draws_alone(mask: Mask, samples: Samples, key: Key, frames: int) -> bool:
    try:
        visible(Step(mask, mask.draw(samples, key, frames)), 1, frames, _HOST)
    except (_Inspected, StoreError):  # the latter: masks are stored, and this sample has none
        return False
    return True


def _outside(view: View, reason: str) -> Plan:
    return Plan(view, (), False, tuple(range(len(view.operations))), reason)


def _stage(step: Step, frames: int) -> Stage | str:
    """The stage of a step, or why DALI does not make it."""
    operation = step.operation
    node: NodeKind
    if isinstance(operation, Linear):
        joints = joint_matrices(step)
        if joints.source is not None:
            return "joints change places"
        node = "mapped" if joints.matrices.shape[1] == 1 else "mapped_each"
    elif isinstance(operation, TimeMap):
        node = "retimed"
    elif isinstance(operation, ToStream):
        if operation.stream == "bone":
            return "differences of joints"
        node = "difference" if operation.stream == "motion" else "same"
    else:
        return "not in DALI"
    return Stage(operation.kind, node)


def _left(view: View, steps: Sequence[Step], *, folded: int) -> tuple[int, ...]:
    """Which operations are these last steps of a view; the first `folded` of its operations lie folded in `Drawn`."""
    inside = list(enumerate(view.operations[:folded]))
    left = []
    if any(isinstance(step.operation, _Folded) for step in steps):
        left += [number for number, operation in inside if isinstance(operation, Linear)]
    if len(steps) > len(view.operations) - folded:
        left += [number for number, operation in inside if isinstance(operation, ToStream)]
    return (*left, *range(max(folded, len(view.operations) - len(steps)), len(view.operations)))
