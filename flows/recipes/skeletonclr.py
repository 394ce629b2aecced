"""SkeletonCLR (Li et al., CVPR 2021, the one-view part of CrosSCLR): what it sees, and for how long. LinguoLi/CrosSCLR
releases no configuration of it; the values are those of CrosSCLR's."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from flows.config import VIEWS, DataConfig, PretrainConfig, ViewsConfig
from flows.recipes.method import Variant, method
from models.encoders.stgcn import STGCNConfig
from models.objectives.skeletonclr import SkeletonCLRConfig
from models.training.optimizers import SGDConfig
from models.training.schedule import TrainConfig
from pipelines.augmentations.spatial import Shear
from pipelines.augmentations.streams import ToStream
from pipelines.augmentations.temporal import CentreCrop, TemporalShift
from pipelines.views.spec import MAX_FRAMES, View, ViewSpec
from shards.skeleton import Stream


@VIEWS.add
class SkeletonCLRViewsConfig(ViewsConfig):
    """Two views of a sample, each shifted in time and sheared.

    Attributes:
        frames: T of every view.
        shift: share of a view's frames by which it is shifted at most, either way; the edges are mirrored.
        shear: largest off-diagonal entry of the shear.
    """

    kind: Literal["skeletonclr"] = "skeletonclr"
    frames: int = Field(default=50, ge=1, le=MAX_FRAMES)
    shift: float = Field(default=1 / 6, ge=0, lt=1)
    shear: float = Field(default=0.5, ge=0, le=10)

    def spec(self, streams: Sequence[Stream]) -> ViewSpec:
        """The views "query" and "key"; of several streams "query/<stream>" and "key/<stream>", drawn alike."""
        views: list[View] = []
        for name in ("query", "key"):
            augmented = (
                CentreCrop(ratio=1.0),
                TemporalShift(max_frames=int(self.frames * self.shift), edges="reflect"),
                Shear(amplitude=self.shear),
            )
            if len(streams) == 1:
                views.append(View(name=name, operations=(*augmented, ToStream(stream=streams[0]))))
                continue
            views.append(View(name=name, operations=augmented))
            views += [
                View(name=f"{name}/{stream}", of=name, operations=(ToStream(stream=stream),)) for stream in streams
            ]
        return ViewSpec(frames=self.frames, views=tuple(views))


VARIANTS = {
    "key-copy": Variant("the key encoder starts as a copy of the query's", lambda _: {"objective.key_init": "copy"}),
    "present-persons": Variant(
        "a person who is not there does not count in the pooled feature",
        lambda _: {"objective.encoder.persons": "present"},
    ),
    "tiny": Variant(
        "trains in seconds on a CPU",
        lambda _: {
            "objective.encoder": STGCNConfig(width=4, feature=8),
            "objective.feature_dim": 8,
            "objective.queue_size": 32,
            "objective.momentum": 0.9,
            "views.frames": 16,
            "train.batch_size": 8,
            "train.epochs": 2,
            "train.milestones": (1,),
            "train.log_every": 1,
        },
    ),
}


@method(
    "skeletonclr",
    "momentum contrast of two views, on ST-GCN of a quarter of its width",
    category="contrastive",
    venue="CVPR 2021",
    source="LinguoLi/CrosSCLR",
    variants=VARIANTS,
    departs=(
        "Preprocessing is the store's recipe; the release centres each frame and turns the shoulders of each.",
        "Draws differ in every epoch; the release's loader workers repeat theirs.",
    ),
)
def skeletonclr(data: DataConfig) -> PretrainConfig:
    """SkeletonCLR: SGD 0.1, batch 128, 300 epochs, x0.1 at 250."""
    return PretrainConfig(
        method="skeletonclr",
        data=data,
        views=SkeletonCLRViewsConfig(),
        objective=SkeletonCLRConfig(),
        train=TrainConfig(
            epochs=300, batch_size=128, lr=0.1, milestones=(250,), optimizer=SGDConfig(momentum=0.9, weight_decay=1e-4)
        ),
    )
