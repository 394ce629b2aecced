"""The training loop: views in, loss terms summed, SGD steps, checkpoints from which a run goes on exactly."""

import logging
import math
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Annotated, Any, Literal, Protocol, Self, cast

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from models.training.checkpoint import (
    Checkpoint,
    latest_checkpoint,
    load_checkpoint,
    load_optimizer,
    optimizer_tensors,
    save_checkpoint,
)
from models.training.monitor import LOG, Monitor, read_log
from shards.batch import EpochViews, Views
from shards.errors import CheckpointError, ConfigError

_logger = logging.getLogger(__name__)

Probe = Callable[[nn.Module], dict[str, float]]
Count = Annotated[int, Field(ge=1)]


class TrainConfig(BaseModel):
    """Schedule and rhythm of a run; the defaults are those of JHang2020/PCM3.

    Attributes:
        epochs: passes over the training split.
        batch_size: samples in a step.
        lr: learning rate after the warm-up.
        momentum: of SGD.
        weight_decay: of all parameters.
        milestones: epochs (from 0) from which on the rate is multiplied by `gamma` once more; for "step".
        gamma: see `milestones`.
        warmup_epochs: epochs in which the rate rises linearly, step by step.
        schedule: "step", or "cosine" from `lr` down to 0 at the end of the last epoch.
        precision: "bfloat16" runs the recurrences in it, by autocast; parameters, similarities and losses stay float32.
        seed: of the initial parameters, the sample order, the views and the objective's draws.
        checkpoint_every: epochs between checkpoints; the last epoch always has one.
        keep_checkpoints: how many of the last checkpoints stay.
        probe_every: epochs between online scores; 0 for none.
        log_every: steps in a step line of the log.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: Count = 451
    batch_size: Count = 128
    lr: float = Field(0.02, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)
    milestones: tuple[Annotated[int, Field(ge=0)], ...] = (351,)
    gamma: float = Field(0.1, gt=0)
    warmup_epochs: int = Field(0, ge=0)
    schedule: Literal["step", "cosine"] = "step"
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = Field(0, ge=0)
    checkpoint_every: Count = 10
    keep_checkpoints: Count = 3
    probe_every: int = Field(0, ge=0)
    log_every: Count = 50


class Objective(Protocol):
    """What `train` asks of an objective, an `nn.Module`. `forward` draws nothing, so that a step can be repeated."""

    @property
    def encoder(self) -> nn.Module:
        """The online encoder."""
        ...

    def draw(self, seed: int, epoch: int, step: int, n: int) -> Any:
        """What step `step` (from 0) of `epoch` with `n` samples draws: a pure function of the numbers."""
        ...

    def __call__(self, views: Views, draws: Any) -> dict[str, Tensor]:
        """The weighted scalar loss terms."""
        ...


@dataclass(frozen=True)
class TrainResult:
    """A finished run: epochs and steps done, its last checkpoint, and the epoch lines of its log (see `monitor`)."""

    epochs: int
    steps: int
    checkpoint: Path
    curves: tuple[dict[str, Any], ...]


def train(
    objective: nn.Module,
    views: EpochViews,
    config: TrainConfig,
    run: Path,
    *,
    meta: dict[str, Any],
    resume: bool = False,
    probe: Probe | None = None,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> TrainResult:
    """Fit an objective; the same arguments give the same parameters, however often the run was interrupted.

    SIGINT and SIGTERM are taken between two steps: a checkpoint of that very step is written, then the signal takes its
    usual course. Signals are left alone where Python cannot take them: outside the main thread.

    Args:
        objective: an `Objective`.
        views: of the training split.
        config: schedule.
        run: folder for `checkpoints/`, `log.jsonl` and `tensorboard/`.
        meta: kept in each checkpoint, as JSON; a "fingerprint" in it must be that of the checkpoint resumed from.
        resume: go on from the last checkpoint of the run; from the beginning when it has none.
        probe: scores of the encoder, called every `probe_every` epochs and after the last.
        device: where the objective and its views are.
        progress: show a bar.

    Raises:
        ConfigError: the split gives no batch, or the folder holds a run and `resume` is not set.
        CheckpointError: the checkpoint is damaged, or of other data or another schedule.
        DivergenceError: a loss term is not finite; the last checkpoint stays.
    """
    if len(views) == 0:
        raise ConfigError(
            f"found fewer training samples than batch_size {config.batch_size}, expected at least one batch"
        )
    checkpoint = _find_start(run, resume, config, len(views), meta.get("fingerprint"))
    objective.to(device)
    trainer = _Trainer(objective, views, config, run, meta, probe)
    if checkpoint is not None:
        trainer.restore(checkpoint)
    if checkpoint is None or checkpoint.epoch < config.epochs:
        trainer.fit(progress, checkpoint)
    path = latest_checkpoint(run)
    assert path is not None
    return TrainResult(config.epochs, config.epochs * len(views), path, read_log(run))


def learning_rate(config: TrainConfig, epoch: int, step: int, epoch_steps: int) -> float:
    """The rate of step `step` (from 0) of `epoch`; "cosine" falls step by step, "step" by epochs."""
    position = epoch + step / epoch_steps
    if position < config.warmup_epochs:
        return config.lr * (position + 1 / epoch_steps) / config.warmup_epochs
    if config.schedule == "cosine":
        done = (position - config.warmup_epochs) / (config.epochs - config.warmup_epochs)
        return config.lr * 0.5 * (1 + math.cos(math.pi * done))
    return config.lr * config.gamma ** sum(epoch >= milestone for milestone in config.milestones)


class _Trainer:
    """The parts of a run, and the loop over them."""

    def __init__(
        self,
        objective: nn.Module,
        views: EpochViews,
        config: TrainConfig,
        run: Path,
        meta: dict[str, Any],
        probe: Probe | None,
    ) -> None:
        self.objective, self.views, self.config, self.run, self.meta = objective, views, config, run, meta
        self.probe = probe if config.probe_every else None
        self.epoch_steps = len(views)
        named = [(name, parameter) for name, parameter in objective.named_parameters() if parameter.requires_grad]
        self.parameter_names = dict(enumerate(name for name, _ in named))
        self.optimizer = _sgd([parameter for _, parameter in named], config)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Put the state of a checkpoint into the objective and the optimiser."""
        try:
            self.objective.load_state_dict(checkpoint.objective)
        except RuntimeError as error:
            raise CheckpointError(f"found a checkpoint of another model, expected this one: {error}") from error
        load_optimizer(self.optimizer, checkpoint.optimizer, self.parameter_names)

    def fit(self, progress: bool, start: Checkpoint | None) -> None:
        """Train to the end, from `start` if there is one."""
        start = start or self._state(0, 0)
        monitor = Monitor(
            self.run,
            epoch_steps=self.epoch_steps,
            epochs=self.config.epochs,
            step=start.step,
            terms=start.terms,
            term_names=start.term_names,
            log_every=self.config.log_every,
            progress=progress,
        )
        with _Interruption() as interruption:
            with monitor:
                finished = self._epochs(start.epoch, start.first_step, monitor, interruption)
            if not finished:
                interruption.proceed()

    def _epochs(self, start: int, first_step: int, monitor: Monitor, interruption: "_Interruption") -> bool:
        """Train from a step of epoch `start` on; False when a signal came before the end."""
        for epoch in range(start, self.config.epochs):
            if not self._epoch(epoch, first_step if epoch == start else 0, monitor, interruption):
                return False
        return True

    def _epoch(self, epoch: int, first_step: int, monitor: Monitor, interruption: "_Interruption") -> bool:
        """Train one epoch from a step on; False when a signal came and the run is not done."""
        self.objective.train()
        monitor.start_epoch()
        step = first_step
        for batch in self.views.epoch(epoch, first_step):
            if interruption.requested:
                monitor.check()
                self._save(epoch, step, monitor)
                return False
            rate = learning_rate(self.config, epoch, step, self.epoch_steps)
            monitor.record(self._step(batch, epoch, step, rate), batch, rate)
            step += 1
        assert step == self.epoch_steps, f"{step} steps in epoch {epoch}, {self.epoch_steps} announced"
        scores, seconds = self._probe(epoch)
        monitor.end_epoch(epoch, rate, scores, seconds)
        last = epoch + 1 == self.config.epochs
        if last or interruption.requested or (epoch + 1) % self.config.checkpoint_every == 0:
            self._save(epoch + 1, 0, monitor)
        return last or not interruption.requested

    def _step(self, batch: Views, epoch: int, step: int, rate: float) -> dict[str, Tensor]:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        objective = cast(Objective, self.objective)
        reduced = self.config.precision == "bfloat16"
        with torch.autocast(batch.label.device.type, torch.bfloat16, enabled=reduced, cache_enabled=False):
            terms = objective(batch, objective.draw(self.config.seed, epoch, step, len(batch)))
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.optimizer.step()
        return terms

    def _probe(self, epoch: int) -> tuple[dict[str, float] | None, float]:
        """Scores and seconds of the probe, if its turn has come."""
        due = (epoch + 1) % self.config.probe_every == 0 if self.config.probe_every else False
        if self.probe is None or not (due or epoch + 1 == self.config.epochs):
            return None, 0.0
        start = time.perf_counter()
        return self.probe(cast(Objective, self.objective).encoder), time.perf_counter() - start

    def _state(self, epoch: int, step: int) -> Checkpoint:
        return Checkpoint(
            epoch=epoch,
            step=epoch * self.epoch_steps + step,
            epoch_steps=self.epoch_steps,
            config=self.config.model_dump(mode="json"),
            meta=self.meta,
            objective=self.objective.state_dict(),
            optimizer=optimizer_tensors(self.optimizer, self.parameter_names),
        )

    def _save(self, epoch: int, step: int, monitor: Monitor) -> None:
        state = replace(self._state(epoch, step), terms=monitor.terms, term_names=monitor.term_names)
        save_checkpoint(self.run, state, self.config.keep_checkpoints)


def _sgd(parameters: list[nn.Parameter], config: TrainConfig) -> torch.optim.SGD:
    # fused: one pass over memory; 2.0 times as fast on a CPU core (25 M parameters, 21 ms against 10 ms)
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)
    return torch.optim.SGD(
        parameters, config.lr, momentum=config.momentum, weight_decay=config.weight_decay, fused=fused or None
    )


def _find_start(
    run: Path, resume: bool, config: TrainConfig, epoch_steps: int, fingerprint: str | None
) -> Checkpoint | None:
    """The checkpoint to go on from; None to begin."""
    path = latest_checkpoint(run)
    if not resume and (path is not None or (run / LOG).exists()):
        raise ConfigError(f"{run}: found a run, expected a new folder; resume it or choose another")
    run.mkdir(parents=True, exist_ok=True)
    if path is None:
        if resume:
            _logger.warning("%s: no checkpoint to resume from, starting from scratch", run)
        return None
    checkpoint = load_checkpoint(path, fingerprint)
    _check_schedule(path, checkpoint, config, epoch_steps)
    return checkpoint


def _check_schedule(path: Path, checkpoint: Checkpoint, config: TrainConfig, epoch_steps: int) -> None:
    """Refuse to go on under options with which the run so far would have been another."""
    free = {"checkpoint_every", "keep_checkpoints", "probe_every", "log_every"}
    if config.schedule == "step":
        free.add("epochs")
    found = {**checkpoint.config, "steps of an epoch": checkpoint.epoch_steps}
    wanted = {**config.model_dump(mode="json"), "steps of an epoch": epoch_steps}
    for name, value in wanted.items():
        if name not in free and found.get(name) != value:
            raise CheckpointError(f"{path}: found {name} {found.get(name)}, expected {value} as in this configuration")
    if checkpoint.epoch > config.epochs:
        raise CheckpointError(f"{path}: found {checkpoint.epoch} epochs done, expected at most epochs {config.epochs}")


class _Interruption:
    """Notes the first SIGINT or SIGTERM, to be acted upon between two steps; a second one takes its course at once."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._former: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self._number is not None

    def proceed(self) -> None:
        """Give the signal its usual course."""
        assert self._number is not None
        signal.raise_signal(self._number)
        raise KeyboardInterrupt  # whoever handles the signal may have let it pass

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._former = {}
