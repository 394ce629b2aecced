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
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shards.errors import NO_SPACE, CheckpointError
from shards.manifest import write_atomic

LOG = "log.jsonl"
TIME_FIELDS = ("seconds", "samples_per_second", "stalled", "memory_gb")

_SCALARS = ("loss", "lr", "queue_age", "samples_per_second", "stalled", "memory_gb")


class RunLog:
    """Appends lines to the log of a run, after those of its first `step` steps; later ones are removed.

    Raises:
        CheckpointError: the log is garbled before that step; later, when there is no space for a line.
    """

    def __init__(self, run: Path, step: int) -> None:
        # imported late: it takes 0.5 s, and only training needs it
        from torch.utils.tensorboard.writer import SummaryWriter

        truncate_log(run, step)
        self._lines = (run / LOG).open("a", encoding="utf-8")
        self._events = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line, in both places."""
        with self._told_when_full():
            self._lines.write(json.dumps(line, allow_nan=False) + "\n")
            self._lines.flush()
        kind, step = line["kind"], line["step"]
        scalars = {f"{kind}/{name}": line[name] for name in _SCALARS if name in line}
        scalars |= {f"{kind}/{name}": value for part in ("terms", "metrics") for name, value in line[part].items()}
        scalars |= {f"probe/{name}": value for name, value in line.get("probe", {}).items()}
        for tag, value in scalars.items():
            self._events.add_scalar(tag, value, step)

    def sync(self) -> None:
        """Return when the lines are safely on disk."""
        with self._told_when_full():
            os.fsync(self._lines.fileno())
            self._events.flush()

    @contextmanager
    def _told_when_full(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            raise CheckpointError(
                f"{self._lines.name}: found no space left ({error.strerror}), expected room for the log; resume from"
                " the last checkpoint"
            ) from error

    def close(self) -> None:
        """Write what is pending and close the files."""
        self._events.close()
        self._lines.close()


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
