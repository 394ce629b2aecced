"""Downstream tasks as a flow run."""

from collections.abc import Sequence

from flows.config import read_config
from flows.evaluate import (
    count_rows,
    evaluate,
    found_rows,
    open_bench,
    results_folder,
    table,
    wanted_tasks,
)
from flows.options import EvaluateOptions
from flows.run_folder import versions
from flows.scores.summary import lines, subjects
from flows.service import tracking
from flows.service.events import report_failure
from flows.service.tracking import attempt, link, markdown, name_run, tell, tracked_flow
from flows.tasks.bench import Bench
from models.evaluation.results import TaskResult, hardware


@tracked_flow("evaluate")
def evaluate_flow(options: EvaluateOptions, progress: bool = True) -> str:
    """Score a run's checkpoint; returns the folder of the results.

    Args:
        options: which run, which tasks.
        progress: show bars in the terminal.
    """
    with report_failure(options.run, options.tasks):
        return _evaluated(options, progress)


def _evaluated(options: EvaluateOptions, progress: bool) -> str:
    config = read_config(options.run / "config.json")
    name_run(f"{', '.join(options.tasks)}: {config.title}", run=options.run.name, **config.tags)
    bench = attempt("open-run", open_bench)(options)
    names, key = wanted_tasks(options, bench), options.run.name
    before, count = found_rows(bench, names), count_rows(bench, names)
    with tracking.progress(f"{key}-scores-progress", "rows scored", lambda: (len(found_rows(bench, names)), count)):
        results = attempt("evaluate-" + "-".join(options.tasks), evaluate)(options, progress=progress)
    tell(table(results))
    tracking.table(f"{key}-scores", _score_rows(results), f"scores of {options.run.name} in per cent")
    link(f"{key}-results", results_folder(options), "the results: scores, curves, what each class got")
    markdown(f"{key}-scores-provenance", _provenance(bench, before), "what these scores are made of")
    return str(results_folder(options))


def _score_rows(results: Sequence[TaskResult]) -> list[dict[str, str]]:
    found = lines(results)
    names = subjects(found)
    return [
        {"task": line.task, "setting": line.setting} | {name: line.scores.get(name, "") for name in names}
        for line in found
    ]


def _provenance(bench: Bench, before: Sequence[TaskResult]) -> str:
    source = bench.source
    saved = sum(row.seconds for row in before)
    return "\n".join(
        (
            f"- found {len(before)} rows scored: {saved:.3g} s saved" if before else "- all rows scored anew",
            f"- checkpoint {source.checkpoint.name}, SHA-256 `{source.sha256}`",
            f"- data `{source.fingerprint}`",
            f"- {', '.join(f'{name} {number}' for name, number in versions().items())}; {hardware(bench.device)}",
        )
    )
