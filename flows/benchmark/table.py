"""The tables of a benchmark: methods beside each other and beside published figures, with the seeds pooled."""

from collections.abc import Mapping
from operator import attrgetter

from flows.benchmark.cells import Cell
from flows.benchmark.plan import Plan
from flows.scores.compare import Comparison, Format, compare_apart, write
from models.evaluation.results import TaskResult
from shards.files import write_atomic

FORMATS: dict[str, Format] = {"table.md": "markdown", "table.csv": "csv", "table.tex": "latex"}


def write_tables(done: Plan, failed: Mapping[Cell, str]) -> None:
    """Write `table.md`, `table.csv` and `table.tex`; equal scores give equal bytes.

    Args:
        done: with its results.
        failed: cells that are not in the tables, or not whole, and why.
    """
    found = _compared(done)
    for name, form in FORMATS.items():
        write_atomic(done.config.folder / name, _text(found, form, failed).encode())


def _compared(done: Plan) -> list[Comparison]:
    """Rows by method and stream, in the order of the benchmark's file; a row has the results of all seeds."""
    config = done.config
    order = {f"{method}, {stream}": (method, stream) for method in config.methods for stream in config.streams}
    results = {
        name: [
            row
            for planned in sorted(done.cells, key=attrgetter("cell.seed"))
            if (planned.cell.method, planned.cell.stream) == wanted
            for row in planned.results
        ]
        for name, wanted in order.items()
    }
    return compare_apart({name: rows for name, rows in results.items() if rows}, called=_called)


def _called(name: str, result: TaskResult) -> str:
    return name if result.subject == "trained" else f"{name}: {result.subject}"


def _text(found: list[Comparison], form: Format, failed: Mapping[Cell, str]) -> str:
    texts = [write(comparison, form) for comparison in found]
    if form == "csv":  # one file, so one line of titles
        head = texts[0].partition("\n")[0]
        return "".join([f"{head}\n", *(text.partition("\n")[2] for text in texts)])
    comment = "" if form == "markdown" else "% "
    lacking = [f"{comment}not complete: {cell.label}: {' '.join(reason.split())}" for cell, reason in failed.items()]
    return "\n".join([*texts, *lacking]).rstrip() + "\n"
