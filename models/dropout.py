"""Dropout whose draws are a function of numbers and not of how the batch is dealt to ranks, so that a step can be
repeated and a run on several ranks is that on one."""

import random

import torch
from torch import Tensor, nn

from models.collectives import rank, world_size


class Dropout(nn.Module):
    """Sets entries to 0 with probability `p` and scales the others by 1/(1-p), in train mode alone.

    Rows of its input lie by sample, so that a rank's rows are a block of those of the global batch.

    Attributes:
        seed: of the next forward pass, see `seed_dropout`; None draws from torch's global generator.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.seed: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(R, ...) -> the same shape."""
        if not self.training or self.p == 0:
            return x
        return x * self._kept(self._shape(x), x.device).to(x.dtype).div_(1 - self.p)

    def _shape(self, x: Tensor) -> tuple[int, ...]:
        """Of the draws of this rank."""
        return tuple(x.shape)

    def _kept(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Bool, True with probability 1-p; of the global batch, of which each rank takes its rows."""
        if self.seed is None:
            return torch.rand(shape, device=device) >= self.p
        generator = torch.Generator(device).manual_seed(self.seed)
        rows = shape[0]
        drawn = torch.rand((rows * world_size(), *shape[1:]), generator=generator, device=device)
        return drawn[rank() * rows :][:rows] >= self.p


class DropPath(Dropout):
    """Drops a whole row of its input: stochastic depth of a residual branch, (R, ...)."""

    def _shape(self, x: Tensor) -> tuple[int, ...]:
        return (x.shape[0], *(1 for _ in x.shape[1:]))


def seed_dropout(module: nn.Module, *numbers: int | str) -> None:
    """Make the draws of the next forward pass of `module` a pure function of `numbers`, another for each layer."""
    for name, part in module.named_modules():
        if isinstance(part, Dropout):
            part.seed = random.Random(f"{name}/{numbers}").getrandbits(62)
