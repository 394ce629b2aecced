"""Results as people read them: a line a measurement, its repetitions as mean and deviation."""

import statistics
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flows.tasks.official import official
from flows.tasks.registry import TASKS
from models.evaluation.results import TaskResult, read_results
from shards.errors import SkelstreamError
from shards.skeleton import STREAMS
from shards.trees import flatten

REPEATED = ("seed", "draw")
"""Settings that tell repetitions of one measurement apart."""

DATA_CONDITIONS = ("data fingerprint", "recipe")
"""The `conditions` of a result that are none of its options."""

# options from which repetitions are numbered
_NUMBERED = ("seed", "linear.seed", "finetune.seed")

# where fused runs lie; the details name their checkpoints
_PLACES = ("bone", "motion")


class Line(NamedTuple):
    """A measurement: how it was made, and of each subject its scores in per cent."""

    task: str
    setting: str
    options: str
    scores: dict[str, str]


def read_stored(folder: Path) -> list[TaskResult]:
    """All results of a folder of results, task by task; errors as of `of_task`.

    Those of a run's further streams lie in folders below; their settings name the stream.
    """
    rows = [row for name in TASKS for row in of_task(folder, name)]
    for stream in STREAMS:
        for name in TASKS:
            rows += [
                row.model_copy(update={"setting": {**row.setting, "stream": stream}})
                for row in of_task(folder / stream, name)
            ]
    return rows


def of_task(folder: Path, name: str) -> list[TaskResult]:
    """The results of a task in a folder of results.

    Raises:
        SkelstreamError: the file is garbled, of another version, or of another task than its name says.
    """
    path = folder / f"{name}.json"
    rows = read_results(path) if path.is_file() else []
    for row in rows:
        if row.task != name:
            raise SkelstreamError(f"{path}: found a result of the task {row.task!r}, expected {name}")
    return rows


def lines(results: Sequence[TaskResult]) -> list[Line]:
    """Of all results, in their order; the subjects of a measurement side by side."""
    found: dict[tuple[str, str, str], dict[str, list[TaskResult]]] = {}
    for result in results:
        setting = ", ".join(f"{name} {value}" for name, value in sorted(result.setting.items()) if name not in REPEATED)
        subjects = found.setdefault((result.task, setting, options_text(result)), {})
        subjects.setdefault(result.subject, []).append(result)
    return [Line(*key, {name: _scores(rows) for name, rows in subjects.items()}) for key, subjects in found.items()]


def subjects(found: Sequence[Line]) -> list[str]:
    """Whose scores there are."""
    return list(dict.fromkeys(name for line in found for name in line.scores))


def _scores(rows: Sequence[TaskResult]) -> str:
    """Of repetitions; the first score needs no name where it is the accuracy."""
    names = [name for name in TASKS[rows[0].task].shown if name in rows[0].scores]
    texts = [(name, percent([row.scores[name] for row in rows])) for name in names]
    return ", ".join(text if name == "accuracy" else f"{name} {text}" for name, text in texts)


def align_columns(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Rows of equal length as lines whose columns stand below each other; those of the numbers `right` to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def percent(values: Sequence[float]) -> str:
    """Mean and standard deviation of repetitions, or the one value."""
    mean = f"{100 * statistics.mean(values):.1f}"
    return f"{mean} %" if len(values) == 1 else f"{mean} +- {100 * statistics.stdev(values):.1f} % ({len(values)})"


def tested_on(result: TaskResult) -> tuple[str, str]:
    """Data set and protocol of the test samples: of a transfer not those that the run has learned from."""
    data = result.details if result.task == "transfer" else {}
    return str(data.get("dataset", result.dataset)), str(data.get("protocol", result.protocol))


def changes(result: TaskResult) -> dict[str, tuple[Any, Any]]:
    """Options of a result that are not the official ones of its encoder's family: name -> (found, official)."""
    expected = TASKS[result.task].options(official(result.family), result.subject)
    found, default = flatten(result.options), flatten(expected)
    names = sorted({*found, *default} - {*_NUMBERED, *_PLACES})
    return {name: (found.get(name), default.get(name)) for name in names if found.get(name) != default.get(name)}


def conditions(result: TaskResult) -> dict[str, Any]:
    """Everything but the run that a score depends on."""
    options = {name: value for name, value in flatten(result.options).items() if name not in (*_NUMBERED, *_PLACES)}
    return {**options, **dict(zip(DATA_CONDITIONS, (result.fingerprint, result.recipe), strict=True))}


def options_text(result: TaskResult) -> str:
    """By which setting: the official one of the encoder's family, and what was changed of it."""
    changed = (f"{name} {value}" for name, (value, _) in changes(result).items())
    return ", ".join((f"official {result.family}", *changed))
