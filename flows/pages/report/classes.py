"""Scores class by class, and which classes are taken for which."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from flows.pages.report.runs import Group, brief
from flows.scores.summary import lines, tested_on
from flows.tasks.frozen import class_scores_path
from models.evaluation.class_scores import read_class_scores
from models.evaluation.metrics import confusion_matrix
from models.evaluation.results import TaskResult
from shards.catalog import class_names

WORST = 10
"""Confusions that are named."""


@dataclass(frozen=True)
class ClassTable:
    """Shares of 1 by class; None where a class has no test sample.

    Attributes:
        title: task and data.
        columns: whose.
        rows: class -> a share for each column.
        absent: classes without a test sample in any column, which have no row.
        names: what each class is called.
    """

    title: str
    columns: tuple[str, ...]
    rows: dict[int, tuple[float | None, ...]]
    absent: tuple[int, ...]
    names: tuple[str, ...]


def class_tables(groups: Sequence[Group]) -> list[ClassTable]:
    """Of each task that is a single measurement: means of the seeds, of one group also of what it stands beside."""
    measured: dict[str, list[tuple[Group, TaskResult]]] = {}
    for group in groups:
        for title, rows in _measurements(group.results):
            own = [row for row in rows if row.subject == "trained" or len(groups) == 1]
            measured.setdefault(title, []).extend((group, row) for row in own)
    found = []
    for title, pairs in measured.items():
        names = brief([group for group in groups if any(own is group for own, _ in pairs)])
        columns: dict[str, list[Mapping[int, float | None]]] = {}
        for group, row in pairs:
            for name, values in _per_class(row).items():
                shown = name if len(groups) == 1 else name.replace("trained", names[group.name], 1)
                columns.setdefault(shown, []).append(values)
        found.append(_table(title, columns, class_names(tested_on(pairs[0][1])[0])))
    return found


def _measurements(results: Sequence[TaskResult]) -> Iterator[tuple[str, list[TaskResult]]]:
    titles: dict[str, list[TaskResult]] = {}
    for row in results:
        if row.details.get("per_class"):
            titles.setdefault(f"{row.task}, {' '.join(tested_on(row))}", []).append(row)
    for title, rows in titles.items():
        measured = lines(rows)
        if len(measured) == len({line.options for line in measured}):
            yield title, rows


def _table(
    title: str, columns: Mapping[str, Sequence[Mapping[int, float | None]]], names: tuple[str, ...]
) -> ClassTable:
    means = {name: _mean(repetitions) for name, repetitions in columns.items()}
    classes = sorted({label for values in means.values() for label in values})
    rows = {label: tuple(values.get(label) for values in means.values()) for label in classes}
    absent = tuple(label for label, shares in rows.items() if all(share is None for share in shares))
    present = {label: rows[label] for label in rows if label not in absent}
    return ClassTable(title, tuple(columns), present, absent, names)


def _per_class(result: TaskResult) -> dict[str, Mapping[int, float | None]]:
    """Title of a column -> label -> share."""
    found: Any = result.details.get("per_class", [])
    if isinstance(found, Mapping):
        return {f"{result.subject}, from an overlap of {tiou}": dict(enumerate(own)) for tiou, own in found.items()}
    return {result.subject: dict(enumerate(found))} if found else {}


def _mean(repetitions: Sequence[Mapping[int, float | None]]) -> dict[int, float | None]:
    """Over the repetitions that have test samples of a class; None where none has."""
    means: dict[int, float | None] = {}
    for label in repetitions[0]:
        known = [values[label] for values in repetitions]
        present = [value for value in known if value is not None]
        means[label] = sum(present) / len(present) if present else None
    return means


@dataclass(frozen=True)
class Confusions:
    """Of a group's linear probes, summed over its runs.

    Attributes:
        name: of the group, and what it was tested on.
        about: how many runs and samples.
        worst: the most frequent confusions in words.
        picture: for the script: `names` of the C classes, `samples` of each, `shares`: base64 of uint8 (C, C), rows the
            classes, columns what they are taken for, per cent rounded up, so that nothing that is there is 0.
    """

    name: str
    about: str
    worst: list[str]
    picture: dict[str, Any]


def confusions(groups: Sequence[Group]) -> list[Confusions]:
    """Of each group that has linear results; errors as of `read_class_scores`."""
    found = []
    names = brief(groups)
    for group in groups:
        counts: dict[str, list[npt.NDArray[np.int64]]] = {}
        for run in group.runs:
            row = next((row for row in run.results if row.task == "linear" and row.subject == "trained"), None)
            if row is not None:
                scores = read_class_scores(class_scores_path(run.path / "results", "linear", "trained", row.setting))
                own = confusion_matrix(scores.values.argmax(dim=1), scores.label, scores.values.shape[1])
                counts.setdefault(" ".join(tested_on(row)), []).append(own.to(torch.int64).numpy())
        for data, matrices in counts.items():
            classes = class_names(data.partition(" ")[0])
            found.append(_confusions(names[group.name], data, matrices, classes[: len(matrices[0])]))
    return found


def _confusions(name: str, data: str, matrices: Sequence[npt.NDArray[np.int64]], classes: Sequence[str]) -> Confusions:
    counts = np.sum(matrices, axis=0)
    samples = counts.sum(axis=1)
    shares = counts / np.maximum(samples, 1)[:, None]
    off = shares * ~np.eye(len(counts), dtype=np.bool_)
    order = np.argsort(-off, axis=None, kind="stable")[:WORST]
    pairs = [(int(place) // len(counts), int(place) % len(counts)) for place in order]
    worst = [
        f"{classes[label]}, taken for {classes[taken]}: {100 * shares[label, taken]:.0f} % of {samples[label]:,}"
        for label, taken in pairs
        if off[label, taken] > 0
    ]
    runs = "" if len(matrices) == 1 else f"{len(matrices)} runs, "
    percent = np.ceil(100 * shares - 1e-9).astype(np.uint8)
    picture = {
        "names": classes,
        "samples": samples.tolist(),
        "shares": base64.b64encode(percent.tobytes()).decode("ascii"),
    }
    return Confusions(f"{name}, {data}", f"{runs}{samples.sum():,} test samples", worst, picture)
