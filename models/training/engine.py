"""The training loop: views in, loss terms summed, steps, checkpoints from which a run goes on exactly.

With several ranks each has its own part of every batch, and all are at the same step with the same state. Rank 0 alone
writes: log, events, checkpoints; what it meets there stops all.
"""

import json
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from models.collectives import broadcast_buffers, rank, world_size
from models.encoders.encoder import Encoder
from models.norm import KeptStatistics
from models.objectives.objective import Objective, Outcome, Split
from models.training.checkpoint import (
    FOLDER,
    Checkpoint,
    Header,
    latest_checkpoint,
    load_checkpoint,
    load_optimizer,
    optimizer_tensors,
    prune_checkpoints,
    save_checkpoint,
)
from models.training.distributed import check_agreement, leader_first, parallel, run_together
from models.training.interruption import Interruption
from models.training.monitor import Monitor
from models.training.optimizers import build_optimizer, clip_gradients, parameter_groups, set_rate
from models.training.precision import check_precision, products
from models.training.runlog import LOG, read_log
from models.training.schedule import TrainConfig, check_schedule, learning_rate
from shards.batch import EpochViews, Views
from shards.errors import CheckpointError, ConfigError
from shards.registry import plugin_versions
from shards.trees import first_difference, flatten

_logger = logging.getLogger(__name__)

Probe = Callable[[Mapping[str, Encoder]], dict[str, float]]
"""Scores of the online encoders, by stream."""


@dataclass(frozen=True)
class TrainResult:
    """A finished run: epochs and steps done, its last checkpoint, and the epoch lines of its log (see `monitor`)."""

    epochs: int
    steps: int
    checkpoint: Path
    curves: tuple[dict[str, Any], ...]


def train(
    objective: Objective,
    views: EpochViews,
    config: TrainConfig,
    run: Path,
    *,
    meta: dict[str, Any],
    resume: bool = False,
    probe: Probe | None = None,
    split: Split | None = None,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> TrainResult:
    """Fit an objective; the same arguments give the same parameters, however often the run was interrupted.

    SIGINT and SIGTERM are taken between two steps: a checkpoint of that very step is written, then the signal takes its
    usual course; one that comes to any rank stops all. Signals are left alone where Python cannot take them: outside
    the main thread.

    With a process group (see `distributed.process_group`) every rank calls this with the same arguments but for its own
    part of each batch, its device, and the probe, which rank 0 alone calls. All reach the folder `run`.

    Args:
        objective: what is fitted.
        views: of the training split, this rank's rows of each batch.
        config: schedule.
        run: folder for `checkpoints/`, `log.jsonl` and `tensorboard/`.
        meta: kept in each checkpoint, as JSON; must be that of the checkpoint resumed from, but for what "config" in it
            holds under "train". Its "fingerprint" is that of the data.
        resume: go on from the last checkpoint of the run; from the beginning when it has none.
        probe: called every `probe_every` epochs and after the last.
        split: the whole training split, for an objective that computes something of it between epochs.
        device: where the objective and its views are.
        progress: show a bar.

    Raises:
        ConfigError: the split gives no batch, the batch cannot be dealt to the ranks, the device lacks the precision,
            the ranks were given different arguments, the folder holds a run and `resume` is not set, or (at the first
            step) the objective has no such terms as a stage names.
        CheckpointError: the checkpoint is damaged, or of other data, method or schedule; or none can be written.
        DivergenceError: a loss term is not finite, or the loss explodes; the last checkpoint stays.
    """
    device, meta = torch.device(device), json.loads(json.dumps(meta))
    run_together(lambda: _check(config, len(views), device))
    path = _find_start(run, resume, config, len(views), meta)
    trainer = _Trainer(objective.to(device), views, config, run, meta, probe, split)
    start = trainer.state(0, 0) if path is None else run_together(lambda: trainer.restore(path))
    if start.epoch < config.total_epochs:
        with products(config.precision, device):
            trainer.fit(progress, start)
    leader_first(lambda: prune_checkpoints(run, config.keep_checkpoints, config.stays))
    name, curves = leader_first(lambda: (str(latest_checkpoint(run)), read_log(run)))
    return TrainResult(config.total_epochs, config.total_epochs * len(views), Path(name), tuple(curves))


def has_begun(run: Path) -> bool:
    """Whether anything was trained in the folder: it has a checkpoint, or a line in its log."""
    log = run / LOG
    return latest_checkpoint(run) is not None or (log.exists() and log.stat().st_size > 0)


class _Loss(nn.Module):
    """The forward pass of a training step: gradients flow from the terms of the loss alone."""

    def __init__(self, objective: Objective, wanted: Collection[str] | None, known: Collection[str]) -> None:
        """`wanted`: the terms of the loss, None for all. `known`: terms that the objective must have."""
        super().__init__()
        self.objective = objective
        self._wanted, self._known = wanted, set(known)

    def forward(self, views: Views, draws: Any) -> tuple[Tensor, Outcome]:
        """The loss, and the outcome without gradients."""
        outcome: Outcome = self.objective(views, draws)
        if self._known - outcome.terms.keys():
            raise ConfigError(
                f"found stages of the terms {sorted(self._known)}, expected some of {sorted(outcome.terms)}"
            )
        terms = [term for name, term in outcome.terms.items() if self._wanted is None or name in self._wanted]
        detached = {name: term.detach() for name, term in outcome.terms.items()}
        return torch.stack(terms).sum(), replace(outcome, terms=detached)


class _Trainer:
    """The parts of a run, and the loop over them."""

    def __init__(
        self,
        objective: Objective,
        views: EpochViews,
        config: TrainConfig,
        run: Path,
        meta: dict[str, Any],
        probe: Probe | None,
        split: Split | None,
    ) -> None:
        self.objective, self.views, self.config, self.run, self.meta = objective, views, config, run, meta
        self.probe, self.split = probe, split
        self.epoch_steps = len(views)
        encoders = {f"encoders.{stream}.": cast(Encoder, encoder) for stream, encoder in objective.encoders.items()}
        groups, names = parameter_groups(objective, objective.groups(), config.optimizer, encoders)
        self.parameter_names = dict(enumerate(names))
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self.optimizer = build_optimizer(config.optimizer, groups, config.lr)
        self.statistics = KeptStatistics(objective)
        self.losses: dict[Collection[str] | None, nn.Module] = {}
        self.epoch_losses: list[float] = []

    def restore(self, path: Path) -> Checkpoint:
        """Put the state of a checkpoint into the objective and the optimiser; the rest of it is returned."""
        checkpoint = load_checkpoint(path, self.meta.get("fingerprint"))
        check_schedule(path, checkpoint, self.config, self.epoch_steps)
        difference = first_difference(_without_schedule(checkpoint.meta), _without_schedule(self.meta))
        if difference is not None:
            name, found, expected = difference
            raise CheckpointError(f"{path}: found {name} {found}, expected {expected} as in this run")
        try:
            self.objective.load_state_dict(checkpoint.objective)
        except RuntimeError as error:
            raise CheckpointError(f"{path}: found another model, expected this one: {error}") from error
        load_optimizer(self.optimizer, checkpoint.optimizer, self.parameter_names)
        self.epoch_losses = checkpoint.losses.tolist()
        return replace(checkpoint, objective={}, optimizer={})

    def fit(self, progress: bool, start: Checkpoint) -> None:
        """Train to the end from the position of `start`."""
        monitor = run_together(lambda: self._monitor(progress, start))
        with Interruption() as interruption:
            with monitor:
                finished = self._epochs(start, monitor, interruption)
            if not finished:
                interruption.proceed()

    def _monitor(self, progress: bool, start: Checkpoint) -> Monitor:
        age = partial(self.objective.queue_age, batch_size=self.config.batch_size)
        return Monitor(
            self.run,
            epoch_steps=self.epoch_steps,
            epochs=self.config.total_epochs,
            step=start.step,
            terms=start.terms,
            term_names=start.term_names,
            log_every=self.config.log_every,
            progress=progress,
            explosion=self.config.explosion,
            queue_age=None if age(0) is None else age,
        )

    def _epochs(self, start: Header, monitor: Monitor, interruption: Interruption) -> bool:
        """Train from a position on; False when a signal came before the end."""
        for epoch in range(start.epoch, self.config.total_epochs):
            if not self._epoch(epoch, start.first_step if epoch == start.epoch else 0, monitor, interruption):
                return False
        return True

    def _epoch(self, epoch: int, first_step: int, monitor: Monitor, interruption: Interruption) -> bool:
        """Train one epoch from a step on; False when a signal came and the run is not done."""
        config, step = self.config, first_step
        self.objective.train()
        monitor.start_epoch(config.loss_terms(epoch))
        for batch, waited in _timed(self.views.epoch(epoch, first_step)):
            stop = interruption.agreed()
            due = config.checkpoint_steps > 0 and step > first_step and step % config.checkpoint_steps == 0
            if stop or due:
                self._save(epoch, step, monitor)
            if stop:
                return False
            if step == 0:  # after the stop: its checkpoint is that of the epoch before
                self._begin(epoch)
            rate = learning_rate(config, epoch, step, self.epoch_steps, self.epoch_losses)
            outcome, norm = self._step(batch, epoch, step, rate)
            monitor.record(outcome, batch, rate, waited=waited, gradient_norm=norm)
            step += 1
        assert step == self.epoch_steps, f"{step} steps in epoch {epoch}, {self.epoch_steps} announced"
        scores, seconds = self._probe(epoch)
        self.epoch_losses.append(monitor.end_epoch(epoch, rate, scores, seconds))
        stop, done = interruption.agreed(), epoch + 1
        last = done == config.total_epochs
        if last or stop or done % config.checkpoint_every == 0 or config.stays(done):
            self._save(done, 0, monitor)
        return last or not stop

    def _begin(self, epoch: int) -> None:
        """What comes before the first step of an epoch."""
        stage, progress = self.config.stage(epoch), self.config.progress(epoch, 0, self.epoch_steps)
        if stage is not None and stage.fresh and epoch == progress.epochs_before:
            self.optimizer.state.clear()
        if type(self.objective).begin_epoch is Objective.begin_epoch:
            return
        assert self.split is not None, f"{type(self.objective).__name__} needs the split between epochs"
        split = self.split
        run_together(lambda: self.objective.begin_epoch(progress, split) if rank() == 0 else None)
        self.objective.train()  # on rank 0 it may have been in evaluation
        broadcast_buffers(self.objective)

    def _step(self, batch: Views, epoch: int, step: int, rate: float) -> tuple[Outcome, Tensor]:
        """One step; what it gave, and the Euclidean norm of all gradients together.

        Until `statistics.end` nothing but the twins that `before_step` moves has changed.
        """
        config, objective = self.config, self.objective
        set_rate(self.optimizer, rate)
        objective.before_step(config.progress(epoch, step, self.epoch_steps))
        draws = objective.draw(config.seed, epoch, step, len(batch))
        reduced = config.precision == "bfloat16"
        self.statistics.begin()
        with torch.autocast(batch.label.device.type, torch.bfloat16, enabled=reduced, cache_enabled=False):
            loss, outcome = self._loss(epoch, batch, draws)(batch, draws)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = clip_gradients(self.parameters, config.clip, config.clip_scope)
        self.optimizer.step()
        self.statistics.end()
        objective.after_step(outcome)
        return outcome, norm

    def _loss(self, epoch: int, batch: Views, draws: Any) -> nn.Module:
        """The loss of the stage that `epoch` belongs to."""
        wanted = self.config.loss_terms(epoch)
        if wanted not in self.losses:
            known = {term for stage in self.config.stages if stage.epochs for term in stage.terms or ()}
            self.losses.clear()  # with what it holds for the exchange of gradients
            self.losses[wanted] = parallel(_Loss(self.objective, wanted, known), batch, draws)
        return self.losses[wanted]

    def _probe(self, epoch: int) -> tuple[dict[str, float] | None, float]:
        """Scores and seconds of the probe, if its turn has come."""
        every, done = self.config.probe_every, epoch + 1
        if not every or not (done % every == 0 or done == self.config.total_epochs):
            return None, 0.0
        start = time.perf_counter()
        return leader_first(self._scores), time.perf_counter() - start

    def _scores(self) -> dict[str, float] | None:
        if self.probe is None:
            return None
        return self.probe({name: cast(Encoder, encoder) for name, encoder in self.objective.encoders.items()})

    def state(self, epoch: int, step: int) -> Checkpoint:
        """What the next step depends on, after `step` steps of `epoch`."""
        return Checkpoint(
            epoch=epoch,
            step=epoch * self.epoch_steps + step,
            epoch_steps=self.epoch_steps,
            config=self.config.model_dump(mode="json"),
            meta=self.meta,
            objective=self.objective.state_dict(),
            optimizer=optimizer_tensors(self.optimizer, self.parameter_names),
            losses=torch.tensor(self.epoch_losses, dtype=torch.float64),
        )

    def _save(self, epoch: int, step: int, monitor: Monitor) -> None:
        monitor.check()
        monitor.sync()
        state = replace(self.state(epoch, step), terms=monitor.terms, term_names=monitor.term_names)
        leader_first(lambda: str(save_checkpoint(self.run, state, self.config.keep_checkpoints, self.config.stays)))


def _timed(batches: Iterator[Views]) -> Iterator[tuple[Views, float]]:
    """Each batch, and the seconds that the host waited for it."""
    while True:
        start = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        yield batch, time.perf_counter() - start


def _check(config: TrainConfig, epoch_steps: int, device: torch.device) -> None:
    """Refuse what cannot work, before anything is touched."""
    if epoch_steps == 0:
        raise ConfigError(
            f"found fewer training samples than batch_size {config.batch_size}, expected at least one batch"
        )
    if config.batch_size % world_size():
        raise ConfigError(f"found batch_size {config.batch_size}, expected a multiple of the {world_size()} ranks")
    check_precision(config.precision, device)


def _find_start(run: Path, resume: bool, config: TrainConfig, epoch_steps: int, meta: dict[str, Any]) -> Path | None:
    """The checkpoint to go on from, the same on all ranks; None to begin."""
    check_agreement(
        {
            "train": config.model_dump(mode="json"),
            "meta": meta,
            "steps of an epoch": epoch_steps,
            "resume": resume,
            "versions": {"skelstream": version("skelstream"), "torch": torch.__version__, **plugin_versions()},
        }
    )
    name = leader_first(lambda: _begin(run, resume))
    return None if name is None else run / FOLDER / name


def _begin(run: Path, resume: bool) -> str | None:
    """Make sure that a run may be written into the folder; the name of its last checkpoint."""
    path = latest_checkpoint(run)
    if not resume and has_begun(run):
        raise ConfigError(f"{run}: found a run, expected a new folder; resume it or choose another")
    run.mkdir(parents=True, exist_ok=True)
    if path is None and resume:
        _logger.warning("%s: no checkpoint to resume from, starting from scratch", run)
    return None if path is None else path.name


def _without_schedule(meta: dict[str, Any]) -> dict[str, Any]:
    """The leaves of a run's description but for the training configuration, which has rules of its own."""
    return {name: value for name, value in flatten(meta).items() if not name.startswith("config.train.")}
