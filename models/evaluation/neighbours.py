"""Search among features by products of all with all: the nearest rows, and the quality of the whole ranking.

Both metrics are one score: among unit vectors ("cosine") or vectors from a common origin ("euclidean"),
q.g - |g|^2 / 2 = (|q|^2 - d^2) / 2 falls as the distance d grows. It is rounded in proportion to |q|^2 + d^2, because
nothing at the distance d is longer than |q| + d.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.training.precision import products
from shards.errors import ConfigError

Metric = Literal["cosine", "euclidean"]

# bytes held at a time beside the features and one float32 copy of the gallery
_BUDGET = 1 << 28
# bytes of float64 copies of rows: of this size memory is used again, above it the CPU gets fresh pages for each piece,
# which took 1.6 times as long for the float64 scores of a collapsed encoder
_PIECE = 1 << 23
# candidates of the float32 product beside those asked for; more of them leave fewer queries in doubt
_SPARE = 7
# float64 scores that differ by less, in units of (|q|^2 + d^2) / 2, are equal: one row may be rounded in two ways
_TIE = 1e-14


def nearest(gallery: Tensor, query: Tensor, metric: Metric, count: int = 1) -> Tensor:
    """Rows of the gallery nearest to each query, nearest first; of equally near ones the first.

    Products in float32 decide where their rounding cannot change the answer. Otherwise they choose candidates, among
    which float64 decides; and where rounding may have kept a nearer row out of these too (many equal rows, a collapsed
    encoder), float64 decides among all rows.

    Args:
        gallery: (G, D) float32, finite.
        query: (Q, D) float32, finite; moved to the gallery's device piece by piece.
        metric: "cosine" (a zero vector is as far as a right angle) or "euclidean".
        count: rows for each query.

    Returns:
        (Q, count) int64.

    Raises:
        ConfigError: the widths differ, or the gallery has fewer rows.
    """
    if not 1 <= count <= len(gallery):
        raise ConfigError(f"found k = {count} neighbours, expected 1..{len(gallery)}, the samples of the gallery")
    space = _space(gallery, query, metric)
    with products("float32", gallery.device):
        search = _Search(space, gallery, *space.place_single(gallery))
        pieces = list(_chunks(query, 20 * len(gallery) + 24 * gallery.shape[1]))
        # one for all pieces: on the CPU, fresh pages for each cost a sixth of the product
        room = gallery.new_empty(max(map(len, pieces)), len(gallery))
        return torch.cat([search.nearest(part.to(gallery.device), count, room[: len(part)]) for part in pieces])


def average_precision(
    gallery: Tensor, gallery_label: Tensor, query: Tensor, query_label: Tensor, metric: Metric
) -> Tensor:
    """Average precision of the whole gallery ranked by nearness to each query, relevant being its class.

    The mean, over the relevant samples, of the share of relevant ones among all that are at least as near. Equally near
    samples so share the last of their ranks, as in scikit-learn, and the order of the gallery does not matter. All in
    float64, (queries at a time, G) scores within the memory budget.

    Args:
        gallery: (G, D) float32, finite.
        gallery_label: (G,) int64.
        query: (Q, D) float32, finite.
        query_label: (Q,) int64.
        metric: as in `nearest`.

    Returns:
        (Q,) float64 on the gallery's device; NaN where no gallery sample is of the query's class.

    Raises:
        ConfigError: the widths differ.
    """
    space = _space(gallery, query, metric)
    result = gallery.new_full((len(query),), math.nan, dtype=torch.float64)
    # by class, because the relevant columns are then the same for many rows of scores
    for chosen in _chunks(query_label.argsort(stable=True), 24 * len(gallery)):
        placed, half = space.place(query[chosen].to(gallery.device))
        score = _scores(space, placed, gallery)
        sizes = torch.bincount(query_label[chosen]).tolist()
        parts = zip(*(torch.split(x, sizes) for x in (chosen, score, 2 * half[:, None])), strict=True)
        for number, (rows, own_score, square) in enumerate(parts):
            relevant = (gallery_label == number).nonzero().squeeze(1)
            if len(rows) and len(relevant):
                result[rows.to(result.device)] = _average_precision(own_score, square, relevant)
    return result


@dataclass(frozen=True)
class _Space:
    """Where a metric puts vectors, so that nearness is the score of this file."""

    metric: Metric
    # both of no use to "cosine"
    origin: Tensor  # (D,) float64
    scale: float  # a power of two: no coordinate is then above 2, and no product beyond float32

    def place(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """(..., D) -> the same in float64, and half the squares of their lengths (...)."""
        if self.metric == "cosine":
            placed = F.normalize(values.double(), dim=-1, eps=1e-300)
            # also for a zero vector, which is then as far as a right angle
            return placed, placed.new_full(placed.shape[:-1], 0.5)
        # with the origin in the middle the terms are small and cancel little
        placed = (values.double() - self.origin) * self.scale
        return placed, placed.square().sum(dim=-1) / 2

    def place_single(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """`place` rounded to float32, by pieces."""
        placed, half = torch.empty_like(values), values.new_empty(len(values))
        pieces = (_chunks(x, 24 * values.shape[1], _PIECE) for x in (values, placed, half))
        for part, own, own_half in zip(*pieces, strict=True):
            for target, exact in zip((own, own_half), self.place(part), strict=True):
                target.copy_(exact)
        return placed, half


def _space(gallery: Tensor, query: Tensor, metric: Metric) -> _Space:
    if gallery.shape[1] != query.shape[1]:
        raise ConfigError(
            f"found features {query.shape[1]} wide in the query, expected {gallery.shape[1]} as in the gallery"
        )
    if metric == "cosine":
        return _Space(metric, gallery.new_zeros(()), 1.0)
    # a float32 sum of all rows could overflow
    sums = [part.double().sum(dim=0) for part in _chunks(gallery, 24 * gallery.shape[1])]
    origin = torch.stack(sums).sum(dim=0) / len(gallery)
    largest = max(
        float(x.abs().amax()) for side in (gallery, query) for x in _chunks(side, 8 * side.shape[1]) if len(x)
    )
    return _Space(metric, origin, 2.0 ** -math.frexp(largest)[1])


@dataclass(frozen=True)
class _Search:
    """A gallery made ready: `placed` (G, D) and `half` (G,) are `_Space.place` of it in float32."""

    space: _Space
    gallery: Tensor
    placed: Tensor
    half: Tensor

    def nearest(self, query: Tensor, count: int, room: Tensor) -> Tensor:
        """(N, D) -> (N, count) rows; float32 scores are written to `room` (N, G)."""
        placed, half = self.space.place(query)
        square = 2 * half[:, None]
        rough = torch.addmm(-self.half, placed.float(), self.placed.T, out=room)
        top = rough.topk(min(count + _SPARE, len(self.gallery)), dim=1)
        rows = top.indices[:, :count]
        doubt = ~self._apart(top.values[:, : count + 1], square)
        if doubt.any():
            placed, square, candidates, worst = (x[doubt] for x in (placed, square, top.indices, top.values[:, -1:]))
            rows[doubt] = self._decided(placed, square, candidates, worst, count)
        return rows

    def _apart(self, score: Tensor, square: Tensor) -> Tensor:
        """(N,) whether scores (N, M), highest first, lie so far apart that without rounding they had the same order."""
        error = self._rounding(square - score)
        return (score[:, :-1] - score[:, 1:] > error[:, :-1] + error[:, 1:]).all(dim=1)

    def _decided(self, placed: Tensor, square: Tensor, candidates: Tensor, worst: Tensor, count: int) -> Tensor:
        """(N, count) rows by float64 scores of candidates (N, M), of which `worst` (N, 1) is the lowest float32 score.

        Where others may be nearer, by those of all rows.
        """
        candidates = candidates.sort(dim=1).values
        column, last = _first_best(self._scores_of(candidates, placed), square, count)
        rows = candidates.gather(1, column)
        if candidates.shape[1] < len(self.gallery):
            doubt = (worst >= last - self._rounding(square - last)).squeeze(1)
            if doubt.any():
                score = _scores(self.space, placed[doubt], self.gallery)
                rows[doubt] = _first_best(score, square[doubt], count)[0]
        return rows

    def _scores_of(self, rows: Tensor, placed: Tensor) -> Tensor:
        """(N, M) float64 scores of placed queries (N, D) with `rows` (N, M) of the gallery."""
        parts = []
        pieces = (_chunks(x, 24 * rows.shape[1] * placed.shape[1], _PIECE) for x in (rows, placed))
        for part, own in zip(*pieces, strict=True):
            others, half = self.space.place(self.gallery[part])
            parts.append(torch.bmm(others, own[:, :, None]).squeeze(2) - half)
        return torch.cat(parts)

    def _rounding(self, size: Tensor) -> Tensor:
        """Error of a float32 score where (|q|^2 + d^2) / 2 is `size`: of its inputs, its sum, and terms flushed to 0.

        That of the sum is the bound of Higham & Mary 2019, which grows with the root of the width, at lambda = 8.
        """
        width = self.gallery.shape[1]
        return (8 * math.sqrt(width) + 16) * 2**-24 * size + width * torch.finfo(torch.float32).tiny


def _first_best(score: Tensor, square: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(N, count) columns of the highest scores, best first, of equal ones the first; and the last one's score (N, 1).

    Writes into `score` (N, M). `square` (N, 1) is |q|^2.
    """
    columns = []
    for _ in range(count):
        best = score.amax(dim=1, keepdim=True)
        column = (score >= _threshold(best, square)).int().argmax(dim=1, keepdim=True)
        last = score.gather(1, column)
        columns.append(column)
        score.scatter_(1, column, -math.inf)
    return torch.cat(columns, dim=1), last


def _threshold(score: Tensor, square: Tensor) -> Tensor:
    """The lowest score that counts as equal."""
    return score - _TIE * (square - score)


def _scores(space: _Space, placed: Tensor, gallery: Tensor) -> Tensor:
    """(N, G) float64 scores of placed queries (N, D) with the whole gallery, of which a piece is float64 at a time."""
    score = placed.new_empty(len(placed), len(gallery))
    first = 0
    for part in _chunks(gallery, 24 * gallery.shape[1], _PIECE):
        others, half = space.place(part)
        score[:, first : first + len(part)] = torch.addmm(-half, placed, others.T)
        first += len(part)
    return score


def _average_precision(score: Tensor, square: Tensor, relevant: Tensor) -> Tensor:
    """(N,) from scores (N, G), of which the columns `relevant` (P,) are right."""
    threshold = _threshold(score[:, relevant], square).sort(dim=1).values
    # sorting the relevant scores alone and looking all others up is log P a score, and sorting all would be log G
    reached = torch.searchsorted(threshold, score, right=True, out_int32=True)
    right, total = (_at_least(x, len(relevant)) for x in (reached[:, relevant], reached))
    return (right.double() / total).mean(dim=1)


def _at_least(reached: Tensor, limit: int) -> Tensor:
    """(N, M) numbers 0..limit -> (N, limit): how many in a row are at least 1, 2, ..., limit."""
    offset = (limit + 1) * torch.arange(len(reached), dtype=reached.dtype, device=reached.device)
    counts = torch.bincount((reached + offset[:, None]).flatten(), minlength=len(reached) * (limit + 1))
    return counts.view(len(reached), limit + 1).flip(1).cumsum(dim=1).flip(1)[:, 1:]


def _chunks(values: Tensor, bytes_each: int, budget: int | None = None) -> Iterator[Tensor]:
    """The rows in pieces for which `budget` (`_BUDGET` without one) suffices, at `bytes_each` for a row."""
    return iter(torch.split(values, max(1, (budget or _BUDGET) // bytes_each)))
