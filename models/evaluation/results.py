"""Scores, and their records: every number beside everything that changes it."""

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError
from torch import Tensor

from shards.errors import ConfigError, SkelstreamError
from shards.manifest import write_atomic

RESULTS_VERSION = 1

Scores = dict[str, FiniteFloat | int | list[FiniteFloat | None]]


class TaskResult(BaseModel):
    """The scores of one subject in one task.

    Attributes:
        task: "linear", "retrieval", ...
        subject: whose features were scored: the run's, those of the same encoder before training, or the coordinates
            themselves.
        options: of the task: crop, epochs, rate, metric, ...
        checkpoint: file the encoder came from; None where there is none.
        checkpoint_sha256: of that file.
        fingerprint: of the store.
        recipe: of the store.
        dataset: benchmark.
        protocol: its split.
        stream: "joint", "bone" or "motion".
        scores: accuracies between 0 and 1, and curves; None in a list for a class without test samples.
        time: when the task ended, ISO 8601 with time zone.
        seconds: the task took.
        hardware: see `hardware`.
        versions: package -> version.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    subject: Literal["trained", "random encoder", "coordinates"]
    options: dict[str, Any]
    checkpoint: str | None
    checkpoint_sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    fingerprint: str
    recipe: str
    dataset: str
    protocol: str
    stream: str
    scores: Scores
    time: str
    seconds: float = Field(ge=0)
    hardware: str
    versions: dict[str, str]


def write_results(path: Path, results: Sequence[TaskResult]) -> None:
    """Write the records as JSON, whole or not at all; equal records give equal bytes."""
    tree = {"version": RESULTS_VERSION, "results": [result.model_dump(mode="json") for result in results]}
    write_atomic(path, (json.dumps(tree, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


def read_results(path: Path) -> list[TaskResult]:
    """The records of a file of `write_results`.

    Raises:
        SkelstreamError: unreadable, not such a file, or of another version.
    """
    try:
        tree = json.loads(path.read_bytes())
        version, records = tree["version"], tree["results"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SkelstreamError(f"{path}: found no results ({type(error).__name__}), expected a results file") from error
    if version != RESULTS_VERSION:
        raise SkelstreamError(f"{path}: found results of version {version}, expected {RESULTS_VERSION}")
    try:
        return [TaskResult.model_validate(record) for record in records]
    except (ValidationError, TypeError) as error:
        raise SkelstreamError(
            f"{path}: found a record that does not fit, expected the fields of TaskResult: {error}"
        ) from error


def hardware(device: torch.device | str) -> str:
    """The GPU's name, or the CPU's architecture and the threads used."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} of {os.cpu_count()} cores"


def check_labels(label: Tensor, num_classes: int, where: str) -> None:
    """Refuse labels outside 0..num_classes-1, and none at all.

    Raises:
        ConfigError: with the range found.
    """
    if len(label) == 0:
        raise ConfigError(f"{where}: found no samples, expected at least one")
    low, high = int(label.min()), int(label.max())
    if low < 0 or high >= num_classes:
        raise ConfigError(f"{where}: found labels {low}..{high}, expected them in 0..{num_classes - 1}")


def accuracies(predicted: Tensor, label: Tensor, num_classes: int) -> tuple[float, tuple[float | None, ...]]:
    """Share of right answers, and that of each class; None for a class without samples.

    Args:
        predicted: (N,) int64 classes.
        label: (N,) int64 classes.
        num_classes: how many there are.
    """
    total = torch.bincount(label, minlength=num_classes).tolist()
    right = torch.bincount(label[predicted == label], minlength=num_classes).tolist()
    classes = tuple(hits / count if count else None for hits, count in zip(right, total, strict=True))
    return sum(right) / sum(total), classes
