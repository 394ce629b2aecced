"""Charts of the report as inline SVG in the colours of the page: light, dark, no library. Equal data, equal bytes.

The style sheet gives `--c0` to `--c9`, and `--run-N` to the lines of run N, so that the page's script can colour runs
by another property. The script reads the numbers under the pointer out of the paths: `data-x` and `data-y` say which
values lie at the edges of the plot.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 220
"""As wide as a phone, so that text keeps its size there; the page sets several side by side where there is room."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 346, 10, 182

COLOURS = 10
"""Colours of the style sheet; beyond, they come again with dashes."""

MOST_POINTS = 200
"""Of a line; a longer one is drawn by the means of equal pieces, and the chart says so."""

_LONGEST, _LETTER = 40, 6.2
"""Letters of a name beside a timeline, and the width of one."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Trace:
    """A line of a chart.

    Attributes:
        name: in the legend and under the pointer.
        points: (x, y) by ascending x; where y is NaN there is none, and the line goes on to the next point.
        colour: number of its colour.
        run: number of the run whose colour it takes instead, and with which it is lit and hidden.
        kind: "baseline" is thin, and hidden with the others of its kind; "guide" is thin and has no values to read.
    """

    name: str
    points: Points
    colour: int = 0
    run: int | None = None
    kind: str = "line"


def chart(
    title: str,
    traces: Sequence[Trace],
    x: str,
    y: str = "",
    *,
    zero: bool = False,
    mark: tuple[float, str] | None = None,
    dots: bool = False,
) -> Markup:
    """Lines through points with axes and, unless its lines are those of runs, a legend: a `figure`.

    Args:
        title: stands above.
        traces: what is drawn; those without a known value are left out.
        x, y: what the axes show.
        zero: the vertical axis begins at zero.
        mark: a place on the horizontal axis, and what begins there.
        dots: mark the points: measurements, between which nothing is known.
    """
    shown = [thinned(trace) for trace in traces if _known(trace.points)]
    pieces = max((math.ceil(len(trace.points) / MOST_POINTS) for trace in traces), default=1)
    values = [point for trace in shown for point in _known(trace.points)]
    across = ticks([point[0] for point in values], 5)
    up = ticks([point[1] for point in values] + [0.0] * zero, 4)
    frame = _Frame((min(p[0] for p in values), max(p[0] for p in values)), (up[0], up[-1]))
    body = [*frame.grid([tick for tick in across if frame.x[0] <= tick <= frame.x[1]], up), *_mark(frame, mark)]
    body += [_trace(frame, trace, dots) for trace in shown]
    summary = f"{title}; {x} {_number(frame.x[0])} to {_number(frame.x[1])}; " + ", ".join(
        f"{trace.name} ends at {_number(_known(trace.points)[-1][1])}" for trace in shown[:6]
    )
    note = f" <small>means of {pieces} {escape(x)}s</small>" if pieces > 1 else ""
    own = [trace for trace in shown if trace.run is None] if len(shown) > 1 else []
    legend = "".join(
        f'<li class="{trace.kind}" style="--c:{_colour(trace)}"><i></i>{escape(trace.name)}</li>' for trace in own
    )
    return Markup(
        f'<figure class="chart"><figcaption>{escape(title)}{note}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" tabindex="0" aria-label="{escape(summary)}" '
        f'data-x="{frame.x[0]:g} {frame.x[1]:g}" data-y="{frame.y[0]:g} {frame.y[1]:g}" data-of="{escape(x)}">'
        f"{''.join(body)}{_text(WIDTH - 4, HEIGHT - 6, x, 'end')}{_text(4, HEIGHT - 6, y, 'start')}</svg>"
        + (f'<ul class="legend">{legend}</ul>' if own else "")
        + "</figure>"
    )


def thinned(trace: Trace) -> Trace:
    """A line of at most `MOST_POINTS` points: means of as many neighbours as that takes."""
    size = math.ceil(len(trace.points) / MOST_POINTS)
    if size <= 1:
        return trace
    pieces = (_known(trace.points[first : first + size]) for first in range(0, len(trace.points), size))
    means = [(_mean(p[0] for p in piece), _mean(p[1] for p in piece)) for piece in pieces if piece]
    return Trace(trace.name, means, trace.colour, trace.run, trace.kind)


def ticks(values: Sequence[float], about: int) -> list[float]:
    """Round numbers from the smallest value or below to the largest or above, some `about` of them.

    They are whole where all values are.
    """
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low == high:
        low, high = sorted((low / 2, low * 1.5)) if low else (0.0, 1.0)
    rough = (high - low) / about
    factors: tuple[float, ...] = (1, 2, 2.5, 5, 10)
    if all(float(value).is_integer() for value in values):
        rough, factors = max(rough, 1.0), (1, 2, 5, 10)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in factors if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


@dataclass(frozen=True)
class _Frame:
    """Where values lie in the picture."""

    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, value: float) -> float:
        low, high = self.x
        # a single value stands in the middle
        return _LEFT + (_RIGHT - _LEFT) * ((value - low) / (high - low) if high > low else 0.5)

    def up(self, value: float) -> float:
        low, high = self.y
        return _BOTTOM - (_BOTTOM - _TOP) * (value - low) / (high - low)

    def grid(self, across: Sequence[float], up: Sequence[float]) -> list[str]:
        lines = "".join(f"M{_LEFT} {self.up(tick):.1f}H{_RIGHT}" for tick in up)
        return [
            f'<path class="grid" d="{lines}"/>',
            *(_text(_LEFT - 6, self.up(tick) + 4, _number(tick), "end") for tick in up),
            *(_text(self.across(tick), _BOTTOM + 16, _number(tick)) for tick in across),
        ]


def _mark(frame: _Frame, mark: tuple[float, str] | None) -> list[str]:
    if mark is None:
        return []
    x = frame.across(mark[0])
    return [
        f'<path class="mark" d="M{x:.1f} {_TOP}V{_BOTTOM}"/>',
        _text(x - 4, _TOP + 10, mark[1], "end"),
    ]


def _trace(frame: _Frame, trace: Trace, dots: bool) -> str:
    places = [f"{frame.across(x):.1f} {frame.up(y):.2f}" for x, y in _known(trace.points)]
    run = "" if trace.run is None else f' data-run="{trace.run}"'
    dashed = " dashed" if trace.run is None and trace.colour >= COLOURS else ""
    path = "".join(f"{'L' if number else 'M'}{place}" for number, place in enumerate(places))
    dotted = "".join(f"M{place}h0" for place in places) if dots or len(places) == 1 else ""
    return (
        f'<g class="trace {trace.kind}{dashed}" style="--c:{_colour(trace)}" data-name="{escape(trace.name)}"{run}>'
        f'<path d="{path}"/>' + (f'<path class="dots" d="{dotted}"/>' if dotted else "") + "</g>"
    )


def _colour(trace: Trace) -> str:
    return f"var(--c{trace.colour % COLOURS})" if trace.run is None else f"var(--run-{trace.run})"


def timeline(title: str, rows: Mapping[str, Sequence[tuple[float, float, int]]]) -> Markup:
    """Labelled intervals as bars, a line of bars for each name, one colour a class: a `figure`.

    Args:
        title: stands above.
        rows: name -> (start, stop, class) in frames.
    """
    shown = {name: name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in rows}
    left, right, height = 16 + _LETTER * max(map(len, shown.values()), default=0), 952, 22
    end = max((stop for bars in rows.values() for _, stop, _ in bars), default=1.0)
    scale = (right - left) / max(end, 1.0)
    body: list[str] = []
    for place, (name, bars) in enumerate(rows.items()):
        top = 4 + place * height
        body.append(_text(0, top + 14, shown[name], "start"))
        for start, stop, label in bars:
            # the golden angle keeps the hues of neighbouring numbers apart
            body.append(
                f'<rect class="event" style="--h:{label * 137.508 % 360:.0f}" x="{left + start * scale:.1f}" y="{top}" '
                f'width="{max(1.0, (stop - start) * scale):.1f}" height="{height - 5}" rx="2">'
                f"<title>class {label}, frames {start:.0f} to {stop:.0f}</title></rect>"
            )
            if (stop - start) * scale > 18:
                body.append(_text(left + (start + stop) / 2 * scale, top + 13, str(label), kind="on"))
    bottom = 4 + len(rows) * height
    for tick in ticks([0.0, end], 6):
        if tick <= end:
            x = left + tick * scale
            body.append(_text(x, bottom + 14, _number(tick)))
    summary = f"{title}: " + ", ".join(f"{name} {len(bars)} actions" for name, bars in rows.items())
    return Markup(
        f'<figure class="timeline"><figcaption>{escape(title)} <small>frames</small></figcaption><div class="scroll">'
        f'<svg viewBox="0 0 960 {bottom + 20}" role="img" aria-label="{escape(summary)}">{"".join(body)}</svg></div>'
        "</figure>"
    )


def _text(x: float, y: float, text: str, anchor: str = "middle", kind: str = "axis") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _known(points: Points) -> list[tuple[float, float]]:
    return [point for point in points if not math.isnan(point[1])]


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def _number(value: float) -> str:
    if value and abs(value) < 0.001:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value / 1000:.4g}k"
