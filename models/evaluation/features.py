"""Features of a frozen encoder: one vector a sample, read from a named layer."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn

from models.encoders.encoder import Encoded, Encoder
from models.exchange.export import check_tensors
from models.heads import Projector
from models.training.precision import products
from shards.batch import Views
from shards.errors import ConfigError, SkelstreamError
from shards.progress import Progress

Layer = Annotated[str, Field(pattern=r"^(last|mean|projector|[a-z]+[1-9][0-9]*)$")]
"""Name of what a feature is read from, see `layer_reader`; the published one is "last"."""

# samples that an error names
_NAMED = 10


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

    def to(self, device: torch.device | str) -> "Features":
        """The same on another device."""
        return Features(self.values.to(device), self.label.to(device), self.sample_id.to(device))

    def only(self, sample_ids: npt.NDArray[np.int64]) -> "Features":
        """Those of some samples, in the order they have here.

        Raises:
            ConfigError: there are no features of one of them.
        """
        wanted = torch.from_numpy(sample_ids).to(self.sample_id.device)
        chosen = torch.isin(self.sample_id, wanted)
        if int(chosen.sum()) != len(wanted):
            raise ConfigError(f"found features of {int(chosen.sum())} samples, expected the {len(wanted)} asked for")
        return Features(self.values[chosen], self.label[chosen], self.sample_id[chosen])


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


def layer_names(encoder: Encoder, projector: nn.Module | None = None) -> tuple[str, ...]:
    """The layers that a feature can be read from."""
    mean = () if encoder.stride is None else ("mean",)
    return ("last", *mean, *encoder.layer_names, *(("projector",) if projector is not None else ()))


def layer_reader(
    encoder: Encoder, layer: Layer = "last", projector: nn.Module | None = None
) -> Callable[[Tensor], Tensor]:
    """A function from a view (N, T, V*C*M) to features (N, D) float32; in which mode the encoder is, is the caller's.

    Products are float32 on every device.

    Args:
        encoder: of the view.
        layer: "last", its feature, before any projector (of a GRU the output at the last frame, as in maoyunyao/CMD
            and JHang2020/PCM3); "mean", the mean of its frames over time; one of `Encoder.layer_names`: an inner
            layer, for which those above are not run; "projector": the projector's output for "last", on the unit
            sphere, without the feature prompt that pre-training adds before it.
        projector: (N, D) -> (N, P), on the encoder's device; see `projector_from_state`.

    Raises:
        ConfigError: the encoder has no such layer, or (when called) takes frames of another width than the view's.
    """
    names = layer_names(encoder, projector)
    if layer not in names:
        hint = "; no projector came with this encoder" if layer == "projector" else ""
        raise ConfigError(f"found layer {layer!r}, expected one of {', '.join(names)}{hint}")

    def read(x_NTD: Tensor) -> Tensor:
        # unasked, cuDNN rounds the inputs of a GRU's products to TF32
        with products("float32", x_NTD.device):
            return values_of(x_NTD)

    def values_of(x_NTD: Tensor) -> Tensor:
        values: Tensor
        if layer in encoder.layer_names:
            return encoder.layer(x_NTD, layer).float()
        encoded: Encoded = encoder(x_NTD)
        if layer == "mean":
            assert encoded.frames is not None
            values = encoded.frames.float().mean(dim=1)
        else:
            values = encoded.feature if projector is None or layer == "last" else projector(encoded.feature)
        return values.float()

    return read


def projector_from_state(state: Mapping[str, Tensor], stream: str) -> Projector | None:
    """The online projector of an objective's state, on the CPU in eval mode; None where the state holds none.

    Args:
        state: `Checkpoint.objective`: entries "projector.layers.*" or "projectors.<stream>.layers.*", as of
            `models.heads.Projector`. Those that `skelstream import-checkpoint` makes of a released file without a
            projector lack them, as do methods without one.
        stream: of the projector, where there are several.

    Raises:
        CheckpointError: an entry is missing, unexpected, or of another shape or type.
    """
    prefixes = ("projector.", f"projectors.{stream}.")
    prefix = next((each for each in prefixes if f"{each}layers.0.weight" in state), prefixes[0])
    # what another method calls a projector has other parts
    entries = {name: tensor for name, tensor in state.items() if name.startswith(f"{prefix}layers.")}
    if not entries:
        return None
    last = entries.get(f"{prefix}layers.2.weight")
    dim, features = last.shape if last is not None and last.dim() == 2 else (1, 1)
    with torch.device("meta"):
        projector = Projector(features, dim)
    shapes = {prefix + name: tuple(tensor.shape) for name, tensor in projector.state_dict().items()}
    check_tensors(entries, shapes, "checkpoint")
    # copied, because tensors of a checkpoint are mapped from its file
    own = {name.removeprefix(prefix): tensor.clone() for name, tensor in entries.items()}
    projector.load_state_dict(own, assign=True)
    return projector.eval()


def encode(
    encoder: Encoder,
    views: Views,
    device: torch.device | str,
    layer: Layer = "last",
    projector: nn.Module | None = None,
) -> Tensor:
    """(N, D) float32: the features of the view "x"; `layer` and `projector` as of `layer_reader`.

    Raises:
        ConfigError: as `layer_reader`.
        SkelstreamError: NaN or infinity among the features.
    """
    values = layer_reader(encoder, layer, projector)(views.views["x"].to(device))
    _check_finite(values, views.sample_id)
    return values


def extract_features(
    encoder: Encoder,
    views: Iterator[Views],
    *,
    device: torch.device | str = "cpu",
    layer: Layer = "last",
    projector: nn.Module | None = None,
    progress: bool = False,
    total: int | None = None,
) -> Features:
    """Encode the view "x" of every sample; the encoder is left exactly as it was.

    Args:
        encoder: on `device`.
        views: the split, batch by batch.
        device: where the features are computed and stay.
        layer, projector: as of `layer_reader`.
        progress: show a bar.
        total: batches, for the bar.

    Raises:
        ConfigError: there are no samples; and as `layer_reader`.
        SkelstreamError: NaN or infinity among the features.
    """
    read = layer_reader(encoder, layer, projector)
    shown = Progress("features", total, "batch", shown=progress, passing=True).over(views)
    with frozen(encoder):
        # copied, because a view of the last frame holds all frames of its batch in memory: 21 GB in NTU 60
        features = _collect(shown, lambda batch: read(batch.views["x"].to(device)).clone())
    # once at the end: after each batch it would have the host wait for the device
    _check_finite(features.values, features.sample_id)
    return features


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


def _check_finite(values: Tensor, sample_id: Tensor) -> None:
    bad = ~values.isfinite().all(dim=1)
    if bad.any():
        samples = sample_id.to(bad.device)[bad].tolist()
        more = f" and {len(samples) - _NAMED} more" if len(samples) > _NAMED else ""
        raise SkelstreamError(
            f"found NaN or infinity in the features of samples {samples[:_NAMED]}{more}, expected finite numbers"
        )
