"""Results as people read them: a line a measurement, its repetitions as mean and deviation."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flows.tasks.config import EvaluateConfig
from flows.tasks.registry import TASKS
from models.evaluation.results import TaskResult, read_results
from models.training.distributed import flat
from shards.errors import SkelstreamError

REPEATED = ("seed", "draw")
"""Settings that tell repetitions of one measurement apart."""

# options from which repetitions are numbered
_NUMBERED = ("seed", "linear.seed", "finetune.seed")


class Line(NamedTuple):
    """A measurement: what was scored, how, and the scores in per cent."""

    task: str
    features: str
    setting: str
    scores: str
    options: str


def stored(folder: Path) -> list[TaskResult]:
    """All results of a folder of results, task by task.

    Raises:
        SkelstreamError: a file is garbled, of another version, or of another task than its name says.
    """
    found = []
    for name in TASKS:
        path = folder / f"{name}.json"
        rows = read_results(path) if path.is_file() else []
        for row in rows:
            if row.task != name:
                raise SkelstreamError(f"{path}: found a result of the task {row.task!r}, expected {name}")
        found += rows
    return found


def lines(results: Sequence[TaskResult]) -> list[Line]:
    """Of all results, in their order."""
    groups: dict[tuple[str, str, str, str], list[TaskResult]] = {}
    for result in results:
        setting = ", ".join(f"{name} {value}" for name, value in result.setting.items() if name not in REPEATED)
        groups.setdefault((result.task, result.subject, setting, options_text(result)), []).append(result)
    found = []
    for (task, subject, setting, options), rows in groups.items():
        names = [name for name in TASKS[task].shown if name in rows[0].scores]
        scores = ", ".join(f"{name} {percent([row.scores[name] for row in rows])}" for name in names)
        found.append(Line(task, subject, setting, scores, options))
    return found


def percent(values: Sequence[float]) -> str:
    """Mean and standard deviation of repetitions, or the one value."""
    mean = f"{100 * statistics.mean(values):.1f}"
    return f"{mean} %" if len(values) == 1 else f"{mean} +- {100 * statistics.stdev(values):.1f} % ({len(values)})"


def changes(result: TaskResult) -> dict[str, tuple[Any, Any]]:
    """Options of a result that are not the published ones: name -> (found, published)."""
    found, default = (flat(o) for o in (result.options, TASKS[result.task].options(EvaluateConfig(), result.subject)))
    names = sorted({*found, *default} - set(_NUMBERED))
    return {name: (found.get(name), default.get(name)) for name in names if found.get(name) != default.get(name)}


def conditions(result: TaskResult) -> dict[str, Any]:
    """Everything but the run that a score depends on."""
    options = {name: value for name, value in flat(result.options).items() if name not in _NUMBERED}
    return {**options, "data fingerprint": result.fingerprint, "recipe": result.recipe}


def options_text(result: TaskResult) -> str:
    """By which setting."""
    changed = ", ".join(f"{name} {value}" for name, (value, _) in changes(result).items())
    return changed or "published"
