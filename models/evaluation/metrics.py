"""Scores of a classifier from its predictions or its class scores."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from shards.errors import ConfigError, SkelstreamError


def check_labels(label: Tensor, num_classes: int, where: str) -> None:
    """Refuse labels outside 0..num_classes-1, and none at all.

    Raises:
        ConfigError: with the range found.
    """
    if len(label) == 0:
        raise ConfigError(f"{where}: found no samples, expected at least one")
    low, high = int(label.min()), int(label.max())
    if low < 0 or high >= num_classes:
        raise ConfigError(f"{where}: found labels {low}..{high}, expected them in 0..{num_classes - 1}")


def accuracies(predicted: Tensor, label: Tensor, num_classes: int) -> tuple[float, tuple[float | None, ...]]:
    """Share of right answers, and that of each class; None for a class without samples.

    Args:
        predicted: (N,) int64 classes.
        label: (N,) int64 classes.
        num_classes: how many there are.
    """
    total = torch.bincount(label, minlength=num_classes).tolist()
    right = torch.bincount(label[predicted == label], minlength=num_classes).tolist()
    classes = tuple(hits / count if count else None for hits, count in zip(right, total, strict=True))
    return sum(right) / sum(total), classes


def confusion_matrix(predicted: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """(C, C) int64: how many samples of the row's class were taken for the column's.

    Args:
        predicted: (N,) int64 classes.
        label: (N,) int64 classes.
        num_classes: C.

    Raises:
        ConfigError: no samples, or a class out of range.
    """
    check_labels(label, num_classes, "labels")
    check_labels(predicted, num_classes, "predictions")
    pairs = torch.bincount(label * num_classes + predicted, minlength=num_classes**2)
    return pairs.view(num_classes, num_classes)


def top_k_accuracy(scores: Tensor, label: Tensor, k: int) -> float:
    """Share of samples whose class is among the k of highest score; of equal scores the lower class comes first.

    Args:
        scores: (N, C), in any monotone scale.
        label: (N,) int64 classes.
        k: 1..C; 1 gives the accuracy of `scores.argmax(dim=1)`.

    Raises:
        ConfigError: no samples, a label out of range, or more places than classes.
        SkelstreamError: NaN or infinity among the scores.
    """
    num_classes = scores.shape[1]
    check_labels(label, num_classes, "labels")
    _check_finite(scores)
    if not 1 <= k <= num_classes:
        raise ConfigError(f"found top-{k} accuracy, expected 1..{num_classes}, the number of classes")
    own = scores.gather(1, label[:, None])
    earlier = torch.arange(num_classes, device=label.device) < label[:, None]
    ahead = (scores > own) | ((scores == own) & earlier)
    return int((ahead.sum(dim=1) < k).sum()) / len(label)


@dataclass(frozen=True)
class ReliabilityBin:
    """Predictions of like confidence.

    Attributes:
        low: their confidence lies above it...
        high: ...and not above this.
        count: how many there are.
        confidence: mean probability given to the predicted class; None without predictions.
        accuracy: share of right ones; None without predictions.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """How far probabilities can be trusted.

    Attributes:
        expected_error: expected calibration error (Guo et al. 2017, equation 5): |accuracy - confidence| of each bin,
            weighted by its predictions; 0..1.
        negative_log_likelihood: mean, in nats.
        brier: mean squared distance between the probabilities and the one-hot label, summed over the classes (Brier
            1950): 0..2.
        reliability: the bins, from low to high confidence.
    """

    expected_error: float
    negative_log_likelihood: float
    brier: float
    reliability: tuple[ReliabilityBin, ...]


def calibration(logits: Tensor, label: Tensor, bins: int = 15) -> Calibration:
    """Compare what a classifier says of its own certainty with how often it is right.

    Args:
        logits: (N, C), whose softmax are the probabilities; of probabilities hand in the logarithm.
        label: (N,) int64 classes.
        bins: of confidence, equally wide over 0..1; 15 as in Guo et al. 2017.

    Raises:
        ConfigError: no samples, a label out of range, or no bin.
        SkelstreamError: NaN or infinity among the logits.
    """
    check_labels(label, logits.shape[1], "labels")
    _check_finite(logits)
    if bins < 1:
        raise ConfigError(f"found {bins} bins of confidence, expected at least 1")
    # on the CPU, where sums of floats have one order
    logits, label = logits.detach().double().cpu(), label.cpu()
    probability = logits.softmax(dim=1)
    confidence, predicted = probability.max(dim=1)
    table = _reliability(confidence, predicted == label, bins)
    gaps = [
        row.count * abs(row.accuracy - row.confidence)
        for row in table
        if row.accuracy is not None and row.confidence is not None
    ]
    one_hot = F.one_hot(label, logits.shape[1])
    return Calibration(
        expected_error=math.fsum(gaps) / len(label),
        negative_log_likelihood=float(F.cross_entropy(logits, label)),
        brier=float((probability - one_hot).square().sum(dim=1).mean()),
        reliability=table,
    )


def _reliability(confidence: Tensor, right: Tensor, bins: int) -> tuple[ReliabilityBin, ...]:
    edges = torch.arange(bins + 1, dtype=torch.float64) / bins
    # a confidence equal to an edge belongs to the bin below; softmax may exceed 1 by rounding
    number = torch.bucketize(confidence, edges[1:-1])
    rows = []
    for place in range(bins):
        inside = number == place
        count = int(inside.sum())
        means = (float(x[inside].double().mean()) if count else None for x in (confidence, right))
        rows.append(ReliabilityBin(float(edges[place]), float(edges[place + 1]), count, *means))
    return tuple(rows)


def accuracy_by_group(predicted: Tensor, label: Tensor, group: Tensor) -> dict[int, tuple[float, int]]:
    """Accuracy and number of the samples of each group (subject, camera, length, ...), by ascending group.

    Args:
        predicted: (N,) int64 classes.
        label: (N,) int64 classes.
        group: (N,) int64, any numbers; a group without samples does not occur.

    Raises:
        ConfigError: no samples.
    """
    if len(label) == 0:
        raise ConfigError("groups: found no samples, expected at least one")
    names, number = torch.unique(group, return_inverse=True)
    total = torch.bincount(number).tolist()
    right = torch.bincount(number[predicted == label], minlength=len(names)).tolist()
    return {name: (hits / count, count) for name, hits, count in zip(names.tolist(), right, total, strict=True)}


def length_group(length: Tensor, bins: int = 4) -> Tensor:
    """The bin of each length, named by the shortest length in it: groups for `accuracy_by_group`.

    The bins are quantiles: of the N lengths in ascending order, those at the ranks floor(i N / bins) begin a bin. Equal
    lengths share one, so bins need not be equally full, and there are fewer where lengths repeat that much.

    Args:
        length: (N,) int64, frames.
        bins: at most; 4 are quartiles.

    Returns:
        (N,) int64, frames.

    Raises:
        ConfigError: no samples, or no bin.
    """
    if len(length) == 0:
        raise ConfigError("lengths: found no samples, expected at least one")
    if bins < 1:
        raise ConfigError(f"found {bins} bins of length, expected at least 1")
    ranks = torch.arange(bins, device=length.device) * len(length) // bins
    edges: Tensor = torch.unique(length.sort().values[ranks])
    return edges[torch.searchsorted(edges, length, right=True) - 1]


def _check_finite(scores: Tensor) -> None:
    bad = (~scores.isfinite().all(dim=1)).nonzero().squeeze(1).tolist()
    if bad:
        raise SkelstreamError(f"found NaN or infinity in the scores of rows {bad}, expected finite numbers")
