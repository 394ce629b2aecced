"""A small synthetic store and a tiny finished run for the tests of flows."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# before prefect is imported: no telemetry from tests, and no chatter beside their output
os.environ |= {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
}

import pytest
import torch

from flows.evaluate import evaluate
from flows.options import EvaluateOptions, PretrainOptions
from flows.pretrain import pretrain
from pipelines.conversion.convert import convert
from pipelines.synthetic import synthesize
from tests.browser.conftest import browser, opened, screenshots

__all__ = ["browser", "opened", "screenshots"]  # fixtures

METHOD = "pcm3pp+tiny+no-post"
EACH = "train.checkpoint_every=1"
"""Override: a checkpoint after each of its two epochs."""


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """One thread: two processes whose OpenMP threads wait on each other's cores are 30 times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 NTU recordings of 4 classes by 4 performers, zipped."""
    folder = tmp_path_factory.mktemp("archives") / "raw"
    return synthesize("ntu", folder, subjects=4, classes=4, samples=48, seed=0, zipped=True)


@pytest.fixture(scope="session")
def store(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of `raw`."""
    return convert("ntu", [raw], tmp_path_factory.mktemp("data"), workers=0).folder


@pytest.fixture(scope="session")
def other_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of other recordings, so of another fingerprint."""
    folder = tmp_path_factory.mktemp("other")
    raw = synthesize("ntu", folder / "raw", subjects=4, classes=4, samples=24, seed=1, zipped=False)
    return convert("ntu", [raw], folder / "data", workers=0).folder


@pytest.fixture(scope="session")
def options(store: Path) -> Callable[..., PretrainOptions]:
    """Options of a pre-training of two epochs of four steps, each with a checkpoint."""

    def make(run: Path, *overrides: str, **fields: Any) -> PretrainOptions:
        known = {"data": store, "dataset": "ntu60", "protocol": "xview", "device": "cpu", "resume": False}
        return PretrainOptions(**{**known, "method": METHOD, **fields}, run=run, overrides=(EACH, *overrides))

    return make


@pytest.fixture(scope="session")
def run(options: Callable[..., PretrainOptions], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    pretrain(options(folder))
    return folder


@pytest.fixture(scope="session")
def scored(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That run with scores and features of its retrieval task; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("scored") / "run"
    shutil.copytree(run, folder)
    evaluate(EvaluateOptions(run=folder, tasks=("retrieval",), device="cpu"))
    return folder
