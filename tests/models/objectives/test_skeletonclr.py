"""SkeletonCLR against its formulas by loops, over ranks, its streams, its options and its errors."""

import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal

import pytest
import torch
import torch.distributed as dist
from pydantic import ValidationError
from torch import Tensor, nn

from models.collectives import rank, world_size
from models.encoders.encoder import Encoded, Encoder, EncoderConfig, Family
from models.encoders.stgcn import STGCNConfig
from models.norm import KeptStatistics
from models.objectives.objective import OBJECTIVES, Outcome, Progress
from models.objectives.skeletonclr import SkeletonCLR, SkeletonCLRConfig, from_reference_name, from_reference_state
from shards.batch import Views
from shards.errors import CheckpointError, ConfigError
from shards.skeleton import FRAME_SIZE

N, T, STEPS, RATE = 4, 9, 3, 0.5
STREAMS = ("joint", "bone")
TINY = SkeletonCLRConfig(
    encoder=STGCNConfig(width=2, feature=6), feature_dim=5, queue_size=10, momentum=0.9, temperature=0.2
)


def objective(streams: tuple[str, ...] = ("joint",), seed: int = 0, **options: Any) -> SkeletonCLR:
    """A tiny one in float64 and train mode, its signals as large as those of a wide one."""
    made = TINY.model_copy(update=options).build(streams, seed).double()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() in (2, 4):
                parameter.mul_(50 * (2 / parameter[0].numel()) ** 0.5)
    return made


def batch(step: int = 0, streams: tuple[str, ...] = ("joint",)) -> Views:
    """This rank's block of a global batch; the views of one stream have no stream in their names."""
    generator = torch.Generator().manual_seed(step)
    own = slice(N * rank() // world_size(), N * (rank() + 1) // world_size())
    views = {}
    for view in ("query", "key"):
        for stream in streams:
            x = torch.randn(N, T, FRAME_SIZE, dtype=torch.float64, generator=generator)
            views[view if len(streams) == 1 else f"{view}/{stream}"] = x[own]
    rows = torch.arange(N)[own]
    return Views(views, rows, rows)


def progress(step: int) -> Progress:
    return Progress(epoch=0, step=step, epoch_steps=STEPS, epochs=1)


def loss_of(outcome: Outcome) -> Tensor:
    return torch.stack(list(outcome.terms.values())).sum()


def run(made: SkeletonCLR, step: int, streams: tuple[str, ...] = ("joint",)) -> Outcome:
    return made(batch(step, streams), made.draw(0, 0, step, N))


def mean_over_ranks(x: Tensor) -> Tensor:
    total = x.clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total / world_size()


def tell(made: SkeletonCLR, streams: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    """Steps of plain gradient descent, gradients averaged over the ranks; all there is to compare."""
    for step in range(STEPS):
        made.before_step(progress(step))
        made.zero_grad()
        outcome = run(made, step, streams)
        loss_of(outcome).backward()
        for name, value in (outcome.terms | outcome.metrics).items():
            yield f"{step} {name}", mean_over_ranks(value.detach())
        yield f"{step} rows features", outcome.features
        for name, parameter in made.named_parameters():
            if parameter.grad is not None:
                gradient = mean_over_ranks(parameter.grad)
                yield f"{step} gradient {name}", gradient
                parameter.data.sub_(gradient, alpha=RATE)
        made.after_step(outcome)
        for name, value in made.state_dict().items():
            yield f"{step} state {name}", value.clone()


def fits() -> dict[str, dict[str, Tensor]]:
    """The steps with one stream and with two, in the block of this rank; dropout is on."""
    return {"/".join(streams): dict(tell(objective(streams), streams)) for streams in (STREAMS[:1], STREAMS)}


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Tensor]]:
    return fits()


def test_two_ranks_take_the_steps_of_one_process_with_the_joint_batch(
    alone: dict[str, dict[str, Tensor]], in_ranks: Callable[..., Any]
) -> None:
    ranks = in_ranks(fits, 2)
    for streams, expected in alone.items():
        for name, value in expected.items():
            parts = [found[streams][name] for found in ranks]
            joint = torch.cat(parts) if " rows " in name else parts[0]
            torch.testing.assert_close(
                joint, value, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
            )
            if " rows " not in name:
                assert torch.equal(parts[0], parts[1]), name


def test_the_steps_move_everything_that_is_compared(alone: dict[str, dict[str, Tensor]]) -> None:
    for steps in alone.values():
        still = {name for name, value in steps.items() if name[0] == "2" and torch.equal(value, steps["0" + name[1:]])}
        assert {name for name in still if "accuracy" not in name and not name.endswith("adjacency")} == set()


@torch.no_grad()
def test_the_term_is_the_mean_of_the_infonce_of_each_query() -> None:
    made = objective()
    made.eval()  # so that the embeddings can be computed once more
    outcome = run(made, 0)
    views = batch().views
    query = made.projectors["joint"](made.encoder(views["query"]).feature)
    key = made.key_projectors["joint"](made.key_encoders["joint"](views["key"]).feature)
    expected, nearest = 0.0, 0
    for q, k in zip(query, key, strict=True):
        scores = [float(q @ k), *(float(q @ negative) for negative in made.queues["joint"].keys)]
        expected -= math.log(math.exp(scores[0] / 0.2) / sum(math.exp(score / 0.2) for score in scores)) / N
        nearest += scores[0] > max(scores[1:])
    assert outcome.terms.keys() == set(TINY.terms)
    assert float(outcome.terms["contrast"]) == pytest.approx(expected, abs=1e-12)
    assert float(outcome.metrics["accuracy/contrast"]) == nearest / N
    assert torch.equal(outcome.kept["keys"], key)
    assert torch.equal(outcome.features, made.encoder(views["query"]).feature)


def test_a_forward_pass_can_be_repeated_and_changes_nothing() -> None:
    made = objective()
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    statistics = KeptStatistics(made)
    outcomes = []
    for _ in range(2):
        statistics.begin()
        outcomes.append(run(made, 0))
    for name, tensor in made.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    first, again = outcomes
    assert torch.equal(loss_of(first), loss_of(again))
    assert torch.equal(first.kept["keys"], again.kept["keys"])


def test_dropout_differs_from_step_to_step_and_between_query_and_key() -> None:
    made, x = objective(key_init="copy"), batch().views["query"]
    views = Views({"query": x, "key": x}, torch.arange(N), torch.arange(N))
    outcomes = [made(views, made.draw(*numbers, N)) for numbers in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    assert len({loss_of(outcome).item() for outcome in outcomes}) == 4
    assert outcomes[0].features.shape == (N, 6)
    for outcome in outcomes:  # copies would agree if the same entries were dropped
        assert not torch.allclose(made.projectors["joint"](outcome.features), outcome.kept["keys"])


@pytest.mark.parametrize("key_init", ["independent", "copy"])
def test_the_twins_start_where_asked_without_gradient(key_init: Literal["independent", "copy"]) -> None:
    made = objective(key_init=key_init)
    for twins in ("encoders", "projectors"):
        online = dict(made.get_submodule(twins).named_parameters())
        for name, parameter in made.get_submodule(f"key_{twins}").named_parameters():
            constant = name.endswith(("bias", "importance"))
            assert torch.equal(parameter, online[name]) == (constant or key_init == "copy"), name
            assert online[name].requires_grad
            assert not parameter.requires_grad


def test_the_gradient_reaches_every_trained_parameter() -> None:
    made = objective(STREAMS)
    loss_of(run(made, 0, STREAMS)).backward()
    for name, parameter in made.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad == (not name.startswith("key_")), name
    assert made.groups()[0].parameters == tuple(n for n, p in made.named_parameters() if p.requires_grad)


def test_twins_move_before_a_step_and_the_queue_after_it() -> None:
    made = objective()
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    made.before_step(progress(0))
    for name, tensor in made.state_dict().items():
        expected = before[name]
        if name.startswith("key_") and tensor.is_floating_point() and "running" not in name:
            expected = 0.9 * expected + 0.1 * before[name.removeprefix("key_")]
        torch.testing.assert_close(tensor, expected, rtol=0, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")
    pushed = []
    for step in range(STEPS):
        outcome = run(made, step)
        made.after_step(outcome)
        pushed += outcome.kept["keys"].unbind()
    queue = before["queues.joint.keys"]
    for number, key in enumerate(pushed):
        queue[number % len(queue)] = key
    assert torch.equal(made.queues["joint"].keys, queue)
    assert made.queues["joint"].position.tolist() == [STEPS * N % len(queue)]


def test_the_queue_is_as_old_as_its_oldest_key() -> None:
    made = objective()
    assert [made.queue_age(step, N) for step in (0, 1, 2, 3, 4, 9)] == [0, 1, 2, 3, 3, 3]


def test_streams_are_named_and_share_nothing() -> None:
    made = objective(STREAMS)
    views = batch(0, STREAMS)
    outcome = made(views, made.draw(0, 0, 0, N))
    assert set(outcome.terms) == {"contrast/joint", "contrast/bone"}
    assert set(outcome.metrics) == {"accuracy/contrast/joint", "accuracy/contrast/bone"}
    assert set(outcome.kept) == {"keys/joint", "keys/bone"}
    for stream in STREAMS:
        single = objective((stream,))
        single.load_state_dict({name: t for name, t in made.state_dict().items() if f".{stream}." in name})
        one = {view: views.views[f"{view}/{stream}"] for view in ("query", "key")}
        found = single.eval()(Views(one, views.label, views.sample_id), single.draw(0, 0, 0, N))
        together = made.eval()(views, made.draw(0, 0, 0, N))
        torch.testing.assert_close(found.terms["contrast"], together.terms[f"contrast/{stream}"], rtol=0, atol=1e-12)


def test_equal_seeds_give_equal_states_and_leave_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first, same, other = (TINY.build(STREAMS, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, same.state_dict()[name])
    for name in ("encoders.joint.layers.0.graph.convolution.weight", "projectors.bone.layers.0.weight"):
        assert not torch.equal(first.state_dict()[name], other.state_dict()[name])
    assert not torch.equal(first.queues["joint"].keys, other.queues["joint"].keys)
    assert not torch.equal(first.queues["joint"].keys, first.queues["bone"].keys)


def test_projectors_start_as_the_released_trainer_has_it() -> None:
    made = TINY.model_copy(update={"encoder": STGCNConfig(width=2, feature=256)}).build(["joint"])
    for projectors in (made.projectors, made.key_projectors):
        for name, values in projectors.state_dict().items():
            assert float(values.std()) == pytest.approx(0.02 if name.endswith("weight") else 0, rel=0.1)
            assert abs(float(values.mean())) < 0.002


class _MeanConfig(EncoderConfig):
    kind: Literal["mean"] = "mean"

    def build(self) -> "_Mean":
        return _Mean()


class _Mean(Encoder):
    """The mean of all frames, turned."""

    width = 4
    family: ClassVar[Family] = "cnn"
    blocks = (("linear",),)

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(FRAME_SIZE, self.width)

    def forward(self, x_NTD: Tensor) -> Encoded:
        return Encoded(self.linear(x_NTD.mean(1)), None)


def test_any_encoder_will_do() -> None:
    made = SkeletonCLRConfig(encoder=_MeanConfig(), feature_dim=5, queue_size=10).build(["motion"]).double()
    assert run(made, 0).features.shape == (N, 4)


def test_bfloat16_products_leave_similarities_and_keys_in_float32() -> None:
    made = objective(encoder=TINY.encoder.model_copy(update={"dropout": 0})).float()
    views = Views({name: view.float() for name, view in batch().views.items()}, torch.arange(N), torch.arange(N))
    expected = made(views, made.draw(0, 0, 0, N))
    with torch.autocast("cpu", torch.bfloat16):
        found = made(views, made.draw(0, 0, 0, N))
    assert {t.dtype for t in (*found.terms.values(), *found.kept.values(), found.features)} == {torch.float32}
    torch.testing.assert_close(found.terms["contrast"], expected.terms["contrast"], rtol=0.05, atol=0)
    loss_of(found).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in made.parameters())
    made.after_step(found)


@pytest.mark.parametrize(
    ("size", "names", "message"),
    [
        (150, ("query",), r"expected also \['key'\]"),
        (149, ("query", "key"), r"of shape \(4, 9, 149\) found, expected \(4, 9, 150\)"),
    ],
)
def test_views_that_do_not_fit_are_refused(size: int, names: tuple[str, ...], message: str) -> None:
    made, rows = objective(), torch.arange(N)
    views = Views({name: torch.zeros(N, T, size) for name in names}, rows, rows)
    with pytest.raises(ConfigError, match=message):
        made(views, made.draw(0, 0, 0, N))


@pytest.mark.parametrize(("batch_size", "message"), [(10, "expected more than"), (4, "expected a multiple of")])
def test_a_queue_that_does_not_fit_the_batch_is_refused(batch_size: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TINY.check(batch_size)
    TINY.check(5)


@pytest.mark.parametrize(
    "options",
    [
        {"feature_dim": 0},
        {"queue_size": 0},
        {"momentum": 1.1},
        {"temperature": 0.0},
        {"key_init": "zero"},
        {"encoder": {"kind": "stgcn", "width": 0}},
        {"epochs": 3},
    ],
)
def test_an_option_that_cannot_work_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        SkeletonCLRConfig(**options)


def test_the_objective_is_found_by_its_kind_and_survives_json() -> None:
    assert OBJECTIVES.find("skeletonclr") is SkeletonCLRConfig
    assert SkeletonCLRConfig.model_validate_json(TINY.model_dump_json()) == TINY
    assert SkeletonCLRConfig().encoder == STGCNConfig()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("encoder_q.A", "encoders.bone.adjacency"),
        ("encoder_q.st_gcn_networks.3.tcn.2.weight", "encoders.bone.layers.3.temporal.weight"),
        ("encoder_k.data_bn.running_var", "key_encoders.bone.input_norm.running_var"),
        ("encoder_q.fc.2.bias", "projectors.bone.layers.2.bias"),
        ("encoder_k.fc.0.weight", "key_projectors.bone.layers.0.weight"),
        ("queue_ptr", "queues.bone.position"),
    ],
)
def test_reference_names_are_translated(name: str, expected: str) -> None:
    assert from_reference_name(name, "bone") == expected
    assert expected in objective(("bone",)).state_dict()


def test_a_reference_queue_has_a_key_in_each_column() -> None:
    queue, pointer = torch.arange(6.0).view(2, 3), torch.tensor([1])
    state = from_reference_state({"queue": queue, "queue_ptr": pointer})
    assert torch.equal(state["queues.joint.keys"], queue.T)
    assert state["queues.joint.position"] is pointer


@pytest.mark.parametrize("name", ["encoder_q_motion.A", "queue_motion", "encoder_q.fc2.weight"])
def test_an_unknown_reference_name_is_refused_by_name(name: str) -> None:
    with pytest.raises(CheckpointError, match=name.removeprefix("encoder_q.")):
        from_reference_name(name)
