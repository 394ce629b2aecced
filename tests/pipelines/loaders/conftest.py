"""A small finished folder with known samples, as the loaders see it: manifest and shards, without a store."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from shards.encoding import Storage, kept
from shards.manifest import CellEntry, Manifest, ShardEntry, counts, write_manifest
from shards.schema import FORMAT_VERSION
from shards.writer import write_shard

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


def sample_frames(index: int) -> npt.NDArray[np.float32]:
    """The frames of sample `index`, 1 to 90 of them."""
    rng = np.random.default_rng(index)
    return rng.normal(size=(int(rng.integers(1, 91)), 2, 25, 3)).astype(np.float32)


@pytest.fixture(scope="session")
def frames_of() -> Callable[[int], npt.NDArray[np.float32]]:
    """index -> the frames of that sample."""
    return sample_frames


@pytest.fixture(scope="session")
def write_folder() -> Callable[..., Path]:
    """write_folder(folder, dtype="float32"): 52 samples in three cells; label = index mod 60.

    On the side ntu60 xsub train: 46 samples in 7 shards, whose indexes alternate with those of the other cells.
    """

    def write(folder: Path, dtype: Storage = "float32") -> Path:
        cells, shards = {}, []
        free = {cell: list(range(number, 300, 3)) for number, cell in enumerate(SIZES)}
        for cell, sizes in SIZES.items():
            for number, size in enumerate(sizes):
                indexes = [free[cell].pop(0) for _ in range(size)]
                stored = [(i, kept(sample_frames(i), dtype, "")) for i in indexes]
                samples = [(f"S{i:03d}", f, {"index": i, "label": i % 60, "frames": len(f)}) for i, f in stored]
                path = f"shards/{cell}/{number:06d}.tar"
                write_shard(folder / path, samples, dtype)
                total = sum(len(frames) for _, frames in stored)
                shards.append(
                    ShardEntry(cell=cell, path=path, index=path.replace(".tar", ".idx"), samples=size, frames=total)
                )
            held = [shard for shard in shards if shard.cell == cell]
            cells[cell] = CellEntry(
                memberships=SIDES[cell],
                samples=sum(shard.samples for shard in held),
                frames=sum(shard.frames for shard in held),
            )
        samples_, frames_ = sum(s.samples for s in shards), sum(s.frames for s in shards)
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            source="ntu",
            recipe="raw",
            recipe_steps=[],
            inventory="0" * 64,
            fingerprint="0" * 12,
            counts=counts(sequences=samples_, samples=samples_, frames=frames_, dropped=0, repaired=0),
            dtype=dtype,
            max_error=0.0,
            cells=cells,
            shards=shards,
            files=[],
            dropped=[],
            repaired=[],
        )
        write_manifest(folder, manifest)
        return folder

    return write


@pytest.fixture(scope="session")
def folder(write_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in float32; do not damage it."""
    return write_folder(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def train_ids() -> list[int]:
    """Indexes on the side ntu60 xsub train."""
    return sorted([*range(0, 21 * 3, 3), *range(1, 25 * 3 + 1, 3)])
