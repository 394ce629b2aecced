"""Maps of features: principal components as a singular value decomposition has them, and t-SNE's neighbourhoods."""

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from models.evaluation.embedding import SIDE, _turned, maps, unit


def blobs(count: int = 20) -> np.ndarray:
    """Three groups of points in 12 dimensions, one after the other."""
    middles = 6 * np.eye(3, 12).repeat(count, axis=0)
    return middles + np.random.default_rng(0).normal(size=(3 * count, 12))


def points(flat: list[int]) -> np.ndarray:
    return np.array(flat, dtype=float).reshape(-1, 2)


def test_principal_components_are_those_of_the_singular_value_decomposition() -> None:
    values = blobs() * np.linspace(3, 1, 12)
    centred = values - values.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    expected = (left * sizes)[:, :2]
    told = maps(values)
    assert told["share"] == pytest.approx((sizes[:2] ** 2).sum() / (sizes**2).sum())
    found = points(told["pca"])
    found[:, 1] *= -1  # a page counts downwards
    scale = SIDE / np.ptp(expected, axis=0).max()
    for axis in range(2):  # up to its sign, and to a rounding in the map
        ours, theirs = found[:, axis] - found[:, axis].mean(), scale * expected[:, axis]
        assert min(np.abs(ours - theirs).max(), np.abs(ours + theirs).max()) < 1.1


def test_a_map_fills_its_box_in_one_direction_and_lies_in_the_middle_of_the_other() -> None:
    for flat in (maps(blobs())["pca"], maps(blobs())["tsne"]):
        low, high = points(flat).min(axis=0), points(flat).max(axis=0)
        assert (high - low).max() == SIDE
        np.testing.assert_allclose(low + high, SIDE, atol=1)


def test_neighbours_stay_neighbours_in_t_sne() -> None:
    placed, group = points(maps(blobs())["tsne"]), np.arange(60) // 20
    far = np.linalg.norm(placed[:, None] - placed[None], axis=-1) + np.diag(np.full(60, np.inf))
    assert (group[far.argmin(axis=1)] == group).mean() > 0.95


def test_the_same_features_give_the_same_map_with_any_number_of_threads() -> None:
    first = maps(blobs())
    with threadpool_limits(2):
        assert maps(blobs()) == first


def test_turning_keeps_all_distances_and_needs_no_larger_square() -> None:
    long = np.random.default_rng(1).normal(size=(50, 2)) * (9, 1)
    turned = _turned(long)
    between = [np.linalg.norm(x[:, None] - x[None], axis=-1) for x in (long, turned)]
    np.testing.assert_allclose(between[0], between[1], atol=1e-9)
    assert np.ptp(turned, axis=0).max() < 0.85 * np.ptp(long, axis=0).max()


def test_what_has_no_map_says_why() -> None:
    collapsed = maps(np.full((20, 4), 0.3))
    assert collapsed["pca"] is None
    assert collapsed["tsne"] is None
    assert "collapsed" in collapsed["why"]
    assert "no map" in maps(np.ones((1, 4)))["why"]
    few = maps(blobs(2))
    assert few["pca"] is not None
    assert few["tsne"] is None
    assert "too few" in few["why"]


def test_unit_rows_have_length_1_and_rows_of_zeros_stay() -> None:
    found = unit(np.array([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0]])
