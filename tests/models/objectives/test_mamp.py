"""MAMP against loops over hidden tokens in float64; its mask, its pictures, its ranks, its options and its errors."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from models.collectives import rank, world_size
from models.encoders.transformer import TransformerConfig, TransformerEncoder
from models.objectives.mamp import MAMP, MAMPConfig, add_up, from_reference_name, from_reference_state, motion
from models.objectives.objective import AnyObjectiveConfig
from models.tokens import from_patches, patches
from shards.batch import Views
from shards.errors import CheckpointError, ConfigError

N, T, PATCH, KEPT = 4, 8, 2, 15
TOKENS = T // PATCH * 25

TINY = MAMPConfig(
    encoder=TransformerConfig(width=8, layers=2, heads=2, mlp_ratio=2, patch_frames=PATCH, frames=T),
    ratio=1 - (KEPT + 0.5) / TOKENS,
    decoder_width=4,
    decoder_layers=1,
)
TARGETS: dict[str, dict[str, Any]] = {
    "released": {},
    "two frames apart": {"motion_stride": 2},
    "motion in metres": {"normalise_target": False, "weight": 3.0},
    "coordinates": {"target": "coordinates"},
    "coordinates in metres": {"target": "coordinates", "normalise_target": False},
}


def _model(seed: int = 0, **changes: Any) -> MAMP:
    model = TINY.model_copy(update=changes).build(["joint"], seed).double()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for parameter in model.parameters():  # also what starts as 0 or 1
            nn.init.normal_(parameter, std=0.3)
    return model


def _views(n: int = N, frames: int = T, seed: int = 0) -> Views:
    """Walking skeletons, of which those of odd samples are alone."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, frames, 150, dtype=torch.float64, generator=generator).cumsum(1)
    x[1::2, :, 1::2] = 0
    tokens = torch.rand(n * 2, frames // PATCH * 25, generator=generator).argsort(1).argsort(1) < KEPT
    mask = _mask(tokens)
    return Views({"target": x, "masked": x * mask}, torch.arange(n), torch.arange(n), {"masked": mask})


def _mask(tokens_RL: Tensor) -> Tensor:
    return from_patches(tokens_RL[..., None].expand(-1, -1, PATCH * 3), PATCH)


def _hidden(views: Views) -> Iterator[tuple[int, int, int]]:
    """Sample, person and token, one after another."""
    for n in range(len(views)):
        for m in range(2):
            for token in range(TOKENS):
                if not views.masks["masked"][n, token // 25 * PATCH, token % 25 * 6 + m]:
                    yield n, m, token


def _wanted(config: MAMPConfig, x: Tensor, n: int, m: int, token: int) -> Tensor:
    """The target of a token, as the text says it."""
    entries, stride = [], config.motion_stride
    for t in range(token // 25 * PATCH, (token // 25 + 1) * PATCH):
        for axis in range(3):
            column = token % 25 * 6 + axis * 2 + m
            if config.target == "coordinates":
                entries.append(x[n, t, column])
            else:
                entries.append(x[n, t + stride, column] - x[n, t, column] if t + stride < T else x.new_zeros(()))
    wanted = torch.stack(entries)
    if not config.normalise_target:
        return wanted
    centred = wanted - wanted.mean()
    return centred / (centred.square().sum() / (len(wanted) - 1) + 1e-6).sqrt()


@pytest.mark.parametrize("name", TARGETS)
def test_the_loss_is_the_mean_error_of_the_hidden_tokens(name: str) -> None:
    model, views = _model(**TARGETS[name]), _views()
    draws = model.draw(0, 0, 0, N)
    predicted = model.step(views, draws).predicted.detach()
    errors = [
        (predicted[n * 2 + m, token] - _wanted(model.config, views.views["target"], n, m, token)).square().mean()
        for n, m, token in _hidden(views)
    ]
    assert len(errors) == N * 2 * (TOKENS - KEPT)
    found = model(views, draws)
    assert tuple(found.terms) == model.config.terms == ("prediction",)
    expected = model.config.weight * torch.stack(errors).mean()
    torch.testing.assert_close(found.terms["prediction"].detach(), expected, rtol=0, atol=1e-12)


def test_the_encoder_sees_the_visible_tokens_in_their_order_and_the_decoder_predicts_all() -> None:
    model, views = _model(), _views()
    found = model.step(views, model.draw(0, 0, 0, N))
    kept = torch.stack([row.nonzero().flatten() for row in found.visible])
    assert torch.equal(found.kept_ids, kept)
    encoder = cast(TransformerEncoder, model.encoder)
    assert torch.equal(found.latent, encoder.encode_tokens(views.views["target"], kept))
    assert torch.equal(found.predicted, model.decoder(found.latent, kept, T // PATCH))
    assert found.predicted.shape == (N * 2, TOKENS, PATCH * 3)


def test_what_is_hidden_reaches_the_loss_and_not_the_latents() -> None:
    model, views = _model(), _views()
    mask = views.masks["masked"]
    changed = torch.where(mask, views.views["target"], torch.randn(mask.shape, dtype=torch.float64))
    other = replace(views, views={"target": changed})
    draws = model.draw(0, 0, 0, N)
    assert torch.equal(model.step(views, draws).latent, model.step(other, draws).latent)
    assert not torch.equal(model(views, draws).terms["prediction"], model(other, draws).terms["prediction"])


def test_a_person_who_is_absent_is_predicted_as_standing_still() -> None:
    target = _model().target(_views().views["target"])
    assert not target.values[3].any()  # person 1 of sample 1
    assert target.values[2].any()


def test_features_are_the_mean_latents_of_what_was_seen_without_gradient() -> None:
    model, views = _model(), _views()
    draws = model.draw(0, 0, 0, N)
    found, latent = model(views, draws), model.step(views, draws).latent.detach()
    assert not found.features.requires_grad
    for n in range(N):
        expected = torch.cat((latent[2 * n], latent[2 * n + 1])).mean(0)
        torch.testing.assert_close(found.features[n], expected, rtol=0, atol=1e-12)


def test_a_step_changes_no_state_and_can_be_repeated() -> None:
    model, views = _model(encoder=TINY.encoder.model_copy(update={"drop_path": 0.5})), _views()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.random.get_rng_state()
    terms = [model(views, model.draw(3, 1, step, N)).terms["prediction"] for step in (5, 6, 5)]
    assert torch.equal(terms[0], terms[2])
    assert not torch.equal(terms[0], terms[1])
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("frames", [4, 8, 12])
def test_every_parameter_is_reached_also_by_views_of_another_length(frames: int) -> None:
    config = TINY.model_copy(update={"ratio": 1 - (KEPT + 0.5) / (frames // PATCH * 25)})
    model = config.build(["joint"]).double()
    model(_views(frames=frames), model.draw(0, 0, 0, N)).terms["prediction"].backward()
    assert model.unreached == {}
    assert all(p.grad is not None and p.grad.any() for _, p in model.named_parameters())


def test_equal_seeds_give_equal_states_and_leave_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first, second, third = (TINY.build(["bone"], seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())
    assert not torch.equal(third["encoders.bone.embedding.weight"], first["encoders.bone.embedding.weight"])


@pytest.mark.parametrize(("layers", "parameters"), [(3, 8_789_004), (5, 10_368_524)])
def test_the_default_has_as_many_parameters_as_published(layers: int, parameters: int) -> None:
    model = MAMPConfig(decoder_layers=layers).build(["joint"])
    assert sum(p.numel() for p in model.parameters()) == parameters  # 8.79 M and 10.37 M


def test_weights_positions_and_the_mask_token_decay_and_vectors_do_not() -> None:
    model = TINY.build(["joint"])
    decayed, plain = model.groups()
    assert (decayed.decay, plain.decay, decayed.rate, plain.rate) == (True, False, 1.0, 1.0)
    assert sorted(decayed.parameters + plain.parameters) == sorted(name for name, _ in model.named_parameters())
    assert {"decoder.mask_token", "decoder.positions.times", "encoders.joint.positions.joints"} <= {*decayed.parameters}
    assert all(name.endswith(("bias", "norm.weight", "norm1.weight", "norm2.weight")) for name in plain.parameters)
    assert not any(name.endswith(("bias", "norm1.weight")) for name in decayed.parameters)


@pytest.mark.parametrize("name", TARGETS)
def test_a_perfect_prediction_is_the_truth_everywhere(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, views = _model(**TARGETS[name]), _views()
    monkeypatch.setattr(model.decoder, "forward", lambda *_: model.target(views.views["target"]).values)
    found = model.predict(views, model.draw(0, 0, 0, N))
    assert (found.view, found.masked) == ("target", "masked")
    torch.testing.assert_close(found.predicted, views.views["target"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", TARGETS)
def test_any_other_prediction_leaves_what_is_visible_and_differs_elsewhere(name: str) -> None:
    model, views = _model(**TARGETS[name]), _views()
    found, x = model.predict(views, model.draw(0, 0, 0, N)).predicted, views.views["target"]
    mask = views.masks["masked"]
    torch.testing.assert_close(found[mask], x[mask], rtol=0, atol=1e-12)
    hidden = ~mask
    if model.config.target == "motion":
        hidden[:, : model.config.motion_stride] = False  # there the motion begins
    assert ((found - x).abs() > 1e-9)[hidden].float().mean() > 0.5


def test_motion_adds_up_from_the_last_frame_that_was_visible() -> None:
    x = torch.tensor([5.0, 6.0, 7.0, 8.0, 9.0])[None, :, None]
    moved = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.0])[None, :, None]
    visible = torch.tensor([False, False, True, False, False])[None, :, None]
    once, twice = (add_up(moved, x, visible, stride).flatten().tolist() for stride in (1, 2))
    assert once == pytest.approx([5, 5.1, 7, 7.3, 7.7])
    assert twice == pytest.approx([5, 6, 7, 6.2, 7.3])


def test_a_motion_is_zero_where_the_view_ends() -> None:
    x = torch.arange(5.0).square()[None, :, None]
    assert motion(x, 2).flatten().tolist() == [4, 8, 12, 0, 0]


def _with(views: Views, target: Tensor | None = None, mask: Tensor | None = None) -> Views:
    x = {} if target is None else {"target": target}
    return replace(views, views=x, masks={} if mask is None else {"masked": mask})


def test_views_that_are_missing_or_do_not_fit_are_refused() -> None:
    model, views = _model(), _views()
    x, mask = views.views["target"], views.masks["masked"]
    for wrong, message in (
        (_with(views, None, mask), r"expected also \['target'\]"),
        (_with(views, x), r"expected also \['masked'\]"),
        (_with(views, x[..., :75], mask), r"view 'target' of shape \(4, 8, 75\)"),
        (_with(views, x, mask[:, :6]), r"mask 'masked' of shape \(4, 6, 150\)"),
        (_with(views, x[:, :7], mask[:, :7]), "found a view of 7 frames, expected a multiple of the 2 frames"),
    ):
        with pytest.raises(ConfigError, match=message):
            model(wrong, model.draw(0, 0, 0, N))
        with pytest.raises(ConfigError, match=message):
            model.predict(wrong, model.draw(0, 0, 0, N))


def _one_more_visible(views: Views) -> Views:
    mask = views.masks["masked"].clone()
    n, m, token = next(_hidden(views))
    mask[n, token // 25 * PATCH : (token // 25 + 1) * PATCH, token % 25 * 6 + m : token % 25 * 6 + 6 : 2] = True
    return replace(views, masks={"masked": mask})


def test_a_mask_of_another_ratio_makes_the_loss_nan() -> None:
    model, views = _model(), _views()
    assert model(views, model.draw(0, 0, 0, N)).terms["prediction"].isfinite()
    assert model(_one_more_visible(views), model.draw(0, 0, 0, N)).terms["prediction"].isnan()


def test_a_ratio_that_leaves_no_token_or_a_stride_as_long_as_the_view_is_refused() -> None:
    model = _model(ratio=0.999)
    with pytest.raises(ConfigError, match=r"found ratio=0\.999 of 100 tokens, expected one to stay at least"):
        model(_views(), model.draw(0, 0, 0, N))
    model = _model(motion_stride=8)
    with pytest.raises(ConfigError, match="found motion_stride=8, expected 1 to 7 for a view of 8 frames"):
        model(_views(), model.draw(0, 0, 0, N))


def test_several_streams_are_refused() -> None:
    with pytest.raises(ConfigError, match="objective 'mamp': found the streams joint, bone, expected one"):
        TINY.build(["joint", "bone"])


def test_options_are_found_by_their_kind_and_come_back_from_json() -> None:
    options: TypeAdapter[Any] = TypeAdapter(AnyObjectiveConfig)
    assert options.validate_python({"kind": "mamp"}) == MAMPConfig()
    assert options.validate_json(options.dump_json(TINY)) == TINY
    with pytest.raises(ValidationError, match="encoder"):
        options.validate_python({"kind": "mamp", "encoder": {"kind": "gru"}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0.0}, "ratio"),
        ({"ratio": 1.0}, "ratio"),
        ({"weight": 0.0}, "weight"),
        ({"motion_stride": 0}, "motion_stride"),
        ({"target": "velocity"}, "target"),
        ({"tau": 0.8}, "tau"),
        ({"decoder_width": 100}, "decoder_width=100, expected a multiple of encoder.heads=8"),
    ],
)
def test_an_option_that_cannot_work_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MAMPConfig(**options)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("blocks.1.norm1.weight", "encoders.bone.layers.1.norm1.weight"),
        ("temp_embed", "encoders.bone.positions.times"),
        ("mask_token", "decoder.mask_token"),
        ("decoder_embed.bias", "decoder.embedding.bias"),
        ("decoder_temp_embed", "decoder.positions.times"),
        ("decoder_blocks.0.attn.proj.weight", "decoder.layers.0.attn.proj.weight"),
        ("decoder_norm.bias", "decoder.norm.bias"),
        ("decoder_pred.weight", "decoder.head.weight"),
    ],
)
def test_reference_names_are_translated(name: str, expected: str) -> None:
    assert from_reference_name(name, "bone") == expected
    assert expected in TINY.build(["bone"]).state_dict()


@pytest.mark.parametrize("name", ["head.fc.weight", "decoder_joints_embed.proj.bias", "decoder_blocks.0.gain"])
def test_an_unknown_reference_name_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match="found, expected one of"):
        from_reference_name(name)


def test_a_reference_state_gets_our_names_and_shapes() -> None:
    weight = torch.arange(48.0).view(8, 3, 2, 1)
    token = torch.ones(1, 1, 4)
    found = from_reference_state({"joints_embed.proj.weight": weight, "mask_token": token})
    assert found["encoders.joint.embedding.weight"][0].tolist() == [0, 2, 4, 1, 3, 5]
    assert found["decoder.mask_token"] is token


def _steps(drop_path: float) -> dict[str, Tensor]:
    """Two steps in the block of this rank, with gradients averaged over the ranks."""
    model = _model(encoder=TINY.encoder.model_copy(update={"drop_path": drop_path}))
    own = slice(N * rank() // world_size(), N * (rank() + 1) // world_size())
    told: dict[str, Tensor] = {}
    for step in range(2):
        views = _views(seed=step)
        block = Views(
            {name: view[own] for name, view in views.views.items()},
            views.label[own],
            views.sample_id[own],
            {name: mask[own] for name, mask in views.masks.items()},
        )
        outcome = model(block, model.draw(0, 0, step, len(block)))
        model.zero_grad()
        outcome.terms["prediction"].backward()
        told[f"{step} term"] = _mean_over_ranks(outcome.terms["prediction"].detach())
        told[f"{step} rows features"] = outcome.features
        for name, parameter in model.named_parameters():
            gradient = _mean_over_ranks(cast(Tensor, parameter.grad))
            told[f"{step} gradient {name}"] = gradient
            parameter.data.sub_(gradient, alpha=0.1)
    return told


def _mean_over_ranks(x: Tensor) -> Tensor:
    total = x.clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total / world_size()


def fits() -> dict[str, dict[str, Tensor]]:
    """Two steps with and without drop paths."""
    return {"plain": _steps(0.0), "drop paths": _steps(0.5)}


def test_two_ranks_take_the_steps_of_one_process_with_the_joint_batch(in_ranks: Callable[..., Any]) -> None:
    alone, (first, second) = fits(), in_ranks(fits, 2)
    for kind, expected in alone.items():
        for name, value in expected.items():
            parts = [first[kind][name], second[kind][name]]
            joint = torch.cat(parts) if " rows " in name else parts[0]
            assert (joint - value).abs().max() < 1e-9, name
            assert " rows " in name or torch.equal(*parts), name
    assert not torch.equal(alone["plain"]["0 term"], alone["drop paths"]["0 term"])


def test_under_bfloat16_autocast_the_loss_is_float32_and_close() -> None:
    model, views = TINY.build(["joint"]), _views()
    views = replace(views, views={name: view.float() for name, view in views.views.items()})
    plain = model(views, model.draw(0, 0, 0, N)).terms["prediction"]
    with torch.autocast("cpu", torch.bfloat16):
        low = model(views, model.draw(0, 0, 0, N)).terms["prediction"]
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, plain, rtol=0.02, atol=0)
    low.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_targets_are_patches_of_what_moves() -> None:
    model, x = _model(normalise_target=False), _views().views["target"]
    assert torch.equal(model.target(x).values, patches(motion(x, 1), PATCH))
