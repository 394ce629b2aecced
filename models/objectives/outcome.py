"""What a step of any objective gives."""

from typing import NamedTuple

from torch import Tensor


class Outcome(NamedTuple):
    """A step as the engine sees it.

    Attributes:
        terms: weighted loss terms, scalars whose sum is the loss.
        metrics: what is watched, detached scalars: "accuracy/<pair>", ... Means over this rank's samples.
        features: (N, F) detached features of this rank's samples, whose spread shows a collapse.
    """

    terms: dict[str, Tensor]
    metrics: dict[str, Tensor]
    features: Tensor
