"""Operations on joints, against one joint after the other."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from pipelines.augmentations.joints import (
    EdgeDrop,
    JointCorruption,
    JointMask,
    PartDrop,
    corruption_matrices,
)
from pipelines.augmentations.operation import Key, Linear, Samples
from pipelines.augmentations.spatial import apply_map, apply_matrices
from pipelines.augmentations.streams import apply_stream
from shards.batch import flatten, unflatten
from shards.skeleton import BODY_PARTS, PARENTS

KEY = Key(seed=1, epoch=0, step=0, view="base")


def _samples(count: int) -> Samples:
    return Samples(torch.arange(count), torch.full((count,), 100))


def _zeroed(x: Tensor, hidden: Tensor) -> Tensor:
    expected = x.clone()
    for n in range(len(x)):
        for joint in range(25):
            if hidden[n, joint]:
                expected[n, :, :, joint] = 0
    return expected


def test_chosen_joints_are_zeroed_or_become_rows_times_the_matrix_and_no_other_changes() -> None:
    x = torch.randn(12, 4, 2, 25, 3)
    params = JointCorruption().draw(_samples(12), KEY, 4)
    assert set(params.linear.tolist()) == {True, False}
    found = apply_matrices(x, corruption_matrices(params))
    for n in range(12):
        for joint in range(25):
            expected = x[n, :, :, joint]
            if joint in params.joints[n].tolist():
                expected = expected @ params.matrix[n] if params.linear[n] else torch.zeros_like(expected)
            torch.testing.assert_close(found[n, :, :, joint], expected)


def test_zeroed_joints_are_exactly_zero() -> None:
    params = JointCorruption().draw(_samples(50), KEY, 2)
    found = apply_matrices(torch.randn(50, 2, 2, 25, 3), corruption_matrices(params))
    zeroed = (found == 0).all(dim=(1, 2, 4)).sum(dim=1)
    assert zeroed.tolist() == [0 if linear else 15 for linear in params.linear.tolist()]


def test_half_of_the_samples_are_zeroed_and_every_joint_is_taken_equally_often() -> None:
    count = 20_000
    params = JointCorruption().draw(_samples(count), KEY, 64)
    # standard error 0.0035
    assert abs(params.linear.float().mean().item() - 0.5) < 0.017
    taken = torch.bincount(params.joints.flatten(), minlength=25)
    assert ((taken - count * 15 / 25).abs() < 350).all()
    assert (params.joints.sort(dim=1).values.diff(dim=1) > 0).all()
    # the matrix does not depend on whether it is used
    assert params.matrix[params.linear].mean().abs() < 0.01
    assert params.matrix.abs().max() <= 1
    assert (params.matrix.flatten(1).var(0) - 1 / 3).abs().max() < 0.011


def test_any_number_of_joints_can_be_taken() -> None:
    for joints in (1, 24, 25):
        params = JointCorruption(joints=joints).draw(_samples(3), KEY, 64)
        matrices = corruption_matrices(params)
        changed = (matrices != torch.eye(3)).any(dim=(2, 3)).sum(dim=1)
        assert changed.tolist() == [joints] * 3


@pytest.mark.parametrize("operation", [JointMask(), JointMask(ratio=0.5), PartDrop(), PartDrop(parts=4)])
def test_hidden_joints_are_zero_in_all_frames_and_for_both_persons_and_no_other_changes(operation: Linear) -> None:
    x = torch.randn(9, 4, 2, 25, 3)
    params = operation.draw(_samples(9), KEY, 4)
    found = apply_map(x, operation.joint_map(params))
    assert torch.equal(found, _zeroed(x, params))
    assert params.any(dim=1).all()


@pytest.mark.parametrize(
    ("operation", "count"),
    [
        (JointMask(), 8),
        (JointMask(joints=25), 25),
        (JointMask(ratio=0.04), 1),
        (JointMask(ratio=0.28), 7),
        (JointMask(ratio=0.59), 14),
        (JointMask(ratio=1), 25),
    ],
)
def test_a_joint_mask_hides_the_number_or_the_share_that_is_asked_for(operation: JointMask, count: int) -> None:
    assert operation.draw(_samples(40), KEY, 64).sum(dim=1).tolist() == [count] * 40


def test_a_joint_mask_hides_every_joint_and_every_pair_equally_often() -> None:
    hidden = JointMask().draw(_samples(20_000), KEY, 64).double()
    together = hidden.T @ hidden / 20_000
    # standard errors 0.0033 and 0.0021
    assert (together.diagonal() - 8 / 25).abs().max() < 0.015
    pairs = together[~torch.eye(25, dtype=torch.bool)]
    assert (pairs - 8 * 7 / (25 * 24)).abs().max() < 0.012


def test_a_joint_mask_by_number_and_by_share_at_once_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"joints=3 and ratio=0\.5, expected one of them"):
        JointMask(joints=3, ratio=0.5)


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_a_part_drop_hides_whole_parts_all_equally_often(parts: int) -> None:
    hidden = PartDrop(parts=parts).draw(_samples(10_000), KEY, 64)
    table = torch.stack([hidden[:, list(part)].all(dim=1) for part in BODY_PARTS], dim=1)
    assert torch.equal(table, torch.stack([hidden[:, list(part)].any(dim=1) for part in BODY_PARTS], dim=1))
    assert (table.sum(dim=1) == parts).all()
    # standard error at most 0.005
    assert (table.double().mean(dim=0) - parts / 5).abs().max() < 0.02


def _collapsed(x: np.ndarray[tuple[int, ...], np.dtype[np.float64]], dropped: set[int]) -> None:
    """Move each subtree of a dropped bone onto its parent, (T, M, V, C), in place, one joint after the other."""
    original = x.copy()
    for joint in sorted(range(25), key=_depth):
        parent = PARENTS[joint]
        if parent != joint:
            bone = original[:, :, joint] - original[:, :, parent]
            x[:, :, joint] = x[:, :, parent] + (0 if joint in dropped else bone)


def _depth(joint: int) -> int:
    return 0 if PARENTS[joint] == joint else 1 + _depth(PARENTS[joint])


def test_a_dropped_edge_moves_its_whole_subtree_onto_the_parent() -> None:
    x = torch.randn(30, 3, 2, 25, 3)
    operation = EdgeDrop(max_ratio=1)
    dropped = operation.draw(_samples(30), KEY, 3)
    assert dropped.sum(dim=1).min() < 2 < 20 <= dropped.sum(dim=1).max()
    found = operation.apply(x, dropped)
    for n in range(30):
        expected = x[n].double().numpy().copy()
        _collapsed(expected, set(dropped[n].nonzero()[:, 0].tolist()))
        np.testing.assert_allclose(found[n].numpy(), expected, rtol=0, atol=1e-6)


def test_bones_of_dropped_edges_are_zero_and_all_others_stay() -> None:
    x = torch.randn(20, 3, 2, 25, 3)
    operation = EdgeDrop(max_ratio=0.8)
    dropped = operation.draw(_samples(20), KEY, 3)
    bones = apply_stream(x, "bone")
    torch.testing.assert_close(
        apply_stream(operation.apply(x, dropped), "bone"), _zeroed(bones, dropped), rtol=0, atol=1e-6
    )
    untouched = operation.apply(x, torch.zeros_like(dropped))
    assert torch.equal(untouched, x)


def test_a_leaf_whose_edge_is_dropped_lies_exactly_on_its_parent() -> None:
    x = torch.randn(1, 3, 2, 25, 3)
    dropped = torch.zeros(1, 25, dtype=torch.bool)
    dropped[0, 3] = True
    found = EdgeDrop().apply(x, dropped)
    assert torch.equal(found[..., 3, :], x[..., 2, :])
    others = [joint for joint in range(25) if joint != 3]
    assert torch.equal(found[..., others, :], x[..., others, :])


def test_edges_are_dropped_with_a_probability_drawn_for_the_sample_and_the_root_has_none() -> None:
    dropped = EdgeDrop(max_ratio=0.5).draw(_samples(20_000), KEY, 64)
    assert not dropped[:, 20].any()
    edges = [joint for joint in range(25) if PARENTS[joint] != joint]
    # the mean of U(0, 0.5) is 0.25, standard error 0.0031
    assert (dropped[:, edges].double().mean(dim=0) - 0.25).abs().max() < 0.015
    counts = dropped.sum(dim=1).double()
    # binomial given the probability, and the probability spreads by 0.5 / sqrt(12)
    assert counts.var().item() == pytest.approx(24 * (0.25 - 0.25 / 3) + 24**2 * 0.25 / 12, rel=0.04)


def test_a_dropped_edge_in_a_flat_view_gives_the_same_in_its_own_order_of_axes() -> None:
    x = torch.randn(5, 4, 2, 25, 3)
    dropped = EdgeDrop(max_ratio=1).draw(_samples(5), KEY, 4)
    found = EdgeDrop().apply(unflatten(flatten(x)), dropped)
    assert torch.equal(found, EdgeDrop().apply(x, dropped))
    assert flatten(found).is_contiguous()


@pytest.mark.parametrize("operation", [JointMask(), PartDrop(), EdgeDrop(max_ratio=1)])
def test_what_is_drawn_for_a_sample_does_not_depend_on_its_batch(operation: Linear | EdgeDrop) -> None:
    every = operation.draw(_samples(60), KEY, 64)
    some = torch.tensor([59, 3, 17])
    assert torch.equal(operation.draw(Samples(some, torch.tensor([1, 2, 3])), KEY, 64), every[some])
    assert not torch.equal(operation.draw(_samples(60), Key(2, 0, 0, "base"), 64), every)
