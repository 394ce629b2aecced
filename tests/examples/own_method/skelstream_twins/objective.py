"""Barlow Twins (Zbontar et al., ICML 2021): two views of a sample agree, entries of their embeddings do not."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from models.collectives import sum_over_ranks, world_size
from models.encoders.encoder import AnyEncoderConfig
from models.norm import GlobalBatchNorm
from models.objectives.inputs import check_views
from models.objectives.objective import OBJECTIVES, Objective, ObjectiveConfig, Outcome, one_stream
from shards.batch import Views
from shards.skeleton import FRAME_SIZE
from skelstream_twins.encoder import JointMLPConfig


@OBJECTIVES.add
class TwinsConfig(ObjectiveConfig):
    """Options of Barlow Twins.

    Attributes:
        feature_dim: entries of an embedding.
        redundancy_weight: of the term "redundancy".
    """

    kind: Literal["twins"] = "twins"
    encoder: AnyEncoderConfig = JointMLPConfig()
    feature_dim: int = Field(256, ge=2)
    redundancy_weight: float = Field(0.005, ge=0)

    @property
    def terms(self) -> tuple[str, ...]:
        return ("invariance", "redundancy")

    def build(self, streams: Sequence[str], seed: int = 0) -> "Twins":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return Twins(self, one_stream("objective 'twins'", streams))


class Twins(Objective):
    """The encoder of one stream and a head; its views are "first" and "second"."""

    def __init__(self, config: TwinsConfig, stream: str) -> None:
        super().__init__()
        self.config = config
        encoder = config.encoder.build()
        self.encoders = nn.ModuleDict({stream: encoder})
        # no bias before a norm, which takes it away: of a gradient that is rounding error Adam makes whole steps
        self.head = nn.Sequential(
            nn.Linear(encoder.width, config.feature_dim, bias=False),
            GlobalBatchNorm(config.feature_dim),
            nn.ReLU(),
            nn.Linear(config.feature_dim, config.feature_dim, bias=False),
            GlobalBatchNorm(config.feature_dim, affine=False),
        )

    def forward(self, views: Views, draws: Any) -> Outcome:
        check_views(views, FRAME_SIZE, needed=("first", "second"), masks=(), mixed=False)
        features = [self.encoder(views.views[name]).feature for name in ("first", "second")]
        first, second = map(self.head, features)
        correlation = sum_over_ranks(first.T @ second) / (len(first) * world_size())
        agreement = correlation.diagonal()
        others = correlation - torch.diag(agreement)
        terms = {
            "invariance": (1 - agreement).square().sum(),
            "redundancy": self.config.redundancy_weight * others.square().sum(),
        }
        return Outcome(terms, {"agreement": agreement.detach().mean()}, features[0].detach())
