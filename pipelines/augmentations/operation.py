"""What an operation is: options that a view lists, parameters drawn from keys, and a pure application of them.

Families say how an operation acts, so that a view can be compiled: `TimeMap`s fuse into the resampling of the crop,
`Linear` maps into one matrix a joint, `Mask`s into one bool; only `Free` operations cost a pass of their own.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipelines.augmentations.draws import uniform, word
from shards.frozen import Frozen


@dataclass(frozen=True)
class Key:
    """Whose numbers are drawn: a pure function of (seed, epoch, sample id, view, operation), or of (seed, epoch, step).

    Attributes:
        seed, epoch, step: of the run; `step` counts the global batches of an epoch and matters to `batch` only.
        view: name of the view, or what views that draw alike share.
        slot: distinguishes operations of one kind in a view; empty for the first of them.
    """

    seed: int
    epoch: int
    step: int
    view: str
    slot: str = ""

    def sample(self, sample_id: Tensor, operation: str, count: int) -> Tensor:
        """(N, count) float64 in [0, 1) on the device of `sample_id`, of each sample its own."""
        return uniform(self.seed, self.epoch, sample_id, self.view, self.slot + operation, count)

    def word(self, operation: str) -> int:
        """By which compiled code draws the numbers of `sample`."""
        return word(self.seed, self.epoch, self.view, self.slot + operation)

    def batch(self, operation: str, count: int) -> Tensor:
        """(count,) float64 in [0, 1) on the host, one draw for the whole global batch."""
        return uniform(self.seed, self.epoch, torch.tensor([self.step]), self.view, self.slot + operation, count)[0]


@dataclass(frozen=True)
class Samples:
    """What draws depend on: `sample_id` and `length` in frames, both (N,) int64 on the batch's device."""

    sample_id: Tensor
    length: Tensor

    def __len__(self) -> int:
        return len(self.sample_id)

    @property
    def is_on_cpu(self) -> bool:
        """Whether compiled code can draw for them (`draw_kernels`): a few microseconds instead of some torch calls."""
        return self.sample_id.device.type == "cpu"


@dataclass(frozen=True)
class Window:
    """A window of each sample: frames first..first+length-1, counted in the sample; both (N,) int64."""

    first: Tensor
    length: Tensor


@dataclass(frozen=True)
class JointMatrices:
    """A linear map of each joint: x'[v] = matrices[v] @ x[source[v]].

    Attributes:
        matrices: (N, 1 or V, 3, 3) float32.
        source: (N, V) int64; None for the joint itself.
    """

    matrices: Tensor
    source: Tensor | None = None

    def then(self, other: "JointMatrices") -> "JointMatrices":
        """This map followed by another."""
        inner, source = self.matrices, self.source
        if other.source is not None:
            if inner.shape[1] > 1:
                inner = inner.gather(1, other.source[:, :, None, None].expand(-1, -1, 3, 3))
            source = other.source if source is None else source.gather(1, other.source)
        return JointMatrices(other.matrices @ inner, source)


class Operation(Frozen):
    """Base of all operations: immutable options.

    Attributes:
        kind: name in `vocabulary.OPERATIONS`; each class fixes its own.
        share: draw as the other views that name the same word here; by default each view draws for itself.
    """

    kind: str
    share: str | None = None

    source: ClassVar[str]
    """Paper or owner/name of the reference."""

    @model_validator(mode="after")
    def _ranges_rise(self) -> Self:
        for low in type(self).model_fields:
            high = f"max_{low.removeprefix('min_')}"
            if low.startswith("min_") and high in type(self).model_fields and getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low}={getattr(self, low)}, expected at most {high}={getattr(self, high)}")
        return self

    def draw(self, samples: Samples, key: Key, frames: int) -> Any:
        """The parameters of each sample for a view of `frames` frames: batched tensors on the samples' device."""
        raise NotImplementedError

    def target(self, params: Any) -> Tensor | None:
        """(N,) int64, what was done to each sample as a class to predict; None where nothing is to be predicted."""
        return None


class Crop(Operation):
    """Choice of a window, with which every view of stored frames begins; it is resampled to the view's frames."""

    def draw(self, samples: Samples, key: Key, frames: int) -> Window:
        raise NotImplementedError


class Occasional(Operation):
    """An operation that may pass a sample by.

    Attributes:
        probability: with which a sample undergoes it.
    """

    probability: float = Field(default=1.0, ge=0, le=1)

    def applies(self, samples: Samples, key: Key) -> Tensor | None:
        """(N,) bool; None for always."""
        if self.probability == 1:
            return None
        return key.sample(samples.sample_id, f"{self.kind}-applies", 1)[:, 0] < self.probability


class TimeMap(Occasional):
    """An operation on time alone: frame t of the result is the one at `index[t]` of the sequence, interpolated."""

    whole: ClassVar[bool] = True
    """Whether all positions are whole numbers; others are not chained behind another map of time."""

    def index(self, params: Any, frames: int) -> Tensor:
        """(N, T) float64, positions in 0..T-1; whole numbers take frames as they are."""
        raise NotImplementedError


class Linear(Occasional):
    """An operation that maps the points of each joint by a matrix."""

    def joint_map(self, params: Any) -> JointMatrices:
        raise NotImplementedError


class Free(Occasional):
    """Any other operation on a sample's own sequence."""

    def apply(self, x: Tensor, params: Any) -> Tensor:
        """(N, T, M, V, C) -> the same shape; pure."""
        raise NotImplementedError


class Mask(Occasional):
    """An operation that sets entries to zero, and says which."""

    def visible(self, x: Tensor, params: Any) -> Tensor:
        """(N or 1, T, M or 1, V or 1) bool, True where an entry of x (N, T, M, V, C) stays."""
        raise NotImplementedError


@dataclass(frozen=True)
class Blend:
    """How samples are mixed.

    What serves the whole global batch is drawn on the host: plain numbers, no device is waited for.

    Attributes:
        shift: row n of the global batch is mixed with row (n + shift) mod rows.
        weight: share of the partner; of each sample its own, (N,) float32 on the samples' device, where it differs.
        params: the rest, the operation's own.
    """

    shift: int
    weight: float | Tensor
    params: Any = None


class Mix(Operation):
    """An operation that takes a part of each sample from another one of the global batch."""

    def draw_shift(self, key: Key, rows: int) -> int:
        """Draw how far on each sample's partner stands in a global batch of `rows`.

        Raises:
            ConfigError: too few rows for a partner.
        """
        raise NotImplementedError

    def draw_mix(self, samples: Samples, key: Key, rows: int) -> Blend:
        """Draw how these samples of a global batch of `rows` are mixed.

        Raises:
            ConfigError: too few rows for a partner.
        """
        raise NotImplementedError

    def apply_mix(self, x: Tensor, partner: Tensor, blend: Blend) -> Tensor:
        """Mix (N, T, M, V, C) with its partners, same shape; pure."""
        raise NotImplementedError
