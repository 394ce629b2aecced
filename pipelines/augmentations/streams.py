"""Streams: the same sequence as joints, bones or motion. Source: JHang2020/PCM3 (there after augmentation)."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from pipelines.augmentations.operation import Key, Operation, Samples
from shards.skeleton import PARENTS, Stream


def apply_stream(x: Tensor, stream: Stream) -> Tensor:
    """Turn joint coordinates (N, T, M, V, C) into the stream, same shape.

    "bone": joint minus its parent, zero for the spine shoulder. "motion": x[t+1] - x[t], zero in the last frame.
    """
    if stream == "joint":
        return x
    if stream == "bone":
        return x - x[..., list(PARENTS), :]
    motion = torch.zeros_like(x)
    motion[:, :-1] = x[:, 1:] - x[:, :-1]
    return motion


class ToStream(Operation):
    """Turn coordinates into a stream. Where it stands in a view decides whether augmentation sees joints or the stream.

    Attributes:
        stream: "bone" or "motion"; "joint" changes nothing.
    """

    kind: Literal["stream"] = "stream"
    stream: Stream = "joint"

    source: ClassVar[str] = "JHang2020/PCM3"

    def draw(self, samples: Samples, key: Key, frames: int) -> Any:
        """Nothing is drawn."""
        return None
