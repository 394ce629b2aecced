"""Linear evaluation: a linear layer trained on the features of a frozen encoder (setting of JHang2020/PCM3)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from models.evaluation.features import Features, Layer, encode, frozen
from models.evaluation.metrics import accuracies, check_labels
from models.training.schedule import Gamma, Rate, check_decay, stepped_rate
from shards.batch import EpochViews
from shards.errors import ConfigError, SkelstreamError
from shards.frozen import Frozen
from shards.progress import Progress

Count = Annotated[int, Field(ge=1)]


class LinearConfig(Frozen):
    """How the layer is trained; the defaults are those of JHang2020/PCM3.

    maoyunyao/CMD: `batch_size=64, epochs=80, milestones=(50, 70)`.

    Attributes:
        epochs: passes over the training split.
        batch_size: samples in a step.
        lr: learning rate.
        momentum: of SGD.
        weight_decay: of SGD.
        milestones: epochs (from 0) from which on the rate is multiplied by `gamma` once more.
        gamma: see `milestones`.
        crop: of the training views. "random": they are drawn and encoded anew in every epoch, as published. "centre":
            they never change, so they are encoded once and kept; about `epochs` times faster, and another setting.
        seed: of the layer's initial weights, and with "centre" of the sample order.
    """

    epochs: Count = 100
    batch_size: Count = 1024
    lr: Rate = 0.1
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    milestones: tuple[Annotated[int, Field(ge=0)], ...] = (20, 50, 80)
    gamma: Gamma = 0.1
    crop: Literal["random", "centre"] = "random"
    seed: int = Field(0, ge=0, lt=1 << 31)

    _decays = model_validator(mode="after")(check_decay)


@dataclass(frozen=True)
class EncodedViews:
    """A training split whose views are drawn and encoded anew in every epoch.

    Attributes:
        encoder: (N, T, V*C*M) -> (N, T, D), frozen, on the device of the evaluation; left exactly as it was.
        views: random crops, in batches of `LinearConfig.batch_size`.
        layer, projector: as of `features.layer_reader`.
    """

    encoder: nn.Module
    views: EpochViews
    layer: Layer = "last"
    projector: nn.Module | None = None


@dataclass(frozen=True)
class LinearResult:
    """Accuracies on the test split.

    Attributes:
        last: after the last epoch.
        best: of all epochs; chosen on the test split, as published numbers are, and so too high.
        best_epoch: the first epoch (from 0) that reached it.
        curve: after each epoch.
        per_class: after the last epoch; None for a class without test samples.
        crop: how the training views were cropped: "random" (encoded in every epoch) or "centre" (encoded once).
        chosen, chosen_epoch: after the first epoch that is best on the validation split; None without one.
        validation_curve: accuracy on the validation split after each epoch; None without one.
        logits: (N, C) float32 on the CPU, of the test samples in their order, after the last epoch.
        head: the layer after the last epoch, on the CPU; see `score`.
    """

    last: float
    best: float
    best_epoch: int
    curve: tuple[float, ...]
    per_class: tuple[float | None, ...]
    crop: str
    chosen: float | None
    chosen_epoch: int | None
    validation_curve: tuple[float, ...] | None
    logits: Tensor = field(compare=False, repr=False)
    head: nn.Linear = field(compare=False, repr=False)


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
        SkelstreamError: NaN or infinity among the features, or among the logits, since the rate is too high.
    """
    _check_crop(train, config)
    scored = {"test split": test.to(device)}
    if validation is not None:
        scored["validation split"] = validation.to(device)
    width = test.values.shape[1]
    for where, features in scored.items():
        _check(features, width, num_classes, where)
    batches = _batches(train, config, width, num_classes, device)
    head = linear_head(width, num_classes, config.seed).to(device)
    optimizer = torch.optim.SGD(
        head.parameters(), config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    curves: dict[str, list[float]] = {where: [] for where in scored}
    with Progress(f"linear, {config.crop} crop", config.epochs, "epoch", shown=progress) as bar:
        for epoch in range(config.epochs):
            for group in optimizer.param_groups:
                group["lr"] = stepped_rate(config.lr, config.gamma, config.milestones, epoch)
            _train_epoch(head, optimizer, batches(epoch))
            for where, features in scored.items():
                curves[where].append(_accuracy(score(head, features.values), features.label, epoch))
            bar.remark(f"accuracy {curves['test split'][-1]:.4f}")
            bar.advance()
    head.requires_grad_(requires_grad=False)
    logits = score(head, scored["test split"].values).cpu()
    _, per_class = accuracies(logits.argmax(dim=1), test.label.cpu(), num_classes)
    return _result(curves["test split"], curves.get("validation split"), per_class, config.crop, logits, head.cpu())


def linear_head(features: int, num_classes: int, seed: int) -> nn.Linear:
    """A linear layer as JHang2020/PCM3 begins with: weights from N(0, 0.01^2), biases 0; equal on every device.

    Args:
        features: its inputs.
        num_classes: its outputs.
        seed: of the weights.
    """
    head = nn.Linear(features, num_classes, device="meta").to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    nn.init.normal_(head.weight, std=0.01, generator=generator)
    nn.init.zeros_(head.bias)
    return head


@torch.no_grad()
def score(head: nn.Linear, values: Tensor) -> Tensor:
    """The logits (N, C) of features (N, D), on the layer's device."""
    logits: Tensor = head(values.to(head.weight.device))
    return logits


Batches = Callable[[int], Iterator[tuple[Tensor, Tensor]]]


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
) -> Batches:
    """Epoch -> its batches of features (N, D) and labels (N,)."""
    if isinstance(train, EncodedViews):
        return lambda epoch: _encoded_batches(train, epoch, width, num_classes, device)
    _check(train, width, num_classes, "training split")
    features = train.to(device)
    # rows are gathered into one piece of memory: 0.3 ms for 1024 of 2048 numbers, with fresh pages each time 1.9 (CPU)
    rows = features.values.new_empty(min(config.batch_size, len(features)), width)
    return lambda epoch: _kept_batches(features, config, epoch, rows)


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


def _train_epoch(head: nn.Linear, optimizer: torch.optim.Optimizer, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
    steps = 0
    for values, label in batches:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(head(values), label).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        steps += 1
    if steps == 0:
        raise ConfigError("found no training batch for the linear evaluation, expected at least one")


def _accuracy(logits: Tensor, label: Tensor, epoch: int) -> float:
    if not logits.isfinite().all():
        raise SkelstreamError(
            f"found NaN or infinity in the logits after epoch {epoch}, expected finite numbers: lower the rate"
        )
    return int((logits.argmax(dim=1) == label).sum()) / len(label)


def _result(
    curve: list[float],
    validation: list[float] | None,
    per_class: tuple[float | None, ...],
    crop: str,
    logits: Tensor,
    head: nn.Linear,
) -> LinearResult:
    best_epoch = curve.index(max(curve))
    chosen_epoch = None if validation is None else validation.index(max(validation))
    return LinearResult(
        last=curve[-1],
        best=curve[best_epoch],
        best_epoch=best_epoch,
        curve=tuple(curve),
        per_class=per_class,
        crop=crop,
        chosen=None if chosen_epoch is None else curve[chosen_epoch],
        chosen_epoch=chosen_epoch,
        validation_curve=None if validation is None else tuple(validation),
        logits=logits,
        head=head,
    )
