"""What ranks exchange, against sums and stacks written out."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from models.collectives import gather_rows, rank, sum_over_ranks, world_size

ROWS = torch.arange(12.0, dtype=torch.float64).reshape(6, 2)
FACTORS = torch.tensor([2.0, -3.0, 5.0], dtype=torch.float64)


def exchange() -> dict[str, Tensor]:
    """Each rank holds a block of `ROWS`, and weighs what it makes of their sum by its own factor."""
    own = ROWS.chunk(world_size())[rank()].clone().requires_grad_()
    total = sum_over_ranks(own.square())
    (FACTORS[rank()] * total.sum()).backward()
    assert own.grad is not None
    gathered = gather_rows(own)
    assert not gathered.requires_grad
    return {
        "place": torch.tensor([rank(), world_size()]),
        "total": total.detach(),
        "gradient": own.grad,
        "gathered": gathered,
        "columns": gather_rows(own.detach().T),  # not contiguous
        "numbers": gather_rows(torch.tensor([rank(), 7])),
        "flags": gather_rows(torch.tensor([rank() == 1])),
    }


@pytest.fixture(scope="module", params=[2, 3])
def exchanged(request: pytest.FixtureRequest, in_ranks: Callable[..., Any]) -> list[dict[str, Tensor]]:
    return list(in_ranks(exchange, request.param))


def test_the_sum_and_its_gradient_are_those_of_all_ranks(exchanged: list[dict[str, Tensor]]) -> None:
    world = len(exchanged)
    blocks = torch.stack(ROWS.chunk(world)).requires_grad_()
    # the loss of all ranks together: each weighs the same sum by its factor
    total = blocks.square().sum(0)
    (FACTORS[:world].sum() * total.sum()).backward()
    assert blocks.grad is not None
    for number, found in enumerate(exchanged):
        assert found["place"].tolist() == [number, world]
        assert torch.equal(found["total"], total)
        torch.testing.assert_close(found["gradient"], blocks.grad[number], rtol=0, atol=1e-12)


def test_rows_are_gathered_in_the_order_of_the_ranks(exchanged: list[dict[str, Tensor]]) -> None:
    world = len(exchanged)
    for found in exchanged:
        assert torch.equal(found["gathered"], ROWS)
        assert torch.equal(found["columns"], torch.cat([block.T for block in ROWS.chunk(world)]))
        assert found["numbers"].tolist() == [n for number in range(world) for n in (number, 7)]
        assert found["flags"].tolist() == [number == 1 for number in range(world)]


def test_one_process_alone_keeps_what_it_has() -> None:
    x = ROWS.clone().requires_grad_()
    assert (rank(), world_size()) == (0, 1)
    assert sum_over_ranks(x) is x
    gathered = gather_rows(x)
    assert torch.equal(gathered, ROWS)
