"""The nearest training samples of test samples, as the retrieval task ranks them (cosine)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F

from flows.pages.report.features import features_of
from flows.tasks.bench import Bench, Subject
from models.evaluation.features import Features
from models.evaluation.neighbours import nearest

COUNT = 5
"""Neighbours of a query."""

GALLERY = 1000
"""Training samples that are searched where no features are kept: encoding a whole side may take hours on a CPU."""

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Nearest:
    """Training samples near to each of n test samples, nearest first.

    Attributes:
        query: (n,) ids of the test samples, in stored order; `label` (n,) theirs.
        ids, labels: (n, k) of the training samples.
        similarity: (n, k) cosines.
        searched: training samples that were compared, of `total`.
    """

    query: Ids
    label: Ids
    ids: Ids
    labels: Ids
    similarity: npt.NDArray[np.float64]
    searched: int
    total: int

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """(n,) whether the nearest one has the query's class."""
        right: npt.NDArray[np.bool_] = self.labels[:, 0] == self.label
        return right

    def of(self, query: int) -> list[list[float | int]]:
        """Id and similarity of each neighbour of a query."""
        (row,) = np.flatnonzero(self.query == query)
        return [[int(i), round(float(s), 3)] for i, s in zip(self.ids[row], self.similarity[row], strict=True)]


def find_nearest(bench: Bench, subject: Subject, query: Features, seed: int) -> Nearest | None:
    """The neighbours of test samples.

    Of the trained encoder among all training samples where their features are kept, else among `GALLERY` that the seed
    draws; of others only where they are kept.

    Args:
        bench: the run.
        subject: whose features.
        query: (n, D) of the test samples.
        seed: of the draw.
    """
    gallery = bench.kept("train", subject)
    total = len(bench.benchmark.facts("train"))
    if gallery is None:
        if subject != "trained":
            return None
        gallery = features_of(bench, "train", subject, drawn(bench.benchmark.facts("train").sample_id, GALLERY, seed))
    rows = nearest(gallery.values, query.values, "cosine", min(COUNT, len(gallery)))
    near, own = (F.normalize(x.double(), dim=-1) for x in (gallery.values[rows], query.values))
    return Nearest(
        query=query.sample_id.numpy(),
        label=query.label.numpy(),
        ids=gallery.sample_id[rows].numpy(),
        labels=gallery.label[rows].numpy(),
        similarity=(near * own[:, None]).sum(dim=-1).numpy(),
        searched=len(gallery),
        total=total,
    )


def drawn(ids: Ids, count: int, seed: int) -> Ids:
    """At most `count` of the ids, as the seed draws them, rising."""
    chosen: Ids = np.sort(np.random.default_rng(seed).permutation(np.sort(ids))[:count])
    return chosen


def pick_queries(found: Nearest, count: int, seed: int) -> list[dict[str, Any]]:
    """Queries to look at: half of them drawn at random, of different classes as far as there are, the others among
    those whose nearest neighbour is of another class; where these are too few, more at random.

    Returns:
        "id", and "drawn": "at random" or "among the mistakes".
    """
    order = np.random.default_rng([seed, 1]).permutation(len(found.query))
    classes = found.label[order]
    # the first of each class, then the second of each, ...
    turn = [int((classes[:place] == label).sum()) for place, label in enumerate(classes)]
    by_turn = order[np.argsort(turn, kind="stable")].tolist()
    mistakes = [row for row in order.tolist() if not found.right[row]]
    first = by_turn[: count - count // 2]
    wrong = [row for row in mistakes if row not in first][: count // 2]
    more = [row for row in by_turn if row not in first + wrong][: count - len(first) - len(wrong)]
    rows = [(row, "at random") for row in first + more] + [(row, "among the mistakes") for row in wrong]
    return [{"id": int(found.query[row]), "drawn": how} for row, how in rows]
