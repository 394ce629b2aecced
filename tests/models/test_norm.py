"""Batch norm over all ranks, against torch's own over the joint rows."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.collectives import rank, world_size
from models.norm import GlobalBatchNorm, KeptStatistics

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


def both_steps() -> dict[str, Any]:
    return {"bfloat16": bfloat16_steps(), "channels first": first_steps()}


@pytest.fixture(scope="module")
def two_ranks(in_ranks: Callable[..., Any]) -> list[dict[str, Any]]:
    return list(in_ranks(both_steps, 2))


def test_ranks_take_rows_of_bfloat16_and_sum_them_in_float32(two_ranks: list[dict[str, Any]]) -> None:
    ranks = [found["bfloat16"] for found in two_ranks]
    expected = nn.BatchNorm1d(D)
    y = expected(joint()[0][0].bfloat16().reshape(-1, D)).view(N, T, D)
    torch.testing.assert_close(torch.cat([found["y"] for found in ranks]), y.float(), rtol=2**-7, atol=1e-3)
    for found in ranks:
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(found[name], expected.state_dict()[name], rtol=1e-5, atol=1e-6)


C, SPACE = 3, (4, 5)


def images() -> tuple[Tensor, Tensor]:
    """Two batches in turn, (2, N, C, H, W), and the weights of a loss on the outputs."""
    generator = torch.Generator().manual_seed(3)
    x, weights = torch.randn(2, 2, N, C, *SPACE, dtype=torch.float64, generator=generator)
    return x * torch.tensor([1.0, 3.0, 0.1])[:, None, None] + torch.tensor([0.0, 1.0, 50.0])[:, None, None], weights


def image_steps(layer: nn.Module) -> dict[str, Tensor]:
    """Two steps on this rank's rows, channels first."""
    x, weights = (part.chunk(world_size(), dim=1)[rank()] for part in images())
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.linspace(0.5, 2, C))
    x = x.clone().requires_grad_()
    outputs = torch.stack([layer(batch) for batch in x])
    (outputs * weights).sum().backward()
    assert x.grad is not None
    gradients = {f"gradient {name}": p.grad for name, p in layer.named_parameters() if p.grad is not None}
    evaluated = layer.eval()(x[0]).detach()
    return {"y": outputs.detach(), "gradient x": x.grad, "evaluated": evaluated, **gradients, **layer.state_dict()}


OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "everything else": {"eps": 0.1, "momentum": 0.5},
    "without weights": {"affine": False},
}


def first_steps() -> dict[str, dict[str, Tensor]]:
    return {name: image_steps(GlobalBatchNorm(C, first=True, **made).double()) for name, made in OPTIONS.items()}


@pytest.mark.parametrize("options", OPTIONS)
def test_channels_first_are_normalised_as_torchs_norm_of_images(options: str) -> None:
    expected, found = image_steps(nn.BatchNorm2d(C, **OPTIONS[options]).double()), first_steps()[options]
    assert found.keys() == expected.keys()
    assert torch.equal(found["y"], expected["y"])
    for name, value in expected.items():
        assert_close(found[name], value, name)


def test_ranks_normalise_channels_first_as_one_process_with_all_rows(two_ranks: list[dict[str, Any]]) -> None:
    alone, ranks = first_steps(), [found["channels first"] for found in two_ranks]
    for options, expected in alone.items():
        for name, value in expected.items():
            parts = [found[options][name] for found in ranks]
            if name in ("y", "gradient x", "evaluated"):
                joint = torch.cat(parts, 0 if name == "evaluated" else 1)
            else:
                joint = torch.stack(parts).sum(0) if name.startswith("gradient") else parts[0]
            assert_close(joint, value, f"{options}: {name}")


def test_channels_first_and_last_are_one_norm() -> None:
    x = images()[0][0].flatten(2)
    first, last = GlobalBatchNorm(C, first=True).double(), GlobalBatchNorm(C).double()
    assert_close(first(x), last(x.movedim(1, -1)).movedim(-1, 1), "y")
    assert_close(first.running_var, last.running_var, "running_var")


class Two(nn.Module):
    """Two norms, one within another part."""

    def __init__(self) -> None:
        super().__init__()
        self.first = norm(GlobalBatchNorm)
        self.rest = nn.Sequential(nn.Linear(D, D), norm(GlobalBatchNorm)).double()
        with torch.no_grad():
            self.rest[0].weight.copy_(torch.eye(D) + 0.1)
            self.rest[0].bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.rest(self.first(x))
        return y


def states(*modules: nn.Module) -> list[dict[str, Tensor]]:
    return [{name: value.clone() for name, value in module.state_dict().items()} for module in modules]


def assert_equal_states(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_a_step_with_kept_statistics_can_be_repeated_and_counts_once() -> None:
    x, _ = joint()
    plain, repeated = Two(), Two()
    (before,) = states(repeated)
    kept = KeptStatistics(repeated)
    outputs = []
    for _ in range(3):
        kept.begin()  # forgets what the try before has kept
        outputs.append(repeated(x[0]))
        assert_equal_states(repeated.state_dict(), before)
    kept.end()
    expected = plain(x[0])
    assert all(torch.equal(output, expected) for output in outputs)
    assert_equal_states(repeated.state_dict(), plain.state_dict())


def test_kept_statistics_are_recorded_in_the_order_of_the_passes() -> None:
    x, _ = joint()
    plain, aside, turned = Two(), Two(), Two()
    for module, order in ((aside, (0, 1)), (turned, (1, 0))):
        kept = KeptStatistics(module)
        kept.begin()
        for number in order:
            module(x[number])
        kept.end()
    for batch in x:
        plain(batch)
    assert_equal_states(aside.state_dict(), plain.state_dict())
    assert not torch.equal(turned.first.running_mean, plain.first.running_mean)


def test_after_the_end_statistics_are_recorded_at_once_again() -> None:
    x, _ = joint()
    plain, aside = Two(), Two()
    kept = KeptStatistics(aside)
    kept.begin()
    kept.end()
    kept.end()
    for module in (plain, aside):
        module(x[0])
    assert_equal_states(aside.state_dict(), plain.state_dict())
    assert aside.first.num_batches_tracked == 1


def test_passes_in_evaluation_keep_nothing() -> None:
    x, _ = joint()
    module = Two()
    module(x[0])
    (before,) = states(module)
    kept = KeptStatistics(module)
    kept.begin()
    module.eval()(x[1])
    kept.end()
    assert_equal_states(module.state_dict(), before)
