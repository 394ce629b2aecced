"""Occlusion, for the robustness of downstream tasks: body parts or a block of time are set to zero, for both persons.

A protocol draws the masks of its samples once and stores them: `store_occlusion` and `StoredOcclusion`.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from pipelines.augmentations.draws import choose, subset
from pipelines.augmentations.masks import run
from pipelines.augmentations.operation import Key, Mask, Samples
from shards.errors import ConfigError, StoreError
from shards.files import atomic_path
from shards.npz import read_npz
from shards.paths import expand_home
from shards.skeleton import BODY_PARTS, JOINT_NAMES, NUM_COORDINATES, NUM_JOINTS, NUM_PERSONS


def occluded_parts() -> tuple[tuple[int, ...], ...]:
    """The seven parts that are occluded: trunk, arms, legs and hands, which are the joints named hand and thumb."""
    hands = {joint for joint, name in enumerate(JOINT_NAMES) if "hand" in name or "thumb" in name}
    split = (
        tuple(joint for joint in part if (joint in hands) is hand) for part in BODY_PARTS for hand in (False, True)
    )
    return tuple(part for part in split if part)


class _Occlusion(Mask):
    """Options of both kinds of occlusion.

    Attributes:
        min_ratio, max_ratio: a sample loses U[min_ratio, max_ratio] of its entries at least.
    """

    min_ratio: float = Field(default=0.3, gt=0, le=1)
    max_ratio: float = Field(default=0.7, gt=0, le=1)

    source: ClassVar[str] = "A Benchmark and Beyond, 4.4.2; details ours"

    def _ratio(self, draws: Tensor) -> Tensor:
        return draws * (self.max_ratio - self.min_ratio) + self.min_ratio


class SpatialOcclusion(_Occlusion):
    """Body parts are hidden in all frames, one after the other in random order, until the ratio of joints is met."""

    kind: Literal["spatial_occlusion"] = "spatial_occlusion"

    def draw(self, samples: Samples, key: Key, frames: int) -> Tensor:
        """(N, V) bool, True where a joint stays."""
        parts = occluded_parts()
        draws = key.sample(samples.sample_id, "spatial-occlusion", 1 + len(parts))
        order = subset(draws[:, 1:], len(parts))
        size = torch.tensor([len(part) for part in parts], device=order.device)[order]
        hidden = size.cumsum(dim=1) - size < NUM_JOINTS * self._ratio(draws[:, :1])
        part_of = torch.tensor([row for v in range(NUM_JOINTS) for row, part in enumerate(parts) if v in part])
        by_part = torch.zeros_like(hidden).scatter(1, order, hidden)
        return ~by_part[:, part_of.to(order.device)]

    def visible(self, x: Tensor, params: Tensor) -> Tensor:
        return params[:, None, None]


class TemporalOcclusion(_Occlusion):
    """One block of frames anywhere is hidden: ceil(ratio * frames) of them."""

    kind: Literal["temporal_occlusion"] = "temporal_occlusion"

    def draw(self, samples: Samples, key: Key, frames: int) -> Tensor:
        """(N, T) bool, True where a frame stays."""
        draws = key.sample(samples.sample_id, "temporal-occlusion", 2)
        length = torch.ceil(self._ratio(draws[:, :1]) * frames).to(torch.int64).clamp(max=frames)
        return ~run(choose(draws[:, 1:], 0, frames - length), length, frames)

    def visible(self, x: Tensor, params: Tensor) -> Tensor:
        return params[:, :, None, None]


class StoredOcclusion(Mask):
    """The masks that `store_occlusion` wrote. Saying that a sample has none waits for the device.

    Attributes:
        path: the file.
    """

    kind: Literal["stored_occlusion"] = "stored_occlusion"
    path: Annotated[Path, AfterValidator(expand_home)]

    source: ClassVar[str] = "A Benchmark and Beyond, 4.4.2; details ours"

    def draw(self, samples: Samples, key: Key, frames: int) -> Tensor:
        """(N, T or 1, 1, V or 1) bool, True where visible; nothing is drawn.

        Raises:
            StoreError: no such file, not one of masks, or a sample without a mask.
            ConfigError: the masks are of views of another length.
        """
        table = _current(self.path, samples.sample_id.device)
        if table.visible.shape[1] not in (1, frames):
            raise ConfigError(f"{self.path}: found masks of {table.visible.shape[1]} frames, expected {frames}")
        rows = torch.searchsorted(table.sample_id, samples.sample_id).clamp(max=len(table.sample_id) - 1)
        missing = table.sample_id[rows] != samples.sample_id
        if missing.any():
            sample = int(samples.sample_id[missing][0])
            raise StoreError(f"{self.path}: found no mask of sample {sample}, expected one of every sample")
        return table.visible[rows]

    def visible(self, x: Tensor, params: Tensor) -> Tensor:
        return params


def store_occlusion(
    path: Path, operation: SpatialOcclusion | TemporalOcclusion, sample_id: Tensor, *, frames: int, seed: int
) -> None:
    """Draw the masks of samples once and write them, whole or not at all.

    Args:
        path: an .npz of `sample_id` (K,) int64, ascending, and `visible` (K, T or 1, 1, V or 1) bool.
        operation: what is drawn.
        sample_id: (K,) int64, all different.
        frames: T of the views that are occluded.
        seed: the masks are a function of it and the sample id.

    Raises:
        ConfigError: no samples, or one twice.
    """
    ids = sample_id.cpu().sort().values
    if len(ids) == 0 or (ids.diff() == 0).any():
        raise ConfigError(f"{path}: found {len(ids)} samples, {len(set(ids.tolist()))} different, expected each once")
    drawn = operation.draw(Samples(ids, torch.full_like(ids, frames)), Key(seed, 0, 0, "occluded"), frames)
    visible = operation.visible(torch.empty(0, frames, NUM_PERSONS, NUM_JOINTS, NUM_COORDINATES), drawn)
    # a file object, for NumPy appends .npz to names
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, sample_id=ids.numpy(), visible=visible.numpy())


@dataclass(frozen=True)
class _Table:
    sample_id: Tensor
    visible: Tensor


def _current(path: Path, device: torch.device) -> _Table:
    try:
        return _table(path, path.stat().st_mtime_ns, device)
    except FileNotFoundError:
        raise StoreError(f"{path}: found no file, expected masks written by `store_occlusion`") from None


@functools.lru_cache(maxsize=4)
def _table(path: Path, changed: int, device: torch.device) -> _Table:
    """The masks of a file on a device; read again where `changed` says that the file is another one."""
    ids, visible = read_npz(path, ("sample_id", "visible"), "masks").values()
    shapes = ids.ndim == 1 and len(ids) > 0 and visible.ndim == 4 and len(visible) == len(ids)
    if not (shapes and visible.shape[2] == 1 and visible.shape[3] in (1, NUM_JOINTS)):
        raise StoreError(f"{path}: found shapes {ids.shape}, {visible.shape}, expected (K,), (K, T, 1, {NUM_JOINTS})")
    if ids.dtype != np.int64 or visible.dtype != np.bool_ or not (np.diff(ids) > 0).all():
        raise StoreError(f"{path}: found {ids.dtype}, {visible.dtype}, expected ascending int64 and bool")
    return _Table(torch.from_numpy(ids).to(device), torch.from_numpy(visible).to(device))
