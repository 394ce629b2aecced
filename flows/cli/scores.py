"""The commands that score runs, and show what they are worth."""

import argparse
from typing import Any

from flows.cli.data import add_loader, add_plain, command, loader_options, local_path, place_text
from flows.service.recording import record


def add_commands(commands: Any) -> None:
    """Add them all."""
    _add_evaluate(commands)
    _add_compare(commands)
    _add_report(commands)


def _add_evaluate(commands: Any) -> None:
    sub = command(commands, "evaluate", _evaluate, "score a run's checkpoint on downstream tasks")
    sub.add_argument("run", type=local_path, metavar="RUN", help="folder of a pre-training run")
    sub.add_argument(
        "--tasks", default="linear,retrieval", help="comma-separated; all for all that the run and its data allow"
    )
    sub.add_argument("--checkpoint", metavar="NAME", help="file in RUN/checkpoints; without it the last one")
    sub.add_argument("--data", type=place_text, help="folder of the store when it has moved since pre-training")
    sub.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="a.b=v", help="set one value; repeatable"
    )
    add_loader(sub)
    add_plain(sub)


def _evaluate(options: argparse.Namespace) -> None:
    from flows.evaluate import EvaluateOptions, evaluate, finished, left_out, table

    request = EvaluateOptions(
        run=options.run,
        checkpoint=options.checkpoint,
        tasks=tuple(dict.fromkeys(filter(None, map(str.strip, options.tasks.split(","))))),
        data=options.data,
        overrides=tuple(options.overrides),
        loader=loader_options(options),
        device=options.device,
        share_gpu=options.share_gpu,
    )
    for name, reason in left_out(request).items():
        print(f"left out: {name}: {reason}")
    results = finished(request)

    def work(begun: bool) -> None:
        print(table(evaluate(request, progress=True) if results is None else results))

    if options.plain or results is not None:
        work(False)
    else:
        record("flows.deployments.evaluate.evaluate_flow", request, work)


def _add_compare(commands: Any) -> None:
    sub = command(commands, "compare", _compare, "print the scores of several runs side by side, beside published ones")
    sub.add_argument(
        "results", type=local_path, nargs="+", metavar="RESULT", help="a scored run, or a file of its results"
    )
    sub.add_argument("--baselines", action="store_true", help="also the encoders before training")
    sub.add_argument(
        "--pool-seeds", action="store_true", help="runs that differ in nothing but the seed become one: mean, deviation"
    )
    sub.add_argument("--format", choices=["markdown", "csv", "latex"], default="markdown", help="of the tables")


def _compare(options: argparse.Namespace) -> None:
    from flows.scores.compare import compare, load, pool_seeds, write

    runs = load(options.results)
    if options.pool_seeds:
        runs = pool_seeds(runs)
    print(write(compare(runs, baselines=options.baselines), options.format), end="")


def _add_report(commands: Any) -> None:
    sub = command(commands, "report", _report, "write one self-contained HTML page about a run, or about several")
    sub.add_argument("runs", type=local_path, nargs="+", metavar="RUN", help="folder of a pre-training run")
    sub.add_argument("--out", type=local_path, help="the page; without it RUN/report.html of a single run")
    sub.add_argument("--title", help="stands above; without it what the runs are")


def _report(options: argparse.Namespace) -> None:
    from flows.pages.report import write_report
    from shards.errors import ConfigError

    if options.out is None and len(options.runs) > 1:
        raise ConfigError(f"--out: found none beside {len(options.runs)} runs, expected the name of the page")
    print(write_report(options.runs, options.out or options.runs[0] / "report.html", title=options.title))
