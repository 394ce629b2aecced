"""The ST-GCN encoder against numbers of that of LinguoLi/CrosSCLR, in float64, with the golden README's tolerances."""

import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.dropout import Dropout
from models.encoders.stgcn import STGCN, STGCNConfig, from_reference_name, spatial_adjacency
from tests.numerics import gcn, golden

ARRAYS = golden.numbers("methods/stgcn")
PARAMETERS = golden.found(ARRAYS["train.grad_names"].tolist())
STATISTICS = golden.found(name.removeprefix("train.after.") for name in ARRAYS if name.startswith("train.after."))
# the small encoder's widths are in the README alone
SMALL = STGCNConfig(width=4, feature=32, dropout=0)


def _modes(end: str) -> list[str]:
    """What stands before the end of a name, such as "eval", "eval50" and "train"; its digits name the input."""
    return golden.found(name.removesuffix(end) for name in ARRAYS if name.endswith(end))


class Reference(nn.Module):
    """An encoder and the linear layer on its features, with the weights of the set."""

    def __init__(self, config: STGCNConfig, outputs: int) -> None:
        super().__init__()
        self.encoder, self.fc = STGCN(config), nn.Linear(config.feature, outputs)
        gcn.fill(self, {name: self.ours(name) for name in PARAMETERS})
        self.double()
        self.blocks: list[Tensor] = []
        for block in self.encoder.layers:
            block.register_forward_hook(lambda _module, _x, y: self.blocks.append(y.detach()))

    @staticmethod
    def ours(name: str) -> str:
        return name if name.startswith("fc.") else f"encoder.{from_reference_name(name)}"

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features and outputs; `blocks` are what each block gave."""
        self.blocks.clear()
        feature = self.encoder(x).feature
        return feature, self.fc(feature)


def _reference(mode: str, config: STGCNConfig) -> Reference:
    return Reference(config, ARRAYS[f"{mode}.out"].shape[1]).train("train" in mode)


def _config(dropout: float = 0) -> STGCNConfig:
    widths = ARRAYS[f"{_modes('.layer_shape')[0]}.layer_shape"][:, 1].tolist()
    return STGCNConfig(width=widths[0], feature=widths[-1], dropout=dropout)


def _input(mode: str) -> Tensor:
    return gcn.flatten(ARRAYS["x" + "".join(re.findall(r"\d+", mode))])


def test_the_adjacency_is_the_reference() -> None:
    np.testing.assert_array_equal(spatial_adjacency(), ARRAYS["A"])


@torch.no_grad()
@pytest.mark.parametrize("mode", _modes(".layer_shape"))
def test_blocks_and_features_equal_the_reference(mode: str) -> None:
    reference = _reference(mode, _config())
    feature, output = reference(_input(mode))
    assert [list(block.shape) for block in reference.blocks] == ARRAYS[f"{mode}.layer_shape"].tolist()
    found = torch.stack([torch.stack((block.mean(), block.std(correction=0))) for block in reference.blocks])
    gcn.check_array(found, ARRAYS[f"{mode}.layer_mean_std"])
    channels, frames, joints = ARRAYS[f"{mode}.layer_slice"].shape[1:]
    for number, block in enumerate(reference.blocks):
        expected = ARRAYS[f"{mode}.layer_slice"][number]
        gcn.check_array(block[0, :channels, :frames, :joints], expected, f"block {number}")
    gcn.check_array(feature, ARRAYS[f"{mode}.feat"])
    gcn.check_array(output, ARRAYS[f"{mode}.out"])


def test_gradients_and_running_statistics_of_a_training_pass_equal_the_reference() -> None:
    reference = _reference("train", _config())
    _, output = reference(_input("train"))
    loss = (output * torch.from_numpy(ARRAYS["cotangent"]).double()).sum()
    loss.backward()
    assert loss.item() == pytest.approx(float(ARRAYS["train.loss"]), rel=gcn.LOSS, abs=gcn.LOSS)
    gradients = {name: reference.get_parameter(reference.ours(name)).grad for name in PARAMETERS}
    gcn.check_statistics(ARRAYS, "train.grad", {name: g for name, g in gradients.items() if g is not None})
    for name in STATISTICS:
        gcn.check_array(reference.get_buffer(reference.ours(name)), ARRAYS[f"train.after.{name}"], name)


def _drop_as_the_set(dropout: Dropout, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = golden.generator(f"dropout.{name}")
    monkeypatch.setattr(
        dropout, "_kept", lambda shape, _device: torch.from_numpy(draws.random_sample(shape) >= dropout.p)
    )


@torch.no_grad()
@pytest.mark.parametrize("mode", golden.found(mode for mode in _modes(".out") if mode.endswith("_drop")))
def test_dropout_acts_where_the_reference_has_it(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = _reference(mode, _config(dropout=0.5))
    for number, block in enumerate(reference.encoder.layers):
        _drop_as_the_set(block.dropout, f"st_gcn_networks.{number}.tcn.4", monkeypatch)
    _, output = reference(_input(mode))
    gcn.check_array(output, ARRAYS[f"{mode}.out"])


@torch.no_grad()
@pytest.mark.parametrize("mode", golden.found(mode for mode in _modes(".out") if mode.startswith("small.")))
def test_a_smaller_encoder_equals_the_reference(mode: str) -> None:
    reference = _reference(mode, SMALL)
    assert sum(parameter.numel() for parameter in reference.parameters()) == ARRAYS["small.params"]
    _, output = reference(_input(mode))
    gcn.check_array(output, ARRAYS[f"{mode}.out"])
