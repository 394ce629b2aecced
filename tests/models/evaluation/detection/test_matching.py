import numpy as np
import pytest
from hypothesis import given

from models.evaluation.detection import matching as module
from models.evaluation.detection.average_precision import inclusive_tiou
from models.evaluation.detection.events import Events
from models.evaluation.detection.matching import best_matches, by_group, first_claims
from models.evaluation.detection.official import hull_tiou
from tests.models.evaluation.detection.cases import Case, cases, large_case


def test_among_equal_overlaps_the_asked_row_is_taken() -> None:
    truth = Events.of([0, 0, 0, 1, 0], [1, 1, 1, 1, 2], [0, 10, 20, 9, 9], [4, 14, 24, 15, 15])
    detections = Events.of([0, 0, 0, 2], [1, 2, 3, 1], [2, 9, 9, 9], [22, 15, 15, 15])
    first = best_matches(truth, detections, hull_tiou, "first")
    last = best_matches(truth, detections, hull_tiou, "last")
    assert first.truth.tolist() == [1, 4, -1, -1]
    assert first.overlap.tolist() == [4 / 20, 1.0, 0.0, 0.0]
    assert first.at(0.3).tolist() == [-1, 4, -1, -1]
    assert last.truth.tolist() == first.truth.tolist()
    twice = Events.of(0, [1, 1], [0, 0], [4, 4])
    assert best_matches(twice, detections.take(np.array([0])), hull_tiou, "first").truth.tolist() == [0]
    assert best_matches(twice, detections.take(np.array([0])), hull_tiou, "last").truth.tolist() == [1]


def test_the_one_measure_counts_both_ends_and_the_other_does_not() -> None:
    arrays = [np.array(values) for values in ([0, 0, 0, 0], [10, 10, 10, 10], [0, 5, 10, 20], [10, 15, 20, 30])]
    np.testing.assert_allclose(inclusive_tiou(*arrays), [1, 6 / 16, 1 / 21, 0])
    np.testing.assert_allclose(hull_tiou(*arrays), [1, 5 / 15, 0, -10 / 30])


@given(case=cases())
def test_pieces_of_any_size_give_the_same_matches(case: Case) -> None:
    truth, detections, _, _ = case.arguments
    whole = best_matches(truth, detections, hull_tiou, "last")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BUDGET", 2)
        pieces = best_matches(truth, detections, hull_tiou, "last")
    np.testing.assert_array_equal(whole.truth, pieces.truth)
    np.testing.assert_array_equal(whole.overlap, pieces.overlap)


def test_matches_of_a_large_case_equal_a_loop_over_pairs() -> None:
    truth, detections, _, _ = large_case(0).arguments
    found = best_matches(truth, detections, inclusive_tiou, "first")
    for i in range(len(detections)):
        same = (truth.video == detections.video[i]) & (truth.label == detections.label[i])
        row = np.array([i])
        overlap = np.where(same, inclusive_tiou(detections.start[row], detections.end[row], truth.start, truth.end), -1)
        assert found.truth[i] == overlap.argmax()
        assert found.overlap[i] == overlap.max()


def test_the_first_claim_of_each_ground_truth_counts() -> None:
    assert first_claims(np.array([-1, 4, 2, 4, -1, 0, 2])).tolist() == [1, 2, 5]
    assert first_claims(np.array([-1, -1])).tolist() == []
    assert first_claims(np.array([], dtype=np.int64)).tolist() == []


def test_groups_keep_the_order_and_may_be_empty() -> None:
    groups = by_group(np.array([2, 0, 2, 0, 2]), np.array([4, 3, 2, 1, 0]), 4)
    assert [rows.tolist() for rows in groups] == [[3, 1], [], [4, 2, 0], []]
    assert [rows.tolist() for rows in by_group(np.array([0, 0]), np.array([1, 0]), 1)] == [[1, 0]]
