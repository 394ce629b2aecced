"""Whole steps of MAMP and of its coordinate baseline, and the nets made of its encoder, against reference numbers.

Of the numbers of the net only what shows in no array is written here: see the golden README. Everything is computed in
float64; tolerances are those of the README.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flows.tasks.official import official
from models.encoders import transformer
from models.encoders.transformer import TransformerConfig, TransformerEncoder
from models.evaluation.finetune import Classifier
from models.evaluation.heads import LinearHead, decay_groups
from models.objectives.mamp import MAMP, MAMPConfig, StepOutput, from_reference_name, from_reference_state
from models.objectives.objective import Outcome
from models.tokens import patches, visible_tokens
from pipelines.augmentations.masks import ids_keep, keep_least
from pipelines.augmentations.motion import MotionMask, masking_noise, probability, scaled_motion
from pipelines.augmentations.operation import Key, Samples, Window
from pipelines.augmentations.spatial import Rotation, apply_map
from pipelines.augmentations.temporal import CentreCrop, RandomCrop, resize
from shards.batch import Views, flatten, flatten_mask
from shards.skeleton import NUM_COORDINATES, NUM_JOINTS, NUM_PERSONS
from tests.numerics import golden

ARRAYS = golden.numbers("methods/mamp_step")

# what the README says of the net and of its cases, and no array shows
HEADS, DECODER_WIDTH, MLP_RATIO, SCALE = 4, 24, 4, 0.1
CASES: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "mamp": {"tau": 0.8},
        "mamp2": {"tau": 0.75, "motion_stride": 2, "normalise_target": False},
        "mamp0": {"tau": 0.0},
        "mae": {"tau": 0.0, "target": "coordinates"},
    }
)

STEPS = golden.found([name.removesuffix("__ids_keep") for name in ARRAYS if name.endswith("__ids_keep")])
GUIDED = golden.found([case for case in STEPS if CASES[case]["tau"] > 0])
CROPS = golden.found(sorted({name.split("__")[0] for name in ARRAYS if re.match(r"crop\d+__", name)}))
ROTATIONS = golden.found(sorted({name.split("__")[0] for name in ARRAYS if re.match(r"rot\d+__", name)}))


def _ours(x: np.ndarray) -> Tensor:
    """(N, C, T, V, M) or (C, T, V, M) of the reference -> (N, T, M, V, C)."""
    batched = x if x.ndim == 5 else x[None]
    return torch.from_numpy(np.ascontiguousarray(batched.transpose(0, 2, 4, 3, 1)))


VIEW = flatten(_ours(ARRAYS["x"])).double()
SEQUENCES = _ours(ARRAYS["x"]).transpose(1, 2).flatten(0, 1)


def _config(case: str) -> MAMPConfig:
    names = ARRAYS[f"{case}__grad_names"]
    tokens, kept = ARRAYS[f"{case}__mask"].shape[1], ARRAYS[f"{case}__ids_keep"].shape[1]
    return MAMPConfig(
        encoder=_encoder_config(names),
        ratio=1 - (kept + 0.5) / tokens,
        decoder_width=DECODER_WIDTH,
        decoder_layers=_depth(names, "decoder_blocks"),
        **{name: value for name, value in CASES[case].items() if name != "tau"},
    )


def _encoder_config(names: np.ndarray) -> TransformerConfig:
    return TransformerConfig(
        width=ARRAYS["embed"].shape[-1],
        layers=_depth(names, "blocks"),
        heads=HEADS,
        mlp_ratio=MLP_RATIO,
        patch_frames=VIEW.shape[1] // ARRAYS["embed"].shape[1],
        frames=VIEW.shape[1],
    )


def _depth(names: np.ndarray, blocks: str) -> int:
    return 1 + max(int(match[1]) for name in names if (match := re.match(rf"{blocks}\.(\d+)\.", name)))


def _weight(name: str, shape: tuple[int, ...]) -> Tensor:
    drawn = golden.weight(name, shape, SCALE)
    return torch.from_numpy(drawn + np.float32(1) if re.search(r"norm\d?\.weight$", name) else drawn).double()


def _reference_shape(name: str, ours: Tensor, patch: int) -> tuple[int, ...]:
    """The convolution of the reference has another shape than our linear layer."""
    return (len(ours), NUM_COORDINATES, patch, 1) if name == "joints_embed.proj.weight" else tuple(ours.shape)


def _reference_gradient(name: str, gradient: Tensor, patch: int) -> np.ndarray:
    """A gradient in the reference's order of entries."""
    if name == "joints_embed.proj.weight":
        gradient = gradient.view(-1, patch, NUM_COORDINATES).transpose(1, 2)
    return gradient.detach().numpy().ravel()


def _compare_gradients(
    prefix: str, gradients: Mapping[str, np.ndarray], tolerance: float, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Norm, sum and probe; a gradient that is 0 in exact arithmetic is compared with the largest norm."""
    names, recorded = ARRAYS[f"{prefix}__grad_names"], ARRAYS[f"{prefix}__grad_norm_sum_probe"]
    assert set(names) == gradients.keys()
    largest = recorded[:, 0].max()
    for name, expected in zip(names, recorded, strict=True):
        probe = golden.weight(f"probe/{name}", shapes[name]).ravel().astype(np.float64)
        flat = gradients[name]
        found = np.array([np.sqrt(flat @ flat), flat.sum(), flat @ probe])
        scale = largest if expected[0] < 1e-6 * largest else expected[0]
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale, err_msg=name)


@dataclass(frozen=True)
class Taken:
    """A step of one case: its outcome, and its gradients in the reference's order of entries."""

    model: MAMP
    outcome: Outcome
    output: StepOutput
    gradients: dict[str, np.ndarray]
    shapes: dict[str, tuple[int, ...]]


@cache
def _views(case: str) -> Views:
    """The sequence and the recorded mask, as the views of a batch."""
    patch = _config(case).encoder.patch_frames
    removed = torch.from_numpy(ARRAYS[f"{case}__mask"]) == 1
    tokens = ~removed.view(len(VIEW), NUM_PERSONS, -1, NUM_JOINTS)
    mask = flatten_mask(tokens.repeat_interleave(patch, dim=2).transpose(1, 2))
    rows = torch.arange(len(VIEW))
    return Views({"target": VIEW, "masked": VIEW * mask}, rows, rows, {"masked": mask})


@cache
def _take(case: str) -> Taken:
    config = _config(case)
    patch = config.encoder.patch_frames
    model = config.build(["joint"]).double()
    parameters = dict(model.named_parameters())
    names = [str(name) for name in ARRAYS[f"{case}__grad_names"]]
    shapes = {name: _reference_shape(name, parameters[from_reference_name(name)], patch) for name in names}
    model.load_state_dict(from_reference_state({name: _weight(name, shapes[name]) for name in names}))
    views, draws = _views(case), model.draw(0, 0, 0, len(VIEW))
    outcome = model(views, draws)
    outcome.terms["prediction"].backward()
    gradients = {
        name: _reference_gradient(name, cast(Tensor, parameters[from_reference_name(name)].grad), patch)
        for name in names
    }
    with torch.no_grad():
        return Taken(model, outcome, model.step(views, draws), gradients, shapes)


@pytest.mark.parametrize("case", GUIDED)
def test_motion_and_the_recorded_draws_keep_the_tokens_of_the_reference_in_its_order(case: str) -> None:
    config = _config(case)
    scaled = scaled_motion(SEQUENCES, config.encoder.patch_frames, CASES[case]["tau"])
    noise = masking_noise(probability(scaled), torch.from_numpy(ARRAYS[f"{case}__rand"]))
    expected = ARRAYS[f"{case}__ids_keep"]
    np.testing.assert_array_equal(ids_keep(noise, expected.shape[1]).numpy(), expected)


@pytest.mark.parametrize("case", STEPS)
def test_tokens_hidden_by_the_recorded_draws_are_those_of_the_reference(case: str) -> None:
    config, tau = _config(case), CASES[case]["tau"]
    rand, removed = torch.from_numpy(ARRAYS[f"{case}__rand"]), ARRAYS[f"{case}__mask"] == 1
    if not tau:
        kept = ARRAYS[f"{case}__ids_keep"]
        np.testing.assert_array_equal(ids_keep(rand, kept.shape[1]).numpy(), kept)
        np.testing.assert_array_equal(keep_least(rand, kept.shape[1]).numpy(), ~removed)
        return
    patch, x = config.encoder.patch_frames, _ours(ARRAYS["x"])
    mask = MotionMask(ratio=config.ratio, patch=patch, tau=tau).visible(x, rand.view(len(x), NUM_PERSONS, -1))
    found = visible_tokens(flatten_mask(mask), VIEW.shape, patch)
    np.testing.assert_array_equal(found.numpy(), ~removed)


def test_the_embedding_of_patches_equals_the_reference() -> None:
    taken = _take(STEPS[0])
    with torch.no_grad():
        found = cast(TransformerEncoder, taken.model.encoder).embedding(
            patches(VIEW, taken.model.config.encoder.patch_frames)
        )
    expected = ARRAYS["embed"]
    np.testing.assert_allclose(found[: len(expected)].view(expected.shape), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", STEPS)
def test_latents_equal_the_reference_also_in_its_order_of_tokens(case: str) -> None:
    taken, ids = _take(case), torch.from_numpy(ARRAYS[f"{case}__ids_keep"]).long()
    expected = ARRAYS[f"{case}__latent"]
    encoder = cast(TransformerEncoder, taken.model.encoder)
    with torch.no_grad():
        np.testing.assert_allclose(encoder.encode_tokens(VIEW, ids), expected, rtol=0, atol=1e-5)
    ascending = ids.argsort(1)
    assert torch.equal(taken.output.kept_ids, ids.gather(1, ascending))
    in_order = torch.from_numpy(expected).gather(1, ascending[..., None].expand(-1, -1, expected.shape[2]))
    np.testing.assert_allclose(taken.output.latent, in_order, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", STEPS)
def test_predictions_of_all_tokens_equal_the_reference(case: str) -> None:
    np.testing.assert_allclose(_take(case).output.predicted, ARRAYS[f"{case}__pred"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", STEPS)
def test_the_loss_equals_the_reference(case: str) -> None:
    found = _take(case).outcome.terms["prediction"].item()
    assert found == pytest.approx(float(ARRAYS[f"{case}__loss"]), abs=2e-6)


@pytest.mark.parametrize("case", STEPS)
def test_every_gradient_equals_the_reference(case: str) -> None:
    taken = _take(case)
    assert not ARRAYS[f"{case}__grad_is_none"].any()
    _compare_gradients(case, taken.gradients, 1e-4, taken.shapes)


def _encoder() -> TransformerEncoder:
    """The encoder that the linear probe and fine-tuning start from: its weights have the names of pre-training."""
    config = _encoder_config(ARRAYS["ft__grad_names"])
    encoder = config.build().double()
    parameters, patch = dict(encoder.named_parameters()), config.patch_frames
    names = [str(name) for name in ARRAYS["ft__grad_names"] if not name.startswith("head.")]
    shapes = {name: _reference_shape(name, parameters[transformer.from_reference_name(name)], patch) for name in names}
    encoder.load_state_dict(
        transformer.from_reference_state({name: _weight(name, shape) for name, shape in shapes.items()})
    )
    return encoder


def _head_gradients(head: nn.Module, renamed: Callable[[str], str]) -> dict[str, np.ndarray]:
    return {renamed(name): cast(Tensor, p.grad).numpy().ravel() for name, p in head.named_parameters()}


def test_a_linear_probe_of_the_pooled_feature_equals_the_reference() -> None:
    encoder, labels = _encoder(), torch.from_numpy(ARRAYS["labels"])
    with torch.no_grad():
        feature = encoder(VIEW).feature
    np.testing.assert_allclose(feature, ARRAYS["lin__feature"], rtol=0, atol=1e-5)
    width, classes = feature.shape[1], ARRAYS["lin__logits_eval"].shape[1]
    options = official("transformer").linear
    head = LinearHead(width, classes, seed=0, batch_norm=options.batch_norm).double()
    head.linear.load_state_dict(
        {name: _weight(f"head.fc.{name}", tuple(p.shape)) for name, p in head.linear.named_parameters()}
    )
    np.testing.assert_allclose(head.eval()(feature).detach(), ARRAYS["lin__logits_eval"], rtol=0, atol=1e-5)
    logits = head.train()(feature)
    loss = F.cross_entropy(logits, labels, label_smoothing=options.label_smoothing)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    np.testing.assert_allclose(logits.detach(), ARRAYS["lin__logits_train"], rtol=0, atol=1e-5)
    assert loss.item() == pytest.approx(float(ARRAYS["lin__loss_train"]), abs=2e-6)
    np.testing.assert_allclose(
        cast(Tensor, head.norm.running_mean), ARRAYS["lin__running_mean_after"], rtol=0, atol=1e-5
    )
    np.testing.assert_allclose(cast(Tensor, head.norm.running_var), ARRAYS["lin__running_var_after"], rtol=0, atol=1e-5)
    shapes = {f"head.fc.1.{name}": tuple(p.shape) for name, p in head.linear.named_parameters()}
    gradients = _head_gradients(head, lambda name: name.replace("linear.", "head.fc.1."))
    _compare_gradients("lin", gradients, 1e-4, shapes)


def _classifier(encoder: TransformerEncoder, classes: int, **changes: Any) -> Classifier:
    return Classifier(encoder, official("transformer").finetune.model_copy(update=changes), classes)


def _head_name(name: str) -> str:
    """The reference's name of a parameter of the head of fine-tuning."""
    return name.replace("head.norm.", "head.bn.")


def test_fine_tuning_of_encoder_and_head_equals_the_reference() -> None:
    encoder, labels = _encoder(), torch.from_numpy(ARRAYS["labels"])
    model = _classifier(encoder, ARRAYS["ft__logits_eval"].shape[1], dropout=0.0, drop_path=0.0).double()
    head = dict(model.head.named_parameters())
    drawn = {name: _weight(f"head.{name}", tuple(p.shape)) for name, p in head.items() if not name.startswith("norm.")}
    model.head.load_state_dict(model.head.state_dict() | drawn)
    with torch.no_grad():
        np.testing.assert_allclose(model.eval()(VIEW), ARRAYS["ft__logits_eval"], rtol=0, atol=2e-4)
    logits = model.train()(VIEW)
    (name,) = (name for name in ARRAYS if name.startswith("ft__loss_train_smooth"))
    smoothing = official("transformer").finetune.label_smoothing
    assert smoothing == float(name.removeprefix("ft__loss_train_smooth"))
    loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    np.testing.assert_allclose(logits.detach(), ARRAYS["ft__logits_train"], rtol=0, atol=2e-4)
    assert loss.item() == pytest.approx(float(ARRAYS[name]), abs=2e-4)
    parameters, patch = dict(encoder.named_parameters()), encoder.config.patch_frames
    gradients = _head_gradients(model.head, lambda name: _head_name(f"head.{name}"))
    shapes = {_head_name(f"head.{name}"): tuple(p.shape) for name, p in head.items()}
    for name in map(str, ARRAYS["ft__grad_names"]):
        if not name.startswith("head."):
            ours = parameters[transformer.from_reference_name(name)]
            gradients[name] = _reference_gradient(name, cast(Tensor, ours.grad), patch)
            shapes[name] = _reference_shape(name, ours, patch)
    _compare_gradients("ft", gradients, 1e-3, shapes)


def test_rates_and_weight_decay_of_every_parameter_in_fine_tuning_are_those_of_the_reference() -> None:
    layers = _depth(np.array([name for name in ARRAYS["lrd_names"] if not name.startswith("head.")]), "blocks")
    model = _classifier(TransformerConfig(width=8, layers=layers, heads=4).build(), 60)
    groups = decay_groups(model, official("transformer").finetune.optimizer, {"encoder.": model.encoder})
    numbers = {id(p): (group["scale"], group["weight_decay"]) for group in groups for p in group["params"]}
    found = {name: numbers[id(p)] for name, p in model.named_parameters()}
    for name, (scale, decay) in zip(map(str, ARRAYS["lrd_names"]), ARRAYS["lrd_scale_wd"], strict=True):
        head = name.startswith("head.")
        ours = name.replace("head.bn.", "head.norm.") if head else f"encoder.{transformer.from_reference_name(name)}"
        assert found.pop(ours) == pytest.approx((scale, decay), rel=1e-12), name
    assert not found


def test_pre_training_decays_the_weights_that_the_reference_decays_in_fine_tuning() -> None:
    names = [str(name) for name in ARRAYS["lrd_names"] if not name.startswith("head.")]
    layers = _depth(np.array(names), "blocks")
    model = MAMPConfig(encoder=TransformerConfig(width=8, layers=layers, heads=4), decoder_width=8).build(["joint"])
    decayed = {name: group.decay for group in model.groups() for name in group.parameters}
    recorded = dict(zip(map(str, ARRAYS["lrd_names"]), ARRAYS["lrd_scale_wd"], strict=True))
    for name in names:
        assert decayed[f"encoders.joint.{transformer.from_reference_name(name)}"] == (recorded[name][1] > 0), name


@dataclass(frozen=True)
class RecordedKey(Key):
    """Gives a recorded share, and a place that begins the window where the reference did."""

    draws: tuple[float, float] = (0.0, 0.0)

    def sample(self, sample_id: Tensor, operation: str, count: int) -> Tensor:
        return torch.tensor([self.draws], dtype=torch.float64)


@pytest.mark.parametrize("case", CROPS)
def test_crops_resized_to_the_view_equal_the_reference(case: str) -> None:
    whole, expected = ARRAYS[f"{case}__in"], ARRAYS[f"{case}__out"]
    valid, share, start = ARRAYS[f"{case}__valid_u_bias"]
    samples = Samples(torch.zeros(1, dtype=torch.int64), torch.tensor([int(valid)]))
    if share < 0:
        window = CentreCrop(ratio=0.95).draw(samples, Key(0, 0, 0, "x"), expected.shape[1])
    else:
        window = _recorded_crop(samples, share, int(start))
    found = resize(_ours(whole)[0], window.first, window.length, expected.shape[1])
    np.testing.assert_allclose(found, _ours(expected), rtol=0, atol=1e-5)


def _recorded_crop(samples: Samples, share: float, start: int) -> Window:
    operation = RandomCrop(min_ratio=0.5, max_ratio=1.0)
    length = int(operation._draw_torch(samples, RecordedKey(0, 0, 0, "x", draws=(share, 0.0))).length)
    places = int(samples.length) - length + 1
    return operation._draw_torch(samples, RecordedKey(0, 0, 0, "x", draws=(share, (start + 0.5) / places)))


@pytest.mark.parametrize("case", ROTATIONS)
def test_rotations_equal_the_reference_whose_angles_have_the_other_sign(case: str) -> None:
    degrees = -torch.from_numpy(ARRAYS[f"{case}__angles"]).double().rad2deg()
    turned = apply_map(_ours(ARRAYS["rot__in"]), Rotation().joint_map(degrees[None]))
    np.testing.assert_allclose(turned, _ours(ARRAYS[f"{case}__out"]), rtol=0, atol=1e-5)
