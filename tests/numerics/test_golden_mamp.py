"""Motion-aware masks and motion targets against numbers of the MAMP reference, by its recorded draws."""

from typing import Any

import numpy as np
import pytest
import torch
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
from tests.numerics.golden import facts, found, matching, numbers


class Case:
    """One case: its arrays by name, its facts by [name]."""

    def __init__(self, number: int, facts: dict[str, Any]) -> None:
        self.number, self.facts = number, facts

    def __getitem__(self, name: str) -> Any:
        return self.facts[name]

    def array(self, name: str) -> np.ndarray:
        return numbers("mamp")[f"c{self.number}_{name}"]

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.array(name))

    @property
    def views(self) -> Tensor:
        """(N, C, T, V, M) of the reference -> (N, T, M, V, C)."""
        return self.tensor("x").permute(0, 2, 4, 3, 1).contiguous()

    @property
    def sequences(self) -> Tensor:
        """Persons as rows of the batch, (N*M, T, V, C)."""
        return self.views.transpose(1, 2).flatten(0, 1)

    @property
    def target(self) -> Tensor:
        patches = target_patches(motion(self.sequences, self["stride"]), self["u"])
        return target_normalised(patches) if self["norm"] else patches


CASES = [Case(number, recorded) for number, recorded in enumerate(found(facts("mamp")["cases"]))]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.number)


def test_every_array_is_of_a_recorded_case() -> None:
    assert sorted(map(int, matching(numbers("mamp"), "c*_x"))) == [case.number for case in CASES]


@each_case
def test_motion_and_its_patches_equal_the_reference(case: Case) -> None:
    moved = motion(case.sequences, case["stride"])
    np.testing.assert_allclose(moved.numpy(), case.array("motion"), rtol=0, atol=1e-5)
    patches = target_patches(moved, case["u"])
    np.testing.assert_allclose(patches.numpy(), case.array("target_patches"), rtol=0, atol=1e-5)
    np.testing.assert_allclose(case.target.numpy(), case.array("target_normalised"), rtol=1e-3, atol=1e-5)


@each_case
def test_motion_and_probabilities_of_masking_equal_the_reference(case: Case) -> None:
    scaled = scaled_motion(case.sequences, case["u"], case["tau"])
    np.testing.assert_allclose(scaled.numpy(), case.array("scaled_motion"), rtol=0, atol=1e-5)
    np.testing.assert_allclose(probability(scaled).numpy(), case.array("prob"), rtol=1e-6, atol=0)


@each_case
def test_tokens_kept_equal_the_reference_in_their_order(case: Case) -> None:
    scaled = scaled_motion(case.sequences, case["u"], case["tau"])
    noise = masking_noise(probability(scaled), case.tensor("rand"))
    kept = kept_count(case["patches"], case["ratio"])
    assert kept == case["kept"]
    np.testing.assert_array_equal(keep_least(noise, kept).numpy(), case.array("mask") == 0)
    # tokens whose noise differs by rounding alone may change places
    prob, rand = (case.array(name).astype(np.float64) for name in ("prob", "rand"))
    recorded = np.log(prob) - np.log(-np.log(rand + 1e-10) + 1e-10)
    in_our_order, in_order = (
        np.take_along_axis(recorded, ids, axis=1) for ids in (ids_keep(noise, kept).numpy(), case.array("ids_keep"))
    )
    np.testing.assert_allclose(in_our_order, in_order, rtol=0, atol=1e-5)


@each_case
def test_the_operation_hides_what_the_reference_removes(case: Case) -> None:
    x = case.views
    persons, joints = x.shape[2:4]
    operation = MotionMask(ratio=case["ratio"], patch=case["u"], tau=case["tau"])
    visible = operation.visible(x, case.tensor("rand").view(len(x), persons, -1))
    assert visible.shape == x.shape[:4]
    removed = case.array("mask").reshape(len(x), persons, -1, joints)
    for t in range(x.shape[1]):
        np.testing.assert_array_equal(~visible[:, t].numpy(), removed[:, :, t // case["u"]] == 1)


@each_case
def test_the_loss_on_masked_tokens_equals_the_reference(case: Case) -> None:
    error = (case.tensor("pred") - case.target).square().mean(dim=-1)
    loss = error[case.tensor("mask") == 1].mean().item()
    assert loss == pytest.approx(float(case.array("loss")), abs=1e-5)
