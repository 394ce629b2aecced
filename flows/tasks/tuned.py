"""Tasks that train the whole network: fine-tuning, with few labels, and on another data set."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np

from flows.config import check_protocol
from flows.tasks.bench import Bench, Benchmark, Ids, Scored, Subject, curve_details, each, objection, repeats
from flows.tasks.config import EvaluateConfig
from models.evaluation.finetune import FinetuneConfig, FinetuneResult, finetune
from models.evaluation.results import Setting
from models.evaluation.subsets import SubsetLists, draw_subset, write_subsets
from shards.batch import EpochViews, Views
from shards.errors import ConfigError, StoreError


def find_finetune_obstacle(bench: Bench) -> str | None:
    """Why no tuned network can be worth anything, if so."""
    return objection(bench.check_tuning) or objection(bench.absent_classes)


def finetune_settings(options: EvaluateConfig) -> list[Setting]:
    return repeats(options.finetune.seed, options)


def tune(bench: Bench, subject: Subject, setting: Setting) -> Scored:
    """The whole network on all labels."""
    absent = bench.absent_classes()
    sides = bench.held_out or (None, None)
    return _scored(_tuned(bench, bench.benchmark, subject, sides, int(setting["seed"])), absent)


def semi_settings(options: EvaluateConfig) -> list[Setting]:
    semi = options.semi
    return [
        {"sampling": sampling, "fraction": fraction, "draw": draw}
        for sampling in semi.sampling
        for fraction in semi.fractions
        for draw in range(semi.draws)
    ]


def find_semi_obstacle(bench: Bench) -> str | None:
    """Why there is no draw, or none that can be worth anything, if so."""
    return find_finetune_obstacle(bench) or objection(lambda: bench.once("semi", lambda: _draw_subsets(bench)))


def semi(bench: Bench, subject: Subject, setting: Setting) -> Scored:
    """The whole network on a share of the labels."""
    lists = bench.once("semi", lambda: _draw_subsets(bench))
    # written out before any training
    bench.once("semi lists", lambda: write_subsets(bench.source.results / "semi-subsets.json", lists))
    wanted = (setting["sampling"] == "stratified", setting["fraction"], setting["draw"])
    subset = next(found for found in lists.subsets if (found.stratified, found.fraction, found.seed) == wanted)
    ids = np.array(subset.sample_id, dtype=np.int64)
    held_out = None if bench.held_out is None else bench.held_out[1]
    everything = len(bench.benchmark.facts("train")) if bench.held_out is None else len(bench.held_out[0])
    passes = max(1, round(everything / len(ids))) if bench.options.semi.epoch == "all" else 1
    result = _tuned(bench, bench.benchmark, subject, (ids, held_out), bench.options.finetune.seed, passes)
    # a draw without a class of the test side is one of chance: it counts, and is told
    more = {**bench.absent_classes(), "missing_classes": list(subset.missing_classes), "samples": len(ids)}
    return _scored(result, more)


def _draw_subsets(bench: Bench) -> SubsetLists:
    """All draws.

    Raises:
        ConfigError: one twice, or one from which nothing can be learned.
    """
    options, facts, benchmark = bench.options.semi, bench.benchmark.facts("train"), bench.benchmark
    for name, values in (("fractions", options.fractions), ("sampling", options.sampling)):
        if len(set(values)) < len(values):
            raise ConfigError(f"semi.{name}: found {list(values)}, expected each once")
    kept = None if bench.held_out is None else bench.held_out[0]
    rows = np.arange(len(facts)) if kept is None else np.flatnonzero(np.isin(facts.sample_id, kept))
    subsets = tuple(
        draw_subset(
            facts.label[rows],
            facts.sample_id[rows],
            benchmark.num_classes,
            fraction,
            stratified=sampling == "stratified",
            seed=draw,
            key=facts.key[rows].tolist(),
        )
        for sampling in options.sampling
        for fraction in options.fractions
        for draw in range(options.draws)
    )
    for subset in subsets:
        try:
            benchmark.absent_classes(np.array(subset.sample_id, dtype=np.int64))
        except ConfigError as error:
            sampling = "stratified" if subset.stratified else "unstratified"
            raise ConfigError(f"{sampling} label fraction {subset.fraction:g}, draw {subset.seed}: {error}") from error
    return SubsetLists(dataset=benchmark.dataset, protocol=benchmark.protocol, subsets=subsets)


def find_transfer_obstacle(bench: Bench) -> str | None:
    """Why the network cannot be transferred, or not with a result that is worth anything, if so."""
    target = bench.options.transfer
    if target.dataset == bench.benchmark.dataset:
        return f"the run is on {target.dataset} itself: choose another by --set transfer.dataset=NAME"
    check_protocol(target.dataset, target.protocol)
    try:
        bench.check_tuning()
        _target(bench).absent_classes()
    except (ConfigError, StoreError) as error:
        return str(error)
    return None


def target_data(bench: Bench) -> dict[str, Any]:
    """Of which data the network is tuned to."""
    return {"fingerprint": _target(bench).manifest.fingerprint}


def transfer_settings(options: EvaluateConfig) -> list[Setting]:
    return repeats(options.finetune.seed, options)


def transfer(bench: Bench, subject: Subject, setting: Setting) -> Scored:
    """The whole network on another data set."""
    target = _target(bench)
    more = {**target_data(bench), "dataset": target.dataset, "protocol": target.protocol}
    more |= target.absent_classes()
    return _scored(_tuned(bench, target, subject, (None, None), int(setting["seed"])), more)


def _target(bench: Bench) -> Benchmark:
    named = bench.options.transfer
    return bench.once("transfer", lambda: bench.other(named.dataset, named.protocol, named.data))


@dataclass(frozen=True)
class _Repeated:
    """Views of which an epoch is several passes, each drawn anew."""

    views: EpochViews
    passes: int

    def __len__(self) -> int:
        return self.passes * len(self.views)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Views]:
        passes = range(epoch * self.passes, (epoch + 1) * self.passes)
        return islice(chain.from_iterable(map(self.views.epoch, passes)), first_step, None)


def _tuned(
    bench: Bench,
    benchmark: Benchmark,
    subject: Subject,
    sides: tuple[Ids | None, Ids | None],
    seed: int,
    passes: int = 1,
) -> FinetuneResult:
    options: FinetuneConfig = bench.options.finetune.model_copy(update={"seed": seed})
    ids, held_out = sides
    with ExitStack() as stack:
        seen, centre = bench.spec(options.crop, benchmark), bench.spec("centre", benchmark)
        train = benchmark.views("train", seen, options.batch_size, shuffle=True, seed=seed, ids=ids)
        stack.enter_context(closing(train))
        test = stack.enter_context(closing(benchmark.views("test", centre, bench.options.batch_size)))
        validation = None
        if held_out is not None:
            views = benchmark.views("train", centre, bench.options.batch_size, ids=held_out)
            validation = each(stack.enter_context(closing(views)))
        return finetune(
            bench.encoder(subject),
            _Repeated(train, passes),
            each(test),
            options,
            benchmark.num_classes,
            validation=validation,
            device=bench.device,
            progress=bench.progress,
        )


def _scored(result: FinetuneResult, more: dict[str, Any] | None = None) -> Scored:
    numbers: dict[str, float | int] = {"accuracy": result.last, "best": result.best}
    if result.chosen is not None:
        numbers["chosen"] = result.chosen
    details = {
        **curve_details(result),
        "per_class": list(result.per_class),
        **(more or {}),
    }
    return Scored(numbers, details)
