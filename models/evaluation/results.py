"""Records of scores: every number beside everything that changes it."""

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, FiniteFloat, JsonValue, ValidationError

from models.encoders.encoder import Family
from shards.errors import SkelstreamError
from shards.files import write_atomic
from shards.frozen import Frozen

RESULTS_VERSION = 3
_AWAY = "move the file away to score again"

Setting = dict[str, str | bool | int | FiniteFloat]


class TaskResult(Frozen):
    """The scores of one subject in one setting of a task.

    Attributes:
        task: "linear", "retrieval", ...
        subject: whose features were scored: the run's, those of the same encoder before training, or the coordinates
            themselves.
        setting: which row of the task it is: a seed, a label fraction and draw, a level of a curve; empty where the
            task has one row.
        options: of the task: crop, epochs, rate, metric, ...
        family: kind of the encoder, whose official setting the options began with.
        official: whether they are still that setting.
        method: recipe of the run, with its variants.
        checkpoint: file the encoder came from; None where there is none.
        checkpoint_sha256: of that file.
        fingerprint: of the store.
        recipe: of the store.
        dataset: benchmark.
        protocol: its split.
        stream: "joint", "bone" or "motion".
        scores: the numbers of a table; accuracies and precisions between 0 and 1.
        details: what lies behind them: curves, each class, each group; None for a class without test samples.
        time: when the row ended, ISO 8601 with time zone.
        seconds: it took.
        hardware: see `hardware`.
        versions: package -> version.
    """

    task: str
    subject: Literal["trained", "random encoder", "coordinates"]
    setting: Setting = Field(default_factory=dict)
    options: dict[str, Any]
    family: Family = "gru"
    official: bool = True
    method: str
    checkpoint: str | None
    checkpoint_sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    fingerprint: str
    recipe: str
    dataset: str
    protocol: str
    stream: str
    scores: dict[str, FiniteFloat | int]
    details: dict[str, JsonValue] = Field(default_factory=dict)
    time: str
    seconds: float = Field(ge=0)
    hardware: str
    versions: dict[str, str]


def write_results(path: Path, results: Sequence[TaskResult]) -> None:
    """Write the records as JSON, whole or not at all; equal records give equal bytes."""
    tree = {"version": RESULTS_VERSION, "results": [result.model_dump(mode="json") for result in results]}
    write_atomic(path, (json.dumps(tree, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


def read_results(path: Path) -> list[TaskResult]:
    """The records of a file of `write_results`.

    Raises:
        SkelstreamError: unreadable, not such a file, or of another version.
    """
    try:
        tree = json.loads(path.read_bytes())
        version, records = tree["version"], tree["results"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SkelstreamError(
            f"{path}: found no results ({type(error).__name__}), expected a results file: {_AWAY}"
        ) from error
    if version != RESULTS_VERSION:
        raise SkelstreamError(f"{path}: found results of version {version}, expected {RESULTS_VERSION}: {_AWAY}")
    try:
        return [TaskResult.model_validate(record) for record in records]
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "at the top"
        raise SkelstreamError(
            f"{path}: found a bad field {where} ({first['msg']}), expected the fields of a result: {_AWAY}"
        ) from error
    except TypeError as error:
        raise SkelstreamError(f"{path}: found no list of results, expected one: {_AWAY}") from error


def hardware(device: torch.device | str) -> str:
    """The GPU's name, or the CPU's architecture and the threads used."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} of {os.cpu_count()} cores"
