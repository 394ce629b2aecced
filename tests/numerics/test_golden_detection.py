"""Both evaluators and the search for segments against numbers of their published implementations.

The stored ends are given as they stand. Tolerances are those of the golden numbers: the one evaluator computes in
float32, the other in float64.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from models.evaluation.detection.average_precision import ap_scores, precision_recall
from models.evaluation.detection.events import Events
from models.evaluation.detection.official import official_scores
from models.evaluation.detection.segments import PostProcessing, find_actions, pad, segments, smooth, window_search
from tests.numerics.golden import facts, found, matching, numbers

FLOAT32, FLOAT64 = 1e-5, 1e-9

NUMBERS, FACTS = numbers("detection"), facts("detection")
THETAS = tuple(map(float, found(FACTS["official_pku_mmd"])))
VIDEOS = np.arange(len(NUMBERS["video_names"]))
POST = matching(NUMBERS, "post_*_prob")


@pytest.fixture(scope="module")
def truth() -> Events:
    return events(NUMBERS["gt"])


@pytest.fixture(scope="module")
def detections() -> Events:
    return events(NUMBERS["det"])


def events(rows: npt.NDArray[Any]) -> Events:
    """Stored rows: video, class, start, end, score."""
    video, label, start, end = rows[:, :4].T.astype(np.int64)
    return Events.of(video, label, start, end, rows[:, 4])


def assert_events(actual: Events, rows: npt.NDArray[np.float64], end_is_inclusive: bool, atol: float) -> None:
    """Stored rows: class, start, end, score."""
    intervals = np.stack([actual.label, actual.start, actual.end - end_is_inclusive], axis=1)
    np.testing.assert_array_equal(intervals, rows[:, :3])
    np.testing.assert_allclose(actual.score, rows[:, 3], rtol=0, atol=atol)


def test_simple_skeleton_detection_scores_equal_the_reference(truth: Events, detections: Events) -> None:
    reference, by_video = FACTS["simple_skeleton_detection"], {}
    for result in ap_scores(truth, detections, VIDEOS, 51, THETAS):
        stored = reference[str(result.tiou)]
        present = {str(c + 1): ap for c, ap in enumerate(result.per_class) if ap is not None}
        assert present == pytest.approx(stored["AP"], rel=0, abs=FLOAT32)
        assert result.mean_ap == pytest.approx(stored["mAP"], rel=0, abs=FLOAT32)
        official = FACTS["official_pku_mmd"][str(result.tiou)]["mAP_video"]
        assert result.mean_ap_video == pytest.approx(official, rel=0, abs=FLOAT64)
        by_video[f"mapv_{result.tiou}"] = result.mean_ap_video
    published = found(name for name in reference if name.startswith("mapv_"))
    for name in published:
        assert by_video[name] == pytest.approx(reference[name], rel=0, abs=FLOAT64)


def test_simple_skeleton_detection_curves_equal_the_reference(truth: Events, detections: Events) -> None:
    curves = precision_recall(truth, detections, VIDEOS, 51, THETAS)
    for theta, of_classes in zip(THETAS, curves, strict=True):
        assert {c + 1 for c, curve in enumerate(of_classes) if curve is not None} == set(NUMBERS["classes"])
        for c in NUMBERS["classes"]:
            curve = of_classes[c - 1]
            assert curve is not None
            np.testing.assert_allclose(curve.recall, NUMBERS[f"ssd_{theta}_recall_{c}"], rtol=0, atol=1e-12)
            np.testing.assert_allclose(curve.precision, NUMBERS[f"ssd_{theta}_precision_{c}"], rtol=0, atol=1e-12)


def test_pku_mmd_scores_equal_the_reference(truth: Events, detections: Events) -> None:
    for result in official_scores(truth, detections, VIDEOS, 51, THETAS):
        stored = FACTS["official_pku_mmd"][str(result.theta)]
        scores = {
            "F1": result.f1,
            "AP": result.ap,
            "mAP_action": result.mean_ap_action,
            "mAP_video": result.mean_ap_video,
            "2DAP": result.ap_2d,
            "mAP_over_classes_with_ground_truth": result.mean_ap_present,
        }
        assert scores == pytest.approx({name: stored[name] for name in scores}, rel=0, abs=FLOAT64)
        # without ground truth: stored as 0, here it is None
        per_class = {name: result.per_class[int(name) - 1] or 0.0 for name in stored["AP_per_class"]}
        assert per_class == pytest.approx(stored["AP_per_class"], rel=0, abs=FLOAT64)
        assert result.per_class[FACTS["class_without_ground_truth"] - 1] is None
        assert result.per_class[FACTS["class_without_detection"] - 1] == 0.0
        assert list(result.per_video) == pytest.approx(stored["AP_per_video"], rel=0, abs=FLOAT64)


@pytest.mark.parametrize("i", POST)
def test_smoothed_probabilities_equal_the_reference(i: str) -> None:
    prob = NUMBERS[f"post_{i}_prob"]
    np.testing.assert_allclose(smooth(prob), NUMBERS[f"post_{i}_smooth"], rtol=0, atol=1e-6)
    first = smooth(pad(prob))[: len(prob) + 20]
    np.testing.assert_allclose(first, NUMBERS[f"post_{i}_smooth_padded_first"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("i", POST)
def test_segments_equal_the_reference(i: str) -> None:
    prob = NUMBERS[f"post_{i}_prob"]
    assert_events(find_actions(prob, 0), NUMBERS[f"post_{i}_segments"], False, 1e-6)
    assert_events(segments(prob), NUMBERS[f"post_{i}_segments_unsmoothed"], False, 1e-6)
    padded = find_actions(prob, 0, PostProcessing(pad_to=9000))
    assert_events(padded, NUMBERS[f"post_{i}_segments_padded"], False, 1e-6)


@pytest.mark.parametrize("i", POST)
def test_the_window_search_equals_the_reference_but_for_exclusive_ends(i: str) -> None:
    prob = NUMBERS[f"post_{i}_prob"]
    # both round to 5 decimals, from means in float32 there and in float64 here
    assert_events(window_search(prob), NUMBERS[f"post_{i}_window_search"], True, 1.1e-5)
    padded = find_actions(prob, 0, PostProcessing(search="window", pad_to=9000))
    assert_events(padded, NUMBERS[f"post_{i}_window_search_padded"], True, 1.1e-5)
