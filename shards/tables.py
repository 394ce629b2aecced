"""The columns of a store beside its frames: samples, actions and quality as arrays, and back."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.errors import StoreError
from shards.places import Place
from shards.schema import Quality, SampleInfo, Segment

INFO_COLUMNS = ("label", "subject", "camera", "setup", "replication", "bodies")
SEGMENT_COLUMNS = ("video", "row", "start", "end", "label", "confidence")
QUALITY_COLUMNS = tuple(field.name for field in fields(Quality))

SEGMENTS, QUALITY = "segments", "quality"
GROUPS = {SEGMENTS: SEGMENT_COLUMNS, QUALITY: QUALITY_COLUMNS}
"""Columns of the groups that a store may have or not."""

Columns = Mapping[str, npt.NDArray[Any]]
"""Name -> values; a name in a group is `group/name`."""


def to_columns(
    infos: Sequence[SampleInfo],
    lengths: Sequence[int],
    segments: Sequence[Segment] | None,
    quality: Sequence[Quality] | None,
) -> dict[str, npt.NDArray[Any]]:
    """All columns of a store; the arguments are those of `shards.store.create`."""
    assert len(infos) == len(lengths), "one length a sample"
    assert all(length >= 1 for length in lengths), "a sample has at least one frame"
    assert all(a.key < b.key for a, b in pairwise(infos)), "keys are sorted and unique"
    assert quality is None or len(quality) == len(infos), "one quality a sample"
    columns: dict[str, npt.NDArray[Any]] = {}
    columns["offsets"] = np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))]).astype(np.int64)
    columns["key"] = _encode_keys([info.key for info in infos])
    columns |= _columns("", INFO_COLUMNS, infos, np.int32)
    if segments is not None:
        columns |= _columns(f"{SEGMENTS}/", SEGMENT_COLUMNS, segments, np.int64)
    if quality is not None:
        columns |= _columns(f"{QUALITY}/", QUALITY_COLUMNS, quality, np.int32)
    return columns


def _columns(
    prefix: str, names: Sequence[str], rows: Sequence[Any], dtype: npt.DTypeLike
) -> dict[str, npt.NDArray[Any]]:
    return {f"{prefix}{name}": np.array([getattr(row, name) for row in rows], dtype=dtype) for name in names}


def _encode_keys(keys: Sequence[str]) -> npt.NDArray[np.uint8]:
    encoded = [key.encode("ascii") for key in keys]
    width = max(map(len, encoded))
    return np.frombuffer(b"".join(key.ljust(width, b"\0") for key in encoded), dtype=np.uint8).reshape(-1, width)


def infos_of(columns: Columns) -> list[SampleInfo]:
    """What is known of each sample, in the order of the rows."""
    keys = [row.tobytes().rstrip(b"\0").decode("ascii") for row in columns["key"]]
    values = (columns[name].tolist() for name in INFO_COLUMNS)
    return [SampleInfo(*row) for row in zip(keys, *values, strict=True)]


def rows_of(columns: Columns, group: str) -> list[tuple[int, ...]] | None:
    """The rows of a group of `GROUPS`; None if the store has no such group."""
    names = [f"{group}/{name}" for name in GROUPS[group]]
    if names[0] not in columns:
        return None
    return list(zip(*(columns[name].tolist() for name in names), strict=True))


def check_columns(path: Place, num_frames: int, columns: Columns) -> None:
    """Refuse columns that contradict each other or the number of frames, with StoreError."""
    offsets, keys = columns["offsets"], columns["key"]
    if (
        offsets.ndim != 1
        or not len(offsets)
        or offsets[0] != 0
        or offsets[-1] != num_frames
        or (np.diff(offsets) < 1).any()
    ):
        raise StoreError(f"{path}: found offsets that do not rise from 0 to {num_frames}, expected one window a sample")
    if keys.ndim != 2 or keys.dtype != np.uint8 or keys.max(initial=0) > 127:
        raise StoreError(f"{path}: found keys {keys.shape} {keys.dtype}, expected (N, L) uint8 of ASCII")
    for name in columns.keys() - {"offsets"}:
        if not name.startswith(f"{SEGMENTS}/") and len(columns[name]) != len(offsets) - 1:
            raise StoreError(f"{path}: found {len(columns[name])} rows of {name}, expected {len(offsets) - 1}")
    lengths = {len(columns[name]) for name in columns if name.startswith(f"{SEGMENTS}/")}
    if len(lengths) > 1:
        raise StoreError(f"{path}: found segment columns of {sorted(lengths)} rows, expected one length")
