"""The evaluator of JHang2020/Simple-Skeleton-Detection: mAP as in PASCAL VOC, all points.

The numbers of exclusive ends go into lengths of end - start + 1, as if they were inclusive (see `events`). By falling
score each detection takes the ground truth of its video and class with the largest tIoU (the first row of equal ones);
it is true if that reaches the threshold and no detection took it before, and false otherwise: there is no second
choice. Detections of classes without ground truth are ignored; a class without detections has AP 0.

Rules where the original says nothing: detections with equal scores come in the order given. It computes AP in float32,
here it is float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.evaluation.detection.events import Events, FloatArray, IntArray, check_evaluable
from models.evaluation.detection.matching import best_matches, by_group, first_claims
from models.evaluation.detection.official import official_scores

TIOUS = (0.1, 0.3, 0.5)
"""The thresholds at which figures are published."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Precision and recall of one class after each of its detections, by falling score: (N,) each."""

    recall: FloatArray
    precision: FloatArray


@dataclass(frozen=True)
class APScores:
    """Scores at one threshold, all between 0 and 1.

    Attributes:
        tiou: the threshold.
        mean_ap: mAP: mean over the classes with ground truth.
        mean_ap_video: mAP by video; the original takes it from the evaluator of PKU-MMD (`official`), with its tIoU.
        per_class: AP of class c at c - 1; None for a class without ground truth.
    """

    tiou: float
    mean_ap: float
    mean_ap_video: float
    per_class: tuple[float | None, ...]


def ap_scores(
    truth: Events, detections: Events, videos: IntArray, num_classes: int = 51, tious: Sequence[float] = TIOUS
) -> tuple[APScores, ...]:
    """Score detections as JHang2020/Simple-Skeleton-Detection does.

    Args:
        truth: ground truth, ends exclusive.
        detections: ends exclusive.
        videos: (V,) indices of all videos of the split, with or without ground truth or detections.
        num_classes: without the background.
        tious: thresholds.

    Returns:
        The scores at each threshold.

    Raises:
        ConfigError: see `check_evaluable`.
    """
    curves = precision_recall(truth, detections, videos, num_classes, tious)
    by_video = official_scores(truth, detections, videos, num_classes, tious)
    scores = []
    for tiou, of_classes, official in zip(tious, curves, by_video, strict=True):
        per_class = tuple(None if curve is None else all_point_ap(curve) for curve in of_classes)
        mean = float(np.mean([ap for ap in per_class if ap is not None]))
        scores.append(APScores(tiou, mean, official.mean_ap_video, per_class))
    return tuple(scores)


def precision_recall(
    truth: Events, detections: Events, videos: IntArray, num_classes: int = 51, tious: Sequence[float] = TIOUS
) -> tuple[tuple[Curve | None, ...], ...]:
    """The curves behind `ap_scores`, of the same arguments.

    Returns:
        For each threshold the curve of class c at c - 1; None for a class without ground truth.
    """
    check_evaluable(truth, detections, videos, num_classes, tious)
    matches = best_matches(truth, detections, inclusive_tiou, "first")
    falling = np.argsort(-detections.score, kind="stable")
    groups = by_group(detections.label - 1, falling, num_classes)
    totals = np.bincount(truth.label - 1, minlength=num_classes).tolist()
    assigned = (matches.at(tiou) for tiou in tious)
    return tuple(
        tuple(_curve(rows[group], total) if total else None for group, total in zip(groups, totals, strict=True))
        for rows in assigned
    )


def all_point_ap(curve: Curve) -> float:
    """Area under the curve, precision made non-increasing from the right; 0 without detections."""
    recall = np.concatenate(([0.0], curve.recall, [1.0]))
    precision = np.concatenate((curve.precision, [0.0]))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall) * envelope).sum())


def inclusive_tiou(start: IntArray, end: IntArray, other_start: IntArray, other_end: IntArray) -> FloatArray:
    """Intersection / union with both ends counted in, of pairs (N,); 0 for intervals apart."""
    shared = np.maximum(np.minimum(end, other_end) - np.maximum(start, other_start) + 1, 0)
    tiou: FloatArray = shared / (end - start + 1 + other_end - other_start + 1 - shared)
    return tiou


def _curve(assigned: IntArray, total: int) -> Curve:
    """Curve of one class: (N,) ground truth of each detection or -1, by falling score; number of ground truths."""
    hit = np.zeros(len(assigned), dtype=np.int64)
    hit[first_claims(assigned)] = 1
    hits = np.cumsum(hit)
    return Curve(hits / total, hits / np.arange(1, len(assigned) + 1))
