"""Linear evaluation: a linear layer trained on the features of a frozen encoder."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from models.encoders.encoder import Encoder
from models.evaluation.features import Features, Layer, encode, frozen
from models.evaluation.heads import Batches, Count, Curve, HeadConfig, LinearHead, fit
from models.evaluation.metrics import accuracies, check_labels
from models.training.schedule import MAX_EPOCHS, Rate
from shards.batch import EpochViews
from shards.errors import ConfigError, SkelstreamError


class LinearConfig(HeadConfig):
    """How the layer is trained; the defaults are those of JHang2020/PCM3.

    maoyunyao/CMD: `batch_size=64, epochs=80, milestones=(50, 70)`.

    Attributes:
        crop: of the training views. "random": they are drawn and encoded anew in every epoch. "centre": they never
            change, so they are encoded once and kept; about `epochs` times faster.
        batch_norm: features are normalised before the layer, by the statistics of the batch in training and by the
            running ones when they are scored (maoyunyao/MAMP).
        seed: of the layer's initial weights, and with "centre" of the sample order.
    """

    epochs: Annotated[int, Field(ge=1, le=MAX_EPOCHS)] = 100
    batch_size: Count = 1024
    lr: Rate = 0.1
    milestones: tuple[Annotated[int, Field(ge=0)], ...] = (20, 50, 80)
    batch_norm: bool = False


@dataclass(frozen=True)
class EncodedViews:
    """A training split whose views are drawn and encoded anew in every epoch.

    Attributes:
        encoder: frozen, on the device of the evaluation; left exactly as it was.
        views: random crops, in batches of `LinearConfig.batch_size`.
        layer, projector: as of `features.layer_reader`.
    """

    encoder: Encoder
    views: EpochViews
    layer: Layer = "last"
    projector: nn.Module | None = None


@dataclass(frozen=True)
class LinearResult(Curve):
    """Accuracies on the test split.

    Attributes:
        per_class: after the last epoch; None for a class without test samples.
        crop: how the training views were cropped: "random" (encoded in every epoch) or "centre" (encoded once).
        logits: (N, C) float32 on the CPU, of the test samples in their order, after the last epoch.
        head: the layer after the last epoch, on the CPU in eval mode; see `score`.
    """

    per_class: tuple[float | None, ...]
    crop: str
    logits: Tensor = field(compare=False, repr=False)
    head: LinearHead = field(compare=False, repr=False)


def linear_evaluation(
    train: Features | EncodedViews,
    test: Features,
    config: LinearConfig,
    num_classes: int,
    *,
    validation: Features | None = None,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> LinearResult:
    """Train a linear layer on frozen features.

    Args:
        train: for `config.crop` "centre" the features of the split, for "random" what makes them anew in every epoch.
        test: features of the test split, centre crop.
        config: schedule.
        num_classes: outputs of the layer.
        validation: features of samples that are in neither split, centre crop; they choose an epoch without a look at
            the test split.
        device: where it is computed; features are moved there.
        progress: show a bar.

    Raises:
        ConfigError: a split is empty, a label is out of range, widths differ, or `train` is not what the crop needs.
        DivergenceError: the loss is not finite.
        SkelstreamError: NaN or infinity among the features, or among the logits, since the rate is too high.
    """
    _check_crop(train, config)
    scored = {"test split": test.to(device)}
    if validation is not None:
        scored["validation split"] = validation.to(device)
    width = test.values.shape[1]
    for where, features in scored.items():
        _check(features, width, num_classes, where)
    batches, steps = _batches(train, config, width, num_classes, device)
    head = LinearHead(width, num_classes, seed=config.seed, std=config.init_std, batch_norm=config.batch_norm).to(
        device
    )

    def accuracy(epoch: int, where: str) -> float:
        features = scored[where]
        return _accuracy(score(head, features.values), features.label, epoch)

    curve = fit(
        head,
        batches,
        steps,
        config,
        lambda epoch: (
            accuracy(epoch, "test split"),
            None if validation is None else accuracy(epoch, "validation split"),
        ),
        what=f"linear, {config.crop} crop",
        least=2 if config.batch_norm else 1,
        progress=progress,
    )
    head.requires_grad_(requires_grad=False)
    logits = score(head, scored["test split"].values).cpu()
    _, per_class = accuracies(logits.argmax(dim=1), test.label.cpu(), num_classes)
    return LinearResult(**vars(curve), per_class=per_class, crop=config.crop, logits=logits, head=head.cpu())


@torch.no_grad()
def score(head: LinearHead, values: Tensor) -> Tensor:
    """The logits (N, C) of features (N, D), on the head's device; in which mode the head is, is the caller's."""
    logits: Tensor = head(values.to(head.linear.weight.device))
    return logits


def _check_crop(train: Features | EncodedViews, config: LinearConfig) -> None:
    kept = isinstance(train, Features)
    if kept != (config.crop == "centre"):
        found = "features that were extracted once" if kept else "views that are encoded in every epoch"
        raise ConfigError(f"found {found}, expected crop {'centre' if kept else 'random'!r}, not {config.crop!r}")


def _check(features: Features, width: int, num_classes: int, where: str) -> None:
    check_labels(features.label, num_classes, where)
    _check_width(features.values, width, where)


def _check_width(values: Tensor, width: int, where: str) -> None:
    if values.shape[1] != width:
        raise ConfigError(f"{where}: found features {values.shape[1]} wide, expected {width} as in the test split")


def _batches(
    train: Features | EncodedViews, config: LinearConfig, width: int, num_classes: int, device: torch.device | str
) -> tuple[Batches, int]:
    """Epoch -> its batches of features (N, D) and labels (N,); and how many there are."""
    if isinstance(train, EncodedViews):
        return lambda epoch: _encoded_batches(train, epoch, width, num_classes, device), len(train.views)
    _check(train, width, num_classes, "training split")
    features = train.to(device)
    # rows are gathered into one piece of memory: 0.3 ms for 1024 of 2048 numbers, with fresh pages each time 1.9 (CPU)
    rows = features.values.new_empty(min(config.batch_size, len(features)), width)
    steps = -(-len(features) // config.batch_size)
    return lambda epoch: _kept_batches(features, config, epoch, rows), steps


def _encoded_batches(
    train: EncodedViews, epoch: int, width: int, num_classes: int, device: torch.device | str
) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in train.views.epoch(epoch):
        check_labels(batch.label, num_classes, "training split")
        with frozen(train.encoder):
            values = encode(train.encoder, batch, device, train.layer, train.projector)
        _check_width(values, width, "training split")
        # a copy made outside inference mode may take part in a backward pass
        yield values.clone(), batch.label.to(device)


def _kept_batches(
    features: Features, config: LinearConfig, epoch: int, rows: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed((config.seed << 32) + epoch)
    order = torch.randperm(len(features), generator=generator).to(features.label.device)
    label = features.label[order]
    for first in range(0, len(order), config.batch_size):
        chosen = order[first : first + config.batch_size]
        values = torch.index_select(features.values, 0, chosen, out=rows[: len(chosen)])
        yield values, label[first : first + config.batch_size]


def _accuracy(logits: Tensor, label: Tensor, epoch: int) -> float:
    if not logits.isfinite().all():
        raise SkelstreamError(
            f"found NaN or infinity in the logits after epoch {epoch}, expected finite numbers: lower the rate"
        )
    return int((logits.argmax(dim=1) == label).sum()) / len(label)
