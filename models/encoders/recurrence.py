"""GRUs over whole sequences, with the weight gradients of all frames in one product.

torch's own GRU is used where cuDNN serves it. Its CPU path adds up the gradient of the hidden weights frame by frame,
which reads and writes the whole matrix 64 times in a pass.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def run_gru(x_TND: Tensor, module: nn.GRU) -> Tensor:
    """The outputs of `module` at every frame from a zero state, (T, N, D) -> (T, N, directions * H).

    Equal to calling it. Under autocast the products run in its dtype, while the state and all sums stay in that of the
    parameters.
    """
    if x_TND.is_cuda:
        y: Tensor = module(x_TND)[0]
        return y
    weights = module.all_weights
    for layer in range(module.num_layers):
        low = for_products(x_TND)
        with torch.autocast(low.device.type, enabled=False):
            if module.bidirectional:
                forward, backward = weights[2 * layer : 2 * layer + 2]
                x_TND = torch.cat((_run(low, forward), _run(low.flip(0), backward).flip(0)), dim=-1)
            else:
                x_TND = _run(low, weights[layer])
    return x_TND


def for_products(x: Tensor) -> Tensor:
    """`x` in the dtype in which products run: autocast's, or its own. For two layers on one input, cast once."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


def _run(x: Tensor, weights: list[nn.Parameter]) -> Tensor:
    y: Tensor = _GRU.apply(x, *weights)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return y


class _GRU(torch.autograd.Function):
    """Gates r, z, n in the order of torch's weights (cuDNN's variant of Cho et al., 2014):

    r = sigmoid(a_r + b_r), z = sigmoid(a_z + b_z), n = tanh(a_n + r * b_n), h = n + z * (h' - n),
    with a = W_ih x + bias_ih of all frames in one product, and b = W_hh h' + bias_hh of the frame before.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w_ih: Tensor, w_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> Tensor:
        dtype = x.dtype  # of the products; that of the weights, or less
        hidden = w_hh.shape[1]
        low_hh = w_hh.to(dtype).T
        # first the inputs' part of the sums, then, frame by frame, the gates
        gates = torch.mm(x.flatten(0, 1), w_ih.to(dtype).T).view(*x.shape[:2], 3 * hidden)
        news = gates.new_empty(*x.shape[:2], hidden)
        outputs = torch.empty_like(news, dtype=w_hh.dtype)
        state = torch.zeros_like(outputs[0])
        # both biases of r and z add up before the gate; of n only the first, since r scales the second
        bias = torch.cat(((bias_ih + bias_hh)[: 2 * hidden], bias_ih[2 * hidden :]))
        for t, output in enumerate(outputs):
            recurrent = torch.mm(state.to(dtype), low_hh)
            sums = gates[t] + bias
            both = sums[:, : 2 * hidden].add_(recurrent[:, : 2 * hidden]).sigmoid_()
            new = bias_hh[2 * hidden :] + recurrent[:, 2 * hidden :]
            candidate = sums[:, 2 * hidden :].addcmul_(both[:, :hidden], new).tanh_()
            state = torch.lerp(candidate, state, both[:, hidden:], out=output)
            gates[t], news[t] = sums, new
        ctx.save_for_backward(x, w_ih, w_hh, gates, news, outputs)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, w_ih, w_hh, gates, news, outputs = ctx.saved_tensors
        dtype, hidden = x.dtype, w_hh.shape[1]
        low_hh = w_hh.to(dtype)
        # gradients of the sums within the gates, as (n, r, z, r * b_n): the first three are those of the inputs'
        # product, the last three those of the recurrent one, each a block without a copy
        sums = gates.new_empty(*x.shape[:2], 4 * hidden)
        carried = torch.zeros_like(outputs[0])
        for t in range(len(x) - 1, -1, -1):
            r, z, n = gates[t].to(carried.dtype).chunk(3, 1)
            carried = carried + gradients[0][t]
            kept = carried * z
            rest = carried - kept
            d_n = rest - (rest * n).mul_(n)
            d_new = d_n * r
            scaled = d_new * news[t]
            change = (outputs[t - 1] - n if t else -n).mul_(kept)
            torch.cat((d_n, scaled - scaled * r, change - change * z, d_new), 1, out=sums[t])
            carried = kept.add_(torch.mm(sums[t, :, hidden:], low_hh))
        flat = sums.flatten(0, 1)
        # the state before the first frame is zero and adds nothing
        d_hh = torch.mm(flat[x.shape[1] :, hidden:].T, outputs[:-1].flatten(0, 1).to(dtype))
        inputs = flat[:, : 3 * hidden]
        d_ih = torch.mm(inputs.T, x.flatten(0, 1)).view(3, hidden, -1)
        n_first = w_ih.to(dtype).view(3, hidden, -1)[[2, 0, 1]].flatten(0, 1)
        d_x = torch.mm(inputs, n_first).view_as(x) if ctx.needs_input_grad[0] else None
        d_bias = flat.sum(0, dtype=w_hh.dtype).chunk(4)
        return (
            d_x,
            d_ih[[1, 2, 0]].flatten(0, 1).to(w_ih.dtype),
            d_hh.to(w_hh.dtype),
            torch.cat((d_bias[1], d_bias[2], d_bias[0])),
            torch.cat(d_bias[1:]),
        )
