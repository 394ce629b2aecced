"""Few-shot classification: a classifier trained on the few labelled features of an episode (setting of PCM3++)."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC, LinearSVC
from torch import Tensor

from models.evaluation.episodes import EpisodeConfig, Episodes, Ids, sorted_ids
from models.evaluation.features import Features
from shards.errors import ConfigError
from shards.progress import Progress

Classifier = Literal["svm", "svm_one_vs_one", "logistic", "centroid"]
Floats = NDArray[np.float64]

# episodes whose features are held at a time: 6 MiB of 100 features of 2048 in float64, which stay in a CPU's caches; 64
# took twice as long
_EPISODES = 4

_FITTED: dict[str, Callable[[], Any]] = {
    "svm": lambda: LinearSVC(C=1.0, dual=True, random_state=0),
    "svm_one_vs_one": lambda: SVC(C=1.0, kernel="linear"),
    "logistic": lambda: LogisticRegression(C=1.0, max_iter=1000),
}


class FewShotConfig(EpisodeConfig):
    """Episodes and their classifier; the defaults are the published ones.

    Attributes:
        classifier: of L2-normalised features.
            "svm": linear, C = 1, one class against the rest, squared hinge loss and penalised bias: scikit-learn's
            `LinearSVC`, as in bbbdylan/unisiam, which the published setting follows.
            "svm_one_vs_one": linear, C = 1, hinge loss, the votes of each pair of classes: scikit-learn's `SVC`; of
            equal votes the first class of the episode, whose order is random.
            "logistic": multinomial, L2 penalty, C = 1.
            "centroid": the nearest mean, Euclidean; of equally near ones the first.
    """

    classifier: Classifier = "svm"


@dataclass(frozen=True)
class FewShotResult:
    """Accuracies with one number of shots.

    Attributes:
        shots: labelled samples a class.
        accuracy: mean over the episodes.
        interval: half the width of the 95 % interval of the mean: 1.96 * std / sqrt(E), with the population's standard
            deviation (division by E) as in bbbdylan/unisiam.
        per_episode: (E,) accuracy of each episode.
    """

    shots: int
    accuracy: float
    interval: float
    per_episode: tuple[float, ...]


def few_shot(
    features: Features, episodes: Episodes, config: FewShotConfig, *, progress: bool = False
) -> tuple[FewShotResult, ...]:
    """Classify the queries of each episode by its labelled samples.

    Args:
        features: hold every sample of the episodes, in any order; normalised here (a zero vector stays one).
        episodes: of `draw_episodes` with this `config`.
        config: classifier and shots.
        progress: show a bar.

    Returns:
        One result for each of `config.shots`, in that order.

    Raises:
        ConfigError: episodes of other sizes than `config` tells, a sample without features or of another class than
            the episodes say, or NaN or infinity among the features.
    """
    _check_sizes(episodes, config)
    rows = _rows(features, episodes)
    shots = episodes.support.shape[2]
    accuracy = np.empty((len(config.shots), len(episodes)))
    with (
        # the features are checked once, not in each of thousands of fits
        config_context(assume_finite=True, skip_parameter_validation=True),
        Progress("few-shot", len(rows), "episode", shown=progress, passing=True) as bar,
    ):
        for episode, points in enumerate(_points(features.values, rows, shots)):
            for row, few in enumerate(config.shots):
                accuracy[row, episode] = _score(config.classifier, points[:, :few], points[:, shots:])
            bar.advance()
    return tuple(_summary(few, values) for few, values in zip(config.shots, accuracy, strict=True))


def _check_sizes(episodes: Episodes, config: FewShotConfig) -> None:
    found = (*episodes.support.shape, episodes.query.shape[2])
    expected = (config.episodes, config.ways, max(config.shots), config.queries)
    if found != expected:
        raise ConfigError(f"found episodes of {found}, expected {expected} (episodes, ways, shots, queries)")


def _rows(features: Features, episodes: Episodes) -> Ids:
    """(E, ways, shots + queries) rows of the features, whose labels are the classes of the episodes."""
    bad = ~features.values.isfinite().all(dim=1).cpu()
    if bad.any():
        sample = int(features.sample_id.cpu()[bad][0])
        raise ConfigError(f"found NaN or infinity in {int(bad.sum())} features, sample {sample} first, expected none")
    ids, order = sorted_ids(features.sample_id.cpu().numpy())
    wanted = np.concatenate([episodes.support, episodes.query], axis=2)
    absent = np.setdiff1d(wanted, ids)
    if len(absent):
        raise ConfigError(f"found no features of {len(absent)} samples of the episodes, {absent[0]} first")
    rows = order[np.searchsorted(ids, wanted)]
    label = features.label.cpu().numpy()[rows]
    other = np.argwhere(label != episodes.classes[..., None])
    if len(other):
        place = tuple(other[0])
        raise ConfigError(
            f"sample {wanted[place]}: found label {label[place]}, expected {episodes.classes[place[:2]]} as in episode "
            f"{place[0]}"
        )
    return rows


def _points(values: Tensor, rows: Ids, shots: int) -> Iterator[Floats]:
    """Each episode's normalised features (ways, shots + queries, R) in the R dimensions its labelled ones span.

    What is at right angles to all labelled features moves no boundary between classes: R is at most ways * shots, and
    every classifier here decides as on the whole width.
    """
    for first in range(0, len(rows), _EPISODES):
        part = torch.from_numpy(rows[first : first + _EPISODES])
        x = F.normalize(values[part.to(values.device)].cpu().double(), dim=-1)
        basis = torch.linalg.qr(x[:, :, :shots].flatten(1, 2).mT).Q
        # flat: a product with an axis for the ways would copy the basis for each of them
        yield from (x.flatten(1, 2) @ basis).unflatten(1, x.shape[1:3]).numpy()


def _score(classifier: Classifier, support: Floats, query: Floats) -> float:
    """Share of the queries (ways, Q, R) given their own class by a classifier of the support (ways, K, R)."""
    ways, queries, _ = query.shape
    flat = query.reshape(ways * queries, -1)
    if classifier == "centroid":
        distance = torch.cdist(torch.from_numpy(flat), torch.from_numpy(support.mean(axis=1)))
        predicted = distance.argmin(dim=1).numpy()
    else:
        model = _FITTED[classifier]()
        model.fit(support.reshape(-1, support.shape[2]), np.repeat(np.arange(ways), support.shape[1]))
        predicted = model.predict(flat)
    return float((predicted == np.repeat(np.arange(ways), queries)).mean())


def _summary(shots: int, values: Floats) -> FewShotResult:
    interval = 1.96 * float(values.std()) / math.sqrt(len(values))
    return FewShotResult(shots, float(values.mean()), interval, tuple(values.tolist()))
