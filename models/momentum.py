"""The slow half of a momentum-contrast method: the twin that computes keys, and the queue that keeps them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shards.errors import ConfigError


def become_twin(twin: nn.Module, online: nn.Module) -> None:
    """Make `twin` an equal copy of `online` that no gradient reaches.

    The twin is built anew rather than deep-copied, so that on CUDA its GRU weights stay one contiguous block.
    """
    twin.load_state_dict(online.state_dict())
    twin.requires_grad_(False)


@torch.no_grad()
def momentum_update(twin: nn.Module, online: nn.Module, momentum: float) -> None:
    """Move the twin's parameters to `momentum * twin + (1 - momentum) * online`; its buffers are its own and stay."""
    torch._foreach_lerp_(list(twin.parameters()), list(online.parameters()), 1 - momentum)


class Queue(nn.Module):
    """The last `size` keys, used as negatives; starts as random directions.

    Attributes:
        keys: (size, dim), rows of norm 1.
        position: (1,) int64, the row that the next key overwrites. It stays on the device, so that a push never waits.
    """

    keys: Tensor
    position: Tensor

    def __init__(self, size: int, dim: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if size < 1:
            raise ConfigError(f"queue size {size} found, expected at least 1")
        self.register_buffer("keys", F.normalize(torch.randn(size, dim, generator=generator), dim=1))
        self.register_buffer("position", torch.zeros(1, dtype=torch.int64))

    def check_batch(self, batch_size: int) -> None:
        """Refuse a batch that would leave no negative older than itself.

        Raises:
            ConfigError: the queue is not larger than the batch.
        """
        size = self.keys.shape[0]
        if batch_size >= size:
            raise ConfigError(f"queue size {size} found, expected more than the batch size {batch_size}")

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Overwrite the oldest entries by `keys` (N, dim), beginning again at row 0 after the last row."""
        self.check_batch(keys.shape[0])
        size = self.keys.shape[0]
        rows = (self.position + torch.arange(keys.shape[0], device=keys.device)) % size
        self.keys.index_copy_(0, rows, keys.to(self.keys.dtype))
        self.position.copy_((self.position + keys.shape[0]) % size)
