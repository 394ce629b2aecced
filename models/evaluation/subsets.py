"""Parts of a training split: label fractions for semi-supervised training, and validation subjects.

maoyunyao/CMD and maoyunyao/MAMP shuffle the split and keep the first floor(fraction * N) samples, whatever their
classes (`stratified` False); JHang2020/HiCLR keeps round(fraction * N_c) of each class c, half to even (`stratified`
True; here at least one, where that would be none). Their draws come from global generators and cannot be repeated, so
here they depend on a seed and on the sample ids alone, and are written out.
"""

import json
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from shards.errors import ConfigError
from shards.files import write_atomic
from shards.frozen import Frozen
from shards.schema import UNKNOWN

FRACTIONS = (0.01, 0.05, 0.1, 0.2)

Numbers = npt.NDArray[np.int64]
Natural = Annotated[int, Field(ge=0, strict=True)]


class Subset(Frozen):
    """The labelled samples of one draw.

    Attributes:
        fraction: of the labels.
        stratified: whether of each class.
        seed: of the draw.
        samples: N of the split it is drawn from.
        sample_id: those drawn, ascending.
        key: name of each, where names were given.
        missing_classes: classes of the data set of which nothing was drawn; when stratified those that the split lacks.
    """

    fraction: float = Field(gt=0, le=1)
    stratified: bool
    seed: Natural
    samples: Natural
    sample_id: tuple[Natural, ...] = Field(min_length=1)
    key: tuple[str, ...] | None = None
    missing_classes: tuple[Natural, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        found = len(self.sample_id)
        for name, numbers in [("sample_id", self.sample_id), ("missing_classes", self.missing_classes)]:
            if any(a >= b for a, b in pairwise(numbers)):
                raise ValueError(f"found {name} out of order or twice, expected them to ascend")
        if found > self.samples or (not self.stratified and found != _share(self.fraction, self.samples)):
            raise ValueError(f"found {found} sample ids, which are not {self.fraction} of {self.samples} samples")
        if self.key is not None and len(self.key) != found:
            raise ValueError(f"found {len(self.key)} keys, expected one for each of {found} sample ids")
        return self


class SubsetLists(Frozen):
    """What a file of subsets holds: the draws from the training split of one protocol."""

    version: Literal[1] = 1
    dataset: str
    protocol: str
    subsets: tuple[Subset, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len({(subset.fraction, subset.stratified, subset.seed) for subset in self.subsets}) < len(self.subsets):
            raise ValueError("found a draw twice, expected each fraction, stratification and seed once")
        return self


def draw_subset(
    label: Numbers,
    sample_id: Numbers,
    num_classes: int,
    fraction: float,
    *,
    stratified: bool,
    seed: int,
    key: Sequence[str] | None = None,
) -> Subset:
    """Draw a fraction of a training split; see the module for both rules.

    A pure function of the seed and of the set of samples, not of their order. A larger fraction by the same rule and
    seed contains a smaller one.

    Args:
        label: (N,) classes of the split.
        sample_id: (N,).
        num_classes: of the data set.
        fraction: above 0, at most 1.
        stratified: draw it of each class.
        seed: of the draw.
        key: (N,) names of the samples, to be written out.

    Raises:
        ConfigError: fraction or seed out of range, columns of unequal length, a sample id twice, a label out of range,
            or nothing left to draw.
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"label fraction: found {fraction}, expected one above 0 and at most 1")
    order = _sorted_rows(sample_id, label, "labels")
    if key is not None and len(key) != len(order):
        raise ConfigError(f"found {len(key)} keys, expected one for each of {len(order)} samples")
    label, sample_id = label[order], sample_id[order]
    low, high = label.min(), label.max()
    if low < 0 or high >= num_classes:
        raise ConfigError(f"found labels {low}..{high}, expected them in 0..{num_classes - 1}")
    drawn = _shuffled(len(label), seed)
    if stratified:
        of_class = (drawn[label[drawn] == number] for number in range(num_classes))
        rows = np.concatenate([part[: max(1, round(_exact(fraction) * len(part)))] for part in of_class])
    else:
        rows = drawn[: _share(fraction, len(label))]
    if not len(rows):
        raise ConfigError(f"label fraction: found {fraction} of {len(label)} samples, which is none, expected one")
    rows.sort()
    missing = np.setdiff1d(np.arange(num_classes), label[rows])
    return Subset(
        fraction=fraction,
        stratified=stratified,
        seed=seed,
        samples=len(label),
        sample_id=tuple(sample_id[rows].tolist()),
        key=None if key is None else tuple(key[row] for row in order[rows]),
        missing_classes=tuple(missing.tolist()),
    )


def split_by_subject(subject: Numbers, sample_id: Numbers, fraction: float, *, seed: int) -> tuple[Numbers, Numbers]:
    """Sample ids to train on and to validate on, each ascending, of different people.

    A pure function of the seed and of the set of samples, not of their order.

    Args:
        subject: (N,) who acts.
        sample_id: (N,).
        fraction: of the subjects that validate, rounded; at least one does, and one is left to train on.
        seed: of the draw of subjects.

    Raises:
        ConfigError: fraction or seed out of range, columns of unequal length, a sample id twice, a subject unknown, or
            only one subject.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"validation fraction: found {fraction}, expected one above 0 and below 1")
    order = _sorted_rows(sample_id, subject, "subjects")
    subject, sample_id = subject[order], sample_id[order]
    unknown = int((subject == UNKNOWN).sum())
    if unknown:
        raise ConfigError(
            f"validation by subject: found {unknown} of {len(subject)} samples of unknown subject, expected none"
        )
    people = np.unique(subject)
    if len(people) < 2:
        raise ConfigError(f"validation by subject: found {len(people)} subject, expected at least two")
    count = min(max(1, round(_exact(fraction) * len(people))), len(people) - 1)
    validates = np.isin(subject, people[_shuffled(len(people), seed)[:count]])
    return sample_id[~validates], sample_id[validates]


def write_subsets(path: Path, lists: SubsetLists) -> None:
    """Write draws as JSON, whole or not at all; equal draws give equal bytes."""
    tree = lists.model_dump(mode="json")
    write_atomic(path, (json.dumps(tree, sort_keys=True, allow_nan=False) + "\n").encode())


def _exact(fraction: float) -> Fraction:
    """The decimal that is meant: 0.29 of 100 is 29, which floats round down to 28."""
    return Fraction(str(fraction))


def _share(fraction: float, count: int) -> int:
    return int(_exact(fraction) * count)


def _shuffled(count: int, seed: int) -> Numbers:
    """0..count-1 in random order, by raw output of PCG64: the part that numpy promises to keep in future versions."""
    if seed < 0:
        raise ConfigError(f"seed: found {seed}, expected 0 or more")
    return np.asarray(np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable"), dtype=np.int64)


def _sorted_rows(sample_id: Numbers, column: Numbers, name: str) -> Numbers:
    """Rows in the order of their sample ids."""
    if sample_id.shape != column.shape or sample_id.ndim != 1:
        raise ConfigError(
            f"found {name} of shape {column.shape} and sample ids of shape {sample_id.shape}, expected both (N,)"
        )
    if not len(sample_id):
        raise ConfigError("found no samples, expected at least one")
    order = np.argsort(sample_id, kind="stable")
    ids = sample_id[order]
    twice = ids[1:][ids[1:] == ids[:-1]]
    if len(twice):
        raise ConfigError(f"found sample {twice[0]} more than once, expected each once")
    if ids[0] < 0:
        raise ConfigError(f"found sample id {ids[0]}, expected 0 or more")
    return order
