"""The views of each method, as specifications."""

from collections.abc import Callable
from typing import Literal

from pydantic import Field, model_validator

from pipelines.augmentations.joints import JointCorruption
from pipelines.augmentations.masks import BodyPartMask, ClipMask, Persons, Scope, TubeMask, kept_count
from pipelines.augmentations.mixing import UNITS, PCM3Mix
from pipelines.augmentations.motion import MotionMask
from pipelines.augmentations.noise import GaussianBlur, GaussianNoise
from pipelines.augmentations.operation import Crop
from pipelines.augmentations.spatial import AxisMask, Flip, Rotation, Shear
from pipelines.augmentations.streams import ToStream
from pipelines.augmentations.temporal import MIN_CROP, CentreCrop, RandomCrop, Reverse, TemporalShift
from pipelines.augmentations.vocabulary import OneOf
from pipelines.views.spec import View, ViewSpec
from shards.frozen import Frozen
from shards.skeleton import NUM_JOINTS, Stream

MAX_FRAMES = 4096
"""Of a view, to which actions of some hundred frames are resampled."""


class PCM3PPViewsConfig(Frozen):
    """The views of PCM3++; the defaults are those of JHang2020/PCM3, and the paper's clip view.

    Attributes:
        frames: T of every view, a multiple of 16 and of `mask_segments`.
        min_ratio, max_ratio: share of a sample that a temporal crop keeps.
        min_frames: a temporal crop keeps at least that many, or all there are. As released 64, which leaves data of
            short sequences (NW-UCLA: 39 frames in the mean) without a crop at all: choose less there.
        corrupt_probability: of joint corruption instead of a shear, in the base and the key view.
        corrupt_joints: joints that a corruption takes.
        mix_scope: whether one way of mixing (mode, parts, stretch, share) serves the global batch, as released, or
            each sample draws its own; partners are drawn for the batch in either case.
        mask_granularity: what is hidden in each segment of the masked view: body parts (`BodyPartMask`, as published)
            or as large a share of single joints (`TubeMask`).
        mask_ratio: share of the five body parts, rounded down, or of the joints, that are hidden.
        mask_segments: equal stretches of time with their own hidden parts or joints.
        mask_scope: whether the same is hidden in the whole global batch, as released, or each sample draws its own.
        mask_persons: of whom; as released only of the first person.
        clip_frames: frames of the key view that the clip view keeps; not published, 16 of 64 by default.
    """

    frames: int = Field(default=64, ge=16, le=MAX_FRAMES)
    min_ratio: float = Field(default=0.1, gt=0, le=1)
    max_ratio: float = Field(default=1.0, gt=0, le=1)
    min_frames: int = Field(default=MIN_CROP, ge=1, lt=1 << 31)
    corrupt_probability: float = Field(default=0.5, ge=0, le=1)
    corrupt_joints: int = Field(default=15, ge=1, le=NUM_JOINTS)
    mix_scope: Scope = "batch"
    mask_granularity: Literal["part", "joint"] = "part"
    mask_ratio: float = Field(default=0.6, ge=0.2, le=0.99)
    mask_segments: int = Field(default=8, ge=1)
    mask_scope: Scope = "batch"
    mask_persons: Persons = "main"
    clip_frames: int = Field(default=16, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> "PCM3PPViewsConfig":
        if self.frames % UNITS or self.frames % self.mask_segments:
            raise ValueError(
                f"frames={self.frames}, expected a multiple of {UNITS} and of {self.mask_segments} segments"
            )
        if self.min_ratio > self.max_ratio:
            raise ValueError(f"min_ratio={self.min_ratio}, expected at most max_ratio={self.max_ratio}")
        if self.mask_granularity == "joint":
            kept_count(NUM_JOINTS, self.mask_ratio)
        if self.clip_frames > self.frames:
            raise ValueError(f"clip_frames={self.clip_frames}, expected at most frames={self.frames}")
        return self

    def spec(self, stream: Stream) -> ViewSpec:
        """The views of PCM3++: augmentation, then stream, then mixing, masking and clipping.

        "base" (query) and "key" are cropped and either sheared or corrupted, "target" is cropped and sheared; "masked"
        is the target with its hidden entries zero, "mix" the base mixed within the batch, "clip" a continuous piece of
        the key, all else zero.
        """
        crop = RandomCrop(min_ratio=self.min_ratio, max_ratio=self.max_ratio, min_frames=self.min_frames)
        corrupted = self.corrupt_probability
        either = OneOf(
            operations=(JointCorruption(joints=self.corrupt_joints), Shear()), weights=(corrupted, 1 - corrupted)
        )
        hiding = BodyPartMask if self.mask_granularity == "part" else TubeMask
        mask = hiding(
            ratio=self.mask_ratio, segments=self.mask_segments, scope=self.mask_scope, persons=self.mask_persons
        )
        to_stream = ToStream(stream=stream)
        return ViewSpec(
            frames=self.frames,
            views=(
                View(name="base", operations=(crop, either, to_stream)),
                View(name="key", operations=(crop, either, to_stream)),
                View(name="target", operations=(crop, Shear(), to_stream)),
                View(name="masked", of="target", operations=(mask,)),
                View(name="mix", of="base", operations=(PCM3Mix(scope=self.mix_scope),)),
                View(name="clip", of="key", operations=(ClipMask(frames=self.clip_frames),)),
            ),
        )


def evaluation_spec(
    crop: Literal["centre", "random", "full"], stream: Stream, frames: int = 64, *, centre_ratio: float = 0.95
) -> ViewSpec:
    """One view "x" a sample: the middle 95 %, a random crop U[0.5, 1], or all of it, resized (maoyunyao/CMD)."""
    window: Crop = CentreCrop(ratio=centre_ratio if crop == "centre" else 1.0)
    if crop == "random":
        window = RandomCrop(min_ratio=0.5, max_ratio=1.0, share="evaluation")
    return ViewSpec(frames=frames, views=(View(name="x", operations=(window, ToStream(stream=stream))),))


def aimclr_spec(stream: Stream, frames: int = 50) -> ViewSpec:
    """The views of AimCLR (Levigty/AimCLR): "query" and "key" moderately, "extreme" by all its augmentations."""
    whole = CentreCrop(ratio=1.0)
    crop, shear = TemporalShift(max_frames=frames // 6, edges="reflect"), Shear(amplitude=0.5)
    to_stream = ToStream(stream=stream)
    extreme = (
        Flip(probability=0.5),
        Rotation(),
        shear,
        AxisMask(probability=0.5),
        crop,
        Reverse(probability=0.5),
        GaussianNoise(probability=0.5),
        GaussianBlur(probability=0.5, released=True),
    )
    return ViewSpec(
        frames=frames,
        views=(
            View(name="query", operations=(whole, crop, shear, to_stream)),
            View(name="key", operations=(whole, crop, shear, to_stream)),
            View(name="extreme", operations=(whole, *extreme, to_stream)),
        ),
    )


def mamp_spec(stream: Stream, frames: int = 120) -> ViewSpec:
    """The views of MAMP (maoyunyao/MAMP): a crop U[0.5, 1], and 90 % of its tokens hidden, moving ones rather."""
    crop = RandomCrop(min_ratio=0.5, max_ratio=1.0)
    return ViewSpec(
        frames=frames,
        views=(
            View(name="target", operations=(crop, ToStream(stream=stream))),
            View(name="masked", of="target", operations=(MotionMask(),)),
        ),
    )


METHODS: dict[str, Callable[[Stream], ViewSpec]] = {
    "pcm3pp": lambda stream: PCM3PPViewsConfig().spec(stream),
    "aimclr": aimclr_spec,
    "mamp": mamp_spec,
}
"""What `skelstream view --views` knows by name."""
