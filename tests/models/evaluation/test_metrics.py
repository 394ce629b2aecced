import math

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.evaluation.metrics import (
    accuracies,
    accuracy_by_group,
    calibration,
    check_labels,
    confusion_matrix,
    length_group,
    top_k_accuracy,
)
from shards.errors import ConfigError, SkelstreamError

pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1)


def columns(rows: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    first, second = zip(*rows, strict=True)
    return torch.tensor(first), torch.tensor(second)


def random_logits(count: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Logits that favour the label a little."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(classes, (count,), generator=generator)
    logits = torch.randn(count, classes, generator=generator)
    return logits + torch.nn.functional.one_hot(label, classes), label


def test_accuracies_worked_out_by_hand() -> None:
    predicted = torch.tensor([0, 0, 1, 2, 2, 2])
    label = torch.tensor([0, 1, 1, 2, 2, 0])
    assert accuracies(predicted, label, 4) == (4 / 6, (0.5, 0.5, 1.0, None))


@given(pairs)
def test_the_accuracy_is_the_mean_of_the_classes_weighted_by_their_samples(rows: list[tuple[int, int]]) -> None:
    accuracy, classes = accuracies(*columns(rows), 5)
    assert accuracy == sum(p == t for p, t in rows) / len(rows)
    for number, value in enumerate(classes):
        own = [p == t for p, t in rows if t == number]
        assert value == (sum(own) / len(own) if own else None)


def test_labels_out_of_range_and_none_at_all_are_told() -> None:
    check_labels(torch.tensor([0, 2]), 3, "test")
    for label in (torch.tensor([0, 3]), torch.tensor([-1, 2])):
        with pytest.raises(ConfigError, match=r"test: found labels .*expected them in 0\.\.2"):
            check_labels(label, 3, "test")
    with pytest.raises(ConfigError, match="test: found no samples"):
        check_labels(torch.tensor([]), 3, "test")


def test_the_rows_of_a_confusion_matrix_are_the_labels_and_its_columns_the_predictions() -> None:
    predicted, label = torch.tensor([0, 0, 1, 2, 2]), torch.tensor([0, 1, 1, 2, 0])
    assert confusion_matrix(predicted, label, 3).tolist() == [[1, 0, 1], [1, 1, 0], [0, 0, 1]]


@settings(max_examples=40, deadline=None)  # scikit-learn's checks of its input are slow
@given(pairs)
def test_a_confusion_matrix_is_that_of_scikit_learn_and_holds_the_accuracies(rows: list[tuple[int, int]]) -> None:
    predicted, label = columns(rows)
    found = confusion_matrix(predicted, label, 5)
    expected = sklearn.metrics.confusion_matrix(label.numpy(), predicted.numpy(), labels=range(5))
    np.testing.assert_array_equal(found.numpy(), expected)
    assert int(found.sum()) == len(rows)
    accuracy, classes = accuracies(predicted, label, 5)
    assert int(found.trace()) / len(rows) == accuracy
    own = zip(found.diag().tolist(), found.sum(dim=1).tolist(), strict=True)
    assert classes == tuple(right / count if count else None for right, count in own)


def test_a_class_out_of_range_has_no_place_in_a_confusion_matrix() -> None:
    with pytest.raises(ConfigError, match=r"predictions: found labels 0\.\.3, expected them in 0\.\.2"):
        confusion_matrix(torch.tensor([0, 3]), torch.tensor([0, 1]), 3)
    with pytest.raises(ConfigError, match=r"labels: found labels -1\.\.1"):
        confusion_matrix(torch.tensor([0, 1]), torch.tensor([-1, 1]), 3)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_top_k_accuracy_is_that_of_scikit_learn(k: int) -> None:
    logits, label = random_logits(500, 7, 1)
    expected = sklearn.metrics.top_k_accuracy_score(label.numpy(), logits.numpy(), k=k, labels=range(7))
    assert top_k_accuracy(logits, label, k) == expected


@given(st.integers(1, 30), st.integers(1, 5), st.integers(0, 100))
def test_the_top_k_accuracy_rises_with_k_from_the_accuracy_to_1_also_among_equal_scores(
    count: int, classes: int, seed: int
) -> None:
    logits, label = random_logits(count, classes, seed)
    logits = logits.round()
    found = [top_k_accuracy(logits, label, k) for k in range(1, classes + 1)]
    assert found[0] == accuracies(logits.argmax(dim=1), label, classes)[0]
    assert found == sorted(found)
    assert found[-1] == 1


def test_of_equal_scores_the_lower_class_comes_first() -> None:
    scores = torch.zeros(3, 3)
    assert [top_k_accuracy(scores, torch.tensor([0, 1, 2]), k) for k in (1, 2, 3)] == [1 / 3, 2 / 3, 1]


@pytest.mark.parametrize("k", [0, 4])
def test_places_that_are_no_number_of_classes_are_refused(k: int) -> None:
    with pytest.raises(ConfigError, match=rf"found top-{k} accuracy, expected 1\.\.3"):
        top_k_accuracy(torch.zeros(2, 3), torch.tensor([0, 1]), k)


def test_a_calibration_worked_out_by_hand() -> None:
    probability = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    found = calibration(probability.log(), torch.tensor([0, 1, 1, 1]), bins=4)
    assert [row.count for row in found.reliability] == [0, 0, 2, 2]
    assert [row.confidence for row in found.reliability] == [None, None, pytest.approx(0.65), pytest.approx(0.85)]
    assert [row.accuracy for row in found.reliability] == [None, None, 1.0, 0.5]
    assert [(row.low, row.high) for row in found.reliability] == [(0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1)]
    assert found.expected_error == pytest.approx(0.5 * 0.35 + 0.5 * 0.35)
    assert found.brier == pytest.approx((2 * 0.01 + 2 * 0.64 + 2 * 0.09 + 2 * 0.16) / 4)
    assert found.negative_log_likelihood == pytest.approx(-math.log(0.9 * 0.2 * 0.7 * 0.6) / 4)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_likelihood_and_brier_score_are_those_of_scikit_learn(classes: int) -> None:
    logits, label = random_logits(300, classes, 2)
    found, probability = calibration(logits, label), logits.double().softmax(dim=1).numpy()
    names = list(range(classes))
    assert found.negative_log_likelihood == pytest.approx(
        sklearn.metrics.log_loss(label.numpy(), probability, labels=names)
    )
    expected = sklearn.metrics.brier_score_loss(label.numpy(), probability, labels=names, scale_by_half=False)
    assert found.brier == pytest.approx(expected)


def test_the_expected_calibration_error_is_that_of_a_loop_over_the_predictions() -> None:
    logits, label = random_logits(400, 5, 3)
    found = calibration(logits, label)
    total = 0.0
    members: dict[int, list[tuple[float, bool]]] = {}
    for row, truth in zip(logits.double().softmax(dim=1), label, strict=True):
        confidence, predicted = row.max(dim=0)
        place = math.ceil(float(confidence) * 15) - 1
        members.setdefault(place, []).append((float(confidence), bool(predicted == truth)))
    for rows in members.values():
        gap = sum(right for _, right in rows) / len(rows) - sum(confidence for confidence, _ in rows) / len(rows)
        total += abs(gap) * len(rows) / 400
    assert found.expected_error == pytest.approx(total)
    assert [row.count for row in found.reliability] == [len(members.get(place, ())) for place in range(15)]


@settings(deadline=None)  # a busy machine may pause any one example
@given(right=st.lists(st.integers(0, 10), min_size=1, max_size=5), classes=st.integers(2, 6), bins=st.integers(1, 20))
def test_predictions_as_often_right_as_they_say_have_no_calibration_error(
    right: list[int], classes: int, bins: int
) -> None:
    # groups of 10 predictions of class 0 with the confidence p, of which 10 p are right; p > 1 / classes
    logits, label = [], []
    for hits in right:
        p = max(hits, 10 // classes + 1) / 10
        own = torch.full((classes,), (1 - p) / (classes - 1), dtype=torch.float64)
        own[0] = p
        logits += [own.clamp_min(1e-300).log()] * 10
        label += [0] * round(10 * p) + [1] * round(10 - 10 * p)
    found = calibration(torch.stack(logits), torch.tensor(label), bins)
    assert found.expected_error == pytest.approx(0, abs=1e-12)
    assert sum(row.count for row in found.reliability) == 10 * len(right)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below_it() -> None:
    found = calibration(torch.tensor([[0.0, 0.0], [100.0, 0.0]]), torch.tensor([0, 0]), bins=2)
    assert [row.count for row in found.reliability] == [1, 1]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_no_numbers_are_refused_with_their_rows(bad: float) -> None:
    scores, label = torch.tensor([[0.0, 1.0], [bad, 1.0]]), torch.tensor([0, 1])
    for score in (calibration, lambda scores, label: top_k_accuracy(scores, label, 1)):
        with pytest.raises(SkelstreamError, match=r"found NaN or infinity in the scores of rows \[1\]"):
            score(scores, label)


def test_no_samples_and_no_bins_are_refused() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    for call in (
        lambda: calibration(torch.zeros(0, 3), none),
        lambda: top_k_accuracy(torch.zeros(0, 3), none, 1),
        lambda: confusion_matrix(none, none, 3),
        lambda: accuracy_by_group(none, none, none),
        lambda: length_group(none),
    ):
        with pytest.raises(ConfigError, match="found no samples"):
            call()
    with pytest.raises(ConfigError, match="found 0 bins of confidence"):
        calibration(torch.zeros(1, 3), torch.tensor([0]), bins=0)
    with pytest.raises(ConfigError, match="found 0 bins of length"):
        length_group(torch.tensor([1]), bins=0)


def test_the_accuracy_of_groups_worked_out_by_hand() -> None:
    predicted, label = torch.tensor([0, 1, 1, 0, 2]), torch.tensor([0, 1, 0, 0, 1])
    camera = torch.tensor([3, 1, 3, 3, 7])
    found = accuracy_by_group(predicted, label, camera)
    assert found == {1: (1.0, 1), 3: (2 / 3, 3), 7: (0.0, 1)}
    assert list(found) == [1, 3, 7]


@given(pairs)
def test_the_groups_together_give_the_accuracy(rows: list[tuple[int, int]]) -> None:
    predicted, label = columns(rows)
    found = accuracy_by_group(predicted, label, label - 2)
    assert sum(count for _, count in found.values()) == len(rows)
    assert sum(share * count for share, count in found.values()) / len(rows) == pytest.approx(
        accuracies(predicted, label, 5)[0]
    )


def test_lengths_fall_into_quartiles_named_by_their_shortest() -> None:
    length = torch.tensor([80, 10, 20, 70, 30, 60, 40, 50])
    assert length_group(length).tolist() == [70, 10, 10, 70, 30, 50, 30, 50]
    assert length_group(torch.tensor([5, 5, 5, 9])).tolist() == [5, 5, 5, 9]
    assert length_group(torch.tensor([7, 7])).tolist() == [7, 7]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60), st.integers(1, 8))
def test_bins_of_length_are_ranges_and_equally_full_up_to_repeated_lengths(lengths: list[int], bins: int) -> None:
    length = torch.tensor(lengths)
    group = length_group(length, bins)
    names = torch.unique(group)
    assert len(names) <= bins
    for name, following in zip(names.tolist(), [*names[1:].tolist(), 21], strict=True):
        inside = length[group == name]
        assert int(inside.min()) == name
        assert int(inside.max()) < following
    # without repeats every bin is as full as every other, but for one
    even = length_group(torch.arange(len(lengths)), min(bins, len(lengths)))
    _, counts = torch.unique(even, return_counts=True)
    assert int(counts.max() - counts.min()) <= 1
