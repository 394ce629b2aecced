"""Mixing of two samples of a batch: CutMix of body parts, resized mix, Mixup, SkeleMix.

One draw serves the whole global batch. It is made on the host from (seed, epoch, step): plain numbers, so that no
device is waited for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipelines.augmentations.draws import choose, subset
from pipelines.augmentations.operation import Blend, Key, Mix
from shards.errors import ConfigError
from shards.skeleton import BODY_PARTS, NUM_JOINTS

UNITS = 16
"""Mixing cuts time in sixteenths of a view (4 of 64 frames)."""


@dataclass(frozen=True)
class Mixing:
    """Attributes:
    mode: "cut" pastes the partner's joints, "time" pastes a resized piece of the partner, "mixup" blends whole views.
    joints: pasted, ascending.
    first, length: the pasted stretch of time, in units of T / `units`.
    units: in which time is cut.
    blend: share of the partner in a "mixup".
    """

    mode: Literal["cut", "time", "mixup"]
    joints: tuple[int, ...] = ()
    first: int = 0
    length: int = 0
    units: int = UNITS
    blend: float = 0.0


class PartnerMix(Mix):
    """A mix with the row `shift` further on, `shift` from 1 to rows - 2 (never rows - 1, as released)."""

    def mixing(self, key: Key) -> Mixing:
        """Draw how the batch is mixed."""
        raise NotImplementedError

    def draw_mix(self, rows: int, key: Key) -> Blend:
        if rows < 3:
            raise ConfigError(f"found a batch of {rows}, expected at least 3: a mix takes its partner from the batch")
        mixing = self.mixing(key)
        return Blend(int(choose(_numbers(key)[0], 1, rows - 2)), weight(mixing), mixing)

    def apply_mix(self, x: Tensor, partner: Tensor, blend: Blend) -> Tensor:
        return apply_mix(x, partner, blend.params)


class _Paste(PartnerMix):
    """Body parts of the partner are pasted for a stretch of time.

    Attributes:
        min_parts, max_parts: how many of the five body parts, all numbers equally likely.
        min_length, max_length: of the stretch in sixteenths of the view, all equally likely; it lies anywhere.
    """

    min_parts: int = Field(default=2, ge=1, le=len(BODY_PARTS))
    max_parts: int = Field(default=3, ge=1, le=len(BODY_PARTS))
    min_length: int = Field(default=7, ge=1)
    max_length: int = Field(default=11, ge=1)

    mode: ClassVar[Literal["cut", "time"]] = "cut"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.max_length > self.time_units:
            raise ValueError(f"max_length={self.max_length}, expected at most {self.time_units}")
        return self

    @property
    def time_units(self) -> int:
        return UNITS

    def joints(self, key: Key) -> tuple[int, ...]:
        """The joints that are pasted."""
        count = int(choose(_numbers(key)[1], self.min_parts, self.max_parts))
        return joints_of(subset(key.batch("parts", len(BODY_PARTS))[None], count)[0].tolist())

    def mixing(self, key: Key) -> Mixing:
        u = _numbers(key)
        length = int(choose(u[2], self.min_length, self.max_length))
        first = int(choose(u[3], 0, self.time_units - length))
        return Mixing(self.mode, self.joints(key), first, length, self.time_units)


class CutMix(_Paste):
    """The partner's body parts are pasted, frame for frame."""

    kind: Literal["cutmix"] = "cutmix"

    source: ClassVar[str] = "JHang2020/PCM3"


class ResizedMix(_Paste):
    """The partner's first frames, twice as many as are pasted or all there are, are resized and their parts pasted."""

    kind: Literal["resized_mix"] = "resized_mix"

    source: ClassVar[str] = "JHang2020/PCM3"
    mode: ClassVar[Literal["cut", "time"]] = "time"


class Mixup(PartnerMix):
    """Whole views are blended, with a share of the partner from U(0, 1)."""

    kind: Literal["mixup"] = "mixup"

    source: ClassVar[str] = "JHang2020/PCM3"

    def mixing(self, key: Key) -> Mixing:
        return Mixing("mixup", blend=float(_numbers(key)[5]))


class PCM3Mix(PartnerMix):
    """One of three ways a batch: `CutMix` with probability 1/2, `ResizedMix` and `Mixup` 1/4 each."""

    kind: Literal["pcm3_mix"] = "pcm3_mix"

    source: ClassVar[str] = "JHang2020/PCM3"

    def mixing(self, key: Key) -> Mixing:
        branch = float(_numbers(key)[4])
        chosen = CutMix() if branch > 0.5 else ResizedMix() if branch > 0.25 else Mixup()
        return chosen.mixing(key)


class SkeleMix(_Paste):
    """The partner's joints are pasted, frame for frame: `CutMix` for views of several lengths, or of joints anywhere.

    As released, a stretch is counted in units of four frames, which are one step of the encoder: 7 to 11 of 16 units
    for 64 frames, 5 to 9 of 12 for 48, 3 to 6 of 8 for 32, 1 to 3 of 4 for 16.

    Attributes:
        units: in which time is cut; the view is a multiple of it.
        pasted: "parts": body parts; "joints": 10 to 15 joints anywhere, all numbers equally likely.
    """

    kind: Literal["skelemix"] = "skelemix"
    units: int = Field(default=UNITS, ge=1)
    pasted: Literal["parts", "joints"] = "parts"

    source: ClassVar[str] = "czhaneva/SkeleMixCLR"

    @property
    def time_units(self) -> int:
        return self.units

    def joints(self, key: Key) -> tuple[int, ...]:
        if self.pasted == "parts":
            return super().joints(key)
        count = int(choose(_numbers(key)[1], 10, 15))
        return tuple(sorted(subset(key.batch("joints", NUM_JOINTS)[None], count)[0].tolist()))


def _numbers(key: Key) -> Tensor:
    """Six numbers of the batch: partner, count of parts, length, first, way of mixing, blend."""
    return key.batch("batch", 6)


def joints_of(parts: Sequence[int]) -> tuple[int, ...]:
    """The joints of body parts, ascending."""
    return tuple(sorted(joint for part in parts for joint in BODY_PARTS[part]))


def weight(mixing: Mixing) -> float:
    """Share of the partner in the mixed view: pasted share of (T, V), or the blend."""
    if mixing.mode == "mixup":
        return mixing.blend
    return mixing.length / mixing.units * len(mixing.joints) / NUM_JOINTS


def apply_mix(x: Tensor, partner: Tensor, mixing: Mixing) -> Tensor:
    """Mix a batch (N, T, M, V, C) with its partners, same shape; the result has the strides of x.

    Raises:
        ConfigError: the view is no multiple of the units of time.
    """
    if mixing.mode == "mixup":
        return torch.lerp(x, partner, mixing.blend)
    first, length = _stretch(mixing, x.shape[1])
    piece = _shortened(partner, length) if mixing.mode == "time" else partner[:, first : first + length]
    mixed = x.clone()
    for start, stop in _runs(mixing.joints):
        # slices, not indices: a list of joints would be copied to the device, and all joints of the piece with it
        mixed[:, first : first + length, :, start:stop] = piece[:, :, :, start:stop]
    return mixed


def pasted_frames(mixing: Mixing, frames: int) -> list[int]:
    """Of which frame of the partner each frame of a view gets its pasted joints; -1 for none.

    Raises:
        ConfigError: the view is no multiple of the units of time.
    """
    first, length = _stretch(mixing, frames)
    if mixing.mode == "cut":
        pasted = list(range(first, first + length))
    else:
        pasted = [number * min(2 * length, frames) // length for number in range(length)]
    return [-1] * first + pasted + [-1] * (frames - first - length)


def _stretch(mixing: Mixing, frames: int) -> tuple[int, int]:
    """First and number of the frames that something is pasted into."""
    if frames % mixing.units:
        raise ConfigError(f"found a view of {frames} frames, expected a multiple of {mixing.units}")
    unit = frames // mixing.units
    return mixing.first * unit, mixing.length * unit


def _shortened(partner: Tensor, length: int) -> Tensor:
    """The partner's first frames, twice as many as are pasted or all there are, resized to `length` (nearest)."""
    frames = partner.shape[1]
    if 2 * length <= frames:
        return partner[:, : 2 * length : 2]
    return partner[:, torch.arange(length, device=partner.device) * frames // length]


def _runs(joints: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ascending numbers as runs first..stop-1."""
    start = 0
    for end in range(1, len(joints) + 1):
        if end == len(joints) or joints[end] != joints[end - 1] + 1:
            yield joints[start], joints[end - 1] + 1
            start = end
