"""The evaluator of PKU-MMD (ECHO960/PKU-MMD): F1, AP, mAP by class and by video, 2DAP.

Ends are exclusive, the measure is intersection / hull (equal to the union where two intervals intersect). Each
detection is assigned to the ground truth of its video and class with the largest tIoU (the last row of equal ones) if
that reaches theta. Several detections may share a ground truth, which counts once; the others are in nobody's favour:
precision = matched ground truths / detections.

Rules where the original says nothing or breaks: F1 without any match is 0.0 (it divides by zero there); detections
with equal scores are taken away in the order given.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.evaluation.detection.events import Events, FloatArray, IntArray, check_evaluable
from models.evaluation.detection.matching import best_matches, by_group, first_claims

THETAS = (0.1, 0.3, 0.5)
"""The thresholds at which figures on PKU-MMD are published."""

# of 2DAP, in the original's own floating-point arithmetic: the third one is a little above 0.15
_ALL_THETAS = tuple((i + 1) * 0.05 for i in range(20))


@dataclass(frozen=True)
class OfficialScores:
    """Scores at one threshold, all between 0 and 1.

    Attributes:
        theta: the threshold of tIoU.
        precision: matched ground truths / detections of all classes and videos; 0 without detections.
        recall: matched ground truths / ground truths.
        f1: of the two; 0 if nothing matches.
        ap: AP over the detections of all classes together.
        mean_ap_action: mAP_action, the published mean: over all classes, of which those without ground truth count 0.
        mean_ap_present: mean over the classes with ground truth alone.
        mean_ap_video: mAP_video: mean over all videos, of which those without ground truth count 0.
        ap_2d: 2DAP, the mean of AP over theta 0.05, 0.10, ..., 1.00; the same at every `theta`.
        per_class: AP of class c at c - 1; None for a class without ground truth.
        per_video: AP of each video in the order given; None for a video without ground truth.
    """

    theta: float
    precision: float
    recall: float
    f1: float
    ap: float
    mean_ap_action: float
    mean_ap_present: float
    mean_ap_video: float
    ap_2d: float
    per_class: tuple[float | None, ...]
    per_video: tuple[float | None, ...]


def official_scores(
    truth: Events, detections: Events, videos: IntArray, num_classes: int = 51, thetas: Sequence[float] = THETAS
) -> tuple[OfficialScores, ...]:
    """Score detections as the authors of PKU-MMD do.

    Args:
        truth: ground truth, ends exclusive.
        detections: ends exclusive.
        videos: (V,) indices of all videos of the split, with or without ground truth or detections.
        num_classes: without the background.
        thetas: thresholds of tIoU.

    Returns:
        The scores at each threshold.

    Raises:
        ConfigError: see `check_evaluable`.
    """
    check_evaluable(truth, detections, videos, num_classes, thetas)
    matches = best_matches(truth, detections, hull_tiou, "last")
    rising = np.argsort(detections.score, kind="stable")
    classes = by_group(detections.label - 1, rising, num_classes)
    class_totals = np.bincount(truth.label - 1, minlength=num_classes).tolist()
    place = np.argsort(videos)
    video_of_detection, video_of_truth = (
        place[np.searchsorted(videos[place], events.video)] for events in (detections, truth)
    )
    in_videos = by_group(video_of_detection, rising, len(videos))
    video_totals = np.bincount(video_of_truth, minlength=len(videos)).tolist()
    ap_2d = float(np.mean([interpolated_ap(matches.at(theta)[rising], len(truth)) for theta in _ALL_THETAS]))

    def score(theta: float) -> OfficialScores:
        assigned = matches.at(theta)
        per_class = _each(assigned, classes, class_totals)
        per_video = _each(assigned, in_videos, video_totals)
        matched = len(first_claims(assigned))
        precision = matched / len(detections) if len(detections) else 0.0
        recall = matched / len(truth)
        return OfficialScores(
            theta=theta,
            precision=precision,
            recall=recall,
            f1=2 * precision * recall / (precision + recall) if matched else 0.0,
            ap=interpolated_ap(assigned[rising], len(truth)),
            mean_ap_action=_sum(per_class) / num_classes,
            mean_ap_present=_sum(per_class) / sum(ap is not None for ap in per_class),
            mean_ap_video=_sum(per_video) / len(videos),
            ap_2d=ap_2d,
            per_class=per_class,
            per_video=per_video,
        )

    return tuple(score(theta) for theta in thetas)


def interpolated_ap(assigned: IntArray, total: int) -> float:
    """AP of one ranking: precision as the best of this and all lower thresholds of the score, over steps of recall.

    The original removes detections from the lowest score on and computes precision and recall anew whenever a matched
    one goes; recall falls when the last detection of a ground truth goes.

    Args:
        assigned: (P,) ground truth of each detection or -1, by rising score.
        total: number of ground truths.
    """
    matched = np.flatnonzero(assigned >= 0)
    if len(matched) == 0:
        return 0.0
    falls = np.zeros(len(assigned), dtype=np.int64)
    # the last to be removed is the first from the top
    falls[len(assigned) - 1 - first_claims(assigned[::-1])] = 1
    falls = falls[matched]
    remaining = falls.sum() - np.cumsum(falls)
    precision = remaining / np.maximum(len(assigned) - 1 - matched, 1)
    best = np.maximum.accumulate(np.maximum(precision, falls.sum() / len(assigned)))
    return float((best * falls).sum() / total)


def hull_tiou(start: IntArray, end: IntArray, other_start: IntArray, other_end: IntArray) -> FloatArray:
    """Intersection / hull with exclusive ends, of pairs (N,); below 0 for intervals apart."""
    hull = np.maximum(end, other_end) - np.minimum(start, other_start)
    tiou: FloatArray = (np.minimum(end, other_end) - np.maximum(start, other_start)) / hull
    return tiou


def _each(assigned: IntArray, groups: Sequence[IntArray], totals: Sequence[int]) -> tuple[float | None, ...]:
    """AP of each group of detections; None for a group without ground truth."""
    return tuple(
        interpolated_ap(assigned[rows], total) if total else None for rows, total in zip(groups, totals, strict=True)
    )


def _sum(scores: Sequence[float | None]) -> float:
    return sum(score for score in scores if score is not None)
