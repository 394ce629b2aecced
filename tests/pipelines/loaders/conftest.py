"""Small finished folders with known samples, as the loaders see them: manifest and shards, without a store."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from shards.encoding import Storage, kept
from shards.manifest import STORE, CellEntry, Manifest, ShardEntry, counts, file_entry, read_manifest, write_manifest
from shards.schema import FORMAT_VERSION, SampleInfo
from shards.store import create
from shards.writer import write_shard

FINGERPRINT = "0" * 12
SIDES = {
    "ntu60-xsub-train_xview-train_xset-train": {"ntu60/xsub": "train", "ntu60/xview": "train", "ntu120/xset": "train"},
    "ntu60-xsub-train_xview-test_xset-train": {"ntu60/xsub": "train", "ntu60/xview": "test", "ntu120/xset": "train"},
    "ntu60-xsub-test_xview-train_xset-train": {"ntu60/xsub": "test", "ntu60/xview": "train", "ntu120/xset": "train"},
}
SIZES = {
    "ntu60-xsub-train_xview-train_xset-train": (8, 8, 5),
    "ntu60-xsub-train_xview-test_xset-train": (8, 8, 8, 1),
    "ntu60-xsub-test_xview-train_xset-train": (6,),
}
OTHER_SIDES = {"pkummd1-xsub-train": {"pkummd1/xsub": "train"}, "pkummd1-xsub-test": {"pkummd1/xsub": "test"}}
OTHER_SIZES = {"pkummd1-xsub-train": (4, 7, 6), "pkummd1-xsub-test": (3,)}


def sample_frames(index: int) -> npt.NDArray[np.float32]:
    """The frames of sample `index`, 1 to 90 of them."""
    rng = np.random.default_rng(index)
    return rng.normal(size=(int(rng.integers(1, 91)), 2, 25, 3)).astype(np.float32)


def _write_shard(
    folder: Path, cell: str, number: int, indexes: list[int], classes: int, dtype: Storage, fingerprint: str
) -> ShardEntry:
    stored = {i: kept(sample_frames(i), dtype, "") for i in indexes}
    samples = [
        (f"S{i:03d}", f, {"index": i, "label": i % classes, "frames": len(f), "fingerprint": fingerprint})
        for i, f in stored.items()
    ]
    path = f"shards/{cell}/{number:06d}.tar"
    write_shard(folder / path, samples, dtype)
    frames = sum(len(frames) for frames in stored.values())
    index = path.replace(".tar", ".idx")
    return ShardEntry(cell=cell, path=path, index=index, samples=len(indexes), frames=frames)


def _write(
    folder: Path,
    source: str,
    sides: Mapping[str, dict[str, str]],
    shards: list[ShardEntry],
    dtype: Storage,
    fingerprint: str,
    recipe: str,
) -> Path:
    """The manifest of these shards."""
    cells = {}
    for cell, memberships in sides.items():
        held = [shard for shard in shards if shard.cell == cell]
        samples, frames = sum(shard.samples for shard in held), sum(shard.frames for shard in held)
        cells[cell] = CellEntry(memberships=memberships, samples=samples, frames=frames)
    total, frames = sum(s.samples for s in shards), sum(s.frames for s in shards)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        source=source,
        recipe=recipe,
        recipe_steps=[],
        inventory="0" * 64,
        fingerprint=fingerprint,
        counts=counts(sequences=total, samples=total, frames=frames, dropped=0, repaired=0),
        dtype=dtype,
        max_error=0.0,
        cells=cells,
        shards=shards,
        files=[file_entry(folder, path) for path in sorted((folder / "shards").rglob("*.*"))],
        dropped=[],
        repaired=[],
    )
    write_manifest(folder, manifest)
    return folder


@pytest.fixture(scope="session")
def frames_of() -> Callable[[int], npt.NDArray[np.float32]]:
    """index -> the frames of that sample."""
    return sample_frames


@pytest.fixture(scope="session")
def write_folder() -> Callable[..., Path]:
    """write_folder(folder, dtype="float32", ...): 52 samples in three cells; label = index mod 60.

    On the side ntu60 xsub train: 46 samples in 7 shards, whose indexes alternate with those of the other cells.
    """

    def write(folder: Path, dtype: Storage = "float32", fingerprint: str = FINGERPRINT, recipe: str = "raw") -> Path:
        free = {cell: iter(range(number, 300, 3)) for number, cell in enumerate(SIZES)}
        shards = [
            _write_shard(folder, cell, number, [next(free[cell]) for _ in range(size)], 60, dtype, fingerprint)
            for cell, sizes in SIZES.items()
            for number, size in enumerate(sizes)
        ]
        return _write(folder, "ntu", SIDES, shards, dtype, fingerprint, recipe)

    return write


@pytest.fixture(scope="session")
def write_other() -> Callable[..., Path]:
    """write_other(folder, dtype="float32", ...): 20 samples of pkummd1, 17 on the side xsub train in 3 shards.

    Their indexes are 0 to 19 and label = index mod 51.
    """

    def write(folder: Path, dtype: Storage = "float32", fingerprint: str = "1" * 12, recipe: str = "raw") -> Path:
        free = iter(range(20))
        shards = [
            _write_shard(folder, cell, number, [next(free) for _ in range(size)], 51, dtype, fingerprint)
            for cell, sizes in OTHER_SIZES.items()
            for number, size in enumerate(sizes)
        ]
        return _write(folder, "pkummd1", OTHER_SIDES, shards, dtype, fingerprint, recipe)

    return write


@pytest.fixture(scope="session")
def write_tables() -> Callable[[Path], Path]:
    """write_tables(folder): the tables of the store of `write_folder`: 80 samples, of which the shards hold 52.

    Sample i has subject 1 + i mod 5 and camera 1 + i mod 3.
    """

    def write(folder: Path) -> Path:
        infos = [SampleInfo(f"S{i:03d}", i % 60, subject=1 + i % 5, camera=1 + i % 3) for i in range(80)]
        create(folder / STORE, infos, [len(sample_frames(i)) for i in range(80)], None)
        return folder

    return write


@pytest.fixture(scope="session")
def complete(write_folder: Callable[..., Path], write_tables: Callable[..., Path], tmp_path_factory: Any) -> Path:
    """The folder in float32 with the tables of its store; do not damage it."""
    return write_tables(write_folder(tmp_path_factory.mktemp("complete")))


@pytest.fixture(scope="session")
def vouch() -> Callable[[Path], None]:
    """vouch(folder): let the manifest state size and hash of the shard files as they are now."""

    def write(folder: Path) -> None:
        manifest = read_manifest(folder)
        files = [file_entry(folder, path) for path in sorted((folder / "shards").rglob("*.*"))]
        write_manifest(folder, manifest.model_copy(update={"files": files}))

    return write


@pytest.fixture(scope="session")
def folder(write_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in float32; do not damage it."""
    return write_folder(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def other(write_other: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of another data set in float32; do not damage it."""
    return write_other(tmp_path_factory.mktemp("other"))


@pytest.fixture(scope="session")
def train_ids() -> list[int]:
    """Indexes on the side ntu60 xsub train."""
    return sorted([*range(0, 21 * 3, 3), *range(1, 25 * 3 + 1, 3)])
