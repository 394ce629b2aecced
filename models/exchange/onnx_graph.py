"""The GRU encoder in evaluation mode as an ONNX graph, built by hand.

torch.onnx.export needs one more package and would unroll the recurrence for a fixed number of frames; ONNX's GRU
operator keeps it whole, with N and T free.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.encoders.gru import GRUConfig

OPSET = 17
IR_VERSION = 8
"""Both of 2022: every onnxruntime since 1.12 reads them."""

Array = npt.NDArray[Any]


def gru_model(config: GRUConfig, state: Mapping[str, Tensor], eps: float, facts: Mapping[str, str]) -> bytes:
    """The serialised, checked model; equal arguments give equal bytes.

    Its input "x" is (N, T, V*C*M) float32 with N and T >= 1 free; its outputs are "feature" (N, 2*hidden), the last
    frame's, and "frames" (N, T, 2*hidden).

    Args:
        config: shape of the encoder.
        state: `GRUEncoder.state_dict()`.
        eps: of the input norm.
        facts: texts kept as the model's metadata.
    """
    import onnx
    from onnx import TensorProto, helper

    graph = _Graph()
    frames_TNF = _layers(graph, config, state, _normalised(graph, state, eps))
    graph.add("Transpose", frames_TNF, output="frames", perm=[1, 0, 2])
    graph.add("Gather", frames_TNF, graph.constant("last", np.array(-1)), output="feature", axis=0)
    value = helper.make_tensor_value_info
    features = 2 * config.hidden
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "encoder",
            [value("x", TensorProto.FLOAT, ["N", "T", config.input_size])],
            [
                value("feature", TensorProto.FLOAT, ["N", features]),
                value("frames", TensorProto.FLOAT, ["N", "T", features]),
            ],
            graph.constants,
        ),
        producer_name="skelstream",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    helper.set_model_props(model, dict(sorted(facts.items())))
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


class _Graph:
    """Nodes in the order of their execution, and the constants they read."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._numbers = itertools.count()

    def constant(self, name: str, values: Array) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.asarray(values, order="C"), name))
        return name

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Append a node of one output; returns that output's name."""
        from onnx import helper

        name = output or f"{operator.lower()}_{next(self._numbers)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name


def _normalised(graph: _Graph, state: Mapping[str, Tensor], eps: float) -> str:
    """x by the running statistics, frames first: (T, N, D)."""
    mean, var, weight, bias = (
        state[f"input_norm.{name}"].double() for name in ("running_mean", "running_var", "weight", "bias")
    )
    scale = weight / torch.sqrt(var + eps)
    scaled = graph.add("Mul", "x", graph.constant("input_norm.scale", _float32(scale)))
    shifted = graph.add("Add", scaled, graph.constant("input_norm.shift", _float32(bias - mean * scale)))
    return graph.add("Transpose", shifted, perm=[1, 0, 2])


def _layers(graph: _Graph, config: GRUConfig, state: Mapping[str, Tensor], x_TND: str) -> str:
    for number in range(config.layers):
        prefix = f"layers.{number}"
        if config.direction == "bidirectional":
            directions = ((f"{prefix}.gru.", ""), (f"{prefix}.gru.", "_reverse"))
            y_TDNH = _gru(graph, state, prefix, directions, x_TND, config.hidden)
            y_TNDH = graph.add("Transpose", y_TDNH, perm=[0, 2, 1, 3])
            shape = graph.constant(f"{prefix}.shape", np.array([0, 0, 2 * config.hidden]))  # 0: as it is
            x_TND = graph.add("Reshape", y_TNDH, shape)
        else:
            halves = [
                _gru(graph, state, f"{prefix}.{half}", ((f"{prefix}.{half}.", ""),), x_TND, config.hidden)
                for half in ("first", "second")
            ]
            axes = graph.constant(f"{prefix}.axes", np.array([1]))
            x_TND = graph.add("Squeeze", graph.add("Concat", *halves, axis=3), axes)
    return x_TND


def _gru(
    graph: _Graph,
    state: Mapping[str, Tensor],
    name: str,
    directions: tuple[tuple[str, str], ...],
    x_TND: str,
    hidden: int,
) -> str:
    """ONNX's GRU over the whole sequence, (T, N, D) -> (T, directions, N, H).

    Args:
        name: of its constants.
        directions: beginning and ending of the names of each direction's weights.
    """

    def stacked(kind: str) -> Array:
        return np.stack([_reordered(state[f"{begin}{kind}_l0{end}"]) for begin, end in directions])

    weights = graph.constant(f"{name}.W", stacked("weight_ih"))
    recurrent = graph.constant(f"{name}.R", stacked("weight_hh"))
    biases = graph.constant(f"{name}.B", np.concatenate((stacked("bias_ih"), stacked("bias_hh")), axis=1))
    direction = "bidirectional" if len(directions) == 2 else "forward"
    # linear_before_reset: the reset gate scales W_hh h + b_hh as in torch, not h alone
    return graph.add(
        "GRU", x_TND, weights, recurrent, biases, hidden_size=hidden, direction=direction, linear_before_reset=1
    )


def _reordered(rows: Tensor) -> Array:
    """From torch's order of the gates r, z, n to ONNX's z, r, h."""
    reset, update, new = rows.detach().cpu().chunk(3)
    return _float32(torch.cat((update, reset, new)))


def _float32(values: Tensor) -> Array:
    array: Array = values.detach().cpu().float().numpy()
    return array
