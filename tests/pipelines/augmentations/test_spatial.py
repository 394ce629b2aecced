"""Shears and matrices, against one point after the other."""

import pytest
import torch

from pipelines.augmentations.spatial import apply_matrices, draw_shear, shear_matrix


def test_a_shear_has_a_unit_diagonal_and_fills_the_rest_row_by_row() -> None:
    matrix = shear_matrix(torch.tensor([[1.0, 2, 3, 4, 5, 6]], dtype=torch.float64))
    assert matrix.dtype == torch.float32
    assert matrix.tolist() == [[[1, 1, 2], [3, 1, 4], [5, 6, 1]]]


def test_drawn_shears_are_uniform_between_minus_one_and_one() -> None:
    matrix = draw_shear(torch.arange(20_000), seed=0, epoch=0, view="base")
    off = matrix[:, ~torch.eye(3, dtype=torch.bool)]
    assert (matrix.diagonal(dim1=1, dim2=2) == 1).all()
    assert off.abs().max() <= 1
    # standard error of an entry's mean 4.1e-3, of its variance 2.1e-3
    assert off.mean(0).abs().max() < 0.02
    assert (off.var(0) - 1 / 3).abs().max() < 0.011
    assert (torch.corrcoef(off.T) - torch.eye(6)).abs().max() < 0.035


def test_points_are_multiplied_from_the_left_by_their_samples_matrix() -> None:
    x = torch.randn(3, 4, 2, 25, 3)
    matrices = torch.randn(3, 3, 3)
    found = apply_matrices(x, matrices)
    for n in range(3):
        expected = torch.stack([matrices[n].double() @ point.double() for point in x[n].view(-1, 3)])
        torch.testing.assert_close(found[n].view(-1, 3).double(), expected, rtol=0, atol=1e-5)


def test_every_joint_may_have_a_matrix_of_its_own() -> None:
    x = torch.randn(2, 3, 2, 25, 3)
    matrices = torch.randn(2, 25, 3, 3)
    found = apply_matrices(x, matrices)
    for joint in range(25):
        torch.testing.assert_close(found[:, :, :, joint], apply_matrices(x, matrices[:, joint])[:, :, :, joint])


@pytest.mark.parametrize("shape", [(4, 3, 3), (4, 25, 3, 3)])
def test_the_unit_matrix_changes_nothing_and_the_input_is_left_alone(shape: tuple[int, ...]) -> None:
    x = torch.randn(4, 5, 2, 25, 3)
    before = x.clone()
    assert torch.equal(apply_matrices(x, torch.eye(3).expand(shape)), before)
    apply_matrices(x, torch.randn(shape))
    assert torch.equal(x, before)
