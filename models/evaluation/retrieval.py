"""Action retrieval: the class of the nearest training samples (setting of maoyunyao/CMD: k = 1, cosine)."""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, field_validator
from torch import Tensor

from models.evaluation.features import Features
from models.evaluation.metrics import accuracies, check_labels
from models.evaluation.neighbours import Metric, average_precision, nearest
from shards.errors import SkelstreamError
from shards.frozen import Frozen


class RetrievalConfig(Frozen):
    """What "nearest" means, and what is scored.

    Attributes:
        k: numbers of neighbours that vote, ascending from 1, the published one.
        metric: "cosine" is the published one; "euclidean" serves for raw coordinates.
        mean_average_precision: also score the ranking of the whole gallery. It takes a float64 product and a look-up
            of every score, where the neighbours alone take a float32 product.
    """

    k: tuple[Annotated[int, Field(ge=1)], ...] = (1,)
    metric: Metric = "cosine"
    mean_average_precision: bool = False

    @field_validator("k")
    @classmethod
    def _ascending_from_one(cls, k: tuple[int, ...]) -> tuple[int, ...]:
        if k[:1] != (1,) or list(k) != sorted(set(k)):
            raise ValueError(f"found k = {list(k)}, expected numbers that ascend from 1")
        return k


_PUBLISHED = RetrievalConfig()


@dataclass(frozen=True)
class RetrievalResult:
    """Scores of a query split against a gallery.

    Attributes:
        accuracy: share of queries whose nearest gallery sample has their class.
        per_class: the same of each class; None without queries of it.
        accuracy_at: for each of `RetrievalConfig.k`, the share of queries to which their k nearest gallery samples give
            their class by majority; of classes with equally many votes the lowest wins, as in scikit-learn.
        mean_average_precision: mean over the queries whose class the gallery has; None without any, or if
            not asked for.
        unmatched: queries of a class that no gallery sample has. They count as wrong in every accuracy.
    """

    accuracy: float
    per_class: tuple[float | None, ...]
    accuracy_at: tuple[float, ...]
    mean_average_precision: float | None
    unmatched: int


def retrieval(
    gallery: Features, query: Features, config: RetrievalConfig = _PUBLISHED, num_classes: int | None = None
) -> RetrievalResult:
    """Classify each query by its nearest gallery samples.

    Args:
        gallery: training split.
        query: test split.
        config: neighbours, metric and scores.
        num_classes: of the data set; without it as many as the labels show.

    Raises:
        ConfigError: features of unequal width, a label out of range, no samples, or fewer in the gallery than `k`.
        SkelstreamError: NaN or infinity among the features.
    """
    if num_classes is None:
        num_classes = 1 + max((int(side.label.max()) for side in (gallery, query) if len(side)), default=0)
    for side, where in ((gallery, "gallery"), (query, "query")):
        check_labels(side.label, num_classes, where)
        _check_finite(side, where)
    index = nearest(gallery.values, query.values, config.metric, config.k[-1])
    label, neighbours = query.label.to(index.device), gallery.label.to(index.device)[index]
    votes = (accuracies(_majority(neighbours[:, :k], num_classes), label, num_classes)[0] for k in config.k)
    return RetrievalResult(
        *accuracies(neighbours[:, 0], label, num_classes),
        accuracy_at=tuple(votes),
        mean_average_precision=_mean_average_precision(gallery, query, config.metric)
        if config.mean_average_precision
        else None,
        unmatched=int((~torch.isin(query.label, gallery.label.to(query.label.device))).sum()),
    )


def _majority(label: Tensor, num_classes: int) -> Tensor:
    """(N, k) -> (N,) the most frequent class of each row; of equally frequent ones the lowest."""
    votes = torch.zeros(len(label), num_classes, dtype=torch.int32, device=label.device)
    return votes.scatter_add_(1, label, torch.ones_like(label, dtype=torch.int32)).argmax(dim=1)


def _mean_average_precision(gallery: Features, query: Features, metric: Metric) -> float | None:
    of_query = average_precision(gallery.values, gallery.label, query.values, query.label, metric)
    matched = of_query[~of_query.isnan()]
    return float(matched.mean()) if len(matched) else None


def _check_finite(features: Features, where: str) -> None:
    # by pieces: a mask of all numbers would take a quarter of the features' memory
    bad = torch.cat([~part.isfinite().all(dim=1) for part in torch.split(features.values, 4096)])
    if bad.any():
        samples = features.sample_id.to(bad.device)[bad].tolist()
        raise SkelstreamError(
            f"{where}: found NaN or infinity in the features of samples {samples}, expected finite numbers"
        )
