"""ST-GCN encoder of SkeletonCLR and the methods that follow it.

Axis legend in `shards.schema`; beyond it P is N*M, E is V*C, K a subset of the adjacency, and W once more the joints.

Source: Yan et al., "Spatial Temporal Graph Convolutional Networks" (AAAI 2018), as LinguoLi/CrosSCLR has it: a quarter
of the width, and a last block that is wider than the others.
"""

import re
from collections import OrderedDict
from collections.abc import Mapping
from itertools import islice, pairwise
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from models.dropout import Dropout
from models.encoders.encoder import ENCODERS, Encoded, Encoder, EncoderConfig, Family, check_layer, check_width
from models.norm import GlobalBatchNorm
from shards.errors import CheckpointError
from shards.skeleton import JOINT_NAMES, NUM_COORDINATES, NUM_JOINTS, NUM_PERSONS, PARENTS

BLOCK_WIDTHS = (1, 1, 1, 1, 2, 2, 2, 4, 4)
"""Of all blocks but the last, in multiples of the first one's; the last has the width of the features."""

STRIDED = (4, 7)
"""Blocks, from 0, that halve the frames."""

_CENTRE = JOINT_NAMES.index("spine shoulder")


def _check_odd(size: int) -> int:
    if size % 2 == 0:
        raise ValueError(f"found {size}, expected an odd number, so that a frame lies in the middle")
    return size


@ENCODERS.add
class STGCNConfig(EncoderConfig):
    """Shape of an `STGCN`; the defaults are those of LinguoLi/CrosSCLR. The width of the original ST-GCN is 64.

    Attributes:
        width: of the first block; the following ones have 1, 1, 1, 2, 2, 2, 4 and 4 times as much.
        feature: width of the last block, and so of the features.
        dropout: probability in all blocks but the first.
        temporal_kernel: frames of a temporal convolution.
        importance: each block learns a factor for every entry of the adjacency.
        persons: which of them the features are the mean of. "released": both, an absent one too, whose zeros are no
            longer zero behind the input norm; "present": those with an entry other than 0, or both where nobody is.
            The statistics of the norms are over both in either case.
    """

    family: ClassVar[Family] = "gcn"

    kind: Literal["stgcn"] = "stgcn"
    width: int = Field(16, ge=1, le=1 << 12)
    feature: int = Field(256, ge=1, le=1 << 14)
    dropout: float = Field(0.5, ge=0, lt=1)
    temporal_kernel: Annotated[int, Field(ge=1, le=99), AfterValidator(_check_odd)] = 9
    importance: bool = True
    persons: Literal["released", "present"] = "released"

    def build(self) -> "STGCN":
        return STGCN(self)


def spatial_adjacency() -> npt.NDArray[np.float32]:
    """(K, V, V) of three subsets: entry (k, v, w) is the weight of joint v in the new value of joint w.

    The bones and the joints' own loops, each column divided by its sum, are dealt to the subsets: own loop; v no nearer
    to the spine shoulder than w; v nearer. Distances count one bone alone, beyond which they are infinite and equal, so
    that the last subset has 8 entries and both directions of most bones are in the second: as released, and needed for
    released weights.
    """
    joints = np.arange(NUM_JOINTS)
    own = np.eye(NUM_JOINTS, dtype=bool)
    linked = own.copy()
    linked[joints, PARENTS] = linked[PARENTS, joints] = True
    distance = np.where(linked[_CENTRE], 1.0, np.inf)
    distance[_CENTRE] = 0
    nearer = distance[:, None] < distance
    subsets = np.stack((own, ~own & ~nearer, nearer))
    adjacency: npt.NDArray[np.float32] = (linked / linked.sum(0) * subsets).astype(np.float32)
    return adjacency


class GraphConvolution(nn.Module):
    """A value of each joint from those of its neighbours, with weights of its own for each subset of the adjacency."""

    def __init__(self, channels: int, width: int, subsets: int) -> None:
        super().__init__()
        self.subsets = subsets
        self.convolution = nn.Conv2d(channels, subsets * width, 1)

    def forward(self, x_NCTV: Tensor, adjacency_KVW: Tensor) -> Tensor:
        """(N, C, T, V) -> (N, width, T, V)."""
        y_NKCTV: Tensor = self.convolution(x_NCTV).unflatten(1, (self.subsets, -1))
        # one product over subsets and joints together: 1.2 times as fast as einsum, forward and backward on one core
        return y_NKCTV.permute(0, 2, 3, 1, 4).flatten(3) @ adjacency_KVW.flatten(0, 1)


class Block(nn.Module):
    """Graph convolution, then a convolution along time, beside a shortcut.

    Args:
        channels, width: of input and output.
        config: kernel, dropout and importance.
        subsets: K of the adjacency.
        stride: in frames.
        first: the first block of the encoder has neither shortcut nor dropout.
    """

    def __init__(
        self, channels: int, width: int, config: STGCNConfig, *, subsets: int, stride: int, first: bool
    ) -> None:
        super().__init__()
        kernel = config.temporal_kernel
        self.importance = nn.Parameter(torch.ones(subsets, NUM_JOINTS, NUM_JOINTS)) if config.importance else None
        self.graph = GraphConvolution(channels, width, subsets)
        self.graph_norm = GlobalBatchNorm(width, first=True)
        self.temporal = nn.Conv2d(width, width, (kernel, 1), (stride, 1), (kernel // 2, 0))
        self.temporal_norm = GlobalBatchNorm(width, first=True)
        self.dropout = Dropout(0.0 if first else config.dropout)
        self.shortcut: nn.Module | None = None
        if not first:
            self.shortcut = nn.Identity() if (channels, stride) == (width, 1) else _projection(channels, width, stride)

    def forward(self, x_NCTV: Tensor, adjacency_KVW: Tensor) -> Tensor:
        """(N, C, T, V) -> (N, width, T', V); T' is T divided by the stride, rounded up."""
        if self.importance is not None:
            adjacency_KVW = adjacency_KVW * self.importance
        y = F.relu(self.graph_norm(self.graph(x_NCTV, adjacency_KVW)))
        y = self.dropout(self.temporal_norm(self.temporal(y)))
        return F.relu(y if self.shortcut is None else y + self.shortcut(x_NCTV))


def _projection(channels: int, width: int, stride: int) -> nn.Module:
    convolution, norm = nn.Conv2d(channels, width, 1, (stride, 1)), GlobalBatchNorm(width, first=True)
    return nn.Sequential(OrderedDict(convolution=convolution, norm=norm))


class STGCN(Encoder):
    """Input norm, ten blocks, and the mean over frames, joints and persons; persons go through the network apart.

    Attributes:
        adjacency: (K, V, V), see `spatial_adjacency`.
    """

    family = STGCNConfig.family
    layer_names = tuple(f"block{number}" for number in range(1, len(BLOCK_WIDTHS) + 1))
    stride = 2 ** len(STRIDED)
    blocks = (("input_norm", "layers.0"), *((f"layers.{number}",) for number in range(1, len(BLOCK_WIDTHS) + 1)))

    adjacency: Tensor

    def __init__(self, config: STGCNConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.feature
        self.register_buffer("adjacency", torch.from_numpy(spatial_adjacency()))
        self.input_norm = GlobalBatchNorm(NUM_JOINTS * NUM_COORDINATES, first=True)
        widths = (NUM_COORDINATES, *(factor * config.width for factor in BLOCK_WIDTHS), config.feature)
        self.layers = nn.ModuleList(
            Block(channels, width, config, subsets=len(self.adjacency), stride=2 if i in STRIDED else 1, first=i == 0)
            for i, (channels, width) in enumerate(pairwise(widths))
        )
        initialise(self)

    def maps(self, x_NTD: Tensor, blocks: int | None = None) -> Tensor:
        """What the first `blocks` blocks, or all, make of a view, (N, T, V*C*M) -> (N*M, width, T', V).

        Raises:
            ConfigError: frames of another width.
        """
        check_width(x_NTD)
        n, frames, _ = x_NTD.shape
        x_NTEM = x_NTD.reshape(n, frames, NUM_JOINTS * NUM_COORDINATES, NUM_PERSONS)
        x_PET = self.input_norm(x_NTEM.permute(0, 3, 2, 1).flatten(0, 1))
        x: Tensor = x_PET.unflatten(1, (NUM_JOINTS, NUM_COORDINATES)).permute(0, 2, 3, 1)
        for block in islice(self.layers, blocks):
            x = block(x, self.adjacency)
        return x

    def pool(self, maps: Tensor, x_NTD: Tensor) -> Tensor:
        """The mean of feature maps (N*M, width, T', V) over joints and persons, (N, T', width).

        Args:
            maps: of the view, see `maps`.
            x_NTD: the view, which tells who is present.
        """
        # at least float32: bfloat16 would round the mean of a hundred maps to 8 bits
        x_PCT = maps.mean(-1, dtype=torch.promote_types(maps.dtype, torch.float32))
        x_NMCT: Tensor = x_PCT.unflatten(0, (-1, NUM_PERSONS))  # type: ignore[no-untyped-call]  # torch leaves it untyped
        if self.config.persons == "released":
            return x_NMCT.mean(1).transpose(1, 2)
        present_NM = x_NTD.reshape(x_NTD.shape[0], -1, NUM_PERSONS).ne(0).any(1)
        counted = (present_NM | ~present_NM.any(1, keepdim=True)).to(x_NMCT.dtype)
        weight_NM = counted / counted.sum(1, keepdim=True)
        return (x_NMCT * weight_NM[:, :, None, None]).sum(1).transpose(1, 2)

    def forward(self, x_NTD: Tensor) -> Encoded:
        """Encode views (N, T, V*C*M): the feature is the mean over the frames.

        Raises:
            ConfigError: frames of another width.
        """
        frames = self.pool(self.maps(x_NTD), x_NTD)
        return Encoded(frames.mean(1), frames)

    def layer(self, x_NTD: Tensor, name: str) -> Tensor:
        """(N, D'): the features behind "block1" to "block9", or "last"; see `Encoder.layer`."""
        if name == "last":
            return self.forward(x_NTD).feature
        check_layer(self, name)
        return self.pool(self.maps(x_NTD, self.layer_names.index(name) + 1), x_NTD).mean(1)


def initialise(module: nn.Module) -> None:
    """Initial values as the trainer of LinguoLi/CrosSCLR draws them, for all parts of a model alike.

    Weights of convolutions and linear layers N(0, 0.02), of norms N(1, 0.02), all biases 0; other parameters stay.
    """
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear, nn.BatchNorm1d)) and part.weight is not None:
            nn.init.normal_(part.weight, 1.0 if isinstance(part, nn.BatchNorm1d) else 0.0, 0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


_REFERENCE_BLOCKS = {
    "gcn.conv": "graph.convolution",
    "tcn.0": "graph_norm",
    "tcn.2": "temporal",
    "tcn.3": "temporal_norm",
    "residual.0": "shortcut.convolution",
    "residual.1": "shortcut.norm",
}
_REFERENCE_BLOCK = re.compile(r"st_gcn_networks\.(\d+)\.((?:gcn|tcn|residual)\.\w+)\.(\w+)")


def from_reference_name(name: str) -> str:
    """Our name of an entry of the encoder of LinguoLi/CrosSCLR, Levigty/AimCLR or JHang2020/HiCLR, without its `fc`.

    `st_gcn_networks.4.tcn.2.weight` becomes `layers.4.temporal.weight`, `edge_importance.4` (of HiCLR's GCN
    `edge_importance5`) becomes `layers.4.importance`, `data_bn.*` becomes `input_norm.*`, `A` becomes `adjacency`.

    Raises:
        CheckpointError: the name is none of the reference encoder's.
    """
    if name == "A":
        return "adjacency"
    if name.startswith("data_bn."):
        return name.replace("data_bn", "input_norm")
    if match := re.fullmatch(r"edge_importance(\.?)(\d+)", name):
        number = int(match[2]) - (0 if match[1] else 1)
        return f"layers.{number}.importance"
    match = _REFERENCE_BLOCK.fullmatch(name)
    if match is None or match[2] not in _REFERENCE_BLOCKS:
        raise CheckpointError(
            f"entry {name!r} found, expected st_gcn_networks.*, edge_importance.*, data_bn.* or A of an ST-GCN"
        )
    return f"layers.{match[1]}.{_REFERENCE_BLOCKS[match[2]]}.{match[3]}"


def from_reference_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a released encoder (without its `fc`) under our names; see `from_reference_name`."""
    return {from_reference_name(name): tensor for name, tensor in state.items()}
