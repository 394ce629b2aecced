"""The objective against a slow reference in float64, its options and its errors."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from models.encoders.gru import GRUConfig
from models.objectives.pcm3_names import from_reference_name, from_reference_state
from models.objectives.pcm3pp import PCM3PP, Draws, PCM3PPConfig, StepOutput
from shards.batch import Views
from shards.errors import CheckpointError, ConfigError
from tests.models.standins import PROGRESS, push_keys

N, T, D, H = 4, 6, 6, 8
TINY = PCM3PPConfig(encoder=GRUConfig(hidden=H, layers=2, input_size=D), feature_dim=5, queue_size=7, prompt_width=3)
CONFIGS = {
    "default": {},
    "released joint variant": {
        "encoder": TINY.encoder.model_copy(update={"prompt_place": "before_norm"}),
        "pairs": ("base", "mix", "masked", "predicted"),
    },
    "released bone and motion variant": {"prompts": False, "guidance": False, "distillation_weight": 0.0},
    "clip with the masked prompt": {"clip_prompt": "masked"},
    "post-distillation": {"contrast_weight": 0.0},
    "no masked prediction": {"pairs": ("base", "mix", "clip"), "prediction_weight": 0.0},
    "prediction without its pairs": {"pairs": ("base",), "distillation_weight": 0.5},
    "predicted pair alone": {"pairs": ("predicted",), "prediction_weight": 0.0, "temperature": 0.2},
    "true bidirectional": {"encoder": TINY.encoder.model_copy(update={"direction": "bidirectional"})},
    "statistics of the base view": {"input_statistics": "base_view", "pairs": ("clip", "base", "mix")},
    "a queue for the clip": {"clip_queue": True},
    "a queue for the clip, no contrast": {"clip_queue": True, "contrast_weight": 0.0, "pairs": ("clip", "mix", "base")},
    "distillation over the three nearest": {"distillation_top_k": 3},
    "everything but the published": {
        "encoder": TINY.encoder.model_copy(update={"direction": "bidirectional", "prompt_place": "before_norm"}),
        "clip_prompt": "masked",
        "clip_queue": True,
        "input_statistics": "base_view",
        "distillation_top_k": 2,
        "guidance": False,
    },
}


def _config(name: str) -> PCM3PPConfig:
    return PCM3PPConfig(**(TINY.model_dump() | CONFIGS[name]))


def _model(config: PCM3PPConfig = TINY, seed: int = 0) -> PCM3PP:
    return PCM3PP(config, seed).double()


def _views(n: int = N, seed: int = 0, *, per_sample: bool = False) -> Views:
    generator = torch.Generator().manual_seed(seed)
    names = ("base", "key", "target", "mix", "clip")
    views = {name: torch.randn(n, T, D, dtype=torch.float64, generator=generator) for name in names}
    visible = torch.rand(n if per_sample else 1, T, D, generator=generator) > 0.5
    views["masked"] = views["target"] * visible
    partner, weight = (torch.arange(n) + 1) % n, torch.rand(n, generator=generator)
    if per_sample:
        partner = torch.tensor([2, 3, 3, 1])
    return Views(views, torch.arange(n), torch.arange(n), {"masked": visible}, partner, weight)


def _loss(output: StepOutput) -> Tensor:
    return torch.stack(list(output.terms.values())).sum()


def _whole_step(model: PCM3PP, views: Views, draws: Draws) -> StepOutput:
    """A step with all that moves around it, but for the parameters."""
    model.before_step(PROGRESS)
    output = model.step(views, draws)
    _loss(output).backward()
    push_keys(model, output)
    return output


class Slow:
    """The published step, read off the text: one frame, one sample, one pair after another."""

    def __init__(self, model: PCM3PP) -> None:
        self.c = model.config
        self.p = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        for name, parameter in model.named_parameters():
            self.p[name].requires_grad_(parameter.requires_grad)

    def batch_norm(self, x_NTD: Tensor, name: str, record: bool = True) -> Tensor:
        mean, var = x_NTD.mean((0, 1)), x_NTD.var((0, 1), correction=0)
        if record:
            count = x_NTD.shape[0] * x_NTD.shape[1]
            for statistic, value in (("mean", mean), ("var", var * count / (count - 1))):
                entry = f"{name}.running_{statistic}"
                self.p[entry] = 0.9 * self.p[entry] + 0.1 * value.detach()
            self.p[f"{name}.num_batches_tracked"] = self.p[f"{name}.num_batches_tracked"] + 1
        return (x_NTD - mean) / (var + 1e-5).sqrt() * self.p[f"{name}.weight"] + self.p[f"{name}.bias"]

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.p[f"{name}.weight"].T + self.p[f"{name}.bias"]

    def gru(self, x_NTD: Tensor, name: str, suffix: str = "", layer: int = 0) -> Tensor:
        w_ih, w_hh, b_ih, b_hh = (
            self.p[f"{name}.{kind}_l{layer}{suffix}"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        hidden, outputs = torch.zeros(len(x_NTD), w_hh.shape[1], dtype=torch.float64), []
        for x in x_NTD.unbind(1):
            i_reset, i_update, i_new = (x @ w_ih.T + b_ih).chunk(3, 1)
            h_reset, h_update, h_new = (hidden @ w_hh.T + b_hh).chunk(3, 1)
            reset, update = torch.sigmoid(i_reset + h_reset), torch.sigmoid(i_update + h_update)
            hidden = (1 - update) * torch.tanh(i_new + reset * h_new) + update * hidden
            outputs.append(hidden)
        return torch.stack(outputs, 1)

    def encode(self, view: Tensor, prompt: str, encoder: str = "encoders.joint", record: bool = True) -> Tensor:
        added = self.p[f"prompts.{prompt}"] if self.c.prompts else 0.0
        if self.c.encoder.prompt_place == "before_norm":
            x = self.batch_norm(view + added, f"{encoder}.input_norm", record)
        else:
            x = self.batch_norm(view, f"{encoder}.input_norm", record) + added
        for layer in range(self.c.encoder.layers):
            name = f"{encoder}.layers.{layer}"
            if self.c.encoder.direction == "bidirectional":
                x = torch.cat((self.gru(x, f"{name}.gru"), self.gru(x.flip(1), f"{name}.gru", "_reverse").flip(1)), 2)
            else:
                x = torch.cat((self.gru(x, f"{name}.first"), self.gru(x, f"{name}.second")), 2)
        return x

    def prompted(self, features: Tensor, task: str, start: int) -> Tensor:
        if not self.c.prompts:
            return features
        prompt, columns = self.p[f"prompts.{task}"], list(features.unbind(-1))
        for i in range(3):
            columns[start + i] = columns[start + i] + prompt[i]
            columns[H + start + i] = columns[H + start + i] + prompt[3 + i]
        return torch.stack(columns, -1)

    def project(self, last: Tensor, projector: str = "projector") -> Tensor:
        y = self.linear(self.linear(last, f"{projector}.layers.0").clamp(min=0), f"{projector}.layers.2")
        return y / (y * y).sum(1, keepdim=True).sqrt()

    def decode(self, features: Tensor) -> Tensor:
        y = self.batch_norm(self.linear(features, "decoder.reduce.0"), "decoder.reduce.1").clamp(min=0)
        y = self.linear(y, "decoder.reduce.3")
        return self.linear(self.gru(self.gru(y, "decoder.gru"), "decoder.gru", layer=1), "decoder.coordinates")

    def step(self, views: Views, starts: dict[str, int]) -> StepOutput:
        c, queries, reconstruction = self.c, {}, None
        all_recorded = c.input_statistics == "all_views"
        if "base" in c.pairs:
            queries["base"] = self.encode(views.views["base"], "base")
        if c.prediction_weight > 0 or "masked" in c.pairs or "predicted" in c.pairs:
            queries["masked"] = self.encode(views.views["masked"], "masked", record=all_recorded)
        if c.prediction_weight > 0 or "predicted" in c.pairs:
            prompted = self.prompted(queries["masked"], "prediction", starts["prediction"])
            reconstruction = self.decode(prompted)
            hidden = ~views.masks["masked"].expand(len(views), T, D)
            if "predicted" in c.pairs:
                guided = self.decode(prompted.detach()) if c.guidance else reconstruction.detach()
                predicted = guided * hidden + views.views["masked"] * ~hidden
                queries["predicted"] = self.encode(predicted, "predicted", record=all_recorded)
        if "mix" in c.pairs:
            queries["mix"] = self.encode(views.views["mix"], "mix", record=all_recorded)
        if "clip" in c.pairs:
            queries["clip"] = self.encode(views.views["clip"], c.clip_prompt, record=all_recorded)
        keys = self.keys(views, starts)
        terms, similarity, teacher, divergences = {}, {}, {}, []
        for pair in c.pairs:
            own = c.clip_queue and pair == "clip"
            last = self.prompted(queries[pair][:, -1], "contrast", starts[pair])
            query = self.project(last, "clip_projector" if own else "projector")
            key = keys["clip" if own else "mix" if pair == "mix" else "base"]
            negatives = self.p["clip_queue.keys" if own else "queue.keys"]
            similarity[pair], teacher[pair] = self.products(query, key, negatives)
            contrast, divergence = self.pair_losses(similarity[pair], teacher[pair])
            terms[pair] = c.contrast_weight * contrast
            divergences.append(divergence)
        terms["distill"] = c.distillation_weight * sum(divergences)
        if reconstruction is not None:
            error = ((reconstruction - views.views["target"])[hidden] ** 2).mean()
            terms["prediction"] = c.prediction_weight * error
        self.enqueue(keys["base"], "queue")
        if c.clip_queue:
            self.enqueue(keys["clip"], "clip_queue")
        pushed = (keys["base"], keys["clip"]) if c.clip_queue else (keys["base"],)
        return StepOutput(terms, similarity, teacher, reconstruction, queries[c.pairs[0]][:, -1].detach(), pushed)

    @torch.no_grad()
    def keys(self, views: Views, starts: dict[str, int]) -> dict[str, Tensor]:
        for name in self.p:
            if name.startswith("key_") and "running" not in name and "num_batches" not in name:
                online = name.removeprefix("key_").replace("encoder.", "encoders.joint.")
                self.p[name] = 0.999 * self.p[name] + 0.001 * self.p[online]
        last = self.prompted(self.encode(views.views["key"], "base", "key_encoder")[:, -1], "contrast", starts["key"])
        key = self.project(last, "key_projector")
        assert views.mix_partner is not None
        assert views.mix_weight is not None
        mixed = []
        for i, (partner, weight) in enumerate(zip(views.mix_partner.tolist(), views.mix_weight.tolist(), strict=True)):
            y = (1 - weight) * key[i] + weight * key[partner]
            mixed.append(y / y.norm())
        keys = {"base": key, "mix": torch.stack(mixed)}
        if self.c.clip_queue:
            keys["clip"] = self.project(last, "key_clip_projector")
        return keys

    @staticmethod
    def products(query: Tensor, key: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
        similarity = [torch.stack([q @ k, *(q @ n for n in negatives)]) for q, k in zip(query, key, strict=True)]
        return torch.stack(similarity), torch.stack([torch.stack([k @ n for n in negatives]) for k in key])

    def pair_losses(self, similarity: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        c, contrast, divergence = self.c, [], []
        for s, t in zip(similarity, teacher, strict=True):
            scores = torch.exp(s / c.temperature)
            contrast.append(-torch.log(scores[0] / scores.sum()))
            ranked = sorted(range(len(t)), key=lambda i: -float(t[i]))[: c.distillation_top_k]
            p = torch.stack([torch.exp(t[i] / c.teacher_temperature) for i in ranked])
            q = torch.stack([torch.exp(s[1 + i] / c.student_temperature) for i in ranked])
            p, q = p / p.sum(), q / q.sum()
            divergence.append((p * (p / q).log()).sum())
        return torch.stack(contrast).mean(), torch.stack(divergence).mean()

    def enqueue(self, key: Tensor, name: str) -> None:
        queue, position = self.p[f"{name}.keys"].clone(), int(self.p[f"{name}.position"])
        for row in key:
            queue[position] = row
            position = (position + 1) % len(queue)
        self.p[f"{name}.keys"], self.p[f"{name}.position"] = queue, torch.tensor([position])


def _equal(found: Tensor, wanted: Tensor, what: str) -> None:
    torch.testing.assert_close(found.detach(), wanted.detach(), rtol=0, atol=1e-10, msg=lambda text: f"{what}: {text}")


@pytest.mark.parametrize("name", CONFIGS)
def test_two_steps_equal_the_slow_reference(name: str) -> None:
    model = _model(_config(name))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for step in range(2):
        slow, views, draws = Slow(model), _views(seed=step, per_sample=step == 1), model.draw(0, 0, step, N)
        model.before_step(PROGRESS)
        found, wanted = model.step(views, draws), slow.step(views, dict(draws.prompt_starts))
        assert set(found.terms) == set(model.config.terms)
        assert all(float(value.detach()) == 0 for term, value in wanted.terms.items() if term not in found.terms)
        for term, value in found.terms.items():
            _equal(value, wanted.terms[term], term)
        _equal(_loss(found), _loss(wanted), "total")
        for pair in model.config.pairs:
            _equal(found.similarity[pair], wanted.similarity[pair], f"similarity of {pair}")
            _equal(found.teacher[pair], wanted.teacher[pair], f"teacher of {pair}")
        assert (found.reconstruction is None) == (wanted.reconstruction is None)
        if found.reconstruction is not None and wanted.reconstruction is not None:
            _equal(found.reconstruction, wanted.reconstruction, "reconstruction")
        _equal(found.features, wanted.features, "features")
        for here, there in zip(found.keys, wanted.keys, strict=True):
            _equal(here, there, "keys")
        optimizer.zero_grad()
        _loss(found).backward()
        _loss(wanted).backward()
        push_keys(model, found)
        for parameter_name, parameter in model.named_parameters():
            gradients = (parameter.grad, slow.p[parameter_name].grad)
            here, there = (torch.zeros_like(parameter) if g is None else g for g in gradients)
            _equal(here, there, f"gradient of {parameter_name}")
        for entry, tensor in model.state_dict().items():
            _equal(tensor, slow.p[entry], entry)
        optimizer.step()


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("default", {"base", "mix", "masked", "predicted", "clip", "distill", "prediction"}),
        ("released bone and motion variant", {"base", "mix", "masked", "predicted", "clip", "prediction"}),
        ("post-distillation", {"distill", "prediction"}),
        ("no masked prediction", {"base", "mix", "clip", "distill"}),
    ],
)
def test_a_weight_of_zero_leaves_its_terms_out(name: str, terms: set[str]) -> None:
    model = _model(_config(name))
    assert model(_views(), model.draw(0, 0, 0, N)).terms.keys() == terms


def test_guidance_sends_the_predicted_pair_into_the_decoder_and_its_absence_does_not() -> None:
    for guidance, reached in ((True, True), (False, False)):
        alone = {"pairs": ("predicted",), "prediction_weight": 0.0, "guidance": guidance}
        model = _model(TINY.model_copy(update=alone))
        _loss(model.step(_views(), model.draw(0, 0, 0, N))).backward()
        assert (model.decoder.coordinates.weight.grad is not None) == reached


def test_equal_seeds_give_equal_states_and_leave_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first, same, other = PCM3PP(TINY, 3), PCM3PP(TINY, 3), PCM3PP(TINY, 4)
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, same.state_dict()[name])
    assert not torch.equal(first.encoder.layers[0].first.weight_ih_l0, other.encoder.layers[0].first.weight_ih_l0)
    assert not torch.equal(first.queue.keys, other.queue.keys)


def test_equal_seeds_give_equal_steps() -> None:
    losses = []
    for _ in range(2):
        model = _model()
        outputs = [_whole_step(model, _views(seed=s), model.draw(5, 0, s, N)) for s in range(3)]
        losses.append([_loss(output).item() for output in outputs])
    assert losses[0] == losses[1]


def test_the_twins_start_equal_and_get_no_gradient() -> None:
    model = _model()
    for name, parameter in model.encoder.named_parameters():
        assert torch.equal(model.key_encoder.get_parameter(name), parameter)
    _whole_step(model, _views(), model.draw(0, 0, 0, N))
    twins = (*model.key_encoder.parameters(), *model.key_projector.parameters())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in twins)


def test_draws_depend_on_every_number_and_fit_the_features() -> None:
    model = _model()
    draws = [model.draw(*numbers, N) for numbers in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    assert len({tuple(d.prompt_starts.values()) for d in draws}) == 4
    assert draws[0] == model.draw(0, 0, 0, N)
    starts = {start for step in range(50) for start in model.draw(0, 0, step, N).prompt_starts.values()}
    assert starts == set(range(H - 3))


def test_a_prompt_as_wide_as_the_features_starts_at_zero() -> None:
    model = _model(TINY.model_copy(update={"prompt_width": H}))
    assert set(model.draw(0, 0, 0, N).prompt_starts.values()) == {0}
    assert math.isfinite(_loss(model.step(_views(), model.draw(0, 0, 0, N))).item())


def test_widths_follow_the_hidden_width_unless_given() -> None:
    config = PCM3PPConfig(encoder=GRUConfig(hidden=32), queue_size=8)
    model = PCM3PP(config)
    assert config.feature_prompt_width == 4
    assert model.decoder.coordinates.in_features == 16
    assert PCM3PPConfig().feature_prompt_width == 128


def test_the_published_size_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        encoder = PCM3PP(PCM3PPConfig(queue_size=1)).state_dict()
    count = sum(tensor.numel() for name, tensor in encoder.items() if not name.startswith("queue"))
    assert round(count / 1e6, 2) == 103.46


def test_evaluation_changes_nothing() -> None:
    model = _model().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(_views(), model.draw(0, 0, 0, N))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_forward_pass_changes_nothing_but_running_statistics_so_that_a_step_can_be_repeated() -> None:
    model = _model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, again = (model(_views(), model.draw(0, 0, 0, N)) for _ in range(2))
    for name, term in first.terms.items():
        assert torch.equal(term, again.terms[name]), name
    for name, tensor in first.kept.items():
        assert torch.equal(tensor, again.kept[name]), name
    for name, tensor in model.state_dict().items():
        statistic = ".running_" in name or name.endswith("num_batches_tracked")
        assert torch.equal(tensor, before[name]) == (not statistic), name


def test_what_lies_in_the_kept_tensors_is_pushed_after_the_step() -> None:
    model, other = (_model(TINY.model_copy(update={"clip_queue": True})) for _ in range(2))
    outcome = model(_views(), model.draw(0, 0, 0, N))
    model.after_step(outcome)
    for number, (bank, former) in enumerate(zip(model.banks(), other.banks(), strict=True)):
        assert torch.equal(bank.queue.keys[:N], outcome.kept[f"keys/{number}"])
        assert torch.equal(bank.queue.keys[N:], former.queue.keys[N:])


def test_the_prediction_is_the_decoders_output_and_there_is_none_without_a_decoder() -> None:
    model, views = _model(), _views()
    prediction = model.predict(views, model.draw(0, 0, 0, N))
    assert torch.equal(prediction.predicted, model.step(views, model.draw(0, 0, 0, N)).reconstruction)
    assert (prediction.view, prediction.masked) == ("target", "masked")
    assert _model(_config("no masked prediction")).predictor == ()


def test_a_prediction_needs_no_more_of_the_state_than_the_predictor_names() -> None:
    model, other = _model(seed=0), _model(seed=1)
    needed = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(model.predictor)}
    other.load_state_dict(other.state_dict() | needed)
    first, second = (m.eval().predict(_views(), model.draw(0, 0, 0, N)).predicted for m in (model, other))
    assert torch.equal(first, second)
    assert needed.keys() < model.state_dict().keys()


def test_a_loaded_state_continues_as_the_saved_one() -> None:
    model, resumed = _model(seed=0), _model(seed=1)
    _whole_step(model, _views(), model.draw(0, 0, 0, N))
    resumed.load_state_dict(model.state_dict())
    terms, again = (_whole_step(m, _views(seed=1), m.draw(0, 0, 1, N)).terms for m in (model, resumed))
    assert {name: value.item() for name, value in terms.items()} == {n: v.item() for n, v in again.items()}


@pytest.mark.parametrize("missing", ["base", "key", "masked", "target", "mix", "clip"])
def test_a_missing_view_is_named(missing: str) -> None:
    model, views = _model(), _views()
    del views.views[missing]
    with pytest.raises(ConfigError, match=rf"expected also \['{missing}'\]"):
        model(views, model.draw(0, 0, 0, N))


@pytest.mark.parametrize(
    ("options", "absent"),
    [
        ({"pairs": ("base",), "prediction_weight": 0.0}, ("masked", "target", "mix", "clip")),
        ({"pairs": ("masked",), "prediction_weight": 0.0}, ("base", "target", "mix", "clip")),
        ({"pairs": ("base",)}, ("mix", "clip")),
    ],
)
def test_views_that_no_term_needs_may_be_absent(options: dict[str, Any], absent: tuple[str, ...]) -> None:
    model, views = _model(TINY.model_copy(update=options)), _views()
    for name in absent:
        del views.views[name]
    bare = Views(views.views, views.label, views.sample_id, views.masks if "target" in views.views else {})
    assert math.isfinite(_loss(model.step(bare, model.draw(0, 0, 0, N))).item())


def test_a_mixed_view_without_its_partner_is_refused() -> None:
    model, views = _model(), _views()
    bare = Views(views.views, views.label, views.sample_id, views.masks)
    with pytest.raises(ConfigError, match="partner and weight"):
        model(bare, model.draw(0, 0, 0, N))


def test_a_masked_prediction_without_its_mask_is_refused() -> None:
    model, views = _model(), _views()
    bare = Views(views.views, views.label, views.sample_id, {}, views.mix_partner, views.mix_weight)
    with pytest.raises(ConfigError, match=r"masks \[\] found, expected also \['masked'\]"):
        model(bare, model.draw(0, 0, 0, N))


def test_a_view_of_another_shape_is_named_with_both_shapes() -> None:
    model = _model()
    shapes = {"clip": (N, T, D + 1), "mix": (N, T - 1, D), "target": (N + 1, T, D), "base": (N, T)}
    expected = dict.fromkeys(shapes, f"({N}, {T}, {D})") | {"base": f"({N}, T, {D})"}
    for name, shape in shapes.items():
        views = _views()
        views.views[name] = torch.zeros(shape, dtype=torch.float64)
        with pytest.raises(ConfigError) as caught:
            model(views, model.draw(0, 0, 0, N))
        assert str(caught.value) == f"view '{name}' of shape {shape} found, expected {expected[name]}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"masks": {"masked": torch.ones(1, T, D + 1, dtype=torch.bool)}}, r"mask 'masked' of shape \(1, 6, 7\) found"),
        ({"masks": {"masked": torch.ones(T, D, dtype=torch.bool)}}, r"\(6, 6\) found, expected \(4, 6, 6\), or 1 in"),
        ({"mix_partner": torch.zeros(N + 1, dtype=torch.int64)}, r"mix_partner of shape \(5,\) found, expected \(4,\)"),
        ({"mix_weight": torch.zeros(N, 1)}, r"mix_weight of shape \(4, 1\) found, expected \(4,\)"),
    ],
)
def test_a_mask_partner_or_weight_of_another_shape_is_named(changes: dict[str, Any], message: str) -> None:
    model = _model()
    with pytest.raises(ConfigError, match=message):
        model(replace(_views(), **changes), model.draw(0, 0, 0, N))


def test_a_mask_of_fewer_dimensions_than_one_of_each_entry_may_have_ones() -> None:
    model, views = _model(), _views()
    whole = model.step(views, model.draw(0, 0, 0, N)).terms["prediction"]
    visible = views.masks["masked"].expand(N, T, D).clone()
    again = _model().step(replace(views, masks={"masked": visible}), model.draw(0, 0, 0, N)).terms["prediction"]
    assert float(whole.detach()) == pytest.approx(float(again.detach()), abs=1e-12)


def test_the_accuracy_of_a_pair_counts_queries_nearest_to_their_key() -> None:
    model, twin = _model(), _model()
    outcome, output = (f(_views(), model.draw(0, 0, 0, N)) for f in (model, twin.step))
    nearest = {pair: [row.index(max(row)) == 0 for row in s.tolist()] for pair, s in output.similarity.items()}
    assert {name: float(value) for name, value in outcome.metrics.items()} == {
        f"accuracy/{pair}": sum(hits) / N for pair, hits in nearest.items()
    }
    assert 0 < sum(float(value) for value in outcome.metrics.values()) < len(outcome.metrics)
    assert not any(value.requires_grad for value in (*outcome.metrics.values(), outcome.features))


def test_the_oldest_key_is_as_old_as_the_steps_that_fill_the_queue() -> None:
    model = _model()
    assert [model.queue_age(step, N) for step in (0, 1, 2, 3, 100)] == [0, 1, 2, 2, 2]
    assert model.queue_age(100, 7) == 1


def test_a_queue_of_its_own_leaves_everything_else_as_it_starts() -> None:
    without, own = _model(), _model(TINY.model_copy(update={"clip_queue": True}))
    state = own.state_dict()
    for name, tensor in without.state_dict().items():
        assert torch.equal(tensor, state[name])
    added = state.keys() - without.state_dict().keys()
    assert {name.partition(".")[0] for name in added} == {"clip_projector", "key_clip_projector", "clip_queue"}
    assert not torch.equal(state["clip_queue.keys"], state["queue.keys"])


def test_the_clip_with_a_queue_of_its_own_meets_no_key_of_the_other_pairs() -> None:
    model = _model(TINY.model_copy(update={"clip_queue": True}))
    _whole_step(model, _views(), model.draw(0, 0, 0, N))
    assert not torch.equal(model.queue.keys[:N], model.clip_queue.keys[:N])
    output = model.step(_views(seed=1), model.draw(0, 0, 1, N))
    before = {pair: similarity.detach().clone() for pair, similarity in output.similarity.items()}
    twin = _model(TINY.model_copy(update={"clip_queue": True}))
    _whole_step(twin, _views(), twin.draw(0, 0, 0, N))
    twin.clip_queue.keys.zero_()
    after = twin.step(_views(seed=1), twin.draw(0, 0, 1, N)).similarity
    assert {pair for pair in before if not torch.equal(before[pair], after[pair])} == {"clip"}


def test_the_nearest_of_the_whole_queue_are_the_whole_queue() -> None:
    terms = [
        _model(TINY.model_copy(update={"distillation_top_k": k})).step(_views(), _model().draw(0, 0, 0, N)).terms
        for k in (None, 7)
    ]
    torch.testing.assert_close(terms[0]["distill"], terms[1]["distill"], rtol=0, atol=1e-12)


def test_a_batch_not_smaller_than_the_queue_is_refused_before_anything_changes() -> None:
    model = _model()
    before = model.encoder.input_norm.running_mean.clone()
    with pytest.raises(ConfigError, match="queue size 7 found, expected more than the batch size 7"):
        model(_views(7), model.draw(0, 0, 0, 7))
    assert torch.equal(model.encoder.input_norm.running_mean, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queue_size": 0}, "queue size 0 found"),
        ({"queue_size": -5}, "queue size -5 found"),
        ({"pairs": ()}, "expected at least one of"),
        ({"pairs": ("base", "base")}, "each once"),
        ({"clip_queue": True, "pairs": ("base", "mix")}, "clip_queue with pairs .* expected 'clip' beside others"),
        ({"clip_queue": True, "pairs": ("clip",)}, "clip_queue with pairs .* expected 'clip' beside others"),
        ({"input_statistics": "base_view", "pairs": ("clip", "mix")}, "'base_view' with pairs .* expected 'base'"),
        ({"distillation_top_k": 8}, "distillation_top_k 8 found, expected at most queue_size 7"),
        ({"prompt_width": 9}, "prompt_width 9 found, expected at most encoder.hidden 8"),
        (
            {"contrast_weight": 0.0, "distillation_weight": 0.0, "prediction_weight": 0.0},
            "are all 0, expected one above 0",
        ),
    ],
)
def test_an_option_that_cannot_work_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PCM3PP(TINY.model_copy(update=options))


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 1.5},
        {"temperature": 0},
        {"pairs": ("crop",)},
        {"queues": 1},
        {"distillation_top_k": 0},
        {"input_statistics": "per_view"},
    ],
)
def test_an_option_out_of_range_or_unknown_is_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        PCM3PPConfig(**options)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("encoder_q.encoder.gru.weight_ih_l0_reverse", "encoders.joint.layers.0.second.weight_ih_l0"),
        ("module.encoder_k.input_norm.running_mean", "key_encoder.input_norm.running_mean"),
        ("encoder_q.fc.2.bias", "projector.layers.2.bias"),
        ("encoder_k.fc.0.weight", "key_projector.layers.0.weight"),
        ("linear.1.running_var", "decoder.reduce.1.running_var"),
        ("recons_decoder.decoder.weight_hh_l1", "decoder.gru.weight_hh_l1"),
        ("recons_decoder.reconstruction.bias", "decoder.coordinates.bias"),
        ("recons_prompt", "prompts.predicted"),
    ],
)
def test_reference_names_are_translated(name: str, expected: str) -> None:
    assert from_reference_name(name) == expected
    assert expected in PCM3PP(TINY).state_dict()


def test_reference_names_lead_to_the_encoder_of_their_stream() -> None:
    ours = from_reference_name("encoder_q.input_norm.bias", stream="bone")
    assert ours == "encoders.bone.input_norm.bias"
    assert ours in PCM3PP(TINY, stream="bone").state_dict()


def test_a_reference_state_gets_our_shapes() -> None:
    queue = torch.arange(6.0).reshape(2, 3)
    state = from_reference_state({"queue": queue, "cl_prompt": torch.ones(1, 6), "base_prompt": torch.ones(1, 1, 6)})
    assert state["queue.keys"].tolist() == queue.T.tolist()
    assert state["prompts.contrast"].shape == state["prompts.base"].shape == (6,)


@pytest.mark.parametrize("name", ["classifier.weight", "encoder_q.lstm.weight", "encoder_k.encoder.gru.gain_l0"])
def test_an_unknown_reference_name_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match="found, expected"):
        from_reference_name(name)
