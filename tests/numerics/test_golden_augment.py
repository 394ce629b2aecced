"""Crop, shear, corruption, streams, masks and mixing against numbers of the PCM3 reference, by its recorded draws."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor

from pipelines.augmentations.joints import Corruption, corruption_matrices
from pipelines.augmentations.masks import main_person_only, part_mask
from pipelines.augmentations.mixing import Mixing, apply_mix, weight
from pipelines.augmentations.operation import Window
from pipelines.augmentations.spatial import apply_matrices, shear_matrix
from pipelines.augmentations.streams import Stream, apply_stream
from pipelines.augmentations.temporal import apply_resize, centre_crop
from pipelines.views import Block, partner_rows
from shards.batch import RaggedBatch, flatten
from shards.skeleton import BODY_PARTS

TOLERANCE = 1e-5

MODES: dict[str, Literal["cut", "time", "mixup"]] = {"swap": "cut", "time": "time", "mix": "mixup"}


@pytest.fixture(scope="module")
def numbers(golden: Path) -> NpzFile:
    arrays: NpzFile = np.load(golden / "augment.npz", allow_pickle=False)
    return arrays


@pytest.fixture(scope="module")
def draws(golden: Path) -> dict[str, Any]:
    recorded: dict[str, Any] = json.loads((golden / "augment.json").read_text(encoding="utf-8"))
    return recorded


def _ours(array: npt.NDArray[Any]) -> Tensor:
    """(C, T, V, M) or (N, C, T, V, M) of the reference -> (N, T, M, V, C)."""
    batched = array if array.ndim == 5 else array[None]
    return torch.from_numpy(np.ascontiguousarray(batched.transpose(0, 2, 4, 3, 1)))


def _ragged(arrays: list[npt.NDArray[Any]]) -> RaggedBatch:
    """Sequences (C, T, V, M) end to end, with frames between and behind that no sample owns."""
    stray = torch.full((3, 2, 25, 3), 1e6)
    pieces = [piece for array in arrays for piece in (stray, _ours(array)[0])] + [stray]
    length = torch.tensor([array.shape[1] for array in arrays])
    start = (length + 3).cumsum(0) - length
    ids = torch.arange(len(arrays))
    return RaggedBatch(torch.cat(pieces), start, length, ids, ids)


def _assert_close(found: Tensor, expected: npt.NDArray[Any]) -> None:
    np.testing.assert_allclose(found.numpy(), _ours(expected).numpy(), rtol=0, atol=TOLERANCE)


def test_cropped_and_resized_windows_equal_the_reference_in_one_batch(numbers: NpzFile, draws: dict[str, Any]) -> None:
    cases = draws["crop"]
    batch = _ragged([numbers[f"crop_{i}_in"] for i in range(len(cases))])
    window = Window(*(torch.tensor([case[name] for case in cases]) for name in ("start", "crop_length")))
    resized = apply_resize(batch, window, 64)
    for i in range(len(cases)):
        _assert_close(resized[i : i + 1], numbers[f"crop_{i}_out"])


def test_the_centre_crop_equals_the_reference(numbers: NpzFile, draws: dict[str, Any]) -> None:
    for i, case in enumerate(draws["crop_subsequence"]):
        batch = _ragged([numbers[f"cropsub_{i}_in"]])
        window = centre_crop(batch.length, case["l_ratio"][0])
        assert [int(window.first), int(window.first + window.length)] == case["kept"]
        _assert_close(apply_resize(batch, window, case["output_size"]), numbers[f"cropsub_{i}_out"])


def test_shears_equal_the_reference(numbers: NpzFile) -> None:
    for i in range(3):
        matrix = shear_matrix(torch.from_numpy(numbers[f"shear_{i}_draws"])[None])
        np.testing.assert_allclose(matrix[0].numpy(), numbers[f"shear_{i}_matrix"], rtol=0, atol=1e-7)
        _assert_close(apply_matrices(_ours(numbers[f"shear_{i}_in"]), matrix), numbers[f"shear_{i}_out"])


def test_corrupted_joints_equal_the_reference(numbers: NpzFile) -> None:
    linear = [bool(numbers[f"corrupt_{i}_u"] >= 0.5) for i in range(4)]
    assert any(linear)
    assert not all(linear)
    for i in range(4):
        params = _corruption(
            numbers[f"corrupt_{i}_joints"].tolist(), numbers[f"corrupt_{i}_matrix"].ravel().tolist(), linear[i]
        )
        x = _ours(numbers[f"corrupt_{i}_in"])
        corrupted = apply_matrices(x, corruption_matrices(params))
        _assert_close(corrupted, numbers[f"corrupt_{i}_out"])
        changed = (corrupted != x).any(dim=(0, 1, 2, 4))
        assert changed.tolist() == numbers[f"corrupt_{i}_mask"].astype(bool).tolist()


def test_the_three_views_of_a_training_item_equal_the_reference(numbers: NpzFile, draws: dict[str, Any]) -> None:
    length = draws["feeder"]["num_frame"]
    batch = _ragged([numbers["feeder_in"][:, :length]])
    for number, calls in enumerate(draws["feeder"]["views"], start=1):
        values = [call["value"] for call in calls]
        scale, start, branch, *rest = values
        kept = min(max(int(np.floor(length * (scale * 0.9 + 0.1))), 64), length)
        x = apply_resize(batch, Window(torch.tensor([start]), torch.tensor([kept])), 64)
        if branch < 0.5 and number < 3:
            how, joints, *entries = rest
            matrices = corruption_matrices(_corruption(joints, entries, how >= 0.5))
        else:
            matrices = shear_matrix(torch.tensor([rest], dtype=torch.float64))
        _assert_close(apply_matrices(x, matrices), numbers[f"feeder_view{number}"])


def _corruption(joints: list[int], entries: list[float], linear: bool) -> Corruption:
    matrix = torch.tensor(entries, dtype=torch.float32) if linear else torch.full((9,), 7.0)
    return Corruption(torch.tensor([joints]), torch.tensor([linear]), matrix.view(1, 3, 3))


@pytest.mark.parametrize("stream", ["joint", "bone", "motion"])
def test_streams_equal_the_reference(numbers: NpzFile, stream: Stream) -> None:
    _assert_close(apply_stream(_ours(numbers["stream_in"]), stream), numbers[f"stream_{stream}"])


def test_body_parts_are_those_of_the_reference_in_its_order(draws: dict[str, Any]) -> None:
    parts = [draws["parts_zero_based"][n] for n in ("trunk", "left_hand", "right_hand", "left_leg", "right_leg")]
    assert [sorted(part) for part in parts] == [list(part) for part in BODY_PARTS]


@pytest.mark.parametrize("case", [0, 1])
def test_part_masks_equal_the_reference(numbers: NpzFile, case: int) -> None:
    expected = numbers[f"partmask_{case}"]  # (N, T, M, V, C)
    visible = main_person_only(part_mask(torch.from_numpy(numbers[f"partmask_{case}_parts"])[None], 64))
    found = visible[..., None].expand(1, 64, 2, 25, 3)
    for sample in expected:
        np.testing.assert_array_equal(found[0].numpy(), sample.astype(bool))


def test_a_flattened_mask_keeps_the_reference_order_of_axes(numbers: NpzFile) -> None:
    expected = numbers["partmask_0"][:1]
    flat = flatten(torch.from_numpy(expected))
    np.testing.assert_array_equal(flat.numpy(), expected.transpose(0, 1, 3, 4, 2).reshape(1, 64, 150))


@pytest.mark.parametrize("case", range(6))
def test_mixed_views_partners_and_weights_equal_the_reference(
    numbers: NpzFile, draws: dict[str, Any], case: int
) -> None:
    recorded = draws["swap"][case]
    mix = Mixing(
        mode=MODES[recorded["kind"]],
        joints=tuple(sorted(joint for part in recorded["parts"] for joint in BODY_PARTS[part])),
        first=recorded["tem_idx"],
        length=recorded["Ct"],
        blend=recorded["lambda_draw"] or 0.0,
    )
    x = _ours(numbers["swap_in"])
    partners = partner_rows(Block(0, len(x), len(x)), recorded["n"])
    assert partners == numbers[f"swap_{case}_randidx"].tolist()
    _assert_close(apply_mix(x, x[partners], mix), numbers[f"swap_{case}_out"])
    assert weight(mix) == pytest.approx(recorded["mask_mean"], abs=1e-6)
    assert weight(mix) == pytest.approx(float(numbers[f"swap_{case}_mask"].mean()), abs=1e-6)
