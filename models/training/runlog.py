"""The log of a run on disk: `log.jsonl`, made to be read, and the same numbers as TensorBoard events.

`log.jsonl` holds a line for every epoch and one for every `log_every` steps of it:
    kind ("epoch" or "step"), epoch (from 0), step (done since the run began), lr.
    loss: sum of the terms that are trained. terms: each one's mean over the epoch's steps, or the last `log_every`.
    metrics: "accuracy/<pair>" and what else the objective watches, and gradient_norm: means over the same steps;
        gradient_norm_max; feature_std and effective_rank of the last step's features (see `collapse`).
    queue_age: steps since the oldest key in the queue was pushed, for objectives with a queue.
    probe: scores, in epoch lines that have them.
    seconds, samples_per_second, stalled (share of the time that waited for a batch) and memory_gb (10^9 bytes: CUDA's
        peak, or what the process has resident), the only fields in which a resumed run differs from an undisturbed one.
Of several ranks the values are means, samples_per_second is of all together, and memory_gb of the first.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models.training.growing_files import EventFile, GrowingFile
from shards.errors import CheckpointError, describe_refusal
from shards.files import write_atomic
from shards.progress import tell

LOG = "log.jsonl"
EVENTS = "tensorboard"
TIME_FIELDS = ("seconds", "samples_per_second", "stalled", "memory_gb")

_SCALARS = ("loss", "lr", "queue_age", "samples_per_second", "stalled", "memory_gb")


class RunLog:
    """Appends lines to the log of a run, after those of its first `step` steps; later ones are removed.

    A run goes on without events when they cannot be written, and says so once: the log has the same numbers.

    Raises:
        CheckpointError: the log is garbled before that step; or, later too, it cannot be written.
    """

    def __init__(self, run: Path, step: int) -> None:
        self._path = run / LOG
        with self._name_refusals():
            truncate_log(run, step)
            self._lines = GrowingFile(self._path)
        self._events: EventFile | None = None
        with self._given_up(run / EVENTS):
            self._events = EventFile(run / EVENTS, step + 1)

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line, in both places."""
        with self._name_refusals():
            self._lines.append(f"{json.dumps(line, allow_nan=False)}\n".encode())
        if self._events is None:
            return
        kind, step = line["kind"], line["step"]
        scalars = {f"{kind}/{name}": line[name] for name in _SCALARS if name in line}
        scalars |= {f"{kind}/{name}": value for part in ("terms", "metrics") for name, value in line[part].items()}
        scalars |= {f"probe/{name}": value for name, value in line.get("probe", {}).items()}
        with self._given_up(self._path.with_name(EVENTS)):
            self._events.append(scalars, step)

    def sync(self) -> None:
        """Return when the lines are safely on disk."""
        with self._name_refusals():
            self._lines.sync()

    def close(self) -> None:
        """Close the files."""
        if self._events is not None:
            self._events.close()
        self._lines.close()

    @contextmanager
    def _name_refusals(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            found, expected = describe_refusal(error)
            raise CheckpointError(
                f"{self._path}: found {found}, expected {expected} for the log; resume from the last checkpoint"
            ) from error

    @contextmanager
    def _given_up(self, folder: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._events = None
            found, expected = describe_refusal(error)
            tell(
                f"skelstream: {folder}: found {found}, expected {expected} for TensorBoard's events: the training goes"
                f" on without them, {LOG} has the same numbers"
            )


def read_log(run: Path, kind: str = "epoch") -> tuple[dict[str, Any], ...]:
    """The lines of that kind of a run's log, the first epoch first; none when there is no log.

    Lines of older versions have no metrics, queue_age, stalled and memory_gb.

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
