"""Scores as figures of the report: curves over levels, confusions, reliability, timelines of detection."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from flows.drawing import lines, matrix, timeline
from flows.tasks.detect import EVENTS
from flows.tasks.frozen import class_scores_path
from models.evaluation.class_scores import read_class_scores
from models.evaluation.metrics import confusion_matrix
from models.evaluation.results import TaskResult

VIDEOS = 3
"""Videos whose timeline is drawn."""

_LEVELS = {
    "noise": "standard deviation, metres",
    "missing_joints": "joints hidden",
    "shorter": "share of the action that is seen",
    "rotated": "degrees about the vertical axis",
}


def score_figures(folder: Path, results: Sequence[TaskResult]) -> list[Markup]:
    """What there is to draw of the results of one folder.

    Raises:
        StoreError: a file of class scores that results speak of is gone or garbled.
    """
    return [
        Markup(figure) for make in (_robustness, _early, _semi, _linear, _detection) for figure in make(folder, results)
    ]


def _of(results: Sequence[TaskResult], task: str) -> list[TaskResult]:
    return [result for result in results if result.task == task]


def _robustness(folder: Path, results: Sequence[TaskResult]) -> Iterator[str]:
    rows = _of(results, "robustness")
    clean = {row.subject: _percent(row) for row in rows if row.setting["curve"] == "clean"}
    for curve, axis in _LEVELS.items():
        own = [row for row in rows if row.setting["curve"] == curve]
        undisturbed = 1.0 if curve == "shorter" else 0.0
        series: dict[str, list[tuple[float, float]]] = {}
        for row in own:
            points = series.setdefault(row.subject, [(undisturbed, clean[row.subject])] if row.subject in clean else [])
            points.append((float(row.setting["level"]), _percent(row)))
        if series:
            yield lines({name: sorted(points) for name, points in series.items()}, f"robustness: {curve}", axis)


def _early(folder: Path, results: Sequence[TaskResult]) -> Iterator[str]:
    series: dict[str, list[tuple[float, float]]] = {}
    for row in _of(results, "early"):
        series.setdefault(row.subject, []).append((100 * float(row.setting["seen"]), _percent(row)))
    if series:
        yield lines({name: sorted(points) for name, points in series.items()}, "early prediction", "seen, %")


def _semi(folder: Path, results: Sequence[TaskResult]) -> Iterator[str]:
    draws: dict[tuple[str, float], list[float]] = {}
    for row in _of(results, "semi"):
        name = f"{row.subject}, {row.setting['sampling']}"
        draws.setdefault((name, 100 * float(row.setting["fraction"])), []).append(_percent(row))
    series: dict[str, list[tuple[float, float]]] = {}
    for (name, fraction), values in sorted(draws.items()):
        series.setdefault(name, []).append((fraction, sum(values) / len(values)))
    if series:
        yield lines(series, "fine-tuned with few labels, mean of the draws", "labels, %")


def _linear(folder: Path, results: Sequence[TaskResult]) -> Iterator[str]:
    row = next((row for row in _of(results, "linear") if row.subject == "trained"), None)
    if row is None:
        return
    scores = read_class_scores(class_scores_path(folder, "linear", "trained", row.setting))
    counts = confusion_matrix(scores.values.argmax(dim=1), scores.label, scores.values.shape[1]).double()
    yield matrix(
        (counts / counts.sum(dim=1, keepdim=True).clamp_min(1)).numpy(), "linear: confusions, share of a class"
    )
    calibration: Any = row.details["calibration"]
    bins = [found for found in calibration["reliability"] if found["count"]]
    points = [(100 * found["confidence"], 100 * found["accuracy"]) for found in bins]
    title = f"linear: reliability, expected calibration error {100 * calibration['expected_error']:.1f} %"
    yield lines({"trained": points, "perfect": [(0, 0), (100, 100)]}, title, "confidence, %")


def _detection(folder: Path, results: Sequence[TaskResult]) -> Iterator[str]:
    row = next((row for row in _of(results, "detection") if row.subject == "trained"), None)
    if row is None:
        return
    truth = _events(folder / EVENTS / "truth.csv")
    found = _events(folder / EVENTS / f"trained-seed-{row.setting['seed']}.csv")
    for video in list(truth)[:VIDEOS]:
        yield timeline({"truth": truth[video], "found": found.get(video, [])}, f"detection: {video}")


def _events(path: Path) -> dict[str, list[tuple[float, float, int]]]:
    """Video -> its actions."""
    events: dict[str, list[tuple[float, float, int]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            action = float(row["start"]), float(row["stop"]), int(row["class"])
            events.setdefault(row["video"], []).append(action)
    return events


def _percent(row: TaskResult) -> float:
    return 100 * float(row.scores["accuracy"])
