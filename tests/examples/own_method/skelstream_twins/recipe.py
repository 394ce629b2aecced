"""Barlow Twins: what it sees of a sample, and for how long."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from flows.config import VIEWS, DataConfig, PretrainConfig, ViewsConfig
from flows.recipes.method import Variant, method
from models.objectives.objective import one_stream
from models.training.optimizers import AdamWConfig
from models.training.schedule import TrainConfig
from pipelines.augmentations.spatial import Rotation, Shear
from pipelines.augmentations.streams import ToStream
from pipelines.augmentations.temporal import RandomCrop
from pipelines.views.spec import View, ViewSpec
from shards.skeleton import Stream
from skelstream_twins.encoder import JointMLPConfig
from skelstream_twins.objective import TwinsConfig


@VIEWS.add
class TwinsViewsConfig(ViewsConfig):
    """Two views of a sample, each cropped in time, turned and sheared.

    Attributes:
        frames: T of both views.
        shear: largest off-diagonal entry of the shear.
    """

    kind: Literal["twins"] = "twins"
    frames: int = Field(32, ge=1)
    shear: float = Field(0.5, gt=0)

    def spec(self, streams: Sequence[Stream]) -> ViewSpec:
        to_stream = ToStream(stream=one_stream("views 'twins'", streams))
        steps = (RandomCrop(min_ratio=0.5, min_frames=8), Rotation(), Shear(amplitude=self.shear), to_stream)
        return ViewSpec(
            frames=self.frames, views=(View(name="first", operations=steps), View(name="second", operations=steps))
        )


VARIANTS = {
    "no-redundancy": Variant("the embeddings may repeat themselves", lambda _: {"objective.redundancy_weight": 0.0}),
    "tiny": Variant(
        "trains in seconds on a CPU",
        lambda _: {
            "objective.encoder": JointMLPConfig(hidden=16, width=32),
            "objective.feature_dim": 16,
            "views.frames": 16,
            "train.batch_size": 8,
            "train.epochs": 2,
            "train.warmup_epochs": 1,
            "train.log_every": 1,
        },
    ),
}


@method(
    "twins",
    "Barlow Twins of two views, on a network of each joint by itself",
    category="contrastive",
    venue="ICML 2021",
    source="facebookresearch/barlowtwins",
    variants=VARIANTS,
    departs=("The release is for images: views, encoder and schedule are ours.",),
)
def twins(data: DataConfig) -> PretrainConfig:
    """Barlow Twins: AdamW 1e-3, batch 128, 10 epochs of warm-up, cosine to 0 at 100."""
    train = TrainConfig(
        epochs=100, batch_size=128, lr=1e-3, schedule="cosine", warmup_epochs=10, milestones=(), optimizer=AdamWConfig()
    )
    return PretrainConfig(method="twins", data=data, views=TwinsViewsConfig(), objective=TwinsConfig(), train=train)
