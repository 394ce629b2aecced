"""Recurrent encoder of PCM3, CMD and ISC: input norm and stacked GRU layers. Axis legend in `shards.schema`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import Tensor, nn

from shards.errors import CheckpointError
from shards.skeleton import NUM_COORDINATES, NUM_JOINTS, NUM_PERSONS

Direction = Literal["parallel_forward", "bidirectional"]


class EncoderConfig(BaseModel):
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

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: PositiveInt = 1024
    layers: PositiveInt = 3
    direction: Direction = "parallel_forward"
    prompt_place: Literal["after_norm", "before_norm"] = "after_norm"
    input_size: PositiveInt = NUM_JOINTS * NUM_COORDINATES * NUM_PERSONS


@dataclass(frozen=True)
class BatchStatistics:
    """Mean and unbiased variance of each input channel over N*T, both (D,)."""

    mean: Tensor
    var: Tensor


class InputNorm(nn.BatchNorm1d):
    """Batch norm of each channel over N*T, whose running statistics can be recorded apart from the normalising.

    Several views can thus go through the recurrence together and still be recorded one by one, in their own order.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def normalise(self, x_NTD: Tensor) -> tuple[Tensor, BatchStatistics | None]:
        """Normalise by the batch (train mode) or by the running statistics (evaluation); record nothing.

        Returns:
            The normalised (N, T, D), and what `record` takes: None in evaluation.
        """
        flat = x_NTD.flatten(0, 1)
        if not self.training:
            y = F.batch_norm(flat, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
            return y.view_as(x_NTD), None
        mean, var = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        # with momentum 1 the "running" statistics are exactly those of this batch
        y = F.batch_norm(flat, mean, var, self.weight, self.bias, True, 1.0, self.eps)
        return y.view_as(x_NTD), BatchStatistics(mean, var)

    @torch.no_grad()
    def record(self, statistics: BatchStatistics | None) -> None:
        """Move the running statistics towards those of one batch; None changes nothing."""
        if statistics is None:
            return
        assert self.momentum is not None
        self.running_mean.lerp_(statistics.mean, self.momentum)
        self.running_var.lerp_(statistics.var, self.momentum)
        self.num_batches_tracked.add_(1)

    def forward(self, x_NTD: Tensor) -> Tensor:
        """Normalise and record, (N, T, D) -> (N, T, D)."""
        y, statistics = self.normalise(x_NTD)
        self.record(statistics)
        return y


class ParallelForwardGRU(nn.Module):
    """Two forward GRUs side by side: one layer, (T, N, D) -> (T, N, 2*hidden)."""

    def __init__(self, input_size: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.GRU(input_size, hidden)
        self.second = nn.GRU(input_size, hidden)

    def forward(self, x_TND: Tensor) -> Tensor:
        """Outputs of both halves at every frame."""
        return torch.cat((self.first(x_TND)[0], self.second(x_TND)[0]), dim=-1)


class BidirectionalGRU(nn.Module):
    """A forward and a backward GRU: one layer, (T, N, D) -> (T, N, 2*hidden)."""

    def __init__(self, input_size: int, hidden: int) -> None:
        super().__init__()
        self.gru = nn.GRU(input_size, hidden, bidirectional=True)

    def forward(self, x_TND: Tensor) -> Tensor:
        """Outputs of both directions at every frame."""
        y: Tensor = self.gru(x_TND)[0]
        return y


class GRUEncoder(nn.Module):
    """Input norm, then stacked GRU layers; the feature of a sequence is that of its last frame.

    The six recurrences of three layers are each one fused call over the whole sequence, equal to the frame-by-frame
    loop of JHang2020/PCM3 and 2.4 times as fast there (batch 8, two CPU threads).
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.feature_size = 2 * config.hidden
        self.input_norm = InputNorm(config.input_size)
        layer = ParallelForwardGRU if config.direction == "parallel_forward" else BidirectionalGRU
        sizes = [config.input_size] + [self.feature_size] * (config.layers - 1)
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

    def forward(self, x_NTD: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Features of every frame, (N, T, D) -> (N, T, 2*hidden)."""
        y, statistics = self.normalise(x_NTD, prompt)
        self.input_norm.record(statistics)
        return self.recur(y)


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
