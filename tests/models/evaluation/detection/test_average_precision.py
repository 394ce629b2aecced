from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given

from models.evaluation.detection.average_precision import ap_scores, precision_recall
from models.evaluation.detection.official import official_scores
from shards.errors import ConfigError
from tests.models.evaluation.detection.cases import Case, Row, as_events, cases, large_case, oracle, shuffled

TIOUS = (0.1, 0.3, 0.5, 1.0)


def slow_ap(truth: list[Row], detections: list[Row], tiou: float) -> tuple[float, list[float], list[float]]:
    """AP, recall and precision of one class, one detection after the other."""
    taken = [False] * len(truth)
    true, recall, precision = 0, [], []
    for count, (video, _, start, end, _) in enumerate(sorted(detections, key=lambda row: -row[4]), 1):
        best, best_row = 0.0, -1
        for i, (other, _, first, last, _) in enumerate(truth):
            frames, theirs = set(range(start, end + 1)), set(range(first, last + 1))
            overlap = len(frames & theirs) / len(frames | theirs)
            if other == video and overlap > best:
                best, best_row = overlap, i
        if best >= tiou and not taken[best_row]:
            taken[best_row] = True
            true += 1
        recall.append(true / len(truth))
        precision.append(true / count)
    points = sorted({0.0, *recall})
    # the best precision at this recall or a higher one
    height = [max(p for p, r in zip(precision, recall, strict=True) if r >= point) for point in points[1:]]
    return sum((b - a) * h for (a, b), h in zip(pairwise(points), height, strict=True)), recall, precision


@given(case=cases())
def test_scores_equal_a_slow_reference(case: Case) -> None:
    curves = precision_recall(*case.arguments, TIOUS)
    official = official_scores(*case.arguments, TIOUS)
    for tiou, found, of_classes, by_video in zip(
        TIOUS, ap_scores(*case.arguments, TIOUS), curves, official, strict=True
    ):
        expected: list[float] = []
        for c in range(1, case.num_classes + 1):
            truth, detections = case.rows_of(1, c)
            curve, ap = of_classes[c - 1], found.per_class[c - 1]
            assert (curve is None) == (ap is None) == (not truth)
            if curve is None or ap is None:
                continue
            slow, recall, precision = slow_ap(truth, detections, tiou)
            assert curve.recall.tolist() == pytest.approx(recall)
            assert curve.precision.tolist() == pytest.approx(precision)
            assert ap == pytest.approx(slow)
            expected.append(slow)
        assert found.tiou == tiou
        assert found.mean_ap == pytest.approx(np.mean(expected))
        assert found.mean_ap_video == by_video.mean_ap_video


@given(case=cases())
def test_an_oracle_reaches_one_at_every_threshold(case: Case) -> None:
    for found in ap_scores(*oracle(case).arguments, TIOUS):
        assert found.mean_ap == 1.0
        assert set(found.per_class) <= {1.0, None}


def test_the_order_of_the_detections_does_not_matter() -> None:
    case = large_case(1)
    found = ap_scores(*case.arguments, TIOUS)
    assert 0.05 < found[2].mean_ap < 0.95
    for seed in range(3):
        assert ap_scores(*shuffled(case, seed).arguments, TIOUS) == found


def test_a_case_worked_out_by_hand() -> None:
    truth = as_events([(0, 1, 0, 9, 1), (0, 1, 20, 29, 1), (1, 2, 0, 9, 1), (1, 3, 0, 9, 1)])
    # class 1: hit, the same again (false), hit: precision 1, 1/2, 2/3; class 2: wrong video, then hit; class 3: nothing
    detections = as_events(
        [
            (0, 1, 0, 9, 0.9),
            (0, 1, 1, 9, 0.8),
            (0, 1, 20, 28, 0.7),
            (0, 2, 0, 9, 0.9),
            (1, 2, 0, 9, 0.5),
            (1, 4, 0, 9, 1),
        ]
    )
    (found,) = ap_scores(truth, detections, np.arange(2), 4, (0.5,))
    assert found.per_class[0] == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert found.per_class[1:] == (0.5, 0.0, None)
    assert found.mean_ap == pytest.approx((5 / 6 + 0.5) / 3)


def test_of_two_ground_truths_that_overlap_a_detection_equally_the_first_is_taken() -> None:
    truth = as_events([(0, 1, 0, 9, 1), (0, 1, 10, 19, 1)])
    between = (0, 1, 5, 14, 0.9)
    for second, expected in (((0, 1, 0, 9, 0.5), 0.5), ((0, 1, 10, 19, 0.5), 1.0)):
        (found,) = ap_scores(truth, as_events([between, second]), np.arange(1), 1, (0.3,))
        assert found.mean_ap == expected


def test_without_detections_the_score_is_zero_and_without_ground_truth_there_is_none() -> None:
    nothing, truth = as_events([]), as_events([(0, 1, 0, 9, 1)])
    (found,) = ap_scores(truth, nothing, np.arange(1), 2, (0.5,))
    assert (found.mean_ap, found.mean_ap_video, found.per_class) == (0.0, 0.0, (0.0, None))
    with pytest.raises(ConfigError, match="ground truth: found no event"):
        ap_scores(nothing, truth, np.arange(1), 2, (0.5,))
