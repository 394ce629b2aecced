"""Batch norm over the global batch: of one process, or of all ranks of a distributed run together."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.collectives import sum_over_ranks, world_size


@dataclass(frozen=True)
class BatchStatistics:
    """Mean and unbiased variance of each channel over the rows of all ranks, both (D,)."""

    mean: Tensor
    var: Tensor


class GlobalBatchNorm(nn.BatchNorm1d):
    """Batch norm of each channel over all else and over all ranks, whose running statistics can be recorded apart.

    Several views can thus go through an encoder together and still be recorded one by one, in their own order. Its
    state is that of `nn.BatchNorm1d`. (torch's SyncBatchNorm has no CPU path, so it could not be tested here.)

    Args:
        channels: D.
        first: channels are the second axis, as in a convolution (N, D, ...); else the last, (..., D).
        eps, momentum, affine: as of `nn.BatchNorm1d`.

    Attributes:
        kept_aside: where `record` keeps statistics until `record_kept`; None records them at once.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self, channels: int, *, first: bool = False, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True
    ) -> None:
        super().__init__(channels, eps=eps, momentum=momentum, affine=affine)
        self.first = first
        self.kept_aside: list[BatchStatistics] | None = None

    def normalise(self, x: Tensor) -> tuple[Tensor, BatchStatistics | None]:
        """Normalise by the batch (train mode) or by the running statistics (evaluation); record nothing.

        Args:
            x: (..., D), or with channels first (N, D, ...).

        Returns:
            The normalised x, and what `record` takes: None in evaluation.
        """
        if self.first and self.training and world_size() > 1:
            moved, statistics = self._over_ranks(x.movedim(1, -1).flatten(0, -2))
            shape = (x.shape[0], *x.shape[2:], x.shape[1])
            return moved.view(shape).movedim(-1, 1), statistics
        flat = x if self.first else x.flatten(0, -2)
        if not self.training:
            y = F.batch_norm(flat, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
            return y.view_as(x), None
        if world_size() > 1:
            y, statistics = self._over_ranks(flat)
            return y.view_as(x), statistics
        mean, var = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        # with momentum 1 the "running" statistics are exactly those of this batch
        y = F.batch_norm(flat, mean, var, self.weight, self.bias, True, 1.0, self.eps)
        return y.view_as(x), BatchStatistics(mean, var)

    def _over_ranks(self, x_RD: Tensor) -> tuple[Tensor, BatchStatistics]:
        rows = x_RD.shape[0] * world_size()
        x = x_RD.to(self.running_mean.dtype)  # as torch's own does: bfloat16 would round the sums of a thousand rows
        mean = sum_over_ranks(x.sum(0)) / rows
        centred = x - mean
        # of the centred values: sums of squares lose the variance of channels far from 0
        var = sum_over_ranks(centred.square().sum(0)) / rows
        y = centred * (var + self.eps).rsqrt()
        if self.affine:
            y = y * self.weight + self.bias
        return y.to(x_RD.dtype), BatchStatistics(mean.detach(), var.detach() * (rows / (rows - 1)))

    @torch.no_grad()
    def record(self, statistics: BatchStatistics | None) -> None:
        """Move the running statistics towards those of one batch, or keep them aside; None changes nothing."""
        if statistics is None:
            return
        if self.kept_aside is not None:
            self.kept_aside.append(statistics)
            return
        assert self.momentum is not None
        self.running_mean.lerp_(statistics.mean, self.momentum)
        self.running_var.lerp_(statistics.var, self.momentum)
        self.num_batches_tracked.add_(1)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise and record."""
        y, statistics = self.normalise(x)
        self.record(statistics)
        return y


class KeptStatistics:
    """The running statistics of all norms of a module, kept aside until a step is done.

    Between `begin` and `end` a forward pass in train mode changes no buffer of a norm; it can be repeated.
    """

    def __init__(self, module: nn.Module) -> None:
        self._norms = [part for part in module.modules() if isinstance(part, GlobalBatchNorm)]

    def begin(self) -> None:
        """Keep aside from now on, and forget what was kept."""
        for norm in self._norms:
            norm.kept_aside = []

    def end(self) -> None:
        """Record what was kept, in its order."""
        for norm in self._norms:
            kept, norm.kept_aside = norm.kept_aside or [], None
            for statistics in kept:
                norm.record(statistics)
