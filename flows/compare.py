"""`skelstream compare`: results of several runs in one table, beside published figures, where they compare."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flows.published import PUBLISHED, Published
from flows.tasks.registry import TASKS
from flows.tasks.summary import REPEATED, changes, conditions, percent, stored
from models.evaluation.results import Setting, TaskResult, read_results
from shards.errors import ConfigError

Format = Literal["markdown", "csv", "latex"]


@dataclass(frozen=True)
class Column:
    """One score of one row of a task on one protocol; only figures of one column are compared."""

    task: str
    dataset: str
    protocol: str
    setting: tuple[tuple[str, Any], ...]
    score: str

    @property
    def title(self) -> str:
        setting = ", ".join(f"{name} {value}" for name, value in self.setting)
        score = "" if self.score == "accuracy" else self.score
        return " ".join(filter(None, (self.task, self.dataset, self.protocol, setting, score)))


@dataclass(frozen=True)
class Comparison:
    """A table of text.

    Attributes:
        header: titles of the columns; the first is that of the rows' names.
        rows: name, then a cell for each column.
        notes: what the reader has to know of it.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def load(paths: Sequence[Path]) -> dict[str, list[TaskResult]]:
    """The results of run folders or of single files, by run.

    Raises:
        ConfigError: a path that holds no results.
        SkelstreamError: a file that is garbled or of another version.
    """
    found: dict[str, list[TaskResult]] = {}
    for path in paths:
        rows = read_results(path) if path.is_file() else stored(path / "results")
        if not rows:
            raise ConfigError(f"{path}: found no results, expected a scored run or a file of results")
        name = path.parent.parent if path.is_file() else path
        found.setdefault(str(name), []).extend(rows)
    return found


def compare(runs: Mapping[str, Sequence[TaskResult]], *, baselines: bool = False) -> Comparison:
    """Put results side by side.

    Args:
        runs: name -> results.
        baselines: also the encoders before training and the coordinates.

    Raises:
        ConfigError: figures of one column were made by different settings or on different data, and which.
    """
    cells: dict[tuple[str, Column], list[float]] = {}
    first: dict[Column, tuple[str, TaskResult]] = {}
    for name, results in runs.items():
        for result in results:
            if result.subject != "trained" and not baselines:
                continue
            row = name if result.subject == "trained" else f"{name}: {result.subject}"
            row = f"{row} ({result.method}, {result.stream})"
            for column in _columns(result):
                known = first.setdefault(column, (name, result))
                if result.subject == known[1].subject:
                    _check(column, *known, name, result)
                cells.setdefault((row, column), []).append(result.scores[column.score])
    columns = sorted(first, key=_place)
    published, notes = _published(columns, first)
    rows = [
        (row, *(_cell(cells.get((row, column), ())) for column in columns))
        for row in dict.fromkeys(r for r, _ in cells)
    ]
    return Comparison(("", *(column.title for column in columns)), (*rows, *published), notes)


def _columns(result: TaskResult) -> list[Column]:
    setting = tuple(item for item in result.setting.items() if item[0] not in REPEATED)
    names = [name for name in TASKS[result.task].shown if name in result.scores]
    data = result.details if result.task == "transfer" else {}
    dataset, protocol = data.get("dataset", result.dataset), data.get("protocol", result.protocol)
    return [Column(result.task, str(dataset), str(protocol), setting, name) for name in names]


def _place(column: Column) -> tuple[Any, ...]:
    task = TASKS[column.task]
    return list(TASKS).index(column.task), column.dataset, column.protocol, task.shown.index(column.score)


def _check(column: Column, name: str, expected: TaskResult, other: str, found: TaskResult) -> None:
    """Refuse two results whose numbers mean different things."""
    here, there = conditions(found), conditions(expected)
    for key in sorted({*here, *there}):
        if here.get(key) != there.get(key):
            raise ConfigError(
                f"{column.title}: found {key} {here.get(key)!r} in {other} and {there.get(key)!r} in {name}, expected"
                " equal ones: such figures do not compare"
            )


def _cell(values: Sequence[float]) -> str:
    """Per cent, with the number of repetitions; empty where there is nothing."""
    return percent(values).replace(" %", "") if values else ""


def _published(
    columns: Sequence[Column], first: Mapping[Column, tuple[str, TaskResult]]
) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Rows of published figures, for the columns whose results were made by the published settings."""
    notes: list[str] = []
    official: list[Column] = []
    for column in columns:
        changed = changes(first[column][1])
        if not changed:
            official.append(column)
        elif any(_fits(figure, column) for figure in PUBLISHED):
            name, (found, expected) = next(iter(changed.items()))
            why = f"{name} is {found!r} and the published setting {expected!r}"
            notes.append(f"{column.title}: no published figures beside it, since {why}")
    rows: dict[tuple[str, str], dict[Column, str]] = {}
    for figure in PUBLISHED:
        for column in official:
            if _fits(figure, column):
                rows.setdefault((figure.method, figure.source), {})[column] = f"{figure.value:.1f}"
    sources = dict.fromkeys(source for _, source in rows)
    notes += [f"published: {source}" for source in sources]
    return [
        (f"{name} (published)", *(row.get(column, "") for column in columns)) for (name, _), row in rows.items()
    ], tuple(notes)


def _fits(figure: Published, column: Column) -> bool:
    same = (figure.task, figure.dataset, figure.protocol, figure.score) == (
        column.task, column.dataset, column.protocol, column.score
    )  # fmt: skip
    wanted: Setting = figure.setting or {}
    setting = dict(column.setting)
    return same and all(setting.get(name) == value for name, value in wanted.items())


def write(table: Comparison, form: Format) -> str:
    """The table as Markdown, CSV, or a LaTeX tabular; notes below it."""
    if form == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows((table.header, *table.rows))
        return text.getvalue()
    if form == "latex":
        return _latex(table)
    lines = [_pipes(table.header), _pipes("---" for _ in table.header), *map(_pipes, table.rows)]
    return "\n".join([*lines, "", *table.notes]).rstrip() + "\n"


def _pipes(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


_SPECIAL = str.maketrans({c: f"\\{c}" for c in "&%$#_{}"} | {"~": r"\textasciitilde{}", "\\": r"\textbackslash{}"})


def _latex(table: Comparison) -> str:
    lines = [f"\\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}", "\\hline"]
    for number, cells in enumerate((table.header, *table.rows)):
        escaped = (cell.translate(_SPECIAL).replace("+-", "$\\pm$") for cell in cells)
        lines.append(" & ".join(escaped) + " \\\\" + (" \\hline" if number == 0 else ""))
    notes = [f"% {note}" for note in table.notes]
    return "\n".join([*lines, "\\hline", "\\end{tabular}", *notes, ""])
