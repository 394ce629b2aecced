"""The commands that score runs, and show what they are worth."""

from typing import TYPE_CHECKING

from flows.cli.command import command
from shards.errors import ConfigError

if TYPE_CHECKING:  # the list of all commands needs none
    from flows.options import CompareOptions, EvaluateOptions, RecordOptions, ReportOptions


@command(
    "skelstream evaluate runs/pcm3pp", "skelstream evaluate runs/pcm3pp --tasks linear,finetune --set linear.epochs=100"
)
def evaluate(options: "EvaluateOptions", how: "RecordOptions") -> None:
    """Score a run's checkpoint on downstream tasks."""
    from flows.evaluate import evaluate as score
    from flows.evaluate import find_finished_scores, find_omitted_tasks, table
    from flows.service.recording import record

    for name, reason in find_omitted_tasks(options).items():
        print(f"left out: {name}: {reason}")
    results = find_finished_scores(options)

    def work(begun: bool) -> None:
        print(table(score(options, progress=True) if results is None else results))

    plain = how.plain or results is not None  # nothing to record
    record("flows.deployments.evaluate.evaluate_flow", options, work, plain=plain)


@command("skelstream compare runs/* --pool-seeds")
def compare(options: "CompareOptions") -> None:
    """Print the scores of several runs side by side, beside published ones."""
    from flows.scores.compare import compare as compare_runs
    from flows.scores.compare import load, pool_seeds, write

    runs = load(options.results)
    if options.pool_seeds:
        runs = pool_seeds(runs)
    print(write(compare_runs(runs, baselines=options.baselines), options.format), end="")


@command("skelstream report runs/joint runs/bone --out report.html")
def report(options: "ReportOptions") -> None:
    """Write one self-contained HTML page about a run, or about several."""
    from flows.pages.report import write_report

    if options.out is None and len(options.runs) > 1:
        raise ConfigError(f"--out: found none beside {len(options.runs)} runs, expected the name of the page")
    print(write_report(options.runs, options.out or options.runs[0] / "report.html", title=options.title))
