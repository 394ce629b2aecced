from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torch import Tensor

from models.evaluation import neighbours as module
from models.evaluation.neighbours import Metric, average_precision, nearest
from shards.errors import ConfigError

METRICS: tuple[Metric, ...] = ("cosine", "euclidean")
both_metrics = pytest.mark.parametrize("metric", METRICS)


def gaussian(count: int, width: int, seed: int) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def coarse(count: int, width: int, seed: int) -> Tensor:
    """Few different values, so that ties and repeated rows are frequent."""
    return (3 * torch.rand(count, width, generator=torch.Generator().manual_seed(seed))).round()


def labels(count: int, seed: int, classes: int = 4) -> Tensor:
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))


def distances(gallery: Tensor, query: Tensor, metric: Metric) -> Any:
    """(Q, G) in float64, differences below 1e-12 rounded away: those of equal distances."""
    g, q = gallery.double().numpy(), query.double().numpy()
    if metric == "cosine":
        g, q = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300) for x in (g, q))
        found = 1 - q @ g.T
    else:
        found = ((q[:, None] - g) ** 2).sum(axis=2)
    return np.round(found, 12)


def ranking(gallery: Tensor, query: Tensor, metric: Metric, count: int) -> list[list[int]]:
    """The obvious way, for whole numbers in exact arithmetic: all rows sorted, of equally near ones the first first."""

    def farness(q: list[int], g: list[int]) -> Fraction:
        if metric == "euclidean":
            return Fraction(sum((a - b) ** 2 for a, b in zip(q, g, strict=True)))
        product = sum(a * b for a, b in zip(q, g, strict=True))
        # minus the squared cosine with its sign, less the factor 1 / |q|^2 that all share
        return Fraction(-product * abs(product), sum(b * b for b in g) or 1)

    rows, points = gallery.int().tolist(), query.int().tolist()
    return [sorted(range(len(rows)), key=lambda row, q=q: farness(q, rows[row]))[:count] for q in points]  # type: ignore[misc]  # of q=q


def test_cosine_ignores_length_and_euclidean_does_not() -> None:
    gallery = torch.tensor([[10.0, 0.0], [0.6, 0.8]])
    query = torch.tensor([[0.9, 0.1]])
    assert nearest(gallery, query, "cosine").tolist() == [[0]]
    assert nearest(gallery, query, "euclidean").tolist() == [[1]]


@given(
    gallery=st.integers(1, 60),
    query=st.integers(1, 20),
    width=st.integers(1, 6),
    offset=st.sampled_from([0, 10]),
    metric=st.sampled_from(METRICS),
    count=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
@settings(deadline=None)  # a busy machine may pause any one example
def test_the_nearest_are_those_of_exact_arithmetic(
    gallery: int, query: int, width: int, offset: int, metric: Metric, count: int, seed: int
) -> None:
    g, q = coarse(gallery, width, seed) + offset, coarse(query, width, seed + 1) + offset
    count = min(count, gallery)
    assert nearest(g, q, metric, count).tolist() == ranking(g, q, metric, count)


@both_metrics
def test_among_more_equal_rows_than_candidates_the_first_wins(metric: Metric) -> None:
    repeated = torch.cat([gaussian(1, 16, 0), gaussian(40, 16, 1)[torch.arange(200) % 40]])
    assert nearest(repeated, repeated[:41], metric).flatten().tolist() == list(range(41))
    collapsed = gaussian(1, 16, 2).expand(100, -1)
    assert nearest(collapsed, collapsed[:5] + 1, metric, 3).tolist() == [[0, 1, 2]] * 5


@both_metrics
def test_rows_that_float32_products_cannot_tell_apart_are_told_apart(metric: Metric) -> None:
    # the differences lie far above the rounding of float32 features, and below that of their products
    gallery = gaussian(1, 256, 3) + 3e-5 * gaussian(500, 256, 4)
    query = gaussian(1, 256, 3) + 3e-5 * gaussian(50, 256, 5)
    rough = (query @ gallery.T / gallery.norm(dim=1)).argmax(dim=1).tolist()
    expected = np.argsort(
        ((query.double()[:, None] - gallery.double()) ** 2).sum(dim=2).numpy()
        if metric == "euclidean"
        else -torch.cosine_similarity(query.double()[:, None], gallery.double(), dim=2).numpy(),
        axis=1,
    )
    assert nearest(gallery, query, metric, 4).tolist() == expected[:, :4].tolist()
    assert rough != expected[:, 0].tolist()


def test_differences_far_below_float32_rounding_of_the_products_still_decide() -> None:
    gallery = torch.tensor([[1000.0, 1.0 + 3e-4], [1000.0, 1.0 + 1e-4], [1000.0, 1.0 - 2e-4]])
    query = torch.tensor([[1000.0, 1.0]])
    for metric in METRICS:
        assert nearest(gallery, query, metric).tolist() == [[1]]


@both_metrics
def test_features_that_lie_apart_cost_a_float32_product_only(metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, query = gaussian(300, 64, 6), gaussian(100, 64, 7)
    expected = nearest(gallery, query, metric)
    monkeypatch.delattr(module, "_scores")
    assert torch.equal(nearest(gallery, query, metric), expected)
    with pytest.raises(NameError):
        nearest(gallery[:1].expand(300, -1), query, metric)
    monkeypatch.delattr(module._Search, "_decided")
    assert torch.equal(nearest(gallery, query, metric), expected)


def test_a_zero_vector_has_no_direction_and_breaks_nothing() -> None:
    gallery = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    query = torch.tensor([[2.0, 0.1], [-2.0, 0.1], [0.0, 0.0], [0.0, 1.0]])
    assert nearest(gallery, query, "cosine").flatten().tolist() == [1, 2, 0, 0]
    at_right_angle = torch.tensor([[0.0, 5.0], [0.0, 0.0]])
    assert nearest(at_right_angle, torch.tensor([[1.0, 0.0]]), "cosine", 2).tolist() == [[0, 1]]


@both_metrics
def test_numbers_whose_squares_float32_cannot_hold_are_searched_too(metric: Metric) -> None:
    for scale in (1e30, 1e-30):
        gallery, query = gaussian(50, 8, 8), gaussian(20, 8, 9)
        assert torch.equal(nearest(gallery * scale, query * scale, metric, 3), nearest(gallery, query, metric, 3))


def test_a_product_that_overflows_on_its_way_decides_nothing() -> None:
    # products with the first two rows are 0, of terms whose first half adds up to more than float32 holds
    query = torch.full((1, 16), 1e20)
    gallery = 1e18 * torch.tensor([[1.0] * 8 + [-1.0] * 8, [-1.0] * 8 + [1.0] * 8, [1e-8] + [0.0] * 15])
    assert nearest(gallery, query, "euclidean").tolist() == [[2]]


@both_metrics
def test_pieces_of_any_size_give_the_same_answer(metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, query = coarse(24, 3, 10), coarse(13, 3, 11)
    whole = nearest(gallery, query, metric, 3)
    precision = average_precision(gallery, labels(24, 12), query, labels(13, 13), metric)
    for budget in (1, 24 * 24 * 5, 24 * 24 * 12):
        monkeypatch.setattr(module, "_BUDGET", budget)
        assert torch.equal(nearest(gallery, query, metric, 3), whole)
        again = average_precision(gallery, labels(24, 12), query, labels(13, 13), metric)
        torch.testing.assert_close(again, precision, rtol=1e-12, atol=0)


@both_metrics
def test_no_more_scores_are_held_at_a_time_than_the_budget_allows(
    metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BUDGET", 1 << 16)
    held, product = [], torch.addmm

    def watched(*args: Tensor, **options: Tensor) -> Tensor:
        found = product(*args, **options)
        held.append(max(x.numel() * x.element_size() for x in (found, *args)))
        return found

    monkeypatch.setattr(torch, "addmm", watched)
    gallery, query = gaussian(400, 4, 14), gaussian(300, 4, 15)
    nearest(gallery, query, metric)
    average_precision(gallery, labels(400, 16), query, labels(300, 17), metric)
    assert len(held) > 60
    assert max(held) <= 1 << 16


def test_a_piece_is_never_empty_and_never_over_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BUDGET", 4096)
    assert [len(piece) for piece in module._chunks(torch.zeros(10, 2), 1000)] == [4, 4, 2]
    assert [len(piece) for piece in module._chunks(torch.zeros(2, 2), 10**6)] == [1, 1]


def test_an_average_precision_worked_out_by_hand() -> None:
    gallery = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    found = average_precision(
        gallery, torch.tensor([0, 1, 0, 1]), torch.zeros(3, 1), torch.tensor([0, 1, 2]), "euclidean"
    )
    # relevant at the ranks 1 and 3; at 2 and 4; nowhere
    assert found[:2].tolist() == pytest.approx([(1 + 2 / 3) / 2, (1 / 2 + 2 / 4) / 2])
    assert found[2].isnan()


def test_equally_near_samples_share_the_last_of_their_ranks() -> None:
    gallery, query = torch.tensor([[1.0], [-1.0], [3.0]]), torch.zeros(1, 1)
    for label in ([0, 1, 1], [1, 0, 1]):
        found = average_precision(gallery, torch.tensor(label), query, torch.tensor([0]), "euclidean")
        assert found.tolist() == [0.5]


@given(
    gallery=st.integers(1, 60),
    query=st.integers(1, 12),
    width=st.integers(1, 6),
    make=st.sampled_from([coarse, gaussian]),
    metric=st.sampled_from(METRICS),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)  # scikit-learn takes one query at a time
def test_the_average_precision_is_that_of_scikit_learn(
    gallery: int, query: int, width: int, make: Any, metric: Metric, seed: int
) -> None:
    g, q = make(gallery, width, seed), make(query, width, seed + 1)
    g_label, q_label = labels(gallery, seed + 2), labels(query, seed + 3)
    found = average_precision(g, g_label, q, q_label, metric).tolist()
    for value, label, distance in zip(found, q_label, distances(g, q, metric), strict=True):
        relevant = (g_label == label).numpy()
        if relevant.any():
            assert value == pytest.approx(average_precision_score(relevant, -distance), rel=1e-9)
        else:
            assert np.isnan(value)


@both_metrics
def test_the_order_of_the_gallery_does_not_change_the_average_precision(metric: Metric) -> None:
    gallery, query, label = coarse(80, 3, 18), coarse(20, 3, 19), labels(80, 20)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(21))
    first = average_precision(gallery, label, query, labels(20, 22), metric)
    again = average_precision(gallery[order], label[order], query, labels(20, 22), metric)
    torch.testing.assert_close(again, first, rtol=1e-12, atol=0)


def test_unequal_widths_and_more_neighbours_than_rows_are_refused() -> None:
    gallery, query = torch.zeros(4, 2), torch.zeros(3, 3)
    with pytest.raises(ConfigError, match="found features 3 wide in the query, expected 2"):
        nearest(gallery, query, "cosine")
    with pytest.raises(ConfigError, match="found features 3 wide in the query, expected 2"):
        average_precision(gallery, torch.zeros(4), query, torch.zeros(3), "cosine")
    with pytest.raises(ConfigError, match=r"found k = 5 neighbours, expected 1\.\.4, the samples of the gallery"):
        nearest(gallery, gallery, "cosine", 5)
