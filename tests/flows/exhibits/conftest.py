"""A run whose evaluation has kept features, and its exhibits."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.evaluate import EvaluateOptions, evaluate
from flows.exhibits import gather


@pytest.fixture(scope="session")
def scored(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with the features of its retrieval task; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("scored") / "run"
    shutil.copytree(run, folder)
    evaluate(EvaluateOptions(run=folder, tasks=("retrieval",), device="cpu"))
    return folder


@pytest.fixture(scope="session")
def told(scored: Path) -> dict[str, Any]:
    """The exhibits of that run."""
    return gather([scored], queries=4)
