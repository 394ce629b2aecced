"""The commands that train, and those that train and score."""

from typing import TYPE_CHECKING

from flows.cli.command import command

if TYPE_CHECKING:  # the list of all commands needs none
    from flows.options import (
        BenchmarkOptions,
        DemoOptions,
        DistillOptions,
        MethodsOptions,
        PlannedOptions,
        PretrainOptions,
        RecordOptions,
    )


@command("skelstream methods", "skelstream methods pcm3pp --json")
def methods(options: "MethodsOptions") -> None:
    """List the methods, their variants, and the paper's ablations among them; or show one in full."""
    from flows.recipes.listing import describe_method, list_methods

    print(list_methods(options.as_json) if options.name is None else describe_method(options.name, options.as_json))


@command(
    "skelstream pretrain pcm3pp --data data --dataset ntu60 --protocol xview --run runs/pcm3pp",
    "skelstream pretrain pcm3pp+no-clip --data data --dataset ntu60 --protocol xview --stream bone --gpus 4 \\\n"
    "      --set train.epochs=100 --run runs/bone",
)
def pretrain(options: "PretrainOptions", how: "RecordOptions") -> None:
    """Pre-train an encoder without labels."""
    from flows.machine import rank
    from flows.pretrain import find_finished_run, summary
    from flows.pretrain import pretrain as train
    from flows.service.recording import record

    def work(begun: bool) -> None:
        again = options.model_copy(update={"resume": True}) if begun else options
        result = train(again, progress=True)
        if rank.is_leader():
            print(summary(result))

    plain = how.plain or find_finished_run(options) is not None  # nothing to record
    record("flows.deployments.pretrain.pretrain_flow", options, work, plain=plain)


@command("skelstream distill runs/pcm3 --epochs 151")
def distill(options: "DistillOptions", how: "RecordOptions") -> None:
    """Add post-distillation to a run whose main stage is finished."""
    from flows.distill import distill as train
    from flows.pretrain import summary
    from flows.service.recording import record

    def work(begun: bool) -> None:
        print(summary(train(options, progress=True)))

    record("flows.deployments.distill.distill_flow", options, work, plain=how.plain)


@command("skelstream benchmark benchmark.yaml --plan", "skelstream benchmark benchmark.yaml")
def benchmark(options: "BenchmarkOptions", how: "PlannedOptions") -> None:
    """Train and score a matrix of methods, data sets, streams and seeds; the same command goes on with it."""
    from flows.benchmark.config import read_benchmark
    from flows.benchmark.plan import plan
    from flows.benchmark.rounds import name_round
    from flows.benchmark.run import run_benchmark
    from flows.benchmark.text import plan_text
    from flows.service.recording import record

    config = read_benchmark(options.file)
    if how.plan:
        print(plan_text(plan(config, name_round(config, options.round))))
        return

    def work(begun: bool) -> None:
        run_benchmark(config, round_=options.round, progress=True)

    # workers take their cells from a server: there is no other way unless the user asks for one
    needs_server = config.spread and not how.plain
    record("flows.deployments.benchmark.benchmark_flow", options, None if needs_server else work, plain=how.plain)
    print((config.folder / "table.md").read_text(encoding="utf-8"), end="")


@command("skelstream demo")
def demo(options: "DemoOptions") -> None:
    """Run the whole path on synthetic archives: shards, pre-training, scores, report."""
    from flows.service.recording import record

    def work(begun: bool) -> None:
        from flows.demo import demo as run

        run(options.out)

    record("flows.deployments.demo.demo_flow", str(options.out), work)
