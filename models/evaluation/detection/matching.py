"""The ground truth that each detection overlaps most, which is all that either evaluator asks of the intervals.

It does not depend on the threshold: the best of those at or above a threshold is the best of all, if that one is.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from models.evaluation.detection.events import Events, FloatArray, IntArray

Overlap = Callable[[IntArray, IntArray, IntArray, IntArray], FloatArray]
"""(start, end, start, end) of pairs of intervals, each (N,) -> (N,) overlap; above 0 only where they intersect."""

# pairs of a detection and a ground truth held at a time: 32 MiB an array
_BUDGET = 1 << 22


@dataclass(frozen=True, eq=False)
class Matches:
    """For each of P detections its best ground truth.

    Attributes:
        truth: (P,) row of the ground truth with the largest overlap among those of the same video and class; -1 where
            there is none.
        overlap: (P,) with it; 0 where there is none.
    """

    truth: IntArray
    overlap: FloatArray

    def at(self, tiou: float) -> IntArray:
        """(P,) row of the ground truth assigned to each detection, -1 where the overlap is below `tiou`."""
        return np.where(self.overlap >= tiou, self.truth, -1)


def best_matches(truth: Events, detections: Events, overlap: Overlap, ties: Literal["first", "last"]) -> Matches:
    """Find the ground truth of the same video and class that each detection overlaps most.

    Args:
        truth: G ground truths.
        detections: P detections.
        overlap: measure of the pairs.
        ties: which row of equally overlapping ground truths is taken.
    """
    best = np.full(len(detections), -1, dtype=np.int64)
    value = np.zeros(len(detections))
    for rows, candidates in _pairs(truth, detections):
        pair = overlap(detections.start[rows], detections.end[rows], truth.start[candidates], truth.end[candidates])
        first = np.flatnonzero(np.diff(rows, prepend=-1))
        value[rows[first]] = np.maximum.reduceat(pair, first)
        winners = np.flatnonzero(pair == value[rows])
        # an assignment to repeated rows leaves the last value
        winners = winners[::-1] if ties == "first" else winners
        best[rows[winners]] = candidates[winners]
    return Matches(best, value)


def first_claims(assigned: IntArray) -> IntArray:
    """(M,) ascending positions of the detections that are the first for their ground truth.

    Args:
        assigned: (P,) ground truth of each detection or -1, in the order in which they claim.
    """
    matched = np.flatnonzero(assigned >= 0)
    _, first = np.unique(assigned[matched], return_index=True)
    return np.sort(matched[first])


def by_group(group: IntArray, order: IntArray, count: int) -> list[IntArray]:
    """The positions in `order`, kept in this order, of each group 0..count-1.

    Args:
        group: (K,) group of each row.
        order: (K,) rows in the order wanted.
        count: of groups.
    """
    together = order[np.argsort(group[order], kind="stable")]
    return np.split(together, np.searchsorted(group[together], np.arange(1, count)))


def _pairs(truth: Events, detections: Events) -> Iterator[tuple[IntArray, IntArray]]:
    """Rows of detections (ascending) and of the ground truths of their video and class (ascending in each)."""
    labels = 1 + max(truth.label.max(initial=0), detections.label.max(initial=0))
    key = truth.video * labels + truth.label
    order = np.argsort(key, kind="stable")
    wanted = detections.video * labels + detections.label
    left = np.searchsorted(key[order], wanted, side="left")
    count = np.searchsorted(key[order], wanted, side="right") - left
    total = np.cumsum(count)
    begin = 0
    while begin < len(detections):
        before = total[begin] - count[begin]
        stop = max(begin + 1, int(np.searchsorted(total, before + _BUDGET, side="right")))
        rows = np.repeat(np.arange(begin, stop), count[begin:stop])
        if len(rows):
            within = np.arange(len(rows)) + before - (total - count)[rows]
            yield rows, order[left[rows] + within]
        begin = stop
