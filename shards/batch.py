"""The border between `pipelines` and `models`: what one hands to the other. Axis legend in `shards.schema`."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from shards.skeleton import NUM_COORDINATES, NUM_JOINTS, NUM_PERSONS


@dataclass(frozen=True)
class RaggedBatch:
    """Samples of unequal length as windows on one flat buffer of frames.

    Attributes:
        frames: (F, M, V, C) float32 or float16 on the device; a resident loader puts the whole split here, once.
        start: (N,) int64, first frame of each sample in `frames`.
        length: (N,) int64, frames of each sample, at least 1.
        label: (N,) int64, zero-based.
        sample_id: (N,) int64, number of the sample in its data set; the same in every loader and order.
    """

    frames: Tensor
    start: Tensor
    length: Tensor
    label: Tensor
    sample_id: Tensor

    def __len__(self) -> int:
        return int(self.label.shape[0])


@dataclass(frozen=True)
class Views:
    """What an objective or an evaluation sees of a batch.

    Attributes:
        views: name -> (N, T, V*C*M) float32.
        label: (N,) int64.
        sample_id: (N,) int64.
        masks: name -> bool, True where visible, broadcastable against the view of that name.
        mix_partner: (N,) int64, row of the global batch mixed into the mixed view; None without mixing.
        mix_weight: (N,) float32, share of the partner in the view "mix"; None without mixing.
        targets: "view/operation" -> (N,) int64, what was done to each sample, for methods that predict it; of whole
            videos "x/action" -> (1, T) int64, the class of each frame.
    """

    views: dict[str, Tensor]
    label: Tensor
    sample_id: Tensor
    masks: dict[str, Tensor] = field(default_factory=dict)
    mix_partner: Tensor | None = None
    mix_weight: Tensor | None = None
    targets: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.label.shape[0])


class EpochViews(Protocol):
    """The views of a split, epoch by epoch: a pure function of (seed, epoch), entered at any step."""

    def __len__(self) -> int:
        """Steps in an epoch."""
        ...

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Views]:
        """The views of each step of `epoch` (from 0), beginning with `first_step`."""
        ...


def flatten(x: Tensor) -> Tensor:
    """(N, T, M, V, C) -> (N, T, V*C*M), the order of the encoders: index v*6 + c*2 + m."""
    return x.permute(0, 1, 3, 4, 2).flatten(2)


def unflatten(x: Tensor) -> Tensor:
    """(N, T, V*C*M) -> (N, T, M, V, C), the inverse of `flatten`."""
    return x.view(*x.shape[:2], NUM_JOINTS, NUM_COORDINATES, NUM_PERSONS).permute(0, 1, 4, 2, 3)


def flatten_mask(visible: Tensor) -> Tensor:
    """(N or 1, T, M or 1, V or 1) bool -> (N or 1, T, V*C*M), or (..., 1) where all entries of a frame are alike."""
    if visible.shape[2:] == (1, 1):
        return visible[..., 0]
    persons = visible.expand(-1, -1, NUM_PERSONS, NUM_JOINTS).transpose(2, 3).contiguous()
    # flattening (N, T, M, V, C) goes byte by byte: 3.9 ms for 128 samples instead of 1.5
    return torch.stack((persons,) * NUM_COORDINATES, dim=3).flatten(2)
