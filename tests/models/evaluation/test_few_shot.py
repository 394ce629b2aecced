from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from sklearn.svm import SVC, LinearSVC

from models.evaluation.episodes import Episodes, draw_episodes
from models.evaluation.features import Features
from models.evaluation.few_shot import Classifier, FewShotConfig, few_shot
from shards.errors import ConfigError

SMALL = FewShotConfig(ways=4, shots=(1, 3), queries=6, episodes=10)


def gaussian(spread: float = 0.25, width: int = 64, offset: float = 0.3, seed: int = 0) -> Features:
    """Six classes of 15 samples that overlap, rows in no order."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(6).repeat(15)
    centre = spread * torch.randn(6, width, generator=generator)
    values = centre[label] + offset + torch.randn(len(label), width, generator=generator)
    order = torch.randperm(len(label), generator=generator)
    return Features(values[order], label[order], 500 + order)


def obvious(features: Features, episodes: Episodes, shots: int, make: Any) -> list[float]:
    """Accuracy of each episode: a scikit-learn classifier on the whole width, which calls the classes 0, 1, ..., in
    the episode's order (a support vector machine gives equal votes to the class of the lowest name).
    """
    row_of = {sample: row for row, sample in enumerate(features.sample_id.tolist())}
    values = features.values.double().numpy()
    values = values / np.linalg.norm(values, axis=1, keepdims=True)
    scores = []
    for support, query in zip(episodes.support, episodes.query, strict=True):
        train = [row_of[sample] for sample in support[:, :shots].ravel().tolist()]
        test = [row_of[sample] for sample in query.ravel().tolist()]
        model = make().fit(values[train], np.repeat(range(len(support)), shots))
        scores.append(float(np.mean(model.predict(values[test]) == np.repeat(range(len(query)), query.shape[1]))))
    return scores


@pytest.mark.parametrize("width", [5, 64])
@pytest.mark.parametrize(
    ("classifier", "make"),
    [
        ("svm", lambda: LinearSVC(C=1.0, dual=True, random_state=0)),
        ("svm_one_vs_one", lambda: SVC(kernel="linear", C=1.0)),
        ("logistic", lambda: LogisticRegression(C=1.0, max_iter=1000)),
    ],
)
def test_accuracies_equal_those_of_scikit_learn_on_the_whole_width(
    classifier: Classifier, make: Any, width: int
) -> None:
    features = gaussian(width=width)
    config = SMALL.model_copy(update={"classifier": classifier})
    episodes = draw_episodes(features.sample_id, features.label, config)
    for result in few_shot(features, episodes, config):
        expected = obvious(features, episodes, result.shots, make)
        assert result.per_episode == pytest.approx(expected, abs=1e-12)
        assert 0.25 < result.accuracy < 0.95


def test_the_nearest_centroid_equals_scikit_learns_and_with_one_shot_the_nearest_neighbour() -> None:
    features = gaussian()
    config = SMALL.model_copy(update={"classifier": "centroid"})
    episodes = draw_episodes(features.sample_id, features.label, config)
    one, three = few_shot(features, episodes, config)
    assert three.per_episode == pytest.approx(obvious(features, episodes, 3, NearestCentroid), abs=1e-12)
    unit = torch.nn.functional.normalize(features.values.double(), dim=1)
    row_of = {sample: row for row, sample in enumerate(features.sample_id.tolist())}
    for episode, accuracy in enumerate(one.per_episode):
        train = [row_of[sample] for sample in episodes.support[episode, :, 0].tolist()]
        test = [row_of[sample] for sample in episodes.query[episode].ravel().tolist()]
        nearest = (unit[test] @ unit[train].T).argmax(dim=1)
        right = features.label[train][nearest] == features.label[test]
        assert accuracy == pytest.approx(right.double().mean().item())


def test_the_two_support_vector_machines_are_not_the_same() -> None:
    features = gaussian()
    episodes = draw_episodes(features.sample_id, features.label, SMALL)
    rest = few_shot(features, episodes, SMALL)
    pairs = few_shot(features, episodes, SMALL.model_copy(update={"classifier": "svm_one_vs_one"}))
    assert rest[1].per_episode != pairs[1].per_episode


def test_mean_and_interval_by_hand() -> None:
    # the first and the second class stand at right angles; one query of episode 1 is of the other's direction
    values = torch.tensor([[2.0, 0.0], [0.5, 0.1], [9.0, 1.0], [0.0, 3.0], [0.1, 1.0], [7.0, 0.2]])
    features = Features(values, torch.tensor([0, 0, 0, 1, 1, 1]), torch.arange(6))
    classes = np.array([[0, 1], [1, 0]])
    episodes = Episodes(classes, np.array([[[0], [3]], [[3], [0]]]), np.array([[[1], [4]], [[5], [2]]]))
    for classifier in ("svm", "svm_one_vs_one", "logistic", "centroid"):
        config = FewShotConfig(ways=2, shots=(1,), queries=1, episodes=2, classifier=classifier)
        (result,) = few_shot(features, episodes, config)
        assert result.per_episode == (1.0, 0.5)
        assert result.accuracy == 0.75
        # deviations of 0.25: std 0.25 when divided by E, 0.354 when by E - 1
        assert result.interval == pytest.approx(1.96 * 0.25 / 2**0.5)


def test_separate_classes_are_told_apart_and_noise_is_at_chance() -> None:
    config = FewShotConfig(ways=4, shots=(1, 3), queries=6, episodes=60)
    for spread, low, high in ((20.0, 1.0, 1.0), (0.0, 0.2, 0.3)):
        features = gaussian(spread, offset=0.0)
        for result in few_shot(features, draw_episodes(features.sample_id, features.label, config), config):
            assert low <= result.accuracy <= high


def test_neither_the_order_of_the_rows_nor_the_length_of_the_features_matters() -> None:
    features = gaussian()
    episodes = draw_episodes(features.sample_id, features.label, SMALL)
    expected = few_shot(features, episodes, SMALL)
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(1))
    length = torch.linspace(0.5, 40, len(features))[:, None]
    again = Features(features.values[order] * length, features.label[order], features.sample_id[order])
    assert few_shot(again, episodes, SMALL) == expected


def test_more_episodes_than_are_held_at_a_time_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    features = gaussian()
    episodes = draw_episodes(features.sample_id, features.label, SMALL)
    expected = few_shot(features, episodes, SMALL)
    monkeypatch.setattr("models.evaluation.few_shot._EPISODES", 3)
    assert few_shot(features, episodes, SMALL) == expected


@pytest.mark.parametrize("classifier", ["svm", "svm_one_vs_one", "logistic", "centroid"])
def test_equal_and_zero_features_are_classified_without_a_warning(classifier: Classifier) -> None:
    for values in (torch.zeros(90, 64), torch.ones(90, 64)):
        features = Features(values, torch.arange(6).repeat(15), torch.arange(90))
        episodes = draw_episodes(features.sample_id, features.label, SMALL)
        for result in few_shot(features, episodes, SMALL.model_copy(update={"classifier": classifier})):
            assert 0 <= result.accuracy <= 0.5


def test_features_that_do_not_fit_the_episodes_are_refused() -> None:
    features = gaussian()
    episodes = draw_episodes(features.sample_id, features.label, SMALL)
    with pytest.raises(ConfigError, match=r"found episodes of \(10, 4, 3, 6\), expected \(3000, 5, 5, 15\)"):
        few_shot(features, episodes, FewShotConfig())
    values = features.values.clone()
    values[[4, 9], 3] = torch.tensor([torch.nan, torch.inf])
    sample = int(features.sample_id[4])
    with pytest.raises(ConfigError, match=rf"found NaN or infinity in 2 features, sample {sample} first"):
        few_shot(Features(values, features.label, features.sample_id), episodes, SMALL)
    with pytest.raises(ConfigError, match=r"found no features of \d+ samples of the episodes"):
        few_shot(Features(features.values, features.label, features.sample_id + 10_000), episodes, SMALL)
    with pytest.raises(ConfigError, match=r"found label \d, expected \d as in episode 0"):
        few_shot(Features(features.values, features.label + 1, features.sample_id), episodes, SMALL)
    with pytest.raises(ConfigError, match=r"found sample 500 twice"):
        few_shot(Features(features.values, features.label, features.sample_id * 0 + 500), episodes, SMALL)


def test_an_unknown_classifier_is_refused_and_the_published_one_is_the_default() -> None:
    assert FewShotConfig().classifier == "svm"
    with pytest.raises(ValueError, match="classifier"):
        FewShotConfig.model_validate({"classifier": "forest"})
