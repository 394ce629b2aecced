"""Windows in time: crop and resize, centre crop. Source: `tools.py` and the feeders of JHang2020/PCM3."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.augmentations.draws import choose, uniform
from shards.batch import RaggedBatch

MIN_CROP = 64
"""As released, a random crop keeps at least that many frames, or all there are."""


@dataclass(frozen=True)
class Window:
    """A window of each sample: frames first..first+length-1, counted in the sample; both (N,) int64."""

    first: Tensor
    length: Tensor


def draw_crop(
    length: Tensor,
    sample_id: Tensor,
    min_ratio: float,
    max_ratio: float,
    *,
    seed: int,
    epoch: int,
    view: str,
    min_frames: int = MIN_CROP,
) -> Window:
    """Draw a window of a share U[min_ratio, max_ratio] of each sample, at least `min_frames` frames, anywhere in it."""
    draws = uniform(seed, epoch, sample_id, view, "crop", 2)
    share = draws[:, 0] * (max_ratio - min_ratio) + min_ratio
    kept = torch.floor(length * share).to(torch.int64).clamp(min=min_frames).minimum(length)
    return Window(choose(draws[:, 1], 0, length - kept), kept)


def centre_crop(length: Tensor, ratio: float) -> Window:
    """The middle of each sample: int((1 - ratio) * length / 2) frames are cut at each end."""
    cut = torch.floor((1 - ratio) * length.to(torch.float64) / 2).to(torch.int64)
    return Window(cut, length - 2 * cut)


def apply_resize(batch: RaggedBatch, window: Window, frames: int) -> Tensor:
    """Resample a window of each sample to `frames` frames.

    Linear interpolation with half-pixel centres (`align_corners=False`, no antialiasing), clamped at both ends.

    Returns:
        (N, frames, M, V, C) float32.
    """
    step = torch.arange(frames, device=batch.frames.device, dtype=torch.float32) + 0.5
    scale = window.length.to(torch.float32) / frames
    position = (step * scale[:, None] - 0.5).clamp(min=0)
    last = (window.length - 1)[:, None]
    lower = position.to(torch.int64).minimum(last)
    upper = (lower + 1).minimum(last)
    weight = (position - lower)[:, :, None, None, None]
    begin = (batch.start + window.first)[:, None]
    before, after = batch.frames[begin + lower].float(), batch.frames[begin + upper].float()
    return torch.lerp(before, after, weight)
