"""The losses against their formulas, written out in float64 by loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.objectives.losses import distillation, info_nce, masked_mse, similarities


def _unit(n: int, seed: int) -> Tensor:
    x = torch.randn(n, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return F.normalize(x, dim=1)


def test_similarities_are_inner_products_with_the_positive_first() -> None:
    query, key, negatives = _unit(3, 0), _unit(3, 1), _unit(5, 2)
    found = similarities(query, key, negatives)
    assert found.shape == (3, 6)
    for i in range(3):
        assert float(found[i, 0]) == pytest.approx(float(query[i] @ key[i]), abs=1e-15)
        for j in range(5):
            assert float(found[i, 1 + j]) == pytest.approx(float(query[i] @ negatives[j]), abs=1e-15)


def test_info_nce_equals_its_formula() -> None:
    similarity = similarities(_unit(3, 0), _unit(3, 1), _unit(5, 2))
    expected = 0.0
    for row in similarity.tolist():
        expected -= math.log(math.exp(row[0] / 0.07) / sum(math.exp(s / 0.07) for s in row)) / 3
    assert float(info_nce(similarity, 0.07)) == pytest.approx(expected, abs=1e-12)


def test_info_nce_of_a_perfect_pair_is_near_zero_and_of_no_information_is_the_log_of_the_choices() -> None:
    perfect = torch.tensor([[1.0, -1.0, -1.0]])
    assert float(info_nce(perfect, 0.07)) < 1e-6
    assert float(info_nce(torch.zeros(2, 8), 0.07)) == pytest.approx(math.log(8))


def test_distillation_equals_its_formula() -> None:
    student, teacher = _unit(3, 0) @ _unit(6, 2).T, _unit(3, 1) @ _unit(6, 2).T
    expected = 0.0
    for s_row, t_row in zip(student.tolist(), teacher.tolist(), strict=True):
        p = [math.exp(t / 0.05) for t in t_row]
        q = [math.exp(s / 0.1) for s in s_row]
        for p_j, q_j in zip(p, q, strict=True):
            expected += p_j / sum(p) * math.log((p_j / sum(p)) / (q_j / sum(q))) / 3
    assert float(distillation(student, teacher, 0.1, 0.05)) == pytest.approx(expected, abs=1e-12)


def test_distillation_over_the_nearest_takes_those_of_the_teacher() -> None:
    student, teacher = _unit(3, 0) @ _unit(6, 2).T, _unit(3, 1) @ _unit(6, 2).T
    expected = 0.0
    for s_row, t_row in zip(student.tolist(), teacher.tolist(), strict=True):
        nearest = sorted(range(6), key=lambda j: -t_row[j])[:2]
        p, q = [math.exp(t_row[j] / 0.05) for j in nearest], [math.exp(s_row[j] / 0.1) for j in nearest]
        for p_j, q_j in zip(p, q, strict=True):
            expected += p_j / sum(p) * math.log((p_j / sum(p)) / (q_j / sum(q))) / 3
    assert float(distillation(student, teacher, 0.1, 0.05, top_k=2)) == pytest.approx(expected, abs=1e-12)
    assert float(distillation(student, teacher, 0.1, 0.05)) != pytest.approx(expected, abs=1e-3)


def test_pairs_stacked_in_front_are_pairs_alone() -> None:
    queries, keys, negatives = (
        torch.stack((_unit(3, 0), _unit(3, 3))),
        torch.stack((_unit(3, 1), _unit(3, 4))),
        _unit(6, 2),
    )
    together = similarities(queries, keys, negatives)
    contrast, divergence = info_nce(together, 0.07), distillation(together[..., 1:], keys @ negatives.T, 0.1, 0.05, 4)
    for i in range(2):
        alone = similarities(queries[i], keys[i], negatives)
        torch.testing.assert_close(together[i], alone, rtol=0, atol=1e-14)
        torch.testing.assert_close(contrast[i], info_nce(alone, 0.07), rtol=0, atol=1e-13)
        expected = distillation(alone[:, 1:], keys[i] @ negatives.T, 0.1, 0.05, 4)
        torch.testing.assert_close(divergence[i], expected, rtol=0, atol=1e-13)


def test_distillation_teaches_the_student_alone() -> None:
    student, teacher = _unit(3, 0).requires_grad_(), _unit(3, 1).requires_grad_()
    distillation(student, teacher, 0.1, 0.05).backward()
    assert student.grad is not None
    assert student.grad.abs().max() > 0
    assert teacher.grad is None


def test_distillation_of_equal_distributions_is_zero() -> None:
    teacher = _unit(3, 0)
    assert float(distillation(2 * teacher, teacher, 0.1, 0.05)) == pytest.approx(0, abs=1e-15)


def test_masked_mse_counts_masked_entries_of_all_samples_alone() -> None:
    prediction, target = torch.randn(2, 3, 4).double(), torch.randn(2, 3, 4).double()
    visible = torch.rand(1, 3, 4, generator=torch.Generator().manual_seed(0)) > 0.5
    errors = [
        float(prediction[n, t, d] - target[n, t, d]) ** 2
        for n in range(2)
        for t in range(3)
        for d in range(4)
        if not visible[0, t, d]
    ]
    assert float(masked_mse(prediction, target, visible)) == pytest.approx(sum(errors) / len(errors), abs=1e-12)


def test_masked_mse_sends_no_gradient_to_visible_entries() -> None:
    prediction = torch.zeros(1, 2, 2, requires_grad=True)
    visible = torch.tensor([[[True, False], [True, True]]])
    masked_mse(prediction, torch.ones(1, 2, 2), visible).backward()
    assert prediction.grad is not None
    assert prediction.grad.ne(0).equal(~visible)


def test_masked_mse_with_nothing_masked_is_zero() -> None:
    assert masked_mse(torch.ones(1, 2, 2), torch.zeros(1, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool)).item() == 0
