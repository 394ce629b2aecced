"""The GRU over whole sequences against torch's own and against its formula written out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models.encoders.recurrence import run_gru

SIZE, HIDDEN = 5, 4


def gru(layers: int, bidirectional: bool, seed: int = 0) -> nn.GRU:
    torch.manual_seed(seed)
    return nn.GRU(SIZE, HIDDEN, num_layers=layers, bidirectional=bidirectional).double()


def outputs_and_gradients(module: nn.GRU, x_TND: Tensor, ours: bool) -> list[Tensor]:
    """Outputs, then the gradients of input and parameters for one fixed gradient of the outputs."""
    x = x_TND.clone().requires_grad_()
    y = run_gru(x, module) if ours else module(x)[0]
    gradient = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
    return [y.detach(), *torch.autograd.grad(y, [x, *module.parameters()], gradient)]


@settings(deadline=None, max_examples=30)
@given(
    frames=st.integers(1, 7),
    rows=st.integers(1, 6),
    layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    seed=st.integers(0, 99),
)
def test_outputs_and_all_gradients_equal_those_of_torch(
    frames: int, rows: int, layers: int, bidirectional: bool, seed: int
) -> None:
    module = gru(layers, bidirectional, seed)
    x = 3 * torch.randn(frames, rows, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    ours, theirs = (outputs_and_gradients(module, x, ours) for ours in (True, False))
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_the_gradients_are_those_of_finite_differences() -> None:
    module = gru(layers=1, bidirectional=False)
    x = torch.randn(4, 2, SIZE, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *inputs: run_gru(inputs[0], module), (x, *module.parameters()))


def test_only_the_last_frame_asked_for_gives_the_gradients_of_torch() -> None:
    module, x = gru(layers=2, bidirectional=False), torch.randn(6, 3, SIZE, dtype=torch.float64)
    ours = torch.autograd.grad(run_gru(x, module)[-1].square().sum(), module.parameters())
    theirs = torch.autograd.grad(module(x)[0][-1].square().sum(), module.parameters())
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_an_input_without_gradient_and_no_grad_give_the_same_outputs() -> None:
    module, x = gru(layers=1, bidirectional=True), torch.randn(6, 3, SIZE, dtype=torch.float64)
    y = run_gru(x, module)
    y.sum().backward()
    with torch.no_grad():
        assert torch.equal(run_gru(x, module), y)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_bfloat16_rounds_the_products_and_keeps_state_and_gradients_in_float32(bidirectional: bool) -> None:
    module = gru(2, bidirectional).float()
    x = torch.randn(20, 6, SIZE, generator=torch.Generator().manual_seed(0))
    exact = outputs_and_gradients(module, x, ours=True)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = outputs_and_gradients(module, x, ours=True)
    for found, expected in zip(rounded, exact, strict=True):
        assert found.dtype == torch.float32
        # bfloat16 has 8 bits of mantissa; measured: up to 0.4 % of the largest entry
        assert 1e-5 < (found - expected).abs().max() / expected.abs().max() < 2e-2


def test_a_long_sequence_in_bfloat16_does_not_lose_its_state_to_rounding() -> None:
    """The update gate near 1 moves the state by 1/500 a frame, less than bfloat16 can add to a state near 1."""
    module = nn.GRU(1, 1).requires_grad_(False)
    for parameter in module.parameters():
        parameter.zero_()
    module.bias_ih_l0[1], module.bias_ih_l0[2] = 6.2, 9.0  # z = 0.998, n = 1
    frames = 2000
    with torch.autocast("cpu", torch.bfloat16):
        y = run_gru(torch.zeros(frames, 1, 1), module)
    z = torch.tensor(6.2).sigmoid()
    torch.testing.assert_close(y[:, 0, 0], 1 - z ** torch.arange(1, frames + 1), rtol=0, atol=1e-4)
