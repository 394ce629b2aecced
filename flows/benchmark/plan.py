"""What a benchmark would do: which runs and scores are there, which go on, which are missing, and what they cost."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from flows.benchmark.cells import Cell, cells, evaluate_options, pretrain_options
from flows.benchmark.config import ALL, BenchmarkConfig
from flows.build import pick_device, pick_ranks_device
from flows.config import PretrainConfig, first_difference, read_config
from flows.evaluate import find_finished_scores
from flows.evaluate import resolve as resolve_scores
from flows.pretrain import resolve
from flows.storage.identity import find_run, identity, is_complete
from flows.tasks.bench import Bench, Benchmark, Source
from flows.tasks.config import EvaluateConfig
from flows.tasks.registry import TASKS
from models.evaluation.results import TaskResult
from models.training.checkpoint import latest_checkpoint, read_header
from models.training.runlog import read_log
from pipelines.conversion.convert import ConvertResult, find_existing
from shards.catalog import dataset, source
from shards.errors import ConfigError, SkelstreamError
from shards.manifest import find_store, read_manifest
from shards.places import Place, place


@dataclass(frozen=True)
class PlannedCell:
    """A cell, and how far it is.

    Attributes:
        config: resolved.
        store: of its data set.
        run: folder that its run has or will have.
        reused: the run lies under a name of its own, not that of the cell.
        epochs: done so far.
        tasks: that are to be scored.
        left_out: tasks that "all" leaves out, and why.
        streams: for fusion, the runs of the other streams by name.
        results: rows that are there, of tasks that are complete.
        seconds: estimate of what is missing, from cells that differ in the seed alone; None where there are none.
    """

    cell: Cell
    config: PretrainConfig
    store: Place
    run: Path
    reused: bool
    epochs: int
    tasks: tuple[str, ...]
    left_out: Mapping[str, str]
    streams: Mapping[str, Path]
    results: tuple[TaskResult, ...] = ()
    seconds: float | None = None

    @property
    def trained(self) -> bool:
        return self.epochs >= self.config.train.total_epochs

    @property
    def missing(self) -> tuple[str, ...]:
        """Tasks that are not scored yet, or not as asked for."""
        scored = {result.task for result in self.results}
        return tuple(name for name in self.tasks if name not in scored)

    @contextmanager
    def scorable(self, failed: Iterable[Cell]) -> Iterator[tuple[str, ...]]:
        """The tasks that can be scored: no fusion where another stream is among the cells that failed.

        Raises:
            ConfigError: in the end, where there is something that could not be fused.
        """
        own = self.cell
        lost = [
            cell.label
            for cell in failed
            if (*cell.group[:3], cell.seed) == (*own.group[:3], own.seed) and cell.stream in self.streams
        ]
        if not lost or "fusion" not in self.tasks:
            yield self.tasks
            return
        yield tuple(name for name in self.tasks if name != "fusion")
        raise ConfigError(f"task fusion: found no scores of {', '.join(lost)}, which failed")


@dataclass(frozen=True)
class Plan:
    """All of a round.

    Attributes:
        stores: of each source that `preprocess` names; None where one is to be made first.
        cells: in the order in which they are run; none while a store is to be made.
        waiting: cells whose store is to be made.
    """

    config: BenchmarkConfig
    round: str
    stores: Mapping[str, ConvertResult | None]
    cells: tuple[PlannedCell, ...]
    waiting: tuple[Cell, ...]

    @property
    def complete(self) -> bool:
        """Whether there is nothing left to train or to score."""
        return not self.waiting and all(cell.trained and not cell.missing for cell in self.cells)


def plan(config: BenchmarkConfig, round_: str) -> Plan:
    """Look at everything; writes nothing.

    Raises:
        ConfigError: what can be known before anything runs: a method, an override, a task that a cell does not allow,
            a device that is not there, a run folder that holds something else.
        StoreError: a data set has no store and `preprocess` makes none.
        RawInputError: raw archives that are not there.
    """
    configs = check(config)
    all_cells = cells(config)
    stores = {entry.source: _existing(config, number) for number, entry in enumerate(config.preprocess)}
    look = _Look(config, round_, stores)
    waiting = tuple(cell for cell in all_cells if look.store(cell.dataset) is None)
    found = [
        look.cell(cell, resolved)
        for cell, resolved in zip(all_cells, configs, strict=True)
        if look.store(cell.dataset) is not None
    ]
    return Plan(config, round_, stores, tuple(_estimated(found)), waiting)


def check(config: BenchmarkConfig) -> list[PretrainConfig]:
    """The configuration of each cell, before any look at a disk.

    Raises:
        ConfigError: an unknown method, an override that cannot be, or a device that is not there; with its cell.
    """
    if not config.spread:  # else those of the workers
        if config.gpus is None:
            pick_device(config.device)
        else:
            pick_ranks_device(config.device, config.gpus)
    return [_resolved(config, cell) for cell in cells(config)]


def _resolved(config: BenchmarkConfig, cell: Cell) -> PretrainConfig:
    with _named(cell):
        resolved = resolve(pretrain_options(config, cell, config.data, Path()))
        resolve_scores(evaluate_options(config, cell, config.data, Path(), (ALL,), {}), resolved)
    return resolved


@contextmanager
def _named(cell: Cell) -> Iterator[None]:
    """Say of which cell an error is."""
    try:
        yield
    except SkelstreamError as error:
        raise type(error)(f"{cell.label}: {error}") from error


def _existing(config: BenchmarkConfig, number: int) -> ConvertResult | None:
    entry = config.preprocess[number]
    if entry.source not in {dataset(named.partition("/")[0]).source for named in config.datasets}:
        raise ConfigError(f"preprocess[{number}]: found {entry.source}, expected a source of the data sets")
    source(entry.source)
    return find_existing(entry.source, entry.raw, entry.out, recipe=entry.recipe, dtype=entry.dtype)


class _Look:
    """At what is there of a benchmark; stores, samples and checks are looked at once for all cells."""

    def __init__(self, config: BenchmarkConfig, round_: str, stores: Mapping[str, ConvertResult | None]) -> None:
        self.config, self.round, self.made = config, round_, stores
        self.device = torch.device("cpu") if config.spread else pick_device(config.device)
        self._stores: dict[str, Place | None] = {}
        self._benchmarks: dict[object, Benchmark] = {}
        self._reasons: dict[object, str | None] = {}
        self._folders: dict[tuple[tuple[str, str, str, str], int], Path] = {}

    def store(self, name: str) -> Place | None:
        """Of a data set; None where it is to be made."""
        if name not in self._stores:
            source_ = dataset(name).source
            if source_ in self.made:
                result = self.made[source_]
                self._stores[name] = None if result is None else result.folder
            else:
                self._stores[name] = find_store(place(self.config.data), name)
        return self._stores[name]

    def cell(self, cell: Cell, resolved: PretrainConfig) -> PlannedCell:
        store = self.store(cell.dataset)
        assert store is not None
        with _named(cell):
            fingerprints = (read_manifest(store).fingerprint,)
            own = self.config.runs / cell.folder_name(self.round, identity(resolved, fingerprints))
            run = _run_of(own, self.config, self.round, resolved, fingerprints)
            self._folders[cell.group, cell.seed] = run
            streams = self._streams(cell)
            tasks, left_out = self._tasks(cell, resolved, store, run, streams)
            planned = PlannedCell(cell, resolved, store, run, run != own, _epochs(run), tasks, left_out, streams)
            if planned.trained:
                planned = replace(planned, results=self._results(planned, store))
        return planned

    def _streams(self, cell: Cell) -> dict[str, Path]:
        """The runs of the other streams, where there are all three; they stand before it."""
        if cell.stream != "joint":
            return {}
        others = {name: ((*cell.group[:3], name), cell.seed) for name in ("bone", "motion")}
        if not all(key in self._folders for key in others.values()):
            return {}
        return {name: self._folders[key] for name, key in others.items()}

    def _tasks(
        self, cell: Cell, resolved: PretrainConfig, store: Place, run: Path, streams: Mapping[str, Path]
    ) -> tuple[tuple[str, ...], dict[str, str]]:
        """Those to be scored, and those that "all" leaves out and why."""
        options = resolve_scores(evaluate_options(self.config, cell, store, run, (ALL,), streams), resolved)
        every = self.config.tasks == (ALL,)
        # bones and motion are fused by the joint stream
        names = [n for n in (TASKS if every else self.config.tasks) if every or n != "fusion" or cell.stream == "joint"]
        reasons = {name: self._find_obstacle(name, cell, resolved, store, run, options) for name in names}
        left_out = {name: reason for name, reason in reasons.items() if reason is not None}
        if left_out and not every:
            name, reason = next(iter(left_out.items()))
            raise ConfigError(f"task {name}: {reason}")
        # in the order of the registry: fusion needs the class scores of linear
        return tuple(name for name in TASKS if name in reasons and name not in left_out), left_out

    def _find_obstacle(
        self, name: str, cell: Cell, resolved: PretrainConfig, store: Place, run: Path, options: EvaluateConfig
    ) -> str | None:
        """Why a task cannot be run, as its own check has it; the run need not be there."""
        same = (cell.dataset, cell.protocol, resolved.views.frames, resolved.data.window)
        layers = resolved.objective.encoder
        key = (name, same, layers, cell.evaluate, cell.stream if name == "fusion" else None)
        if key not in self._reasons:
            if same not in self._benchmarks:
                self._benchmarks[same] = Benchmark.of_run(resolved, store, self.config.loader, self.device)
            benchmark = replace(self._benchmarks[same], stream=cell.stream)
            nowhere = Source(benchmark.manifest.fingerprint, run, "", run / "results")
            bench = Bench(run, resolved, options, benchmark, nowhere, progress=False)
            self._reasons[key] = TASKS[name].obstacle(bench)
        return self._reasons[key]

    def _results(self, planned: PlannedCell, store: Place) -> tuple[TaskResult, ...]:
        """Of the tasks that are complete."""
        found: list[TaskResult] = []
        for name in planned.tasks:
            options = evaluate_options(self.config, planned.cell, store, planned.run, (name,), planned.streams)
            found += find_finished_scores(options) or ()
        return tuple(found)


def _run_of(
    own: Path, config: BenchmarkConfig, round_: str, resolved: PretrainConfig, fingerprints: Sequence[str]
) -> Path:
    """The folder of a cell's run: its own, or that of a run of the same identity which is complete."""
    if (own / "config.json").is_file():
        difference = first_difference(read_config(own / "config.json"), resolved)
        if difference is not None:
            raise ConfigError(f"{own} holds a run with another configuration: {difference}; move it away")
    # a round of its own trains anew: what the code makes of the same configuration is what it is there to tell
    if config.round != "once" or is_complete(own, resolved, fingerprints):
        return own
    return find_run(config.runs, resolved, fingerprints) or own


def _epochs(run: Path) -> int:
    path = latest_checkpoint(run)
    return 0 if path is None else read_header(path).epoch


def _estimated(found: Sequence[PlannedCell]) -> Iterator[PlannedCell]:
    """With what is missing of each, at the speed of cells that differ in the seed alone."""
    logs = {planned.run: [float(line.get("seconds", 0)) for line in read_log(planned.run)] for planned in found}
    for planned in found:
        alike = [other for other in found if other.cell.group == planned.cell.group]
        epochs = [seconds for other in alike for seconds in logs[other.run]]
        rows = {
            name: [
                sum(r.seconds for r in other.results if r.task == name) for other in alike if name not in other.missing
            ]
            for name in planned.missing
        }
        rest = planned.config.train.total_epochs - planned.epochs
        if (rest and not epochs) or not all(rows.values()):
            yield planned
            continue
        training = rest * sum(epochs) / len(epochs) if rest else 0.0
        yield replace(planned, seconds=training + sum(sum(times) / len(times) for times in rows.values()))
