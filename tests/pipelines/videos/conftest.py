"""Small finished stores of untrimmed videos with known frames and labels."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pipelines.videos.sides import Videos, open_videos
from shards.catalog import info_from_name, read_list
from shards.encoding import Storage
from shards.manifest import Manifest, counts, write_manifest
from shards.schema import FORMAT_VERSION, Segment
from shards.store import create, write_frames

TRAIN, TEST = (sorted(read_list(f"pkummd1_xsub_{side}")) for side in ("train", "test"))

Actions = list[tuple[int, int, int]]
"""Label from 0, first frame and stop frame of the rows of a label file."""

MakeStore = Callable[..., Path]


def video_frames(length: int, seed: int) -> npt.NDArray[np.float32]:
    """(T, M, V, C): person 0 always there, person 1 in the second half."""
    frames = np.random.default_rng(seed).normal(size=(length, 2, 25, 3)).astype(np.float32)
    frames[: length // 2, 1] = 0
    return frames


@pytest.fixture(scope="session")
def make_store() -> MakeStore:
    """make_store(folder, {key: (frames, actions)}, recipe="raw", dtype="float32", source="pkummd1") -> folder."""

    def make(
        folder: Path,
        videos: Mapping[str, tuple[npt.NDArray[np.float32], Actions | None]],
        recipe: str = "raw",
        dtype: Storage = "float32",
        source: str = "pkummd1",
    ) -> Path:
        keys = sorted(videos)
        frames = [videos[key][0] for key in keys]
        labelled = [
            Segment(number, row, start, stop, label, 2)
            for number, key in enumerate(keys)
            for row, (label, start, stop) in enumerate(videos[key][1] or [])
        ]
        trimmed = all(actions is None for _, actions in videos.values())
        infos = [info_from_name(source, key) for key in keys]
        create(folder / "store.zarr", infos, [len(f) for f in frames], None if trimmed else labelled, dtype)
        flat = np.concatenate(frames)
        error = write_frames(folder / "store.zarr", 0, flat)
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            source=source,
            recipe=recipe,
            recipe_steps=[],
            inventory="0" * 64,
            fingerprint="0" * 12,
            counts=counts(sequences=len(keys), samples=len(labelled), frames=len(flat), dropped=0, repaired=0),
            dtype=dtype,
            max_error=error,
            cells={},
            shards=[],
            files=[],
            dropped=[],
            repaired=[],
        )
        write_manifest(folder, manifest)
        return folder

    return make


@pytest.fixture(scope="session")
def source() -> dict[str, tuple[npt.NDArray[np.float32], Actions]]:
    """Five training videos and one for the test; the fourth is shorter than a training window."""
    lengths = (150, 90, 121, 40, 83)
    made = {
        key: (video_frames(length, seed), [(seed, 10, 20), (50, 20 + seed, length - 3)])
        for seed, (key, length) in enumerate(zip(TRAIN, lengths, strict=False))
    }
    return made | {TEST[0]: (video_frames(100, 9), [(3, 0, 30), (4, 60, 100)])}


@pytest.fixture(scope="session")
def folder(
    make_store: MakeStore,
    source: dict[str, tuple[npt.NDArray[np.float32], Actions]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The store of these videos; do not damage it."""
    return make_store(tmp_path_factory.mktemp("videos"), source)


@pytest.fixture(scope="session")
def train(folder: Path) -> Videos:
    """Its training side."""
    return open_videos(folder, "pkummd1", "xsub", "train")
