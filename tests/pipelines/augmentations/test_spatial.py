"""Linear maps of coordinates, against one point after the other."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import ValidationError

from pipelines.augmentations.draws import uniform
from pipelines.augmentations.operation import Key, Linear, Samples
from pipelines.augmentations.spatial import (
    AxisMask,
    FixedRotation,
    Flip,
    LabelledRotation,
    Rotation,
    Scale,
    Shear,
    apply_map,
    apply_matrices,
    shear_matrix,
)
from pipelines.views.draw import Step, joint_matrices
from shards.skeleton import JOINT_NAMES, MIRROR

Array = npt.NDArray[np.float64]

KEY = Key(seed=1, epoch=2, step=3, view="base")
ALL_AXES = Rotation(pick="all", degrees=(-17.19, 17.19))
LINEAR = [
    Shear(),
    Rotation(),
    ALL_AXES,
    FixedRotation(),
    LabelledRotation(),
    Scale(),
    Scale(each_axis=False),
    Flip(),
    Flip(mirror=True),
    AxisMask(),
]


def _kind(operation: Linear) -> str:
    return operation.kind


def _samples(count: int, first: int = 0) -> Samples:
    return Samples(torch.arange(first, first + count), torch.full((count,), 70))


def _applied(operation: Linear, x: torch.Tensor, first: int = 0) -> torch.Tensor:
    return apply_map(x, operation.joint_map(operation.draw(_samples(len(x), first), KEY, x.shape[1])))


def _turn(axis: str, degrees: float) -> Array:
    """The matrix of a right-handed turn."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array(
        {
            "x": [[1, 0, 0], [0, c, -s], [0, s, c]],
            "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
            "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
        }[axis]
    )


def _each_point(x: torch.Tensor, matrix: Array) -> Array:
    """One sample's points (T, M, V, C), each multiplied from the left."""
    points = x.double().numpy().reshape(-1, 3)
    return np.stack([matrix @ point for point in points]).reshape(x.shape)


def test_a_shear_has_a_unit_diagonal_and_fills_the_rest_row_by_row() -> None:
    matrix = shear_matrix(torch.tensor([[1.0, 2, 3, 4, 5, 6]], dtype=torch.float64))
    assert matrix.dtype == torch.float32
    assert matrix.tolist() == [[[1, 1, 2], [3, 1, 4], [5, 6, 1]]]


def test_drawn_shears_are_uniform_between_minus_one_and_one() -> None:
    matrix = Shear().draw(_samples(20_000), KEY, 64)
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


@pytest.mark.parametrize("operation", LINEAR, ids=_kind)
@pytest.mark.parametrize("frames", [1, 7])
def test_what_becomes_of_a_sample_does_not_depend_on_its_batch(operation: Linear, frames: int) -> None:
    x = torch.randn(20, frames, 2, 25, 3)
    together = _applied(operation, x)
    assert together.shape == x.shape
    assert together.dtype == torch.float32
    for row in range(20):
        assert torch.equal(_applied(operation, x[row : row + 1], row)[0], together[row])


@pytest.mark.parametrize("operation", LINEAR, ids=_kind)
def test_probability_decides_which_samples_are_mapped(operation: Linear) -> None:
    samples = _samples(3000)
    x = torch.randn(1, 1, 2, 25, 3).expand(3000, -1, -1, -1, -1)
    changed = {}
    for probability in (0.0, 0.3, 1.0):
        sometimes = operation.model_copy(update={"probability": probability})
        step = Step(sometimes, sometimes.draw(samples, KEY, 1), sometimes.applies(samples, KEY))
        changed[probability] = (apply_map(x, joint_matrices(step)) != x).flatten(1).any(dim=1)
    assert not changed[0.0].any()
    # standard deviation 0.0084; the first class of a labelled rotation changes nothing
    assert abs(changed[0.3].sum().item() / changed[1.0].sum().item() - 0.3) < 0.03


def test_a_rotation_turns_much_about_one_axis_and_little_about_the_others() -> None:
    x = torch.randn(30, 2, 2, 25, 3)
    found = _applied(Rotation(), x)
    draws = uniform(1, 2, torch.arange(30), "base", "rotation", 4).tolist()
    chosen = set()
    for n, (which, *shares) in enumerate(draws):
        matrix = np.eye(3)
        for number, axis in enumerate("xyz"):
            low = -30 if math.floor(which * 3) == number else -1
            matrix = _turn(axis, low - low * shares[number]) @ matrix
        chosen.add(math.floor(which * 3))
        np.testing.assert_allclose(found[n].numpy(), _each_point(x[n], matrix), rtol=0, atol=1e-5)
    assert chosen == {0, 1, 2}


def test_a_rotation_about_all_axes_turns_about_x_then_y_then_z_and_about_no_other() -> None:
    x = torch.randn(10, 2, 2, 25, 3)
    draws = uniform(1, 2, torch.arange(10), "base", "rotation", 4).tolist()
    for axes in ("xyz", "zx", "y"):
        found = _applied(Rotation(axes=tuple(axes), pick="all", degrees=(-40, 80)), x)
        for n, (_, *shares) in enumerate(draws):
            matrix = np.eye(3)
            for number, axis in enumerate("xyz"):
                if axis in axes:
                    matrix = _turn(axis, -40 + 120 * shares[number]) @ matrix
            np.testing.assert_allclose(found[n].numpy(), _each_point(x[n], matrix), rtol=0, atol=1e-5)


def test_each_axis_is_chosen_equally_often_and_angles_are_uniform() -> None:
    angles = Rotation(degrees=(-30, 30), other_degrees=(-1, 0)).draw(_samples(30_000), KEY, 64)
    assert angles.abs().max() <= 30
    for axis in range(3):
        large = angles[angles[:, axis].abs() > 1, axis]
        # of 10,000 that are chosen 1 in 30 turns by less than 1 degree; standard deviation 81
        assert abs(len(large) - 10_000 * 29 / 30) < 400
        # standard error 0.18
        assert abs(large.mean()) < 0.9
        assert large.min() < -29.8
        assert large.max() > 29.8
    few = Rotation(axes=("y", "z")).draw(_samples(30_000), KEY, 64)
    assert (few[:, 0] >= -1).all()
    # 15,000 expected, of which 1 in 30 turns by less than 1 degree; standard deviation 87
    assert abs(int((few[:, 1] < -1).sum()) - 15_000 * 29 / 30) < 430


@pytest.mark.parametrize("axis", ["x", "y", "z"])
@pytest.mark.parametrize("degrees", [-180.0, -20.0, 0.0, 90.0])
def test_a_fixed_rotation_turns_all_samples_alike(axis: str, degrees: float) -> None:
    x = torch.randn(3, 2, 2, 25, 3)
    found = _applied(FixedRotation.model_validate({"axis": axis, "degrees": degrees}), x)
    for n in range(3):
        np.testing.assert_allclose(found[n].numpy(), _each_point(x[n], _turn(axis, degrees)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("axis", ["x", "y", "z"])
@pytest.mark.parametrize("classes", [2, 4, 8])
def test_a_labelled_rotation_turns_by_as_many_steps_as_its_target_says(axis: str, classes: int) -> None:
    x = torch.randn(60, 1, 2, 25, 3)
    operation = LabelledRotation.model_validate({"axis": axis, "classes": classes})
    target = operation.target(operation.draw(_samples(60), KEY, 1))
    found = _applied(operation, x)
    assert set(target.tolist()) == set(range(classes))
    for n in range(60):
        expected = _each_point(x[n], _turn(axis, 360 / classes * int(target[n])))
        np.testing.assert_allclose(found[n].numpy(), expected, rtol=0, atol=1e-5)


def test_all_classes_of_rotation_are_equally_likely() -> None:
    operation = LabelledRotation()
    counts = torch.bincount(operation.target(operation.draw(_samples(40_000), KEY, 64)))
    # 10,000 each are expected, standard deviation 87
    assert len(counts) == 4
    assert ((counts - 10_000).abs() < 430).all()


def test_a_scale_multiplies_each_axis_by_its_own_factor_or_all_by_one() -> None:
    x = torch.randn(20, 2, 2, 25, 3)
    for each_axis in (True, False):
        found = _applied(Scale(min_factor=0.5, max_factor=2.5, each_axis=each_axis), x)
        draws = uniform(1, 2, torch.arange(20), "base", "scale", 3 if each_axis else 1).tolist()
        for n in range(20):
            for axis in range(3):
                factor = 0.5 + 2 * draws[n][axis if each_axis else 0]
                torch.testing.assert_close(found[n, ..., axis], x[n, ..., axis] * factor, rtol=0, atol=1e-5)


def test_scales_are_uniform_between_their_limits() -> None:
    factors = Scale().draw(_samples(20_000), KEY, 64)
    assert (factors >= 0.8).all()
    assert (factors <= 1.2).all()
    # standard errors 0.0008, 0.00008 and 0.007
    assert (factors.mean(0) - 1).abs().max() < 0.004
    assert (factors.var(0) - 0.16 / 12).abs().max() < 0.0004
    assert (torch.corrcoef(factors.T) - torch.eye(3)).abs().max() < 0.035


def test_the_mirror_is_an_involution_that_pairs_left_with_right() -> None:
    for joint, other in enumerate(MIRROR):
        assert MIRROR[other] == joint
        swapped = {"left": "right", "right": "left"}
        words = JOINT_NAMES[joint].split()
        assert JOINT_NAMES[other].split() == [swapped.get(word, word) for word in words]


@pytest.mark.parametrize("mirror", [False, True])
def test_a_flip_exchanges_left_and_right_joints_and_negates_x_only_when_asked(mirror: bool) -> None:
    x = torch.randn(3, 4, 2, 25, 3)
    found = _applied(Flip(mirror=mirror), x)
    for joint in range(25):
        expected = x[:, :, :, MIRROR[joint]].clone()
        if mirror:
            expected[..., 0] *= -1
        assert torch.equal(found[:, :, :, joint], expected)
    assert torch.equal(_applied(Flip(mirror=mirror), found), x)


def test_an_axis_mask_zeroes_exactly_one_axis_all_equally_often() -> None:
    x = torch.randn(30_000, 1, 1, 25, 3)
    found = _applied(AxisMask(), x)
    lost = (found == 0).all(dim=(1, 2, 3))
    assert (lost.sum(dim=1) == 1).all()
    kept = ~lost[:, None, None, None].expand_as(x)
    assert torch.equal(found[kept], x[kept])
    # 10,000 each are expected, standard deviation 82
    assert ((lost.sum(dim=0) - 10_000).abs() < 410).all()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Shear, {"amplitude": 0.0}),
        (Rotation, {"axes": ()}),
        (Rotation, {"axes": ("x", "x")}),
        (Rotation, {"axes": ("w",)}),
        (Rotation, {"degrees": (10, -10)}),
        (Rotation, {"other_degrees": (0, 181)}),
        (FixedRotation, {"degrees": 200.0}),
        (LabelledRotation, {"classes": 1}),
        (Scale, {"min_factor": 0.0}),
        (Scale, {"min_factor": 2.0, "max_factor": 1.0}),
        (Flip, {"probability": -0.1}),
    ],
)
def test_values_that_cannot_work_are_refused(kind: type[Linear], options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        kind.model_validate(options)
