"""What of a view is hidden. Masks are bool, True where visible."""

from functools import cache
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from pipelines.augmentations.draws import choose, subset
from pipelines.augmentations.operation import Key, Mask, Samples
from shards.errors import ConfigError
from shards.skeleton import BODY_PARTS, NUM_JOINTS

Persons = Literal["main", "both"]
"""Whose entries a mask may hide: those of person 0 only, as in JHang2020/PCM3, or the same of both."""


Scope = Literal["batch", "sample"]
"""Whether the whole global batch draws alike, or each sample for itself."""


@cache
def part_table(device: torch.device | None = None) -> Tensor:
    """(parts, V) bool: which joints a body part has; one tensor for all, to be read only."""
    table = torch.zeros(len(BODY_PARTS), NUM_JOINTS, dtype=torch.bool)
    for row, part in enumerate(BODY_PARTS):
        table[row, list(part)] = True
    return table.to(device)


def for_persons(visible: Tensor, persons: Persons) -> Tensor:
    """A (N, T or 1, V or 1) mask as (N, T or 1, M or 1, V or 1)."""
    return main_person_only(visible) if persons == "main" else visible[:, :, None]


def main_person_only(visible: Tensor) -> Tensor:
    """A (N, T, V) mask as (N, T, M, V): the second person is always visible."""
    return torch.stack((visible, torch.ones_like(visible)), dim=2)


def kept_count(count: int, ratio: float) -> int:
    """How many of `count` stay when the share `ratio` is hidden: int(count * (1 - ratio)), in floats as released.

    Raises:
        ConfigError: none would stay.
    """
    kept = int(count * (1 - ratio))
    if kept == 0:
        raise ConfigError(f"found a mask of {ratio:g} of {count}, which leaves none; expected one to stay at least")
    return kept


def ids_keep(noise: Tensor, kept: int) -> Tensor:
    """The `kept` tokens of least noise, (..., L) -> (..., kept) int64, in ascending order of their noise."""
    return torch.argsort(noise, dim=-1, stable=True)[..., :kept]


def keep_least(noise: Tensor, kept: int) -> Tensor:
    """(..., L) bool: True for the `kept` tokens of least noise."""
    return torch.zeros_like(noise, dtype=torch.bool).scatter(-1, ids_keep(noise, kept), True)


def token_steps(frames: int, patch: int) -> int:
    """How many tokens of `patch` frames a view has in time.

    Raises:
        ConfigError: the view is no multiple of a token.
    """
    if frames % patch:
        raise ConfigError(f"found a view of {frames} frames, expected a multiple of the {patch} frames of a token")
    return frames // patch


def _fitting(segments: int, frames: int) -> int:
    if frames % segments:
        raise ConfigError(f"found a view of {frames} frames, expected a multiple of {segments} segments")
    return segments


def _of_segments(samples: Samples, key: Key, word: str, scope: Scope, segments: int, count: int) -> Tensor:
    """`count` numbers a segment, (N or 1, segments, count) in [0, 1)."""
    if scope == "batch":
        draws = key.batch(word, segments * count)[None]
    else:
        draws = key.sample(samples.sample_id, word, segments * count)
    return draws.view(-1, segments, count)


class BodyPartMask(Mask):
    """Body parts hidden, other ones in each segment of time.

    Attributes:
        ratio: share of the five body parts that are hidden in each segment, rounded down to whole parts.
        segments: equal stretches of time with their own hidden parts.
        scope: "batch" hides the same for the whole global batch, as released; "sample" draws for each sample.
        persons: whose parts are hidden.
    """

    kind: Literal["body_part_mask"] = "body_part_mask"
    ratio: float = Field(default=0.6, ge=0.2, le=0.99)
    segments: int = Field(default=8, ge=1)
    scope: Scope = "batch"
    persons: Persons = "main"

    source: ClassVar[str] = "JHang2020/PCM3"

    def draw(self, samples: Samples, key: Key, frames: int) -> Tensor:
        """(N or 1, segments, int(parts * ratio)) int64, the parts hidden."""
        draws = _of_segments(samples, key, "parts", self.scope, _fitting(self.segments, frames), len(BODY_PARTS))
        parts = subset(draws.flatten(0, 1), int(len(BODY_PARTS) * self.ratio))
        return parts.view(len(draws), self.segments, -1)

    def visible(self, x: Tensor, params: Tensor) -> Tensor:
        return for_persons(part_mask(params, x.shape[1]), self.persons).to(x.device)


def part_mask(parts: Tensor, frames: int) -> Tensor:
    """Visibility of joints, (..., T, V) bool, from the parts hidden in each segment, (..., segments, hidden) int64."""
    hidden = part_table(parts.device)[parts].any(dim=-2)
    return ~hidden.repeat_interleave(frames // parts.shape[-2], dim=-2)


class ClipMask(Mask):
    """Everything hidden but a continuous run of frames anywhere: the clip view of PCM3++.

    Attributes:
        frames: that stay; not published, 16 of 64 by default.
    """

    kind: Literal["clip_mask"] = "clip_mask"
    frames: int = Field(default=16, ge=1)

    source: ClassVar[str] = "A Benchmark and Beyond (PCM3++), clip-level contrast"

    def draw(self, samples: Samples, key: Key, frames: int) -> Tensor:
        """(N, 1) int64, the first frame that stays."""
        if self.frames > frames:
            raise ConfigError(f"found a clip of {self.frames} frames, expected at most the view's {frames}")
        return choose(key.sample(samples.sample_id, "start", 1), 0, frames - self.frames)

    def visible(self, x: Tensor, params: Tensor) -> Tensor:
        return run(params, self.frames, x.shape[1])[:, :, None, None]


def run(first: Tensor, length: int | Tensor, frames: int) -> Tensor:
    """(N, T) bool, True in the frames first..first+length-1; `first` and a `length` of tensors are (N, 1) int64."""
    time = torch.arange(frames, device=first.device)
    return (time >= first) & (time < first + length)


class RandomMask(Mask):
    """Tokens hidden anywhere: a token is one joint in `patch` frames; every set of them is equally likely.

    Attributes:
        ratio: share of a view's tokens that are hidden; int(tokens * (1 - ratio)) stay.
        patch: frames of a token.
        persons: whose tokens are hidden.
    """

    kind: Literal["random_mask"] = "random_mask"
    ratio: float = Field(default=0.9, gt=0, lt=1)
    patch: int = Field(default=4, ge=1)
    persons: Persons = "both"

    source: ClassVar[str] = "maoyunyao/MAMP (random masking, after facebookresearch/mae)"

    def draw(self, samples: Samples, key: Key, frames: int) -> Tensor:
        """(N, T / patch, V) bool, True where a token stays."""
        tokens = token_steps(frames, self.patch) * NUM_JOINTS
        shown = keep_least(key.sample(samples.sample_id, "random-mask", tokens), kept_count(tokens, self.ratio))
        return shown.view(len(samples), -1, NUM_JOINTS)

    def visible(self, x: Tensor, params: Tensor) -> Tensor:
        return for_persons(params.repeat_interleave(self.patch, dim=1), self.persons)


class TubeMask(Mask):
    """Joints hidden in all frames, or in those of a segment; every set of them is equally likely.

    Attributes:
        ratio: share of the joints that are hidden; int(25 * (1 - ratio)) stay. Not published for joints; 0.6.
        segments: equal stretches of time with their own hidden joints.
        scope: "batch" hides the same for the whole global batch; "sample" draws for each sample.
        persons: whose joints are hidden.
    """

    kind: Literal["tube_mask"] = "tube_mask"
    ratio: float = Field(default=0.6, gt=0, lt=1)
    segments: int = Field(default=1, ge=1)
    scope: Scope = "sample"
    persons: Persons = "both"

    source: ClassVar[str] = "MCG-NJU/VideoMAE (tube masking), on joints"

    def draw(self, samples: Samples, key: Key, frames: int) -> Tensor:
        """(N or 1, segments, V) bool, True where a joint stays."""
        draws = _of_segments(samples, key, "tube-mask", self.scope, _fitting(self.segments, frames), NUM_JOINTS)
        return keep_least(draws, kept_count(NUM_JOINTS, self.ratio))

    def visible(self, x: Tensor, params: Tensor) -> Tensor:
        shown = params.repeat_interleave(x.shape[1] // params.shape[1], dim=1)
        return for_persons(shown, self.persons).to(x.device)


class FrameMask(Mask):
    """Frames hidden, all joints of them.

    Attributes:
        ratio: share of the frames that are hidden; int(frames * (1 - ratio)) stay. Not published; 0.5.
        pattern: "scattered": every set of frames is equally likely; "run": one run of frames, anywhere.
        persons: whose frames are hidden.
    """

    kind: Literal["frame_mask"] = "frame_mask"
    ratio: float = Field(default=0.5, gt=0, lt=1)
    pattern: Literal["scattered", "run"] = "scattered"
    persons: Persons = "both"

    source: ClassVar[str] = "A Benchmark and Beyond (survey of masked modelling); shares ours"

    def draw(self, samples: Samples, key: Key, frames: int) -> Tensor:
        """(N, T) bool, True where a frame stays."""
        kept = kept_count(frames, self.ratio)
        if self.pattern == "scattered":
            return keep_least(key.sample(samples.sample_id, "frame-mask", frames), kept)
        first = choose(key.sample(samples.sample_id, "frame-mask", 1), 0, kept)
        return ~run(first, frames - kept, frames)

    def visible(self, x: Tensor, params: Tensor) -> Tensor:
        return for_persons(params[:, :, None], self.persons)
