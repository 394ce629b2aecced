"""Scores as figures of the report: curves over levels, reliability, timelines of detection; a line for each group."""

import csv
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from flows.pages.report.drawing import Trace, chart, timeline
from flows.pages.report.runs import Group, brief
from flows.scores.summary import conditions
from flows.tasks.detect import EVENTS
from models.evaluation.results import TaskResult
from shards.errors import StoreError

VIDEOS = 3
"""Videos whose timeline is drawn."""

_LEVELS = {
    "noise": "standard deviation, metres",
    "missing_joints": "joints hidden",
    "shorter": "share of the action that is seen",
    "rotated": "degrees about the vertical axis",
}

Level = Callable[[TaskResult], float]


def level_charts(groups: Sequence[Group]) -> list[Markup]:
    """Scores over a level: of disturbance, of what is seen, of labels; of seeds and draws the mean.

    What was measured on other data, or by other options, is in a chart of its own.
    """
    charts: list[Markup] = []
    for curve, axis in _LEVELS.items():
        charts += _charts(groups, "robustness", f"robustness: {curve.replace('_', ' ')}", axis, _level, curve=curve)
    charts += _charts(groups, "early", "early prediction", "seen, %", lambda row: 100 * float(row.setting["seen"]))
    for sampling in ("unstratified", "stratified"):
        title = f"fine-tuned with few labels, {sampling}"
        charts += _charts(
            groups, "semi", title, "labels, %", lambda row: 100 * float(row.setting["fraction"]), sampling=sampling
        )
    return charts


def _level(row: TaskResult) -> float:
    # the undisturbed scores begin every curve, and stand at no level of their own
    undisturbed = 1.0 if row.setting.get("curve") == "shorter" else 0.0
    return float(row.setting.get("level", undisturbed))


def _charts(groups: Sequence[Group], task: str, title: str, axis: str, level: Level, **wanted: str) -> Iterator[Markup]:
    """A chart for all that compares, with a line for each group and subject."""
    kinds: dict[tuple[str, str], dict[tuple[int, str], list[TaskResult]]] = {}
    for group in groups:
        for row in _wanted(group.results, task, wanted):
            # subjects differ in their options by right, see `Task.options`
            alike = json.dumps({**conditions(row), "metric": None}, sort_keys=True)
            kind = kinds.setdefault((f"{row.dataset} {row.protocol}", alike), {})
            kind.setdefault((group.number, row.subject), []).append(row)
    several = len({data for data, _ in kinds}) > 1
    for place, ((data, alike), lines) in enumerate(kinds.items()):
        again = [other for other in list(kinds)[:place] if other[0] == data and other[1] != alike]
        name = title + (f", {data}" if several else "") + (f", other options ({len(again)})" if again else "")
        traces = [_means(groups, number, subject, rows, level) for (number, subject), rows in lines.items()]
        yield chart(name, traces, axis, "accuracy, %", zero=True, dots=True)


def _wanted(results: Sequence[TaskResult], task: str, wanted: dict[str, str]) -> Iterator[TaskResult]:
    rows = [row for row in results if row.task == task]
    own = [row for row in rows if all(row.setting.get(name) == value for name, value in wanted.items())]
    for row in rows if own and task == "robustness" else own:
        if row in own:
            yield row
        elif row.setting.get("curve") == "clean":
            yield row.model_copy(update={"setting": {"curve": wanted["curve"]}})


def _means(groups: Sequence[Group], number: int, subject: str, rows: Sequence[TaskResult], level: Level) -> Trace:
    values: dict[float, list[float]] = {}
    for row in rows:
        values.setdefault(level(row), []).append(_percent(row))
    points = [(place, statistics.mean(found)) for place, found in sorted(values.items())]
    kind = "line" if subject == "trained" else "baseline"
    if len(groups) == 1:
        return Trace(subject, points, 0 if kind == "line" else 1, kind=kind)
    name = next(group.name for group in groups if group.number == number)
    return Trace(name if kind == "line" else f"{name}: {subject}", points, run=number, kind=kind)


def reliability(groups: Sequence[Group]) -> list[Markup]:
    """How far the confidence of linear probes is to be believed: of each group the first run."""
    traces = []
    for group in groups:
        rows = (row for row in group.results if row.task == "linear" and row.subject == "trained")
        row = next((row for row in rows if "calibration" in row.details), None)
        if row is not None:
            found: Any = row.details["calibration"]
            bins = [own for own in found["reliability"] if own["count"]]
            points = [(100 * own["confidence"], 100 * own["accuracy"]) for own in bins]
            name = f"{group.name}, expected error {100 * found['expected_error']:.1f} %"
            traces.append(Trace(name, points, run=None if len(groups) == 1 else group.number))
    if not traces:
        return []
    perfect = Trace("perfect", [(0, 0), (100, 100)], 2, kind="guide")
    return [chart("linear: reliability", [*traces, perfect], "confidence, %", "accuracy, %", zero=True, dots=True)]


def timelines(groups: Sequence[Group]) -> list[Markup]:
    """The first videos of the detection tasks: what is there, and what the first run of each group found.

    Raises:
        StoreError: a file of detections that results speak of is gone or garbled.
    """
    names = brief(groups)
    videos: dict[str, dict[str, list[tuple[float, float, int]]]] = {}
    for group in groups:
        for run in group.runs:
            row = next((row for row in run.results if row.task == "detection" and row.subject == "trained"), None)
            if row is None:
                continue
            folder = run.path / "results" / EVENTS
            truth = _events(folder / "truth.csv")
            found = _events(folder / f"trained-seed-{row.setting['seed']}.csv")
            for video in list(truth)[:VIDEOS]:
                rows = videos.setdefault(f"{row.details.get('dataset', 'detection')}: {video}", {"truth": truth[video]})
                rows["found" if len(groups) == 1 else names[group.name]] = found.get(video, [])
            break
    return [timeline(title, rows) for title, rows in videos.items()]


def _events(path: Path) -> dict[str, list[tuple[float, float, int]]]:
    """Video -> its actions."""
    events: dict[str, list[tuple[float, float, int]]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                action = float(row["start"]), float(row["stop"]), int(row["class"])
                events.setdefault(row["video"], []).append(action)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: found no readable detections ({error}), expected those of the results") from None
    return events


def _percent(row: TaskResult) -> float:
    return 100 * float(row.scores["accuracy"])
