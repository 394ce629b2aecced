"""Operations on time: crops, which are resampled to the view's frames, and changes of the order of frames."""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from pipelines.augmentations.draws import choose, subset
from pipelines.augmentations.operation import Crop, Key, Samples, TimeMap, Window
from shards.batch import RaggedBatch
from shards.errors import ConfigError

MIN_CROP = 64
"""As released, a random crop keeps at least that many frames, or all there are."""


class RandomCrop(Crop):
    """A window of a random share of each sample, anywhere in it.

    Attributes:
        min_ratio, max_ratio: the share is U[min_ratio, max_ratio].
        min_frames: kept at least, or all there are. As released 64, which leaves data of short sequences (NW-UCLA: 39
            frames in the mean) without a crop at all.
    """

    kind: Literal["crop"] = "crop"
    min_ratio: float = Field(default=0.1, gt=0, le=1)
    max_ratio: float = Field(default=1.0, gt=0, le=1)
    min_frames: int = Field(default=MIN_CROP, ge=1)

    source: ClassVar[str] = "JHang2020/PCM3"

    def draw(self, samples: Samples, key: Key, frames: int) -> Window:
        return self._draw_compiled(samples, key) if samples.is_on_cpu else self._draw_torch(samples, key)

    def _draw_compiled(self, samples: Samples, key: Key) -> Window:
        from pipelines.augmentations.draw_kernels import crop_rows

        first, kept = torch.empty(2, len(samples), dtype=torch.int64).unbind()
        ids, length = samples.sample_id.contiguous().numpy(), samples.length.contiguous().numpy()
        span = self.max_ratio - self.min_ratio
        crop_rows(ids, length, key.word("crop"), self.min_ratio, span, self.min_frames, first.numpy(), kept.numpy())
        return Window(first, kept)

    def _draw_torch(self, samples: Samples, key: Key) -> Window:
        draws = key.sample(samples.sample_id, "crop", 2)
        share = draws[:, 0] * (self.max_ratio - self.min_ratio) + self.min_ratio
        length = samples.length
        kept = torch.floor(length * share).to(torch.int64).clamp(min=self.min_frames).minimum(length)
        return Window(choose(draws[:, 1], 0, length - kept), kept)


class CentreCrop(Crop):
    """The middle of each sample.

    Attributes:
        ratio: int((1 - ratio) * length / 2) frames are cut at each end; 1 takes the whole sample.
    """

    kind: Literal["centre_crop"] = "centre_crop"
    ratio: float = Field(default=0.95, gt=0, le=1)

    source: ClassVar[str] = "maoyunyao/CMD"

    def draw(self, samples: Samples, key: Key, frames: int) -> Window:
        return centre_crop(samples.length, self.ratio)


def centre_crop(length: Tensor, ratio: float) -> Window:
    """The middle of each sample: int((1 - ratio) * length / 2) frames are cut at each end."""
    cut = torch.floor((1 - ratio) * length.to(torch.float64) / 2).to(torch.int64)
    cut = torch.minimum(cut, (length - 1) // 2)  # of a ratio below the precision of float64 no frame would stay
    return Window(cut, length - 2 * cut)


class StartCrop(Crop):
    """The first frames of each sample: what early prediction has seen of an action.

    Attributes:
        ratio: share of a sample that is kept, rounded down, at least one frame; 1 takes the whole sample.
    """

    kind: Literal["start_crop"] = "start_crop"
    ratio: float = Field(default=0.5, gt=0, le=1)

    source: ClassVar[str] = "early prediction by observation ratios; of skeletons Ke et al., TIP 2020"

    def draw(self, samples: Samples, key: Key, frames: int) -> Window:
        # 0.7 of 170 frames are 119, and not the 118.99999999999999 of float64
        kept = torch.floor(samples.length.to(torch.float64) * self.ratio + 1e-9).to(torch.int64).clamp(min=1)
        return Window(torch.zeros_like(kept), kept)


class ClipCrop(Crop):
    """A short continuous clip of each sample, anywhere in it: one view sees the clip, another one all of the sample.

    Attributes:
        ratio: share of a sample that is kept, rounded down, at least one frame.
        frames: kept instead of a share; a sample that is shorter is kept whole.
    """

    kind: Literal["clip_crop"] = "clip_crop"
    ratio: float = Field(default=0.25, gt=0, le=1)
    frames: int | None = Field(default=None, ge=1)

    source: ClassVar[str] = "A Benchmark and Beyond (PCM3++), clip-level contrast: 16 of 64 frames"

    def draw(self, samples: Samples, key: Key, frames: int) -> Window:
        length = samples.length
        if self.frames is None:
            kept = torch.floor(length * self.ratio).to(torch.int64).clamp(min=1)
        else:
            kept = length.clamp(max=self.frames)
        place = key.sample(samples.sample_id, "clip_crop", 1)[:, 0]
        return Window(choose(place, 0, length - kept), kept)


class Reverse(TimeMap):
    """The sequence played backwards; the released methods do it with probability 1/2."""

    kind: Literal["reverse"] = "reverse"

    source: ClassVar[str] = "Levigty/AimCLR; before it AS-CAL (Rao et al., Information Sciences 2021)"

    def draw(self, samples: Samples, key: Key, frames: int) -> Tensor:
        """(N,) float64, the number of the frame that comes first."""
        return torch.full((len(samples),), frames - 1, dtype=torch.float64, device=samples.sample_id.device)

    def index(self, params: Tensor, frames: int) -> Tensor:
        return params[:, None] - _numbers(params, frames)


class Speed(TimeMap):
    """The sequence played faster or slower about a random moment, which stays; the edge frames repeat where it ends.

    Attributes:
        min_factor, max_factor: the speed is U[min_factor, max_factor] times the original one.
    """

    kind: Literal["speed"] = "speed"
    min_factor: float = Field(default=0.5, gt=0)
    max_factor: float = Field(default=2.0, gt=0)

    whole: ClassVar[bool] = False
    source: ClassVar[str] = "Su et al., ICCV 2021 (motion consistency and continuity): clips at other playback speeds"

    def draw(self, samples: Samples, key: Key, frames: int) -> Tensor:
        """(N, 2) float64: the speed, and the moment in frames, U[0, frames - 1]."""
        low = torch.tensor([self.min_factor, 0], dtype=torch.float64, device=samples.sample_id.device)
        high = torch.tensor([self.max_factor, frames - 1], dtype=torch.float64, device=samples.sample_id.device)
        return low + key.sample(samples.sample_id, "speed", 2) * (high - low)

    def index(self, params: Tensor, frames: int) -> Tensor:
        factor, moment = params[:, :1], params[:, 1:]
        return (moment + (_numbers(params, frames) - moment) * factor).clamp(0, frames - 1)


class TemporalShift(TimeMap):
    """The sequence moved by a few frames.

    Attributes:
        max_frames: the shift is a whole number of frames, U{-max_frames..max_frames}; at most the view's frames.
        edges: what fills the gap: "repeat" the edge frame, "reflect" the frames next to it, edge frame first. With
            "reflect" and a sixth of the view this is the temporal crop of SkeletonCLR, CrosSCLR and AimCLR.
    """

    kind: Literal["temporal_shift"] = "temporal_shift"
    max_frames: int = Field(default=8, ge=1)
    edges: Literal["repeat", "reflect"] = "repeat"

    source: ClassVar[str] = "Levigty/AimCLR (temporal crop, 8 of 50 frames, edges reflected)"

    def draw(self, samples: Samples, key: Key, frames: int) -> Tensor:
        """(N,) int64: the result begins with this frame."""
        if self.max_frames > frames:
            raise ConfigError(
                f"temporal_shift: found max_frames={self.max_frames}, expected at most the view's {frames} frames"
            )
        place = key.sample(samples.sample_id, "temporal_shift", 1)[:, 0]
        return choose(place, -self.max_frames, self.max_frames)

    def index(self, params: Tensor, frames: int) -> Tensor:
        index = params[:, None] + _numbers(params, frames)
        if self.edges == "reflect":
            index = torch.where(index < 0, -1 - index, index)
            index = torch.where(index >= frames, 2 * frames - 1 - index, index)
        return index.clamp(0, frames - 1)


class SegmentShuffle(TimeMap):
    """Time cut into equal pieces in another order: the temporal jigsaw.

    The target is the number of the order among all in lexicographic order; 0 leaves the sequence as it is. All orders
    are equally likely, that one too.

    Attributes:
        segments: pieces; the view's frames must be a multiple. There are segments! orders.
    """

    kind: Literal["segment_shuffle"] = "segment_shuffle"
    segments: int = Field(default=4, ge=2, le=20)

    source: ClassVar[str] = "LanglandsLin/MS2L (temporal jigsaw)"

    def draw(self, samples: Samples, key: Key, frames: int) -> Tensor:
        """(N, segments) int64, which piece stands at each place."""
        if frames % self.segments:
            raise ConfigError(
                f"segment_shuffle: found a view of {frames} frames, expected a multiple of segments={self.segments}"
            )
        return subset(key.sample(samples.sample_id, "segment_shuffle", self.segments), self.segments)

    def index(self, params: Tensor, frames: int) -> Tensor:
        length = frames // self.segments
        within = torch.arange(length, device=params.device)
        return (params[:, :, None] * length + within).flatten(1).to(torch.float64)

    def target(self, params: Tensor) -> Tensor:
        """(N,) int64 in 0..segments!-1."""
        # digits in the factorial system: how many of the pieces behind have a smaller number
        smaller = (params[:, :, None] > params[:, None, :]).triu(1).sum(dim=2)
        weights = [math.factorial(self.segments - 1 - place) for place in range(self.segments)]
        return (smaller * torch.tensor(weights, device=params.device)).sum(dim=1)


def _numbers(params: Tensor, frames: int) -> Tensor:
    """(T,) float64, the frames' own numbers, on the device of `params`."""
    return torch.arange(frames, device=params.device, dtype=torch.float64)


def apply_resize(batch: RaggedBatch, window: Window, frames: int, index: Tensor | None = None) -> Tensor:
    """Resample a window of each sample to `frames` frames: (N, frames, M, V, C) float32; `index` as in `resize`."""
    return resize(batch.frames, batch.start + window.first, window.length, frames, index)


def resize(buffer: Tensor, start: Tensor, length: Tensor, frames: int, index: Tensor | None = None) -> Tensor:
    """Resample stretches of a buffer to one length.

    Linear interpolation with half-pixel centres (`align_corners=False`, no antialiasing), clamped at both ends.

    Args:
        buffer: (F, M, V, C) float32 or float16.
        start, length: (N,) int64, the stretches in frames of the buffer.
        frames: of the result.
        index: (N, frames) float64, which of the result's frames stands at each place, by `TimeMap`s; also in between.

    Returns:
        (N, frames, M, V, C) float32.
    """
    lower, upper, weight = sampling(length, frames, index)
    begin = start[:, None]
    return _take(buffer, begin + lower).lerp_(_take(buffer, begin + upper), weight[:, :, None, None, None])


def sampling(length: Tensor, frames: int, index: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Between which two frames of a stretch each of the result lies, and the share of the second: (N, frames) each."""
    # In float32 a position near frame 200 is off by about 1e-5, near 1000 by 1e-4, unless `frames` is a power of two.
    if index is None:
        index = torch.arange(frames, device=length.device, dtype=torch.float64)
    scale = length.to(torch.float64) / frames
    position = ((index + 0.5) * scale[:, None] - 0.5).clamp(min=0)
    last = (length - 1)[:, None]
    lower = position.to(torch.int64).minimum(last)
    upper = (lower + 1).minimum(last)
    return lower, upper, (position - lower).to(torch.float32)


def _take(frames: Tensor, index: Tensor) -> Tensor:
    """Frames by number, (N, T) -> (N, T, M, V, C) float32; on the CPU three times as fast as `frames[index]`."""
    return frames.index_select(0, index.flatten()).view(*index.shape, *frames.shape[1:]).float()
