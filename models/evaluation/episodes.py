"""Episodes of few-shot classification: drawn once, named by sample ids, kept in a file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from shards.errors import ConfigError
from shards.files import atomic_path
from shards.frozen import Frozen

Count = Annotated[int, Field(ge=1)]
Ids = NDArray[np.int64]

OFFICIAL_CLASSES: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "ntu120": (
            *(60, 61, 66, 69, 72, 78, 79, 80, 84, 90, 91, 95),
            *(96, 98, 99, 100, 102, 106, 108, 111, 113, 114, 115),
        )
    }
)
"""Data set -> the novel classes (from 0) that episodes are drawn from.

NTU 120: those that PCM3++ lists (arXiv 2406.02978). Its text speaks of 20 classes and its list has 23: it is the list
that holds. None of them is in NTU 60.
"""


class EpisodeConfig(Frozen):
    """Which episodes are drawn; the defaults are the published ones.

    Attributes:
        ways: classes of an episode.
        shots: labelled samples a class, for each evaluation. The draws are nested: k shots are the first k of the
            largest number, with the same queries, so that the evaluations of an episode differ in nothing else.
        queries: samples of each class to be classified.
        episodes: how many.
        seed: of the draws.
        classes: drawn from (from 0). None: the official ones of the data set, or all where there are none.
        pool: which samples of these classes may be drawn, for the caller that gathers features. "test": the test side
            of the protocol, of which pre-training on the training side has seen nothing, not even without labels.
            "all": both sides. The paper names a protocol (NTU 120 cross-setup) but no side; a number must name both.
    """

    ways: int = Field(5, ge=2)
    shots: tuple[Count, ...] = Field((1, 5), min_length=1)
    queries: Count = 15
    # of one episode there is no interval
    episodes: int = Field(3000, ge=2, le=1_000_000)
    seed: int = Field(0, ge=0)
    classes: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    pool: Literal["test", "all"] = "test"

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for name, values in (("shots", self.shots), ("classes", self.classes or ())):
            if len(set(values)) != len(values):
                raise ValueError(f"found {name} {list(values)}, expected each once")
        return self


@dataclass(frozen=True)
class Episodes:
    """Who takes part in each episode. The samples are named by their ids, so the order of the features is free.

    Attributes:
        classes: (E, ways) int64.
        support: (E, ways, shots) int64 sample ids of the classes; fewer shots are the first ones.
        query: (E, ways, queries) int64 sample ids of the classes, none of them in `support` of the episode.
    """

    classes: Ids
    support: Ids
    query: Ids

    def __len__(self) -> int:
        return len(self.classes)


def draw_episodes(sample_id: Tensor, label: Tensor, config: EpisodeConfig, dataset: str | None = None) -> Episodes:
    """Draw episodes as bbbdylan/unisiam does: classes without replacement, and of each its samples likewise.

    They are a function of the seed and of the ids and labels as sets: the order of the rows does not matter.

    Args:
        sample_id: (N,) int64, all different.
        label: (N,) int64.
        config: sizes, classes, seed.
        dataset: whose official classes are meant when `config.classes` is None.

    Raises:
        ConfigError: a sample twice, a class without samples or with too few, or fewer classes than ways.
    """
    ids, order = sorted_ids(sample_id.cpu().numpy())
    labels = label.cpu().numpy()[order]
    classes = _classes(labels, config, dataset)
    needed = max(config.shots) + config.queries
    members = [ids[labels == one] for one in classes]
    for one, samples in zip(classes.tolist(), members, strict=True):
        if len(samples) < needed:
            raise ConfigError(
                f"class {one}: found {len(samples)} samples, "
                f"expected {needed} or more ({max(config.shots)} shots and {config.queries} queries)"
            )
    generator = np.random.default_rng(config.seed)
    chosen = np.empty((config.episodes, config.ways), np.int64)
    drawn = np.empty((*chosen.shape, needed), np.int64)
    for episode in range(config.episodes):
        chosen[episode] = generator.choice(len(classes), config.ways, replace=False)
        for way, one in enumerate(chosen[episode]):
            drawn[episode, way] = generator.choice(members[one], needed, replace=False)
    shots = max(config.shots)
    return Episodes(classes[chosen], drawn[..., :shots].copy(), drawn[..., shots:].copy())


def _classes(labels: Ids, config: EpisodeConfig, dataset: str | None) -> Ids:
    present = np.unique(labels)
    wanted = config.classes if config.classes is not None else OFFICIAL_CLASSES.get(dataset or "")
    classes = present if wanted is None else np.array(sorted(wanted), np.int64)
    if len(classes) < config.ways:
        raise ConfigError(f"found {len(classes)} classes to draw from, expected {config.ways} or more (ways)")
    absent = np.setdiff1d(classes, present).tolist()
    if absent:
        raise ConfigError(f"found no samples of classes {absent}, expected classes among the labels {present.tolist()}")
    return classes


def sorted_ids(ids: Ids) -> tuple[Ids, Ids]:
    """Sample ids in ascending order, and the rows they came from; ConfigError when one is there twice."""
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    twice = ids[1:][np.diff(ids) == 0]
    if len(twice):
        raise ConfigError(f"found sample {twice[0]} twice, expected each once: it could be support and query at a time")
    return ids, order


def write_episodes(path: Path, episodes: Episodes) -> None:
    """Write an .npz of the three arrays of `Episodes`, whole or not at all; equal episodes give equal bytes."""
    # a file object, for NumPy appends .npz to names
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, classes=episodes.classes, support=episodes.support, query=episodes.query)
