"""Runs of a report as a test wants them, without a folder behind them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.options import PretrainOptions
from flows.pages.report.runs import Data, Group, Run
from flows.pretrain import resolve
from flows.run_folder import RunRecord
from models.evaluation.results import TaskResult

RECORD = RunRecord(store="data", recipe="pcm3", fingerprint="abc123", revision="0" * 40, versions={"torch": "2"})


def run(
    number: int = 0,
    name: str = "pcm3pp-small",
    results: Sequence[TaskResult] = (),
    log: Sequence[dict[str, Any]] = (),
    folder: Path = Path("runs"),
    overrides: Sequence[str] = (),
) -> Run:
    """One of the small recipe on NTU 60, whose store is gone."""
    options = PretrainOptions(
        method="pcm3pp-small",
        data="data",
        dataset="ntu60",
        protocol="xview",
        run=folder / name,
        overrides=tuple(overrides),
    )
    return Run(number, name, folder / name, resolve(options), RECORD, tuple(log), list(results), Data(None, None, "-"))


def group(number: int = 0, name: str = "pcm3pp-small", results: Sequence[TaskResult] = (), **facts: Any) -> Group:
    """A group of one run."""
    return Group(number, name, name, (run(number, name, results, **facts),))


def epoch(number: int, loss: float = 1.0, **fields: Any) -> dict[str, Any]:
    """A line of a log."""
    return {
        "kind": "epoch",
        "epoch": number,
        "step": number + 1,
        "lr": 0.1,
        "loss": loss,
        "terms": {"base": loss},
    } | fields
