"""What a method sees of a sample: its views, all of a batch at once, on the batch's device."""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from pipelines.augmentations.draws import uniform
from pipelines.augmentations.joints import corruption_matrices, draw_corruption
from pipelines.augmentations.masks import draw_clip, draw_part_mask, main_person_only, part_mask
from pipelines.augmentations.mixing import UNITS, apply_mix, draw_mix, partners, weight
from pipelines.augmentations.spatial import apply_matrices, draw_shear
from pipelines.augmentations.temporal import MIN_CROP, Window, apply_resize, centre_crop, draw_crop, resize
from pipelines.streams import Stream, apply_stream
from shards.batch import RaggedBatch, Views
from shards.skeleton import NUM_JOINTS, NUM_PERSONS

CACHED = 16
"""Samples a CPU thread changes at a time, so that they stay in its cache: measured 1.7 times as fast as the batch."""


class PCM3PPViewsConfig(BaseModel):
    """The views of PCM3++; the defaults are those of JHang2020/PCM3, and the paper's clip view.

    Attributes:
        frames: T of every view, a multiple of 16 and of `mask_segments`.
        min_ratio, max_ratio: share of a sample that a temporal crop keeps.
        min_frames: a temporal crop keeps at least that many, or all there are. As released 64, which leaves data of
            short sequences (NW-UCLA: 39 frames in the mean) without a crop at all: choose less there.
        corrupt_probability: of joint corruption instead of a shear, in the base and the key view.
        corrupt_joints: joints that a corruption takes.
        mask_ratio: share of the five body parts that are hidden in each segment of the masked view.
        mask_segments: equal stretches of time with their own hidden parts.
        clip_frames: frames of the key view that the clip view keeps; not published, 16 of 64 by default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    frames: int = Field(default=64, ge=16)
    min_ratio: float = Field(default=0.1, gt=0, le=1)
    max_ratio: float = Field(default=1.0, gt=0, le=1)
    min_frames: int = Field(default=MIN_CROP, ge=1)
    corrupt_probability: float = Field(default=0.5, ge=0, le=1)
    corrupt_joints: int = Field(default=15, ge=1, le=NUM_JOINTS)
    mask_ratio: float = Field(default=0.6, ge=0.2, le=0.99)
    mask_segments: int = Field(default=8, ge=1)
    clip_frames: int = Field(default=16, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> "PCM3PPViewsConfig":
        if self.frames % UNITS or self.frames % self.mask_segments:
            raise ValueError(
                f"frames={self.frames}, expected a multiple of {UNITS} and of {self.mask_segments} segments"
            )
        if self.min_ratio > self.max_ratio:
            raise ValueError(f"min_ratio={self.min_ratio}, expected at most max_ratio={self.max_ratio}")
        if self.clip_frames > self.frames:
            raise ValueError(f"clip_frames={self.clip_frames}, expected at most frames={self.frames}")
        return self


def pcm3pp_views(
    batch: RaggedBatch, config: PCM3PPViewsConfig, *, stream: Stream, seed: int, epoch: int, step: int
) -> Views:
    """The views of PCM3++: augmentation, then stream, then mixing, masking and clipping.

    "base" (query) and "key" are cropped and either sheared or corrupted, "target" is cropped and sheared; "masked" is
    the target with its hidden entries zero, "mix" the base mixed within the batch, "clip" a continuous piece of the
    key, all else zero. What a sample's own views draw depends on (seed, epoch, sample id) only; the mix and the hidden
    parts serve a whole batch and are drawn from (seed, epoch, step).

    Returns:
        views (N, T, V*C*M); masks "masked" (1, T, V*C*M) and "clip" (N, T, 1).
    """
    base, key, target = (
        _augmented(batch, config, view, stream, seed=seed, epoch=epoch) for view in ("base", "key", "target")
    )
    mix = draw_mix(len(batch), seed=seed, epoch=epoch, step=step)
    parts = draw_part_mask(config.mask_ratio, config.mask_segments, seed=seed, epoch=epoch, step=step)
    device = base.device
    visible = flatten(main_person_only(part_mask(parts, config.frames)).expand(-1, -1, -1, -1, 3)).to(device)
    clip = draw_clip(batch.sample_id, config.clip_frames, config.frames, seed=seed, epoch=epoch)[..., None]
    return Views(
        views={
            "base": base,
            "key": key,
            "target": target,
            "masked": target * visible,
            "mix": flatten(apply_mix(unflatten(base), mix)).contiguous(),
            "clip": key * clip,
        },
        label=batch.label,
        sample_id=batch.sample_id,
        masks={"masked": visible, "clip": clip},
        mix_partner=partners(len(batch), mix, device),
        mix_weight=torch.full((len(batch),), weight(mix), device=device),
    )


def evaluation_views(
    batch: RaggedBatch,
    *,
    crop: Literal["centre", "random", "full"],
    stream: Stream,
    frames: int = 64,
    centre_ratio: float = 0.95,
    min_ratio: float = 0.5,
    max_ratio: float = 1.0,
    seed: int = 0,
    epoch: int = 0,
) -> Views:
    """One view "x" a sample: the middle 95 %, a random crop U[0.5, 1], or all of it, resized (maoyunyao/CMD)."""
    if crop == "random":
        window = draw_crop(
            batch.length, batch.sample_id, min_ratio, max_ratio, seed=seed, epoch=epoch, view="evaluation"
        )
    else:
        window = centre_crop(batch.length, centre_ratio if crop == "centre" else 1.0)
    x = apply_stream(apply_resize(batch, window, frames), stream)
    return Views(views={"x": flatten(x)}, label=batch.label, sample_id=batch.sample_id)


def flatten(x: Tensor) -> Tensor:
    """(N, T, M, V, C) -> (N, T, V*C*M), the order of the encoders: index v*6 + c*2 + m."""
    return x.permute(0, 1, 3, 4, 2).flatten(2)


def unflatten(x: Tensor) -> Tensor:
    """(N, T, V*C*M) -> (N, T, M, V, C), the inverse of `flatten`."""
    return x.view(*x.shape[:2], NUM_JOINTS, 3, NUM_PERSONS).permute(0, 1, 4, 2, 3)


def _augmented(
    batch: RaggedBatch, config: PCM3PPViewsConfig, view: str, stream: Stream, *, seed: int, epoch: int
) -> Tensor:
    """A view that needs no other sample, (N, T, V*C*M)."""
    window, matrices = _draw_augmentation(batch, config, view, seed=seed, epoch=epoch)
    device = batch.frames.device
    out = torch.empty(len(batch), config.frames, NUM_JOINTS * 3 * NUM_PERSONS, device=device)
    size = CACHED * torch.get_num_threads() if device.type == "cpu" else len(batch)
    for first in range(0, len(batch), size):
        rows = slice(first, first + size)
        start = batch.start[rows] + window.first[rows]
        x = resize(batch.frames, start, window.length[rows], config.frames)
        unflatten(out[rows]).copy_(apply_stream(apply_matrices(x, matrices[rows]), stream))
    return out


def _draw_augmentation(
    batch: RaggedBatch, config: PCM3PPViewsConfig, view: str, *, seed: int, epoch: int
) -> tuple[Window, Tensor]:
    """The crop of each sample, and its shear or corruption as matrices (N, 1 or V, 3, 3)."""
    ids = batch.sample_id
    window = draw_crop(
        batch.length,
        ids,
        config.min_ratio,
        config.max_ratio,
        seed=seed,
        epoch=epoch,
        view=view,
        min_frames=config.min_frames,
    )
    shear = draw_shear(ids, seed=seed, epoch=epoch, view=view)[:, None]
    if view == "target":
        return window, shear
    corruption = corruption_matrices(draw_corruption(ids, config.corrupt_joints, seed=seed, epoch=epoch, view=view))
    corrupted = uniform(seed, epoch, ids, view, "which", 1)[:, 0] < config.corrupt_probability
    return window, torch.where(corrupted[:, None, None, None], corruption, shear)
