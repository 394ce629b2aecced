"""Carries a benchmark out, cell by cell; whatever ends it, the same call goes on from there."""

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from flows.benchmark.cells import Cell, evaluate_options, pretrain_options
from flows.benchmark.config import BenchmarkConfig, write_yaml
from flows.benchmark.plan import Plan, PlannedCell, check, plan
from flows.benchmark.rounds import CellRecord, RoundRecord, begun_round, new_round, read_rounds
from flows.benchmark.table import write_tables
from flows.evaluate import evaluate
from flows.preprocess import preprocess
from flows.pretrain import pretrain
from flows.run_folder import write_model
from flows.scores.regression import compare_rounds, tests_of
from flows.scores.summary import read_stored
from flows.service.events import evaluation_regressed, report_failure
from flows.storage.identity import about_features, about_results, about_run, about_store
from models.evaluation.results import TaskResult
from shards.errors import SkelstreamError
from shards.files import write_atomic

Say = Callable[[str], None]
Step = Callable[[str, Callable[[], Any]], Any]
"""Carries out a function under a name."""


class CellsFailedError(SkelstreamError):
    """Cells of a benchmark failed; the message names them and why. All others are done."""


@dataclass(frozen=True)
class BenchmarkResult:
    """A complete round.

    Attributes:
        folder: of the tables and the report.
        plan: the round as it is now, with all its results.
        regressed: a line for each measurement that is worse than in the round before, by more than noise.
    """

    folder: Path
    plan: Plan
    regressed: tuple[str, ...]

    @property
    def report(self) -> Path:
        return self.folder / "report.html"


def directly(name: str, function: Callable[[], Any]) -> Any:
    """The step that has no other to tell of it."""
    return function()


def run_benchmark(
    config: BenchmarkConfig,
    *,
    round_: str | None = None,
    step: Step = directly,
    say: Say = print,
    progress: bool = False,
) -> BenchmarkResult:
    """Train and score what is missing of a round, then write its tables and its report.

    Args:
        config: of `read_benchmark`.
        round_: its name; None for the present one.
        step: carries out each part: a conversion, a cell, the report.
        say: told what is done and what is reused.
        progress: show bars.

    Raises:
        CellsFailedError: some cells failed; the tables show the others.
        ConfigError: before anything runs, what can be known of the whole plan; another process is at work on it.
    """
    check(config)
    with begun_round(config, round_) as name:
        planned = _with_stores(plan(config, name), step, say, progress)
        write_atomic(config.folder / "benchmark.yaml", write_yaml(config))
        say(f"{config.name}, round {name}: {len(planned.cells)} cells")
        failed = _spread(planned, say) if config.spread else _in_turn(planned, step, say, progress)
        return _concluded(plan(config, name), failed, step, say)


def _with_stores(planned: Plan, step: Step, say: Say, progress: bool) -> Plan:
    """The plan once all stores are there."""
    for entry in planned.config.preprocess:
        found = planned.stores[entry.source]
        if found is not None:
            say(about_store(found))
        else:
            made = step(f"preprocess {entry.source}", partial(preprocess, entry, progress=progress))
            say(made.summary())
    return plan(planned.config, planned.round) if planned.waiting else planned


def _in_turn(planned: Plan, step: Step, say: Say, progress: bool) -> dict[Cell, str]:
    """Carry out the cells in this process; those that failed, and why."""
    failed: dict[Cell, str] = {}
    for number, cell in enumerate(planned.cells, 1):
        say(f"[{number}/{len(planned.cells)}] {cell.cell.label}")
        work = partial(_carry_out, planned.config, cell, dict(failed), say, progress)
        try:
            step(cell.cell.label, work)
        except Exception as error:  # noqa: BLE001 - out of memory or a bug in one cell: the others have a night left
            failed[cell.cell] = f"{error}" if isinstance(error, SkelstreamError | OSError) else repr(error)
            if not isinstance(error, SkelstreamError | OSError):
                say(traceback.format_exc().rstrip())
            say(f"failed: {failed[cell.cell]}")
    return failed


def _spread(planned: Plan, say: Say) -> dict[Cell, str]:
    from flows.benchmark.spread import spread

    return spread(planned, say)


def _carry_out(
    config: BenchmarkConfig, planned: PlannedCell, failed: Mapping[Cell, str], say: Say, progress: bool
) -> None:
    """Train and score one cell."""
    cell, run = planned.cell, planned.run
    if planned.trained:
        say(about_run(run))
    else:
        say(f"trains in {run}, {planned.epochs} of {planned.config.train.total_epochs} epochs are done")
        pretrain(pretrain_options(config, cell, planned.store, run), progress=progress)
    if planned.results:
        say(about_results(planned.results))
    with planned.scorable(failed) as tasks:
        if planned.missing:
            features = about_features(run)
            if features is not None:
                say(features)
            options = evaluate_options(config, cell, planned.store, run, tasks, planned.streams)
            with report_failure(run, tasks):
                evaluate(options, progress=progress)


def _concluded(done: Plan, failed: Mapping[Cell, str], step: Step, say: Say) -> BenchmarkResult:
    """Tables, report, and the word that the round is complete."""
    config = done.config
    reasons = {
        planned.cell: failed.get(planned.cell, "not complete")
        for planned in done.cells
        if planned.cell in failed or not planned.trained or planned.missing
    }
    if any(planned.results for planned in done.cells):
        write_tables(done, reasons)
        step("report", partial(_report, done))
        say(f"tables and report: {config.folder}")
    if reasons:
        lines = "\n".join(f"  {cell.label}: {reason}" for cell, reason in reasons.items())
        raise CellsFailedError(
            f"{config.name}, round {done.round}: {len(reasons)} of {len(done.cells)} cells failed; the same command"
            f" goes on with them:\n{lines}"
        )
    return BenchmarkResult(config.folder, done, _regressed(done, say))


def _report(done: Plan) -> None:
    from flows.pages.report import write_report

    runs = [planned.run for planned in done.cells if planned.results]
    write_report(runs, done.config.folder / "report.html", title=_title(done))


def _title(done: Plan) -> str:
    return done.config.name + ("" if done.config.round == "once" else f", round {done.round}")


def _regressed(done: Plan, say: Say) -> tuple[str, ...]:
    """Tell what is worse than in the round before, then write that the round is complete."""
    config = done.config
    rounds = read_rounds(config)
    record = new_round(rounds, done.round, [_record(config, planned) for planned in done.cells])
    before = max((other for other in rounds if other.number < record.number), key=lambda r: r.number, default=None)
    lines: tuple[str, ...] = ()
    if before is not None:
        now = {str(planned.run): planned.results for planned in done.cells}
        changes = compare_rounds(_results(config, before), now, tests_of([planned.run for planned in done.cells]))
        lines = tuple(change.line() for change in changes if change.status == "regressed")
        for line in lines:
            say(f"worse than in round {before.round}: {line}")
        if record not in rounds:  # one that was complete before has been told
            evaluation_regressed(config.name, record.round, before.round, changes)
    write_model(config.folder / "rounds" / f"{record.round}.json", record)
    return lines


def _results(config: BenchmarkConfig, record: RoundRecord) -> dict[str, list[TaskResult]]:
    """What was scored in an earlier round; a run that is no longer there has nothing."""
    found = {}
    for cell in record.cells:
        rows = read_stored(config.runs / cell.run / "results")
        found[str(config.runs / cell.run)] = [row for row in rows if row.task in cell.tasks]
    return found


def _record(config: BenchmarkConfig, planned: PlannedCell) -> CellRecord:
    cell = planned.cell
    return CellRecord(
        method=cell.method,
        dataset=cell.dataset,
        protocol=cell.protocol,
        stream=cell.stream,
        seed=cell.seed,
        run=planned.run.relative_to(config.runs).as_posix(),
        tasks=planned.tasks,
    )
