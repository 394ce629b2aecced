"""Drawing a view: all its random numbers, and its leading operations folded into one resampling and one map a joint."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pipelines.augmentations.operation import (
    Crop,
    Free,
    JointMatrices,
    Key,
    Linear,
    Mask,
    Operation,
    Samples,
    TimeMap,
    Window,
)
from pipelines.augmentations.streams import ToStream
from pipelines.views.spec import View
from shards.skeleton import Stream


@dataclass(frozen=True)
class Step:
    """An operation with what it drew; `applies` (N,) bool says to which samples, None to all."""

    operation: Operation
    params: Any
    applies: Tensor | None = None


@dataclass(frozen=True)
class Drawn:
    """A view, drawn. What is folded happens in this order: window and index, joints, stream; then come the steps.

    Attributes:
        window: of the stored sample; None for a view made of another one.
        index: (N, T) float64, see `temporal.resize`; None for all frames in their order.
        joints: linear map of each joint; None for the identity.
        stream: of the coordinates so far.
        steps: what is not folded.
        targets: kind of operation -> (N,) int64, what was done to each sample, for methods that predict it.
    """

    window: Window | None = None
    index: Tensor | None = None
    joints: JointMatrices | None = None
    stream: Stream = "joint"
    steps: tuple[Step, ...] = ()
    targets: dict[str, Tensor] = field(default_factory=dict)

    def rows(self, part: slice) -> "Drawn":
        """The folded part of these samples; without the steps."""
        window, index, joints = self.window, self.index, self.joints
        return Drawn(
            window=None if window is None else Window(window.first[part], window.length[part]),
            index=None if index is None else index[part],
            joints=None
            if joints is None
            else JointMatrices(joints.matrices[part], None if joints.source is None else joints.source[part]),
            stream=self.stream,
        )


def draw_view(view: View, samples: Samples, frames: int, *, seed: int, epoch: int, step: int) -> Drawn:
    """Draw all that `view` needs but a mix, which is drawn for the global batch."""
    drawn = Drawn()
    for slot, operation in view.named():
        if isinstance(operation, (Crop, TimeMap, Linear, Free, Mask, ToStream)):
            key = Key(seed, epoch, step, operation.share or view.name, slot)
            params = operation.draw(samples, key, frames)
            applies = operation.applies(samples, key) if isinstance(operation, (TimeMap, Linear, Free, Mask)) else None
            target = operation.target(params)
            if target is not None:
                # class 0 is "left as it is"
                target = target if applies is None else target * applies
                drawn = replace(drawn, targets={**drawn.targets, slot + operation.kind: target})
            drawn = _fold(drawn, Step(operation, params, applies), frames, view.of is None)
    return drawn


def _fold(drawn: Drawn, step: Step, frames: int, stored: bool) -> Drawn:
    """`drawn` followed by one more operation, folded where nothing stands in between that it would have to pass."""
    operation = step.operation
    if isinstance(operation, Crop):
        return replace(drawn, window=step.params)
    if stored and not drawn.steps:
        foldable = drawn.stream == "joint"
        if isinstance(operation, TimeMap) and foldable and (operation.whole or drawn.index is None):
            # between two places of a shuffle lies another moment, not a blend of the two
            # a map of time and one of joints that is the same in every frame may change places
            return replace(drawn, index=_chained(drawn.index, time_index(step, frames)))
        if isinstance(operation, Linear) and drawn.stream == "joint":
            joints = joint_matrices(step)
            return replace(drawn, joints=joints if drawn.joints is None else drawn.joints.then(joints))
        if isinstance(operation, ToStream) and drawn.stream == "joint":
            return replace(drawn, stream=operation.stream)
    return replace(drawn, steps=(*drawn.steps, step))


def time_index(step: Step, frames: int) -> Tensor:
    """(N, T) float64, the index of a `TimeMap`; the frames' own numbers for samples that it passes by."""
    operation = step.operation
    assert isinstance(operation, TimeMap)
    index = operation.index(step.params, frames)
    if step.applies is None:
        return index
    same = torch.arange(frames, device=index.device, dtype=index.dtype)
    return torch.where(step.applies[:, None], index, same)


def joint_matrices(step: Step) -> JointMatrices:
    """The map of a `Linear` operation; the identity for samples that it passes by."""
    operation = step.operation
    assert isinstance(operation, Linear)
    joints = operation.joint_map(step.params)
    if step.applies is None:
        return joints
    matrices, source, keep = joints.matrices, joints.source, step.applies
    matrices = torch.where(keep[:, None, None, None], matrices, torch.eye(3, device=matrices.device))
    if source is not None:
        source = torch.where(keep[:, None], source, torch.arange(source.shape[1], device=source.device))
    return JointMatrices(matrices, source)


def _chained(first: Tensor | None, second: Tensor) -> Tensor:
    """Positions of `first` at the positions `second`: both maps in one."""
    return second if first is None else interpolated(first[..., None], second)[..., 0]


def interpolated(x: Tensor, index: Tensor) -> Tensor:
    """(N, T, ...) at the positions `index` (N, T) in 0..T-1, between two neighbours linearly."""
    lower = index.to(torch.int64)
    upper = (lower + 1).clamp(max=x.shape[1] - 1)
    rows = torch.arange(len(x), device=x.device)[:, None]
    weight = (index - lower).to(x.dtype).view(*index.shape, *[1] * (x.ndim - 2))
    return torch.lerp(x[rows, lower], x[rows, upper], weight)
