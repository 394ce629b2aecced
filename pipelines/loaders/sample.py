"""One sample of a store by its key, read from the shard that holds it: what a loader sees of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import Any

import numpy as np
import torch

from pipelines.loaders.split import SOURCE_BIT
from shards.batch import RaggedBatch
from shards.cells import cell_name
from shards.errors import ConfigError, StoreError
from shards.manifest import STORE, Manifest, ShardEntry, find_store, find_stores, read_manifest
from shards.places import Place
from shards.reader import ShardIndex, read_index, read_samples
from shards.schema import segment_key
from shards.store import Store, open_store

STAND_IN = 8
"""Samples that stand in for the batch: for that a mix takes its partner from, or a prediction is drawn in."""


NEAREST = 3
"""Keys that the error for an unknown one names."""


@dataclass(frozen=True)
class Found:
    """Where a sample lies.

    Attributes:
        folder: of the store.
        shard: number in `manifest.shards`; `index` is its index, `row` the sample's place in it.
        number: of the sample in its data set, and from `SOURCE_BIT` on of its source in a mixture; keys its draws.
    """

    folder: Place
    manifest: Manifest
    shard: int
    index: ShardIndex
    row: int
    number: int

    @property
    def entry(self) -> ShardEntry:
        return self.manifest.shards[self.shard]

    @property
    def memberships(self) -> dict[str, str]:
        """Side of the sample in every protocol: "ntu60/xsub" -> "train"."""
        return self.manifest.cells[self.entry.cell].memberships


@dataclass(frozen=True)
class Neighbours:
    """A sample and others that stand in for the batch it would be in.

    Attributes:
        keys: the sample's own first.
        batch: in the same order, on the CPU.
    """

    keys: tuple[str, ...]
    batch: RaggedBatch


def find_sample(data: Place, key: str, dataset: str | None = None) -> Found:
    """Find a sample in a store, or in a folder of stores; its shard by the store's tables, no tar is read.

    Args:
        data: as of `shards.manifest.find_stores`.
        key: of the sample; of an untrimmed source, of an action.
        dataset: look in its store only, and only for what it holds.

    Raises:
        ConfigError: no sample of that key (names the nearest ones), or none of that data set.
        StoreError: several stores have it, or one is damaged.
    """
    folders = find_stores(data) if dataset is None else [find_store(data, dataset)]
    known: list[str] = []
    found: list[Found] = []
    for folder in folders:
        store, manifest = open_store(folder / STORE), read_manifest(folder)
        keys = _keys(store)
        if key in keys:
            found.append(_find(folder, manifest, store, key, keys.index(key)))
        known += keys
    if not found:
        near = ", ".join(_nearest(key, known))
        raise ConfigError(f"{data}: found no sample {key!r}, expected a key as in the store; nearest: {near}")
    if len(found) > 1:
        names = ", ".join(one.folder.name for one in found)
        raise StoreError(f"{data}: found {key} in {len(found)} stores ({names}), expected one: point at its folder")
    holding = sorted({name.partition("/")[0] for name in found[0].memberships})
    if dataset is not None and dataset not in holding:
        raise ConfigError(f"{data}: found {key} in {', '.join(holding)}, expected a sample of {dataset}")
    return found[0]


def _keys(store: Store) -> list[str]:
    if store.segments is None:
        return [info.key for info in store.infos]
    return [segment_key(store.infos[segment.video].key, segment.row) for segment in store.segments]


def _find(folder: Place, manifest: Manifest, store: Store, key: str, number: int) -> Found:
    # an action lies in the cell of its video
    info = store.infos[number if store.segments is None else store.segments[number].video]
    cell = cell_name(manifest.source, info)
    for shard, entry in enumerate(manifest.shards):
        if entry.cell == cell:
            index = read_index(folder / entry.path)
            if key in index.keys:
                return Found(folder, manifest, shard, index, index.keys.index(key), number)
    raise StoreError(f"{folder}: found {key} in no shard, expected it in one of cell {cell}")


def _nearest(key: str, known: list[str]) -> list[str]:
    """The keys most like `key`: those with the most equal letters at equal places, then the most alike of them."""
    table = np.array([one.upper() for one in known], dtype=np.bytes_)
    letters = table.view(np.uint8).reshape(len(known), -1)
    wanted = np.zeros(letters.shape[1], dtype=np.uint8)
    given = key.upper().encode("ascii", "replace")[: len(wanted)]
    wanted[: len(given)] = np.frombuffer(given, dtype=np.uint8)
    # of 100,000 keys `get_close_matches` alone takes seconds
    best = np.argsort(-(letters == wanted).sum(axis=1), kind="stable")[:200]
    alike = {known[place].upper(): known[place] for place in best}
    return [alike[one] for one in get_close_matches(key.upper(), alike, n=NEAREST, cutoff=0.0)]


def read_neighbours(found: Found, count: int) -> Neighbours:
    """The sample and those behind it in its shard; where it ends, those before it, then those of the next shards.

    Args:
        found: the sample.
        count: of samples, with it; fewer when the store has no more.

    Raises:
        StoreError: a shard is damaged, or its record is not of this sample.
    """
    samples = list(islice(_samples(found, count), count))
    key, _, record = samples[0]
    own = found.number & ((1 << SOURCE_BIT) - 1)
    if record.get("index") != own:
        where = f"{found.index.path}: {key}"
        raise StoreError(f"{where}: found number {record.get('index')!r}, expected {own} by the store")
    lengths = torch.tensor([len(frames) for _, frames, _ in samples])
    batch = RaggedBatch(
        frames=torch.from_numpy(np.concatenate([frames for _, frames, _ in samples])),
        start=lengths.cumsum(0) - lengths,
        length=lengths,
        label=torch.tensor([_whole(found, key, record, "label") for key, _, record in samples]),
        sample_id=torch.tensor([_whole(found, key, record, "index") for key, _, record in samples])
        + (found.number - own),
    )
    return Neighbours(tuple(key for key, _, _ in samples), batch)


def _whole(found: Found, key: str, record: dict[str, Any], name: str) -> int:
    value = record.get(name)
    if type(value) is not int or value < 0:
        raise StoreError(f"{found.folder}: {key}: found {name} {value!r}, expected an integer from 0")
    return value


def _samples(found: Found, count: int) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    shards = found.manifest.shards
    for place in range(len(shards)):
        entry = shards[(found.shard + place) % len(shards)]
        index = found.index if place == 0 else read_index(found.folder / entry.path)
        rows = [(row + (found.row if place == 0 else 0)) % len(index) for row in range(min(count, len(index)))]
        yield from read_samples(index.path, rows, index)
