"""Batch norm over all ranks, against torch's own over the joint rows."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.collectives import rank, world_size
from models.norm import GlobalBatchNorm

N, T, D = 6, 5, 4


def joint() -> tuple[Tensor, Tensor]:
    """Two batches in turn, (2, N, T, D), the last channel far from 0, and the weights of a loss on the outputs."""
    generator = torch.Generator().manual_seed(0)
    x, weights = torch.randn(2, 2, N, T, D, dtype=torch.float64, generator=generator)
    return x * torch.tensor([1.0, 3.0, 0.1, 1.0]) + torch.tensor([0.0, 1.0, -2.0, 1e3]), weights


def norm(kind: type[nn.BatchNorm1d]) -> nn.BatchNorm1d:
    made = kind(D).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(D, dtype=torch.float64, generator=generator))
    return made


def own_steps() -> dict[str, Tensor]:
    """Two steps on this rank's rows."""
    x, weights = (part.chunk(world_size(), dim=1)[rank()] for part in joint())
    layer, x = norm(GlobalBatchNorm), x.clone().requires_grad_()
    outputs = torch.stack([layer(batch) for batch in x])
    (outputs * weights).sum().backward()
    assert x.grad is not None
    gradients = {f"gradient {name}": p.grad for name, p in layer.named_parameters() if p.grad is not None}
    evaluated = layer.eval()(x[0]).detach()
    return {"y": outputs.detach(), "gradient x": x.grad, "evaluated": evaluated, **gradients, **layer.state_dict()}


def joint_steps() -> dict[str, Tensor]:
    """The same by torch's norm on all rows, flattened to (N*T, D)."""
    x, weights = joint()
    layer, x = norm(nn.BatchNorm1d), x.clone().requires_grad_()
    outputs = torch.stack([layer(batch.reshape(-1, D)).view_as(batch) for batch in x])
    (outputs * weights).sum().backward()
    assert x.grad is not None
    gradients = {f"gradient {name}": p.grad for name, p in layer.named_parameters() if p.grad is not None}
    evaluated = layer.eval()(x[0].reshape(-1, D)).view_as(x[0]).detach()
    return {"y": outputs.detach(), "gradient x": x.grad, "evaluated": evaluated, **gradients, **layer.state_dict()}


def assert_close(found: Tensor, expected: Tensor, name: str) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12, msg=lambda text: f"{name}: {text}")


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_normalise_as_one_process_with_all_rows(world: int, in_ranks: Callable[..., Any]) -> None:
    expected, ranks = joint_steps(), in_ranks(own_steps, world)
    for name, rows in (("y", 1), ("gradient x", 1), ("evaluated", 0)):
        assert_close(torch.cat([found[name] for found in ranks], rows), expected[name], name)
    for name in ("gradient weight", "gradient bias"):
        assert_close(torch.stack([found[name] for found in ranks]).sum(0), expected[name], name)
    for name in ("running_mean", "running_var"):
        assert_close(ranks[0][name], expected[name], name)
    for found in ranks:
        assert found["num_batches_tracked"] == 2
        for name in ("running_mean", "running_var"):
            assert torch.equal(found[name], ranks[0][name]), name


def test_one_process_normalises_as_torch_does() -> None:
    expected, found = joint_steps(), own_steps()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(found[name], value, name)


def test_statistics_are_recorded_when_asked_and_in_that_order() -> None:
    x, _ = joint()
    apart, together = norm(GlobalBatchNorm), norm(GlobalBatchNorm)
    assert isinstance(apart, GlobalBatchNorm)
    (_, first), (_, second) = (apart.normalise(batch) for batch in x)
    assert apart.num_batches_tracked == 0
    assert torch.equal(apart.running_mean, torch.zeros(D, dtype=torch.float64))
    apart.record(first)
    apart.record(None)
    apart.record(second)
    for batch in x:
        together(batch)
    for name, value in together.state_dict().items():
        assert torch.equal(apart.state_dict()[name], value), name


def bfloat16_steps() -> dict[str, Tensor]:
    """One step on this rank's rows as autocast makes it: rows of bfloat16, parameters and statistics of float32."""
    x, _ = joint()
    layer = GlobalBatchNorm(D)
    y = layer(x[0].chunk(world_size())[rank()].bfloat16())
    assert y.dtype == torch.bfloat16
    return {"y": y.detach().float(), **layer.state_dict()}


def test_ranks_take_rows_of_bfloat16_and_sum_them_in_float32(in_ranks: Callable[..., Any]) -> None:
    ranks = in_ranks(bfloat16_steps, 2)
    expected = nn.BatchNorm1d(D)
    y = expected(joint()[0][0].bfloat16().reshape(-1, D)).view(N, T, D)
    torch.testing.assert_close(torch.cat([found["y"] for found in ranks]), y.float(), rtol=2**-7, atol=1e-3)
    for found in ranks:
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(found[name], expected.state_dict()[name], rtol=1e-5, atol=1e-6)
