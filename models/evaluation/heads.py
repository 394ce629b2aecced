"""Heads that give class scores, and how they are trained: alone on frozen features, or with the encoder below them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from models.dropout import Dropout, seed_dropout
from models.encoders.encoder import Encoder
from models.norm import GlobalBatchNorm
from models.objectives.objective import ParameterGroup
from models.training.divergence import DivergenceError
from models.training.optimizers import (
    AdamWConfig,
    OptimizerConfig,
    SGDConfig,
    build_optimizer,
    parameter_groups,
    set_rate,
)
from models.training.schedule import MAX_EPOCHS, Gamma, Rate, TrainConfig, check_share, learning_rate
from shards.errors import ConfigError
from shards.frozen import Frozen
from shards.progress import Progress
from shards.skeleton import NUM_JOINTS

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]

HIDDEN = 2048
"""Width of the hidden layer of a `TokenHead`, as released."""

Batches = Callable[[int], Iterator[tuple[Tensor, Tensor]]]
"""Epoch -> its batches: what the model takes (N, ...), and labels (N,)."""

_NO_ENCODERS: Mapping[str, Encoder] = MappingProxyType({})


class HeadConfig(Frozen):
    """How a head is trained.

    Attributes:
        epochs: passes over the training split.
        batch_size: samples in a step.
        optimizer: by its kind: sgd, adam or adamw. "adamw" takes no decay from biases, norms and other vectors.
        lr: learning rate after the warm-up.
        min_lr: where "cosine" ends.
        schedule: "step" by `milestones`; "cosine" from `lr` down to `min_lr` at the end, step by step.
        milestones: epochs (from 0) from which on the rate is multiplied by `gamma` once more; for "step".
        gamma: see `milestones`.
        warmup_epochs: epochs in which the rate rises linearly, step by step.
        label_smoothing: share of the target that is spread evenly over all classes.
        crop: of the training views. "random": drawn anew in every epoch. "centre": the views of the test split, which
            never change.
        init_std: standard deviation of the initial weights of a linear head.
        score_every: epochs between two scores; the last epoch is scored in any case.
        seed: of the head's initial weights and its dropout, and of the sample order.
    """

    epochs: Annotated[int, Field(ge=1, le=MAX_EPOCHS)]
    batch_size: Count
    optimizer: OptimizerConfig = SGDConfig(weight_decay=0.0)
    lr: Rate
    min_lr: float = Field(0.0, ge=0, le=100)
    schedule: Literal["step", "cosine"] = "step"
    milestones: tuple[Annotated[int, Field(ge=0)], ...] = ()
    gamma: Gamma = 0.1
    warmup_epochs: int = Field(0, ge=0)
    label_smoothing: Share = 0.0
    crop: Literal["random", "centre"] = "random"
    init_std: float = Field(0.01, gt=0, le=1)
    score_every: Count = 1
    seed: int = Field(0, ge=0, lt=1 << 31)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_share(self.lr, self.optimizer.weight_decay)
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr is {self.min_lr:g}, expected at most lr {self.lr:g}")
        return self

    @property
    def rates(self) -> TrainConfig:
        """For `learning_rate`: a head learns by the schedule of a run of one stage; checked here already."""
        names = ("epochs", "lr", "min_lr", "schedule", "milestones", "gamma", "warmup_epochs")
        return TrainConfig.model_construct(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class Curve:
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
    """

    last: float
    best: float
    best_epoch: int
    chosen: float | None
    chosen_epoch: int | None
    curve: tuple[float, ...]
    validation_curve: tuple[float, ...] | None
    scored_epochs: tuple[int, ...]


class LinearHead(nn.Module):
    """Class scores (N, C) of features (N, D) by one linear layer; equal on every device, whatever the global generator.

    Args:
        features: D.
        num_classes: C.
        seed: of the weights, which are N(0, std^2); biases begin at 0.
        std: see `seed`.
        batch_norm: features are normalised first, without a scale or shift to learn (maoyunyao/MAMP after MoCo v3).
        dropout: share of the entries of a feature that are dropped in training.
    """

    def __init__(
        self,
        features: int,
        num_classes: int,
        *,
        seed: int,
        std: float = 0.01,
        batch_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.norm = GlobalBatchNorm(features, eps=1e-6, affine=False) if batch_norm else nn.Identity()
        self.linear = _empty_linear(features, num_classes)
        nn.init.normal_(self.linear.weight, std=std, generator=torch.Generator().manual_seed(seed))
        nn.init.zeros_(self.linear.bias)

    def forward(self, x_ND: Tensor) -> Tensor:
        """(N, D) -> (N, C)."""
        logits: Tensor = self.linear(self.norm(self.dropout(x_ND)))
        return logits


class TokenHead(nn.Module):
    """Class scores (N, C) of tokens (N, M, S, V, D), whose joints stay apart. Source: maoyunyao/MAMP, fine-tuning.

    Dropout on all tokens; the mean over time, then over persons, an absent one too; V*D entries -> 2048, batch norm,
    ReLU, classes. Initial weights are xavier-uniform, biases 0.

    Args:
        width: D.
        num_classes: C.
        seed: of the weights.
        dropout: share of the tokens' entries that are dropped in training.
    """

    def __init__(self, width: int, num_classes: int, *, seed: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.fc1 = _empty_linear(NUM_JOINTS * width, HIDDEN)
        self.norm = GlobalBatchNorm(HIDDEN)
        self.fc2 = _empty_linear(HIDDEN, num_classes)
        generator = torch.Generator().manual_seed(seed)
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)

    def forward(self, x_NMSVD: Tensor) -> Tensor:
        """(N, M, S, V, D) -> (N, C)."""
        pooled = self.dropout(x_NMSVD).mean(2).mean(1).flatten(1)
        logits: Tensor = self.fc2(self.norm(self.fc1(pooled)).relu())
        return logits


def _empty_linear(inputs: int, outputs: int) -> nn.Linear:
    """On the CPU, without a draw of torch's global generator."""
    return nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")


def fit(
    model: nn.Module,
    batches: Batches,
    steps: int,
    config: HeadConfig,
    score: Callable[[int], tuple[float, float | None]],
    *,
    what: str,
    encoders: Mapping[str, Encoder] = _NO_ENCODERS,
    least: int = 1,
    progress: bool = False,
) -> Curve:
    """Train all parameters of a model by the cross-entropy of its class scores; it ends in eval mode.

    Dropout draws by the seed, the epoch and the step.

    Args:
        model: (N, ...) -> (N, C), on the device of the batches.
        batches: of the training split, by epoch.
        steps: batches of an epoch.
        config: schedule.
        score: accuracies on the test and the validation split, after an epoch (from 0); the model is in eval mode.
        what: is trained, for errors and the bar.
        encoders: of the model: prefix of their parameters' names, with the dot -> encoder; for `layer_decay`.
        least: smaller batches are left out: the batch norm of a head has no statistics of a single sample.
        progress: show a bar.

    Raises:
        ConfigError: an epoch has no batch.
        DivergenceError: the loss is not finite; found at the end of its epoch.
    """
    groups = decay_groups(model, config.optimizer, encoders)
    # not fused: another rounding in the last bit than the published settings have been scored with
    optimizer, rates = build_optimizer(config.optimizer, groups, config.lr, fused=False), config.rates
    scored: list[int] = []
    accuracies: list[tuple[float, float | None]] = []
    with Progress(what, config.epochs, "epoch", shown=progress) as bar:
        for epoch in range(config.epochs):
            model.train()
            losses: list[Tensor] = []
            for step, (x, label) in enumerate(batches(epoch)):
                if len(label) < least:
                    continue
                set_rate(optimizer, learning_rate(rates, epoch, step, steps))
                optimizer.zero_grad(set_to_none=True)
                seed_dropout(model, config.seed, epoch, step)
                loss = F.cross_entropy(model(x), label, label_smoothing=config.label_smoothing)
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                optimizer.step()
                losses.append(loss.detach())
            _check_losses(losses, what, epoch, least)
            model.eval()
            if (epoch + 1) % config.score_every == 0 or epoch + 1 == config.epochs:
                scored.append(epoch)
                accuracies.append(score(epoch))
                bar.remark(f"accuracy {accuracies[-1][0]:.4f}")
            bar.advance()
    return _curve(scored, accuracies)


def decay_groups(
    model: nn.Module,
    config: OptimizerConfig,
    encoders: Mapping[str, Encoder] = _NO_ENCODERS,
) -> list[dict[str, Any]]:
    """All parameters of a model for `build_optimizer`; AdamW takes no decay from those of one dimension.

    Args: as of `fit`.
    """
    all_alike = not isinstance(config, AdamWConfig)
    parameters = dict(model.named_parameters())
    decayed = tuple(name for name, parameter in parameters.items() if all_alike or parameter.dim() > 1)
    plain = tuple(name for name in parameters if name not in set(decayed))
    groups, _ = parameter_groups(model, (ParameterGroup(decayed), ParameterGroup(plain, decay=False)), config, encoders)
    return groups


def _check_losses(losses: list[Tensor], what: str, epoch: int, least: int) -> None:
    if not losses:
        raise ConfigError(
            f"{what}, epoch {epoch}: found no training batch, expected at least one"
            + (f" of {least} samples" if least > 1 else "")
        )
    # once an epoch: to read each would have the host wait for the device
    values = torch.stack(losses).cpu()
    bad = (~values.isfinite()).nonzero().flatten().tolist()
    if bad:
        raise DivergenceError(
            f"{what}, epoch {epoch}, step {bad[0]} (from 0): found the loss {float(values[bad[0]])}, expected a finite"
            " number: lower the rate"
        )


def _curve(epochs: list[int], accuracies: list[tuple[float, float | None]]) -> Curve:
    curve = tuple(test for test, _ in accuracies)
    validation = tuple(value for _, value in accuracies if value is not None)
    best = curve.index(max(curve))
    chosen = validation.index(max(validation)) if validation else None
    return Curve(
        last=curve[-1],
        best=curve[best],
        best_epoch=epochs[best],
        chosen=None if chosen is None else curve[chosen],
        chosen_epoch=None if chosen is None else epochs[chosen],
        curve=curve,
        validation_curve=validation or None,
        scored_epochs=tuple(epochs),
    )
