"""The shards of one side of a protocol: what every loader reads."""

from dataclasses import dataclass
from pathlib import Path

from shards.catalog import dataset as dataset_named
from shards.errors import ConfigError, StoreError
from shards.manifest import ShardEntry, read_manifest


@dataclass(frozen=True)
class Split:
    """Attributes:
    folder: of the store.
    shards: of all cells on this side, by path.
    dtype: of their frames.
    """

    folder: Path
    shards: tuple[ShardEntry, ...]
    dtype: str

    @property
    def num_samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    @property
    def num_frames(self) -> int:
        return sum(shard.frames for shard in self.shards)


def open_split(folder: Path, dataset: str, protocol: str, split: str) -> Split:
    """List the shards of a side.

    Raises:
        ConfigError: the data set has no such protocol, or no such side.
        StoreError: the store has no sample of it.
    """
    known = dataset_named(dataset).protocols
    if protocol not in known:
        raise ConfigError(f"found protocol {protocol!r}, expected one of {', '.join(known)} for {dataset}")
    if split not in ("train", "test"):
        raise ConfigError(f"found split {split!r}, expected train or test")
    manifest = read_manifest(folder)
    cells = {n for n, cell in manifest.cells.items() if cell.memberships.get(f"{dataset}/{protocol}") == split}
    shards = tuple(sorted((s for s in manifest.shards if s.cell in cells), key=lambda shard: shard.path))
    if not shards:
        raise StoreError(f"{folder}: found no sample of {dataset} {protocol} {split}, expected at least one")
    return Split(folder, shards, manifest.dtype)
