"""Downstream tasks from one checkpoint, resumed row by row.

Each task is run for the trained encoder and, so that a number means something, for the same encoder before training;
where there is nothing to train also for the coordinates themselves. Every row is stored as soon as it is scored.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from flows.build import pick_device
from flows.config import PretrainConfig, apply_overrides, read_config
from flows.machine.gpus import lease_gpus
from flows.machine.room import check_evaluate
from flows.options import EvaluateOptions
from flows.run_folder import read_run, versions
from flows.scores.summary import align_columns, changes, lines, of_task, subjects
from flows.tasks.bench import Bench, Benchmark, Source, Subject, scoring
from flows.tasks.config import EvaluateConfig
from flows.tasks.official import official
from flows.tasks.registry import TASKS
from models.evaluation.results import Setting, TaskResult, hardware, write_results
from models.training.checkpoint import latest_checkpoint
from shards.errors import CheckpointError, ConfigError
from shards.files import sha256_file
from shards.manifest import find_store, read_manifest
from shards.places import place

ALL = "all"


def resolve(options: EvaluateOptions, config: PretrainConfig | None = None) -> EvaluateConfig:
    """The official setting of the family of the run's encoder, with the overrides.

    Args:
        options: name the run.
        config: of the run; None for that in its folder.

    Raises:
        ConfigError: an unknown task or option, or a folder that holds no run.
    """
    unknown = [name for name in options.tasks if name not in TASKS]
    if options.tasks != (ALL,) and (unknown or not options.tasks):
        known = ", ".join(TASKS)
        raise ConfigError(f"--tasks: found {', '.join(unknown) or 'none'}, expected {ALL} or some of {known}")
    seen = read_config(options.run / "config.json") if config is None else config
    return apply_overrides(official(seen.objective.encoder.family), options.overrides)


def evaluate(options: EvaluateOptions, *, progress: bool = False) -> list[TaskResult]:
    """Score the rows of the tasks that are not in the run folder yet; each is written as soon as it is done.

    Raises:
        ConfigError: unknown task or option, a task that this run or its data do not allow, or a folder that holds no
            run.
        CheckpointError: the run has no checkpoint, or it is of another data fingerprint.
        ShortageError: disk or memory is short.
    """
    bench = open_bench(options, progress=progress)
    names = wanted_tasks(options, bench)
    done = _finished(bench, names)
    if done is not None:
        return done
    _refuse(_find_waits(bench, names))
    with lease_gpus(bench.device, share=options.share_gpu, about=f"scoring {options.run}") as (device,):
        if device != bench.device:
            bench = open_bench(options.model_copy(update={"device": str(device)}), progress=progress)
        check_evaluate(bench, names)
        with scoring(bench.source.results):
            return [result for name in names for result in _score(bench, name)]


def find_finished_scores(options: EvaluateOptions) -> list[TaskResult] | None:
    """The stored results of all these tasks with the same options, data and checkpoint, else None; errors as there."""
    bench = open_bench(options)
    # what has all its rows could be scored; to look at the data again would take longer than to find them
    done = None if options.tasks == (ALL,) else _finished(bench, options.tasks)
    return done if done is not None else _finished(bench, wanted_tasks(options, bench))


def _finished(bench: Bench, names: Sequence[str]) -> list[TaskResult] | None:
    found = found_rows(bench, names)
    return found if len(found) == count_rows(bench, names) else None


def found_rows(bench: Bench, names: Sequence[str]) -> list[TaskResult]:
    """The wanted rows of these tasks that are there."""
    found = []
    for name in names:
        rows = _stored(bench, name)
        found += [rows[row] for row in _wanted(bench.options, name) if row in rows]
    return found


def count_rows(bench: Bench, names: Sequence[str]) -> int:
    """How many rows are wanted of these tasks."""
    return sum(len(_wanted(bench.options, name)) for name in names)


def find_omitted_tasks(options: EvaluateOptions) -> dict[str, str]:
    """The tasks that "all" leaves out here, and why."""
    if options.tasks != (ALL,):
        return {}
    bench = open_bench(options)
    lacking = _find_obstacles(bench, TASKS)
    return lacking | _find_waits(bench, [name for name in TASKS if name not in lacking])


def _find_obstacles(bench: Bench, names: Iterable[str]) -> dict[str, str]:
    """Of these tasks those that cannot be run here, and why."""
    reasons = {name: TASKS[name].obstacle(bench) for name in names}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _find_waits(bench: Bench, names: Sequence[str]) -> dict[str, str]:
    """Of these tasks, in this order, those for which something is not there yet, and what."""
    reasons = {name: TASKS[name].waits(bench, names[:number]) for number, name in enumerate(names)}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def wanted_tasks(options: EvaluateOptions, bench: Bench) -> tuple[str, ...]:
    every = options.tasks == (ALL,)
    names = tuple(TASKS) if every else options.tasks
    lacking = _find_obstacles(bench, names)
    if not every:
        _refuse(lacking)
        return names
    possible = [name for name in names if name not in lacking]
    waiting = _find_waits(bench, possible)
    wanted = tuple(name for name in possible if name not in waiting)
    if not wanted:
        first, reason = next(iter(lacking.items()))
        raise ConfigError(
            f"--tasks {ALL}: found no task that this run and its data allow, expected one at least; {first}: {reason}"
        )
    return wanted


def _refuse(reasons: Mapping[str, str]) -> None:
    """Refuse tasks that were asked for by name."""
    for name, reason in reasons.items():
        raise ConfigError(f"--tasks {name}: {reason}")


def open_bench(options: EvaluateOptions, *, progress: bool = False) -> Bench:
    record, config = read_run(options.run), read_config(options.run / "config.json")
    folder = find_store(place(options.data or record.store), config.data.dataset)
    benchmark = Benchmark.of_run(config, folder, options.loader, pick_device(options.device), options.stream)
    return Bench(options.run, config, resolve(options, config), benchmark, _source(options), progress=progress)


def _source(options: EvaluateOptions) -> Source:
    fingerprint = read_run(options.run).fingerprint
    if options.data is not None:
        name = read_config(options.run / "config.json").data.dataset
        fingerprint = read_manifest(find_store(place(options.data), name)).fingerprint
    path = _checkpoint_path(options)
    return Source(fingerprint, path, _sha256(path, path.stat().st_mtime_ns), results_folder(options))


@lru_cache(maxsize=1)
def _sha256(path: Path, changed: int) -> str:
    """Of a file that was changed at that time: one command asks several times, and a checkpoint may be a gigabyte."""
    return sha256_file(path)


Row = tuple[Subject, tuple[tuple[str, object], ...]]


def _wanted(config: EvaluateConfig, name: str) -> dict[Row, Setting]:
    """The rows of a task with their settings, in order."""
    known = TASKS[name]
    subjects = known.subjects if config.baselines else known.subjects[:1]
    return {_row(subject, setting): setting for subject in subjects for setting in known.settings(config)}


def _stored(bench: Bench, name: str) -> dict[Row, TaskResult]:
    """The results of a task in the run folder that scoring would give again."""
    known, source, found = TASKS[name], bench.source, of_task(bench.source.results, name)
    other = known.other(bench) if found else {}
    return {
        _row(result.subject, result.setting): result
        for result in found
        if result.fingerprint == source.fingerprint
        and result.checkpoint_sha256 == (source.sha256 if result.subject == "trained" else None)
        and result.options == known.options(bench.options, result.subject)
        and all(result.details.get(key) == value for key, value in other.items())
    }


def _row(subject: Subject, setting: Setting) -> Row:
    return subject, tuple(sorted(setting.items()))


def _score(bench: Bench, name: str) -> list[TaskResult]:
    """Score what is missing of a task."""
    path, wanted = _results_path(bench.source, name), _wanted(bench.options, name)
    rows = _stored(bench, name)
    for row, setting in wanted.items():
        if row not in rows:
            rows[row] = _run(bench, name, row[0], setting)
            write_results(path, list(rows.values()))
    return [rows[row] for row in wanted]


def _run(bench: Bench, name: str, subject: Subject, setting: Setting) -> TaskResult:
    """Score one row."""
    trained, source, manifest = subject == "trained", bench.source, bench.benchmark.manifest
    if trained and manifest.fingerprint != source.fingerprint:
        raise CheckpointError(
            f"{bench.benchmark.folder}: found fingerprint {manifest.fingerprint}, expected {source.fingerprint}"
        )
    begun = time.monotonic()
    scored = TASKS[name].score(bench, subject, setting)
    seconds = time.monotonic() - begun
    result = TaskResult(
        task=name,
        subject=subject,
        setting=setting,
        options=TASKS[name].options(bench.options, subject),
        family=bench.config.objective.encoder.family,
        method=bench.config.method,
        checkpoint=source.checkpoint.name if trained else None,
        checkpoint_sha256=source.sha256 if trained else None,
        fingerprint=manifest.fingerprint,
        recipe=manifest.recipe,
        dataset=bench.benchmark.dataset,
        protocol=bench.benchmark.protocol,
        stream=bench.benchmark.stream,
        scores=scored.scores,
        details=scored.details,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        hardware=hardware(bench.device),
        versions=versions(),
    )
    return result.model_copy(update={"official": not changes(result)})


def table(results: Sequence[TaskResult]) -> str:
    """The scores as aligned text, in per cent; mean and standard deviation over seeds and draws."""
    found = lines(results)
    names = subjects(found)
    rows = [("task", "setting", *names)]
    rows += [(line.task, line.setting, *(line.scores.get(name, "") for name in names)) for line in found]
    return "\n".join(align_columns(rows))


def results_folder(options: EvaluateOptions) -> Path:
    """Where results go: RUN/results for the last checkpoint, RUN/results/<its name without .pt> for another.

    Those of a further stream of a run that has several lie in a folder below, named for it.
    """
    folder, path = options.run / "results", _checkpoint_path(options)
    if path != latest_checkpoint(options.run):
        folder /= path.stem
    streams = read_config(options.run / "config.json").data.streams
    return folder if options.stream in (None, streams[0]) else folder / str(options.stream)


def _checkpoint_path(options: EvaluateOptions) -> Path:
    latest = latest_checkpoint(options.run)
    if latest is None:
        raise CheckpointError(f"{options.run}: found no checkpoint, expected a run that has saved one")
    if options.checkpoint is None:
        return latest
    names = sorted(path.name for path in latest.parent.glob("*.pt"))
    if options.checkpoint not in names:
        raise CheckpointError(f"{latest.parent}: found no {options.checkpoint!r}, expected one of {', '.join(names)}")
    return latest.parent / options.checkpoint


def _results_path(source: Source, name: str) -> Path:
    return source.results / f"{name}.json"
