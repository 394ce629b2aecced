"""Scores as sections of the report: of each task its table, its figures, and what lies behind its numbers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from markupsafe import Markup

from flows.score_figures import score_figures
from flows.tasks.summary import Line, lines, subjects
from models.evaluation.results import TaskResult

GROUPS = ("by_subject", "by_camera", "by_length")


@dataclass(frozen=True)
class Table:
    """Text in rows; the first column names them."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """A task by one choice of options.

    Attributes:
        task: its name.
        options: the choice, "published" for the published one.
        lines: a measurement each.
        subjects: whose scores the lines have.
        figures: SVG elements.
        tables: scores by class and by group of samples.
    """

    task: str
    options: str
    lines: list[Line]
    subjects: list[str]
    figures: list[Markup]
    tables: list[Table]


def sections(folder: Path, results: Sequence[TaskResult]) -> list[Section]:
    """Of the results of one folder, task by task.

    Raises:
        StoreError: a file that results speak of is gone or garbled.
    """
    found = []
    for task, rows in groupby(results, key=lambda result: result.task):
        own = list(rows)
        figures, tables = score_figures(folder, own), list(_tables(own))
        for options, part in groupby(lines(own), key=lambda line: line.options):
            measured = list(part)
            found.append(Section(task, options, measured, subjects(measured), figures, tables))
            # they belong to the task as a whole
            figures, tables = [], []
    return found


def _tables(results: Sequence[TaskResult]) -> Iterator[Table]:
    """By class where the task is a single measurement, and by group."""
    by_class: dict[str, list[Mapping[int, float | None]]] = {}
    for result in results:
        for name, values in _per_class(result).items():
            by_class.setdefault(name, []).append(values)
    measured = lines(results)
    if by_class and len(measured) == len({line.options for line in measured}):
        columns = {name: _mean(repetitions) for name, repetitions in by_class.items()}
        classes = sorted({label for values in columns.values() for label in values})
        rows = ((str(label), *(_cell(values.get(label)) for values in columns.values())) for label in classes)
        yield Table("by class, %", ("class", *columns), tuple(rows))
    for key in GROUPS:
        groups: dict[str, Any] = {}
        for result in results:
            if key in result.details:
                # of repetitions the first
                groups.setdefault(result.subject, result.details[key])
        if groups:
            name = key.removeprefix("by_")
            first = next(iter(groups.values()))
            rows = (
                (group, *(_cell(own[group]["accuracy"]) for own in groups.values()), str(first[group]["samples"]))
                for group in first
            )
            yield Table(f"by {name}, %", (name, *groups, "samples"), tuple(rows))


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


def _cell(share: float | None) -> str:
    return "no sample" if share is None else f"{100 * share:.1f}"
