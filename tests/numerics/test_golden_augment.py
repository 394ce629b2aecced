"""Crop, shear, corruption, streams, masks and mixing against numbers of the PCM3 reference, by its recorded draws."""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from pipelines.augmentations.joints import Corruption, corruption_matrices
from pipelines.augmentations.masks import main_person_only, part_mask
from pipelines.augmentations.mixing import Mixing, apply_mix, weight
from pipelines.augmentations.operation import Window
from pipelines.augmentations.spatial import apply_matrices, shear_matrix
from pipelines.augmentations.streams import apply_stream
from pipelines.augmentations.temporal import apply_resize, centre_crop
from pipelines.views import Block, partner_rows
from shards.batch import RaggedBatch, flatten
from shards.skeleton import BODY_PARTS, Stream
from tests.numerics.golden import facts, found, matching, numbers

TOLERANCE = 1e-5

MODES: dict[str, Literal["cut", "time", "mixup"]] = {"swap": "cut", "time": "time", "mix": "mixup"}

NUMBERS, DRAWS = numbers("augment"), facts("augment")
CROPS = list(enumerate(found(DRAWS["crop"])))
CENTRE_CROPS = list(enumerate(found(DRAWS["crop_subsequence"])))
MIXES = list(enumerate(found(DRAWS["swap"])))


def _ours(array: npt.NDArray[Any]) -> Tensor:
    """(C, T, V, M) or (N, C, T, V, M) of the reference -> (N, T, M, V, C)."""
    batched = array if array.ndim == 5 else array[None]
    return torch.from_numpy(np.ascontiguousarray(batched.transpose(0, 2, 4, 3, 1)))


def _ragged(arrays: list[npt.NDArray[Any]]) -> RaggedBatch:
    """Sequences (C, T, V, M) end to end, with frames between and behind that no sample owns."""
    sequences = [_ours(array)[0] for array in arrays]
    stray = torch.full((3, *sequences[0].shape[1:]), 1e6)
    pieces = [piece for sequence in sequences for piece in (stray, sequence)] + [stray]
    length = torch.tensor([len(sequence) for sequence in sequences])
    start = (length + 3).cumsum(0) - length
    ids = torch.arange(len(arrays))
    return RaggedBatch(torch.cat(pieces), start, length, ids, ids)


def _assert_close(actual: Tensor, expected: npt.NDArray[Any]) -> None:
    np.testing.assert_allclose(actual.numpy(), _ours(expected).numpy(), rtol=0, atol=TOLERANCE)


def test_every_array_is_of_a_recorded_case() -> None:
    for pattern, recorded in (("crop_*_in", "crop"), ("cropsub_*_in", "crop_subsequence"), ("swap_*_out", "swap")):
        assert sorted(map(int, matching(NUMBERS, pattern))) == list(range(len(DRAWS[recorded])))
    assert len(matching(NUMBERS, "feeder_view*")) == len(DRAWS["feeder"]["views"])


def test_cropped_and_resized_windows_equal_the_reference_in_one_batch() -> None:
    batch = _ragged([NUMBERS[f"crop_{i}_in"] for i, _ in CROPS])
    window = Window(*(torch.tensor([case[name] for _, case in CROPS]) for name in ("start", "crop_length")))
    resized = {frames: apply_resize(batch, window, frames) for frames in {case["output_size"] for _, case in CROPS}}
    for i, case in CROPS:
        _assert_close(resized[case["output_size"]][i : i + 1], NUMBERS[f"crop_{i}_out"])


@pytest.mark.parametrize(("i", "case"), CENTRE_CROPS)
def test_the_centre_crop_equals_the_reference(i: int, case: dict[str, Any]) -> None:
    batch = _ragged([NUMBERS[f"cropsub_{i}_in"]])
    window = centre_crop(batch.length, case["l_ratio"][0])
    assert [int(window.first), int(window.first + window.length)] == case["kept"]
    _assert_close(apply_resize(batch, window, case["output_size"]), NUMBERS[f"cropsub_{i}_out"])


@pytest.mark.parametrize("i", matching(NUMBERS, "shear_*_in"))
def test_shears_equal_the_reference(i: str) -> None:
    matrix = shear_matrix(torch.from_numpy(NUMBERS[f"shear_{i}_draws"])[None])
    np.testing.assert_allclose(matrix[0].numpy(), NUMBERS[f"shear_{i}_matrix"], rtol=0, atol=1e-7)
    _assert_close(apply_matrices(_ours(NUMBERS[f"shear_{i}_in"]), matrix), NUMBERS[f"shear_{i}_out"])


@pytest.mark.parametrize("linear", [False, True])
def test_corrupted_joints_equal_the_reference(linear: bool) -> None:
    cases = [i for i in matching(NUMBERS, "corrupt_*_in") if (NUMBERS[f"corrupt_{i}_u"] >= 0.5) == linear]
    if not cases:
        pytest.skip(f"no case with {linear=} in the golden set")
    for i in cases:
        joints, matrix = NUMBERS[f"corrupt_{i}_joints"].tolist(), NUMBERS[f"corrupt_{i}_matrix"].ravel().tolist()
        x = _ours(NUMBERS[f"corrupt_{i}_in"])
        corrupted = apply_matrices(x, corruption_matrices(_corruption(joints, matrix, linear)))
        _assert_close(corrupted, NUMBERS[f"corrupt_{i}_out"])
        changed, filled = (there.any(dim=(0, 1, 2, 4)).tolist() for there in (corrupted != x, x != 0))
        masked = NUMBERS[f"corrupt_{i}_mask"].astype(bool)
        assert changed == (masked & filled).tolist()


def test_the_three_views_of_a_training_item_equal_the_reference() -> None:
    length, views = DRAWS["feeder"]["num_frame"], DRAWS["feeder"]["views"]
    batch = _ragged([NUMBERS["feeder_in"][:, :length]])
    for number, calls in enumerate(views, start=1):
        expected = NUMBERS[f"feeder_view{number}"]
        values = [call["value"] for call in calls]
        scale, start, branch, *rest = values
        kept = min(max(int(np.floor(length * (scale * 0.9 + 0.1))), 64), length)
        x = apply_resize(batch, Window(torch.tensor([start]), torch.tensor([kept])), expected.shape[1])
        if branch < 0.5 and number < len(views):
            how, joints, *entries = rest
            matrices = corruption_matrices(_corruption(joints, entries, how >= 0.5))
        else:
            matrices = shear_matrix(torch.tensor([rest], dtype=torch.float64))
        _assert_close(apply_matrices(x, matrices), expected)


def _corruption(joints: list[int], entries: list[float], linear: bool) -> Corruption:
    matrix = torch.tensor(entries, dtype=torch.float32) if linear else torch.full((9,), 7.0)
    return Corruption(torch.tensor([joints]), torch.tensor([linear]), matrix.view(1, 3, 3))


@pytest.mark.parametrize("stream", [stream for stream in matching(NUMBERS, "stream_*") if stream != "in"])
def test_streams_equal_the_reference(stream: Stream) -> None:
    _assert_close(apply_stream(_ours(NUMBERS["stream_in"]), stream), NUMBERS[f"stream_{stream}"])


def test_body_parts_are_those_of_the_reference_in_its_order() -> None:
    parts = [DRAWS["parts_zero_based"][n] for n in ("trunk", "left_hand", "right_hand", "left_leg", "right_leg")]
    assert [sorted(part) for part in parts] == [list(part) for part in BODY_PARTS]


PART_MASKS = [case.removesuffix("_parts") for case in matching(NUMBERS, "partmask_*_parts")]


@pytest.mark.parametrize("case", PART_MASKS)
def test_part_masks_equal_the_reference(case: str) -> None:
    expected = NUMBERS[f"partmask_{case}"]  # (N, T, M, V, C)
    parts = torch.from_numpy(NUMBERS[f"partmask_{case}_parts"])[None]
    visible = main_person_only(part_mask(parts, expected.shape[1]))
    every_coordinate = visible[..., None].expand(1, *expected.shape[1:])
    for sample in expected:
        np.testing.assert_array_equal(every_coordinate[0].numpy(), sample.astype(bool))


@pytest.mark.parametrize("case", PART_MASKS)
def test_a_flattened_mask_keeps_the_reference_order_of_axes(case: str) -> None:
    expected = NUMBERS[f"partmask_{case}"][:1]
    flat = flatten(torch.from_numpy(expected))
    np.testing.assert_array_equal(flat.numpy(), expected.transpose(0, 1, 3, 4, 2).reshape(1, expected.shape[1], -1))


@pytest.mark.parametrize(("case", "recorded"), MIXES)
def test_mixed_views_partners_and_weights_equal_the_reference(case: int, recorded: dict[str, Any]) -> None:
    mask = NUMBERS[f"swap_{case}_mask"]  # (units of time, V)
    mix = Mixing(
        mode=MODES[recorded["kind"]],
        joints=tuple(sorted(joint for part in recorded["parts"] for joint in BODY_PARTS[part])),
        first=recorded["tem_idx"],
        length=recorded["Ct"],
        units=len(mask),
        blend=recorded["lambda_draw"] or 0.0,
    )
    x = _ours(NUMBERS["swap_in"])
    partners = partner_rows(Block(0, len(x), len(x)), recorded["n"])
    assert partners == NUMBERS[f"swap_{case}_randidx"].tolist()
    _assert_close(apply_mix(x, x[partners], mix), NUMBERS[f"swap_{case}_out"])
    assert weight(mix) == pytest.approx(recorded["mask_mean"], abs=1e-6)
    assert weight(mix) == pytest.approx(float(mask.mean()), abs=1e-6)
