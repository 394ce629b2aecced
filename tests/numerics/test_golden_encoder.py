"""The encoder against numbers of the PCM3 encoder (hidden 16), in evaluation and in train mode."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib.npyio import NpzFile

from models.encoders.gru import Direction, EncoderConfig, GRUEncoder, from_reference_state

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def numbers(golden: Path) -> NpzFile:
    return np.load(golden / "encoder.npz")


def _encoder(numbers: NpzFile, direction: Direction = "parallel_forward") -> GRUEncoder:
    names = [name for name in numbers.files if name.startswith("w__") and not name.startswith("w__fc.")]
    state = {name.removeprefix("w__"): torch.from_numpy(numbers[name]) for name in names}
    encoder = GRUEncoder(EncoderConfig(hidden=16, direction=direction))
    encoder.load_state_dict(from_reference_state(state, direction))
    return encoder


def _head(numbers: NpzFile, last: torch.Tensor) -> np.ndarray:
    return last.numpy() @ numbers["w__fc.weight"].T + numbers["w__fc.bias"]


@torch.no_grad()
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_features_of_every_frame_equal_the_reference(numbers: NpzFile, mode: str) -> None:
    features = _encoder(numbers).train(mode == "train")(torch.from_numpy(numbers["input"]))
    np.testing.assert_allclose(features.numpy(), numbers[f"{mode}_all_seq"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(features[:, -1].numpy(), numbers[f"{mode}_last"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(_head(numbers, features[:, -1]), numbers[f"{mode}_fc"], rtol=0, atol=TOLERANCE)


@torch.no_grad()
def test_one_training_pass_leaves_the_running_statistics_of_the_reference(numbers: NpzFile) -> None:
    encoder = _encoder(numbers)
    encoder(torch.from_numpy(numbers["input"]))
    norm = encoder.input_norm
    np.testing.assert_allclose(norm.running_mean.numpy(), numbers["train_running_mean_after"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(norm.running_var.numpy(), numbers["train_running_var_after"], rtol=0, atol=TOLERANCE)
    assert norm.num_batches_tracked == int(numbers["train_num_batches_tracked_after"])


@torch.no_grad()
def test_the_bidirectional_option_equals_an_ordinary_bidirectional_gru(numbers: NpzFile) -> None:
    features = _encoder(numbers, "bidirectional").eval()(torch.from_numpy(numbers["input"]))
    np.testing.assert_allclose(features.numpy(), numbers["eval_true_bidirectional_all_seq"], rtol=0, atol=TOLERANCE)
    assert np.abs(features.numpy() - numbers["eval_all_seq"]).max() > 0.5
