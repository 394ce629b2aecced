"""Joint corruption: some joints of a sample are lost or distorted, in all frames and for both persons alike.

Source: JHang2020/PCM3 (15 of 25 joints; half the time zeroed, half the time multiplied by a random matrix).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.augmentations.draws import subset, uniform
from shards.skeleton import NUM_JOINTS


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


def draw_corruption(sample_id: Tensor, joints: int, *, seed: int, epoch: int, view: str) -> Corruption:
    """Draw which of the joints each sample loses, how, and a matrix with entries U(-1, 1)."""
    chosen = subset(uniform(seed, epoch, sample_id, view, "corrupt-joints", NUM_JOINTS), joints)
    draws = uniform(seed, epoch, sample_id, view, "corrupt-how", 10)
    return Corruption(chosen, draws[:, 0] >= 0.5, (draws[:, 1:] * 2 - 1).to(torch.float32).view(-1, 3, 3))


def corruption_matrices(params: Corruption) -> Tensor:
    """The corruption as a matrix for each sample and joint, (N, V, 3, 3), for `spatial.apply_matrices`."""
    samples = len(params.joints)
    matrices = torch.eye(3, device=params.matrix.device).repeat(samples, NUM_JOINTS, 1, 1)
    lost = params.matrix.transpose(1, 2) * params.linear[:, None, None]
    index = params.joints[:, :, None, None].expand(-1, -1, 3, 3)
    return matrices.scatter(1, index, lost[:, None].expand(-1, params.joints.shape[1], -1, -1))
