"""The curves of training: of one run several numbers in a chart, of several runs one number in a chart."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from flows.pages.report.drawing import Trace, chart
from flows.pages.report.runs import Run

Rows = list[dict[str, float]]


class Curves(NamedTuple):
    """Charts: the first of each kind of number, and the others of its kind."""

    shown: list[Markup]
    more: list[Markup]


def run_curves(runs: Sequence[Run]) -> Curves:
    """A chart of each kind of number that the logs have of the epochs; logs of older versions have fewer kinds.

    Of one run all numbers of a kind are in one chart, and the chart shows where post-distillation begins. Of several
    each number has a chart, with a line for each run.
    """
    if len(runs) == 1:
        return Curves(_of_one(runs[0]), [])
    figures = [(run, _figures(run.log)) for run in runs]
    shown: list[Markup] = []
    more: list[Markup] = []
    for title in figures[0][1]:
        names = dict.fromkeys(name for _, own in figures for row in own[title] for name in row)
        for place, name in enumerate(names):
            traces = [Trace(run.name, _points(own[title], name), run=run.number) for run, own in figures]
            what = title if len(names) == 1 else f"{title}: {name}"
            (more if place else shown).append(chart(what, traces, "epoch"))
    return Curves(shown, more)


def _of_one(run: Run) -> list[Markup]:
    epochs = run.config.train.epochs
    ends = bool(run.log) and run.log[-1]["epoch"] >= epochs
    mark = (epochs + 0.5, "post-distillation") if ends else None
    charts = []
    for title, rows in _figures(run.log).items():
        names = dict.fromkeys(name for row in rows for name in row)
        traces = [Trace(name, _points(rows, name), colour) for colour, name in enumerate(names)]
        if traces:
            charts.append(chart(title, traces, "epoch", mark=mark))
    return charts


def _points(rows: Rows, name: str) -> list[tuple[float, float]]:
    return [(epoch, row.get(name, math.nan)) for epoch, row in enumerate(rows, 1)]


def _figures(lines: Sequence[Mapping[str, Any]]) -> dict[str, Rows]:
    metrics = [line.get("metrics", {}) for line in lines]
    accuracy = [
        {name.removeprefix("accuracy/"): 100 * value for name, value in row.items() if name.startswith("accuracy/")}
        for row in metrics
    ]
    return {
        "loss terms, weighted": [{"total": line["loss"], **line["terms"]} for line in lines],
        "queries nearest to their own key, %": accuracy,
        "online score, %": [{name: 100 * x for name, x in line.get("probe", {}).items()} for line in lines],
        "spread of the normalised features": _renamed(metrics, {"feature_std": "standard deviation"}),
        "effective rank of the features": _renamed(metrics, {"effective_rank": "effective rank"}),
        "gradient norm": _renamed(metrics, {"gradient_norm": "mean", "gradient_norm_max": "largest"}),
        "learning rate": _renamed(lines, {"lr": "learning rate"}),
        "samples a second": _renamed(lines, {"samples_per_second": "samples/s"}),
        "time that waited for data, %": [
            {"stalled": 100 * line["stalled"]} if "stalled" in line else {} for line in lines
        ],
    }


def _renamed(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> Rows:
    """Of each row the values that have a name, under that name."""
    return [{shown: row[name] for name, shown in names.items() if name in row} for row in rows]
