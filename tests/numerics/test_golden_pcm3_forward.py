"""A whole step of the objective against numbers of the PCM3 training step.

The second step comes after one SGD step, so that the momentum update matters. Tolerances are those of the golden
README.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.encoders.gru import GRUConfig
from models.objectives import losses, objective
from models.objectives.pcm3_names import from_reference_name, from_reference_state
from models.objectives.pcm3pp import (
    PCM3PP,
    Draws,
    PCM3PPConfig,
    StepOutput,
)
from shards.batch import Views
from shards.skeleton import BODY_PARTS
from tests.numerics.golden import facts, found, matching, numbers, weight

NUMBERS, FACTS = numbers("pcm3_forward"), facts("pcm3_forward")
CASES, HYPER = FACTS["cases"], FACTS["hyper"]
EACH = found(CASES)
SECOND = "__second_step"
# the order in which the reference draws the starts of the feature prompts
STARTS = ("base", "prediction", "masked", "predicted", "mix", "key")
# a constant added before a batch norm in train mode: the true gradient is 0, the recorded one rounding noise
ZERO_GRADIENT = {"base_prompt", "mask_prompt", "recons_prompt", "mix_prompt", "mp_prompt", "linear.0.bias"}
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
PARAMETERS = {name for name in (entry["name"] for entry in FACTS["parameters"]) if not name.endswith(STATISTICS)}
PARAMETERS -= {"queue", "queue_ptr"}
# mixing cuts time in units of so many frames
UNIT = 4


@dataclass(frozen=True)
class Outcome:
    """What a step gave, under the reference's names."""

    output: StepOutput
    distill: float
    gradients: dict[str, np.ndarray | None]
    keys: dict[str, np.ndarray]
    state: dict[str, Tensor]


class Reference:
    """The weights and probes that are remade from their names, and the inputs."""

    def __init__(self) -> None:
        self.shapes = {entry["name"]: entry["shape"] for entry in FACTS["parameters"]}
        self._probes: dict[str, np.ndarray] = {}

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        return {entry["name"]: torch.from_numpy(_weight(**entry)) for entry in FACTS["parameters"]}

    def config(self, prompts: bool) -> PCM3PPConfig:
        return PCM3PPConfig(
            encoder=GRUConfig(
                hidden=HYPER["hidden"],
                layers=HYPER["layers"],
                prompt_place="before_norm",
                input_size=self.shapes["encoder_q.encoder.gru.weight_ih_l0"][1],
            ),
            feature_dim=HYPER["dim"],
            queue_size=HYPER["K"],
            momentum=HYPER["m"],
            temperature=HYPER["T"],
            teacher_temperature=HYPER["teacher_T"],
            student_temperature=HYPER["student_T"],
            pairs=("base", "mix", "masked", "predicted"),
            prompts=prompts,
            prompt_width=self.shapes["cl_prompt"][-1] // 2,
            decoder_width=self.shapes["linear.0.weight"][0],
            guidance=prompts,
            distillation_weight=HYPER["cmd_weight"] if prompts else 0.0,
        )

    def probe(self, name: str) -> np.ndarray:
        if name not in self._probes:
            self._probes[name] = weight(f"probe/{name}", self.shapes[name]).ravel()
        return self._probes[name]

    def norm_sum_probe(self, name: str, tensor: Tensor) -> np.ndarray:
        flat = tensor.detach().numpy().ravel().astype(np.float64)
        return np.array([np.sqrt(flat @ flat), flat.sum(), flat @ self.probe(name)])

    def views(self, case: str) -> Views:
        shape = NUMBERS[f"{case}__im_q"].transpose(0, 2, 3, 1, 4).shape  # (N, T, V, C, M)
        query, key, target = (_flatten(NUMBERS[f"{case}__im_{name}"]) for name in ("q", "k", "mask"))
        visible = torch.ones(shape[1:], dtype=torch.bool)
        hidden = NUMBERS[f"{case}__mask_parts"]
        frames = shape[1] // len(hidden)
        for segment, parts in enumerate(hidden):
            for part in parts:
                visible[frames * segment : frames * (segment + 1), list(BODY_PARTS[part]), :, 0] = False
        visible = visible.flatten(1)[None]
        mixed, partner, share = _mix(query.view(shape), CASES[case]["draws"]["swap"])
        named = {"base": query, "key": key, "masked": target * visible, "target": target, "mix": mixed.flatten(2)}
        rows = torch.arange(len(query))
        return Views(named, rows, rows, {"masked": visible}, partner, torch.full((len(query),), share))


def _weight(name: str, shape: list[int], value: str) -> np.ndarray:
    """An entry of the state by the rule that is recorded with it."""
    if name.endswith(("num_batches_tracked", "queue_ptr")):
        return np.zeros(shape, np.int64)
    if scale := re.match(r"normal \* ([\d.e-]+)", value):
        return weight(name.replace("encoder_k.", "encoder_q."), shape, float(scale[1]))
    if name == "queue":
        queue = weight(name, shape)
        return queue / np.linalg.norm(queue, axis=0, keepdims=True)
    return np.full(shape, float(value), np.float32)


def _flatten(x_NCTVM: np.ndarray) -> Tensor:
    return torch.from_numpy(x_NCTVM).permute(0, 2, 3, 1, 4).flatten(2)


def _mix(x: Tensor, draws: dict[str, Any]) -> tuple[Tensor, Tensor, float]:
    """The recorded mixing done once more, by loops, on (N, T, V, C, M): mixed, partner rows, share of the partner."""
    partner = (torch.arange(len(x)) + draws["n"]) % len(x)
    other = x[partner]
    if draws["branch_draw"] <= 0.25:
        share = draws["lambda_draw"]
        return (1 - share) * x + share * other, partner, share
    mixed, first, length = x.clone(), UNIT * draws["tem_idx"], UNIT * draws["Ct"]
    joints = sorted(joint for part in draws["parts"] for joint in BODY_PARTS[part])
    source_length = min(2 * length, x.shape[1])
    for i in range(length):
        source = first + i if draws["branch_draw"] > 0.5 else i * source_length // length
        for joint in joints:
            mixed[:, first + i, joint] = other[:, source, joint]
    return mixed, partner, length * len(joints) / (x.shape[1] * x.shape[2])


def _start(reference: Reference, model: PCM3PP, case: str) -> PCM3PP:
    """The model with the weights and buffers that a first step starts from."""
    prompted = model.prompts is not None
    weights = {name: w for name, w in reference.weights.items() if prompted or not name.endswith("_prompt")}
    weights["queue_ptr"] = torch.full_like(weights["queue_ptr"], CASES[case]["queue_ptr_before"])
    model.load_state_dict(from_reference_state(weights))
    return model


def _step(reference: Reference, model: PCM3PP, case: str) -> Outcome:
    starts = CASES[case]["draws"]["st_idx_in_order_of_use"] or [0] * len(STARTS)
    model.before_step(objective.Progress(epoch=0, step=0, epoch_steps=1, epochs=1))
    output = model.step(reference.views(case), Draws(dict(zip(STARTS, starts, strict=True))))
    model.zero_grad()
    torch.stack(list(output.terms.values())).sum().backward()
    kept = {f"keys/{number}": keys for number, keys in enumerate(output.keys)}
    model.after_step(objective.Outcome(output.terms, {}, output.features, kept))
    students = {pair: similarity.detach()[:, 1:] for pair, similarity in output.similarity.items()}
    temperatures = HYPER["student_T"], HYPER["teacher_T"]
    distill = sum(float(losses.distillation(students[p], output.teacher[p], *temperatures)) for p in students)
    parameters, ours = dict(model.named_parameters()), from_reference_name
    gradients: dict[str, np.ndarray | None] = {}
    for name in NUMBERS[f"{case}__grad_names"]:
        parameter = parameters.get(ours(name))
        gradient = None if parameter is None else parameter.grad
        gradients[name] = None if gradient is None else reference.norm_sum_probe(name, gradient)
    key_parameters = {
        name: reference.norm_sum_probe(name, parameters[ours(name)]) for name in NUMBERS[f"{case}__key_param_names"]
    }
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    return Outcome(output, distill, gradients, key_parameters, buffers)


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    done: dict[str, Outcome] = {}
    reference = Reference()
    models: dict[str, PCM3PP] = {}
    for case in (case for case in EACH if not case.endswith(SECOND)):
        kind = CASES[case]["kind"]
        if kind not in models:
            models[kind] = PCM3PP(reference.config(prompts=kind == "wprompt"))
        model = _start(reference, models[kind], case)
        done[case] = _step(reference, model, case)
        second = f"{case}{SECOND}"
        if second in CASES:
            torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4).step()
            done[second] = _step(reference, model, second)
    return done


def _close(actual: Any, expected: Any, tolerance: float, what: str = "") -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance, err_msg=what)


@pytest.mark.parametrize("case", EACH)
def test_logits_of_every_pair_equal_the_reference(outcomes: dict[str, Outcome], case: str) -> None:
    for pair, name in (("base", ""), ("mix", "_mix"), ("masked", "_mask"), ("predicted", "_recons")):
        logits = outcomes[case].output.similarity[pair].detach() / HYPER["T"]
        _close(logits, NUMBERS[f"{case}__logits{name}"], 1e-3, pair)


@pytest.mark.parametrize("case", EACH)
def test_every_loss_equals_the_reference(outcomes: dict[str, Outcome], case: str) -> None:
    outcome = outcomes[case]
    expected = dict(zip(NUMBERS[f"{case}__loss_names"], NUMBERS[f"{case}__loss_values"], strict=True))
    terms = {name: term.item() for name, term in outcome.output.terms.items()}
    _close(terms["base"], expected["loss_base"], 5e-4)
    _close(terms["mix"], expected["loss_mix"], 5e-4)
    _close(terms["masked"], expected["loss_mask"], 5e-4)
    _close(terms["predicted"], expected["loss_recons_branch"], 5e-4)
    _close(terms["prediction"] / 40, expected["loss_rec"], 5e-4)
    _close(outcome.distill, expected["loss_sim"], 5e-4)
    _close(sum(terms.values()), expected["loss_total"], 5e-4)
    assert ("distill" in terms) == (CASES[case]["kind"] == "wprompt")


@pytest.mark.parametrize("case", EACH)
def test_the_reconstruction_equals_the_reference(outcomes: dict[str, Outcome], case: str) -> None:
    reconstruction = outcomes[case].output.reconstruction
    assert reconstruction is not None
    _close(reconstruction.detach(), _flatten(NUMBERS[f"{case}__recons_data"]), 1e-4)


@pytest.mark.parametrize("case", EACH)
def test_every_gradient_equals_the_reference(outcomes: dict[str, Outcome], case: str) -> None:
    names, recorded, none = (
        NUMBERS[f"{case}__{item}"] for item in ("grad_names", "grad_norm_sum_probe", "grad_is_none")
    )
    assert set(names) == {name for name in PARAMETERS if not name.startswith("encoder_k.")}
    for name, expected, absent in zip(names, recorded, none, strict=True):
        gradient = outcomes[case].gradients[name]
        assert (gradient is None) == absent, name
        if gradient is None:
            continue
        if name in ZERO_GRADIENT:
            _close(gradient[0], 0, max(1e-4, 10 * expected[0]), name)
        else:
            _close(gradient, expected, 2e-3 * expected[0], name)


@pytest.mark.parametrize("case", EACH)
def test_the_key_parameters_equal_the_reference_after_the_momentum_update(
    outcomes: dict[str, Outcome], case: str
) -> None:
    names, recorded = (NUMBERS[f"{case}__key_param_{item}"] for item in ("names", "norm_sum_probe"))
    assert set(names) == {name for name in PARAMETERS if name.startswith("encoder_k.")}
    for name, expected in zip(names, recorded, strict=True):
        _close(outcomes[case].keys[name], expected, 5e-5, name)


@pytest.mark.parametrize("case", EACH)
def test_the_running_statistics_and_the_queue_equal_the_reference(outcomes: dict[str, Outcome], case: str) -> None:
    state, names = outcomes[case].state, matching(NUMBERS, f"{case}__buffer__*")
    assert sorted(names) == sorted(e["name"] for e in FACTS["parameters"] if e["name"].endswith(STATISTICS))
    for name in names:
        _close(state[from_reference_name(name)], NUMBERS[f"{case}__buffer__{name}"], 1e-5, name)
    _close(state["queue.keys"].T, NUMBERS[f"{case}__queue_after"], 1e-5)
    assert state["queue.position"].tolist() == NUMBERS[f"{case}__queue_ptr_after"].tolist()
