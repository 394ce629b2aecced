import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.metrics import average_precision_score
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import KNeighborsClassifier

from models.evaluation.features import Features
from models.evaluation.neighbours import Metric
from models.evaluation.retrieval import RetrievalConfig, retrieval
from shards.errors import ConfigError, SkelstreamError


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
    assert result.accuracy_at == (0.75,)
    assert result.mean_average_precision is None
    assert result.unmatched == 0


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_accuracies_equal_those_of_scikit_learn_for_every_k(metric: Metric) -> None:
    gallery, query = gaussian(700, 24, 1), gaussian(300, 24, 2)
    config = RetrievalConfig(k=(1, 2, 5, 20, 700), metric=metric)
    result = retrieval(gallery, query, config)
    for k, accuracy in zip(config.k, result.accuracy_at, strict=True):
        judge = KNeighborsClassifier(n_neighbors=k, metric=metric, algorithm="brute")
        judge.fit(gallery.values.double().numpy(), gallery.label.numpy())
        assert accuracy == judge.score(query.values.double().numpy(), query.label.numpy()), k
    assert result.accuracy == result.accuracy_at[0]
    assert 0.25 < result.accuracy < 1
    assert len(set(result.accuracy_at)) > 3


def test_the_mean_average_precision_is_that_of_scikit_learn() -> None:
    gallery, query = gaussian(400, 24, 3), gaussian(50, 24, 4)
    found = retrieval(gallery, query, RetrievalConfig(mean_average_precision=True)).mean_average_precision
    scores = cosine_similarity(query.values.double().numpy(), gallery.values.double().numpy())
    relevant = (query.label[:, None] == gallery.label).numpy()
    expected = np.mean([average_precision_score(row, score) for row, score in zip(relevant, scores, strict=True)])
    assert found == pytest.approx(expected, rel=1e-12)


def test_of_classes_with_equally_many_votes_the_lowest_wins() -> None:
    # the nearest is of class 2, but both others of the second pair vote too
    gallery = features([[1], [2], [3], [4]], [2, 1, 2, 1])
    query = features([[0]], [1])
    result = retrieval(gallery, query, RetrievalConfig(k=(1, 2, 3, 4), metric="euclidean"))
    assert result.accuracy_at == (0.0, 1.0, 0.0, 1.0)


def test_a_class_that_the_gallery_lacks_is_wrong_counted_and_left_out_of_the_mean_average_precision() -> None:
    gallery = features([[1], [2]], [0, 1])
    query = features([[0], [0], [0], [0]], [0, 1, 2, 3])
    config = RetrievalConfig(metric="euclidean", mean_average_precision=True)
    result = retrieval(gallery, query, config)
    assert (result.accuracy, result.per_class) == (0.25, (1.0, 0.0, 0.0, 0.0))
    assert result.mean_average_precision == (1 + 1 / 2) / 2
    assert result.unmatched == 2
    none = retrieval(gallery, features([[0]], [2]), config)
    assert (none.accuracy, none.mean_average_precision, none.unmatched) == (0.0, None, 1)


@pytest.mark.parametrize("k", [[], [5], [1, 1], [1, 5, 3], [0, 1], [-1]])
def test_numbers_of_neighbours_that_do_not_ascend_from_one_are_refused(k: list[int]) -> None:
    with pytest.raises(ValidationError):
        RetrievalConfig.model_validate({"k": k})


def test_more_neighbours_than_gallery_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"found k = 3 neighbours, expected 1\.\.2"):
        retrieval(features([[1], [2]], [0, 1]), features([[1]], [0]), RetrievalConfig(k=(1, 3)))


def test_unequal_widths_are_refused() -> None:
    with pytest.raises(ConfigError, match="found features 3 wide in the query, expected 2"):
        retrieval(features([[1, 2]], [0]), features([[1, 2, 3]], [0]))


def test_a_label_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"query: found labels 0\.\.5, expected them in 0\.\.4"):
        retrieval(features([[1, 2]], [0]), features([[1, 2], [3, 4]], [0, 5]), num_classes=5)


@pytest.mark.parametrize(("sides", "where"), [((0, 2), "gallery"), ((2, 0), "query"), ((0, 0), "gallery")])
def test_a_side_without_samples_is_refused(sides: tuple[int, int], where: str) -> None:
    gallery, query = (features(torch.ones(count, 3), [0] * count) for count in sides)
    with pytest.raises(ConfigError, match=f"{where}: found no samples"):
        retrieval(gallery, query)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_no_numbers_are_refused_with_their_samples(bad: float) -> None:
    broken = features([[1, 2], [bad, 0], [3, 4]], [0, 1, 0])
    good = features([[1, 2]], [0])
    with pytest.raises(SkelstreamError, match=r"query: found NaN or infinity in the features of samples \[1\]"):
        retrieval(good, broken)
    with pytest.raises(SkelstreamError, match=r"gallery: found NaN or infinity in the features of samples \[1\]"):
        retrieval(broken, good)
