from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.encoders.gru import EncoderConfig, GRUEncoder
from models.evaluation.features import coordinate_features, encode, extract_features
from shards.batch import Views
from shards.errors import ConfigError, SkelstreamError

DAMAGED = 7


def split(samples: int = 10, batch: int = 4, damaged: int | None = None) -> Iterator[Views]:
    x = torch.randn(samples, 6, 150, generator=torch.Generator().manual_seed(0))
    if damaged is not None:
        x[damaged, 3, 20] = float("nan")
    for rows in torch.arange(samples).split(batch):
        yield Views({"x": x[rows]}, label=rows % 3, sample_id=100 + rows)


def encoder() -> GRUEncoder:
    torch.manual_seed(0)
    built = GRUEncoder(EncoderConfig(hidden=4, layers=2))
    with torch.no_grad():
        built(torch.randn(8, 6, 150))  # running statistics that differ from the initial ones
    return built


def snapshot(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, bool]]:
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    return state, {name: part.training for name, part in module.named_modules()}


def assert_untouched(module: nn.Module, before: tuple[dict[str, Tensor], dict[str, bool]]) -> None:
    state, modes = snapshot(module)
    assert modes == before[1]
    assert state.keys() == before[0].keys()
    assert all(torch.equal(state[name], before[0][name]) for name in state)


def test_a_feature_is_the_last_time_step_of_the_encoder_in_eval_mode() -> None:
    model = encoder()
    features = extract_features(model, split())
    model.eval()
    with torch.no_grad():
        expected = torch.cat([model(batch.views["x"])[:, -1] for batch in split()])
    assert torch.equal(features.values, expected)
    assert features.values.shape == (10, model.feature_size)
    assert features.values.dtype == torch.float32
    assert torch.equal(features.label, torch.arange(10) % 3)
    assert torch.equal(features.sample_id, torch.arange(100, 110))
    assert len(features) == 10


def test_the_batch_size_does_not_change_a_feature() -> None:
    model = encoder()
    torch.testing.assert_close(
        extract_features(model, split(batch=1)).values, extract_features(model, split(batch=10)).values
    )


def test_the_encoder_is_the_same_to_the_bit_and_each_part_in_its_former_mode() -> None:
    model = encoder().train()
    next(iter(model.children())).eval()
    before = snapshot(model)
    assert len(set(before[1].values())) == 2
    extract_features(model, split())
    assert_untouched(model, before)


def test_the_modes_come_back_after_an_error() -> None:
    model = encoder().train()
    before = snapshot(model)

    def fail(x: Tensor) -> Tensor:
        assert not any(part.training for part in model.modules())
        raise RuntimeError("inside")

    model.forward = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="inside"):
        extract_features(model, split())
    assert_untouched(model, before)
    assert not torch.is_inference_mode_enabled()


def test_a_head_can_be_trained_on_features() -> None:
    features = extract_features(encoder(), split())
    head = nn.Linear(features.values.shape[1], 3)
    head(features.values).sum().backward()
    assert head.weight.grad is not None


def test_a_feature_that_is_no_number_is_told_with_its_samples() -> None:
    with pytest.raises(SkelstreamError, match=r"features of samples \[107\]"):
        extract_features(encoder(), split(damaged=DAMAGED))


def test_a_split_without_samples_is_told() -> None:
    with pytest.raises(ConfigError, match="found no samples"):
        extract_features(encoder(), iter(()))
    with pytest.raises(ConfigError, match="found no samples"):
        coordinate_features(iter(()))


def test_coordinate_features_are_the_flattened_view() -> None:
    features = coordinate_features(split())
    assert torch.equal(features.values, torch.cat([batch.views["x"] for batch in split()]).reshape(10, 900))
    assert torch.equal(features.sample_id, torch.arange(100, 110))


def test_half_precision_encoders_give_float32_features() -> None:
    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.to(torch.bfloat16)

    assert encode(Half(), next(split()), "cpu").dtype == torch.float32


def test_the_bar_shows_only_on_request(capsys: Any) -> None:
    extract_features(encoder(), split())
    assert capsys.readouterr() == ("", "")
    extract_features(encoder(), split(), progress=True, total=3)
    assert "features" in capsys.readouterr().err
