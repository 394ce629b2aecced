"""Figures of a report as inline SVG: curves and skeletons. Deterministic: equal data, equal bytes."""

import math
from collections.abc import Mapping, Sequence
from io import StringIO

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from shards.skeleton import PARENTS

# one colour a person; both readable on light and dark ground
PERSON_COLOURS = ("#3b7dd8", "#e07b39")
POSES = 8
"""Poses of a strip, evenly spread over the view."""


def curves(series: Mapping[str, Sequence[float]], title: str, stage: tuple[int, str] | None = None) -> str:
    """Lines over epochs from 1 on, as an SVG element.

    Args:
        series: name -> a value for each epoch; NaN where there is none.
        title: stands above.
        stage: epochs after which another stage begins, and its name.
    """
    figure = Figure(figsize=(4.4, 2.9), layout="constrained")  # about as wide as a phone, so that text can be read
    axes = figure.subplots()
    for name, values in series.items():
        known = [(epoch, value) for epoch, value in enumerate(values, 1) if not math.isnan(value)]
        marker = "." if len(known) == 1 else None  # a line needs two points
        axes.plot(*zip(*known, strict=True), label=name, linewidth=1.4, marker=marker)
    if stage is not None:
        epochs, name = stage
        axes.axvline(epochs + 0.5, label=name, color="#6a6f75", linewidth=1, linestyle="--")
    axes.set_xlim(0.5, max(len(values) for values in series.values()) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, frameon=False, ncols=1 + (len(series) > 4))
    return _svg(figure)


def lines(series: Mapping[str, Sequence[tuple[float, float]]], title: str, x: str, y: str = "accuracy, %") -> str:
    """Lines through points (x, y), as an SVG element.

    Args:
        series: name -> points, by ascending x.
        title: stands above.
        x, y: what the axes show.
    """
    figure = Figure(figsize=(4.4, 2.9), layout="constrained")
    axes = figure.subplots()
    for name, points in series.items():
        axes.plot(*zip(*points, strict=True), label=name, linewidth=1.4, marker=".")
    axes.set_ylim(bottom=0)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, frameon=False)
    return _svg(figure)


def matrix(values: npt.NDArray[np.float64], title: str) -> str:
    """A square matrix of shares 0..1 as an SVG element: rows downwards, columns to the right, both from 0."""
    figure = Figure(figsize=(4.4, 4.4), layout="constrained")
    axes = figure.subplots()
    # squares and no image, which would be a picture inside the picture; most entries are zero and need none
    rows, columns = values.nonzero()
    squares = [Rectangle((column, row), 1, 1) for row, column in zip(rows.tolist(), columns.tolist(), strict=True)]
    shares = values[rows, columns]
    axes.add_collection(PatchCollection(squares, array=shares, cmap="Blues", norm=Normalize(-0.1, 1), linewidth=0))
    axes.set_xlim(0, values.shape[1])
    axes.set_ylim(values.shape[0], 0)
    axes.set_aspect("equal")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("class")
    axes.set_title(title, fontsize=10)
    return _svg(figure)


def timeline(rows: Mapping[str, Sequence[tuple[float, float, int]]], title: str) -> str:
    """Labelled intervals as bars, a line of bars for each name, as an SVG element; one colour a class.

    Args:
        rows: name -> (start, stop, class) in frames.
        title: stands above.
    """
    figure = Figure(figsize=(9.6, 0.9 + 0.45 * len(rows)), layout="constrained")
    axes = figure.subplots()
    colours = mpl.colormaps["tab20"]
    for place, bars in enumerate(rows.values()):
        for start, stop, label in bars:
            axes.barh(place, stop - start, left=start, height=0.7, color=colours(label % 20), linewidth=0)
            axes.text((start + stop) / 2, place, str(label), ha="center", va="center", fontsize=6, clip_on=True)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xlabel("frame")
    axes.set_title(title, fontsize=10)
    return _svg(figure)


def strip(view: npt.NDArray[np.float32], visible: npt.NDArray[np.bool_] | None, up: int) -> str:
    """A sequence as a row of poses, as an SVG element.

    Args:
        view: (T, M, V, C).
        visible: (T, M, V); hidden joints are left out. None: all visible.
        up: the coordinate drawn upwards; the first coordinate goes to the right.
    """
    frames = np.linspace(0, len(view) - 1, POSES).round().astype(int)
    figure = Figure(figsize=(9.6, 1.6))
    axes = figure.add_axes((0, 0, 1, 1))
    spread = np.abs(view[..., [0, up]]).max(initial=0.5) * 2.2
    for place, frame in enumerate(frames):
        for person in range(view.shape[1]):
            if view[frame, person].any():
                shown = np.ones(view.shape[2], dtype=np.bool_) if visible is None else visible[frame, person]
                _pose(axes, view[frame, person][:, [0, up]] + [place * spread, 0], shown, PERSON_COLOURS[person])
    axes.set_xlim(-spread / 2, (POSES - 0.5) * spread)
    axes.set_ylim(-spread / 2, spread / 2)
    axes.set_aspect("equal")
    axes.set_axis_off()
    return _svg(figure)


def _pose(axes: Axes, points: npt.NDArray[np.float32], shown: npt.NDArray[np.bool_], colour: str) -> None:
    for joint, parent in enumerate(PARENTS):
        if shown[joint] and shown[parent]:
            axes.plot(*points[[joint, parent]].T, color=colour, linewidth=1.2, solid_capstyle="round")
    axes.plot(*points[shown].T, ".", color=colour, markersize=2.5)


def _svg(figure: Figure) -> str:
    figure.patch.set_alpha(0)
    with mpl.rc_context({"svg.hashsalt": "skelstream", "svg.fonttype": "none"}):
        text = StringIO()
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return text.getvalue()[text.getvalue().index("<svg") :]
