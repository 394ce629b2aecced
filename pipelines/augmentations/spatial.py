"""Linear maps of coordinates, as one 3x3 matrix for each sample and joint, so that several fuse into one pass."""

import math
from functools import cache
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipelines.augmentations.draws import choose
from pipelines.augmentations.operation import JointMatrices, Key, Linear, Samples
from shards.skeleton import MIRROR, NUM_COORDINATES, NUM_JOINTS

Axis = Literal["x", "y", "z"]
AXES: tuple[Axis, ...] = ("x", "y", "z")


class Shear(Linear):
    """Each axis gets a random share of the others.

    Attributes:
        amplitude: entries off the diagonal are U(-amplitude, amplitude).
    """

    kind: Literal["shear"] = "shear"
    amplitude: float = Field(default=1.0, gt=0)

    source: ClassVar[str] = "JHang2020/PCM3"

    def draw(self, samples: Samples, key: Key, frames: int) -> Tensor:
        """(N, 3, 3) float32."""
        return self._draw_compiled(samples, key) if samples.is_on_cpu else self._draw_torch(samples, key)

    def _draw_compiled(self, samples: Samples, key: Key) -> Tensor:
        from pipelines.augmentations.draw_kernels import shear_rows

        out = torch.empty(len(samples), 9)
        shear_rows(samples.sample_id.contiguous().numpy(), key.word("shear"), self.amplitude, out.numpy())
        return out.view(-1, 3, 3)

    def _draw_torch(self, samples: Samples, key: Key) -> Tensor:
        return shear_matrix((key.sample(samples.sample_id, "shear", 6) * 2 - 1) * self.amplitude)

    def joint_map(self, params: Tensor) -> JointMatrices:
        return JointMatrices(params[:, None])


class Rotation(Linear):
    """A random rotation about the coordinate axes: first about x, then y, then z, by the right-hand rule.

    The defaults are AimCLR's: 0 to 30 degrees about one axis, 0 to 1 about the others, all against the right-hand rule.
    kennymckormick/pyskl turns about all axes alike: `pick="all"`, `degrees=(-17.19, 17.19)` (0.3 rad).

    Attributes:
        axes: that may be chosen.
        pick: "one" of them at random, or "all".
        degrees: range of the uniform angle about a chosen axis.
        other_degrees: the same about the axes that are not chosen, when `pick` is "one".
    """

    kind: Literal["rotation"] = "rotation"
    axes: tuple[Axis, ...] = Field(default=AXES, min_length=1)
    pick: Literal["one", "all"] = "one"
    degrees: tuple[float, float] = (-30, 0)
    other_degrees: tuple[float, float] = (-1, 0)

    source: ClassVar[str] = "Levigty/AimCLR; before it AS-CAL (Rao et al., Information Sciences 2021)"

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if len(set(self.axes)) < len(self.axes):
            raise ValueError(f"found axes {self.axes}, expected each at most once")
        for name, (low, high) in (("degrees", self.degrees), ("other_degrees", self.other_degrees)):
            if not -180 <= low <= high <= 180:
                raise ValueError(f"found {name} ({low}, {high}), expected a rising range within -180..180")
        return self

    def draw(self, samples: Samples, key: Key, frames: int) -> Tensor:
        """(N, 3) float64, the angles about x, y and z in degrees."""
        draws = key.sample(samples.sample_id, "rotation", 1 + NUM_COORDINATES)
        allowed = torch.tensor([AXES.index(axis) for axis in self.axes], device=draws.device)
        axis = torch.arange(NUM_COORDINATES, device=draws.device)
        if self.pick == "one":
            chosen = axis == allowed[choose(draws[:, 0], 0, len(self.axes) - 1)][:, None]
            others = self.other_degrees
        else:
            chosen, others = torch.isin(axis, allowed), (0.0, 0.0)
        return torch.where(chosen, _within(draws[:, 1:], self.degrees), _within(draws[:, 1:], others))

    def joint_map(self, params: Tensor) -> JointMatrices:
        x, y, z = (rotation_matrix(params[:, number], axis) for number, axis in enumerate(AXES))
        return JointMatrices((z @ y @ x).to(torch.float32)[:, None])


class FixedRotation(Linear):
    """The same rotation for all samples, by the right-hand rule.

    Attributes:
        axis: turned about; z points up in the recipe `pcm3`, y in `ctrgcn` and `raw`.
        degrees: the angle.
    """

    kind: Literal["fixed_rotation"] = "fixed_rotation"
    axis: Axis = "z"
    degrees: float = Field(default=90.0, ge=-180, le=180)

    source: ClassVar[str] = "Gidaris et al., ICLR 2018: one turn of rotation prediction"

    def draw(self, samples: Samples, key: Key, frames: int) -> Tensor:
        """(N,) float64, the angle in degrees."""
        return torch.full((len(samples),), self.degrees, dtype=torch.float64, device=samples.sample_id.device)

    def joint_map(self, params: Tensor) -> JointMatrices:
        return JointMatrices(rotation_matrix(params, self.axis).to(torch.float32)[:, None])


class LabelledRotation(Linear):
    """One of several equal turns, which is to be predicted: class k turns by k * 360 / classes degrees.

    Attributes:
        axis: turned about by the right-hand rule; z points up in the recipe `pcm3`, y in `ctrgcn` and `raw`.
        classes: turns, all equally likely; the first leaves the sample as it is.
    """

    kind: Literal["labelled_rotation"] = "labelled_rotation"
    axis: Axis = "z"
    classes: int = Field(default=4, ge=2, le=360)

    source: ClassVar[str] = "Gidaris et al., ICLR 2018; of skeletons Paoletti et al., BMVC 2021"

    def draw(self, samples: Samples, key: Key, frames: int) -> Tensor:
        """(N,) int64, the class."""
        return choose(key.sample(samples.sample_id, "labelled_rotation", 1)[:, 0], 0, self.classes - 1)

    def joint_map(self, params: Tensor) -> JointMatrices:
        degrees = params.to(torch.float64) * (360 / self.classes)
        return JointMatrices(rotation_matrix(degrees, self.axis).to(torch.float32)[:, None])

    def target(self, params: Tensor) -> Tensor:
        return params


class Scale(Linear):
    """A sample made larger or smaller about the origin.

    Attributes:
        min_factor, max_factor: the factor is U[min_factor, max_factor].
        each_axis: x, y and z get factors of their own, else one serves all three.
    """

    kind: Literal["scale"] = "scale"
    min_factor: float = Field(default=0.8, gt=0)
    max_factor: float = Field(default=1.2, gt=0)
    each_axis: bool = True

    source: ClassVar[str] = "kennymckormick/pyskl"

    def draw(self, samples: Samples, key: Key, frames: int) -> Tensor:
        """(N, 3) float64, the factors of x, y and z."""
        draws = key.sample(samples.sample_id, "scale", NUM_COORDINATES if self.each_axis else 1)
        return _within(draws, (self.min_factor, self.max_factor)).expand(-1, NUM_COORDINATES)

    def joint_map(self, params: Tensor) -> JointMatrices:
        return JointMatrices(torch.diag_embed(params.to(torch.float32))[:, None])


class Flip(Linear):
    """Left and right joints change places; released with probability 1/2.

    Attributes:
        mirror: also negate x, so that the result is the mirror image. As released the coordinates stay, which gives a
            person with crossed limbs.
    """

    kind: Literal["flip"] = "flip"
    mirror: bool = False

    source: ClassVar[str] = "Levigty/AimCLR (spatial flip)"

    def draw(self, samples: Samples, key: Key, frames: int) -> Tensor:
        """(N, V) int64, the source of each joint."""
        return torch.tensor(MIRROR, device=samples.sample_id.device).expand(len(samples), -1)

    def joint_map(self, params: Tensor) -> JointMatrices:
        signs = torch.tensor([-1.0 if self.mirror else 1.0, 1.0, 1.0], device=params.device)
        return JointMatrices(torch.diag(signs).repeat(len(params), 1, 1, 1), params)


class AxisMask(Linear):
    """One of x, y, z is set to zero, all equally likely; released with probability 1/2."""

    kind: Literal["axis_mask"] = "axis_mask"

    source: ClassVar[str] = "Levigty/AimCLR; before it AS-CAL (Rao et al., Information Sciences 2021)"

    def draw(self, samples: Samples, key: Key, frames: int) -> Tensor:
        """(N,) int64, which coordinate is lost."""
        return choose(key.sample(samples.sample_id, "axis_mask", 1)[:, 0], 0, NUM_COORDINATES - 1)

    def joint_map(self, params: Tensor) -> JointMatrices:
        kept = torch.arange(NUM_COORDINATES, device=params.device) != params[:, None]
        return JointMatrices(torch.diag_embed(kept.to(torch.float32))[:, None])


def rotation_matrix(degrees: Tensor, axis: Axis) -> Tensor:
    """(N, 3, 3) float64: x' = R x turns by `degrees` (N,) about `axis`, x to y to z to x."""
    angle = degrees * (math.pi / 180)
    fixed = AXES.index(axis)
    first, second = (fixed + 1) % 3, (fixed + 2) % 3
    matrix = torch.eye(3, dtype=torch.float64, device=degrees.device).repeat(len(degrees), 1, 1)
    matrix[:, first, first] = matrix[:, second, second] = angle.cos()
    matrix[:, second, first] = angle.sin()
    matrix[:, first, second] = -angle.sin()
    return matrix


def _within(draws: Tensor, limits: tuple[float, float]) -> Tensor:
    """Numbers in [0, 1) as numbers between the limits."""
    low, high = limits
    return low + draws * (high - low)


def shear_matrix(entries: Tensor) -> Tensor:
    """Shears from (N, 6) entries, which fill the off-diagonal row by row."""
    padded = torch.nn.functional.pad(entries.to(torch.float32), (1, 0), value=1.0)
    return padded.index_select(1, _shear_places(entries.device)).view(-1, 3, 3)


@cache
def _shear_places(device: torch.device) -> Tensor:
    """Where each entry of the matrix is found: 0 the ones of the diagonal, then what was drawn."""
    return torch.tensor([0, 1, 2, 3, 0, 4, 5, 6, 0], device=device)


def apply_matrices(x: Tensor, matrices: Tensor) -> Tensor:
    """Map every point: x' = S x.

    Args:
        x: (N, T, M, V, C).
        matrices: (N, 3, 3), or (N, V, 3, 3) for a matrix a joint.
    """
    per_joint = matrices[:, None, None] if matrices.ndim == 4 else matrices[:, None, None, None]
    # One plane a coordinate: loops over joints vectorise, loops over x, y, z do not (0.3 of the time on the CPU).
    rows = per_joint.movedim((-2, -1), (0, 1)).contiguous()
    x_plane, y_plane, z_plane = x.movedim(-1, 0).contiguous()
    mapped = x_plane * rows[:, 0]
    mapped.addcmul_(y_plane, rows[:, 1]).addcmul_(z_plane, rows[:, 2])
    return torch.empty_like(x).copy_(mapped.movedim(0, -1))


def identity(samples: int, device: torch.device | None = None) -> Tensor:
    """(N, V) int64: each joint is its own source."""
    return torch.arange(NUM_JOINTS, device=device).expand(samples, -1)


def apply_map(x: Tensor, joints: JointMatrices) -> Tensor:
    """Map every joint of (N, T, M, V, C) by `joints`."""
    if joints.source is not None:
        index = joints.source[:, None, None, :, None].expand_as(x)
        x = x.gather(3, index)
    return apply_matrices(x, joints.matrices)
