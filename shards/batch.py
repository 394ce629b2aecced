"""The border between `pipelines` and `models`: what one hands to the other. Axis legend in `shards.schema`."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor


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
