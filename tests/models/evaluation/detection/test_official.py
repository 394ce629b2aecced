import numpy as np
import pytest
from hypothesis import given

from models.evaluation.detection.official import official_scores
from shards.errors import ConfigError
from tests.models.evaluation.detection.cases import Case, Row, as_events, cases, large_case, oracle, shuffled

THETAS = (0.1, 0.3, 0.5, 1.0)


def slow_assignment(truth: list[Row], detections: list[Row], theta: float) -> list[int | None]:
    """The ground truth of each detection."""
    assigned: list[int | None] = []
    for video, label, start, end, _ in detections:
        best, best_row = theta, None
        for i, (other, kind, first, last, _) in enumerate(truth):
            frames, theirs = set(range(start, end)), set(range(first, last))
            overlap = len(frames & theirs) / len(frames | theirs)
            if (other, kind) == (video, label) and overlap >= best:
                best, best_row = overlap, i
        assigned.append(best_row)
    return assigned


def slow_ap(truth: list[Row], detections: list[Row], theta: float) -> float:
    """AP of a list of detections, precision and recall counted anew after each removal."""
    detections = sorted(detections, key=lambda row: row[4])
    assigned = slow_assignment(truth, detections, theta)

    def counted(left: list[int | None]) -> tuple[float, float]:
        matched = len(set(left) - {None})
        return (matched / len(left), matched / len(truth)) if left and truth else (0.0, 0.0)

    best, recall = counted(assigned)
    score = 0.0
    for i, row in enumerate(assigned):
        if row is None:
            continue
        precision, lower = counted(assigned[i + 1 :])
        best = max(best, precision)
        score += best * (recall - lower)
        recall = lower
    return score


@given(case=cases())
def test_scores_equal_a_slow_reference(case: Case) -> None:
    truth, detections = case.truth_rows, case.detection_rows
    ap_2d = np.mean([slow_ap(truth, detections, (i + 1) * 0.05) for i in range(20)])
    for theta, found in zip(THETAS, official_scores(*case.arguments, THETAS), strict=True):
        matched = len(set(slow_assignment(truth, detections, theta)) - {None})
        assert found.theta == theta
        assert found.recall == pytest.approx(matched / len(truth))
        assert found.precision == pytest.approx(matched / max(len(detections), 1))
        assert found.f1 == pytest.approx(2 * matched / (len(truth) + len(detections)))
        assert found.ap == pytest.approx(slow_ap(truth, detections, theta))
        assert found.ap_2d == pytest.approx(ap_2d)
        per_class = [slow_ap(*case.rows_of(1, c), theta) for c in range(1, case.num_classes + 1)]
        per_video = [slow_ap(*case.rows_of(0, video), theta) for video in case.videos]
        classes = {row[1] for row in truth}
        videos = {row[0] for row in truth}
        assert found.per_class == tuple(
            pytest.approx(ap) if c in classes else None for c, ap in enumerate(per_class, 1)
        )
        assert found.per_video == tuple(
            pytest.approx(ap) if video in videos else None for video, ap in zip(case.videos, per_video, strict=True)
        )
        assert found.mean_ap_action == pytest.approx(sum(per_class) / case.num_classes)
        assert found.mean_ap_present == pytest.approx(sum(per_class) / len(classes))
        assert found.mean_ap_video == pytest.approx(sum(per_video) / len(case.videos))


@given(case=cases())
def test_an_oracle_reaches_one_wherever_there_is_ground_truth(case: Case) -> None:
    case = oracle(case)
    for found in official_scores(*case.arguments, THETAS):
        scores = (found.precision, found.recall, found.f1, found.ap, found.mean_ap_present, found.ap_2d)
        assert scores == pytest.approx((1.0,) * 6)
        assert found.mean_ap_video == pytest.approx(len({row[0] for row in case.truth_rows}) / 4)
        assert found.mean_ap_action == pytest.approx(len({row[1] for row in case.truth_rows}) / 4)


def test_an_oracle_reaches_one_in_every_mean_if_all_classes_and_videos_have_ground_truth() -> None:
    for found in official_scores(*oracle(large_case(0)).arguments, THETAS):
        means = (found.mean_ap_action, found.mean_ap_present, found.mean_ap_video, found.ap_2d, found.f1)
        assert means == pytest.approx((1.0,) * 5, abs=1e-12)


def test_the_order_of_the_detections_does_not_matter() -> None:
    case = large_case(1)
    found = official_scores(*case.arguments, THETAS)
    assert 0.05 < found[2].mean_ap_action < 0.95
    for seed in range(3):
        assert official_scores(*shuffled(case, seed).arguments, THETAS) == found


def test_a_large_case_equals_the_slow_reference() -> None:
    case = large_case(2)
    (found,) = official_scores(*case.arguments, (0.5,))
    assert found.ap == pytest.approx(slow_ap(case.truth_rows, case.detection_rows, 0.5))
    assert 0.05 < found.ap < 0.95


def test_of_two_ground_truths_that_overlap_a_detection_equally_the_last_is_taken() -> None:
    truth = as_events([(0, 1, 0, 10, 1), (0, 1, 10, 20, 1)])
    between = (0, 1, 5, 15, 0.9)
    for second, expected in (((0, 1, 0, 10, 0.5), 1.0), ((0, 1, 10, 20, 0.5), 0.5)):
        (found,) = official_scores(truth, as_events([between, second]), np.arange(1), 1, (0.3,))
        assert (found.f1, found.ap) == (expected, expected)


def test_f1_is_zero_if_nothing_matches() -> None:
    truth, missed, nothing = as_events([(0, 1, 0, 9, 1)]), as_events([(0, 1, 20, 29, 1)]), as_events([])
    for detections in (missed, nothing):
        (found,) = official_scores(truth, detections, np.arange(1), 1, (0.5,))
        assert (found.precision, found.recall, found.f1, found.ap, found.ap_2d) == (0, 0, 0, 0, 0)
        assert found.per_class == found.per_video == (0.0,)
    with pytest.raises(ConfigError, match="ground truth: found no event"):
        official_scores(nothing, missed, np.arange(1), 1, (0.5,))
