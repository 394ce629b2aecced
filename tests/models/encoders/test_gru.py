"""The recurrent encoder against a loop over frames, and its input norm."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from models.encoders.encoder import ENCODERS, AnyEncoderConfig
from models.encoders.gru import GRUConfig, GRUEncoder, from_reference_name, from_reference_state
from models.norm import GlobalBatchNorm
from shards.errors import CheckpointError, ConfigError

TINY = GRUConfig(hidden=8, layers=3, input_size=6)


def _encoder(config: GRUConfig = TINY) -> GRUEncoder:
    torch.manual_seed(0)
    return GRUEncoder(config).double()


def _view(n: int = 3, frames: int = 7) -> Tensor:
    return torch.randn(n, frames, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _loop(x_NTD: Tensor, gru: nn.GRU) -> Tensor:
    """The equations of a GRU, one frame after another."""
    w_ih, w_hh, b_ih, b_hh = gru.weight_ih_l0, gru.weight_hh_l0, gru.bias_ih_l0, gru.bias_hh_l0
    hidden, outputs = torch.zeros(len(x_NTD), gru.hidden_size, dtype=x_NTD.dtype), []
    for x in x_NTD.unbind(1):
        i_reset, i_update, i_new = (x @ w_ih.T + b_ih).chunk(3, 1)
        h_reset, h_update, h_new = (hidden @ w_hh.T + b_hh).chunk(3, 1)
        reset, update = torch.sigmoid(i_reset + h_reset), torch.sigmoid(i_update + h_update)
        hidden = (1 - update) * torch.tanh(i_new + reset * h_new) + update * hidden
        outputs.append(hidden)
    return torch.stack(outputs, 1)


def test_the_fused_calls_equal_a_loop_over_frames_with_both_halves_forward() -> None:
    encoder, x = _encoder(), _view()
    expected = (x - x.mean((0, 1))) / (x.var((0, 1), correction=0) + 1e-5).sqrt()
    for layer in encoder.layers:
        expected = torch.cat((_loop(expected, layer.first), _loop(expected, layer.second)), 2)
    assert (encoder(x).frames - expected).abs().max() < 1e-12


@pytest.mark.parametrize(("direction", "causal"), [("parallel_forward", True), ("bidirectional", False)])
def test_only_the_bidirectional_option_sees_later_frames(direction: str, causal: bool) -> None:
    encoder, x = _encoder(TINY.model_copy(update={"direction": direction})).eval(), _view()
    changed = x.clone()
    changed[:, 4:] += 1
    before, after = encoder(x).frames, encoder(changed).frames
    assert torch.equal(before[:, :4], after[:, :4]) == causal
    assert not torch.equal(before[:, 4:], after[:, 4:])


def test_the_shape_is_twice_the_hidden_width() -> None:
    encoder = _encoder()
    assert encoder(_view(2, 5)).frames.shape == (2, 5, 16)
    assert encoder.width == 16


def test_the_feature_of_a_sequence_is_that_of_its_last_frame() -> None:
    feature, frames = _encoder()(_view())
    assert torch.equal(feature, frames[:, -1])


def test_a_prompt_before_the_norm_has_no_effect_in_training_and_one_after_it_has() -> None:
    prompt, x = torch.linspace(-1, 1, 6, dtype=torch.float64), _view()
    after, before = _encoder(), _encoder(TINY.model_copy(update={"prompt_place": "before_norm"}))
    assert (before(x, prompt).frames - before(x).frames).abs().max() < 1e-12
    assert (after(x, prompt).frames - after(x).frames).abs().max() > 1e-2
    normalised, _ = after.normalise(x)
    assert torch.equal(after(x, prompt).frames, after.recur(normalised + prompt))


def test_a_prompt_before_the_norm_acts_in_evaluation() -> None:
    encoder = _encoder(TINY.model_copy(update={"prompt_place": "before_norm"})).eval()
    prompted = encoder(_view(), torch.ones(6, dtype=torch.float64))
    assert (prompted.frames - encoder(_view()).frames).abs().max() > 1e-2


def test_normalising_and_recording_equal_an_ordinary_batch_norm() -> None:
    ours, ordinary = GlobalBatchNorm(6).double(), nn.BatchNorm1d(6).double()
    for seed in range(3):
        x = torch.randn(4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 3 + 1
        assert (ours(x) - ordinary(x.flatten(0, 1)).view_as(x)).abs().max() < 1e-12
    for name, buffer in ordinary.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), buffer, rtol=0, atol=1e-12)
    ours.eval(), ordinary.eval()
    assert (ours(x) - ordinary(x.flatten(0, 1)).view_as(x)).abs().max() < 1e-12


def test_normalising_alone_and_evaluation_record_nothing() -> None:
    encoder = _encoder()
    before = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    encoder.normalise(_view())
    encoder.eval()(_view())
    for name, buffer in encoder.named_buffers():
        assert torch.equal(buffer, before[name])


def test_inner_layers_are_named_from_the_input_on_and_given_at_the_last_frame() -> None:
    encoder, x = _encoder().eval(), _view()
    assert encoder.layer_names == ("layer1", "layer2", "layer3")
    y, _ = encoder.normalise(x)
    for name, layer in zip(encoder.layer_names, encoder.layers, strict=True):
        y = torch.cat((_loop(y, layer.first), _loop(y, layer.second)), 2)
        assert (encoder.layer(x, name) - y[:, -1]).abs().max() < 1e-12
    with pytest.raises(ConfigError, match="found layer 'layer4', expected one of layer1, layer2, layer3"):
        encoder.layer(x, "layer4")


def test_frames_of_another_width_are_refused_by_every_layer() -> None:
    encoder, x = _encoder(), torch.zeros(2, 5, 7, dtype=torch.float64)
    for call in (encoder, lambda x: encoder.layer(x, "layer1")):
        with pytest.raises(ConfigError, match=r"found frames of 7 entries .* expected 6 as the encoder takes"):
            call(x)


@pytest.mark.parametrize("direction", ["parallel_forward", "bidirectional"])
def test_every_parameter_is_in_one_block_and_blocks_freeze_from_the_input_on(direction: str) -> None:
    encoder = _encoder(TINY.model_copy(update={"direction": direction}))
    expected = {"input_norm": 0, "layers.0": 0, "layers.1": 1, "layers.2": 2}
    for name, _ in encoder.named_parameters():
        (prefix,) = (prefix for prefix in expected if name.startswith(f"{prefix}."))
        assert encoder.block_of(name) == expected[prefix], name
    assert len(encoder.blocks) == 3
    encoder.freeze(2)
    frozen = {name for name, parameter in encoder.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in encoder.named_parameters() if not name.startswith("layers.2.")}
    encoder.freeze(3)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    for count in (-1, 4):
        with pytest.raises(ConfigError, match=f"found {count} blocks to freeze, expected 0 to 3"):
            encoder.freeze(count)


def test_a_recurrence_has_no_branches_to_skip_and_no_tokens() -> None:
    with pytest.raises(ConfigError, match=r"found drop path 0\.1 for an encoder \(gru\) without branches"):
        _encoder().set_drop_path(0.1)
    assert not _encoder().joint_tokens


def test_the_encoder_is_found_by_its_kind_and_takes_frames_of_a_view() -> None:
    adapter: TypeAdapter[GRUConfig] = TypeAdapter(AnyEncoderConfig)
    config = GRUConfig(hidden=8, layers=1)
    assert ENCODERS.find("gru") is GRUConfig
    assert adapter.validate_python(config.model_dump()) == config
    assert adapter.validate_json(adapter.dump_json(config)) == config
    assert isinstance(config.build(), GRUEncoder)
    config.check(frames=64)
    with pytest.raises(ConfigError, match=r"objective\.encoder\.input_size is 6, expected 150"):
        TINY.check(frames=64)


def test_matrices_start_xavier_uniform() -> None:
    encoder = GRUEncoder(GRUConfig(hidden=64, layers=1, input_size=150))
    weight = encoder.layers[0].first.weight_ih_l0
    bound = (6 / (150 + 3 * 64)) ** 0.5
    assert 0.98 * bound < weight.abs().max() <= bound


@pytest.mark.parametrize(
    ("name", "direction", "expected"),
    [
        ("input_norm.running_var", "parallel_forward", "input_norm.running_var"),
        ("encoder.gru.weight_ih_l2", "parallel_forward", "layers.2.first.weight_ih_l0"),
        ("encoder.gru.bias_hh_l1_reverse", "parallel_forward", "layers.1.second.bias_hh_l0"),
        ("encoder.gru.weight_hh_l0", "bidirectional", "layers.0.gru.weight_hh_l0"),
        ("encoder.gru.bias_hh_l1_reverse", "bidirectional", "layers.1.gru.bias_hh_l0_reverse"),
    ],
)
def test_reference_names_are_translated(name: str, direction: str, expected: str) -> None:
    assert from_reference_name(name, direction) == expected


def test_a_reference_state_is_renamed_and_not_copied() -> None:
    tensor = torch.ones(3)
    assert from_reference_state({"encoder.gru.bias_ih_l0": tensor})["layers.0.first.bias_ih_l0"] is tensor


def test_an_unknown_reference_name_is_refused_by_name() -> None:
    with pytest.raises(CheckpointError, match=r"encoder\.lstm"):
        from_reference_name("encoder.lstm.weight_ih_l0")


@pytest.mark.parametrize("options", [{"hidden": 0}, {"layers": -1}, {"direction": "backward"}, {"width": 3}])
def test_an_option_that_cannot_work_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        GRUConfig(**options)
