"""Both evaluators and the search for segments against numbers of their published implementations.

The stored ends are given as they stand. Tolerances are those of the golden numbers: the one evaluator computes in
float32, the other in float64.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from numpy.lib.npyio import NpzFile

from models.evaluation.detection.average_precision import ap_scores, precision_recall
from models.evaluation.detection.events import Events
from models.evaluation.detection.official import official_scores
from models.evaluation.detection.segments import PostProcessing, find_actions, pad, segments, smooth, window_search

THETAS = (0.1, 0.3, 0.5)
FLOAT32, FLOAT64 = 1e-5, 1e-9
VIDEOS = range(3)


@pytest.fixture(scope="module")
def numbers(golden: Path) -> NpzFile:
    arrays: NpzFile = np.load(golden / "detection.npz", allow_pickle=False)
    return arrays


@pytest.fixture(scope="module")
def expected(golden: Path) -> dict[str, Any]:
    recorded: dict[str, Any] = json.loads((golden / "detection.json").read_text(encoding="utf-8"))
    return recorded


@pytest.fixture(scope="module")
def truth(numbers: NpzFile) -> Events:
    return events(numbers["gt"])


@pytest.fixture(scope="module")
def detections(numbers: NpzFile) -> Events:
    return events(numbers["det"])


@pytest.fixture(scope="module")
def videos(numbers: NpzFile) -> npt.NDArray[np.int64]:
    return np.arange(len(numbers["video_names"]))


def events(rows: npt.NDArray[Any]) -> Events:
    """Stored rows: video, class, start, end, score."""
    video, label, start, end = rows[:, :4].T.astype(np.int64)
    return Events.of(video, label, start, end, rows[:, 4])


def assert_events(found: Events, rows: npt.NDArray[np.float64], end_is_inclusive: bool, atol: float) -> None:
    """Stored rows: class, start, end, score."""
    intervals = np.stack([found.label, found.start, found.end - end_is_inclusive], axis=1)
    np.testing.assert_array_equal(intervals, rows[:, :3])
    np.testing.assert_allclose(found.score, rows[:, 3], rtol=0, atol=atol)


def test_simple_skeleton_detection_scores_equal_the_reference(
    truth: Events, detections: Events, videos: npt.NDArray[np.int64], expected: dict[str, Any]
) -> None:
    reference = expected["simple_skeleton_detection"]
    for found in ap_scores(truth, detections, videos, 51, THETAS):
        stored = reference[str(found.tiou)]
        present = {str(c + 1): ap for c, ap in enumerate(found.per_class) if ap is not None}
        assert present == pytest.approx(stored["AP"], rel=0, abs=FLOAT32)
        assert found.mean_ap == pytest.approx(stored["mAP"], rel=0, abs=FLOAT32)
        by_video = expected["official_pku_mmd"][str(found.tiou)]["mAP_video"]
        assert found.mean_ap_video == pytest.approx(by_video, rel=0, abs=FLOAT64)
    assert found.mean_ap_video == pytest.approx(reference["mapv_0.5"], rel=0, abs=FLOAT64)


def test_simple_skeleton_detection_curves_equal_the_reference(
    truth: Events, detections: Events, videos: npt.NDArray[np.int64], numbers: NpzFile
) -> None:
    curves = precision_recall(truth, detections, videos, 51, THETAS)
    for theta, of_classes in zip(THETAS, curves, strict=True):
        assert {c + 1 for c, curve in enumerate(of_classes) if curve is not None} == set(numbers["classes"])
        for c in numbers["classes"]:
            curve = of_classes[c - 1]
            assert curve is not None
            np.testing.assert_allclose(curve.recall, numbers[f"ssd_{theta}_recall_{c}"], rtol=0, atol=1e-12)
            np.testing.assert_allclose(curve.precision, numbers[f"ssd_{theta}_precision_{c}"], rtol=0, atol=1e-12)


def test_pku_mmd_scores_equal_the_reference(
    truth: Events, detections: Events, videos: npt.NDArray[np.int64], expected: dict[str, Any]
) -> None:
    for found in official_scores(truth, detections, videos, 51, THETAS):
        stored = expected["official_pku_mmd"][str(found.theta)]
        scores = {
            "F1": found.f1,
            "AP": found.ap,
            "mAP_action": found.mean_ap_action,
            "mAP_video": found.mean_ap_video,
            "2DAP": found.ap_2d,
            "mAP_over_classes_with_ground_truth": found.mean_ap_present,
        }
        assert scores == pytest.approx({name: stored[name] for name in scores}, rel=0, abs=FLOAT64)
        # class 4 has no ground truth: stored as 0, here it is None
        per_class = {name: found.per_class[int(name) - 1] or 0.0 for name in stored["AP_per_class"]}
        assert per_class == pytest.approx(stored["AP_per_class"], rel=0, abs=FLOAT64)
        assert found.per_class[expected["class_without_ground_truth"] - 1] is None
        assert found.per_class[expected["class_without_detection"] - 1] == 0.0
        assert list(found.per_video) == pytest.approx(stored["AP_per_video"], rel=0, abs=FLOAT64)


@pytest.mark.parametrize("i", VIDEOS)
def test_smoothed_probabilities_equal_the_reference(numbers: NpzFile, i: int) -> None:
    prob = numbers[f"post_{i}_prob"]
    np.testing.assert_allclose(smooth(prob), numbers[f"post_{i}_smooth"], rtol=0, atol=1e-6)
    first = smooth(pad(prob))[: len(prob) + 20]
    np.testing.assert_allclose(first, numbers[f"post_{i}_smooth_padded_first"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("i", VIDEOS)
def test_segments_equal_the_reference(numbers: NpzFile, i: int) -> None:
    prob = numbers[f"post_{i}_prob"]
    assert_events(find_actions(prob, 0), numbers[f"post_{i}_segments"], False, 1e-6)
    assert_events(segments(prob), numbers[f"post_{i}_segments_unsmoothed"], False, 1e-6)
    padded = find_actions(prob, 0, PostProcessing(pad_to=9000))
    assert_events(padded, numbers[f"post_{i}_segments_padded"], False, 1e-6)


@pytest.mark.parametrize("i", VIDEOS)
def test_the_window_search_equals_the_reference_but_for_exclusive_ends(numbers: NpzFile, i: int) -> None:
    prob = numbers[f"post_{i}_prob"]
    # both round to 5 decimals, from means in float32 there and in float64 here
    assert_events(window_search(prob), numbers[f"post_{i}_window_search"], True, 1.1e-5)
    padded = find_actions(prob, 0, PostProcessing(search="window", pad_to=9000))
    assert_events(padded, numbers[f"post_{i}_window_search_padded"], True, 1.1e-5)
