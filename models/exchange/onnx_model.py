"""An encoder in evaluation mode as an ONNX model."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import torch

from models.encoders.encoder import Encoder, EncoderConfig
from models.encoders.gru import GRUConfig, GRUEncoder
from models.exchange.onnx_graph import IR_VERSION, OPSET, gru_model
from shards.skeleton import FRAME_SIZE


def encoder_model(config: EncoderConfig, encoder: Encoder, frames: int, facts: Mapping[str, str]) -> bytes:
    """The serialised, checked model; equal arguments give equal bytes.

    Its input "x" is (N, T, V*C*M) float32, with N free, and T too where the encoder takes views of any length; its
    outputs are "feature" (N, D) and, where the encoder has them, "frames" (N, T', D).

    Args:
        config: of the encoder.
        encoder: in evaluation mode, on the CPU.
        frames: T it was trained on.
        facts: texts kept as the model's metadata.
    """
    if isinstance(config, GRUConfig):  # torch's exporter would unroll the recurrence for a fixed number of frames
        eps = cast(GRUEncoder, encoder).input_norm.eps
        return gru_model(config, encoder.state_dict(), eps, facts)
    return _trace(encoder, frames, facts)


class _Outputs(torch.nn.Module):
    """The outputs of an encoder that are tensors."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(output for output in self.encoder(x) if output is not None)


def _trace(encoder: Encoder, frames: int, facts: Mapping[str, str]) -> bytes:
    import onnx

    names = ("feature", "frames") if encoder.stride is not None else ("feature",)
    free = {0: "N", 1: "T"} if encoder.any_length else {0: "N"}
    axes = {
        "x": free,
        "feature": {0: "N"},
        "frames": {axis: "T'" if axis else "N" for axis in free},
    }
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        path = Path(folder) / "encoder.onnx"
        # the exporter that needs no further package is deprecated, and remarks on each comparison of a shape
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Outputs(encoder).eval(),
            (torch.zeros(2, frames, FRAME_SIZE),),
            path,
            input_names=["x"],
            output_names=list(names),
            dynamic_axes={name: axes[name] for name in ("x", *names)},
            opset_version=OPSET,
            dynamo=False,
        )
        model = onnx.load(path)
    model.ir_version = IR_VERSION
    onnx.helper.set_model_props(model, dict(sorted(facts.items())))
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data
