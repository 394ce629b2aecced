"""Small parts around an encoder: projector of the contrastive pairs, decoder of the masked prediction, prompts."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.encoders.recurrence import run_gru
from models.norm import GlobalBatchNorm


class Projector(nn.Module):
    """Two linear layers onto the unit sphere, (N, feature_size) -> (N, dim)."""

    def __init__(self, feature_size: int, dim: int) -> None:
        super().__init__()
        last = nn.Linear(feature_size, dim)
        nn.init.xavier_uniform_(last.weight)  # as released: the last layer alone
        self.layers = nn.Sequential(nn.Linear(feature_size, feature_size), nn.ReLU(), last)

    def forward(self, features: Tensor) -> Tensor:
        """Rows of Euclidean norm 1, in the precision of the parameters also under autocast."""
        with torch.autocast(features.device.type, enabled=False):
            return F.normalize(self.layers(features.to(next(self.layers.parameters()).dtype)), dim=1)


class Decoder(nn.Module):
    """Coordinates from the features of every frame, (N, T, feature_size) -> (N, T, output_size).

    Linear, batch norm over N*T, ReLU, linear; a two-layer forward GRU; linear. Source: JHang2020/PCM3 (width 512).
    """

    def __init__(self, feature_size: int, width: int, output_size: int) -> None:
        super().__init__()
        self.reduce = nn.Sequential(
            nn.Linear(feature_size, width), GlobalBatchNorm(width), nn.ReLU(), nn.Linear(width, width)
        )
        self.gru = nn.GRU(width, width, num_layers=2)
        self.coordinates = nn.Linear(width, output_size)

    def forward(self, *passes_NTF: Tensor) -> tuple[Tensor, ...]:
        """The reconstruction of every frame, for each pass.

        Passes go through the recurrence together; each is normalised, and recorded, by itself and in its turn.
        """
        linear, norm, *rest = self.reduce
        reduced = torch.cat([norm(linear(features)) for features in passes_NTF])
        for layer in rest:
            reduced = layer(reduced)
        decoded: Tensor = self.coordinates(run_gru(reduced.transpose(0, 1), self.gru))
        return decoded.transpose(0, 1).chunk(len(passes_NTF))


def _prompt(width: int) -> nn.Parameter:
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, width)).flatten())


class Prompts(nn.Module):
    """Learnt vectors that tell the passes apart; used in pre-training alone.

    Attributes:
        base, masked, predicted, mix: (V*C*M,), added to every frame of the input.
        contrast, prediction: (2*width,), added to `width` neighbouring features of each half, at a drawn start.
    """

    def __init__(self, input_size: int, width: int) -> None:
        super().__init__()
        self.base, self.masked, self.predicted, self.mix = (_prompt(input_size) for _ in range(4))
        self.contrast, self.prediction = _prompt(2 * width), _prompt(2 * width)

    def input(self, name: str) -> Tensor:
        """The input prompt of a kind of view."""
        prompt: Tensor = getattr(self, name)
        return prompt

    @staticmethod
    def add(features: Tensor, prompt: Tensor, start: int) -> Tensor:
        """Add one half of a feature prompt to each half of the features (..., 2*hidden), from entry `start` on."""
        rest = features.shape[-1] // 2 - prompt.shape[0] // 2 - start
        assert min(start, rest) >= 0, "padding by a negative width would cut the prompt"
        return features + torch.cat([F.pad(half, (start, rest)) for half in prompt.chunk(2)])
