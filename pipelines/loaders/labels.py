"""What is known of the samples of a split, without reading a frame: what subsets and breakdowns of scores go by."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.loaders.split import Split
from shards.errors import StoreError
from shards.manifest import STORE, read_manifest
from shards.places import Place
from shards.schema import segment_key
from shards.store import Store, open_store

READERS = 8
"""Indexes of shards read at once: a remote one takes two requests."""

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SampleFacts:
    """Facts of samples as columns of N rows.

    Attributes:
        sample_id: number of the sample in its data set, as in a batch.
        label: as in a batch.
        subject, camera: as the source tells them; -1 where it does not.
        length: stored frames.
        key: name of the sample, text.
    """

    sample_id: Numbers
    label: Numbers
    subject: Numbers
    camera: Numbers
    length: Numbers
    key: npt.NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.sample_id)


def sample_facts(split: Split) -> SampleFacts:
    """The facts of the samples of a split, in the order of an epoch that is not shuffled.

    The shards' indexes tell which samples stand in which rows, the tables of the Zarr store beside them tell the rest;
    both may be remote.

    Args:
        split: of one source, whole or a subset.

    Raises:
        StoreError: a table or an index is absent or damaged, or they contradict each other.
    """
    assert len(split.sources) == 1, "facts of a mixture"
    source, folder = split.sources[0], split.shards[0].folder
    store = open_store(folder / STORE)
    with ThreadPoolExecutor(READERS, thread_name_prefix="skelstream-facts") as pool:
        indexes = list(pool.map(split.index, range(len(split.shards))))
    numbers = {key: number for number, key in enumerate(_keys(store))}
    ids: list[int] = []
    for shard, index in zip(split.shards, indexes, strict=True):
        keys = [index.keys[row] for row in shard.rows]
        if foreign := next((key for key in keys if key not in numbers), None):
            raise StoreError(f"{shard.path}: found sample {foreign}, expected one of {store.path}")
        ids += [numbers[key] for key in keys]
    sample_id = np.array(ids, dtype=np.int64)
    videos, labels, lengths = _columns(store, folder)
    label, row = labels[sample_id], videos[sample_id]
    wrong = np.flatnonzero((label < 0) | (label >= len(source.classes)))
    if len(wrong):
        found = f"label {label[wrong[0]]} of sample {sample_id[wrong[0]]}"
        raise StoreError(f"{store.path}: found {found}, expected 0 to {len(source.classes) - 1} of {source.dataset}")
    names = np.array(list(numbers))
    return SampleFacts(
        sample_id=sample_id,
        label=np.array(source.classes, dtype=np.int64)[label],
        subject=np.array([info.subject for info in store.infos], dtype=np.int64)[row],
        camera=np.array([info.camera for info in store.infos], dtype=np.int64)[row],
        length=lengths[sample_id],
        key=names[sample_id],
    )


def _keys(store: Store) -> list[str]:
    """Of all samples of the store, by number."""
    if store.segments is None:
        return [info.key for info in store.infos]
    return [segment_key(store.infos[segment.video].key, segment.row) for segment in store.segments]


def _columns(store: Store, folder: Place) -> tuple[Numbers, Numbers, Numbers]:
    """Row of the store, label and stored frames of all samples, by number."""
    if store.segments is None:
        labels = np.array([info.label for info in store.infos], dtype=np.int64)
        return np.arange(len(store)), labels, np.diff(store.offsets)
    columns = [(s.video, s.label, s.end - s.start) for s in store.segments]
    videos, labels, lengths = np.array(columns, dtype=np.int64).reshape(-1, 3).T
    # shards hold what the recipe leaves of an action
    steps = read_manifest(folder).recipe_steps
    limit = next((step.get("frames") for step in steps if step.get("name") == "cut"), None)
    return videos, labels, lengths if limit is None else lengths.clip(max=limit)
