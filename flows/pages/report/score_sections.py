"""All scores of a run as sections of the report: of each task its table, and its scores by group of samples."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from flows.scores.summary import Line, lines, subjects
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
        options: the choice, as of `options_text`.
        lines: a measurement each.
        subjects: whose scores the lines have.
        tables: scores by group of samples.
    """

    task: str
    options: str
    lines: list[Line]
    subjects: list[str]
    tables: list[Table]


def sections(results: Sequence[TaskResult]) -> list[Section]:
    """Of the results of one folder, task by task."""
    found = []
    for task, rows in groupby(results, key=lambda result: result.task):
        own = list(rows)
        tables = list(_tables(own))
        for options, part in groupby(lines(own), key=lambda line: line.options):
            measured = list(part)
            found.append(Section(task, options, measured, subjects(measured), tables))
            # they belong to the task as a whole
            tables = []
    return found


def _tables(results: Sequence[TaskResult]) -> Iterator[Table]:
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
                (group, *(f"{100 * own[group]['accuracy']:.1f}" for own in groups.values()), str(own_count))
                for group, own_count in ((group, first[group]["samples"]) for group in first)
            )
            yield Table(f"by {name}, %", (name, *groups, "samples"), tuple(rows))
