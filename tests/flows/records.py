"""A result as a test wants it."""

from typing import Any

from flows.tasks.config import EvaluateConfig
from flows.tasks.registry import TASKS
from models.evaluation.results import TaskResult


def result(task: str = "linear", **changes: Any) -> TaskResult:
    """One of the published setting, with other fields where they are given."""
    fields: dict[str, Any] = {
        "task": task,
        "subject": "trained",
        "setting": {"seed": 0},
        "options": TASKS[task].options(EvaluateConfig(), changes.get("subject", "trained")),
        "method": "pcm3pp",
        "checkpoint": "epoch_0451.pt",
        "checkpoint_sha256": "0" * 64,
        "fingerprint": "abc123",
        "recipe": "pcm3",
        "dataset": "ntu60",
        "protocol": "xview",
        "stream": "joint",
        "scores": {"accuracy": 0.9},
        "time": "2030-01-01T00:00:00+00:00",
        "seconds": 1.0,
        "hardware": "CPU",
        "versions": {},
    }
    return TaskResult(**(fields | changes))
