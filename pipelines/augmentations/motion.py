"""Motion-aware masking, and the motion that a masked model is to predict. Source: maoyunyao/MAMP.

A token is one joint of one person in `patch` frames; token tp * 25 + v of a sequence is joint v in frames
tp * patch..(tp + 1) * patch - 1.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from pipelines.augmentations.masks import Persons, keep_least, kept_count, token_steps
from pipelines.augmentations.operation import Key, Mask, Samples
from shards.errors import ConfigError
from shards.skeleton import NUM_JOINTS, NUM_PERSONS

_TINY = 1e-10


class MotionMask(Mask):
    """Tokens hidden at random, the likelier the more they move; each person has its own.

    Attributes:
        ratio: share of a person's tokens that are hidden; int(tokens * (1 - ratio)) stay.
        patch: frames of a token.
        tau: temperature of the softmax over a person's tokens; the smaller, the more motion decides. 0: motion does not
            matter, every set of tokens is equally likely (as the release reads it, and as its MAE baseline masks).
        persons: whose tokens are hidden.
    """

    kind: Literal["motion_mask"] = "motion_mask"
    ratio: float = Field(default=0.9, gt=0, lt=1)
    patch: int = Field(default=4, ge=1)
    tau: float = Field(default=0.8, ge=0)
    persons: Persons = "both"

    source: ClassVar[str] = "maoyunyao/MAMP"

    def draw(self, samples: Samples, key: Key, frames: int) -> Tensor:
        """(N, M, L) float64 in [0, 1), one number a token."""
        tokens = _steps(frames, self.patch) * NUM_JOINTS
        kept_count(tokens, self.ratio)  # what cannot work is refused before anything is made
        return key.sample(samples.sample_id, "motion-mask", NUM_PERSONS * tokens).view(-1, NUM_PERSONS, tokens)

    def visible(self, x: Tensor, params: Tensor) -> Tensor:
        noise = params.to(x.dtype)
        if self.tau:
            noise = masking_noise(probability(scaled_motion(x.transpose(1, 2), self.patch, self.tau)), noise)
        shown = keep_least(noise, kept_count(params.shape[-1], self.ratio))
        shown = shown.view(len(x), NUM_PERSONS, -1, NUM_JOINTS)
        if self.persons == "main":
            shown = torch.stack((shown[:, 0], torch.ones_like(shown[:, 1])), dim=1)
        return shown.repeat_interleave(self.patch, dim=2).transpose(1, 2)


def motion(x: Tensor, stride: int = 1) -> Tensor:
    """x[t + stride] - x[t] of (..., T, V, C), same shape; zero in the last `stride` frames.

    Raises:
        ConfigError: the sequence is not longer than the stride.
    """
    if not 1 <= stride < x.shape[-3]:
        raise ConfigError(f"found a stride of {stride}, expected 1 to {x.shape[-3] - 1} for {x.shape[-3]} frames")
    moved = torch.zeros_like(x)
    moved[..., :-stride, :, :] = x[..., stride:, :, :] - x[..., :-stride, :, :]
    return moved


def target_patches(moved: Tensor, patch: int) -> Tensor:
    """What is to be predicted of each token: (..., T, V, C) -> (..., L, patch * C), frame by frame.

    Raises:
        ConfigError: the sequence is no multiple of a token.
    """
    *batch, frames, joints, coordinates = moved.shape
    tokens = moved.reshape(*batch, token_steps(frames, patch), patch, joints, coordinates).transpose(-3, -2)
    return tokens.flatten(-2).flatten(-3, -2)


def target_normalised(patches: Tensor) -> Tensor:
    """Each token's target with mean 0 and variance 1 (unbiased, plus 1e-6)."""
    mean = patches.mean(dim=-1, keepdim=True)
    return (patches - mean) / (patches.var(dim=-1, keepdim=True) + 1e-6).sqrt()


def scaled_motion(x: Tensor, patch: int, tau: float) -> Tensor:
    """How much each token moves against the one before, (..., T, V, C) -> (..., L); the largest is 1 / tau.

    The tokens of the first `patch` frames take the motion of the second ones.

    Raises:
        ConfigError: the sequence is no multiple of a token, or has one only.
    """
    steps = _steps(x.shape[-3], patch)
    tokens = target_patches(x, patch)
    tokens = tokens.view(*tokens.shape[:-2], steps, -1, tokens.shape[-1])
    moved = (tokens[..., 1:, :, :] - tokens[..., :-1, :, :]).abs().mean(dim=-1)
    moved = torch.cat((moved[..., :1, :], moved), dim=-2).flatten(-2)
    return moved / (moved.amax(dim=-1, keepdim=True) * tau + _TINY)


def probability(scaled: Tensor) -> Tensor:
    """Softmax over a sequence's tokens."""
    return scaled.softmax(dim=-1)


def masking_noise(probability: Tensor, rand: Tensor) -> Tensor:
    """Gumbel noise on log probabilities: the tokens of least noise stay; `rand` in [0, 1) has the same shape."""
    return probability.log() - (-(rand + _TINY).log() + _TINY).log()


def _steps(frames: int, patch: int) -> int:
    steps = token_steps(frames, patch)
    if steps < 2:
        raise ConfigError(f"found a view of {frames} frames, expected two tokens of {patch} frames at least")
    return steps
