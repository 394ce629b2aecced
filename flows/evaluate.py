"""Downstream tasks from one checkpoint, as a plain function and as a Prefect flow.

Each task is run for the trained encoder and, so that a number means something, for the same encoder before training;
retrieval also for the coordinates themselves.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from prefect import flow, task
from torch import nn

from flows.build import Side, build_encoder, open_evaluation, pick_device
from flows.config import EvaluateConfig, Frozen, PretrainConfig, apply_overrides, read_config
from flows.options import LoaderOptions, PlaceText
from flows.run_folder import read_run, versions
from models.evaluation.features import Features, coordinate_features, extract_features
from models.evaluation.linear import linear_evaluation
from models.evaluation.results import TaskResult, hardware, read_results, write_results
from models.evaluation.retrieval import RetrievalConfig, retrieval
from models.training.checkpoint import encoder_state, latest_checkpoint, load_checkpoint
from pipelines.loaders.loader import ViewLoader
from shards.catalog import dataset
from shards.errors import CheckpointError, ConfigError
from shards.manifest import find_store, read_manifest, sha256_file
from shards.places import Place, place

Subject = Literal["trained", "random encoder", "coordinates"]
Scores = dict[str, Any]


class EvaluateOptions(Frozen):
    """Which run, which tasks.

    `checkpoint` is the name of one in the run's folder, such as that of the end of the main stage; None is the last.
    `data` is needed only when the store has moved since pre-training.
    """

    run: Path
    checkpoint: str | None = None
    tasks: tuple[str, ...] = ("linear", "retrieval")
    data: PlaceText | None = None
    overrides: tuple[str, ...] = ()
    loader: LoaderOptions = LoaderOptions()
    device: str = "auto"

    def resolve(self) -> EvaluateConfig:
        """The published settings with the overrides; ConfigError names an unknown task."""
        unknown = [name for name in self.tasks if name not in TASKS]
        if unknown or not self.tasks:
            raise ConfigError(f"--tasks: found {', '.join(unknown) or 'none'}, expected some of {', '.join(TASKS)}")
        return apply_overrides(EvaluateConfig(), self.overrides)


@dataclass(frozen=True)
class Bench:
    """One store, seen as one run saw it: gives the views of either side."""

    folder: Place
    config: PretrainConfig
    options: EvaluateConfig
    loader: LoaderOptions
    device: torch.device
    progress: bool

    @property
    def num_classes(self) -> int:
        return dataset(self.config.data.dataset).num_classes

    def views(self, side: Side, crop: Literal["centre", "random"], batch_size: int, shuffle: bool) -> ViewLoader:
        return open_evaluation(
            self.folder,
            self.config,
            side,
            crop,
            self.loader,
            batch_size=batch_size,
            device=self.device,
            shuffle=shuffle,
        )

    def features(self, side: Side, encoder: nn.Module | None) -> Features:
        """Centre crop, in stored order; the coordinates themselves when there is no encoder."""
        views = self.views(side, "centre", self.options.batch_size, shuffle=False)
        if encoder is None:
            return coordinate_features(views.epoch(0))
        return extract_features(encoder, views.epoch(0), device=self.device, progress=self.progress, total=len(views))


def evaluate(options: EvaluateOptions, *, progress: bool = False) -> list[TaskResult]:
    """Run the tasks whose results are not in the run folder yet; each task's are written as soon as it is done.

    Raises:
        ConfigError: unknown task or option, or a folder that holds no run.
        CheckpointError: the run has no checkpoint, or it is of another data fingerprint.
    """
    done = finished(options)
    if done is not None:
        return done
    config, record = read_config(options.run / "config.json"), read_run(options.run)
    folder = find_store(place(options.data or record.store), config.data.dataset)
    source = _source(options)
    state = encoder_state(load_checkpoint(source.checkpoint, expect_fingerprint=read_manifest(folder).fingerprint))
    bench = Bench(folder, config, options.resolve(), options.loader, pick_device(options.device), progress)
    encoders: dict[Subject, nn.Module | None] = {
        "trained": build_encoder(config, state).to(bench.device),
        "random encoder": build_encoder(config, None).to(bench.device),
        "coordinates": None,
    }
    results = []
    for name in options.tasks:
        rows = _stored(options, name, source)
        if rows is None:
            rows = [_run(bench, name, subject, encoders[subject], source) for subject in _subjects(bench.options, name)]
            write_results(_results_path(source, name), rows)
        results += rows
    return results


def finished(options: EvaluateOptions) -> list[TaskResult] | None:
    """The stored results of all these tasks with the same options, data and checkpoint, else None.

    Raises:
        ConfigError: unknown task or option, or a folder that holds no run.
        CheckpointError: the run has no checkpoint.
    """
    options.resolve()
    source = _source(options)
    stored = [_stored(options, name, source) for name in options.tasks]
    return [result for results in stored for result in results or ()] if all(stored) else None


@dataclass(frozen=True)
class _Source:
    """What results depend on besides the options; fixed at the start, because the run may still be training."""

    fingerprint: str
    checkpoint: Path
    sha256: str
    results: Path


def _source(options: EvaluateOptions) -> _Source:
    fingerprint = read_run(options.run).fingerprint
    if options.data is not None:
        name = read_config(options.run / "config.json").data.dataset
        fingerprint = read_manifest(find_store(place(options.data), name)).fingerprint
    path = _checkpoint_path(options)
    return _Source(fingerprint, path, sha256_file(path), results_folder(options))


def _stored(options: EvaluateOptions, name: str, source: _Source) -> list[TaskResult] | None:
    """The results of one task in the run folder, if they are those that it would give again."""
    config, path = options.resolve(), _results_path(source, name)
    if not path.is_file():
        return None
    results = read_results(path)
    same = [result.subject for result in results] == list(_subjects(config, name)) and all(
        result.fingerprint == source.fingerprint
        and result.checkpoint_sha256 == (source.sha256 if result.subject == "trained" else None)
        and result.options == _task_options(config, name, result.subject)
        for result in results
    )
    return results if same else None


def _subjects(config: EvaluateConfig, name: str) -> tuple[Subject, ...]:
    """Whose features a task scores; the coordinates themselves have no training to compare a linear layer by."""
    if not config.baselines:
        return ("trained",)
    return tuple(subject for subject in get_args(Subject) if subject != "coordinates" or name == "retrieval")


def table(results: Sequence[TaskResult]) -> str:
    """The scores as aligned text, in per cent."""
    rows = [("task", "features", "score", "best epoch's")]
    for result in results:
        best = result.scores.get("best")
        rows.append((result.task, result.subject, _percent(result.scores["accuracy"]), _percent(best)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _linear(bench: Bench, encoder: nn.Module | None) -> Scores:
    assert encoder is not None
    options = bench.options.linear
    result = linear_evaluation(
        encoder,
        bench.views("train", options.crop, options.batch_size, shuffle=True),
        lambda: bench.views("test", "centre", bench.options.batch_size, shuffle=False).epoch(0),
        options,
        bench.num_classes,
        device=bench.device,
        progress=bench.progress,
    )
    return {
        "accuracy": result.last,
        "best": result.best,
        "best_epoch": result.best_epoch,
        "curve": list(result.curve),
        "per_class": list(result.per_class),
    }


def _retrieval(bench: Bench, encoder: nn.Module | None) -> Scores:
    # 1-NN on coordinates is by Euclidean distance, which is what "nearest" means for points in metres
    options = bench.options.retrieval if encoder is not None else RetrievalConfig(metric="euclidean")
    gallery, query = bench.features("train", encoder), bench.features("test", encoder)
    result = retrieval(gallery, query, options, bench.num_classes)
    return {"accuracy": result.accuracy, "per_class": list(result.per_class)}


TASKS: dict[str, Callable[[Bench, nn.Module | None], Scores]] = {"linear": _linear, "retrieval": _retrieval}


def _task_options(config: EvaluateConfig, name: str, subject: Subject) -> dict[str, Any]:
    options: dict[str, Any] = getattr(config, name).model_dump(mode="json") | {"test_crop": "centre 0.95"}
    return options | ({"metric": "euclidean"} if subject == "coordinates" else {})


def _run(bench: Bench, name: str, subject: Subject, encoder: nn.Module | None, source: _Source) -> TaskResult:
    """Score one subject in one task."""
    manifest, data = read_manifest(bench.folder), bench.config.data
    trained = subject == "trained"
    begun = time.monotonic()
    scores = TASKS[name](bench, encoder)
    seconds = time.monotonic() - begun
    return TaskResult(
        task=name,
        subject=subject,
        options=_task_options(bench.options, name, subject),
        checkpoint=source.checkpoint.name if trained else None,
        checkpoint_sha256=source.sha256 if trained else None,
        fingerprint=manifest.fingerprint,
        recipe=manifest.recipe,
        dataset=data.dataset,
        protocol=data.protocol,
        stream=data.stream,
        scores=scores,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        hardware=hardware(bench.device),
        versions=versions(),
    )


def results_folder(options: EvaluateOptions) -> Path:
    """Where results go: RUN/results for the last checkpoint, RUN/results/<its name without .pt> for another."""
    folder, path = options.run / "results", _checkpoint_path(options)
    return folder if path == latest_checkpoint(options.run) else folder / path.stem


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


def _results_path(source: _Source, name: str) -> Path:
    return source.results / f"{name}.json"


def _percent(score: Any) -> str:
    return "" if score is None else f"{100 * score:.1f} %"


@flow(name="evaluate", validate_parameters=True)
def evaluate_flow(options: EvaluateOptions, progress: bool = True) -> str:
    """Score a run's checkpoint; returns the folder of the results."""
    results = task(name="evaluate-" + "-".join(options.tasks))(evaluate)(options, progress=progress)
    print(table(results))
    return str(results_folder(options))
