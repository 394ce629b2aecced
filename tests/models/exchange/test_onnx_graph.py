"""The ONNX graph, computed by onnxruntime, against the encoder it was made of."""

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from models.encoders.gru import Direction, GRUConfig, GRUEncoder
from models.exchange.onnx_model import encoder_model


def _encoder(direction: Direction, layers: int = 3) -> GRUEncoder:
    """With running statistics, weights and biases of the norm that differ from those of a new one."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        encoder = GRUEncoder(GRUConfig(hidden=8, layers=layers, direction=direction)).eval()
        norm = encoder.input_norm
        with torch.no_grad():
            norm.weight.uniform_(0.5, 2)
            norm.bias.normal_()
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.1, 3)
    return encoder


def _session(encoder: GRUEncoder, **facts: str) -> Any:
    model = encoder_model(encoder.config, encoder, 64, facts)
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def _view(n: int, frames: int) -> Tensor:
    return torch.randn(n, frames, 150, generator=torch.Generator().manual_seed(n * 100 + frames))


@pytest.mark.parametrize("direction", ["parallel_forward", "bidirectional"])
def test_one_graph_gives_torchs_features_for_every_number_of_samples_and_frames(direction: Direction) -> None:
    encoder = _encoder(direction)
    session = _session(encoder)
    for n, frames in ((1, 1), (1, 64), (5, 7), (3, 100)):
        x = _view(n, frames)
        feature, every = session.run(["feature", "frames"], {"x": x.numpy()})
        with torch.no_grad():
            expected = encoder(x).frames.numpy()
        assert every.shape == (n, frames, 16)
        assert feature.shape == (n, 16)
        assert np.abs(every - expected).max() < 1e-5
        assert np.abs(feature - expected[:, -1]).max() < 1e-5


def test_one_layer_is_enough() -> None:
    encoder, x = _encoder("parallel_forward", layers=1), _view(2, 9)
    with torch.no_grad():
        expected = encoder(x).feature.numpy()
    assert np.abs(_session(encoder).run(["feature"], {"x": x.numpy()})[0] - expected).max() < 1e-5


def test_the_model_names_its_inputs_and_outputs_and_keeps_its_facts() -> None:
    session = _session(_encoder("bidirectional"), stream="bone", frames="64")
    (x,) = session.get_inputs()
    assert (x.name, x.type, x.shape) == ("x", "tensor(float)", ["N", "T", 150])
    assert [(y.name, y.shape) for y in session.get_outputs()] == [("feature", ["N", 16]), ("frames", ["N", "T", 16])]
    assert session.get_modelmeta().custom_metadata_map == {"stream": "bone", "frames": "64"}


def test_equal_encoders_give_equal_bytes() -> None:
    facts = {"b": "2", "a": "1"}
    models = [
        encoder_model(e.config, e, 64, dict(order))
        for e, order in (
            (_encoder("parallel_forward"), facts.items()),
            (_encoder("parallel_forward"), reversed(facts.items())),
        )
    ]
    assert models[0] == models[1]
