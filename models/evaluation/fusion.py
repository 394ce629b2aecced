"""Late fusion of the joint, bone and motion streams: the weighted sum of their class scores (JHang2020/HiCLR).

What is summed are the outputs of the linear layers as they are, before any softmax: so do the ensemble scripts of
JHang2020/HiCLR, and maoyunyao/CMD, which takes the mean of the three.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.evaluation.features import Features
from models.evaluation.metrics import accuracies, check_labels
from shards.errors import ConfigError

STREAMS = ("joint", "bone", "motion")
WEIGHTS = (0.6, 0.6, 0.4)
"""Of the streams, as published."""

# of many sample ids, so many are named
_NAMED = 5


@dataclass(frozen=True)
class FusionResult:
    """Accuracies on the test split; `per_class` ones are None for a class without test samples.

    Attributes:
        weighted: of the sum by `WEIGHTS`.
        weighted_per_class: see `weighted`.
        equal: of the plain sum.
        equal_per_class: see `equal`.
        alone: of each stream by itself.
    """

    weighted: float
    weighted_per_class: tuple[float | None, ...]
    equal: float
    equal_per_class: tuple[float | None, ...]
    alone: dict[str, float]


def fuse(streams: Mapping[str, Features], num_classes: int) -> FusionResult:
    """Fuse the class scores of three streams, aligned by sample id.

    Args:
        streams: by `STREAMS`: class scores (N, C) before any softmax, as values of `Features`; rows in any order.
        num_classes: C.

    Raises:
        ConfigError: a stream is missing or unknown, scores are not C wide or not finite, a sample is there twice or
            only in some streams, or its label is not the same in all.
    """
    if set(streams) != set(STREAMS):
        raise ConfigError(
            f"fusion: found streams {', '.join(sorted(streams)) or 'none'}, expected {', '.join(STREAMS)}"
        )
    aligned = [_by_sample(name, streams[name], num_classes) for name in STREAMS]
    first = aligned[0]
    for name, other in zip(STREAMS[1:], aligned[1:], strict=True):
        _check_same(name, other, first)
    scores = [stream.values for stream in aligned]
    weighted = accuracies(_fused(scores, WEIGHTS), first.label, num_classes)
    equal = accuracies(_fused(scores, (1.0, 1.0, 1.0)), first.label, num_classes)
    alone = {
        name: accuracies(stream.values.argmax(dim=1), first.label, num_classes)[0]
        for name, stream in zip(STREAMS, aligned, strict=True)
    }
    return FusionResult(*weighted, *equal, alone)


def _fused(scores: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """(N,) classes of the highest weighted sums."""
    total = torch.stack([weight * score for weight, score in zip(weights, scores, strict=True)]).sum(dim=0)
    return total.argmax(dim=1)


def _by_sample(name: str, scores: Features, num_classes: int) -> Features:
    """In the order of the sample ids; on the CPU in float64, so that neither order nor device decides a near tie."""
    if scores.values.dim() != 2 or scores.values.shape[1] != num_classes:
        raise ConfigError(
            f"fusion, {name}: found scores of shape {tuple(scores.values.shape)}, expected (N, {num_classes})"
        )
    check_labels(scores.label, num_classes, f"fusion, {name}")
    order = scores.sample_id.cpu().argsort()
    values, label, ids = (column.cpu()[order] for column in (scores.values, scores.label, scores.sample_id))
    twice = ids[1:][ids[1:] == ids[:-1]]
    if len(twice):
        raise ConfigError(f"fusion, {name}: found samples {_listed(twice)} more than once, expected each once")
    bad = ids[~values.isfinite().all(dim=1)]
    if len(bad):
        raise ConfigError(f"fusion, {name}: found NaN or infinity in samples {_listed(bad)}, expected finite scores")
    return Features(values.double(), label, ids)


def _check_same(name: str, other: Features, first: Features) -> None:
    for lacks, has, ids in [
        (name, STREAMS[0], first.sample_id[~torch.isin(first.sample_id, other.sample_id)]),
        (STREAMS[0], name, other.sample_id[~torch.isin(other.sample_id, first.sample_id)]),
    ]:
        if len(ids):
            raise ConfigError(
                f"fusion, {lacks}: found no scores of samples {_listed(ids)}, which {has} has,"
                " expected the same samples in every stream"
            )
    other_label = first.sample_id[other.label != first.label]
    if len(other_label):
        raise ConfigError(
            f"fusion, {name}: found other labels than {STREAMS[0]} has for samples {_listed(other_label)},"
            " expected one label a sample"
        )


def _listed(ids: Tensor) -> str:
    shown = ", ".join(str(number) for number in ids[:_NAMED].tolist())
    return shown if len(ids) <= _NAMED else f"{shown} and {len(ids) - _NAMED} more"
