"""What the golden files of the methods on ST-GCN share: layout, rule of the weights, statistics of parameters."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from models.norm import GlobalBatchNorm
from tests.numerics import golden

LOSS = 1e-8
GRADIENT = 1e-7
"""Of the largest norm."""


def flatten(x_NCTVM: np.ndarray) -> Tensor:
    """The views of a file in our layout, (N, T, V*C*M) float64."""
    return torch.from_numpy(x_NCTVM).double().permute(0, 2, 3, 1, 4).flatten(2)


def fill(module: nn.Module, names: Mapping[str, str]) -> None:
    """Give a module the weights of the set.

    Args:
        module: all of whose parameters are named.
        names: the reference's name -> ours.
    """
    assert sorted(names.values()) == sorted(name for name, _ in module.named_parameters())
    for theirs, ours in names.items():
        parameter = module.get_parameter(ours)
        owner, _, kind = ours.rpartition(".")
        in_norm = isinstance(module.get_submodule(owner), GlobalBatchNorm)
        parameter.data.copy_(torch.from_numpy(_weight(theirs, tuple(parameter.shape), kind, in_norm)))


def _weight(name: str, shape: tuple[int, ...], kind: str, in_norm: bool) -> np.ndarray:
    if kind == "importance":
        return np.float32(1) + golden.weight(name, shape, 0.1)
    if in_norm:
        return np.full(shape, kind == "weight", np.float32)
    return golden.weight(name, shape, 0.2 if kind == "weight" else 0.03)


def check_array(actual: Tensor, expected: np.ndarray, what: str = "") -> None:
    """Equal but for the rounding of numbers that were computed in float64 and stored as float32."""
    largest = np.abs(expected).max()
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=1e-6, atol=1e-9 * largest, err_msg=what)


def check_statistics(
    numbers: Mapping[str, np.ndarray], key: str, tensors: Mapping[str, Tensor], tolerance: float = GRADIENT
) -> None:
    """Norm, sum and probe of the tensors that the file names under `key`, relative to the largest norm.

    Args:
        numbers: of the file.
        key: such as "train.grad".
        tensors: by the reference's names.
        tolerance: of the largest norm.
    """
    names = golden.found(numbers[f"{key}_names"].tolist())
    atol = tolerance * numbers[f"{key}_norm_sum"][:, 0].max()
    for name, norm_sum, probe in zip(names, numbers[f"{key}_norm_sum"], numbers[f"{key}_probe"], strict=True):
        flat = tensors[name].detach().flatten().double()
        found = torch.stack((flat.norm(), flat.sum())).numpy()
        np.testing.assert_allclose(found, norm_sum, rtol=0, atol=atol, err_msg=f"{key} {name}")
        probed = flat[:: max(1, len(flat) // 8)][:8].numpy()
        padded = np.pad(probed, (0, 8 - len(probed)))
        np.testing.assert_allclose(padded, probe, rtol=0, atol=atol, err_msg=f"{key} {name}")
