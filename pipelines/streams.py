"""Streams: the same sequence as joints, bones or motion. Source: JHang2020/PCM3; taken after augmentation."""

from typing import Literal

import torch
from torch import Tensor

from shards.skeleton import PARENTS

Stream = Literal["joint", "bone", "motion"]


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
