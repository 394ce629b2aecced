import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from models.encoders.gru import Direction, GRUConfig, GRUEncoder, ParallelForwardGRU
from models.evaluation.features import (
    Layer,
    coordinate_features,
    encode,
    extract_features,
    frozen,
    layer_names,
    layer_reader,
    projector_from_state,
)
from models.heads import Projector
from models.objectives.pcm3pp import PCM3PP, PCM3PPConfig
from shards.batch import Views
from shards.errors import CheckpointError, ConfigError, SkelstreamError
from tests.models.standins import Frames, Wrapped

DAMAGED = 7


def split(samples: int = 10, batch: int = 4, damaged: int | None = None) -> Iterator[Views]:
    x = torch.randn(samples, 6, 150, generator=torch.Generator().manual_seed(0))
    if damaged is not None:
        x[damaged, 3, 20] = float("nan")
    for rows in torch.arange(samples).split(batch):
        yield Views({"x": x[rows]}, label=rows % 3, sample_id=100 + rows)


def encoder(direction: Direction = "parallel_forward") -> GRUEncoder:
    torch.manual_seed(0)
    built = GRUEncoder(GRUConfig(hidden=4, layers=2, direction=direction))
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
        expected = torch.cat([model(batch.views["x"]).frames[:, -1] for batch in split()])
    assert torch.equal(features.values, expected)
    assert features.values.shape == (10, model.width)
    assert features.values.dtype == torch.float32
    assert torch.equal(features.label, torch.arange(10) % 3)
    assert torch.equal(features.sample_id, torch.arange(100, 110))
    assert len(features) == 10


def slow_layers(model: GRUEncoder, x: Tensor) -> list[Tensor]:
    """(N, T, D) of each layer, sample by sample and frame by frame, with the cells of torch."""
    norm, outputs = model.input_norm, []
    assert model.config.direction == "parallel_forward"
    y = (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    for layer in model.layers:
        assert isinstance(layer, ParallelForwardGRU)
        halves = []
        for gru in (layer.first, layer.second):
            cell = nn.GRUCell(gru.input_size, gru.hidden_size)
            cell.load_state_dict({name.removesuffix("_l0"): tensor for name, tensor in gru.state_dict().items()})
            rows = []
            for sample in y:
                state, states = torch.zeros(1, gru.hidden_size), []
                for frame in sample:
                    state = cell(frame[None], state)
                    states.append(state[0])
                rows.append(torch.stack(states))
            halves.append(torch.stack(rows))
        y = torch.cat(halves, dim=2)
        outputs.append(y)
    return outputs


@torch.no_grad()
def test_each_layer_is_that_of_a_frame_by_frame_loop() -> None:
    model = encoder()
    projector = Projector(model.width, 5)
    layers = slow_layers(model, torch.cat([batch.views["x"] for batch in split()]))
    last = layers[-1][:, -1]
    first, _, second = projector.layers
    expected = {
        "last": last,
        "mean": layers[-1].mean(dim=1),
        "layer1": layers[0][:, -1],
        "layer2": last,
        "projector": F.normalize(second(first(last).relu()), dim=1),
    }
    assert layer_names(model, projector) == tuple(expected)
    for layer, values in expected.items():
        found = extract_features(model, split(), layer=layer, projector=projector).values
        torch.testing.assert_close(found, values)
        assert found.dtype == torch.float32
    assert len({tuple(values.shape) for values in expected.values()}) == 2


@pytest.mark.parametrize("direction", ["parallel_forward", "bidirectional"])
def test_the_last_layer_is_the_last_output_to_the_bit(direction: Direction) -> None:
    model = encoder(direction)
    last, second = (extract_features(model, split(), layer=layer).values for layer in ("last", "layer2"))
    assert torch.equal(last, second)


@pytest.mark.parametrize("layer", ["mean", "layer1", "projector"])
def test_reading_any_layer_leaves_the_encoder_as_it_was(layer: Layer) -> None:
    model = encoder().train()
    before = snapshot(model)
    extract_features(model, split(), layer=layer, projector=Projector(model.width, 5))
    assert_untouched(model, before)


def test_the_layers_above_the_one_that_is_read_are_not_run() -> None:
    model = encoder()

    def fail(x: Tensor) -> Tensor:
        raise AssertionError("run")

    model.layers[1].forward = fail
    extract_features(model, split(), layer="layer1")
    with pytest.raises(AssertionError, match="run"):
        extract_features(model, split(), layer="last")


@pytest.mark.parametrize("layer", ["layer3", "layer0", "first", "LAST", "projector"])
def test_a_layer_that_is_not_there_is_refused_with_those_that_are(layer: str) -> None:
    with pytest.raises(ConfigError, match=f"found layer '{layer}', expected one of last, mean, layer1, layer2"):
        extract_features(encoder(), split(), layer=layer)


def test_an_encoder_of_another_kind_has_no_layers_between() -> None:
    assert layer_names(Frames()) == ("last", "mean")
    x = torch.randn(3, 6, 4)
    assert torch.equal(layer_reader(Frames(), "mean")(x), x.mean(dim=1))
    with pytest.raises(ConfigError, match=r"found layer 'layer1', expected one of last, mean$"):
        layer_reader(Frames(), "layer1")
    with pytest.raises(ConfigError, match="no projector came with this encoder"):
        layer_reader(Frames(), "projector")


def test_an_encoder_without_frames_has_no_mean_of_them() -> None:
    assert layer_names(Wrapped(nn.Flatten())) == ("last",)
    x = torch.randn(3, 6, 4)
    assert torch.equal(layer_reader(Wrapped(nn.Flatten()))(x), x.flatten(1))
    with pytest.raises(ConfigError, match=r"found layer 'mean', expected one of last$"):
        layer_reader(Wrapped(nn.Flatten()), "mean")


@pytest.mark.parametrize(("layer", "fine"), [("last", True), ("layer12", True), ("layer0", False), ("lasts", False)])
def test_names_of_layers_are_checked_in_options(layer: str, fine: bool) -> None:
    adapter = TypeAdapter(Layer)
    if fine:
        assert adapter.validate_python(layer) == layer
    else:
        with pytest.raises(ValidationError):
            adapter.validate_python(layer)


def test_frames_of_another_width_than_the_encoder_takes_are_told() -> None:
    model = GRUEncoder(GRUConfig(hidden=4, layers=1, input_size=147))
    for layer in ("last", "layer1"):
        with pytest.raises(ConfigError, match=r"found frames of 150 entries .*, expected 147 as the encoder takes"):
            extract_features(model, split(), layer=layer)


def test_the_projector_of_an_objective_is_found_in_its_state() -> None:
    objective = PCM3PP(PCM3PPConfig(encoder=GRUConfig(hidden=4), feature_dim=5, queue_size=8))
    state = objective.state_dict()
    projector = projector_from_state(state, "joint")
    assert projector is not None
    x = torch.randn(3, 8)
    assert torch.equal(projector(x), objective.projector(x))
    # a copy: the state may be mapped from a file that is soon closed
    own = projector.state_dict()["layers.0.weight"]
    assert own.data_ptr() != state["projector.layers.0.weight"].data_ptr()
    assert not projector.training
    without = {name: t for name, t in state.items() if not name.startswith("projector.")}
    assert projector_from_state(without, "joint") is None


def test_of_several_projectors_that_of_the_stream_is_taken() -> None:
    projectors = {stream: Projector(4, 3) for stream in ("joint", "bone")}
    state = nn.ModuleDict({"projectors": nn.ModuleDict(projectors)}).state_dict()
    x = torch.randn(3, 4)
    for stream, projector in projectors.items():
        found = projector_from_state(state, stream)
        assert found is not None
        assert torch.equal(found(x), projector(x))
    assert projector_from_state(state, "motion") is None


def test_half_a_projector_is_refused() -> None:
    state = {f"projector.{name}": tensor for name, tensor in Projector(4, 3).state_dict().items()}
    for name in state:
        with pytest.raises(CheckpointError, match=f"checkpoint: found missing {name}"):
            projector_from_state({other: tensor for other, tensor in state.items() if other != name}, "joint")
    with pytest.raises(CheckpointError, match="of shape"):
        projector_from_state(state | {"projector.layers.0.bias": torch.zeros(7)}, "joint")


def test_no_batch_is_kept_in_memory_for_the_sake_of_its_last_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Tensor] = []
    cat = torch.cat

    def spy(tensors: tuple[Tensor, ...]) -> Tensor:
        kept.extend(tensors)
        return cat(tensors)

    monkeypatch.setattr(torch, "cat", spy)
    extract_features(Frames(), split())
    assert [tensor.shape[0] for tensor in kept[:3]] == [4, 4, 2]
    assert all(tensor.untyped_storage().nbytes() == tensor.numel() * 4 for tensor in kept[:3])


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
    with pytest.raises(SkelstreamError, match=r"features of samples \[107\], expected"):
        extract_features(encoder(), split(damaged=DAMAGED))
    model = encoder()
    with frozen(model), pytest.raises(SkelstreamError, match=r"features of samples \[107\], expected"):
        encode(model, list(split(damaged=DAMAGED))[1], "cpu")
    nothing = (Views({"x": torch.full((30, 2, 3), torch.nan)}, torch.zeros(30).long(), torch.arange(30)) for _ in "1")
    with pytest.raises(SkelstreamError, match=r"samples \[0, 1, 2, 3, 4, 5, 6, 7, 8, 9\] and 20 more, expected"):
        extract_features(Frames(), nothing)


def test_a_split_without_samples_is_told() -> None:
    with pytest.raises(ConfigError, match="found no samples"):
        extract_features(encoder(), iter(()))
    with pytest.raises(ConfigError, match="found no samples"):
        coordinate_features(iter(()))


def test_coordinate_features_are_the_flattened_view() -> None:
    features = coordinate_features(split())
    assert torch.equal(features.values, torch.cat([batch.views["x"] for batch in split()]).reshape(10, 900))
    assert torch.equal(features.sample_id, torch.arange(100, 110))


def test_products_are_those_of_float32_whatever_the_device_would_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    class Watching(Frames):
        def encode(self, x_NTD: Tensor) -> Tensor:
            assert held
            return x_NTD

    @contextmanager
    def watched(precision: str, device: torch.device) -> Iterator[None]:
        asked.append((precision, device.type))
        held.append(None)
        yield
        held.pop()

    held: list[None] = []
    monkeypatch.setattr("models.evaluation.features.products", watched)
    extract_features(Watching(), split())
    encode(Watching(), next(split()), "cpu")
    assert asked == [("float32", "cpu")] * 4


def test_half_precision_encoders_give_float32_features() -> None:
    class Half(Frames):
        def encode(self, x_NTD: Tensor) -> Tensor:
            return x_NTD.to(torch.bfloat16)

    assert encode(Half(), next(split()), "cpu").dtype == torch.float32


def test_the_bar_shows_only_on_request(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    extract_features(encoder(), split())
    assert capsys.readouterr() == ("", "")
    extract_features(encoder(), split(), progress=True, total=3)
    assert "features" in capsys.readouterr().err
