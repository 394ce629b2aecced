"""The schedule of a run: its options, the learning rate of each step, and which options may change when it goes on."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate, takewhile
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar

from pydantic import Field, field_validator, model_validator

from models.objectives.objective import Progress
from models.training.checkpoint import Header
from models.training.optimizers import OptimizerConfig, SGDConfig
from models.training.precision import Precision
from shards.errors import CheckpointError
from shards.frozen import Frozen

Count = Annotated[int, Field(ge=1)]

MAIN = "main"
"""Name of the first stage."""

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
    check_share(config.lr, config.weight_decay)
    return config


def check_share(lr: float, weight_decay: float) -> None:
    """ValueError when a step takes more of a weight away than there is, see `check_decay`."""
    if lr * weight_decay >= 1:
        raise ValueError(
            f"lr {lr:g} times weight_decay {weight_decay:g} is {lr * weight_decay:g}, expected less than 1"
        )


class Stage(Frozen):
    """A stage of training after the main one.

    Attributes:
        name: of the stage; options of it are set as train.stages.<name>.epochs.
        epochs: of the stage; 0 leaves it out.
        schedule: "constant" at `lr`; "cosine" from `lr` down to 0 at its end; "main": that of the main stage goes on.
        lr: its learning rate; with "main" it has none of its own.
        terms: loss terms that are summed, the others are logged only; None for all.
        fresh: the optimiser begins anew.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    epochs: int = Field(0, ge=0, le=MAX_EPOCHS)
    schedule: Literal["constant", "cosine", "main"] = "constant"
    lr: Rate = 0.002
    terms: tuple[str, ...] | None = Field(None, min_length=1)
    fresh: bool = True


class TrainConfig(Frozen):
    """Schedule and rhythm of a run; the defaults are those of JHang2020/PCM3.

    Attributes:
        epochs: passes over the training split in the main stage.
        batch_size: samples in a step, of all ranks together.
        optimizer: by its kind: sgd, adam or adamw.
        lr: learning rate after the warm-up.
        min_lr: where "cosine" ends, and below which "plateau" does not fall.
        schedule: "step" by `milestones`; "cosine" from `lr` down to `min_lr` at the end of the main stage and of those
            that go on with its schedule; "plateau": multiplied by `gamma` when the loss of an epoch has not fallen
            below the lowest one by a ten-thousandth of it for `patience` epochs.
        milestones: epochs (from 0) from which on the rate is multiplied by `gamma` once more; for "step".
        gamma: see `schedule`.
        patience: see `schedule`.
        warmup_epochs: epochs in which the rate rises linearly, step by step.
        clip: longest gradient, as a Euclidean norm; None for any.
        clip_scope: whether `clip` is for "all" gradients together, or for "each" parameter's.
        stages: those after the main one, in their order.
        precision: of products: "float32", "tf32" (CUDA: inputs rounded to 10 bits of mantissa), or "bfloat16" (by
            autocast). Parameters, similarities and losses stay float32.
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
    optimizer: OptimizerConfig = SGDConfig()
    lr: Rate = 0.02
    min_lr: float = Field(0.0, ge=0, le=100)
    schedule: Literal["step", "cosine", "plateau"] = "step"
    milestones: tuple[Annotated[int, Field(ge=0)], ...] = (351,)
    gamma: Gamma = 0.1
    patience: Count = 10
    warmup_epochs: int = Field(0, ge=0)
    clip: float | None = Field(None, gt=0)
    clip_scope: Literal["all", "each"] = "all"
    stages: tuple[Stage, ...] = ()
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
    def _fits(self) -> "TrainConfig":
        for lr in (self.lr, *(stage.lr for stage in self.stages if stage.epochs and stage.schedule != "main")):
            check_share(lr, self.optimizer.weight_decay)
        names = [MAIN, *(stage.name for stage in self.stages)]
        if len(set(names)) < len(names):
            raise ValueError(f"found the stages {', '.join(names)}, expected names of their own")
        if self.schedule == "cosine":
            going_on = sum(stage.epochs for stage in self.stages if stage.schedule == "main")
            if self.epochs + going_on != self.main_epochs:
                raise ValueError("found a stage with the schedule main after one with its own, expected it before that")
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr is {self.min_lr:g}, expected at most lr {self.lr:g}")
        return self

    @property
    def total_epochs(self) -> int:
        """Epochs of all stages."""
        return self.ends[-1]

    @property
    def ends(self) -> tuple[int, ...]:
        """Epochs done when each stage ends, that of the main stage first."""
        return tuple(accumulate((self.epochs, *(stage.epochs for stage in self.stages))))

    @property
    def main_epochs(self) -> int:
        """Epochs of the main stage, and of those directly after it that go on with its schedule."""
        return _main_epochs(self.epochs, ((stage.epochs, stage.schedule) for stage in self.stages))

    def stage(self, epoch: int) -> Stage | None:
        """The stage that an epoch (from 0) belongs to; None for the main one."""
        number = bisect_right(self.ends, epoch)
        return None if number == 0 else self.stages[number - 1]

    def progress(self, epoch: int, step: int, epoch_steps: int) -> Progress:
        """Where in the run a step is."""
        number = bisect_right(self.ends, epoch)
        name, before = (MAIN, 0) if number == 0 else (self.stages[number - 1].name, self.ends[number - 1])
        return Progress(epoch, step, epoch_steps, self.total_epochs, name, before)

    def loss_terms(self, epoch: int) -> tuple[str, ...] | None:
        """Names of the terms whose sum is the loss in `epoch`; None for all."""
        stage = self.stage(epoch)
        return None if stage is None else stage.terms

    def stays(self, epoch: int) -> bool:
        """Whether the checkpoint after `epoch` whole epochs stays for good."""
        return epoch in self.ends or (self.keep_every > 0 and epoch % self.keep_every == 0)


def _main_epochs(epochs: int, stages: Iterable[tuple[int, str]]) -> int:
    """Epochs of the main stage and of those directly after it that go on with it; `stages` by epochs and schedule."""
    left = (stage for stage in stages if stage[0])
    return epochs + sum(more for more, _ in takewhile(lambda stage: stage[1] == "main", left))


def learning_rate(config: TrainConfig, epoch: int, step: int, epoch_steps: int, losses: Sequence[float] = ()) -> float:
    """The rate of step `step` (from 0) of `epoch`; "cosine" falls step by step, "step" and "plateau" by epochs.

    Args:
        config: of the run.
        epoch, step: from 0.
        epoch_steps: steps in an epoch.
        losses: mean loss of each epoch done, for "plateau".
    """
    stage = config.stage(epoch)
    position = epoch + step / epoch_steps
    if stage is not None and stage.schedule != "main":
        begin = config.progress(epoch, step, epoch_steps).epochs_before
        share = (position - begin) / stage.epochs
        return stage.lr if stage.schedule == "constant" else stage.lr * 0.5 * (1 + math.cos(math.pi * share))
    if position < config.warmup_epochs:
        return config.lr * (position + 1 / epoch_steps) / config.warmup_epochs
    if config.schedule == "cosine":
        done = (position - config.warmup_epochs) / (config.main_epochs - config.warmup_epochs)
        return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * done))
    if config.schedule == "plateau":
        falls = count_plateaus(losses[:epoch], config.patience)
        return max(config.lr * config.gamma**falls, config.min_lr)
    return stepped_rate(config.lr, config.gamma, config.milestones, epoch)


def count_plateaus(losses: Sequence[float], patience: int) -> int:
    """How often the loss has not fallen for `patience` epochs in a row; after each such time counting begins anew."""
    lowest, waited, count = math.inf, 0, 0
    for loss in losses:
        if loss < lowest * (1 - 1e-4):
            lowest, waited = loss, 0
        else:
            waited += 1
        if waited >= patience:
            waited, count = 0, count + 1
    return count


def stepped_rate(lr: float, gamma: float, milestones: Sequence[int], epoch: int) -> float:
    """The rate of an epoch (from 0): `lr`, multiplied by `gamma` once more from each milestone on."""
    return lr * gamma ** sum(epoch >= milestone for milestone in milestones)


# what decides only which files a run writes, and when it stops
_WRITING = {
    "checkpoint_every", "checkpoint_steps", "keep_checkpoints", "keep_every", "probe_every", "log_every", "explosion"
}  # fmt: skip


def check_schedule(path: Path, found: Header, config: TrainConfig, epoch_steps: int) -> None:
    """Refuse to go on from the checkpoint at `path` under options with which the run so far would have been another.

    Epochs may be added to the stage the run is in, and stages after it.

    Raises:
        CheckpointError: an option has another value, or more steps are done than the run has.
    """
    wanted = {**config.model_dump(mode="json"), "steps of an epoch": epoch_steps}
    before = {**found.config, "steps of an epoch": found.epoch_steps}
    # the stage that the last step done belongs to
    ends = list(accumulate((found.config["epochs"], *(stage["epochs"] for stage in found.config["stages"]))))
    number = bisect_left(ends, math.ceil(found.step / found.epoch_steps))
    wanted, before = (_with_stages(tree, number) for tree in (wanted, before))
    free = _WRITING | {"stages"}
    if number == 0 and config.schedule != "cosine":
        free |= {"epochs"}
    for name, value in wanted.items():
        if name not in free and before.get(name) != value:
            raise CheckpointError(f"{path}: found {name} {before.get(name)}, expected {value} as in this configuration")
    limit = config.ends[min(number, len(config.ends) - 1)]
    if found.step > limit * epoch_steps:
        raise CheckpointError(
            f"{path}: found {found.epoch} epochs and {found.first_step} steps done, expected at most epochs {limit}"
        )


def _with_stages(tree: dict[str, Any], number: int) -> dict[str, Any]:
    """With the options of the first `number` stages after the main one that decide the steps done."""
    leaves = dict(tree)
    for place, stage in enumerate(tree["stages"][:number], 1):
        decisive = {"lr", "schedule", "terms", "fresh"}
        if place < number or stage["schedule"] == "cosine":
            decisive |= {"epochs"}
        leaves |= {f"stages.{stage['name']}.{name}": stage[name] for name in sorted(decisive)}
    if tree["schedule"] == "cosine":  # its rates depend on where it ends
        stages = ((stage["epochs"], stage["schedule"]) for stage in tree["stages"])
        leaves["epochs with the main schedule"] = _main_epochs(tree["epochs"], stages)
    return leaves
