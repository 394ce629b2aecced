"""Joint corruption, against one joint after the other."""

import torch

from pipelines.augmentations.joints import corruption_matrices, draw_corruption
from pipelines.augmentations.spatial import apply_matrices


def test_chosen_joints_are_zeroed_or_become_rows_times_the_matrix_and_no_other_changes() -> None:
    x = torch.randn(12, 4, 2, 25, 3)
    params = draw_corruption(torch.arange(12), 15, seed=1, epoch=0, view="base")
    assert set(params.linear.tolist()) == {True, False}
    found = apply_matrices(x, corruption_matrices(params))
    for n in range(12):
        for joint in range(25):
            expected = x[n, :, :, joint]
            if joint in params.joints[n].tolist():
                expected = expected @ params.matrix[n] if params.linear[n] else torch.zeros_like(expected)
            torch.testing.assert_close(found[n, :, :, joint], expected)


def test_zeroed_joints_are_exactly_zero() -> None:
    params = draw_corruption(torch.arange(50), 15, seed=0, epoch=0, view="base")
    found = apply_matrices(torch.randn(50, 2, 2, 25, 3), corruption_matrices(params))
    zeroed = (found == 0).all(dim=(1, 2, 4)).sum(dim=1)
    assert zeroed.tolist() == [0 if linear else 15 for linear in params.linear.tolist()]


def test_half_of_the_samples_are_zeroed_and_every_joint_is_taken_equally_often() -> None:
    count = 20_000
    params = draw_corruption(torch.arange(count), 15, seed=0, epoch=0, view="key")
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
        params = draw_corruption(torch.arange(3), joints, seed=0, epoch=0, view="base")
        matrices = corruption_matrices(params)
        changed = (matrices != torch.eye(3)).any(dim=(2, 3)).sum(dim=1)
        assert changed.tolist() == [joints] * 3
