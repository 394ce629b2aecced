"""Small charts and poses as inline SVG that takes its colours from the page: light, dark, no library, equal bytes.

The classes `bar`, `axis`, `person-0`, `person-1` and `wrong` are for the page's style sheet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

from pipelines.quality.statistics import Histogram
from shards.skeleton import PARENTS

# As wide as a phone, so that text keeps its size there; the page sets several side by side where there is room.
WIDTH, HEIGHT = 360, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 4, 356, 22, 128
_LABEL_WIDTH = 30
"""Room for a label below a bar; with less, some are left out."""
_WIDEST = 60

POSE_SIZE = 44
_POSE_MARGIN = 4


@dataclass(frozen=True)
class Bar:
    """`label` stands below it where there is room, `note` is shown for it alone."""

    label: str
    value: int
    note: str


def count_bars(title: str, counts: Mapping[str, int], unit: str) -> Markup:
    """A bar for each count."""
    bars = [Bar(name, value, f"{name}: {value:,} {unit}") for name, value in counts.items()]
    few, many = min(counts.values(), default=0), max(counts.values(), default=0)
    return _chart(title, bars, f"{title}: {len(bars)}, with {few:,} to {many:,} {unit} each", f"{many:,}")


def histogram_bars(title: str, histogram: Histogram, unit: str, of: str, digits: int) -> Markup:
    """A bar for each bin, and one for all that lie beyond."""
    form = f",.{digits}f"
    bars = [
        Bar(f"{low:{form}}", count, f"{low:{form}} to {high:{form}} {unit}: {count:,} {of}".replace("  ", " "))
        for (low, high), count in zip(pairwise(histogram.edges), histogram.counts, strict=True)
    ]
    low, high = histogram.edges[0], histogram.edges[-1]
    bars.append(Bar("more", histogram.beyond, f"above {high:{form}} {unit}: {histogram.beyond:,} {of}"))
    summary = f"{title}: {low:{form}} to {high:{form}} {unit}, {histogram.beyond:,} {of} above"
    return _chart(title, bars, summary, f"{max(bar.value for bar in bars):,}")


def _chart(title: str, bars: Sequence[Bar], summary: str, highest: str) -> Markup:
    step = min(_WIDEST, (_RIGHT - _LEFT) / max(1, len(bars)))
    every = int(np.ceil(_LABEL_WIDTH / step))
    top = max((bar.value for bar in bars), default=0) or 1
    body = [_bar(bar, _LEFT + place * step, step, bar.value / top) for place, bar in enumerate(bars)]
    # the last label has its own place, and none may run into it
    shown = [p for p in range(0, len(bars), every) if p <= len(bars) - 1 - every] + [len(bars) - 1] * bool(bars)
    body += [
        f'<text class="axis" x="{_LEFT + (place + 0.5) * step:.1f}" y="{_BOTTOM + 14}" text-anchor="middle">'
        f"{escape(bars[place].label)}</text>"
        for place in shown
    ]
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(summary)}">'
        f'<text class="name" x="{_LEFT}" y="12">{escape(title)}</text>'
        f'<text class="axis" x="{_RIGHT}" y="12" text-anchor="end">highest {escape(highest)}</text>'
        f'<line class="axis" x1="{_LEFT}" x2="{_RIGHT}" y1="{_BOTTOM}" y2="{_BOTTOM}"/>{"".join(body)}</svg>'
    )


def _bar(bar: Bar, x: float, step: float, share: float) -> str:
    # what is there at all can be seen
    height = max(1.5, (_BOTTOM - _TOP) * share) if bar.value else 0
    return (
        f'<rect class="bar" x="{x + 0.08 * step:.1f}" y="{_BOTTOM - height:.1f}" width="{0.84 * step:.1f}" '
        f'height="{height:.1f}"><title>{escape(bar.note)}</title></rect>'
    )


def pose(bodies: npt.NDArray[np.float32], up: int, person: int | None, joint: int | None) -> Markup:
    """One frame, seen from the front, with a joint marked.

    Args:
        bodies: (M, V, C); a body of zeros is absent.
        up: the coordinate drawn upwards; the first one grows to the left: the person is seen face to face.
        person, joint: what to mark; None: nothing.
    """
    there = np.asarray(bodies.any(axis=(1, 2)))
    points = bodies[:, :, [0, up]] * [-1, -1]
    if there.any():
        seen = points[there].reshape(-1, 2)
        low, high = seen.min(axis=0), seen.max(axis=0)
        scale = (POSE_SIZE - 2 * _POSE_MARGIN) / max(float((high - low).max()), 1e-6)
        points = (points - (low + high) / 2) * scale + POSE_SIZE / 2
    lines = [f'<path class="person-{m}" d="{_path(points[m])}"/>' for m in np.flatnonzero(there)]
    if person is not None and joint is not None and there[person]:
        x, y = points[person, joint]
        lines.append(f'<circle class="wrong" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
    return Markup(f'<svg viewBox="0 0 {POSE_SIZE} {POSE_SIZE}" aria-hidden="true">{"".join(lines)}</svg>')


def _path(points: npt.NDArray[np.float64]) -> str:
    bones = ((points[joint], points[parent]) for joint, parent in enumerate(PARENTS) if joint != parent)
    return "".join(f"M{a[0]:.1f} {a[1]:.1f}L{b[0]:.1f} {b[1]:.1f}" for a, b in bones)
