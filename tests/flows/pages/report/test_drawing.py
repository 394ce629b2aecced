"""Charts: what is drawn lies where the axes say, and nothing of a name gets out of its place."""

import math
import re

import pytest

from flows.pages.report.drawing import COLOURS, MOST_POINTS, Trace, chart, thinned, ticks, timeline


def values(svg: str, number: int = 0) -> list[tuple[float, float]]:
    """The points of a line, read back from its path by the edges of the plot, as the page's script does."""
    (x_low, x_high), (y_low, y_high) = (
        map(float, re.findall(rf'data-{axis}="(\S+) (\S+)"', svg)[0]) for axis in ("x", "y")
    )
    path = re.findall(r'<g class="trace[^>]*><path d="([^"]*)"', svg)[number]
    return [
        (
            x_low + (float(x) - 46) / 300 * (x_high - x_low),
            y_low + (182 - float(y)) / 172 * (y_high - y_low),
        )
        for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)
    ]


def test_the_points_of_a_line_lie_where_the_axes_say() -> None:
    points = [(1, 0.31), (2, 0.12), (5, 0.93)]
    drawn = values(chart("loss", [Trace("a", points), Trace("b", [(3, 0.5), (9, 0.7)])], "epoch"))
    assert [place for pair in drawn for place in pair] == pytest.approx([v for p in points for v in p], abs=0.02)


def test_every_value_lies_within_the_frame() -> None:
    for points in ([(0, -3.7), (1, 12.2)], [(1, 5.0)], [(0, 0.0), (1, 0.0)], [(1, 0.01), (2, 0.01)]):
        text = chart("loss", [Trace("a", points)], "epoch")
        for _, y in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", "".join(re.findall(r'<g class="trace.*?</g>', text))):
            assert 10 <= float(y) <= 182


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([0, 79.5], [0, 20, 40, 60, 80]),
        ([0.0, 0.1], [0, 0.025, 0.05, 0.075, 0.1]),
        ([0, 12], [0, 5, 10, 15]),
        ([1, 2], [1, 2]),
        ([1], [0, 1, 2]),
        ([0.5], [0.2, 0.4, 0.6, 0.8]),
        ([], [0, 1]),
    ],
)
def test_ticks_are_round_numbers_around_all_values(numbers: list[float], expected: list[float]) -> None:
    found = ticks(numbers, 4)
    assert found[0] <= min(numbers, default=0)
    assert found[-1] >= max(numbers, default=1)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_epochs_are_whole_numbers_from_one_on(count: int) -> None:
    text = chart("loss", [Trace("a", [(epoch, 0.1 * epoch) for epoch in range(1, count + 1)])], "epoch")
    axis = re.findall(r'<text class="axis" x="[\d.]+" y="198.0" text-anchor="middle">([^<]*)<', text)
    assert axis == [str(epoch) for epoch in range(1, count + 1)]


def test_an_epoch_without_a_value_is_passed_over_and_a_lone_value_is_a_dot() -> None:
    nothing = math.nan
    text = chart(
        "loss", [Trace("a", [(1, 1.0), (2, nothing), (3, 3.0)]), Trace("b", [(1, nothing), (2, 2.0)])], "epoch"
    )
    assert [x for x, _ in values(text)] == pytest.approx([1, 3])
    assert [text.count('class="dots"'), text.count("h0")] == [1, 1]
    assert "dots" not in chart("loss", [Trace("a", [(1, 1.0), (2, 2.0)])], "epoch")


def test_a_long_line_is_drawn_by_the_means_of_its_pieces_and_the_chart_says_so() -> None:
    trace = Trace("a", [(epoch, float(epoch)) for epoch in range(1, 3 * MOST_POINTS + 1)])
    assert thinned(trace).points == [(place, float(place)) for place in range(2, 3 * MOST_POINTS, 3)]
    assert "means of 3 epochs" in chart("loss", [trace], "epoch")
    assert "means" not in chart("loss", [Trace("a", trace.points[:MOST_POINTS])], "epoch")


def test_a_line_of_a_run_has_its_colour_and_number_and_no_legend() -> None:
    own = chart("loss", [Trace("one", [(1, 1.0), (2, 2.0)], run=7), Trace("two", [(1, 2.0), (2, 1.0)], run=8)], "epoch")
    assert re.findall(r'style="--c:([^"]*)" data-name="([^"]*)" data-run="(\d+)"', own) == [
        ("var(--run-7)", "one", "7"),
        ("var(--run-8)", "two", "8"),
    ]
    assert "legend" not in own
    many = chart("loss", [Trace(str(n), [(1, 1.0), (2, 2.0)], n) for n in range(COLOURS + 1)], "epoch")
    assert many.count("<li") == COLOURS + 1
    assert many.count("dashed") == 1  # a colour that comes again


def test_names_stay_text() -> None:
    hostile = "\"><script>alert('x')</script>"
    text = chart(
        hostile, [Trace(hostile, [(1, 1.0), (2, 1.0)]), Trace(hostile, [(1, 1.0), (2, 1.0)])], hostile, hostile
    )
    text += timeline(hostile, {hostile: [(0, 10, 3)]})
    assert "<script" not in text


def test_bars_of_a_timeline_are_as_long_as_their_actions_and_one_colour_a_class() -> None:
    text = timeline("video", {"truth": [(0, 50, 3), (50, 100, 4)], "found": [(0, 25, 3)]})
    bars = re.findall(r'--h:(\d+)" x="([\d.]+)" y="(\d+)" width="([\d.]+)"', text)
    hues, starts, tops, widths = zip(*bars, strict=True)
    assert hues[0] == hues[2] != hues[1]
    left = 16 + 5 * 6.2  # beside the longest name
    half = (952 - left) / 2
    assert [float(start) for start in starts] == pytest.approx([left, left + half, left])
    assert tops == ("4", "4", "26")
    assert [float(width) for width in widths] == pytest.approx([half, half, half / 2], abs=0.1)
    assert "class 4, frames 50 to 100" in text
