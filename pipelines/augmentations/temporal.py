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
    """Resample a window of each sample to `frames` frames: (N, frames, M, V, C) float32."""
    return resize(batch.frames, batch.start + window.first, window.length, frames)


def resize(buffer: Tensor, start: Tensor, length: Tensor, frames: int) -> Tensor:
    """Resample stretches of a buffer to one length.

    Linear interpolation with half-pixel centres (`align_corners=False`, no antialiasing), clamped at both ends.

    Args:
        buffer: (F, M, V, C) float32 or float16.
        start, length: (N,) int64, the stretches in frames of the buffer.
        frames: of the result.

    Returns:
        (N, frames, M, V, C) float32.
    """
    # In float32 a position near frame 200 is off by about 1e-5, near 1000 by 1e-4, unless `frames` is a power of two.
    step = torch.arange(frames, device=buffer.device, dtype=torch.float64) + 0.5
    scale = length.to(torch.float64) / frames
    position = (step * scale[:, None] - 0.5).clamp(min=0)
    last = (length - 1)[:, None]
    lower = position.to(torch.int64).minimum(last)
    upper = (lower + 1).minimum(last)
    weight = (position - lower).to(torch.float32)[:, :, None, None, None]
    begin = start[:, None]
    return _take(buffer, begin + lower).lerp_(_take(buffer, begin + upper), weight)


def _take(frames: Tensor, index: Tensor) -> Tensor:
    """Frames by number, (N, T) -> (N, T, M, V, C) float32; on the CPU three times as fast as `frames[index]`."""
    return frames.index_select(0, index.flatten()).view(*index.shape, *frames.shape[1:]).float()
