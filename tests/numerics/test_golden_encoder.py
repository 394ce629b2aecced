"""The encoder against numbers of the PCM3 encoder, in evaluation and in train mode."""

import numpy as np
import pytest
import torch

from models.encoders.gru import Direction, GRUConfig, GRUEncoder, from_reference_state
from tests.numerics.golden import matching, numbers

TOLERANCE = 1e-5

NUMBERS = numbers("encoder")


def _encoder(direction: Direction = "parallel_forward") -> GRUEncoder:
    state = {name: torch.from_numpy(NUMBERS[f"w__{name}"]) for name in matching(NUMBERS, "w__*")}
    layers = len([name for name in state if name.startswith("encoder.gru.weight_hh") and not name.endswith("_reverse")])
    config = GRUConfig(
        hidden=state["encoder.gru.weight_hh_l0"].shape[1],
        layers=layers,
        direction=direction,
        input_size=state["encoder.gru.weight_ih_l0"].shape[1],
    )
    encoder = GRUEncoder(config)
    body = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    encoder.load_state_dict(from_reference_state(body, direction))
    return encoder


def _head(last: torch.Tensor) -> np.ndarray:
    return last.numpy() @ NUMBERS["w__fc.weight"].T + NUMBERS["w__fc.bias"]


@torch.no_grad()
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_features_of_every_frame_equal_the_reference(mode: str) -> None:
    last, frames = _encoder().train(mode == "train")(torch.from_numpy(NUMBERS["input"]))
    np.testing.assert_allclose(frames.numpy(), NUMBERS[f"{mode}_all_seq"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(last.numpy(), NUMBERS[f"{mode}_last"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(_head(last), NUMBERS[f"{mode}_fc"], rtol=0, atol=TOLERANCE)


@torch.no_grad()
def test_one_training_pass_leaves_the_running_statistics_of_the_reference() -> None:
    encoder = _encoder()
    encoder(torch.from_numpy(NUMBERS["input"]))
    norm = encoder.input_norm
    np.testing.assert_allclose(norm.running_mean.numpy(), NUMBERS["train_running_mean_after"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(norm.running_var.numpy(), NUMBERS["train_running_var_after"], rtol=0, atol=TOLERANCE)
    assert norm.num_batches_tracked == int(NUMBERS["train_num_batches_tracked_after"])


@torch.no_grad()
def test_the_bidirectional_option_equals_an_ordinary_bidirectional_gru() -> None:
    _, features = _encoder("bidirectional").eval()(torch.from_numpy(NUMBERS["input"]))
    both_ways, forward = NUMBERS["eval_true_bidirectional_all_seq"], NUMBERS["eval_all_seq"]
    np.testing.assert_allclose(features.numpy(), both_ways, rtol=0, atol=TOLERANCE)
    contrast = np.abs(both_ways - forward).max()
    assert np.abs(features.numpy() - forward).max() == pytest.approx(contrast, rel=0, abs=TOLERANCE)
    assert contrast > 1000 * TOLERANCE
