"""Recurrent encoder of PCM3, CMD and ISC: input norm and stacked GRU layers. Axis legend in `shards.schema`."""

import functools
import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from models.encoders.encoder import ENCODERS, Encoded, Encoder, EncoderConfig, Family, check_layer, check_width
from models.encoders.recurrence import for_products, run_gru
from models.norm import BatchStatistics, GlobalBatchNorm
from shards.errors import CheckpointError, ConfigError
from shards.skeleton import FRAME_SIZE

Direction = Literal["parallel_forward", "bidirectional"]

Width = Annotated[int, Field(ge=1, le=1 << 16)]
"""Of a layer; beyond it a matrix of the layer alone takes tens of gigabytes."""


@ENCODERS.add
class GRUConfig(EncoderConfig):
    """Shape of a `GRUEncoder`; the defaults are those of PCM3.

    Attributes:
        hidden: width of one direction; features are twice as wide.
        layers: stacked layers.
        direction: "parallel_forward" runs both halves of a layer forward in time, as the released code does in effect
            (it feeds a bidirectional GRU one frame at a time); "bidirectional" runs the second half backward.
        prompt_place: where the input prompt is added. Before the norm it has no effect in training, since the batch
            mean takes it away again; that is the released place.
        input_size: V*C*M of one frame.
    """

    family: ClassVar[Family] = "gru"

    kind: Literal["gru"] = "gru"
    hidden: Width = 1024
    layers: int = Field(3, ge=1, le=100)
    direction: Direction = "parallel_forward"
    prompt_place: Literal["after_norm", "before_norm"] = "after_norm"
    input_size: PositiveInt = FRAME_SIZE

    def check(self, frames: int) -> None:
        """Refuse an `input_size` that is not that of a view."""
        if self.input_size != FRAME_SIZE:
            raise ConfigError(
                f"objective.encoder.input_size is {self.input_size}, expected {FRAME_SIZE}, the entries of a frame"
            )

    def build(self) -> "GRUEncoder":
        """The encoder."""
        return GRUEncoder(self)


class ParallelForwardGRU(nn.Module):
    """Two forward GRUs side by side: one layer, (T, N, D) -> (T, N, 2*hidden)."""

    def __init__(self, input_size: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.GRU(input_size, hidden)
        self.second = nn.GRU(input_size, hidden)

    def forward(self, x_TND: Tensor) -> Tensor:
        """Outputs of both halves at every frame."""
        if x_TND.is_cuda:
            return torch.cat(self._on_two_streams(x_TND), dim=-1)
        low = for_products(x_TND)
        return torch.cat((run_gru(low, self.first), run_gru(low, self.second)), dim=-1)

    def _on_two_streams(self, x_TND: Tensor) -> tuple[Tensor, Tensor]:
        """Both halves at once: one alone is a chain of small products that leaves most of a GPU idle.

        The backward pass follows, since autograd runs each part on the stream of its forward part.
        """
        main, side = torch.cuda.current_stream(x_TND.device), _side_stream(x_TND.device)
        side.wait_stream(main)
        with torch.cuda.stream(side):
            second = run_gru(x_TND, self.second)
        first = run_gru(x_TND, self.first)
        main.wait_stream(side)
        # the allocator must not give their memory to others before the stream that uses it is done
        x_TND.record_stream(side)
        second.record_stream(main)
        return first, second


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it untyped


class BidirectionalGRU(nn.Module):
    """A forward and a backward GRU: one layer, (T, N, D) -> (T, N, 2*hidden)."""

    def __init__(self, input_size: int, hidden: int) -> None:
        super().__init__()
        self.gru = nn.GRU(input_size, hidden, bidirectional=True)

    def forward(self, x_TND: Tensor) -> Tensor:
        """Outputs of both directions at every frame."""
        return run_gru(x_TND, self.gru)


class GRUEncoder(Encoder):
    """Input norm, then stacked GRU layers; the feature of a sequence is that of its last frame.

    The six recurrences of three layers are each one fused call over the whole sequence, equal to the frame-by-frame
    loop of JHang2020/PCM3 and 2.4 times as fast there (batch 8, two CPU threads).
    """

    family = GRUConfig.family
    stride = 1

    def __init__(self, config: GRUConfig) -> None:
        super().__init__()
        self.config = config
        self.width = 2 * config.hidden
        self.layer_names = tuple(f"layer{number}" for number in range(1, config.layers + 1))
        self.blocks = (("input_norm", "layers.0"), *((f"layers.{number}",) for number in range(1, config.layers)))
        self.input_norm = GlobalBatchNorm(config.input_size)
        layer = ParallelForwardGRU if config.direction == "parallel_forward" else BidirectionalGRU
        sizes = [config.input_size] + [self.width] * (config.layers - 1)
        self.layers = nn.ModuleList(layer(size, config.hidden) for size in sizes)
        for parameter in self.layers.parameters():
            if parameter.dim() == 2:  # as released: the three gates of a matrix count as one
                nn.init.xavier_uniform_(parameter)

    def normalise(self, x_NTD: Tensor, prompt: Tensor | None = None) -> tuple[Tensor, BatchStatistics | None]:
        """Input norm and prompt, without recording the statistics: the first half of `forward`.

        Args:
            x_NTD: a view.
            prompt: (D,), added to every frame at `config.prompt_place`.
        """
        if prompt is None:
            return self.input_norm.normalise(x_NTD)
        if self.config.prompt_place == "before_norm":
            return self.input_norm.normalise(x_NTD + prompt)
        y, statistics = self.input_norm.normalise(x_NTD)
        return y + prompt, statistics

    def recur(self, x_NTD: Tensor) -> Tensor:
        """The GRU layers alone, (N, T, D) -> (N, T, 2*hidden): the second half of `forward`."""
        x = x_NTD.transpose(0, 1)
        for layer in self.layers:
            x = layer(x)
        return x.transpose(0, 1)

    def forward(self, x_NTD: Tensor, prompt: Tensor | None = None) -> Encoded:
        """Features of every frame, of which the last is that of the sequence; `prompt` as of `normalise`.

        Raises:
            ConfigError: frames of another width than the encoder takes.
        """
        check_width(x_NTD, self.config.input_size)
        y, statistics = self.normalise(x_NTD, prompt)
        self.input_norm.record(statistics)
        frames = self.recur(y)
        return Encoded(frames[:, -1], frames)

    def layer(self, x_NTD: Tensor, name: str) -> Tensor:
        """(N, 2*hidden): the output of a GRU layer at the last frame."""
        check_layer(self, name)
        check_width(x_NTD, self.config.input_size)
        y, _ = self.normalise(x_NTD)
        y = y.transpose(0, 1)
        for gru in self.layers[: self.layer_names.index(name) + 1]:
            y = gru(y)
        return y[-1]


_REFERENCE_GRU = re.compile(r"encoder\.gru\.((?:weight|bias)_(?:ih|hh))_l(\d+)(_reverse)?")


def from_reference_name(name: str, direction: Direction = "parallel_forward") -> str:
    """Our name of an entry of the encoder of JHang2020/PCM3.

    `encoder.gru.weight_ih_l1` becomes `layers.1.first.weight_ih_l0`, its `_reverse` twin `layers.1.second.weight_ih_l0`
    (bidirectional: `layers.1.gru.weight_ih_l0` and `layers.1.gru.weight_ih_l0_reverse`); `input_norm.*` keeps its name.

    Raises:
        CheckpointError: the name is none of the reference encoder's.
    """
    if name.startswith("input_norm."):
        return name
    match = _REFERENCE_GRU.fullmatch(name)
    if match is None:
        raise CheckpointError(f"entry {name!r} found, expected encoder.gru.* or input_norm.*")
    kind, layer, reverse = match.groups()
    if direction == "bidirectional":
        return f"layers.{layer}.gru.{kind}_l0{reverse or ''}"
    return f"layers.{layer}.{'second' if reverse else 'first'}.{kind}_l0"


def from_reference_state(state: Mapping[str, Tensor], direction: Direction = "parallel_forward") -> dict[str, Tensor]:
    """The state of the encoder of JHang2020/PCM3 (without its `fc`) under our names; see `from_reference_name`."""
    return {from_reference_name(name, direction): tensor for name, tensor in state.items()}
