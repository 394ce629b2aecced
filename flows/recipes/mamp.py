"""MAMP (Mao et al., ICCV 2023; maoyunyao/MAMP) and its MAE baseline, which the field quotes as SkeletonMAE on a plain
Transformer: what they see, and for how long."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from flows.config import VIEWS, DataConfig, PretrainConfig, ViewsConfig, change_values
from flows.recipes.method import Changes, Variant, method
from models.encoders.transformer import TransformerConfig
from models.objectives.mamp import MAMPConfig
from models.objectives.objective import ObjectiveConfig, one_stream
from models.training.optimizers import AdamWConfig
from models.training.schedule import TrainConfig
from pipelines.augmentations.motion import MotionMask
from pipelines.augmentations.spatial import Rotation
from pipelines.augmentations.streams import ToStream
from pipelines.augmentations.temporal import RandomCrop
from pipelines.views.spec import MAX_FRAMES, View, ViewSpec
from shards.errors import ConfigError
from shards.skeleton import Stream

DEGREES = 17.18873385  # 0.3 rad, as released


@VIEWS.add
class MAMPViewsConfig(ViewsConfig):
    """One view of a sample, cropped in time and turned, of which most tokens are hidden.

    Attributes:
        frames: T of the view, a multiple of `patch`.
        min_ratio, min_frames: a temporal crop keeps U[min_ratio, 1] of a sample, and that many frames or all there are.
        degrees: largest angle about each axis, either way.
        mask_ratio: share of a person's tokens that are hidden; `objective.ratio` must be the same.
        patch: frames of a token; `objective.encoder.patch_frames` must be the same.
        tau: how little the motion of a token decides whether it is hidden; 0: not at all.
    """

    kind: Literal["mamp"] = "mamp"
    frames: int = Field(default=120, ge=1, le=MAX_FRAMES)
    min_ratio: float = Field(default=0.5, gt=0, le=1)
    min_frames: int = Field(default=64, ge=1, lt=1 << 31)
    degrees: float = Field(default=DEGREES, ge=0, le=180)
    mask_ratio: float = Field(default=0.9, gt=0, lt=1)
    patch: int = Field(default=4, ge=1)
    tau: float = Field(default=0.8, ge=0)

    def check(self, objective: ObjectiveConfig) -> None:
        """Refuse an objective that counts other tokens than the mask hides."""
        if not isinstance(objective, MAMPConfig):
            return
        pairs = (
            ("views.mask_ratio", self.mask_ratio, "objective.ratio", objective.ratio),
            ("views.patch", self.patch, "objective.encoder.patch_frames", objective.encoder.patch_frames),
        )
        for name, value, other, found in pairs:
            if value != found:
                raise ConfigError(f"{other} is {found}, expected {name}, which is {value}")

    def spec(self, streams: Sequence[Stream]) -> ViewSpec:
        """The view "target", and "masked", the same with hidden tokens zero.

        Raises:
            ConfigError: several streams.
        """
        crop = RandomCrop(min_ratio=self.min_ratio, max_ratio=1.0, min_frames=self.min_frames)
        turn = Rotation(pick="all", degrees=(-self.degrees, self.degrees))
        to_stream = ToStream(stream=one_stream(f"views {self.kind!r}", streams))
        mask = MotionMask(ratio=self.mask_ratio, patch=self.patch, tau=self.tau)
        return ViewSpec(
            frames=self.frames,
            views=(
                View(name="target", operations=(crop, turn, to_stream)),
                View(name="masked", of="target", operations=(mask,)),
            ),
        )


def _tiny(_: PretrainConfig) -> Changes:
    return {
        "objective.encoder": TransformerConfig(width=16, layers=2, heads=2, mlp_ratio=2, frames=16),
        "objective.decoder_width": 16,
        "objective.decoder_layers": 1,
        "views.frames": 16,
        "views.min_frames": 8,
        "train.batch_size": 8,
        "train.epochs": 2,
        "train.warmup_epochs": 1,
        "train.log_every": 1,
    }


VARIANTS = {
    "decoder-3": Variant("a decoder of 3 blocks, as released for NTU 60", lambda _: {"objective.decoder_layers": 3}),
    "tau-0.75": Variant("the temperature released for NTU 120", lambda _: {"views.tau": 0.75}),
    "raw-target": Variant("targets are not normalised", lambda _: {"objective.normalise_target": False}),
    "present-persons": Variant(
        "a person who is not there does not count in the pooled feature",
        lambda _: {"objective.encoder.persons": "present"},
    ),
    "tiny": Variant("trains in seconds on a CPU", _tiny),
}

DEPARTS = (
    "Where T differs the temporal embedding is resized in every forward pass; the release does so as it loads weights.",
    "The warm-up begins at its first step's share of the rate, not at 0.",
    "Rotations are drawn anew for every sample and epoch, and do not depend on the number of ranks.",
)


@method(
    "mamp",
    "predicts the motion of hidden tokens, those that move most; on a Transformer",
    category="generative",
    venue="ICCV 2023",
    source="maoyunyao/MAMP",
    variants=VARIANTS,
    departs=DEPARTS,
)
def mamp(data: DataConfig) -> PretrainConfig:
    """MAMP: AdamW 1e-3, decay 0.05, batch 128, 20 epochs of warm-up, cosine to 5e-4 at 400."""
    return PretrainConfig(
        method="mamp",
        data=data,
        views=MAMPViewsConfig(),
        objective=MAMPConfig(),
        train=TrainConfig(
            epochs=400,
            batch_size=128,
            lr=1e-3,
            min_lr=5e-4,
            schedule="cosine",
            warmup_epochs=20,
            milestones=(),
            optimizer=AdamWConfig(betas=(0.9, 0.95), weight_decay=0.05),
        ),
    )


@method(
    "skeleton-mae",
    "MAMP's baseline: predicts the coordinates of tokens hidden at random",
    category="generative",
    venue="ICMEW 2023, re-run by ICCV 2023",
    source="maoyunyao/MAMP",
    variants={name: variant for name, variant in VARIANTS.items() if name != "tau-0.75"},
    departs=(*DEPARTS, "Wu et al. (2022) use STTFormer and mask frames too; their code is not released."),
)
def skeleton_mae(data: DataConfig) -> PretrainConfig:
    """SkeletonMAE as the benchmarks quote it: MAMP's network and schedule, uniform masks, coordinates as target."""
    return change_values(mamp(data), {"method": "skeleton-mae", "objective.target": "coordinates", "views.tau": 0.0})
