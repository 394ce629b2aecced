"""Linear evaluation: a linear layer trained on the features of a frozen encoder (setting of JHang2020/PCM3)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from tqdm import tqdm

from models.evaluation.features import Features, encode, extract_features, frozen
from models.evaluation.results import accuracies, check_labels
from shards.batch import EpochViews, Views
from shards.errors import ConfigError

Count = Annotated[int, Field(ge=1)]


class LinearConfig(BaseModel):
    """How the layer is trained; the defaults are the published ones.

    Attributes:
        epochs: passes over the training split.
        batch_size: samples in a step.
        lr: learning rate.
        momentum: of SGD.
        weight_decay: of SGD.
        milestones: epochs (from 0) from which on the rate is multiplied by `gamma` once more.
        gamma: see `milestones`.
        crop: of the training views. "random": they are drawn and encoded anew in every epoch, as published. "centre":
            they never change, so they are encoded once; about `epochs` times faster, and another setting.
        seed: of the layer's initial weights, and with "centre" of the sample order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: Count = 100
    batch_size: Count = 1024
    lr: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    milestones: tuple[Annotated[int, Field(ge=0)], ...] = (20, 50, 80)
    gamma: float = Field(0.1, gt=0)
    crop: Literal["random", "centre"] = "random"
    seed: int = Field(0, ge=0)


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
    """

    last: float
    best: float
    best_epoch: int
    curve: tuple[float, ...]
    per_class: tuple[float | None, ...]
    crop: str


def linear_evaluation(
    encoder: nn.Module,
    train: EpochViews,
    test: Callable[[], Iterator[Views]],
    config: LinearConfig,
    num_classes: int,
    *,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> LinearResult:
    """Train a linear layer on the frozen encoder's features of the view "x"; the encoder is left exactly as it was.

    Args:
        encoder: (N, T, V*C*M) -> (N, T, D), on `device`.
        train: training split in batches of `config.batch_size`, cropped as `config.crop` says.
        test: gives the test split, centre crop.
        config: schedule.
        num_classes: outputs of the layer.
        device: where it is computed.
        progress: show a bar.

    Raises:
        ConfigError: a split is empty, or a label is out of range.
        SkelstreamError: NaN or infinity among the features.
    """
    scored = extract_features(encoder, test(), device=device, progress=progress)
    check_labels(scored.label, num_classes, "test split")
    batches = _batches(encoder, train, config, device, progress)
    head = _head(scored.values.shape[1], num_classes, config.seed).to(device)
    optimizer = torch.optim.SGD(
        head.parameters(), config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    curve: list[float] = []
    per_class: tuple[float | None, ...] = ()
    with tqdm(total=config.epochs, desc=f"linear, {config.crop} crop", unit="epoch", disable=not progress) as bar:
        for epoch in range(config.epochs):
            rate = config.lr * config.gamma ** sum(epoch >= milestone for milestone in config.milestones)
            _train_epoch(head, optimizer, rate, batches(epoch), num_classes)
            accuracy, per_class = _score(head, scored, num_classes)
            curve.append(accuracy)
            bar.set_postfix_str(f"accuracy {accuracy:.4f}", refresh=False)
            bar.update()
    best = max(curve)
    return LinearResult(curve[-1], best, curve.index(best), tuple(curve), per_class, config.crop)


Batches = Callable[[int], Iterator[tuple[Tensor, Tensor]]]


def _batches(
    encoder: nn.Module, train: EpochViews, config: LinearConfig, device: torch.device | str, progress: bool
) -> Batches:
    """Epoch -> its batches of features (N, D) and labels (N,)."""
    if config.crop == "random":
        return lambda epoch: _encoded_batches(encoder, train.epoch(epoch), device)
    features = extract_features(encoder, train.epoch(0), device=device, progress=progress, total=len(train))
    return lambda epoch: _kept_batches(features, config, epoch)


def _encoded_batches(
    encoder: nn.Module, views: Iterator[Views], device: torch.device | str
) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in views:
        with frozen(encoder):
            values = encode(encoder, batch, device)
        # a copy made outside inference mode may take part in a backward pass
        yield values.clone(), batch.label.to(device)


def _kept_batches(features: Features, config: LinearConfig, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed((config.seed << 32) + epoch)
    order = torch.randperm(len(features), generator=generator).to(features.label.device)
    for first in range(0, len(order), config.batch_size):
        chosen = order[first : first + config.batch_size]
        yield features.values[chosen], features.label[chosen]


def _head(features: int, num_classes: int, seed: int) -> nn.Linear:
    """Weights from N(0, 0.01^2) and biases 0, as published; equal on every device."""
    head = nn.Linear(features, num_classes, device="meta").to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    nn.init.normal_(head.weight, std=0.01, generator=generator)
    nn.init.zeros_(head.bias)
    return head


def _train_epoch(
    head: nn.Linear,
    optimizer: torch.optim.Optimizer,
    rate: float,
    batches: Iterator[tuple[Tensor, Tensor]],
    num_classes: int,
) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    steps = 0
    for values, label in batches:
        check_labels(label, num_classes, "training split")
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(head(values), label).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        steps += 1
    if steps == 0:
        raise ConfigError("found no training batch for the linear evaluation, expected at least one")


@torch.no_grad()
def _score(head: nn.Linear, features: Features, num_classes: int) -> tuple[float, tuple[float | None, ...]]:
    return accuracies(head(features.values).argmax(dim=1), features.label, num_classes)
