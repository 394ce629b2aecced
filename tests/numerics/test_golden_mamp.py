"""Motion-aware masks and motion targets against numbers of the MAMP reference, by its recorded draws."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor

from pipelines.augmentations.masks import ids_keep, keep_least, kept_count
from pipelines.augmentations.motion import (
    MotionMask,
    masking_noise,
    motion,
    probability,
    scaled_motion,
    target_normalised,
    target_patches,
)

CASES = range(4)


@pytest.fixture(scope="module")
def numbers(golden: Path) -> NpzFile:
    arrays: NpzFile = np.load(golden / "mamp.npz", allow_pickle=False)
    return arrays


@pytest.fixture(scope="module")
def cases(golden: Path) -> list[dict[str, Any]]:
    recorded: list[dict[str, Any]] = json.loads((golden / "mamp.json").read_text(encoding="utf-8"))["cases"]
    return recorded


def _views(numbers: NpzFile, case: int) -> Tensor:
    """(N, C, T, V, M) of the reference -> (N, T, M, V, C)."""
    return torch.from_numpy(np.ascontiguousarray(numbers[f"c{case}_x"].transpose(0, 2, 4, 3, 1)))


def _sequences(numbers: NpzFile, case: int) -> Tensor:
    """Persons as rows of the batch, (N*M, T, V, C)."""
    return _views(numbers, case).transpose(1, 2).flatten(0, 1)


def _target(numbers: NpzFile, cases: list[dict[str, Any]], case: int) -> Tensor:
    patches = target_patches(motion(_sequences(numbers, case), cases[case]["stride"]), cases[case]["u"])
    return target_normalised(patches) if cases[case]["norm"] else patches


@pytest.mark.parametrize("case", CASES)
def test_motion_and_its_patches_equal_the_reference(numbers: NpzFile, cases: list[dict[str, Any]], case: int) -> None:
    moved = motion(_sequences(numbers, case), cases[case]["stride"])
    np.testing.assert_allclose(moved.numpy(), numbers[f"c{case}_motion"], rtol=0, atol=1e-5)
    patches = target_patches(moved, cases[case]["u"])
    np.testing.assert_allclose(patches.numpy(), numbers[f"c{case}_target_patches"], rtol=0, atol=1e-5)
    found = _target(numbers, cases, case)
    np.testing.assert_allclose(found.numpy(), numbers[f"c{case}_target_normalised"], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_motion_and_probabilities_of_masking_equal_the_reference(
    numbers: NpzFile, cases: list[dict[str, Any]], case: int
) -> None:
    scaled = scaled_motion(_sequences(numbers, case), cases[case]["u"], cases[case]["tau"])
    np.testing.assert_allclose(scaled.numpy(), numbers[f"c{case}_scaled_motion"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(probability(scaled).numpy(), numbers[f"c{case}_prob"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("case", CASES)
def test_tokens_kept_equal_the_reference_in_their_order(
    numbers: NpzFile, cases: list[dict[str, Any]], case: int
) -> None:
    scaled = scaled_motion(_sequences(numbers, case), cases[case]["u"], cases[case]["tau"])
    noise = masking_noise(probability(scaled), torch.from_numpy(numbers[f"c{case}_rand"]))
    kept = kept_count(cases[case]["patches"], cases[case]["ratio"])
    assert kept == cases[case]["kept"]
    np.testing.assert_array_equal(ids_keep(noise, kept).numpy(), numbers[f"c{case}_ids_keep"])
    np.testing.assert_array_equal(keep_least(noise, kept).numpy(), numbers[f"c{case}_mask"] == 0)


@pytest.mark.parametrize("case", CASES)
def test_the_operation_hides_what_the_reference_removes(
    numbers: NpzFile, cases: list[dict[str, Any]], case: int
) -> None:
    x, recorded = _views(numbers, case), cases[case]
    operation = MotionMask(ratio=recorded["ratio"], patch=recorded["u"], tau=recorded["tau"])
    rand = torch.from_numpy(numbers[f"c{case}_rand"]).view(len(x), 2, -1)
    visible = operation.visible(x, rand)
    assert visible.shape == x.shape[:4]
    removed = numbers[f"c{case}_mask"].reshape(len(x), 2, -1, 25)
    for t in range(x.shape[1]):
        np.testing.assert_array_equal(~visible[:, t].numpy(), removed[:, :, t // recorded["u"]] == 1)


@pytest.mark.parametrize("case", CASES)
def test_the_loss_on_masked_tokens_equals_the_reference(
    numbers: NpzFile, cases: list[dict[str, Any]], case: int
) -> None:
    error = (torch.from_numpy(numbers[f"c{case}_pred"]) - _target(numbers, cases, case)).square().mean(dim=-1)
    loss = error[torch.from_numpy(numbers[f"c{case}_mask"] == 1)].mean().item()
    assert loss == pytest.approx(float(numbers[f"c{case}_loss"]), abs=1e-5)
