"""All operations by name: what a view may list, and what `skelstream view --views all` shows."""

from itertools import accumulate
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator
from torch import Tensor

from pipelines.augmentations.joints import EdgeDrop, JointCorruption, JointMask, PartDrop
from pipelines.augmentations.masks import BodyPartMask, ClipMask, FrameMask, RandomMask, TubeMask
from pipelines.augmentations.mixing import CutMix, Mixup, PCM3Mix, ResizedMix, SkeleMix
from pipelines.augmentations.motion import MotionMask
from pipelines.augmentations.noise import GaussianBlur, GaussianNoise
from pipelines.augmentations.occlusion import SpatialOcclusion, StoredOcclusion, TemporalOcclusion
from pipelines.augmentations.operation import JointMatrices, Key, Linear, Operation, Samples
from pipelines.augmentations.spatial import (
    AxisMask,
    FixedRotation,
    Flip,
    LabelledRotation,
    Rotation,
    Scale,
    Shear,
    identity,
)
from pipelines.augmentations.streams import ToStream
from pipelines.augmentations.temporal import (
    CentreCrop,
    ClipCrop,
    RandomCrop,
    Reverse,
    SegmentShuffle,
    Speed,
    StartCrop,
    TemporalShift,
)


def parsed(value: Any) -> Any:
    """An operation from its fields, by "kind"; anything else unchanged."""
    if not isinstance(value, dict):
        return value
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in OPERATIONS:
        raise ValueError(f"found operation kind {kind!r}, expected one of {', '.join(OPERATIONS)}")
    return OPERATIONS[kind].model_validate(value)


AnyOperation = Annotated[SerializeAsAny[Operation], BeforeValidator(parsed)]
AnyLinear = Annotated[SerializeAsAny[Linear], BeforeValidator(parsed)]


class OneOf(Linear):
    """Exactly one of several linear operations, chosen for each sample.

    Attributes:
        operations: at least two.
        weights: probability of each; they sum to 1.
    """

    kind: Literal["one_of"] = "one_of"
    operations: tuple[AnyLinear, ...] = Field(min_length=2)
    weights: tuple[float, ...]

    source: ClassVar[str] = "JHang2020/PCM3 (joint corruption or shear)"

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if len(self.weights) != len(self.operations) or min(self.weights) < 0 or abs(sum(self.weights) - 1) > 1e-9:
            raise ValueError(
                f"found weights {self.weights}, expected {len(self.operations)} probabilities that sum to 1"
            )
        for operation in self.operations:
            if isinstance(operation, OneOf) or operation.probability != 1 or operation.share is not None:
                raise ValueError(
                    f"found {operation.kind} with a choice, probability or share of its own, expected them of one_of"
                )
        return self

    def draw(self, samples: Samples, key: Key, frames: int) -> tuple[Tensor, list[Any]]:
        """(N,) int64, which of the operations; and the parameters of each of them."""
        u = key.sample(samples.sample_id, "which", 1)[:, 0]
        # plain numbers: a tensor of them would have to be copied to the device
        first, *others = accumulate(self.weights[:-1])
        which = (u >= first).to(torch.int64)
        for edge in others:
            which = which + (u >= edge)
        return which, [operation.draw(samples, key, frames) for operation in self.operations]

    def joint_map(self, params: tuple[Tensor, list[Any]]) -> JointMatrices:
        which, each = params
        maps = [operation.joint_map(drawn) for operation, drawn in zip(self.operations, each, strict=True)]
        matrices = _by_sample(which, [other.matrices for other in maps])
        if all(other.source is None for other in maps):
            return JointMatrices(matrices)
        same = identity(len(which), which.device)
        source = maps[0].source if maps[0].source is not None else same
        for number, other in enumerate(maps[1:], start=1):
            source = torch.where((which == number)[:, None], same if other.source is None else other.source, source)
        return JointMatrices(matrices, source)


def _by_sample(which: Tensor, each: list[Tensor]) -> Tensor:
    """Of several (N, 1 or V, 3, 3) the one that `which` (N,) says, for each sample."""
    joints = max(matrices.shape[1] for matrices in each)
    if which.device.type == "cpu":
        # `where` takes 0.08 ms for 128 samples, a fifth of the draws of a view: its inner loops have nine entries
        from pipelines.augmentations.draw_kernels import take_rows

        out = torch.empty(len(which), joints, 3, 3)
        for number, matrices in enumerate(each):
            take_rows(which.numpy(), number, matrices.flatten(2).contiguous().numpy(), out.flatten(2).numpy())
        return out
    chosen = each[0]
    for number, matrices in enumerate(each[1:], start=1):
        chosen = torch.where((which == number)[:, None, None, None], matrices, chosen)
    return chosen


OPERATIONS: dict[str, type[Operation]] = {
    kind.model_fields["kind"].default: kind
    for kind in (
        RandomCrop,
        CentreCrop,
        StartCrop,
        ClipCrop,
        Reverse,
        Speed,
        TemporalShift,
        SegmentShuffle,
        Shear,
        Rotation,
        FixedRotation,
        LabelledRotation,
        Scale,
        Flip,
        AxisMask,
        GaussianNoise,
        GaussianBlur,
        JointCorruption,
        JointMask,
        PartDrop,
        EdgeDrop,
        OneOf,
        ToStream,
        BodyPartMask,
        ClipMask,
        RandomMask,
        TubeMask,
        FrameMask,
        MotionMask,
        SpatialOcclusion,
        TemporalOcclusion,
        StoredOcclusion,
        CutMix,
        ResizedMix,
        Mixup,
        PCM3Mix,
        SkeleMix,
    )
}
