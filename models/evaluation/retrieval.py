"""Action retrieval: the class of the nearest training sample, k = 1 (setting of maoyunyao/CMD: cosine)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from models.evaluation.features import Features
from models.evaluation.results import accuracies, check_labels
from shards.errors import ConfigError

Metric = Literal["cosine", "euclidean"]

# numbers held at a time beside the features: 64 MiB in float32
_BUDGET = 1 << 24
# a float32 product chooses that many, float64 picks the nearest of them, so that rounding decides no near tie
_CANDIDATES = 8


class RetrievalConfig(BaseModel):
    """What "nearest" means.

    Attributes:
        metric: "cosine" is the published one; "euclidean" serves for raw coordinates.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: Metric = "cosine"


_PUBLISHED = RetrievalConfig()


@dataclass(frozen=True)
class RetrievalResult:
    """Share of queries whose nearest gallery sample has their class: all, and of each class (None: no query of it)."""

    accuracy: float
    per_class: tuple[float | None, ...]


def retrieval(
    gallery: Features, query: Features, config: RetrievalConfig = _PUBLISHED, num_classes: int | None = None
) -> RetrievalResult:
    """Classify each query by its nearest gallery sample.

    Args:
        gallery: training split.
        query: test split.
        config: metric.
        num_classes: of the data set; without it as many as the labels show.

    Raises:
        ConfigError: features of unequal width, or a label out of range.
    """
    if num_classes is None:
        num_classes = int(max(gallery.label.max(), query.label.max())) + 1
    check_labels(gallery.label, num_classes, "gallery")
    check_labels(query.label, num_classes, "query")
    index = nearest(gallery.values, query.values, config.metric)
    label = query.label.to(index.device)
    return RetrievalResult(*accuracies(gallery.label[index], label, num_classes))


def nearest(gallery: Tensor, query: Tensor, metric: Metric) -> Tensor:
    """Row of the gallery nearest to each query; of equally near ones the first.

    Args:
        gallery: (G, D) float32.
        query: (Q, D) float32, moved to the gallery's device piece by piece.
        metric: "cosine" (a zero vector is as far as a right angle) or "euclidean".

    Returns:
        (Q,) int64.

    Raises:
        ConfigError: the widths differ.
    """
    if gallery.shape[1] != query.shape[1]:
        raise ConfigError(
            f"found features {query.shape[1]} wide in the query, expected {gallery.shape[1]} as in the gallery"
        )
    if metric == "cosine":
        return torch.cat([_pick_cosine(part, gallery) for part in _chunks(query, gallery)])
    # distances do not change with the origin; with it in the middle the float32 terms are small and cancel little
    centre = gallery.mean(dim=0)
    gallery = gallery - centre
    half_square = gallery.square().sum(dim=1) / 2
    return torch.cat([_pick_euclidean(part - centre, gallery, half_square) for part in _chunks(query, gallery)])


def _chunks(query: Tensor, gallery: Tensor) -> Iterator[Tensor]:
    """The queries in pieces for which a product with the gallery, or the candidates, take `_BUDGET` numbers at most."""
    rows = max(1, _BUDGET // max(gallery.shape[0], _CANDIDATES * gallery.shape[1]))
    for first in range(0, query.shape[0], rows):
        yield query[first : first + rows].to(gallery.device)


def _pick_cosine(query: Tensor, gallery: Tensor) -> Tensor:
    norm = gallery.norm(dim=1).clamp_min(torch.finfo(gallery.dtype).tiny)
    candidates = _candidates(query @ gallery.T / norm)
    similarity = F.cosine_similarity(query.double()[:, None], gallery[candidates].double(), dim=2, eps=1e-300)
    return _first_best(candidates, similarity)


def _pick_euclidean(query: Tensor, gallery: Tensor, half_square: Tensor) -> Tensor:
    candidates = _candidates(query @ gallery.T - half_square)
    difference = query.double()[:, None] - gallery[candidates].double()
    return _first_best(candidates, -difference.square().sum(dim=2))


def _candidates(score: Tensor) -> Tensor:
    """(Q, K) rows of the highest scores, ascending."""
    return score.topk(min(_CANDIDATES, score.shape[1]), dim=1).indices.sort(dim=1).values


def _first_best(candidates: Tensor, score: Tensor) -> Tensor:
    return candidates.gather(1, score.argmax(dim=1, keepdim=True)).squeeze(1)
