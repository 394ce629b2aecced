"""`skelstream compare`: results of several runs in one table a task, beside published figures, where they compare."""

import csv
import io
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from flows.config import read_config
from flows.scores.published import PUBLISHED, Published
from flows.scores.summary import DATA_CONDITIONS, REPEATED, changes, conditions, percent, read_stored, tested_on
from flows.tasks.registry import TASKS
from models.evaluation.results import Setting, TaskResult, read_results
from shards.catalog import dataset
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
    def table(self) -> str:
        """What the table of its like is called."""
        return f"{self.task} {self.dataset} {self.protocol}"

    @property
    def title(self) -> str:
        """What tells it apart in that table."""
        setting = ", ".join(f"{name} {value}" for name, value in self.setting)
        return " ".join(filter(None, (setting, "" if self.score == "accuracy" and setting else self.score)))


@dataclass(frozen=True)
class Comparison:
    """Figures side by side.

    Attributes:
        names: runs, then published methods.
        columns: what was measured, task by task.
        values: shares of 1, one for each repetition; where there is none, nothing.
        notes: what the reader has to know of it.
    """

    names: tuple[str, ...]
    columns: tuple[Column, ...]
    values: Mapping[tuple[str, Column], Sequence[float]]
    notes: tuple[str, ...]


def load(paths: Sequence[Path]) -> dict[str, list[TaskResult]]:
    """The results of run folders or of single files, by run.

    Raises:
        ConfigError: a path that holds no results.
        SkelstreamError: a file that is garbled or of another version.
    """
    found: dict[str, list[TaskResult]] = {}
    for path in paths:
        rows = read_results(path) if path.is_file() else read_stored(path / "results")
        if not rows:
            raise ConfigError(f"{path}: found no results, expected a scored run or a file of results")
        name = path.parent.parent if path.is_file() else path
        found.setdefault(str(name), []).extend(rows)
    return found


def pool_seeds(runs: Mapping[str, Sequence[TaskResult]]) -> dict[str, list[TaskResult]]:
    """Runs that were trained alike but for their seed as one, with the results of all.

    Args:
        runs: folder of a run -> results.

    Raises:
        ConfigError: a folder holds no run.
    """
    return {
        names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more": [
            result for name in names for result in runs[name]
        ]
        for names in seed_groups(list(runs))
    }


def seed_groups(runs: Sequence[str]) -> list[list[str]]:
    """Folders of runs, those together whose configurations differ in nothing but the seed.

    Raises:
        ConfigError: a folder holds no run.
    """
    found: dict[str, list[str]] = {}
    for name in runs:
        config = read_config(Path(name) / "config.json").model_dump(mode="json")
        del config["train"]["seed"]
        found.setdefault(json.dumps(config, sort_keys=True), []).append(name)
    return list(found.values())


def full_name(run: str, result: TaskResult) -> str:
    """What a line of a table is called: the run, what of it was scored where that is no trained encoder, the method."""
    name = run if result.subject == "trained" else f"{run}: {result.subject}"
    return f"{name} ({result.method}, {result.stream})"


def compare(
    runs: Mapping[str, Sequence[TaskResult]],
    *,
    baselines: bool = False,
    called: Callable[[str, TaskResult], str] = full_name,
) -> Comparison:
    """Put results side by side.

    Args:
        runs: name -> results.
        baselines: also the encoders before training and the coordinates.
        called: what the line of a run's result is called.

    Raises:
        ConfigError: figures of one column were made by different settings or on different data, and which. Where each
            has the official setting of its encoder's family they compare, as published figures do.
    """
    values: dict[tuple[str, Column], list[float]] = {}
    first: dict[Column, tuple[str, TaskResult]] = {}
    families: set[str] = set()
    for run, results in runs.items():
        for result in results:
            if result.subject != "trained" and not baselines:
                continue
            families.add(result.family)
            name = called(run, result)
            for column in _columns(result):
                known = first.setdefault(column, (run, result))
                if result.subject == known[1].subject:
                    _check(column, *known, run, result)
                values.setdefault((name, column), []).append(result.scores[column.score])
    columns = tuple(sorted(first, key=_place))
    published, notes = _published(columns, first)
    values |= published
    if len(families) > 1:
        notes = (f"official settings of each encoder's family: {', '.join(sorted(families))}", *notes)
    return Comparison(tuple(dict.fromkeys(name for name, _ in values)), columns, values, notes)


def compare_apart(
    runs: Mapping[str, Sequence[TaskResult]], *, called: Callable[[str, TaskResult], str] = full_name
) -> list[Comparison]:
    """As `compare` with baselines, a table each, in which figures that do not compare stand in tables of their own.

    The first note of such a table says why it is one.
    """
    tables: dict[str, list[_Table]] = {}
    for run, results in runs.items():
        for result in results:
            columns = _columns(result)
            if columns:
                _file(tables.setdefault(columns[0].table, []), columns, run, result)
    found = []
    for table in (table for own in tables.values() for table in own):
        made = compare(table.runs, baselines=True, called=called)
        found.append(replace(made, notes=(*table.why, *made.notes)))
    return sorted(found, key=lambda made: _place(made.columns[0])[:3])


@dataclass
class _Table:
    """Results that compare; `why` they do not with those of the table before."""

    why: tuple[str, ...]
    runs: dict[str, list[TaskResult]] = field(default_factory=dict)
    first: dict[tuple[Column, str], tuple[str, TaskResult]] = field(default_factory=dict)


def _file(tables: list[_Table], columns: Sequence[Column], run: str, result: TaskResult) -> None:
    """Add a result to the first table whose results it compares with, or to a new one."""
    why: tuple[str, ...] = ()
    for table in tables:
        try:
            for column in columns:
                known = table.first.get((column, result.subject))
                if known is not None:
                    _check(column, *known, run, result)
        except ConfigError as error:
            why = (f"A table of its own: {error}.",)
        else:
            break
    else:
        table = _Table(why)
        tables.append(table)
    table.runs.setdefault(run, []).append(result)
    for column in columns:
        table.first.setdefault((column, result.subject), (run, result))


def _columns(result: TaskResult) -> list[Column]:
    setting = tuple(item for item in result.setting.items() if item[0] not in REPEATED)
    names = [name for name in TASKS[result.task].shown if name in result.scores]
    return [Column(result.task, *tested_on(result), setting, name) for name in names]


def _place(column: Column) -> tuple[Any, ...]:
    task = TASKS[column.task]
    return list(TASKS).index(column.task), column.dataset, column.protocol, task.shown.index(column.score)


def _check(column: Column, name: str, expected: TaskResult, other: str, found: TaskResult) -> None:
    """Refuse two results whose numbers mean different things; official settings of two families compare."""
    here, there = conditions(found), conditions(expected)
    keys = {*here, *there}
    if found.family != expected.family and not changes(found) and not changes(expected):
        keys = {*DATA_CONDITIONS}
    for key in sorted(keys):
        if here.get(key) != there.get(key):
            raise ConfigError(
                f"{column.table} {column.title}: found {key} {here.get(key)!r} in {other} and {there.get(key)!r} in"
                f" {name}, expected equal ones: such figures do not compare"
            )


def _published(
    columns: Sequence[Column], first: Mapping[Column, tuple[str, TaskResult]]
) -> tuple[dict[tuple[str, Column], list[float]], tuple[str, ...]]:
    """The published figures of the columns whose results are of the published settings and data, and notes on them."""
    notes: list[str] = []
    official: list[Column] = []
    for column in columns:
        why = _differs(column, first[column][1])
        if why is None:
            official.append(column)
        elif any(_fits(figure, column) for figure in PUBLISHED):
            notes.append(f"{column.table} {column.title}: no published figures beside it, since {why}")
    beside = [(figure, column) for figure in PUBLISHED for column in official if _fits(figure, column)]
    values = {(f"{figure.method} (published)", column): [figure.value / 100] for figure, column in beside}
    notes += [f"published: {source}" for source in dict.fromkeys(figure.source for figure, _ in beside)]
    return values, tuple(notes)


def _differs(column: Column, result: TaskResult) -> str | None:
    """Why no published figure may stand beside a result; as far as the result tells."""
    for name, (found, expected) in changes(result).items():
        return f"{name} is {found!r} and the published setting {expected!r}"
    details: Mapping[str, Any] = result.details
    lacking = {*details.get("missing_classes", ()), *details.get("untested_classes", ())}
    if lacking:
        return f"{len(lacking)} classes have no samples here: these are not the official data"
    tested = sum(group["samples"] for group in details.get("by_camera", {}).values())
    _, official = dataset(column.dataset).counts.get(column.protocol, (0, 0))
    # a lab may have dropped a few damaged recordings
    if tested and official and abs(tested - official) > official / 100:
        return f"{tested:,} samples were tested, and of the official data {official:,}"
    return None


def _fits(figure: Published, column: Column) -> bool:
    same = (figure.task, figure.dataset, figure.protocol, figure.score) == (
        column.task, column.dataset, column.protocol, column.score
    )  # fmt: skip
    wanted: Setting = figure.setting or {}
    setting = dict(column.setting)
    return same and all(setting.get(name) == value for name, value in wanted.items())


def write(found: Comparison, form: Format) -> str:
    """The figures in per cent: a table for each task on each protocol, or as CSV a line for each figure."""
    if form == "csv":
        return _csv(found)
    lines: list[str] = []
    for title, group in groupby(found.columns, key=lambda column: column.table):
        cells = _cells(found, list(group))
        lines += _markdown(title, cells) if form == "markdown" else _latex(title, cells)
    mark = "" if form == "markdown" else "% "
    return "\n".join([*lines, *(mark + note for note in found.notes)]).rstrip() + "\n"


def _cells(found: Comparison, columns: Sequence[Column]) -> list[list[str]]:
    """A table with its titles, higher than wide: with few measurements a line is a run, else a measurement."""
    names = [name for name in found.names if any((name, column) in found.values for column in columns)]
    cells = [["", *(column.title for column in columns)]]
    for name in names:
        figures = (found.values.get((name, column)) for column in columns)
        cells.append([name, *("" if values is None else percent(values).replace(" %", "") for values in figures)])
    return cells if len(columns) <= len(names) else [list(line) for line in zip(*cells, strict=True)]


def _markdown(title: str, cells: Sequence[Sequence[str]]) -> list[str]:
    head, *rows = (f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in cells)
    return [f"**{title}**", "", head, f"| --- {'| ---: ' * (len(cells[0]) - 1)}|", *rows, ""]


_SPECIAL = str.maketrans({c: f"\\{c}" for c in "&%$#_{}"} | {"~": r"\textasciitilde{}", "\\": r"\textbackslash{}"})


def _latex(title: str, cells: Sequence[Sequence[str]]) -> list[str]:
    head, *rows = (
        " & ".join(cell.translate(_SPECIAL).replace("+-", "$\\pm$") for cell in line) + " \\\\" for line in cells
    )
    begin = f"\\begin{{tabular}}{{l{'r' * (len(cells[0]) - 1)}}}"
    return [f"% {title}", begin, "\\hline", f"{head} \\hline", *rows, "\\hline", "\\end{tabular}", ""]


def _csv(found: Comparison) -> str:
    """Of each figure its mean and standard deviation (empty for a single one), and how many there are."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("task", "dataset", "protocol", "setting", "score", "name", "mean", "deviation", "count"))
    for column in found.columns:
        setting = ", ".join(f"{name} {value}" for name, value in column.setting)
        place = (column.task, column.dataset, column.protocol, setting, column.score)
        for name in found.names:
            values = found.values.get((name, column))
            if values is not None:
                deviation = f"{100 * statistics.stdev(values):.3f}" if len(values) > 1 else ""
                writer.writerow((*place, name, f"{100 * statistics.mean(values):.3f}", deviation, len(values)))
    return text.getvalue()
