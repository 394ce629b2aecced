"""Operations on joints: some of a sample are lost, distorted or cut off, in all frames and for both persons alike."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipelines.augmentations.draws import subset
from pipelines.augmentations.masks import part_table
from pipelines.augmentations.operation import Free, JointMatrices, Key, Linear, Samples
from shards.skeleton import BODY_PARTS, NUM_JOINTS, PARENTS


@dataclass(frozen=True)
class Corruption:
    """Attributes:
    joints: (N, K) int64, the corrupted joints of each sample.
    linear: (N,) bool; True: multiplied by `matrix`, False: set to zero.
    matrix: (N, 3, 3) float32, A; a point becomes the row vector xyz @ A (the transposed convention of a shear).
    """

    joints: Tensor
    linear: Tensor
    matrix: Tensor


class JointCorruption(Linear):
    """Some joints are lost or distorted: with probability 1/2 zeroed, else multiplied by a matrix of entries U(-1, 1).

    Attributes:
        joints: how many.
    """

    kind: Literal["joint_corruption"] = "joint_corruption"
    joints: int = Field(default=15, ge=1, le=NUM_JOINTS)

    source: ClassVar[str] = "JHang2020/PCM3"

    def draw(self, samples: Samples, key: Key, frames: int) -> Corruption:
        return self._draw_compiled(samples, key) if samples.is_on_cpu else self._draw_torch(samples, key)

    def _draw_compiled(self, samples: Samples, key: Key) -> Corruption:
        from pipelines.augmentations.draw_kernels import corruption_rows

        joints = torch.empty(len(samples), self.joints, dtype=torch.int64)
        linear, matrix = torch.empty(len(samples), dtype=torch.bool), torch.empty(len(samples), 9)
        words = key.word("corrupt-joints"), key.word("corrupt-how")
        ids = samples.sample_id.contiguous().numpy()
        corruption_rows(ids, *words, joints.numpy(), linear.numpy(), matrix.numpy())
        return Corruption(joints, linear, matrix.view(-1, 3, 3))

    def _draw_torch(self, samples: Samples, key: Key) -> Corruption:
        chosen = subset(key.sample(samples.sample_id, "corrupt-joints", NUM_JOINTS), self.joints)
        draws = key.sample(samples.sample_id, "corrupt-how", 10)
        return Corruption(chosen, draws[:, 0] >= 0.5, (draws[:, 1:] * 2 - 1).to(torch.float32).view(-1, 3, 3))

    def joint_map(self, params: Corruption) -> JointMatrices:
        return JointMatrices(corruption_matrices(params))


def corruption_matrices(params: Corruption) -> Tensor:
    """The corruption as a matrix for each sample and joint, (N, V, 3, 3), for `spatial.apply_matrices`."""
    if params.joints.device.type == "cpu":
        return _maps_compiled(params)
    return _maps_torch(params)


def _maps_compiled(params: Corruption) -> Tensor:
    from pipelines.augmentations.draw_kernels import corruption_maps

    out = torch.empty(len(params.joints), NUM_JOINTS, 9)
    matrix = params.matrix.flatten(1).contiguous().numpy()
    corruption_maps(params.joints.contiguous().numpy(), params.linear.contiguous().numpy(), matrix, out.numpy())
    return out.view(-1, NUM_JOINTS, 3, 3)


def _maps_torch(params: Corruption) -> Tensor:
    samples, device = len(params.joints), params.joints.device
    lost = params.matrix.transpose(1, 2) * params.linear[:, None, None]
    both = torch.stack((torch.eye(3, device=device).expand(samples, -1, -1), lost), dim=1)
    # which of the two each joint takes: gathering them is a third faster than scattering into a table of identities
    rows = torch.arange(0, 2 * samples, 2, device=device)[:, None].repeat(1, NUM_JOINTS)
    rows.scatter_(1, params.joints, 1, reduce="add")
    return both.flatten(0, 1).index_select(0, rows.flatten()).view(samples, NUM_JOINTS, 3, 3)


class JointMask(Linear):
    """Some joints are set to zero; every set of them is equally likely.

    Attributes:
        joints: how many; as released 8.
        ratio: share of the joints instead, rounded down to whole joints.
    """

    kind: Literal["joint_mask"] = "joint_mask"
    joints: int | None = Field(default=None, ge=1, le=NUM_JOINTS)
    ratio: float | None = Field(default=None, ge=1 / NUM_JOINTS, le=1)

    source: ClassVar[str] = "YujieOuO/PSTL (get_ignore_joint)"

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.joints is not None and self.ratio is not None:
            raise ValueError(f"found joints={self.joints} and ratio={self.ratio}, expected one of them")
        return self

    @property
    def count(self) -> int:
        """Joints that are hidden."""
        if self.ratio is not None:
            return int(NUM_JOINTS * self.ratio)
        return 8 if self.joints is None else self.joints

    def draw(self, samples: Samples, key: Key, frames: int) -> Tensor:
        """(N, V) bool, True where hidden."""
        chosen = subset(key.sample(samples.sample_id, "joint-mask", NUM_JOINTS), self.count)
        hidden = torch.zeros(len(samples), NUM_JOINTS, dtype=torch.bool, device=chosen.device)
        return hidden.scatter(1, chosen, True)

    def joint_map(self, params: Tensor) -> JointMatrices:
        return JointMatrices(zero_matrices(params))


class PartDrop(Linear):
    """Whole body parts are set to zero; every set of them is equally likely.

    Attributes:
        parts: how many of the five; not published, 2 by default.
    """

    kind: Literal["part_drop"] = "part_drop"
    parts: int = Field(default=2, ge=1, le=len(BODY_PARTS))

    source: ClassVar[str] = "YujieOuO/PSTL (get_ignore_part)"

    def draw(self, samples: Samples, key: Key, frames: int) -> Tensor:
        """(N, V) bool, True where hidden."""
        chosen = subset(key.sample(samples.sample_id, "part-drop", len(BODY_PARTS)), self.parts)
        return part_table(chosen.device)[chosen].any(dim=1)

    def joint_map(self, params: Tensor) -> JointMatrices:
        return JointMatrices(zero_matrices(params))


def zero_matrices(hidden: Tensor) -> Tensor:
    """Zero for the joints that (N, V) bool hides, the identity for the others: (N, V, 3, 3) float32."""
    return torch.eye(3, device=hidden.device) * ~hidden[:, :, None, None]


class EdgeDrop(Free):
    """Some bones collapse: the child takes the place of its parent, and all that hangs on it moves along.

    The reference drops entries of the adjacency matrix inside its graph convolutions. Data have no such matrix; what an
    edge holds in coordinates is its bone, child minus parent. So a dropped edge is a bone of length zero, all other
    bones stay as they are, and the bone stream of the result is that of the sample with the dropped bones zero. This
    moves joints by others, which no matrix of a single joint does: it is a pass of its own.

    Attributes:
        max_ratio: each bone of a sample is dropped with one probability, drawn for the sample from U(0, max_ratio).
    """

    kind: Literal["edge_drop"] = "edge_drop"
    max_ratio: float = Field(default=0.1, gt=0, le=1)

    source: ClassVar[str] = "JHang2020/HiCLR (drop_graph), on coordinates"

    def draw(self, samples: Samples, key: Key, frames: int) -> Tensor:
        """(N, V) bool, True where the bone from a joint to its parent is dropped; the root has none."""
        draws = key.sample(samples.sample_id, "edge-drop", 1 + NUM_JOINTS)
        root = torch.tensor([joint == parent for joint, parent in enumerate(PARENTS)], device=draws.device)
        return (draws[:, 1:] < draws[:, :1] * self.max_ratio) & ~root

    def apply(self, x: Tensor, params: Tensor) -> Tensor:
        # Few float32 numbers sum up exactly in float64, so the result depends neither on the order of summation nor,
        # thereby, on the batch; and a product in reduced precision (TF32) would cost 13 bits of each coordinate.
        moved = torch.einsum("nvu,ntmuc->ntmvc", collapse_matrices(params), x.to(torch.float64))
        return torch.empty_like(x).copy_(moved)


def collapse_matrices(dropped: Tensor) -> Tensor:
    """How joints move when the bones (N, V) bool are dropped: (N, V, V) float64, entry [v, u] the share of u in v."""
    eye = torch.eye(NUM_JOINTS, dtype=torch.float64, device=dropped.device)
    bones = eye - eye[list(PARENTS)]
    return eye - _ancestry(dropped.device) @ (dropped[:, :, None] * bones)


def _ancestry(device: torch.device) -> Tensor:
    """(V, V) float64, 1 where joint u lies between v and the root, v itself and the root included."""
    table = torch.zeros(NUM_JOINTS, NUM_JOINTS, dtype=torch.float64)
    for joint in range(NUM_JOINTS):
        ancestor = joint
        table[joint, ancestor] = 1
        while PARENTS[ancestor] != ancestor:
            ancestor = PARENTS[ancestor]
            table[joint, ancestor] = 1
    return table.to(device)
