"""Mixing of two samples of a batch: CutMix of body parts, resized mix, Mixup. Source: JHang2020/PCM3.

One draw serves the whole batch. It is made on the host from (seed, epoch, step): plain numbers, so that no device is
waited for.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pipelines.augmentations.draws import choose, subset, uniform
from pipelines.augmentations.masks import part_table
from shards.errors import ConfigError
from shards.skeleton import BODY_PARTS

UNITS = 16
"""Mixing cuts time in sixteenths of a view (4 of 64 frames)."""


@dataclass(frozen=True)
class Mix:
    """Attributes:
    mode: "cut" pastes the partner's joints, "time" pastes a resized piece of the partner, "mixup" blends whole views.
    shift: sample n is mixed with sample (n + shift) mod N.
    parts: body parts pasted, indices into `shards.skeleton.BODY_PARTS`.
    first, length: the pasted stretch of time, in units of T / 16.
    blend: share of the partner in a "mixup".
    """

    mode: Literal["cut", "time", "mixup"]
    shift: int
    parts: tuple[int, ...]
    first: int
    length: int
    blend: float


def draw_mix(samples: int, *, seed: int, epoch: int, step: int) -> Mix:
    """Draw how a batch is mixed: cut with probability 1/2, time and mixup 1/4 each; 2-3 parts; 7-11 units of time."""
    if samples < 3:
        raise ConfigError(f"found a batch of {samples}, expected at least 3: a mix takes its partner from the batch")
    u = uniform(seed, epoch, torch.tensor([step]), "mix", "batch", 6)[0]
    parts = subset(uniform(seed, epoch, torch.tensor([step]), "mix", "parts", len(BODY_PARTS)), int(choose(u[1], 2, 3)))
    length = int(choose(u[2], 7, 11))
    branch = float(u[4])
    return Mix(
        mode="cut" if branch > 0.5 else "time" if branch > 0.25 else "mixup",
        shift=int(choose(u[0], 1, samples - 2)),
        parts=tuple(parts[0].tolist()),
        first=int(choose(u[3], 0, UNITS - length)),
        length=length,
        blend=float(u[5]),
    )


def partners(samples: int, mix: Mix, device: torch.device | None = None) -> Tensor:
    """(N,) int64, the row each sample is mixed with."""
    return (torch.arange(samples, device=device) + mix.shift) % samples


def weight(mix: Mix) -> float:
    """Share of the partner in the mixed view: pasted share of (T, V), or the blend."""
    if mix.mode == "mixup":
        return mix.blend
    joints = sum(len(BODY_PARTS[part]) for part in mix.parts)
    return mix.length / UNITS * joints / sum(map(len, BODY_PARTS))


def apply_mix(x: Tensor, mix: Mix) -> Tensor:
    """Mix a batch (N, T, M, V, C) with its own shifted self; T must be a multiple of 16."""
    partner = x[partners(len(x), mix, x.device)]
    if mix.mode == "mixup":
        return (1 - mix.blend) * x + mix.blend * partner
    unit = x.shape[1] // UNITS
    first, length = mix.first * unit, mix.length * unit
    piece = partner[:, first : first + length]
    if mix.mode == "time":
        # the reference takes the partner's first frames, twice as many as it pastes, or all there are
        available = min(2 * length, x.shape[1])
        piece = partner[:, torch.arange(length, device=x.device) * available // length]
    joints = part_table(x.device)[list(mix.parts)].any(dim=0)
    mixed = x.clone()
    mixed[:, first : first + length] = torch.where(joints[:, None], piece, x[:, first : first + length])
    return mixed
