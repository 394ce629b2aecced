from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from models.evaluation.results import TaskResult, hardware, read_results, write_results
from shards.errors import SkelstreamError


def result(**changes: Any) -> TaskResult:
    fields: dict[str, Any] = {
        "task": "linear",
        "subject": "trained",
        "setting": {"seed": 0},
        "method": "pcm3pp",
        "options": {"epochs": 100, "crop": "random", "milestones": [20, 50]},
        "checkpoint": "epoch_0010.pt",
        "checkpoint_sha256": "0" * 64,
        "fingerprint": "abc123",
        "recipe": "pcm3",
        "dataset": "ntu60",
        "protocol": "xview",
        "stream": "joint",
        "scores": {"accuracy": 0.1 + 0.2, "best": 1},
        "details": {"best_epoch": 3, "curve": [0.1, 0.3], "per_class": [None, 1.0]},
        "time": "2030-01-01T00:00:00+00:00",
        "seconds": 1.5,
        "hardware": "x86_64 CPU",
        "versions": {"torch": "2.13.0"},
    }
    return TaskResult(**(fields | changes))


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    results = [result(), result(subject="coordinates", checkpoint=None, checkpoint_sha256=None)]
    write_results(tmp_path / "results.json", results)
    assert read_results(tmp_path / "results.json") == results


def test_equal_results_give_equal_bytes_with_sorted_keys(tmp_path: Path) -> None:
    write_results(tmp_path / "a.json", [result(options={"a": 1, "b": 2})])
    write_results(tmp_path / "b.json", [result(options={"b": 2, "a": 1})])
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "7", "{}", '{"version": 1}', '{"version": 1, "results": [{}]}', '{"version": 1, "results": 3}'],
)
def test_a_file_that_is_no_results_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(SkelstreamError, match=r"results\.json: found"):
        read_results(path)


def test_a_missing_file_and_another_version_are_told(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    with pytest.raises(SkelstreamError, match=r"results\.json: found no results \(FileNotFoundError\)"):
        read_results(path)
    path.write_text('{"version": 1, "results": []}')
    with pytest.raises(SkelstreamError, match="version 1, expected 3"):
        read_results(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"subject": "guess"},
        {"scores": {"last": float("nan")}},
        {"scores": {"accuracy": [0.5]}},
        {"details": {"network": object()}},
        {"checkpoint_sha256": "xyz"},
        {"seconds": -1},
        {"unknown": 1},
    ],
)
def test_records_that_say_nothing_true_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        result(**changes)


def test_the_hardware_has_a_name() -> None:
    assert "CPU" in hardware("cpu")
