"""Samples of one store as a page shows them: each lies in the page once, however many exhibits of how many runs show
it."""

from typing import Any

import numpy as np
import numpy.typing as npt

from flows.pages.player import encode
from flows.pages.web import skeleton, upwards
from pipelines.loaders.labels import SampleFacts
from pipelines.loaders.split import Item, Split
from pipelines.loaders.subset import only
from shards.manifest import Manifest

FRAMES = 24
"""Frames of a sample that a page holds at most: 3.6 kB a body, a third more as base64."""

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating[Any]]


class Pool:
    """Samples of one store, whatever split they were asked for by.

    Args:
        manifest: of the store.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._skeleton = skeleton(upwards(manifest.recipe_steps))
        self._told: dict[int, dict[str, Any]] = {}

    def add(self, split: Split, facts: SampleFacts, ids: Ids) -> None:
        """Take in samples of a side that are not there yet.

        Args:
            split: one side, whole.
            facts: of the split.
            ids: (n,) of the samples, each once.

        Raises:
            StoreError: a shard is damaged.
        """
        wanted = np.setdiff1d(ids, np.fromiter(self._told, np.int64, len(self._told)))
        rows = dict(zip(facts.sample_id.tolist(), range(len(facts)), strict=True))
        for item in read_items(split, facts, wanted):
            self._told[item.sample_id] = _describe_item(item, facts, rows[item.sample_id])

    def as_json(self) -> dict[str, Any]:
        """`samples` by id in rising order, and the `skeleton` that the player takes."""
        return {"skeleton": self._skeleton, "samples": {str(name): self._told[name] for name in sorted(self._told)}}


def read_items(split: Split, facts: SampleFacts, ids: Ids) -> list[Item]:
    """Samples of a side in stored order, of which only they are read.

    Raises:
        StoreError: a shard is damaged.
    """
    if not len(ids):
        return []
    part = only(split, ids, facts)
    return [
        item for number, shard in enumerate(part.shards) for item in part.read(number, shard.rows, part.index(number))
    ]


def _describe_item(item: Item, facts: SampleFacts, row: int) -> dict[str, Any]:
    shown = item.frames[moments(len(item.frames))][:, : bodies(item.frames)].astype(np.float32)
    return {
        "key": str(facts.key[row]),
        "label": item.label,
        "subject": int(facts.subject[row]),
        "camera": int(facts.camera[row]),
        "length": len(item.frames),
        "count": len(shown),
        "bodies": shown.shape[1],
        "data": encode(shown),
    }


def moments(length: int) -> Ids:
    """Numbers of at most `FRAMES` frames, evenly from the first to the last; halves round up, as in exhibits.js."""
    count = min(FRAMES, length)
    if count == 1:
        return np.zeros(1, np.int64)
    return (2 * np.arange(count) * (length - 1) + count - 1) // (2 * (count - 1))


def bodies(frames: Floats) -> int:
    """How many bodies of frames (T, M, V, C) a page needs: up to the last one who is there, at least one."""
    there = np.flatnonzero(frames.any(axis=(0, 2, 3)))
    return int(there[-1]) + 1 if len(there) else 1
