"""A counter-based random generator: a draw is a pure function of (seed, epoch, sample id, view, operation, number).

So the views of a sample depend neither on batch, order, loader nor rank, and any view can be replayed from its key.
The mixing function is the finaliser of SplitMix64 (Steele et al., "Fast splittable pseudorandom number generators",
OOPSLA 2014), in 64-bit integers that wrap on every device alike.
"""

import hashlib
from functools import lru_cache

import torch
from torch import Tensor

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


def uniform(seed: int, epoch: int, sample_id: Tensor, view: str, operation: str, count: int) -> Tensor:
    """Draw numbers in [0, 1).

    Args:
        seed: of the run.
        epoch: from 0.
        sample_id: (N,) int64; for a draw of a whole batch, the step as a tensor of one element.
        view: which of a sample's views; names keep views independent.
        operation: which of a view's operations.
        count: numbers a sample.

    Returns:
        (N, count) float64 on the device of `sample_id`, multiples of 2^-53.
    """
    key = word(seed, epoch, view, operation)
    if sample_id.device.type == "cpu":
        return _uniform_compiled(sample_id, key, count)
    return _uniform_torch(sample_id, key, count)


@lru_cache(maxsize=1024)
def word(seed: int, epoch: int, view: str, operation: str) -> int:
    """What keys the draws of an operation, as a signed 64-bit number."""
    words = f"{seed}/{epoch}/{view}/{operation}".encode()
    return _signed(int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "little"))


def _uniform_compiled(sample_id: Tensor, key: int, count: int) -> Tensor:
    from pipelines.augmentations.draw_kernels import uniform_rows

    out = torch.empty(len(sample_id), count, dtype=torch.float64)
    uniform_rows(sample_id.to(torch.int64).contiguous().numpy(), key, out.numpy())
    return out


def _uniform_torch(sample_id: Tensor, key: int, count: int) -> Tensor:
    state = _mix(sample_id.to(torch.int64)[:, None] * _signed(_GOLDEN) + key)
    number = torch.arange(1, count + 1, device=sample_id.device, dtype=torch.int64)
    bits = _mix(state + number * _signed(_GOLDEN))
    return _shift(bits, 11).to(torch.float64) * 2.0**-53


def choose(draws: Tensor, low: int | Tensor, high: int | Tensor) -> Tensor:
    """Turn numbers in [0, 1) into integers low..high, both included, all equally likely."""
    return low + torch.floor(draws * (high - low + 1)).to(torch.int64)


def subset(draws: Tensor, size: int) -> Tensor:
    """Choose `size` of K without replacement.

    Args:
        draws: (N, K) numbers in [0, 1).
        size: at most K.

    Returns:
        (N, size) int64, in the order drawn.
    """
    if draws.device.type == "cpu" and draws.dtype == torch.float64:
        from pipelines.augmentations.draw_kernels import subset_rows

        out = torch.empty(len(draws), size, dtype=torch.int64)
        subset_rows(draws.contiguous().numpy(), out.numpy())
        return out
    return torch.argsort(draws, dim=1, stable=True)[:, :size]


def _mix(state: Tensor) -> Tensor:
    state = (state ^ _shift(state, 30)) * _signed(_FIRST)
    state = (state ^ _shift(state, 27)) * _signed(_SECOND)
    return state ^ _shift(state, 31)


def _shift(value: Tensor, bits: int) -> Tensor:
    # torch shifts signed integers arithmetically; the copies of the sign bit are cut off
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >= 1 << 63 else value
