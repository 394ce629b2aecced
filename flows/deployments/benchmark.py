"""A benchmark as a flow run: a task a cell."""

from collections.abc import Callable
from typing import Any

from flows.benchmark.config import read_benchmark
from flows.benchmark.plan import plan
from flows.benchmark.rounds import name_round
from flows.benchmark.run import BenchmarkResult, run_benchmark
from flows.benchmark.text import plan_text
from flows.options import BenchmarkOptions
from flows.service import tracking
from flows.service.tracking import attempt, link, markdown, name_run, slug, table, tell, tracked_flow


@tracked_flow("benchmark")
def benchmark_flow(options: BenchmarkOptions, progress: bool = True) -> str:
    """Train and score a matrix of methods, data sets, streams and seeds; returns the folder of tables and report.

    Args:
        options: which benchmark.
        progress: show bars in the terminal.
    """
    config = read_benchmark(options.file)
    round_ = name_round(config, options.round)
    name_run(f"{config.name} {round_}", benchmark=config.name, round=round_)
    key, ends = slug(config.name), _Ends()
    before = plan(config, round_)
    markdown(f"{key}-plan", f"```\n{plan_text(before)}\n```\n", f"{config.name}: what is there and what is missing")

    def step(name: str, function: Callable[[], Any]) -> Any:
        try:
            return attempt(name, function)()
        finally:
            ends.count += 1

    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        tell(text)

    made = sum(found is None for found in before.stores.values())
    total = made + len(before.cells) + len(before.waiting) + 1  # the last one is the report
    try:
        with tracking.progress(f"{key}-progress", "cells that are done", lambda: (ends.count, total)):
            result = run_benchmark(config, round_=round_, step=step, say=say, progress=progress)
    finally:
        reused = [line for line in said if "reused " in line]
        markdown(f"{key}-reused", "\n".join(f"- {line}" for line in reused) or "nothing\n", "What was reused")
    _show(key, result)
    return str(config.folder)


class _Ends:
    """How many steps have ended."""

    count = 0


def _show(key: str, result: BenchmarkResult) -> None:
    rows = [
        {
            "cell": planned.cell.label,
            "task": row.task,
            "setting": ", ".join(f"{name} {value}" for name, value in row.setting.items()),
            "subject": row.subject,
            "scores": ", ".join(f"{name} {value:.4f}" for name, value in row.scores.items()),
            "run": planned.run.name,
        }
        for planned in result.plan.cells
        for row in planned.results
    ]
    table(f"{key}-scores", rows, f"scores of all cells of {result.plan.config.name}")
    text = (result.folder / "table.md").read_text(encoding="utf-8")
    markdown(f"{key}-table", text, "methods beside each other and beside published figures, in per cent")
    link(f"{key}-report", result.report, "the report")
    if result.regressed:
        worse = "\n".join(f"- {line}" for line in result.regressed)
        markdown(f"{key}-regressed", worse, "what is worse than in the round before, by more than noise")
