"""What the ranks of a distributed run exchange inside a step; in a run of one process everything stays where it is.

Each rank holds an equal, contiguous block of every global batch, in the order of the ranks. Sums and gathers therefore
give each rank what one process would see of the whole batch.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def world_size() -> int:
    """Number of ranks, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this rank, 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


@torch.no_grad()
def gather_rows(x: Tensor) -> Tensor:
    """The rows of all ranks, those of rank 0 first: (n, ...) -> (world * n, ...). No gradient flows back."""
    if world_size() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


@torch.no_grad()
def broadcast_buffers(module: nn.Module) -> None:
    """Give all ranks the buffers of rank 0."""
    if world_size() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of the ranks' tensors, the same on all; differentiable, the gradient is summed likewise."""
    if world_size() == 1:
        return x
    total: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return total


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total
