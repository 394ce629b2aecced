"""What a run tells while it goes on: its log (see `runlog`), a progress bar, and an error when the loss runs away."""

import math
import resource
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from models.collectives import gather_rows, rank, world_size
from models.objectives.objective import Outcome
from models.training.collapse import effective_rank, feature_std
from models.training.divergence import HISTORY, DivergenceError, find_fault
from models.training.runlog import RunLog
from shards.batch import Views
from shards.errors import CheckpointError
from shards.progress import Progress

# reading a loss from a GPU waits for all its work: one wait in ten steps, and NaN is still caught before any checkpoint
_STEPS_PER_CHECK = 10

# tells the columns of a checkpoint's table that are watched from those that are loss terms
_METRIC = "metric:"


class _Step(NamedTuple):
    """A step that was not read yet: values (K,) of its columns, ids (N,) of its samples, seconds it waited for them."""

    values: Tensor
    sample_id: Tensor
    waited: float


class Monitor:
    """Collects what the steps of a run give, and writes what there is to tell of them.

    Every rank has one, and calls it at the same steps with its own outcomes; what it reads are the means over the
    ranks, and only that of rank 0 writes. `record` waits for the device and for the other ranks in one step of ten.

    Args:
        run: folder of the run.
        epoch_steps: steps in an epoch.
        epochs: epochs of the whole run.
        step: steps done before; log lines and events beyond are removed.
        terms: (S, K), the columns of the S steps done of the current epoch, as `terms` gave them.
        term_names: their names, as `term_names` gave them.
        log_every: steps in a step line.
        progress: whether to show the bar.
        explosion: times the median loss above which a step stops the run, see `divergence.loss_limit`; 0 for never.
        queue_age: steps since the oldest key in the objective's queue was pushed, after that many steps of the run.

    Raises:
        CheckpointError: the log is garbled before that step.
    """

    def __init__(
        self,
        run: Path,
        *,
        epoch_steps: int,
        epochs: int,
        step: int,
        terms: Tensor,
        term_names: Sequence[str],
        log_every: int,
        progress: bool,
        explosion: float = 0.0,
        queue_age: Callable[[int], float | None] | None = None,
    ) -> None:
        self.term_names = tuple(term_names)
        self._rows: list[list[float]] = terms.tolist()
        self._history = deque(self._rows, maxlen=HISTORY)
        self._pending: list[_Step] = []
        self._features: Tensor | None = None
        self._loss_terms: tuple[str, ...] | None = None
        self._epoch_steps, self._epochs, self._step = epoch_steps, epochs, step
        self._log_every, self._explosion, self._queue_age = log_every, explosion, queue_age
        self._epoch_clock, self._window_clock = _Clock(), _Clock()
        self._log = RunLog(run, step) if rank() == 0 else None
        # the mean since the start, probes included, tells the time left; tqdm's own, over seconds, jumps with them
        self._bar = Progress(
            self._title(), epochs * epoch_steps, "step", shown=progress and rank() == 0, done=step, steady=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._log is not None:
            self._log.close()

    @property
    def terms(self) -> Tensor:
        """(S, K) float64, for each step done of the unfinished epoch its terms and metrics; call `check` before."""
        return torch.tensor(self._rows, dtype=torch.float64).reshape(len(self._rows), len(self.term_names))

    def start_epoch(self, loss_terms: Sequence[str] | None = None) -> None:
        """Time what follows. `loss_terms`: the terms that are summed into the loss in this epoch; None: all."""
        self._loss_terms = None if loss_terms is None else tuple(loss_terms)
        self._epoch_clock, self._window_clock = _Clock(), _Clock()
        self._bar.entitle(self._title())

    def record(
        self, outcome: Outcome, views: Views, lr: float, *, waited: float = 0.0, gradient_norm: Tensor | None = None
    ) -> None:
        """Take the outcome of a step just done.

        Args:
            outcome: of this rank; its terms and metrics have the same names in every step.
            views: that this rank had.
            lr: the step's learning rate.
            waited: seconds for which the step waited for its views.
            gradient_norm: scalar.

        Raises:
            CheckpointError: other names than those of the unfinished epoch that a checkpoint held.
            DivergenceError: see `check`.
        """
        columns = outcome.terms | {_METRIC + name: value for name, value in outcome.metrics.items()}
        if gradient_norm is not None:
            columns[_METRIC + "gradient_norm"] = gradient_norm
        self.term_names = self.term_names or tuple(columns)
        if self.term_names != tuple(columns):
            raise CheckpointError(f"found a step with {tuple(columns)}, expected {self.term_names} as in those before")
        values = torch.stack([value.detach() for value in columns.values()])
        self._pending.append(_Step(values, views.sample_id, waited))
        self._features = outcome.features
        self._step += 1
        for clock in (self._epoch_clock, self._window_clock):
            clock.samples += len(views) * world_size()
        self._bar.advance()
        done = len(self._rows) + len(self._pending)
        if done % self._log_every == 0:
            self.check()
            self._write("step", (self._step - 1) // self._epoch_steps, lr, self._rows[-self._log_every :])
            self._window_clock = _Clock()
        elif len(self._pending) >= _STEPS_PER_CHECK:
            self.check()

    def check(self) -> None:
        """Read the steps since the last check.

        Raises:
            DivergenceError: on all ranks, when a value is NaN or infinite on any of them, or the loss has exploded.
        """
        if not self._pending:
            return
        values = torch.stack([step.values for step in self._pending]).double()
        waited = values.new_tensor([[step.waited] for step in self._pending])
        # (ranks, steps, columns), the same on all ranks, so that all come to the same decision; from the CPU, so that
        # the exchange waits for no work of the device
        table = gather_rows(torch.cat([values, waited], dim=1).cpu()).reshape(world_size(), len(values), -1)
        rows: list[list[float]] = table[:, :, :-1].mean(0).tolist()
        names = [name.removeprefix(_METRIC) for name in self.term_names]
        for number, row in enumerate(rows):
            ranks = table[:, number, :-1].tolist()
            fault = find_fault(names, self._loss_places(), ranks, row, self._history, self._explosion)
            if fault is not None:
                raise self._divergence(number, *fault)
            self._history.append(row)
        self._pending.clear()
        self._rows += rows
        for clock in (self._epoch_clock, self._window_clock):
            clock.waited += float(table[:, :, -1].mean(0).sum())
        loss, speed = sum(rows[-1][place] for place in self._loss_places()), self._epoch_clock.fields()
        rate, stalled = speed["samples_per_second"], speed["stalled"]
        self._bar.remark(f"loss {loss:.4g}, {rate:.0f} samples/s, {stalled:.0%} stalled")

    def end_epoch(self, epoch: int, lr: float, probe: Mapping[str, float] | None, probe_seconds: float = 0.0) -> float:
        """Write the epoch's line, safely on disk before the checkpoint that counts on it; its mean loss."""
        self.check()
        self._write("epoch", epoch, lr, self._rows, probe, probe_seconds)
        self.sync()
        places, rows = self._loss_places(), self._rows
        self._rows = []
        return math.fsum(row[place] for row in rows for place in places) / len(rows)

    def sync(self) -> None:
        """Return when the lines written are safely on disk."""
        if self._log is not None:
            self._log.sync()

    def _title(self) -> str:
        return f"epoch {min(self._step // self._epoch_steps + 1, self._epochs)} of {self._epochs}"

    def _loss_places(self) -> list[int]:
        """Places of the columns whose sum is the loss."""
        return [place for place, name in enumerate(self.term_names) if self._in_loss(name)]

    def _in_loss(self, name: str) -> bool:
        return not name.startswith(_METRIC) if self._loss_terms is None else name in self._loss_terms

    def _divergence(self, number: int, culprit: int, fault: str) -> DivergenceError:
        """The error of the pending step `number`, with the samples that rank `culprit` had."""
        epoch, within = divmod(self._step - len(self._pending) + number, self._epoch_steps)
        samples = gather_rows(self._pending[number].sample_id.cpu()).reshape(world_size(), -1)[culprit].tolist()
        whose = f" of rank {culprit}" if world_size() > 1 else ""
        return DivergenceError(
            f"epoch {epoch}, step {within} of {self._epoch_steps} (both from 0): {fault}; samples {samples}{whose}"
        )

    def _write(
        self,
        kind: str,
        epoch: int,
        lr: float,
        rows: Sequence[Sequence[float]],
        probe: Mapping[str, float] | None = None,
        pause: float = 0.0,
    ) -> None:
        assert self._features is not None
        features = gather_rows(self._features.double())
        if self._log is None:
            return
        columns = dict(zip(self.term_names, zip(*rows, strict=True), strict=True))
        means = {name: math.fsum(column) / len(rows) for name, column in columns.items()}
        terms = {name: mean for name, mean in means.items() if not name.startswith(_METRIC)}
        metrics = {name.removeprefix(_METRIC): mean for name, mean in means.items() if name.startswith(_METRIC)}
        if "gradient_norm" in metrics:
            metrics["gradient_norm_max"] = max(columns[_METRIC + "gradient_norm"])
        metrics |= {"feature_std": feature_std(features), "effective_rank": effective_rank(features)}
        loss = math.fsum(mean for name, mean in terms.items() if self._in_loss(name))
        line: dict[str, Any] = {"kind": kind, "epoch": epoch, "step": self._step, "lr": lr}
        line |= {"loss": loss, "terms": terms, "metrics": metrics}
        if self._queue_age is not None:
            line["queue_age"] = self._queue_age(self._step)
        if probe is not None:
            line["probe"] = dict(probe)
        clock = self._epoch_clock if kind == "epoch" else self._window_clock
        line |= clock.fields(pause) | {"memory_gb": round(_memory(self._features.device) / 1e9, 3)}
        self._log.write(line)


class _Clock:
    """Time since it was made, samples, and how long they were waited for."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.samples = 0
        self.waited = 0.0

    def fields(self, pause: float = 0.0) -> dict[str, float]:
        """What a log line says of the time, without `pause` seconds of it."""
        seconds = max(time.perf_counter() - self._start - pause, 1e-9)
        return {
            "seconds": round(seconds, 3),
            "samples_per_second": round(self.samples / seconds, 1),
            "stalled": round(min(self.waited / seconds, 1.0), 4),
        }


def _memory(device: torch.device) -> int:
    """Bytes: the peak that CUDA's allocator gave to tensors, or what the process has resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    resident = Path("/proc/self/statm")
    if resident.exists():
        return int(resident.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes, and the peak, where there is no /proc
