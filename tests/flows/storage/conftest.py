"""A small shelf: a store, a run with results and features on it, and a benchmark that the run is part of."""

import json
import shutil
from pathlib import Path

import pytest

from flows.evaluate import evaluate
from flows.options import EvaluateOptions
from tests.flows.storage.shelves import Shelf


@pytest.fixture(scope="session")
def whole_shelf(store: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shelf that tests take copies of; its run says that its store is where the session's fixture is."""
    root = tmp_path_factory.mktemp("shelves") / "shelf"
    shutil.copytree(store, root / "data" / store.name)
    shutil.copytree(run, root / "runs" / "a")
    evaluate(EvaluateOptions(run=root / "runs" / "a", tasks=("retrieval",), device="cpu"))
    rounds = root / "runs" / "benchmarks" / "nightly" / "rounds"
    rounds.mkdir(parents=True)
    (rounds / "once.json").write_text(json.dumps({"round": "once", "cells": [{"run": "a", "tasks": ["retrieval"]}]}))
    (rounds.parent / "benchmark.yaml").write_text("name: nightly\nmethods: [pcm3pp]\n")
    return root


@pytest.fixture
def shelf(whole_shelf: Path, store: Path, tmp_path: Path) -> Shelf:
    """A copy that the test may change, its times included."""
    root = tmp_path / "shelf"
    shutil.copytree(whole_shelf, root)
    return Shelf(
        root=root,
        data=root / "data",
        store=root / "data" / store.name,
        run=root / "runs" / "a",
        benchmark=root / "runs" / "benchmarks" / "nightly",
    )
