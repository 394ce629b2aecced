"""A benchmark's file on the tiny store, and the run that one of its cells asks for."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.benchmark import run as running
from flows.benchmark.config import BenchmarkConfig, read_benchmark
from flows.benchmark.plan import Plan
from tests.flows.conftest import METHOD

OTHER = "pcm3+tiny"

LINEAR = {"linear.epochs": 2, "linear.batch_size": 16, "linear.crop": "centre"}


@pytest.fixture
def benchmark(store: Path, tmp_path: Path) -> Callable[..., BenchmarkConfig]:
    """One cell with the task retrieval, or what the keywords say."""

    def make(**changes: Any) -> BenchmarkConfig:
        tree: dict[str, Any] = {
            "name": "tiny",
            "data": str(store),
            "runs": str(tmp_path / "runs"),
            "methods": [METHOD],  # as the fixture `run` has it, so that it is a cell
            "datasets": ["ntu60/xview"],
            "tasks": ["retrieval"],
            "pretrain": {"train": {"checkpoint_every": 1}},
            "evaluate": LINEAR,
            "device": "cpu",
        }
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(tree | changes))
        return read_benchmark(path)

    return make


@pytest.fixture
def own(run: Path, tmp_path: Path) -> Path:
    """The finished run under a name that a user chose."""
    return Path(shutil.copytree(run, tmp_path / "runs" / "my-own"))


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Names of the runs of each report, which is then one line."""
    made: list[list[str]] = []

    def report(done: Plan) -> None:
        made.append([planned.run.name for planned in done.cells if planned.results])
        (done.config.folder / "report.html").write_text(json.dumps(made[-1]))

    monkeypatch.setattr(running, "_report", report)
    return made
