"""The momentum twin and the queue of keys."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.momentum import Queue, become_twin, momentum_update
from shards.errors import ConfigError


def _pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    online, twin = (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double() for _ in range(2))
    return online, twin


def test_a_twin_starts_equal_and_without_gradient() -> None:
    online, twin = _pair()
    become_twin(twin, online)
    for name, tensor in online.state_dict().items():
        assert torch.equal(twin.state_dict()[name], tensor)
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    assert all(parameter.requires_grad for parameter in online.parameters())
    with torch.no_grad():
        online[0].weight += 1
    assert not torch.equal(online[0].weight, twin[0].weight)


def test_the_update_moves_parameters_by_the_rule_and_leaves_buffers() -> None:
    online, twin = _pair()
    online[1](torch.randn(5, 4, dtype=torch.float64))
    expected = {n: 0.9 * p.detach() + 0.1 * online.get_parameter(n).detach() for n, p in twin.named_parameters()}
    momentum_update(twin, online, 0.9)
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=0, atol=1e-15)
    assert twin[1].running_mean.eq(0).all()
    assert online[1].running_mean.ne(0).any()


def test_the_queue_starts_as_unit_vectors_of_its_generator() -> None:
    first, same = (Queue(9, 4, torch.Generator().manual_seed(3)) for _ in range(2))
    other = Queue(9, 4, torch.Generator().manual_seed(4))
    torch.testing.assert_close(first.keys.norm(dim=1), torch.ones(9))
    assert torch.equal(first.keys, same.keys)
    assert not torch.equal(first.keys, other.keys)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 12).flatmap(lambda size: st.tuples(st.just(size), st.lists(st.integers(1, size - 1), max_size=9)))
)
def test_pushes_of_any_size_overwrite_the_oldest_rows_and_wrap_around(case: tuple[int, list[int]]) -> None:
    size, pushes = case
    queue = Queue(size, 2)
    expected, position, value = queue.keys.clone(), 0, 0.0
    for n in pushes:
        keys = torch.arange(value, value + n)[:, None].expand(n, 2)
        for key in keys:
            expected[position % size] = key
            position += 1
        queue.push(keys)
        value += n
    assert torch.equal(queue.keys, expected)
    assert queue.position.tolist() == [position % size]


def test_an_empty_queue_is_refused() -> None:
    with pytest.raises(ConfigError, match="queue size 0 found"):
        Queue(0, 4)


@pytest.mark.parametrize("batch", [4, 5])
def test_a_batch_not_smaller_than_the_queue_is_refused(batch: int) -> None:
    with pytest.raises(ConfigError, match=f"queue size 4 found, expected more than the batch size {batch}"):
        Queue(4, 2).push(torch.zeros(batch, 2))
