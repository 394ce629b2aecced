"""Operations on values: Gaussian noise on every entry, and Gaussian blur along time."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipelines.augmentations.operation import Free, Key, Samples


@dataclass(frozen=True)
class NoiseKey:
    """Where each sample's noise comes from; the numbers are made when they are added.

    Attributes:
        key: of the operation.
        sample_id: (N,) int64.
    """

    key: Key
    sample_id: Tensor


class GaussianNoise(Free):
    """N(0, std^2) added to every entry; released with probability 1/2.

    Every number is a function of the sample's key and of the entry's place in (T, M, V, C). While they are made they
    take about 30 bytes an entry: 40 MB for 128 views of 64 frames.

    Attributes:
        std: in the units of the data, metres; AimCLR's 0.01, AS-CAL's is 0.05.
        present: only to persons who are there, frame by frame. As released also to the zeros of one who is not, which
            makes somebody of nobody.
    """

    kind: Literal["gaussian_noise"] = "gaussian_noise"
    std: float = Field(default=0.01, gt=0)
    present: bool = False

    source: ClassVar[str] = "Levigty/AimCLR; before it AS-CAL (Rao et al., Information Sciences 2021)"

    def draw(self, samples: Samples, key: Key, frames: int) -> NoiseKey:
        return NoiseKey(key, samples.sample_id)

    def apply(self, x: Tensor, params: NoiseKey) -> Tensor:
        entries = x[0].numel()
        draws = params.key.sample(params.sample_id, "gaussian_noise", entries + entries % 2)
        noise = normal(draws)[:, :entries].to(torch.float32)
        noisy = torch.add(x, noise.view(x.shape), alpha=self.std)
        return torch.where(x.flatten(3).any(dim=3)[..., None, None], noisy, x) if self.present else noisy


def normal(draws: Tensor) -> Tensor:
    """Independent N(0, 1) numbers from uniform ones in [0, 1), both (N, count) with an even count (Box and Muller)."""
    first, second = draws.chunk(2, dim=1)
    radius = torch.log1p(-first).mul_(-2).sqrt_()
    angle = second * (2 * math.pi)
    return torch.cat((radius * angle.cos(), radius * angle.sin()), dim=1)


class GaussianBlur(Free):
    """Each entry becomes the weighted mean of its neighbours in time; released with probability 1/2.

    Attributes:
        kernel: frames of a mean, odd.
        min_sigma, max_sigma: the width of the weights in frames is U[min_sigma, max_sigma].
        released: True does as AimCLR's code: beyond the ends there are zeros, and the weights are 1 in the middle
            instead of 1 in sum, so that sigma also enlarges the skeleton, five times at sigma 2. By default the edge
            frames repeat and the size stays.
    """

    kind: Literal["gaussian_blur"] = "gaussian_blur"
    kernel: int = Field(default=15, ge=1)
    min_sigma: float = Field(default=0.1, gt=0)
    max_sigma: float = Field(default=2.0, gt=0)
    released: bool = False

    source: ClassVar[str] = "Levigty/AimCLR; before it AS-CAL (Rao et al., Information Sciences 2021)"

    @model_validator(mode="after")
    def _has_a_middle(self) -> Self:
        if self.kernel % 2 == 0:
            raise ValueError(f"found kernel={self.kernel}, expected an odd number of frames")
        return self

    def draw(self, samples: Samples, key: Key, frames: int) -> Tensor:
        """(N,) float64, sigma in frames."""
        draws = key.sample(samples.sample_id, "gaussian_blur", 1)[:, 0]
        return self.min_sigma + draws * (self.max_sigma - self.min_sigma)

    def apply(self, x: Tensor, params: Tensor) -> Tensor:
        frames, reach = x.shape[1], self.kernel // 2
        offsets = torch.arange(-reach, reach + 1, device=x.device)
        weights = torch.exp(-0.5 * (offsets / params[:, None]) ** 2)
        if not self.released:
            weights = weights / weights.sum(dim=1, keepdim=True)
        weights = weights.to(x.dtype)[:, :, None, None, None, None]
        places = torch.arange(-reach, frames + reach, device=x.device)
        padded = x[:, places.clamp(0, frames - 1)]
        if self.released:
            padded = padded * ((places >= 0) & (places < frames))[:, None, None, None]
        # shifted sums, not a matrix product, whose rounding could depend on the size of the batch
        blurred = torch.zeros_like(x)
        for number in range(self.kernel):
            blurred.addcmul_(padded[:, number : number + frames], weights[:, number])
        return blurred
