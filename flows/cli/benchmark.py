"""The commands that run and go on with whole experiments."""

import argparse
from typing import Any

from flows.cli.data import add_loader, add_plain, command, loader_options, local_path, place_text
from flows.service.recording import record


def add_commands(commands: Any) -> None:
    """Add them all."""
    _add_benchmark(commands)
    _add_distill(commands)


def _add_benchmark(commands: Any) -> None:
    sub = command(
        commands,
        "benchmark",
        _benchmark,
        "train and score a matrix of methods, data sets, streams and seeds; the same command goes on with it",
    )
    sub.add_argument("file", type=local_path, metavar="FILE", help="YAML file; flows/benchmark/example.yaml is one")
    sub.add_argument("--plan", action="store_true", help="only show what is there, what is missing and what it costs")
    sub.add_argument("--round", metavar="NAME", help="go on with an earlier round of a benchmark by date or revision")
    add_plain(sub)


def _benchmark(options: argparse.Namespace) -> None:
    from flows.benchmark.config import BenchmarkOptions, read_benchmark
    from flows.benchmark.plan import plan
    from flows.benchmark.rounds import name_round
    from flows.benchmark.run import run_benchmark
    from flows.benchmark.text import plan_text

    config = read_benchmark(options.file)
    if options.plan:
        print(plan_text(plan(config, name_round(config, options.round))))
        return

    def work(begun: bool) -> None:
        run_benchmark(config, round_=options.round, progress=True)

    if options.plain:
        work(False)
    else:
        request = BenchmarkOptions(file=options.file, round=options.round)
        record("flows.deployments.benchmark.benchmark_flow", request, None if config.spread else work)
    print((config.folder / "table.md").read_text(encoding="utf-8"), end="")


def _add_distill(commands: Any) -> None:
    sub = command(commands, "distill", _distill, "add post-distillation to a run whose main stage is finished")
    sub.add_argument("run", type=local_path, metavar="RUN", help="folder of a pre-training run")
    sub.add_argument("--epochs", type=int, default=151, help="of the stage")
    sub.add_argument("--lr", type=float, default=0.002, help="its learning rate")
    sub.add_argument("--data", type=place_text, help="folder of the store when it has moved since pre-training")
    sub.add_argument("--gpus", type=int, metavar="N", help="train in N processes of this machine, one a GPU")
    add_loader(sub)
    add_plain(sub)


def _distill(options: argparse.Namespace) -> None:
    from flows.config import validated
    from flows.distill import DistillOptions, distill
    from flows.pretrain import summary

    names = ("epochs", "lr", "data", "device", "gpus", "share_gpu")
    tree = {name: getattr(options, name) for name in names} | {"run": str(options.run)}
    request = validated(DistillOptions, tree, "distill").model_copy(update={"loader": loader_options(options)})

    def work(begun: bool) -> None:
        print(summary(distill(request, progress=True)))

    if options.plain:
        work(False)
    else:
        record("flows.deployments.distill.distill_flow", request, work)
