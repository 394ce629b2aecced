"""The cells of a benchmark: one pre-training each, with its tasks; and the options of both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from flows.benchmark.config import BenchmarkConfig, settings
from flows.options import EvaluateOptions, PretrainOptions
from shards.places import Place
from shards.skeleton import Stream

# fusion adds up the class scores of runs that have been scored
_ORDER: tuple[Stream, ...] = ("bone", "motion", "joint")


@dataclass(frozen=True)
class Cell:
    """One pre-training and what is scored of it.

    Attributes:
        method, dataset, protocol, stream, seed: what tells it apart.
        pretrain, evaluate: values as `--set` takes them.
    """

    method: str
    dataset: str
    protocol: str
    stream: Stream
    seed: int
    pretrain: tuple[str, ...]
    evaluate: tuple[str, ...]

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.method} {self.dataset}/{self.protocol} {self.stream} seed {self.seed}"

    @property
    def group(self) -> tuple[str, str, str, str]:
        """What cells have in common that differ in the seed alone."""
        return self.method, self.dataset, self.protocol, self.stream

    def folder_name(self, round_: str, identity: str) -> str:
        """Of its run in a round; "once" leaves no mark."""
        marks = () if round_ == "once" else (round_,)
        return "-".join((*self.group, f"s{self.seed}", *marks, identity[:8]))


def cells(config: BenchmarkConfig) -> tuple[Cell, ...]:
    """All cells in the order in which they are run: a whole table of the first seed, then the next."""
    streams = [stream for stream in _ORDER if stream in config.streams]
    return tuple(
        _cell(config, method, named, stream, seed)
        for seed, method, named, stream in product(config.seeds, config.methods, config.datasets, streams)
    )


def _cell(config: BenchmarkConfig, method: str, named: str, stream: Stream, seed: int) -> Cell:
    dataset, _, protocol = named.partition("/")
    own = [
        special for special in config.special if special.method in (None, method) and special.dataset in (None, named)
    ]
    pretrain = [setting for part in (config.pretrain, *(s.pretrain for s in own)) for setting in settings(part)]
    evaluate = [setting for part in (config.evaluate, *(s.evaluate for s in own)) for setting in settings(part)]
    return Cell(method, dataset, protocol, stream, seed, (*pretrain, f"train.seed={seed}"), tuple(evaluate))


def pretrain_options(config: BenchmarkConfig, cell: Cell, data: Place | str, run: Path) -> PretrainOptions:
    """The pre-training of a cell; it goes on where it stopped."""
    return PretrainOptions(
        method=cell.method,
        data=str(data),
        dataset=cell.dataset,
        protocol=cell.protocol,
        streams=(cell.stream,),
        loader=config.loader,
        run=run,
        overrides=cell.pretrain,
        resume=True,
        device=config.device,
        gpus=config.gpus,
        share_gpu=config.share_gpu,
    )


def evaluate_options(
    config: BenchmarkConfig, cell: Cell, data: Place | str, run: Path, tasks: Sequence[str], streams: Mapping[str, Path]
) -> EvaluateOptions:
    """The scores of a cell; `streams` are the runs to fuse its own with."""
    # absolute: they become part of the results, which have to be the same from any working directory
    fused = tuple(f"fusion.{name}={path.absolute()}" for name, path in streams.items())
    return EvaluateOptions(
        run=run,
        tasks=tuple(tasks),
        data=str(data),
        overrides=(*cell.evaluate, *fused),
        loader=config.loader,
        device=config.device,
        share_gpu=config.share_gpu,
    )
