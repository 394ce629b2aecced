"""The benchmark: what `flows.scores.compare` puts side by side, as tables of the report and as its headline."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from flows.pages.report.runs import Group, brief
from flows.scores.compare import Column, Comparison, compare_apart
from models.evaluation.results import TaskResult

HEADLINE = ("linear", "retrieval", "finetune", "transfer", "detection", "fusion", "few_shot")
"""Tasks whose first score stands at the top."""

_PUBLISHED = " (published)"
_SOURCE = "published: "


@dataclass(frozen=True)
class Cell:
    """A figure in per cent: mean, deviation of the repetitions (None for one), how many; `best` of the trained."""

    mean: float
    deviation: float | None
    count: int
    best: bool


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Attributes:
        name: of a group, or of a published method.
        kind: "trained", "baseline" or "published".
        run: number of the group's first run.
        runs: of the group.
        cells: None where nothing was measured.
    """

    name: str
    kind: str
    run: int | None
    runs: int
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class Benchmark:
    """A task on one protocol."""

    task: str
    data: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Tile:
    """A figure of the headline."""

    title: str
    value: str
    deviation: str
    notes: tuple[str, ...]


def benchmarks(groups: Sequence[Group]) -> list[Benchmark]:
    """A table for all results that compare."""
    kinds = {group.name: (group, "trained") for group in groups}

    def called(name: str, result: TaskResult) -> str:
        if result.subject == "trained":
            return name
        line = result.subject if len(groups) == 1 else f"{name}: {result.subject}"
        kinds[line] = kinds[name][0], "baseline"
        return line

    found = compare_apart({group.name: group.results for group in groups}, called=called)
    return [_benchmark(comparison, kinds) for comparison in found]


def _benchmark(found: Comparison, kinds: dict[str, tuple[Group, str]]) -> Benchmark:
    best = {column: _best(found, column, kinds) for column in found.columns}
    shown = [kinds[name][0] for name in found.names if name in kinds and kinds[name][1] == "trained"]
    names = brief(shown)
    rows = []
    for name in found.names:
        trained = kinds.get(name, (None, ""))[1] == "trained"
        cells = tuple(
            _cell(found.values.get((name, column)), best[column] if trained else None) for column in found.columns
        )
        if name in kinds:
            group, kind = kinds[name]
            colour = group.number if kind == "trained" else None
            short = name.replace(group.name, names.get(group.name, group.name), 1)
            rows.append(Row(short, kind, colour, len(group.runs), cells))
        else:
            rows.append(Row(name.removesuffix(_PUBLISHED), "published", None, 1, cells))
    rows.sort(key=lambda row: ("trained", "baseline", "published").index(row.kind))
    first = found.columns[0]
    titles = tuple(column.title for column in found.columns)
    return Benchmark(first.task, f"{first.dataset} {first.protocol}", titles, tuple(rows), _sources(found.notes))


def _sources(notes: Sequence[str]) -> tuple[str, ...]:
    return tuple(
        f"Published figures as stated in {note.removeprefix(_SOURCE)}." if note.startswith(_SOURCE) else note
        for note in notes
    )


def _best(found: Comparison, column: Column, kinds: dict[str, tuple[Group, str]]) -> float | None:
    """The highest mean of several trained ones; an interval is no merit."""
    names = [name for name in found.names if kinds.get(name, (None, ""))[1] == "trained"]
    means = [statistics.mean(found.values[name, column]) for name in names if (name, column) in found.values]
    return max(means) if len(means) > 1 and column.score != "interval" else None


def _cell(values: Sequence[float] | None, best: float | None) -> Cell | None:
    if values is None:
        return None
    mean = statistics.mean(values)
    deviation = 100 * statistics.stdev(values) if len(values) > 1 else None
    return Cell(100 * mean, deviation, len(values), best is not None and mean >= best)


def tiles(tables: Sequence[Benchmark]) -> list[Tile]:
    """The best trained score of each headline task on each protocol, and what it stands beside."""
    own = [table for task in HEADLINE for table in tables if table.task == task]
    return [tile for table in own if (tile := _tile(table)) is not None]


def _tile(table: Benchmark) -> Tile | None:
    scored = [(row, row.cells[0]) for row in table.rows if row.cells[0] is not None]
    trained = [(row, cell) for row, cell in scored if row.kind == "trained"]
    baselines = [(row, cell) for row, cell in scored if row.kind == "baseline"]
    if not trained:
        return None
    row, cell = max(trained, key=lambda pair: pair[1].mean)
    if len(trained) == 1:
        notes = [f"{other.name} {beside.mean:.1f}" for other, beside in baselines]
    else:
        notes = [row.name + (f", {row.runs} seeds" if row.runs > 1 else "")]
        for other, beside in sorted(baselines, key=lambda pair: -pair[1].mean)[:1]:
            notes.append(f"best without training: {other.name.rpartition(': ')[2]} {beside.mean:.1f}")
    column = "" if table.columns[0] == "accuracy" else f", {table.columns[0]}"
    deviation = "" if cell.deviation is None else f"{cell.deviation:.1f}"
    return Tile(f"{table.task}{column} · {table.data}", f"{cell.mean:.1f}", deviation, tuple(notes))
