"""Small finished folders to read, check and damage."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from shards.catalog import info_from_name
from shards.cells import cell_name, memberships
from shards.encoding import Storage, kept
from shards.manifest import (
    CellEntry,
    Manifest,
    ShardEntry,
    counts,
    file_entry,
    fingerprint,
    folder_name,
    write_manifest,
)
from shards.schema import FORMAT_VERSION, Quality, SampleInfo, Segment, segment_key
from shards.store import FRAMES_PER_SHARD, create, write_frames
from shards.writer import sample_record, write_shard

NTU_NAMES = tuple(
    f"S{setup:03d}C{camera:03d}P{performer:03d}R001A{action:03d}"
    for setup, action in ((1, 7), (2, 60), (18, 61), (19, 120))
    for camera in (1, 2, 3)
    for performer in (1, 3)
)
PKU_NAMES = ("0002-L", "0002-M", "0291-L", "0291-R")


@pytest.fixture
def make_frames() -> Callable[[int, int], npt.NDArray[np.float32]]:
    """(length, seed) -> (length, 2, 25, 3) float32."""
    return _frames


def _frames(length: int, seed: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(length, 2, 25, 3)).astype(np.float32)


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Build a finished folder: make_folder(source="ntu", dtype="float32", samples_per_shard=2, root=tmp_path)."""

    def make(
        source: str = "ntu",
        dtype: Storage = "float32",
        samples_per_shard: int = 2,
        root: Path = tmp_path,
        recipe: str = "raw",
    ) -> Path:
        names = sorted(NTU_NAMES if source == "ntu" else PKU_NAMES)
        infos = [info_from_name(source, name) for name in names]
        lengths = [3 + i % 5 if source == "ntu" else 40 for i in range(len(infos))]
        frames = [_frames(length, i) for i, length in enumerate(lengths)]
        segments = None if source == "ntu" else _segments(len(infos))
        steps = [{"name": recipe}]
        name = fingerprint(source, "0" * 64, steps, dtype)
        folder = root / folder_name(source, recipe, name)
        quality = [Quality(length, empty_frames=i % 3, ids=i % 2) for i, length in enumerate(lengths)]
        create(folder / "store.zarr", infos, lengths, segments, dtype, quality)
        flat = np.concatenate(frames)
        errors = [
            write_frames(folder / "store.zarr", first, flat[first : first + FRAMES_PER_SHARD])
            for first in range(0, len(flat), FRAMES_PER_SHARD)
        ]
        samples = _samples(infos, [kept(array, dtype, name) for array in frames], segments)
        cells, shards = _pack(folder, source, recipe, name, dtype, samples, samples_per_shard)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            source=source,
            recipe=recipe,
            recipe_steps=steps,
            inventory="0" * 64,
            fingerprint=name,
            counts=counts(sequences=len(infos), samples=len(samples), frames=len(flat), dropped=0, repaired=0),
            dtype=dtype,
            max_error=max(errors),
            cells=cells,
            shards=shards,
            files=[file_entry(folder, path) for path in files],
            dropped=[],
            repaired=[],
        )
        write_manifest(folder, manifest)
        return folder

    return make


Sample = tuple[SampleInfo, npt.NDArray[np.float32], Segment | None, str | None]


def _segments(videos: int) -> list[Segment]:
    return [Segment(v, row, 5 * row, 5 * row + 4, 7 * row, 2) for v in range(videos) for row in range(3)]


def _samples(
    infos: Sequence[SampleInfo], frames: Sequence[npt.NDArray[np.float32]], segments: Sequence[Segment] | None
) -> list[Sample]:
    if segments is None:
        return [(info, array, None, None) for info, array in zip(infos, frames, strict=True)]
    actions: list[Sample] = []
    for s in segments:
        video = infos[s.video]
        info = SampleInfo(segment_key(video.key, s.row), s.label, video.subject, video.camera, video.setup)
        actions.append((info, frames[s.video][s.start : s.end], s, video.key))
    return actions


def _pack(
    folder: Path, source: str, recipe: str, name: str, dtype: Storage, samples: list[Sample], per_shard: int
) -> tuple[dict[str, CellEntry], list[ShardEntry]]:
    members: dict[str, list[tuple[str, npt.NDArray[Any], dict[str, Any]]]] = {}
    sides: dict[str, dict[str, str]] = {}
    for index, (info, frames, segment, video) in enumerate(samples):
        cell = cell_name(source, info)
        sides[cell] = memberships(source, info)
        record = sample_record(
            info,
            index=index,
            frames=len(frames),
            source=source,
            recipe=recipe,
            fingerprint=name,
            segment=segment,
            video=video,
        )
        members.setdefault(cell, []).append((info.key, frames, record))
    cells, shards = {}, []
    for cell, held in sorted(members.items()):
        cells[cell] = CellEntry(memberships=sides[cell], samples=len(held), frames=sum(len(f) for _, f, _ in held))
        for number in range(-(-len(held) // per_shard)):
            part = held[number * per_shard : (number + 1) * per_shard]
            path = f"shards/{cell}/{number:06d}.tar"
            write_shard(folder / path, part, dtype)
            shards.append(
                ShardEntry(
                    cell=cell,
                    path=path,
                    index=path.replace(".tar", ".idx"),
                    samples=len(part),
                    frames=sum(len(f) for _, f, _ in part),
                )
            )
    return cells, shards
