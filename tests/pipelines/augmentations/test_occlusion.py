"""Occlusion of body parts and of time, against one sample after the other, and masks that are stored."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from pipelines.augmentations.draws import uniform
from pipelines.augmentations.occlusion import (
    SpatialOcclusion,
    StoredOcclusion,
    TemporalOcclusion,
    occluded_parts,
    store_occlusion,
)
from pipelines.augmentations.operation import Key, Mask, Samples
from shards.errors import ConfigError, StoreError
from shards.skeleton import JOINT_NAMES

KEY = Key(seed=1, epoch=0, step=0, view="occluded")
X = torch.empty(0, 64, 2, 25, 3)


def _samples(ids: Tensor) -> Samples:
    return Samples(ids, torch.full_like(ids, 100))


def test_the_seven_parts_hold_every_joint_once_and_hands_are_parts_of_their_own() -> None:
    parts = occluded_parts()
    assert sorted(joint for part in parts for joint in part) == list(range(25))
    assert sorted(len(part) for part in parts) == [3, 3, 3, 3, 4, 4, 5]
    names = {tuple(JOINT_NAMES[joint] for joint in part) for part in parts}
    assert ("left hand", "left hand tip", "left thumb") in names
    assert ("left shoulder", "left elbow", "left wrist") in names


@pytest.mark.parametrize("operation", [SpatialOcclusion(), SpatialOcclusion(min_ratio=0.1, max_ratio=0.1)])
def test_parts_are_hidden_one_after_the_other_until_the_ratio_is_met(operation: SpatialOcclusion) -> None:
    ids = torch.arange(500)
    visible = operation.visible(X, operation.draw(_samples(ids), KEY, 64))
    assert visible.shape == (500, 1, 1, 25)
    draws = uniform(1, 0, ids, "occluded", "spatial-occlusion", 8)
    for n in range(500):
        ratio = operation.min_ratio + float(draws[n, 0]) * (operation.max_ratio - operation.min_ratio)
        hidden: set[int] = set()
        for part in draws[n, 1:].argsort().tolist():
            if len(hidden) >= 25 * ratio:
                break
            hidden.update(occluded_parts()[part])
        assert visible[n, 0, 0].tolist() == [joint not in hidden for joint in range(25)]


def test_every_part_begins_an_occlusion_equally_often() -> None:
    operation = SpatialOcclusion(min_ratio=0.01, max_ratio=0.01)
    hidden = ~operation.draw(_samples(torch.arange(14_000)), KEY, 64)
    counts = torch.tensor([int(hidden[:, list(part)].all(dim=1).sum()) for part in occluded_parts()])
    # 2,000 each are expected, standard deviation 41
    assert int(counts.sum()) == 14_000
    assert ((counts - 2000).abs() < 210).all()


def test_one_block_of_frames_is_hidden_of_the_drawn_length_anywhere() -> None:
    operation = TemporalOcclusion()
    ids = torch.arange(20_000)
    visible = operation.visible(X, operation.draw(_samples(ids), KEY, 64))
    assert visible.shape == (20_000, 64, 1, 1)
    hidden = ~visible[:, :, 0, 0]
    ratio = 0.3 + uniform(1, 0, ids, "occluded", "temporal-occlusion", 2)[:, 0] * (0.7 - 0.3)
    assert hidden.sum(dim=1).tolist() == [math.ceil(share * 64) for share in ratio.tolist()]
    edges = torch.nn.functional.pad(hidden.int(), (1, 1)).diff(dim=1)
    assert ((edges == 1).sum(dim=1) == 1).all()
    lengths = torch.bincount(hidden.sum(dim=1))
    # 25.6 lengths from 20 to 45, 781 each but the last; standard deviation 27
    assert ((lengths[20:45] - 781).abs() < 140).all()
    longest = hidden[hidden.sum(dim=1) == 40].int().argmax(dim=1)
    assert set(longest.tolist()) == set(range(25))


@pytest.mark.parametrize("operation", [SpatialOcclusion(), TemporalOcclusion()])
def test_occlusion_of_a_sample_does_not_depend_on_its_batch(operation: Mask) -> None:
    every = operation.draw(_samples(torch.arange(60)), KEY, 64)
    some = torch.tensor([59, 3, 17])
    assert torch.equal(operation.draw(_samples(some), Key(1, 0, 9, "occluded"), 64), every[some])


def test_a_full_occlusion_hides_everything() -> None:
    for operation in (SpatialOcclusion(min_ratio=1, max_ratio=1), TemporalOcclusion(min_ratio=1, max_ratio=1)):
        assert not operation.draw(_samples(torch.arange(5)), KEY, 64).any()


def test_a_ratio_above_its_maximum_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"min_ratio=0\.8, expected at most max_ratio=0\.7"):
        SpatialOcclusion(min_ratio=0.8)


@pytest.mark.parametrize("operation", [SpatialOcclusion(), TemporalOcclusion()])
def test_stored_masks_are_those_of_the_seed_whatever_the_run_asks_with(
    operation: SpatialOcclusion | TemporalOcclusion, tmp_path: Path
) -> None:
    ids = torch.tensor([7, 900, 3, 10**12])
    store_occlusion(tmp_path / "masks.npz", operation, ids, frames=64, seed=5)
    stored = StoredOcclusion(path=tmp_path / "masks.npz")
    expected = operation.visible(X, operation.draw(_samples(ids), Key(5, 0, 0, "occluded"), 64))
    assert not expected.all()
    for key in (KEY, Key(9, 3, 4, "x")):
        asked = torch.tensor([2, 0, 3, 2, 1])
        found = stored.visible(X, stored.draw(_samples(ids[asked]), key, 64))
        assert torch.equal(found, expected[asked])


def test_a_file_of_masks_is_the_same_for_the_same_seed_and_is_read_again_when_it_changed(tmp_path: Path) -> None:
    ids = torch.arange(40)
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    store_occlusion(first, SpatialOcclusion(), ids, frames=64, seed=5)
    store_occlusion(second, SpatialOcclusion(), ids.flip(0), frames=64, seed=5)
    store_occlusion(other, SpatialOcclusion(), ids, frames=64, seed=6)
    assert first.read_bytes() == second.read_bytes() != other.read_bytes()
    stored = StoredOcclusion(path=first)
    before = stored.draw(_samples(ids), KEY, 64)
    other.replace(first)
    assert not torch.equal(stored.draw(_samples(ids), KEY, 64), before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]


def test_masks_of_body_parts_serve_views_of_any_length_and_blocks_of_time_one_length(tmp_path: Path) -> None:
    ids = torch.arange(4)
    store_occlusion(tmp_path / "parts.npz", SpatialOcclusion(), ids, frames=64, seed=0)
    store_occlusion(tmp_path / "time.npz", TemporalOcclusion(), ids, frames=64, seed=0)
    StoredOcclusion(path=tmp_path / "parts.npz").draw(_samples(ids), KEY, 32)
    with pytest.raises(ConfigError, match=r"time\.npz: found masks of 64 frames, expected 32"):
        StoredOcclusion(path=tmp_path / "time.npz").draw(_samples(ids), KEY, 32)


@pytest.mark.parametrize("missing", [0, 5, 8])
def test_a_sample_without_a_stored_mask_is_named(missing: int, tmp_path: Path) -> None:
    store_occlusion(tmp_path / "masks.npz", SpatialOcclusion(), torch.tensor([1, 4, 7]), frames=64, seed=0)
    with pytest.raises(StoreError, match=rf"masks\.npz: found no mask of sample {missing}, expected one of every"):
        StoredOcclusion(path=tmp_path / "masks.npz").draw(_samples(torch.tensor([4, missing])), KEY, 64)


def test_samples_that_cannot_be_stored_are_refused_and_leave_no_file(tmp_path: Path) -> None:
    for ids, found in (([], "0 samples, 0 different"), ([3, 4, 3], "3 samples, 2 different")):
        with pytest.raises(ConfigError, match=rf"masks\.npz: found {found}, expected each once"):
            store_occlusion(
                tmp_path / "masks.npz", SpatialOcclusion(), torch.tensor(ids, dtype=torch.int64), frames=64, seed=0
            )
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_holds_no_masks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "masks.npz"
    with pytest.raises(StoreError, match=r"masks\.npz: found no file, expected masks written by"):
        StoredOcclusion(path=path).draw(_samples(torch.arange(1)), KEY, 64)
    store_occlusion(path, SpatialOcclusion(), torch.arange(9), frames=64, seed=0)
    whole = path.read_bytes()
    contents: list[bytes] = [b"", b"no zip at all", whole[: len(whole) // 2], whole[:100] + b"\0" * 20 + whole[120:]]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(StoreError, match=r"masks\.npz: found no masks .*expected `sample_id` and `visible`"):
            StoredOcclusion(path=path).draw(_samples(torch.arange(1)), KEY, 64)


@pytest.mark.parametrize(
    ("arrays", "found"),
    [
        ({"sample_id": np.arange(2)}, "found no masks"),
        ({"sample_id": np.arange(2), "visible": np.ones((3, 1, 1, 25), bool)}, r"found shapes \(2,\), \(3, 1, 1, 25\)"),
        ({"sample_id": np.arange(0), "visible": np.ones((0, 1, 1, 25), bool)}, r"found shapes \(0,\)"),
        ({"sample_id": np.arange(2), "visible": np.ones((2, 1, 1, 24), bool)}, "found shapes"),
        ({"sample_id": np.arange(2), "visible": np.ones((2, 1, 1, 25), np.uint8)}, "found int64, uint8"),
        (
            {"sample_id": np.arange(2)[::-1], "visible": np.ones((2, 1, 1, 25), bool)},
            "found int64, bool, expected ascending int64",
        ),
        ({"sample_id": np.array([{}, {}]), "visible": np.ones((2, 1, 1, 25), bool)}, "found no masks .*allow_pickle"),
    ],
)
def test_arrays_that_are_no_table_of_masks_are_refused(
    arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]], found: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "masks.npz", **arrays)  # type: ignore[arg-type]  # the stub takes the names for its own options
    with pytest.raises(StoreError, match=rf"masks\.npz: {found}"):
        StoredOcclusion(path=tmp_path / "masks.npz").draw(_samples(torch.arange(1)), KEY, 64)
