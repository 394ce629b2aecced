"""What a run tells: `log.jsonl`, TensorBoard events, a progress bar, and an error when the loss leaves the numbers.

`log.jsonl` holds a line for every epoch and one for every `log_every` steps of it:
    kind ("epoch" or "step"), epoch (from 0), step (done since the run began), lr, loss (sum of the terms), terms (each
    one's mean over the epoch's steps, or over the last `log_every`), probe (scores, in epoch lines that have them), and
    seconds and samples_per_second, the only fields in which a resumed run differs from an undisturbed one.
"""

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from tqdm import tqdm

from shards.batch import Views
from shards.errors import CheckpointError, SkelstreamError
from shards.manifest import write_atomic

LOG = "log.jsonl"
TIME_FIELDS = ("seconds", "samples_per_second")

# reading a loss from a GPU waits for all its work: one wait in ten steps, and NaN is still caught before any checkpoint
_STEPS_PER_CHECK = 10


class DivergenceError(SkelstreamError):
    """The loss is no longer a finite number."""


class Monitor:
    """Collects the loss terms of a run, step by step, and writes what there is to tell of them.

    Args:
        run: folder of the run.
        epoch_steps: steps in an epoch.
        epochs: epochs of the whole run.
        step: steps done before; log lines and events beyond are removed.
        terms: (S, K), terms of the S steps done of the current epoch.
        term_names: their names.
        log_every: steps in a step line.
        progress: whether to show the bar.

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
    ) -> None:
        # imported late: it takes 0.5 s, and only training needs it
        from torch.utils.tensorboard.writer import SummaryWriter

        truncate_log(run, step)
        self.term_names = tuple(term_names)
        self._rows: list[list[float]] = terms.tolist()
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._epoch_steps = epoch_steps
        self._log_every = log_every
        self._step = step
        self._epoch_clock, self._window_clock = _Clock(), _Clock()
        self._log = (run / LOG).open("a", encoding="utf-8")
        self._events = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)
        self._bar = tqdm(
            total=epochs * epoch_steps,
            initial=step,
            unit="step",
            disable=not progress,
            desc="train",
            dynamic_ncols=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._events.close()
        self._log.close()

    @property
    def terms(self) -> Tensor:
        """(S, K) float64, terms of the steps done of the unfinished epoch; call `check` before."""
        return torch.tensor(self._rows, dtype=torch.float64).reshape(len(self._rows), len(self.term_names))

    def start_epoch(self) -> None:
        """Time what follows."""
        self._epoch_clock, self._window_clock = _Clock(), _Clock()

    def record(self, terms: Mapping[str, Tensor], views: Views, lr: float) -> None:
        """Take the terms of a step just done."""
        self.term_names = self.term_names or tuple(terms)
        values = torch.stack([terms[name].detach() for name in self.term_names])
        self._pending.append((values, views.sample_id))
        self._step += 1
        self._epoch_clock.samples += len(views)
        self._window_clock.samples += len(views)
        self._bar.update()
        done = len(self._rows) + len(self._pending)
        if done % self._log_every == 0:
            self.check()
            self._write("step", (self._step - 1) // self._epoch_steps, lr, self._rows[-self._log_every :])
            self._window_clock = _Clock()
        elif len(self._pending) >= _STEPS_PER_CHECK:
            self.check()

    def check(self) -> None:
        """Read the terms of the steps since the last check.

        Raises:
            DivergenceError: one of them is NaN or infinite.
        """
        if not self._pending:
            return
        rows = torch.stack([values for values, _ in self._pending]).double().tolist()
        first = self._step - len(rows)
        for number, (row, (_, sample_id)) in enumerate(zip(rows, self._pending, strict=True)):
            if not all(map(math.isfinite, row)):
                raise self._divergence(first + number, row, sample_id)
        self._pending.clear()
        self._rows += rows
        rate = self._epoch_clock.rate()
        self._bar.set_postfix_str(f"loss {sum(rows[-1]):.4g}, {rate:.0f} samples/s", refresh=False)

    def end_epoch(self, epoch: int, lr: float, probe: Mapping[str, float] | None, probe_seconds: float = 0.0) -> None:
        """Write the epoch's line, safely on disk before the checkpoint that counts on it."""
        self.check()
        self._write("epoch", epoch, lr, self._rows, probe, probe_seconds)
        os.fsync(self._log.fileno())
        self._events.flush()
        self._rows = []

    def _divergence(self, step: int, row: Sequence[float], sample_id: Tensor) -> DivergenceError:
        epoch, within = divmod(step, self._epoch_steps)
        terms = ", ".join(f"{name} {value:.6g}" for name, value in zip(self.term_names, row, strict=True))
        return DivergenceError(
            f"epoch {epoch}, step {within} of {self._epoch_steps} (both from 0): found the loss terms {terms}, "
            f"expected finite numbers; samples {sample_id.tolist()}"
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
        terms = {name: math.fsum(row[i] for row in rows) / len(rows) for i, name in enumerate(self.term_names)}
        line: dict[str, Any] = {"kind": kind, "epoch": epoch, "step": self._step, "lr": lr}
        line |= {"loss": math.fsum(terms.values()), "terms": terms}
        if probe is not None:
            line["probe"] = dict(probe)
        clock = self._epoch_clock if kind == "epoch" else self._window_clock
        line |= {"seconds": round(clock.seconds() - pause, 3), "samples_per_second": round(clock.rate(pause), 1)}
        self._log.write(json.dumps(line, allow_nan=False) + "\n")
        self._log.flush()
        self._write_events(line)

    def _write_events(self, line: Mapping[str, Any]) -> None:
        kind, step = line["kind"], line["step"]
        scalars = {f"{kind}/{name}": line[name] for name in ("loss", "lr", "samples_per_second")}
        scalars |= {f"{kind}/{name}": value for name, value in line["terms"].items()}
        scalars |= {f"probe/{name}": value for name, value in line.get("probe", {}).items()}
        for tag, value in scalars.items():
            self._events.add_scalar(tag, value, step)


class _Clock:
    """Samples since it was made, and time."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.samples = 0

    def seconds(self) -> float:
        return time.perf_counter() - self._start

    def rate(self, pause: float = 0.0) -> float:
        return self.samples / max(self.seconds() - pause, 1e-9)


def read_log(run: Path, kind: str = "epoch") -> tuple[dict[str, Any], ...]:
    """The lines of that kind of a run's log, the first epoch first; none when there is no log.

    Raises:
        CheckpointError: a line that is not one of ours.
    """
    return tuple(line for line in _read_lines(run / LOG) if line["kind"] == kind)


def truncate_log(run: Path, step: int) -> None:
    """Remove the lines beyond `step` steps, and half a line at the end."""
    path = run / LOG
    if not path.exists():
        return
    kept = [line for line in _read_lines(path) if line["step"] <= step]
    write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept).encode())


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = []
    # what follows the last line end is half a line, left by a process that was killed as it wrote
    for number, text in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            line = json.loads(text)
            complete = {"kind", "step", "epoch"} <= line.keys()
        except (ValueError, AttributeError):
            complete = False
        if not complete:
            raise CheckpointError(f"{path}: line {number}: found {text[:60]!r}, expected a line of a training log")
        lines.append(line)
    return lines
