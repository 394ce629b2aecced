"""Features of a frozen encoder."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from shards.batch import Views
from shards.errors import ConfigError, SkelstreamError


@dataclass(frozen=True)
class Features:
    """What an encoder makes of a split.

    Attributes:
        values: (N, D) float32.
        label: (N,) int64.
        sample_id: (N,) int64.
    """

    values: Tensor
    label: Tensor
    sample_id: Tensor

    def __len__(self) -> int:
        return int(self.label.shape[0])


@contextmanager
def frozen(encoder: nn.Module) -> Iterator[nn.Module]:
    """Put every part of an encoder in eval mode, and record no gradients; afterwards each part has its mode back.

    Switching off `requires_grad` alone would let BatchNorm go on adapting its statistics.
    """
    modes = {module: module.training for module in encoder.modules()}
    encoder.eval()
    try:
        with torch.inference_mode():
            yield encoder
    finally:
        for module, mode in modes.items():
            module.training = mode


def encode(encoder: nn.Module, views: Views, device: torch.device | str) -> Tensor:
    """(N, D) float32: the encoder's output (N, T, D) for the view "x" at the last time step, before any projector.

    Raises:
        SkelstreamError: NaN or infinity among the features.
    """
    values: Tensor = encoder(views.views["x"].to(device))[:, -1].float()
    bad = ~values.isfinite().all(dim=1)
    if bad.any():
        samples = views.sample_id.to(bad.device)[bad].tolist()
        raise SkelstreamError(f"found NaN or infinity in the features of samples {samples}, expected finite numbers")
    return values


def extract_features(
    encoder: nn.Module,
    views: Iterator[Views],
    *,
    device: torch.device | str = "cpu",
    progress: bool = False,
    total: int | None = None,
) -> Features:
    """Encode the view "x" of every sample; the encoder is left exactly as it was.

    Args:
        encoder: (N, T, V*C*M) -> (N, T, D), on `device`.
        views: the split, batch by batch.
        device: where the features are computed and stay.
        progress: show a bar.
        total: batches, for the bar.

    Raises:
        ConfigError: there are no samples.
        SkelstreamError: NaN or infinity among the features.
    """
    bar = tqdm(views, total=total, desc="features", unit="batch", disable=not progress, leave=False)
    with frozen(encoder):
        return _collect(iter(bar), lambda batch: encode(encoder, batch, device))


def coordinate_features(views: Iterator[Views]) -> Features:
    """The view "x" itself, flattened to (N, T*V*C*M): what an encoder has to beat.

    Raises:
        ConfigError: there are no samples.
    """
    return _collect(views, lambda batch: batch.views["x"].flatten(1).float())


def _collect(views: Iterator[Views], values_of: Callable[[Views], Tensor]) -> Features:
    parts = []
    for batch in views:
        values = values_of(batch)
        parts.append((values, batch.label.to(values.device), batch.sample_id.to(values.device)))
    if not parts:
        raise ConfigError("found no samples to evaluate on, expected at least one")
    # outside inference mode, so that a head can be trained on them
    with torch.inference_mode(mode=False):
        values, label, sample_id = (torch.cat(column) for column in zip(*parts, strict=True))
        return Features(values, label, sample_id)
