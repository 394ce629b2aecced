"""The Transformer encoder against a loop over tokens in float64; pooling, layers, blocks, options and names."""

import math
from typing import Any, cast

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from models.dropout import DropPath
from models.encoders.encoder import AnyEncoderConfig
from models.encoders.transformer import (
    TransformerConfig,
    TransformerEncoder,
    from_reference_name,
    from_reference_state,
)
from models.tokens import patches
from shards.errors import CheckpointError, ConfigError

TINY = TransformerConfig(width=8, layers=3, heads=2, mlp_ratio=2, patch_frames=2, frames=6)
N, T = 3, 6


def _encoder(**changes: Any) -> TransformerEncoder:
    torch.manual_seed(0)
    encoder = TINY.model_copy(update=changes).build().double()
    for parameter in encoder.parameters():  # also what starts as 0 or 1
        nn.init.normal_(parameter, std=0.3)
    return encoder


def _view(n: int = N, frames: int = T, seed: int = 1) -> Tensor:
    return torch.randn(n, frames, 150, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _without(x: Tensor, person: int, sample: int) -> Tensor:
    x = x.clone()
    x[sample, :, person::2] = 0
    return x


def _norm(x: Tensor, p: dict[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]


def _linear(x: Tensor, p: dict[str, Tensor], name: str) -> Tensor:
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def _attention(tokens: Tensor, p: dict[str, Tensor], name: str, heads: int) -> Tensor:
    query, key, value = _linear(tokens, p, f"{name}.qkv").chunk(3, dim=1)
    width = tokens.shape[1] // heads
    mixed = torch.zeros_like(tokens)
    for i in range(len(tokens)):
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            scores = [math.exp(float(query[i, part] @ k[part]) / math.sqrt(width)) for k in key]
            for score, v in zip(scores, value, strict=True):
                mixed[i, part] += score / sum(scores) * v[part]
    return _linear(mixed, p, f"{name}.proj")


def _slow_tokens(encoder: TransformerEncoder, x_TD: Tensor, person: int, kept: list[int]) -> Tensor:
    """Latents of the kept tokens of one person of one sample, as the text says it."""
    c, p = encoder.config, {name: tensor.detach() for name, tensor in encoder.state_dict().items()}
    tokens = []
    for token in kept:
        step, v = divmod(token, 25)
        frames = range(step * c.patch_frames, (step + 1) * c.patch_frames)
        entries = torch.stack([x_TD[t, v * 6 + axis * 2 + person] for t in frames for axis in range(3)])
        place = p["positions.times"][0, step, 0] + p["positions.joints"][0, 0, v]
        tokens.append(_linear(entries, p, "embedding") + place)
    x = torch.stack(tokens)
    for i in range(c.layers):
        x = x + _attention(_norm(x, p, f"layers.{i}.norm1"), p, f"layers.{i}.attn", c.heads)
        hidden = _linear(_norm(x, p, f"layers.{i}.norm2"), p, f"layers.{i}.mlp.fc1")
        hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
        x = x + _linear(hidden, p, f"layers.{i}.mlp.fc2")
    return _norm(x, p, "norm")


@torch.no_grad()
def test_latents_of_the_tokens_that_are_seen_equal_a_loop_over_them() -> None:
    encoder, x = _encoder(), _view(2)
    ids = torch.stack([torch.randperm(75, generator=torch.Generator().manual_seed(row))[:7] for row in range(4)])
    found = encoder.encode_tokens(x, ids)
    for n in range(2):
        for m in range(2):
            expected = _slow_tokens(encoder, x[n], m, ids[n * 2 + m].tolist())
            torch.testing.assert_close(found[n * 2 + m], expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_features_are_means_over_persons_joints_and_time() -> None:
    encoder, x = _encoder(), _view(1)
    persons = torch.stack([_slow_tokens(encoder, x[0], m, list(range(75))) for m in range(2)])
    found = encoder(x)
    assert found.feature.shape == (1, 8)
    torch.testing.assert_close(found.feature[0], persons.mean((0, 1)), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.frames[0], persons.view(2, 3, 25, 8).mean((0, 2)), rtol=0, atol=1e-12)


@torch.no_grad()
def test_persons_of_a_sample_do_not_see_each_other() -> None:
    encoder, x = _encoder(), _view()
    before, after = encoder.encode_tokens(x), encoder.encode_tokens(_without(x, 1, 2))
    assert torch.equal(before[:5], after[:5])
    assert not torch.equal(before[5], after[5])


@torch.no_grad()
def test_an_absent_person_is_pooled_as_released_or_left_out() -> None:
    x = _without(_without(_without(_view(), 1, 0), 0, 1), 1, 1)
    tokens = _encoder().encode_tokens(x).view(N, 2, 3, 25, 8)
    released, present = _encoder()(x), _encoder(persons="present")(x)
    assert torch.equal(released.feature, tokens.mean(3).mean(1).mean(1))
    torch.testing.assert_close(present.frames[0], tokens[0, 0].mean(1), rtol=0, atol=1e-12)
    for found in (released, present):  # nobody is there, or both are
        torch.testing.assert_close(found.feature[1:], tokens[1:].mean((1, 2, 3)), rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("frames", [2, 4, 10])
def test_views_of_other_lengths_are_encoded(frames: int) -> None:
    found = _encoder()(_view(frames=frames))
    assert found.frames.shape == (N, frames // TINY.patch_frames, 8)
    assert found.feature.isfinite().all()


def test_a_length_that_is_no_multiple_of_a_token_is_refused() -> None:
    with pytest.raises(ConfigError, match="found a view of 7 frames, expected a multiple of the 2 frames of a token"):
        _encoder()(_view(frames=7))


@torch.no_grad()
def test_inner_layers_are_pooled_alike_and_those_above_are_not_run() -> None:
    encoder, x, outputs = _encoder(), _view(), []
    for layer in encoder.layers:
        layer.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    encoder(x)
    tokens = list(outputs)
    for number, name in enumerate(encoder.layer_names, start=1):
        outputs.clear()
        found = encoder.layer(x, name)
        assert len(outputs) == number
        torch.testing.assert_close(found, tokens[number - 1].view(N, 2, 75, 8).mean((1, 2)), rtol=0, atol=1e-12)
    assert encoder.layer_names == ("block1", "block2", "block3")
    assert torch.equal(encoder.layer(x, "last"), encoder(x).feature)


def test_an_unknown_layer_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="found layer 'block4', expected one of block1, block2, block3"):
        _encoder().layer(_view(), "block4")


def test_blocks_count_from_the_embeddings_to_the_last_norm() -> None:
    encoder = TransformerConfig(width=8).build()
    names = [name for name, _ in encoder.named_parameters()]
    numbers = {name: encoder.block_of(name) for name in names}
    assert len(encoder.blocks) == 10
    assert {name for name, number in numbers.items() if number == 0} == {
        "embedding.weight",
        "embedding.bias",
        "positions.joints",
        "positions.times",
    }
    assert {name for name, number in numbers.items() if number == 9} == {"norm.weight", "norm.bias"}
    assert all(numbers[name] == 1 + int(name.split(".")[1]) for name in names if name.startswith("layers."))
    scales = [0.8 ** (8 + 1 - numbers[name]) for name in ("embedding.bias", "layers.7.norm1.bias", "norm.bias")]
    assert scales == pytest.approx([0.13421773, 0.8, 1.0])


def test_freezing_begins_at_the_embeddings() -> None:
    encoder = _encoder()
    encoder.freeze(2)
    learns = {name.split(".")[0] + name.split(".")[1] for name, p in encoder.named_parameters() if p.requires_grad}
    assert learns == {"layers1", "layers2", "normweight", "normbias"}


def test_initial_values_are_the_released_ones() -> None:
    torch.manual_seed(0)
    encoder = TransformerConfig(layers=1).build()
    for name, fan in (("attn.qkv", 256 + 768), ("attn.proj", 512), ("mlp.fc1", 1280), ("mlp.fc2", 1280)):
        layer, bound = cast(nn.Linear, encoder.layers[0].get_submodule(name)), math.sqrt(6 / fan)
        assert 0.99 * bound < layer.weight.abs().max() <= bound
        assert not layer.bias.any()
    bound = 1 / math.sqrt(12)
    for tensor in (encoder.embedding.weight, encoder.embedding.bias):
        assert 0.95 * bound < tensor.abs().max() <= bound
    for tensor in (encoder.positions.joints, encoder.positions.times):
        assert tensor.std().item() == pytest.approx(0.02, rel=0.05)
    assert encoder.norm.weight.eq(1).all()


def test_the_default_has_as_many_parameters_as_published() -> None:
    assert sum(p.numel() for p in TransformerConfig().build().parameters()) == 6_336_000  # 6.34 M


def test_drop_paths_rise_linearly_over_the_blocks_and_act_in_training_alone() -> None:
    encoder, x = _encoder(drop_path=0.3), _view()
    for branch in ("drop_path1", "drop_path2"):
        paths = [cast(DropPath, encoder.get_submodule(f"layers.{number}.{branch}")) for number in range(3)]
        assert [path.p for path in paths] == pytest.approx([0, 0.15, 0.3])
    assert torch.equal(encoder.eval()(x).feature, _encoder()(x).feature)
    assert not torch.equal(encoder.train()(x).feature, _encoder()(x).feature)


@torch.no_grad()
def test_under_bfloat16_autocast_the_sums_of_the_blocks_stay_float32() -> None:
    encoder, x = _encoder().float(), _view().float()
    with torch.autocast("cpu", torch.bfloat16):
        low = encoder(x)
        assert encoder.layer(x, "block3").dtype == low.feature.dtype == torch.float32
    torch.testing.assert_close(low.feature, encoder(x).feature, rtol=0, atol=0.05)
    assert not torch.equal(low.feature, encoder(x).feature)


def test_options_are_found_by_their_kind() -> None:
    found: Any = TypeAdapter(AnyEncoderConfig).validate_python({"kind": "transformer", "layers": 2})
    assert found == TransformerConfig(layers=2)
    assert isinstance(found.build(), TransformerEncoder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width"),
        ({"layers": 0}, "layers"),
        ({"drop_path": 1.0}, "drop_path"),
        ({"persons": "first"}, "persons"),
        ({"depth": 3}, "depth"),
        ({"width": 100}, "width=100, expected a multiple of heads=8"),
        ({"frames": 122}, "frames=122, expected a multiple of patch_frames=4"),
    ],
)
def test_an_option_that_cannot_work_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TransformerConfig(**options)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("blocks.2.attn.qkv.weight", "layers.2.attn.qkv.weight"),
        ("blocks.0.mlp.fc2.bias", "layers.0.mlp.fc2.bias"),
        ("joints_embed.proj.bias", "embedding.bias"),
        ("temp_embed", "positions.times"),
        ("pos_embed", "positions.joints"),
        ("norm.weight", "norm.weight"),
    ],
)
def test_reference_names_are_translated(name: str, expected: str) -> None:
    assert from_reference_name(name) == expected
    assert expected in _encoder().state_dict()


@pytest.mark.parametrize("name", ["head.fc.1.weight", "mask_token", "blocks.0.attn.q.weight", "norm.running_mean"])
def test_an_unknown_reference_name_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match="found, expected one of"):
        from_reference_name(name)


@torch.no_grad()
def test_the_convolution_of_the_reference_becomes_our_linear_layer() -> None:
    encoder, x = _encoder(), _view()
    convolution = nn.Conv2d(3, 8, (2, 1), (2, 1)).double()
    state = {f"joints_embed.proj.{name}": tensor for name, tensor in convolution.state_dict().items()}
    encoder.load_state_dict(encoder.state_dict() | from_reference_state(state))
    rows_RCTV = x.view(N, T, 25, 3, 2).permute(0, 4, 3, 1, 2).flatten(0, 1)
    expected = convolution(rows_RCTV).flatten(2).transpose(1, 2)
    torch.testing.assert_close(encoder.embedding(patches(x, 2)), expected, rtol=0, atol=1e-12)
