"""Dropout by numbers: what is dropped, that it can be repeated, and that ranks drop as one process does."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.collectives import rank, world_size
from models.dropout import Dropout, DropPath, seed_dropout

ROWS, SHAPE = 12, (5, 3)


def rows() -> Tensor:
    return 1 + torch.rand(ROWS, *SHAPE, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Three layers that drop; the second gets two rows of each sample, as one of persons would."""

    def __init__(self) -> None:
        super().__init__()
        self.entries, self.persons, self.paths = Dropout(0.5), Dropout(0.3), DropPath(0.4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        doubled = torch.stack([x, x], dim=1).flatten(0, 1)
        return self.entries(x), self.persons(doubled), self.paths(x)


def dropped(*numbers: int | str) -> tuple[Tensor, ...]:
    net = Net()
    seed_dropout(net, *numbers)
    outputs: tuple[Tensor, ...] = net(rows().chunk(world_size())[rank()])
    return outputs


def in_this_rank() -> list[Tensor]:
    return list(dropped(3, 1, 4))


def test_ranks_drop_what_one_process_drops_of_the_joint_batch(in_ranks: Callable[..., Any]) -> None:
    parts = in_ranks(in_this_rank, 2)
    for number, whole in enumerate(in_this_rank()):
        assert torch.equal(torch.cat([part[number] for part in parts]), whole)


def test_entries_are_dropped_or_scaled_so_that_their_mean_stays() -> None:
    x = torch.ones(400, 50)
    layer = Dropout(0.3)
    seed_dropout(layer, 0)
    y = layer(x)
    assert y.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert (y == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert y.mean().item() == pytest.approx(1, abs=0.01)
    # each entry by itself: neither rows nor columns are alike
    assert len((y == 0).sum(1).unique()) > 5
    assert len((y == 0).sum(0).unique()) > 5


def test_a_path_is_dropped_for_a_whole_row() -> None:
    x = rows().repeat(100, 1, 1)
    layer = DropPath(0.4)
    seed_dropout(layer, 0)
    y = layer(x)
    gone = (y == 0).flatten(1)
    assert torch.equal(gone.all(1), gone.any(1))
    torch.testing.assert_close(y[~gone.all(1)], x[~gone.all(1)] / 0.6)
    assert gone.all(1).float().mean().item() == pytest.approx(0.4, abs=0.05)


def test_the_gradient_flows_through_what_is_kept() -> None:
    layer, x = Dropout(0.5), rows().requires_grad_()
    seed_dropout(layer, 7)
    y = layer(x)
    y.sum().backward()
    assert torch.equal(x.grad, torch.where(y.detach() == 0, 0.0, 2.0))


def test_equal_numbers_give_equal_draws_whatever_the_global_generator_and_leave_it_alone() -> None:
    torch.manual_seed(1)
    first = dropped("query", 0, 2)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = dropped("query", 0, 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("numbers", [(), ("key", 0, 2), ("query", 1, 2), ("query", 0, 3), ("query", 0, 2, 0)])
def test_other_numbers_give_other_draws(numbers: tuple[int | str, ...]) -> None:
    for one, other in zip(dropped("query", 0, 2), dropped(*numbers), strict=True):
        assert not torch.equal(one, other)


def test_each_layer_has_draws_of_its_own() -> None:
    net = nn.Sequential(Dropout(0.5), nn.Sequential(Dropout(0.5)))
    seed_dropout(net, 0)
    first, second = net[0](rows()), net[1][0](rows())
    assert not torch.equal(first, second)


def test_a_forward_pass_can_be_repeated() -> None:
    net = Net()
    seed_dropout(net, 5)
    assert all(torch.equal(a, b) for a, b in zip(net(rows()), net(rows()), strict=True))


def test_without_a_seed_the_global_generator_draws() -> None:
    layer = Dropout(0.5)
    torch.manual_seed(0)
    first, second = layer(rows()), layer(rows())
    torch.manual_seed(0)
    assert torch.equal(layer(rows()), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("kind", [Dropout, DropPath])
def test_nothing_is_dropped_in_evaluation_or_with_probability_zero(kind: type[Dropout]) -> None:
    x = rows()
    for layer in (kind(0.5).eval(), kind(0.0)):
        seed_dropout(layer, 0)
        assert layer(x) is x


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_output_has_the_type_of_the_input(dtype: torch.dtype) -> None:
    for layer in (Dropout(0.5), DropPath(0.5)):
        seed_dropout(layer, 0)
        assert layer(rows().to(dtype)).dtype == dtype
