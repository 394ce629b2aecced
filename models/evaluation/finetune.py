"""Fine-tuning: encoder and linear layer trained together (setting of maoyunyao/CMD).

Semi-supervised training is this on a subset of the training split (`models.evaluation.subsets`), and transfer is this
with the encoder of another data set.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from models.evaluation.features import Features, encode, extract_features, frozen
from models.evaluation.linear import linear_head
from models.evaluation.metrics import accuracies, check_labels
from models.training.divergence import DivergenceError
from models.training.precision import products
from models.training.schedule import Gamma, Rate, check_decay, stepped_rate
from shards.batch import EpochViews, Views
from shards.errors import ConfigError
from shards.frozen import Frozen
from shards.progress import Progress

Count = Annotated[int, Field(ge=1)]
Split = Callable[[], Iterator[Views]]


class FinetuneConfig(Frozen):
    """How encoder and layer are trained; the defaults are the published ones (maoyunyao/CMD, semi-supervised script).

    Attributes:
        epochs: passes over the training split.
        batch_size: samples in a step.
        lr: learning rate, of encoder and layer alike.
        momentum: of SGD.
        weight_decay: of SGD.
        milestones: epochs (from 0) from which on the rate is multiplied by `gamma` once more.
        gamma: see `milestones`.
        score_every: epochs between two scores; the last epoch is scored in any case. The published best epoch is one
            of every fifth.
        seed: of the layer's initial weights.
    """

    epochs: Count = 80
    batch_size: Count = 64
    lr: Rate = 0.01
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    milestones: tuple[Annotated[int, Field(ge=0)], ...] = (50, 70)
    gamma: Gamma = 0.1
    score_every: Count = 5
    seed: int = Field(0, ge=0, lt=1 << 31)

    _decays = model_validator(mode="after")(check_decay)


@dataclass(frozen=True)
class FinetuneResult:
    """Accuracies on the test split.

    Attributes:
        last: after the last epoch.
        best: of all scored epochs; chosen on the test split, as published numbers are, and so too high.
        best_epoch: the first epoch (from 0) that reached it.
        chosen: at `chosen_epoch`: what may be reported as chosen; None without a validation split.
        chosen_epoch: the first epoch with the highest accuracy on the validation split.
        curve: after each of `scored_epochs`.
        validation_curve: on the validation split, at the same epochs.
        scored_epochs: from 0, ascending.
        per_class: after the last epoch; None for a class without test samples.
        logits: class scores (N, C) after the last epoch, on the CPU; for `models.evaluation.fusion`.
    """

    last: float
    best: float
    best_epoch: int
    chosen: float | None
    chosen_epoch: int | None
    curve: tuple[float, ...]
    validation_curve: tuple[float, ...] | None
    scored_epochs: tuple[int, ...]
    per_class: tuple[float | None, ...]
    logits: Features = field(repr=False, compare=False)


def finetune(
    encoder: nn.Module,
    train: EpochViews,
    test: Split,
    config: FinetuneConfig,
    num_classes: int,
    *,
    validation: Split | None = None,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> FinetuneResult:
    """Train a copy of the encoder and a linear layer on its last time step; the encoder itself is left as it was.

    All parameters of the copy learn, also those that ask for no gradient. Its norms take the statistics of the batch
    while it learns, and the running ones while it is scored. Products are float32 on every device. Equal inputs give
    equal results, on a CPU to the bit.

    Args:
        encoder: (N, T, V*C*M) -> (N, T, D), without randomness in its forward pass.
        train: training split in batches of `config.batch_size`, cropped at random.
        test: gives the test split, centre crop.
        config: schedule.
        num_classes: outputs of the layer.
        validation: gives the validation split, centre crop.
        device: where it is computed.
        progress: show a bar.

    Raises:
        ConfigError: a split is empty, or a label is out of range.
        DivergenceError: the loss is not finite; found at the end of its epoch.
        SkelstreamError: NaN or infinity among the class scores.
    """
    tuned = copy.deepcopy(encoder).to(device).requires_grad_(True)
    head = linear_head(_width(tuned, test(), device), num_classes, config.seed).to(device)
    model = _Classifier(tuned, head)
    optimizer = torch.optim.SGD(
        model.parameters(), config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    epochs, curve, validation_curve = [], [], []
    bar = Progress("fine-tuning", config.epochs, "epoch", shown=progress)
    # unasked, cuDNN rounds the inputs of a GRU's products to TF32
    with products("float32", torch.device(device)), bar:
        for epoch in range(config.epochs):
            rate = stepped_rate(config.lr, config.gamma, config.milestones, epoch)
            _train_epoch(model, optimizer, rate, train, epoch, num_classes, device)
            if (epoch + 1) % config.score_every == 0 or epoch + 1 == config.epochs:
                accuracy, per_class, logits = _score(model, test, "test split", num_classes, device)
                epochs.append(epoch)
                curve.append(accuracy)
                if validation is not None:
                    validation_curve.append(_score(model, validation, "validation split", num_classes, device)[0])
                bar.remark(f"accuracy {accuracy:.4f}")
            bar.advance()
    best = curve.index(max(curve))
    chosen = validation_curve.index(max(validation_curve)) if validation_curve else None
    return FinetuneResult(
        last=curve[-1],
        best=curve[best],
        best_epoch=epochs[best],
        chosen=None if chosen is None else curve[chosen],
        chosen_epoch=None if chosen is None else epochs[chosen],
        curve=tuple(curve),
        validation_curve=None if chosen is None else tuple(validation_curve),
        scored_epochs=tuple(epochs),
        per_class=per_class,
        logits=logits.to("cpu"),
    )


class _Classifier(nn.Module):
    """Class scores from the last time step, (N, T, V*C*M) -> (N, 1, C): an encoder of one step, for its scoring."""

    def __init__(self, encoder: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(x)[:, -1:])
        return logits


def _width(encoder: nn.Module, views: Iterator[Views], device: torch.device | str) -> int:
    """D, from the first batch."""
    first = next(views, None)
    if first is None:
        raise ConfigError("test split: found no samples, expected at least one")
    with frozen(encoder):
        return encode(encoder, first, device).shape[1]


def _train_epoch(
    model: _Classifier,
    optimizer: torch.optim.Optimizer,
    rate: float,
    train: EpochViews,
    epoch: int,
    num_classes: int,
    device: torch.device | str,
) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    model.train()
    losses = []
    for batch in train.epoch(epoch):
        # once: the samples are the same in every epoch, and to read labels from a GPU is to wait for it
        if epoch == 0:
            check_labels(batch.label, num_classes, "training split")
        optimizer.zero_grad(set_to_none=True)
        logits = model(batch.views["x"].to(device))[:, -1]
        loss = F.cross_entropy(logits, batch.label.to(device))
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        losses.append(loss.detach())
    if not losses:
        raise ConfigError(f"epoch {epoch}: found no training batch for the fine-tuning, expected at least one")
    values = torch.stack(losses).cpu()
    bad = (~values.isfinite()).nonzero().flatten().tolist()
    if bad:
        raise DivergenceError(
            f"fine-tuning, epoch {epoch}, step {bad[0]} (from 0): found the loss {float(values[bad[0]])},"
            " expected a finite number"
        )


def _score(
    model: _Classifier, views: Split, name: str, num_classes: int, device: torch.device | str
) -> tuple[float, tuple[float | None, ...], Features]:
    """Accuracy, that of each class, and the class scores."""
    logits = extract_features(model, views(), device=device)
    check_labels(logits.label, num_classes, name)
    return *accuracies(logits.values.argmax(dim=1), logits.label, num_classes), logits
