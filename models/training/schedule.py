"""The schedule of a run: its options, the learning rate of each step, and which options may change when it goes on."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar

from pydantic import Field, field_validator, model_validator

from models.training.checkpoint import Header
from models.training.precision import Precision
from shards.errors import CheckpointError
from shards.frozen import Frozen

Count = Annotated[int, Field(ge=1)]

MAX_EPOCHS = 1_000_000
"""Of a stage: what a run will write is counted epoch by epoch before it begins."""

Rate = Annotated[float, Field(gt=0, le=100)]
"""A learning rate; far above 100 the second step of any method here gives NaN."""

Gamma = Annotated[float, Field(gt=0, le=1)]
"""By which a rate falls at a milestone."""


class _Decaying(Protocol):
    @property
    def lr(self) -> float: ...

    @property
    def weight_decay(self) -> float: ...


Decaying = TypeVar("Decaying", bound=_Decaying)


def check_decay(config: Decaying) -> Decaying:
    """The configuration itself, for a validator of pydantic; ValueError when its decay alone makes weights explode.

    A step takes the share lr * weight_decay of each weight away: from 1 on its sign changes with every step.
    """
    _check_share(config.lr, config.weight_decay)
    return config


def _check_share(lr: float, weight_decay: float) -> None:
    if lr * weight_decay >= 1:
        raise ValueError(
            f"lr {lr:g} times weight_decay {weight_decay:g} is {lr * weight_decay:g}, expected less than 1"
        )


class PostConfig(Frozen):
    """Post-distillation: a second stage on fewer terms, at a constant rate and with fresh momentum.

    Attributes:
        epochs: of the stage; 0 for none.
        lr: its learning rate.
        terms: loss terms that are summed; the others are logged only.
    """

    epochs: int = Field(0, ge=0, le=MAX_EPOCHS)
    lr: Rate = 0.002
    terms: tuple[str, ...] = Field(("distill", "prediction"), min_length=1)


class TrainConfig(Frozen):
    """Schedule and rhythm of a run; the defaults are those of JHang2020/PCM3.

    Attributes:
        epochs: passes over the training split in the main stage.
        batch_size: samples in a step, of all ranks together.
        lr: learning rate after the warm-up.
        momentum: of SGD.
        weight_decay: of all parameters.
        milestones: epochs (from 0) from which on the rate is multiplied by `gamma` once more; for "step".
        gamma: see `milestones`.
        warmup_epochs: epochs in which the rate rises linearly, step by step.
        schedule: "step", or "cosine" from `lr` down to 0 at the end of the main stage.
        post: the stage after it.
        precision: of products: "float32", "tf32" (CUDA: inputs rounded to 10 bits of mantissa), or "bfloat16" (the
            recurrences, by autocast). Parameters, similarities and losses stay float32.
        seed: of the initial parameters, the sample order, the views and the objective's draws.
        checkpoint_every: epochs between checkpoints; the last epoch of a stage always has one.
        checkpoint_steps: steps between checkpoints within an epoch; 0 for none.
        keep_checkpoints: how many of the last checkpoints stay.
        keep_every: checkpoints after each multiple of that many epochs stay for good, beside the main stage's last; 0
            for none.
        probe_every: epochs between online scores; 0 for none.
        log_every: steps in a step line of the log.
        explosion: a loss above that multiple of its running median stops the run; 0 never stops it.
    """

    epochs: int = Field(451, ge=1, le=MAX_EPOCHS)
    batch_size: Count = 128
    lr: Rate = 0.02
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)
    milestones: tuple[Annotated[int, Field(ge=0)], ...] = (351,)
    gamma: Gamma = 0.1
    warmup_epochs: int = Field(0, ge=0)
    schedule: Literal["step", "cosine"] = "step"
    post: PostConfig = PostConfig()
    precision: Precision = "float32"
    seed: int = Field(0, ge=0, lt=1 << 63)
    checkpoint_every: Count = 10
    checkpoint_steps: int = Field(0, ge=0)
    keep_checkpoints: Count = 3
    keep_every: int = Field(0, ge=0)
    probe_every: int = Field(0, ge=0)
    log_every: Count = 50
    explosion: float = 20.0

    @field_validator("explosion")
    @classmethod
    def _a_factor(cls, explosion: float) -> float:
        if explosion != 0 and not 1 < explosion < math.inf:
            raise ValueError("expected a factor above 1, or 0 for no limit")
        return explosion

    @model_validator(mode="after")
    def _decays(self) -> "TrainConfig":
        for lr in (self.lr, self.post.lr) if self.post.epochs else (self.lr,):
            _check_share(lr, self.weight_decay)
        return self

    @property
    def total_epochs(self) -> int:
        """Epochs of both stages."""
        return self.epochs + self.post.epochs

    def loss_terms(self, epoch: int) -> tuple[str, ...] | None:
        """Names of the terms whose sum is the loss in `epoch`; None for all."""
        return self.post.terms if epoch >= self.epochs else None

    def stays(self, epoch: int) -> bool:
        """Whether the checkpoint after `epoch` whole epochs stays for good."""
        return epoch == self.epochs or (self.keep_every > 0 and epoch % self.keep_every == 0)


def learning_rate(config: TrainConfig, epoch: int, step: int, epoch_steps: int) -> float:
    """The rate of step `step` (from 0) of `epoch`; "cosine" falls step by step, "step" by epochs."""
    if epoch >= config.epochs:
        return config.post.lr
    position = epoch + step / epoch_steps
    if position < config.warmup_epochs:
        return config.lr * (position + 1 / epoch_steps) / config.warmup_epochs
    if config.schedule == "cosine":
        done = (position - config.warmup_epochs) / (config.epochs - config.warmup_epochs)
        return config.lr * 0.5 * (1 + math.cos(math.pi * done))
    return stepped_rate(config.lr, config.gamma, config.milestones, epoch)


def stepped_rate(lr: float, gamma: float, milestones: Sequence[int], epoch: int) -> float:
    """The rate of an epoch (from 0): `lr`, multiplied by `gamma` once more from each milestone on."""
    return lr * gamma ** sum(epoch >= milestone for milestone in milestones)


# what decides only which files a run writes, and when it stops
_WRITING = {
    "checkpoint_every", "checkpoint_steps", "keep_checkpoints", "keep_every", "probe_every", "log_every", "explosion"
}  # fmt: skip


def check_schedule(path: Path, found: Header, config: TrainConfig, epoch_steps: int) -> None:
    """Refuse to go on from the checkpoint at `path` under options with which the run so far would have been another.

    Epochs may be added to the stage the run is in, and a post stage to a run whose main stage is all there is.

    Raises:
        CheckpointError: an option has another value, or more steps are done than the run has.
    """
    wanted = {**config.model_dump(mode="json"), "steps of an epoch": epoch_steps}
    before = {**found.config, "steps of an epoch": found.epoch_steps}
    free = _WRITING | {"post"}
    in_post = found.step > found.config["epochs"] * found.epoch_steps
    if in_post:
        wanted, before = (_with_post(tree) for tree in (wanted, before))
    elif config.schedule == "step":
        free |= {"epochs"}
    for name, value in wanted.items():
        if name not in free and before.get(name) != value:
            raise CheckpointError(f"{path}: found {name} {before.get(name)}, expected {value} as in this configuration")
    limit = config.total_epochs if in_post else config.epochs
    if found.step > limit * epoch_steps:
        raise CheckpointError(
            f"{path}: found {found.epoch} epochs and {found.first_step} steps done, expected at most epochs {limit}"
        )


def _with_post(tree: dict[str, Any]) -> dict[str, Any]:
    """With the options of the post stage that decide its steps, beside the others."""
    return tree | {f"post.{name}": tree["post"][name] for name in ("lr", "terms")}
