"""When a loss is no longer to be trusted: not a number, or far above what it was."""

import math
from collections.abc import Sequence
from statistics import median

from shards.errors import SkelstreamError

HISTORY = 100
"""Steps whose median says what the loss was."""

LEAST = 20
"""Steps that a median needs to say anything, after a start or a resume."""

Row = Sequence[float]
"""What a step gave: a value for each name."""


class DivergenceError(SkelstreamError):
    """The loss is no longer a finite number, or has exploded."""


def find_fault(
    names: Sequence[str],
    loss_places: Sequence[int],
    ranks: Sequence[Row],
    mean: Row,
    before: Sequence[Row],
    explosion: float,
) -> tuple[int, str] | None:
    """What is wrong with a step, as text, and the rank where it is; None if nothing is.

    Args:
        names: (K), of the values.
        loss_places: places of the values whose sum is the loss.
        ranks: (ranks, K).
        mean: (K), of the ranks; not finite where one of them is not.
        before: (S, K), means of the last steps.
        explosion: see `loss_limit`.
    """
    if any(not math.isfinite(value) for value in mean):
        culprit, place = next(
            (number, place)
            for place in range(len(names))
            for number, row in enumerate(ranks)
            if not math.isfinite(row[place])
        )
        terms = _listed(names, loss_places, ranks[culprit])
        return culprit, f"found {names[place]} {ranks[culprit][place]}, the loss terms {terms}, expected finite numbers"
    losses = [_loss(row, loss_places) for row in before]
    loss, limit = _loss(mean, loss_places), loss_limit(losses, explosion)
    if loss <= limit:
        return None
    usual = {place: median(row[place] for row in before) for place in loss_places}
    worst = max(loss_places, key=lambda place: mean[place] - usual[place])
    of_ranks = [_loss(row, loss_places) for row in ranks]
    return of_ranks.index(max(of_ranks)), (
        f"found the loss {loss:.6g} of the terms {_listed(names, loss_places, mean)}, expected at most {limit:.6g} "
        f"after a median of {median(losses):.6g} in {len(losses)} steps (explosion {explosion:g}); "
        f"most has risen {names[worst]}, from a median of {usual[worst]:.6g}"
    )


def loss_limit(before: Sequence[float], factor: float) -> float:
    """The loss above which a step has exploded: `factor` times the median of the losses before it.

    A loss near zero or below has no scale of its own, so a median m of a size below 1 counts as 1, and what counts is
    the rise: the limit is m + (factor - 1) * max(|m|, 1). From a median of 1 on this is factor * m.

    Args:
        before: losses of the last steps; with fewer than `LEAST` there is no limit.
        factor: above 1; 0 for no limit.
    """
    if not factor or len(before) < LEAST:
        return math.inf
    usual = median(before)
    return usual + (factor - 1) * max(abs(usual), 1)


def _loss(row: Row, places: Sequence[int]) -> float:
    return math.fsum(row[place] for place in places)


def _listed(names: Sequence[str], places: Sequence[int], row: Row) -> str:
    return ", ".join(f"{names[place]} {row[place]:.6g}" for place in places)
