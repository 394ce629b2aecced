"""Mixing of two samples of a batch: CutMix of body parts, resized mix, Mixup, SkeleMix.

As released, one draw serves the whole global batch (`scope` "batch"). It is made on the host from (seed, epoch, step):
plain numbers, so that no device is waited for. With `scope` "sample" each sample draws for itself from (seed, epoch,
sample id), on the batch's device, how it is mixed. With whom, is drawn for the batch in either case: a partner is a row
of it, and a rank has to know which rows to read before it knows any sample.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal, Self, get_args

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipelines.augmentations.draws import choose, subset
from pipelines.augmentations.masks import Scope, part_table
from pipelines.augmentations.operation import Blend, Key, Mix, Samples
from shards.errors import ConfigError
from shards.skeleton import BODY_PARTS, NUM_JOINTS

UNITS = 16
"""Mixing cuts time in sixteenths of a view (4 of 64 frames)."""

MIN_ROWS = 3
"""Of a global batch: for a shift of 1 to rows - 2."""

Mode = Literal["cut", "time", "mixup"]
MODES: tuple[Mode, ...] = get_args(Mode)
_CUT, _TIME, _MIXUP = (MODES.index(mode) for mode in ("cut", "time", "mixup"))

Numbers = Callable[[str, int], Tensor]
"""(word, count) -> (N, count) float64 in [0, 1), of each sample its own; N is 1 for the draws of a batch."""


@dataclass(frozen=True)
class Mixing:
    """Attributes:
    mode: "cut" pastes the partner's joints, "time" pastes a resized piece of the partner, "mixup" blends whole views.
    joints: pasted, ascending.
    first, length: the pasted stretch of time, in units of T / `units`.
    units: in which time is cut.
    blend: share of the partner in a "mixup".
    """

    mode: Mode
    joints: tuple[int, ...] = ()
    first: int = 0
    length: int = 0
    units: int = UNITS
    blend: float = 0.0


@dataclass(frozen=True)
class Mixings:
    """A `Mixing` of each sample, on the samples' device. What a sample's mode makes no use of, may be anything.

    Attributes:
        mode: (N,) int64, number in `MODES`.
        joints: (N, V) bool, True for those pasted.
        first, length: (N,) int64.
        blend: (N,) float64.
        units: as of `Mixing`.
    """

    mode: Tensor
    joints: Tensor
    first: Tensor
    length: Tensor
    blend: Tensor
    units: int = UNITS

    def of(self, row: int) -> Mixing:
        """How one sample is mixed; waits for the device."""
        mode = MODES[int(self.mode[row])]
        if mode == "mixup":
            return Mixing(mode, blend=float(self.blend[row]))
        joints = tuple(self.joints[row].nonzero()[:, 0].tolist())
        return Mixing(mode, joints, int(self.first[row]), int(self.length[row]), self.units)

    @property
    def weight(self) -> Tensor:
        """(N,) float64, share of the partner in each mixed view, as `weight` has it."""
        pasted = self.length.double() / self.units * self.joints.sum(dim=1) / NUM_JOINTS
        return torch.where(self.mode == _MIXUP, self.blend, pasted)


class PartnerMix(Mix):
    """A mix with the row `shift` further on, `shift` from 1 to rows - 2 (never rows - 1, as released).

    Attributes:
        scope: "batch" mixes the whole global batch alike, as released; "sample" draws all but the shift for each
            sample.
    """

    scope: Scope = "batch"

    def mixings(self, numbers: Numbers) -> Mixings:
        """Draw how each sample is mixed."""
        raise NotImplementedError

    def draw_shift(self, key: Key, rows: int) -> int:
        if rows < MIN_ROWS:
            raise ConfigError(
                f"found a batch of {rows}, expected at least {MIN_ROWS}: a mix takes its partner from the batch"
            )
        return int(choose(key.batch("batch", 1)[0], 1, rows - 2))

    def draw_mix(self, samples: Samples, key: Key, rows: int) -> Blend:
        shift = self.draw_shift(key, rows)
        if self.scope == "sample":
            mixings = self.mixings(partial(key.sample, samples.sample_id))
            return Blend(shift, mixings.weight.to(torch.float32), mixings)
        mixing = self.mixings(lambda word, count: key.batch(word, count)[None]).of(0)
        return Blend(shift, weight(mixing), mixing)

    def apply_mix(self, x: Tensor, partner: Tensor, blend: Blend) -> Tensor:
        mix = apply_mixings if isinstance(blend.params, Mixings) else apply_mix
        return mix(x, partner, blend.params)


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

    mode: ClassVar[Mode] = "cut"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.max_length > self.time_units:
            raise ValueError(f"max_length={self.max_length}, expected at most {self.time_units}")
        return self

    @property
    def time_units(self) -> int:
        return UNITS

    def joints(self, numbers: Numbers, how_many: Tensor) -> Tensor:
        """(N, V) bool, the joints that are pasted; `how_many` is (N,) in [0, 1)."""
        count = choose(how_many, self.min_parts, self.max_parts)
        parts = _some(numbers("parts", len(BODY_PARTS)), count)
        return (parts[:, :, None] & part_table(parts.device)).any(dim=1)

    def mixings(self, numbers: Numbers) -> Mixings:
        u = _six(numbers)
        length = choose(u[:, 2], self.min_length, self.max_length)
        first = choose(u[:, 3], 0, self.time_units - length)
        mode = torch.full_like(first, MODES.index(self.mode))
        return Mixings(mode, self.joints(numbers, u[:, 1]), first, length, u[:, 5], self.time_units)


class CutMix(_Paste):
    """The partner's body parts are pasted, frame for frame."""

    kind: Literal["cutmix"] = "cutmix"

    source: ClassVar[str] = "JHang2020/PCM3"


class ResizedMix(_Paste):
    """The partner's first frames, twice as many as are pasted or all there are, are resized and their parts pasted."""

    kind: Literal["resized_mix"] = "resized_mix"

    source: ClassVar[str] = "JHang2020/PCM3"
    mode: ClassVar[Mode] = "time"


class Mixup(PartnerMix):
    """Whole views are blended, with a share of the partner from U(0, 1)."""

    kind: Literal["mixup"] = "mixup"

    source: ClassVar[str] = "JHang2020/PCM3"

    def mixings(self, numbers: Numbers) -> Mixings:
        blend = _six(numbers)[:, 5]
        none = torch.zeros_like(blend, dtype=torch.int64)
        joints = torch.zeros(len(blend), NUM_JOINTS, dtype=torch.bool, device=blend.device)
        return Mixings(torch.full_like(none, _MIXUP), joints, none, none, blend, units=1)


class PCM3Mix(PartnerMix):
    """One of three ways a batch, or a sample: `CutMix` with probability 1/2, `ResizedMix` and `Mixup` 1/4 each."""

    kind: Literal["pcm3_mix"] = "pcm3_mix"

    source: ClassVar[str] = "JHang2020/PCM3"

    def mixings(self, numbers: Numbers) -> Mixings:
        branch = _six(numbers)[:, 4]
        # the three draw alike what they have in common
        mode = torch.where(branch > 0.5, _CUT, torch.where(branch > 0.25, _TIME, _MIXUP))
        return replace(CutMix().mixings(numbers), mode=mode)


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

    def joints(self, numbers: Numbers, how_many: Tensor) -> Tensor:
        if self.pasted == "parts":
            return super().joints(numbers, how_many)
        return _some(numbers("joints", NUM_JOINTS), choose(how_many, 10, 15))


def _six(numbers: Numbers) -> Tensor:
    """(N, 6): partner, which only a batch draws, count of parts, length, first, way of mixing, blend."""
    return numbers("batch", 6)


def _some(draws: Tensor, count: Tensor) -> Tensor:
    """(N, K) bool, True for the first `count` (N,) of each `subset` of `draws` (N, K)."""
    order = subset(draws, draws.shape[1])
    first = torch.arange(draws.shape[1], device=draws.device) < count[:, None]
    return torch.zeros_like(first).scatter(1, order, first)


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


def apply_mixings(x: Tensor, partner: Tensor, mixings: Mixings) -> Tensor:
    """As `apply_mix`, each sample in its own way."""
    taken = pasted_frames_each(mixings, x.shape[1])
    own = torch.arange(x.shape[1], device=x.device)
    rows = torch.arange(len(x), device=x.device)[:, None]
    pasted = (taken >= 0)[:, :, None] & mixings.joints[:, None]
    blended = (mixings.mode == _MIXUP)[:, None, None]
    share = torch.where(blended, mixings.blend[:, None, None].to(x.dtype), pasted.to(x.dtype))
    # of shares of 0 and 1 it gives the very entries
    return torch.lerp(x, partner[rows, torch.where(taken < 0, own, taken)], share[:, :, None, :, None])


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


def pasted_frames_each(mixings: Mixings, frames: int) -> Tensor:
    """`pasted_frames` of each sample, (N, T) int64; -1 in all of a "mixup"."""
    unit = _unit(mixings.units, frames)
    first, length = (mixings.first * unit)[:, None], (mixings.length * unit)[:, None]
    time = torch.arange(frames, device=first.device)
    resized = (time - first) * (2 * length).clamp(max=frames) // length.clamp(min=1)
    pasted = torch.where((mixings.mode == _TIME)[:, None], resized, time)
    inside = (time >= first) & (time < first + length) & (mixings.mode != _MIXUP)[:, None]
    return torch.where(inside, pasted, -1)


def _stretch(mixing: Mixing, frames: int) -> tuple[int, int]:
    """First and number of the frames that something is pasted into."""
    unit = _unit(mixing.units, frames)
    return mixing.first * unit, mixing.length * unit


def _unit(units: int, frames: int) -> int:
    """Frames of a unit of time."""
    if frames % units:
        raise ConfigError(f"found a view of {frames} frames, expected a multiple of {units}")
    return frames // units


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
