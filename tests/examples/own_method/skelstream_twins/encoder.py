"""An encoder that sees each joint by itself: one small network for all joints, then means."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from models.encoders.encoder import ENCODERS, Encoded, Encoder, EncoderConfig, Family, check_width
from shards.batch import unflatten
from shards.skeleton import NUM_COORDINATES, NUM_JOINTS


@ENCODERS.add
class JointMLPConfig(EncoderConfig):
    """Shape of a `JointMLP`.

    Attributes:
        hidden: width of the hidden layers.
        width: D, of the features.
    """

    family: ClassVar[Family] = "cnn"

    kind: Literal["joint_mlp"] = "joint_mlp"
    hidden: int = Field(64, ge=1)
    width: int = Field(128, ge=1)

    def build(self) -> "JointMLP":
        return JointMLP(self)


class JointMLP(Encoder):
    """Tells joints apart by a learnt vector; a frame is the mean over joints and persons, a sample that over frames."""

    family = JointMLPConfig.family
    stride = 1
    blocks = (("coordinates", "joints"), ("layers",))

    def __init__(self, config: JointMLPConfig) -> None:
        super().__init__()
        self.width = config.width
        self.coordinates = nn.Linear(NUM_COORDINATES, config.hidden)
        self.joints = nn.Parameter(torch.randn(NUM_JOINTS, config.hidden))
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.Linear(config.hidden, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, config.width, bias=False),
        )

    def forward(self, x_NTD: Tensor) -> Encoded:
        check_width(x_NTD)
        joints_NTMVD = self.layers(self.coordinates(unflatten(x_NTD)) + self.joints)
        frames = joints_NTMVD.mean((2, 3))
        return Encoded(frames.mean(1), frames)
