"""A whole step of the objective against numbers of the PCM3 training step (hidden 1024, batch 4, queue 64).

The second step comes after one SGD step, so that the momentum update matters. Tolerances are those of the golden
README.
"""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor

from models.encoders.gru import EncoderConfig
from models.objectives import losses
from models.objectives.pcm3_names import from_reference_name, from_reference_state
from models.objectives.pcm3pp import (
    PCM3PP,
    Draws,
    PCM3PPConfig,
    StepOutput,
)
from shards.batch import Views
from shards.skeleton import BODY_PARTS

CASES = ("wprompt_swap", "wprompt_swap__second_step", "wprompt_time", "wprompt_mix", "woprompt_swap")
# the order in which the reference draws the starts of the feature prompts
STARTS = ("base", "prediction", "masked", "predicted", "mix", "key")
# a constant added before a batch norm in train mode: the true gradient is 0, the recorded one rounding noise
ZERO_GRADIENT = {"base_prompt", "mask_prompt", "recons_prompt", "mix_prompt", "mp_prompt", "linear.0.bias"}


@dataclass(frozen=True)
class Outcome:
    """What a step gave, under the reference's names."""

    output: StepOutput
    distill: float
    gradients: dict[str, np.ndarray | None]
    keys: dict[str, np.ndarray]
    state: dict[str, Tensor]


class Reference:
    """The recorded numbers, and the weights and probes that are remade from their names."""

    def __init__(self, folder: Path) -> None:
        self.arrays: NpzFile = np.load(folder / "pcm3_forward.npz")
        facts: dict[str, Any] = json.loads((folder / "pcm3_forward.json").read_text())
        self.cases = facts["cases"]
        self.shapes = {entry["name"]: entry["shape"] for entry in facts["parameters"]}
        self.weights = {name: torch.from_numpy(self._weight(name)) for name in self.shapes}
        self._probes: dict[str, np.ndarray] = {}

    def _weight(self, name: str) -> np.ndarray:
        shape, twin = self.shapes[name], name.replace("encoder_k.", "encoder_q.")
        if name == "queue_ptr" or name.endswith("num_batches_tracked"):
            return np.zeros(shape, np.int64)
        if twin.endswith(("norm.weight", "linear.1.weight", "running_var")):
            return np.ones(shape, np.float32)
        if twin.endswith(("norm.bias", "linear.1.bias", "running_mean")):
            return np.zeros(shape, np.float32)
        if name == "queue":
            queue = _normal("queue", shape)
            return queue / np.linalg.norm(queue, axis=0, keepdims=True)
        return _normal(twin, shape) * np.float32(0.1 if name.endswith("prompt") else 0.03)

    def probe(self, name: str) -> np.ndarray:
        if name not in self._probes:
            self._probes[name] = _normal(f"probe/{name}", self.shapes[name]).ravel()
        return self._probes[name]

    def norm_sum_probe(self, name: str, tensor: Tensor) -> np.ndarray:
        flat = tensor.detach().numpy().ravel().astype(np.float64)
        return np.array([np.sqrt(flat @ flat), flat.sum(), flat @ self.probe(name)])

    def views(self, case: str) -> Views:
        query, key, target = (_flatten(self.arrays[f"{case}__im_{name}"]) for name in ("q", "k", "mask"))
        visible = torch.ones(64, 25, 3, 2, dtype=torch.bool)
        for segment, parts in enumerate(self.arrays[f"{case}__mask_parts"]):
            for part in parts:
                visible[8 * segment : 8 * (segment + 1), list(BODY_PARTS[part]), :, 0] = False
        visible = visible.reshape(1, 64, 150)
        mixed, partner, weight = _mix(query, self.cases[case]["draws"]["swap"])
        named = {"base": query, "key": key, "masked": target * visible, "target": target, "mix": mixed}
        rows = torch.arange(4)
        return Views(named, rows, rows, {"masked": visible}, partner, torch.full((4,), weight))


def _normal(name: str, shape: list[int]) -> np.ndarray:
    return np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF).standard_normal(shape).astype(np.float32)


def _flatten(x_NCTVM: np.ndarray) -> Tensor:
    return torch.from_numpy(x_NCTVM).permute(0, 2, 3, 1, 4).reshape(4, 64, 150)


def _mix(query: Tensor, draws: dict[str, Any]) -> tuple[Tensor, Tensor, float]:
    """The recorded mixing done once more, by loops: mixed view, partner rows, share of the partner."""
    partner = (torch.arange(4) + draws["n"]) % 4
    x, other = query.reshape(4, 64, 25, 6), query[partner].reshape(4, 64, 25, 6)
    if draws["branch_draw"] <= 0.25:
        share = draws["lambda_draw"]
        return ((1 - share) * x + share * other).reshape(4, 64, 150), partner, share
    mixed, first, frames = x.clone(), 4 * draws["tem_idx"], 4 * draws["Ct"]
    joints = sorted(joint for part in draws["parts"] for joint in BODY_PARTS[part])
    available = min(2 * frames, 64)
    for i in range(frames):
        source = first + i if draws["branch_draw"] > 0.5 else i * available // frames
        for joint in joints:
            mixed[:, first + i, joint] = other[:, source, joint]
    return mixed.reshape(4, 64, 150), partner, draws["Ct"] * len(joints) / (16 * 25)


def _config(prompts: bool) -> PCM3PPConfig:
    return PCM3PPConfig(
        encoder=EncoderConfig(prompt_place="before_norm"),
        queue_size=64,
        pairs=("base", "mix", "masked", "predicted"),
        prompts=prompts,
        guidance=prompts,
        distillation_weight=1.0 if prompts else 0.0,
    )


def _start(reference: Reference, model: PCM3PP) -> PCM3PP:
    """The model with the weights and buffers that every first step starts from."""
    prompted = model.prompts is not None
    weights = {name: w for name, w in reference.weights.items() if prompted or not name.endswith("_prompt")}
    model.load_state_dict(from_reference_state(weights))
    return model


def _step(reference: Reference, model: PCM3PP, case: str) -> Outcome:
    starts = reference.cases[case]["draws"]["st_idx_in_order_of_use"] or [0] * len(STARTS)
    output = model.step(reference.views(case), Draws(dict(zip(STARTS, starts, strict=True))))
    model.zero_grad()
    torch.stack(list(output.terms.values())).sum().backward()
    students = {pair: similarity.detach()[:, 1:] for pair, similarity in output.similarity.items()}
    distill = sum(float(losses.distillation(students[p], output.teacher[p], 0.1, 0.05)) for p in students)
    parameters, ours = dict(model.named_parameters()), from_reference_name
    gradients: dict[str, np.ndarray | None] = {}
    for name in reference.arrays[f"{case}__grad_names"]:
        parameter = parameters.get(ours(name))
        gradient = None if parameter is None else parameter.grad
        gradients[name] = None if gradient is None else reference.norm_sum_probe(name, gradient)
    keys = {
        name: reference.norm_sum_probe(name, parameters[ours(name)])
        for name in reference.arrays[f"{case}__key_param_names"]
    }
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    return Outcome(output, distill, gradients, keys, buffers)


@pytest.fixture(scope="module")
def reference(golden: Path) -> Reference:
    return Reference(golden)


@pytest.fixture(scope="module")
def outcomes(reference: Reference) -> dict[str, Outcome]:
    found: dict[str, Outcome] = {}
    models = {kind: PCM3PP(_config(prompts=kind == "wprompt")) for kind in ("wprompt", "woprompt")}
    for case in (case for case in CASES if not case.endswith("__second_step")):
        model = _start(reference, models[case.split("_")[0]])
        found[case] = _step(reference, model, case)
        second = f"{case}__second_step"
        if second in CASES:
            torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4).step()
            found[second] = _step(reference, model, second)
    return found


def _close(actual: Any, expected: Any, tolerance: float, what: str = "") -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance, err_msg=what)


@pytest.mark.parametrize("case", CASES)
def test_logits_of_every_pair_equal_the_reference(
    reference: Reference, outcomes: dict[str, Outcome], case: str
) -> None:
    for pair, name in (("base", ""), ("mix", "_mix"), ("masked", "_mask"), ("predicted", "_recons")):
        logits = outcomes[case].output.similarity[pair].detach() / 0.07
        _close(logits, reference.arrays[f"{case}__logits{name}"], 1e-3, pair)


@pytest.mark.parametrize("case", CASES)
def test_every_loss_equals_the_reference(reference: Reference, outcomes: dict[str, Outcome], case: str) -> None:
    arrays, outcome = reference.arrays, outcomes[case]
    expected = dict(zip(arrays[f"{case}__loss_names"], arrays[f"{case}__loss_values"], strict=True))
    terms = {name: term.item() for name, term in outcome.output.terms.items()}
    _close(terms["base"], expected["loss_base"], 5e-4)
    _close(terms["mix"], expected["loss_mix"], 5e-4)
    _close(terms["masked"], expected["loss_mask"], 5e-4)
    _close(terms["predicted"], expected["loss_recons_branch"], 5e-4)
    _close(terms["prediction"] / 40, expected["loss_rec"], 5e-4)
    _close(outcome.distill, expected["loss_sim"], 5e-4)
    _close(sum(terms.values()), expected["loss_total"], 5e-4)
    assert ("distill" in terms) == case.startswith("wprompt")


@pytest.mark.parametrize("case", CASES)
def test_the_reconstruction_equals_the_reference(reference: Reference, outcomes: dict[str, Outcome], case: str) -> None:
    reconstruction = outcomes[case].output.reconstruction
    assert reconstruction is not None
    _close(reconstruction.detach(), _flatten(reference.arrays[f"{case}__recons_data"]), 1e-4)


@pytest.mark.parametrize("case", CASES)
def test_every_gradient_equals_the_reference(reference: Reference, outcomes: dict[str, Outcome], case: str) -> None:
    names, recorded, none = (
        reference.arrays[f"{case}__{item}"] for item in ("grad_names", "grad_norm_sum_probe", "grad_is_none")
    )
    for name, expected, absent in zip(names, recorded, none, strict=True):
        gradient = outcomes[case].gradients[name]
        assert (gradient is None) == absent, name
        if gradient is None:
            continue
        if name in ZERO_GRADIENT:
            _close(gradient[0], 0, 1e-4, name)
        else:
            _close(gradient, expected, 2e-3 * expected[0], name)


@pytest.mark.parametrize("case", CASES)
def test_the_key_parameters_equal_the_reference_after_the_momentum_update(
    reference: Reference, outcomes: dict[str, Outcome], case: str
) -> None:
    names, recorded = (reference.arrays[f"{case}__key_param_{item}"] for item in ("names", "norm_sum_probe"))
    for name, expected in zip(names, recorded, strict=True):
        _close(outcomes[case].keys[name], expected, 5e-5, name)


@pytest.mark.parametrize("case", CASES)
def test_the_running_statistics_and_the_queue_equal_the_reference(
    reference: Reference, outcomes: dict[str, Outcome], case: str
) -> None:
    arrays, state = reference.arrays, outcomes[case].state
    names = [name.removeprefix(f"{case}__buffer__") for name in arrays.files if name.startswith(f"{case}__buffer__")]
    assert len(names) == 9
    for name in names:
        _close(state[from_reference_name(name)], arrays[f"{case}__buffer__{name}"], 1e-5, name)
    _close(state["queue.keys"].T, arrays[f"{case}__queue_after"], 1e-5)
    assert state["queue.position"].tolist() == arrays[f"{case}__queue_ptr_after"].tolist()
