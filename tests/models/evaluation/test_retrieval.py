from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from models.evaluation import retrieval as module
from models.evaluation.features import Features
from models.evaluation.retrieval import RetrievalConfig, nearest, retrieval
from shards.errors import ConfigError


def features(values: Any, label: Any) -> Features:
    values = torch.as_tensor(values, dtype=torch.float32)
    return Features(values, torch.as_tensor(label, dtype=torch.int64), torch.arange(len(values)))


def gaussian(count: int, width: int, seed: int) -> Features:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(5, (count,), generator=generator)
    values = torch.randn(count, width, generator=generator) + 0.3 * label[:, None]
    return Features(values, label, torch.arange(count))


def test_a_case_worked_out_by_hand() -> None:
    gallery = features([[1, 0], [0, 1], [-3, -3]], [0, 1, 2])
    query = features([[5, 1], [1, 4], [-1, -2], [9, 1]], [0, 1, 2, 1])
    result = retrieval(gallery, query, num_classes=4)
    assert result.accuracy == 0.75
    assert result.per_class == (1.0, 0.5, 1.0, None)


def test_cosine_ignores_length_and_euclidean_does_not() -> None:
    gallery = torch.tensor([[10.0, 0.0], [0.6, 0.8]])
    query = torch.tensor([[0.9, 0.1]])
    assert nearest(gallery, query, "cosine").tolist() == [0]
    assert nearest(gallery, query, "euclidean").tolist() == [1]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_predictions_equal_those_of_scikit_learn(metric: Literal["cosine", "euclidean"]) -> None:
    gallery, query = gaussian(700, 24, 1), gaussian(300, 24, 2)
    reference = KNeighborsClassifier(n_neighbors=1, metric=metric).fit(gallery.values.numpy(), gallery.label.numpy())
    predicted = gallery.label[nearest(gallery.values, query.values, metric)].numpy()
    np.testing.assert_array_equal(predicted, reference.predict(query.values.numpy()))
    result = retrieval(gallery, query, RetrievalConfig(metric=metric))
    assert result.accuracy == reference.score(query.values.numpy(), query.label.numpy())
    assert 0.25 < result.accuracy < 1


@given(
    gallery=st.integers(1, 40),
    query=st.integers(1, 20),
    width=st.integers(1, 6),
    offset=st.sampled_from([0.0, 100.0]),
    metric=st.sampled_from(["cosine", "euclidean"]),
    seed=st.integers(0, 1000),
)
def test_the_nearest_is_that_of_all_distances_in_float64(
    gallery: int, query: int, width: int, offset: float, metric: Any, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # coarse values make ties and repeated rows, which the first row wins
    g, q = ((4 * torch.rand(n, width, generator=generator)).round() + offset for n in (gallery, query))
    if metric == "cosine":
        unit = [x.double() / x.double().norm(dim=1, keepdim=True).clamp_min(1e-300) for x in (g, q)]
        distance = 1 - unit[1] @ unit[0].T
    else:
        distance = (q.double()[:, None] - g.double()).square().sum(dim=2)
    index = nearest(g, q, metric)
    chosen = distance.gather(1, index[:, None]).squeeze(1)
    torch.testing.assert_close(chosen, distance.amin(dim=1), rtol=0, atol=1e-12)


def test_differences_far_below_float32_rounding_of_the_products_still_decide() -> None:
    gallery = torch.tensor([[1000.0, 1.0 + 3e-4], [1000.0, 1.0 + 1e-4], [1000.0, 1.0 - 2e-4]])
    query = torch.tensor([[1000.0, 1.0]])
    assert nearest(gallery, query, "euclidean").tolist() == [1]
    assert nearest(gallery, query, "cosine").tolist() == [1]


def test_of_equally_near_samples_the_first_wins() -> None:
    gallery = torch.tensor([[1.0, 1.0], [0.0, 2.0], [0.0, 2.0], [2.0, 0.0]])
    query = torch.tensor([[0.0, 2.0]])
    for metric in ("cosine", "euclidean"):
        assert nearest(gallery, query, metric).tolist() == [1]


def test_a_zero_vector_has_no_direction_and_breaks_nothing() -> None:
    gallery = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    query = torch.tensor([[2.0, 0.1], [-2.0, 0.1], [0.0, 0.0]])
    assert nearest(gallery, query, "cosine").tolist() == [1, 2, 0]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_pieces_of_any_size_give_the_same_answer(metric: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, query = gaussian(60, 8, 3).values, gaussian(31, 8, 4).values
    whole = nearest(gallery, query, metric)
    for budget in (1, 64 * 7, 64 * 30):
        monkeypatch.setattr(module, "_BUDGET", budget)
        assert torch.equal(nearest(gallery, query, metric), whole)


def test_no_piece_is_larger_than_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BUDGET", 4096)
    gallery, query = torch.zeros(300, 4), torch.zeros(1000, 4)
    pieces = list(module._chunks(query, gallery))
    assert sum(map(len, pieces)) == 1000
    assert max(len(piece) * 300 for piece in pieces) <= 4096
    wide = list(module._chunks(torch.zeros(10, 200), torch.zeros(3, 200)))
    assert max(piece.numel() * 8 for piece in wide) <= 4096


def test_unequal_widths_are_refused() -> None:
    with pytest.raises(ConfigError, match="found features 3 wide in the query, expected 2"):
        retrieval(features([[1, 2]], [0]), features([[1, 2, 3]], [0]))


def test_a_label_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"query: found labels 0\.\.5, expected them in 0\.\.4"):
        retrieval(features([[1, 2]], [0]), features([[1, 2], [3, 4]], [0, 5]), num_classes=5)
