"""Curves of scores: their points are the means of what was measured, and what does not compare is kept apart."""

from pathlib import Path
from typing import Any

import pytest

from flows.pages.report.score_figures import level_charts, reliability, timelines
from models.evaluation.results import TaskResult
from shards.errors import StoreError
from tests.flows.pages.report import made
from tests.flows.pages.report.test_drawing import values
from tests.flows.records import result


def robust(curve: str, level: float, accuracy: float, **fields: Any) -> TaskResult:
    return result("robustness", setting={"curve": curve, "level": level}, scores={"accuracy": accuracy}, **fields)


def flat(points: list[tuple[float, float]]) -> list[float]:
    return [value for point in points for value in point]


def test_the_undisturbed_score_begins_each_robustness_curve_where_nothing_is_disturbed() -> None:
    rows = [robust("clean", 0.0, 0.9), robust("noise", 0.1, 0.5), robust("shorter", 0.4, 0.6)]
    noise, shorter = level_charts([made.group(results=rows)])
    assert "robustness: noise" in noise
    assert flat(values(noise)) == pytest.approx([0, 90, 0.1, 50], abs=0.1)
    assert flat(values(shorter)) == pytest.approx([0.4, 60, 1.0, 90], abs=0.1)


def test_draws_of_labels_are_drawn_by_their_mean() -> None:
    rows = [
        result("semi", setting={"draw": draw, "fraction": fraction, "sampling": "stratified"}, scores={"accuracy": a})
        for draw, fraction, a in ((0, 0.01, 0.2), (1, 0.01, 0.4), (0, 0.1, 0.7))
    ]
    (drawn,) = level_charts([made.group(results=rows)])
    assert "fine-tuned with few labels, stratified" in drawn
    assert flat(values(drawn)) == pytest.approx([1, 30, 10, 70], abs=0.2)


def early(accuracy: float, **fields: Any) -> list[TaskResult]:
    return [
        result("early", setting={"seen": seen}, scores={"accuracy": share * accuracy}, **fields)
        for seen, share in ((0.5, 0.5), (1.0, 1.0))
    ]


def test_several_groups_are_lines_of_one_chart_in_the_colours_of_their_runs() -> None:
    untrained = early(0.4, subject="random encoder")
    (drawn,) = level_charts([made.group(0, "a", [*early(0.9), *untrained]), made.group(3, "b", early(0.8))])
    assert flat(values(drawn, 2)) == pytest.approx([50, 40, 100, 80], abs=0.2)
    assert [f'data-run="{number}"' in drawn for number in (0, 1, 3)] == [True, False, True]
    assert drawn.count('class="trace baseline"') == 1
    assert 'data-name="a: random encoder"' in drawn


def test_other_data_and_other_options_have_charts_of_their_own() -> None:
    other = early(0.8, options={"crop": "another"})
    found = level_charts(
        [made.group(0, "a", early(0.9)), made.group(1, "b", early(0.8, protocol="xsub")), made.group(2, "c", other)]
    )
    assert [drawn.count('class="trace') for drawn in found] == [1, 1, 1]
    titles = [drawn.partition("<figcaption>")[2].partition("<")[0] for drawn in found]
    assert titles == [
        "early prediction, ntu60 xview",
        "early prediction, ntu60 xsub",
        "early prediction, ntu60 xview, other options (1)",
    ]


def test_the_reliability_of_linear_probes_leaves_empty_bins_out() -> None:
    bins = [
        {"confidence": 0.25, "accuracy": 0.5, "count": 2},
        {"confidence": 0.5, "accuracy": 0.0, "count": 0},
        {"confidence": 0.95, "accuracy": 0.9, "count": 8},
    ]
    details = {"calibration": {"expected_error": 0.061, "reliability": bins}}
    (drawn,) = reliability([made.group(results=[result(details=details)])])
    assert flat(values(drawn)) == pytest.approx([25, 50, 95, 90], abs=0.2)
    assert "expected error 6.1 %" in drawn
    assert reliability([made.group(results=[result()])]) == []


def write_events(folder: Path, name: str, found: str) -> list[TaskResult]:
    place = folder / name / "results" / "detections"
    place.mkdir(parents=True)
    (place / "truth.csv").write_text("video,class,start,stop\nv1,3,0,50\nv2,1,0,10\n")
    (place / "trained-seed-0.csv").write_text(f"video,class,start,stop,score\n{found}")
    scores = {"mAP@0.1": 0.5}
    return [result("detection", setting={"seed": 0}, scores=scores, details={"dataset": "pkummd1"})]


def test_each_video_is_drawn_once_with_what_every_group_found(tmp_path: Path) -> None:
    groups = [
        made.group(number, name, write_events(tmp_path, name, f"v1,3,{number},40,0.9\n"), folder=tmp_path)
        for number, name in enumerate("ab")
    ]
    first, second = timelines(groups)
    assert "pkummd1: v1" in first
    assert first.count("<rect") == 3
    assert [">truth<" in first, ">a<" in first, ">b<" in first] == [True] * 3
    assert second.count("<rect") == 1  # nothing was found in it
    (alone, _) = timelines(groups[:1])
    assert ">found<" in alone


@pytest.mark.parametrize("text", [None, "video,class\nv1,3\n", "video,class,start,stop\nv1,3,x,50\n"])
def test_detections_that_are_gone_or_garbled_are_refused(text: str | None, tmp_path: Path) -> None:
    rows = write_events(tmp_path, "a", "")
    path = tmp_path / "a" / "results" / "detections" / "truth.csv"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(StoreError, match=r"truth\.csv: found no readable detections"):
        timelines([made.group(0, "a", rows, folder=tmp_path)])
