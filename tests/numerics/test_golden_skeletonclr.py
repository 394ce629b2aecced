"""SkeletonCLR against numbers of LinguoLi/CrosSCLR, in float64, with the golden README's tolerances.

Three steps in a row: two on the same views, with SGD behind each, and one with the two views swapped.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.encoders import stgcn
from models.objectives import losses
from models.objectives.objective import Progress
from models.objectives.skeletonclr import SkeletonCLR, SkeletonCLRConfig, from_reference_name
from shards.batch import Views
from shards.skeleton import PARENTS
from tests.numerics import gcn, golden

ARRAYS = golden.numbers("methods/skeletonclr")


def _streams(end: str) -> list[str]:
    return golden.found(name.removesuffix(end) for name in ARRAYS if name.endswith(end))


STREAMS, STEPPED, LINEAR = _streams(".loss"), _streams(".loss_step2"), _streams(".eval.out")
PARAMETERS = golden.found(ARRAYS[f"{STEPPED[0]}.grad_names"].tolist())
STEPS = (("im_q", "im_k"), ("im_q", "im_k"), ("im_k", "im_q"))

# of the README; the files do not show them
WIDTH, MOMENTUM, TEMPERATURE = 16, 0.999, 0.07
SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4}


def _feature_width() -> int:
    """Of the last block's norm, whose running variance is there."""
    (width,) = {len(array) for name, array in ARRAYS.items() if "st_gcn_networks.9.tcn.3" in name}
    return width


def _objective(stream: str) -> SkeletonCLR:
    """The objective with the weights and the queue of the set, in train mode."""
    dim, choices = ARRAYS[f"{stream}.encoder_q.z"].shape[1], ARRAYS[f"{stream}.logits"].shape[1]
    config = SkeletonCLRConfig(
        encoder=stgcn.STGCNConfig(width=WIDTH, feature=_feature_width(), dropout=0),
        feature_dim=dim,
        queue_size=choices - 1,
        momentum=MOMENTUM,
        temperature=TEMPERATURE,
    )
    objective = config.build([stream])
    names = [f"{twin}.{name}" for twin in ("encoder_q", "encoder_k") for name in PARAMETERS]
    gcn.fill(objective, {name: from_reference_name(name, stream) for name in names})
    queue = objective.double().queues[stream]
    columns = golden.weight("queue", (dim, choices - 1))
    columns /= np.linalg.norm(columns.astype(np.float64), axis=0).astype(np.float32)
    queue.keys.copy_(torch.from_numpy(columns.T))
    # where it begins is in the README alone, but follows from where it ends
    end = int(ARRAYS[f"{STEPPED[0]}.queue_ptr_after"].item())
    queue.position.fill_((end - len(ARRAYS["im_q"])) % len(queue.keys))
    return objective


def _apply_stream(joints_NCTVM: np.ndarray, stream: str) -> np.ndarray:
    """The stream of the joints in float64, one frame or joint after another."""
    x = joints_NCTVM.astype(np.float64)
    made = np.zeros_like(x)
    for t in range(x.shape[2] - 1):
        if stream == "motion":
            made[:, :, t] = x[:, :, t + 1] - x[:, :, t]
    for joint, parent in enumerate(PARENTS):
        if stream == "bone":
            made[:, :, :, joint] = x[:, :, :, joint] - x[:, :, :, parent]
    return x if stream == "joint" else made


def _views(names: tuple[str, str], stream: str) -> Views:
    rows = torch.arange(len(ARRAYS[names[0]]))
    query, key = (gcn.flatten(_apply_stream(ARRAYS[name], stream)) for name in names)
    return Views({"query": query, "key": key}, rows, rows)


@dataclass(frozen=True)
class Step:
    """What a step gave, and the objective's state after it."""

    loss: float
    z: dict[str, Tensor]
    logits: Tensor
    gradients: dict[str, Tensor]
    state: dict[str, Tensor]

    def of(self, prefix: str, stream: str) -> dict[str, Tensor]:
        """The parameters of "encoder_q" or "encoder_k" by the reference's names."""
        return {name: self.state[from_reference_name(f"{prefix}.{name}", stream)] for name in PARAMETERS}


@cache
def _steps(stream: str) -> tuple[Step, ...]:
    objective, z, steps = _objective(stream), {}, []
    for name, projectors in (("encoder_q", objective.projectors), ("encoder_k", objective.key_projectors)):
        projectors[stream].register_forward_hook(lambda _module, _x, y, name=name: z.update({name: y.detach()}))
    optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], **SGD)
    for number, names in enumerate(STEPS):
        negatives = objective.queues[stream].keys.clone()
        objective.before_step(Progress(epoch=0, step=number, epoch_steps=len(STEPS), epochs=1))
        views = _views(names, stream)
        outcome = objective(views, objective.draw(0, 0, number, len(views)))
        (loss,) = outcome.terms.values()
        optimizer.zero_grad()
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}
        optimizer.step()
        objective.after_step(outcome)
        state = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
        logits = losses.similarities(z["encoder_q"], z["encoder_k"], negatives) / TEMPERATURE
        steps.append(Step(loss.item(), dict(z), logits, gradients, state))
    return tuple(steps)


@pytest.mark.parametrize("name", golden.found(name for name in ARRAYS if name[:-2] in STREAMS))
def test_the_streams_of_the_views_equal_the_reference(name: str) -> None:
    made = _apply_stream(ARRAYS["im_q"], name.removesuffix("_q"))
    np.testing.assert_allclose(made, ARRAYS[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("stream", STREAMS)
def test_embeddings_logits_and_loss_of_a_step_equal_the_reference(stream: str) -> None:
    first, *_ = _steps(stream)
    for name, z in first.z.items():
        gcn.check_array(z, ARRAYS[f"{stream}.{name}.z"], name)
    gcn.check_array(first.logits, ARRAYS[f"{stream}.logits"])
    assert first.loss == pytest.approx(float(ARRAYS[f"{stream}.loss"]), rel=gcn.LOSS)


@pytest.mark.parametrize("stream", STEPPED)
def test_gradients_of_a_step_equal_the_reference(stream: str) -> None:
    found = _steps(stream)[0].gradients
    assert found.keys() == {from_reference_name(f"encoder_q.{name}", stream) for name in PARAMETERS}
    gradients = {name: found[from_reference_name(f"encoder_q.{name}", stream)] for name in PARAMETERS}
    gcn.check_statistics(ARRAYS, f"{stream}.grad", gradients)


@pytest.mark.parametrize("stream", STEPPED)
def test_twin_queue_and_running_statistics_after_a_step_equal_the_reference(stream: str) -> None:
    first, *_ = _steps(stream)
    gcn.check_statistics(ARRAYS, f"{stream}.key_after", first.of("encoder_k", stream))
    gcn.check_array(first.state[from_reference_name("queue", stream)].T, ARRAYS[f"{stream}.queue_after"])
    position = first.state[from_reference_name("queue_ptr", stream)]
    np.testing.assert_array_equal(position.numpy(), ARRAYS[f"{stream}.queue_ptr_after"])
    for name in golden.found(name for name in ARRAYS if name.startswith(stream) and "running_" in name):
        ours = from_reference_name(name.removeprefix(f"{stream}.").removesuffix("_after"), stream)
        gcn.check_array(first.state[ours], ARRAYS[name], name)


@pytest.mark.parametrize("stream", STEPPED)
def test_the_steps_after_sgd_equal_the_reference(stream: str) -> None:
    first, second, third = _steps(stream)
    gcn.check_statistics(ARRAYS, f"{stream}.query_after_sgd", first.of("encoder_q", stream))
    assert second.loss == pytest.approx(float(ARRAYS[f"{stream}.loss_step2"]), rel=gcn.LOSS)
    assert third.loss == pytest.approx(float(ARRAYS[f"{stream}.loss_step3_swapped"]), rel=gcn.LOSS)
    gcn.check_statistics(ARRAYS, f"{stream}.key_after_step3", third.of("encoder_k", stream))


@torch.no_grad()
@pytest.mark.parametrize("case", LINEAR)
def test_a_linear_layer_on_the_features_equals_the_reference(case: str) -> None:
    outputs = ARRAYS[f"{case}.eval.out"].shape[1]
    objective = _objective(STEPPED[0]).eval()
    fc = nn.Linear(objective.encoder.width, outputs)
    gcn.fill(fc, {f"encoder_q.fc.{name}": name for name in ("weight", "bias")})
    feature = objective.encoder(_views(STEPS[0], "joint").views["query"]).feature
    gcn.check_array(fc.double()(feature), ARRAYS[f"{case}.eval.out"])
