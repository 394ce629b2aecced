"""The shards of one side of a protocol, or of several as a mixture: what every loader reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.loaders.order import WINDOW, Order
from shards.catalog import dataset as dataset_named
from shards.encoding import Storage, member_dtype
from shards.errors import ConfigError, StoreError
from shards.files import sha256_file
from shards.manifest import MANIFEST, FileEntry, Manifest, ShardEntry, read_manifest
from shards.places import Place
from shards.reader import ShardIndex, read_index, read_samples

SOURCE_BIT = 40
"""A sample's id is its number in its data set, and from this bit on the number of its source in the mixture."""


@dataclass(frozen=True)
class Item:
    """A sample as a loader needs it: frames (T, M, V, C), zero-based label, and its id, unique in the split."""

    frames: npt.NDArray[Any]
    label: int
    sample_id: int


@dataclass(frozen=True)
class SplitSource:
    """One side of one data set.

    Attributes:
        name: data set, protocol and side, for messages.
        dataset: name in the catalogue.
        kind: the source it is a selection of; equal labels of one kind mean the same.
        recipe: by which its frames were made, with the version.
        fingerprint: of its store, which every sample's record repeats.
        samples: that an epoch takes of it.
        classes: label of each of its classes in the split.
    """

    name: str
    dataset: str
    kind: str
    recipe: str
    fingerprint: str
    samples: int
    classes: tuple[int, ...]


@dataclass(frozen=True)
class Chosen:
    """Some samples of a shard: their rows in it, rising, and the frames that they have together."""

    rows: tuple[int, ...]
    frames: int


@dataclass(frozen=True)
class SplitShard:
    """A shard with all that its manifest says of it.

    Attributes:
        source: number of its source in the split.
        chosen: the samples of it that the split has; None for all.
    """

    folder: Place
    entry: ShardEntry
    storage: Storage
    file: FileEntry
    index_file: FileEntry
    source: int = 0
    chosen: Chosen | None = None

    @property
    def path(self) -> Place:
        return self.folder / self.entry.path

    @property
    def rows(self) -> Sequence[int]:
        """Of the split's samples in the shard, rising."""
        return range(self.entry.samples) if self.chosen is None else self.chosen.rows

    @property
    def frames(self) -> int:
        """Of the split's samples in the shard, together."""
        return self.entry.frames if self.chosen is None else self.chosen.frames


@dataclass(frozen=True)
class Split:
    """Attributes:
    shards: source after source, those of each by path; of a subset (`subset.only`) those that hold a sample of it.
    sources: one; or several, of a mixture.
    """

    shards: tuple[SplitShard, ...]
    sources: tuple[SplitSource, ...]

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Of the frames as they are read: float16 where all shards are, else float32."""
        return np.result_type(*{member_dtype(shard.storage) for shard in self.shards})

    @property
    def num_samples(self) -> int:
        """Different samples; an epoch of a mixture takes `Order.samples`."""
        return sum(len(shard.rows) for shard in self.shards)

    @property
    def num_frames(self) -> int:
        return sum(shard.frames for shard in self.shards)

    @property
    def num_classes(self) -> int:
        """Labels are 0..num_classes-1."""
        return 1 + max(max(source.classes) for source in self.sources)

    def size(self, number: int) -> int:
        """Bytes of a shard, by the manifest."""
        return self.shards[number].file.bytes

    def sha256(self, number: int) -> str:
        """SHA-256 of a shard, by the manifest."""
        return self.shards[number].file.sha256

    def order(self, *, window: int = WINDOW, seed: int, shuffle: bool = True) -> Order:
        """The order of the samples; ConfigError for a negative window."""
        sizes = [[len(s.rows) for s in self.shards if s.source == n] for n in range(len(self.sources))]
        counts = [source.samples for source in self.sources]
        is_whole = all(shard.chosen is None for shard in self.shards)
        rows = None if is_whole else [shard.rows for shard in self.shards]
        return Order(sizes, counts, window=window, seed=seed, shuffle=shuffle, rows=rows)

    def index(self, number: int) -> ShardIndex:
        """The index of a shard.

        A local shard is compared with the manifest here, by its size and the hash of its index (0.1 ms); of a remote
        one that would be another request, and a foreign one is found by the records of its samples.

        Raises:
            StoreError: no index, or not that of the manifest's shard; or a shard that was cut or replaced.
        """
        shard = self.shards[number]
        index = read_index(shard.path)
        where = shard.folder / shard.entry.index
        if len(index) != shard.entry.samples:
            raise StoreError(f"{where}: found {len(index)} samples, expected {shard.entry.samples} by the manifest")
        if isinstance(shard.path, Path):
            _check_size(shard.path, shard.file.bytes)
            found = sha256_file(where)
            if found != shard.index_file.sha256:
                raise StoreError(f"{where}: found SHA-256 {found}, expected {shard.index_file.sha256} by the manifest")
        return index

    def read(self, number: int, rows: Sequence[int], index: ShardIndex) -> list[Item]:
        """Samples of a shard.

        Args:
            number: of the shard.
            rows: in it, from 0; samples come in this order.
            index: of the shard; its `path` is what is read, which may be a copy.

        Raises:
            StoreError: a sample is garbled, is of another store, has frames of another dtype than the manifest says, or
                no label or index.
        """
        shard = self.shards[number]
        return [self._item(shard, f"{index.path}: {key}", f, r) for key, f, r in read_samples(index.path, rows, index)]

    def _item(self, shard: SplitShard, where: str, frames: npt.NDArray[Any], record: dict[str, Any]) -> Item:
        source = self.sources[shard.source]
        if record.get("fingerprint") != source.fingerprint:
            raise StoreError(
                f"{where}: found fingerprint {record.get('fingerprint')!r}, expected {source.fingerprint!r} by the"
                " manifest: the shard is of another store"
            )
        stored = member_dtype(shard.storage)
        if frames.dtype != stored:
            raise StoreError(f"{where}: found {frames.dtype} frames, expected {stored} by the manifest")
        label, index = record.get("label"), record.get("index")
        if type(label) is not int or type(index) is not int or label < 0 or not 0 <= index < 1 << SOURCE_BIT:
            raise StoreError(f"{where}: found label {label!r} and index {index!r}, expected integers from 0")
        if label >= len(source.classes):
            raise StoreError(
                f"{where}: found label {label}, expected 0 to {len(source.classes) - 1} of {source.dataset}"
            )
        frames = frames.astype(self.dtype, copy=False)
        return Item(frames, source.classes[label], index + (shard.source << SOURCE_BIT))


def _check_size(path: Path, expected: int) -> None:
    try:
        found = path.stat().st_size
    except OSError as error:
        raise StoreError(f"{path}: found no readable shard ({error}), expected a tar file") from error
    if found != expected:
        raise StoreError(
            f"{path}: found {found} bytes, expected {expected} by the manifest: it was cut, or is another shard"
        )


def open_split(folder: Place, dataset: str, protocol: str, split: str) -> Split:
    """List the shards of a side.

    Raises:
        ConfigError: the data set has no such protocol, or no such side.
        StoreError: the store has no sample of it, or its manifest does not list a shard's files.
    """
    known = dataset_named(dataset)
    if protocol not in known.protocols:
        raise ConfigError(f"found protocol {protocol!r}, expected one of {', '.join(known.protocols)} for {dataset}")
    if split not in ("train", "test"):
        raise ConfigError(f"found split {split!r}, expected train or test")
    manifest = read_manifest(folder)
    cells = {n for n, cell in manifest.cells.items() if cell.memberships.get(f"{dataset}/{protocol}") == split}
    entries = sorted((shard for shard in manifest.shards if shard.cell in cells), key=lambda shard: shard.path)
    samples = sum(entry.samples for entry in entries)
    if not samples:
        raise StoreError(f"{folder}: found no sample of {dataset} {protocol} {split}, expected at least one")
    source = SplitSource(
        name=f"{dataset} {protocol} {split}",
        dataset=dataset,
        kind=known.source,
        recipe=_recipe(manifest),
        fingerprint=manifest.fingerprint,
        samples=samples,
        classes=tuple(range(known.num_classes)),
    )
    return Split(_shards(folder, manifest, entries), (source,))


def _shards(folder: Place, manifest: Manifest, entries: Sequence[ShardEntry]) -> tuple[SplitShard, ...]:
    wanted = {path for entry in entries for path in (entry.path, entry.index)}
    files = {file.path: file for file in manifest.files if file.path in wanted}
    if missing := sorted(wanted - files.keys()):
        raise StoreError(f"{folder / MANIFEST}: found no file {missing[0]}, expected size and SHA-256 of every shard")
    return tuple(SplitShard(folder, e, manifest.dtype, files[e.path], files[e.index]) for e in entries)


def _recipe(manifest: Manifest) -> str:
    version = next((step.get("version") for step in manifest.recipe_steps if step.get("name") == "recipe"), None)
    return manifest.recipe if version is None else f"{manifest.recipe} version {version}"
