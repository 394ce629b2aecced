"""What every method keeps to, with its default encoder at tiny size; a method is covered by being registered."""

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from flows.build import build_objective
from flows.config import DataConfig, PretrainConfig, change_values, validate_tree
from flows.evaluate import evaluate
from flows.exchange.export import export
from flows.options import EvaluateOptions, PretrainOptions
from flows.pretrain import pretrain
from flows.recipes import recipe
from flows.recipes.method import METHODS
from models.collectives import gather_rows, rank, world_size
from models.encoders.encoder import Encoder
from models.evaluation.features import layer_names
from models.exchange.export import load_encoder
from models.norm import KeptStatistics
from models.objectives.objective import Objective
from models.training.checkpoint import latest_checkpoint, load_checkpoint
from models.training.engine import train
from pipelines.conversion.convert import convert
from pipelines.synthetic import synthesize
from pipelines.views import make_views
from shards.batch import RaggedBatch, Views
from shards.skeleton import FRAME_SIZE, NUM_COORDINATES, NUM_JOINTS, NUM_PERSONS
from tests.models.conftest import InRanks

STEPS = 3
CHOSEN = "SKELSTREAM_TEST_METHODS"
"""Environment variable: names of methods, with spaces between them."""

# of a batch that is dealt to ranks, in float64
CLOSE = {"atol": 1e-9, "rtol": 1e-7}


def tiny(method: str, *changes: tuple[str, Any]) -> PretrainConfig:
    """The tiny variant of a method, on made-up data."""
    config = recipe(f"{method}+tiny", DataConfig(dataset="ntu60", protocol="xview"))
    config = change_values(config, {"train.epochs": 2, "train.checkpoint_steps": 1, **dict(changes)})
    return validate_tree(PretrainConfig, config.model_dump(mode="json"), method)


@cache
def sequences(count: int) -> RaggedBatch:
    """Moving bodies, each of its own length; every third has no second person."""
    generator = torch.Generator().manual_seed(0)
    length = torch.randint(20, 60, (count,), generator=generator)
    shape = (NUM_PERSONS, NUM_JOINTS, NUM_COORDINATES)
    clips = []
    for number in range(count):
        pose = torch.randn(1, *shape, generator=generator)
        sway = torch.randn(1, *shape, generator=generator) * 0.3
        clip = pose + sway * torch.sin(torch.arange(int(length[number])) * 0.2 + number)[:, None, None, None]
        clip[:, 1] *= number % 3 != 0
        clips.append(clip)
    ids = torch.arange(count)
    return RaggedBatch(torch.cat(clips), length.cumsum(0) - length, length, ids % 4, ids)


class Made:
    """The views of made-up sequences, this rank's rows of each batch; may fail once, at a step."""

    def __init__(self, config: PretrainConfig, fails_at: tuple[int, int] | None = None) -> None:
        self.config, self.fails_at = config, fails_at

    def __len__(self) -> int:
        return STEPS

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Views]:
        for step in range(first_step, STEPS):
            if (epoch, step) == self.fails_at:
                raise KeyboardInterrupt
            yield self.step(epoch, step)

    def step(self, epoch: int, step: int) -> Views:
        batch, config = sequences(self.config.train.batch_size), self.config
        views = make_views(
            batch, config.views.spec(config.data.streams), seed=config.train.seed, epoch=epoch, step=step
        )
        count = len(batch) // world_size()
        return rows(views, slice(rank() * count, (rank() + 1) * count))

    def split(self) -> Iterator[Views]:
        yield replace(self.step(0, 0), masks={})


def rows(views: Views, chosen: slice) -> Views:
    """Those samples of a batch, in double precision."""

    def of(tensor: Tensor | None) -> Tensor | None:
        if tensor is None or len(tensor) != len(views):
            return tensor
        return tensor[chosen].double() if tensor.is_floating_point() else tensor[chosen]

    def each(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: cast(Tensor, of(tensor)) for name, tensor in tensors.items()}

    return Views(
        each(views.views),
        cast(Tensor, of(views.label)),
        cast(Tensor, of(views.sample_id)),
        each(views.masks),
        of(views.mix_partner),
        of(views.mix_weight),
        each(views.targets),
    )


def fit(config: PretrainConfig, run: Path, **arguments: Any) -> dict[str, Tensor]:
    """Train an objective in double precision; all that the last checkpoint holds."""
    made = Made(config, arguments.pop("fails_at", None))
    objective = build_objective(config).double()
    meta = {"fingerprint": "made", "config": config.model_dump(mode="json")}
    train(objective, made, config.train, run, meta=meta, split=made.split, **arguments)
    path = latest_checkpoint(run)
    assert path is not None
    checkpoint = load_checkpoint(path)
    assert checkpoint.epoch == config.train.total_epochs
    return {**checkpoint.objective, **checkpoint.optimizer, "losses": checkpoint.losses}


def state_of(objective: Objective) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in objective.state_dict().items()}


def train_all() -> dict[str, dict[str, Tensor]]:
    """The `CHOSEN` methods for two epochs and their stages, as these ranks do; for `in_ranks`."""
    import tempfile

    import torch.distributed as dist

    found = {}
    for method in os.environ[CHOSEN].split():
        folder = [tempfile.mkdtemp() if rank() == 0 else ""]
        if world_size() > 1:
            # a path as numbers: nothing is pickled
            text = torch.zeros(256, dtype=torch.uint8)
            data = folder[0].encode()
            text[: len(data)] = torch.tensor(list(data), dtype=torch.uint8)
            dist.broadcast(text, 0)
            folder = [bytes(text.tolist()).rstrip(b"\0").decode()]
        found[method] = fit(tiny(method), Path(folder[0]) / "run")
    assert gather_rows(torch.ones(1)).sum() == world_size()
    return found


@pytest.fixture(scope="module")
def by_ranks(in_ranks: InRanks, request: pytest.FixtureRequest) -> dict[int, list[dict[str, dict[str, Tensor]]]]:
    """What one rank and what two ranks made of every method that is tested: of one's own alone by `-k`."""
    tests = [item for item in request.session.items if "by_ranks" in getattr(item, "fixturenames", ())]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CHOSEN, " ".join(item.callspec.params["method"] for item in tests))  # type: ignore[attr-defined]
        return {world: in_ranks(train_all, world) for world in (1, 2)}


@pytest.mark.parametrize("method", METHODS)
def test_two_ranks_make_what_one_makes(by_ranks: dict[int, list[dict[str, dict[str, Tensor]]]], method: str) -> None:
    (alone,), (first, second) = by_ranks[1], by_ranks[2]
    assert first[method].keys() == second[method].keys() == alone[method].keys()
    for name, tensor in alone[method].items():
        torch.testing.assert_close(first[method][name], tensor, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")
        assert torch.equal(first[method][name], second[method][name]), name


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fails_at", [(0, 2), (1, 1)])
def test_a_run_that_dies_goes_on_to_what_an_undisturbed_one_makes(
    tmp_path: Path, method: str, fails_at: tuple[int, int]
) -> None:
    config = tiny(method)
    whole = fit(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(config, tmp_path / "run", fails_at=fails_at)
    again = fit(config, tmp_path / "run", resume=True)
    assert whole.keys() == again.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, again[name]), name


@pytest.mark.parametrize("method", METHODS)
def test_a_step_repeated_before_its_hooks_is_the_same_step(method: str) -> None:
    config = tiny(method)
    objective = build_objective(config).double().train()
    objective.before_step(config.train.progress(0, 0, STEPS))
    before, views, statistics = state_of(objective), Made(config).step(0, 0), KeptStatistics(objective)
    losses = []
    for _ in range(2):
        statistics.begin()
        outcome = objective(views, objective.draw(0, 0, 0, len(views)))
        losses.append(torch.stack(list(outcome.terms.values())))
        assert {name for name in before if not torch.equal(before[name], objective.state_dict()[name])} == set()
    assert torch.equal(*losses)


@pytest.mark.parametrize("method", METHODS)
def test_in_evaluation_mode_a_step_changes_nothing(method: str) -> None:
    config = tiny(method)
    objective = build_objective(config).double().eval()
    before, views = state_of(objective), Made(config).step(0, 0)
    outcome = objective(views, objective.draw(0, 0, 0, len(views)))
    assert set(outcome.terms) <= set(config.objective.terms)
    after = objective.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


@pytest.mark.parametrize("method", METHODS)
def test_every_parameter_gets_a_gradient_or_has_a_reason(method: str) -> None:
    config = tiny(method)
    objective = build_objective(config).double()
    views = Made(config).step(0, 0)
    outcome = objective.train()(views, objective.draw(0, 0, 0, len(views)))
    torch.stack(list(outcome.terms.values())).sum().backward()
    trained = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    without = {name for name, p in trained.items() if p.grad is None}
    excused = {name for name in trained if name.startswith(tuple(objective.unreached))}
    assert without == excused
    assert all(objective.unreached.values())
    grouped = [name for group in objective.groups() for name in group.parameters]
    assert sorted(grouped) == sorted(trained), "each parameter in one group"


class NoReading(TorchDispatchMode):
    """Fails where the host reads a value of a tensor: on a GPU it would wait there for all work."""

    READING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "is_nonzero")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masked = name in ("index", "index_put", "index_put_") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool for index in (args[1] or ())
        )
        assert not masked, f"{name} by a mask reads it"
        assert name not in self.READING, f"{name} reads a value"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", METHODS)
def test_a_step_reads_no_value_on_the_host(method: str) -> None:
    config = tiny(method)
    objective = build_objective(config).double().train()
    views, statistics = Made(config).step(0, 0), KeptStatistics(objective)
    with NoReading():
        objective.before_step(config.train.progress(0, 0, STEPS))
        draws = objective.draw(0, 0, 0, len(views))
        statistics.begin()
        outcome = objective(views, draws)
        torch.stack(list(outcome.terms.values())).sum().backward()
        statistics.end()
        objective.after_step(outcome)


@pytest.mark.parametrize("method", METHODS)
def test_an_encoder_says_truly_what_it_gives(method: str) -> None:
    config = tiny(method)
    for encoder in (cast(Encoder, each).eval() for each in build_objective(config).encoders.values()):
        x = torch.randn(2, config.views.frames, FRAME_SIZE, generator=torch.Generator().manual_seed(1))
        feature, frames = encoder(x)
        assert feature.shape == (2, encoder.width)
        if encoder.stride is None:
            assert frames is None
        else:
            assert frames is not None
            assert frames.shape == (2, -(-config.views.frames // encoder.stride), encoder.width)
        for name in encoder.layer_names:
            assert encoder.layer(x, name).shape[0] == 2
        assert {"last", *encoder.layer_names} <= set(layer_names(encoder))
        numbers = {encoder.block_of(name) for name, _ in encoder.named_parameters()}
        assert numbers == set(range(len(encoder.blocks))), "every block has parameters, every parameter a block"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 48 recordings of 4 classes."""
    folder = tmp_path_factory.mktemp("store")
    raw = synthesize("ntu", folder / "raw", subjects=4, classes=4, samples=48, seed=0, zipped=False)
    return convert("ntu", [raw], folder / "data", workers=0).folder


@pytest.mark.parametrize("method", METHODS)
def test_a_checkpoint_is_scored_exported_and_loaded_again(store: Path, tmp_path: Path, method: str) -> None:
    run = tmp_path / "run"
    pretrain(
        PretrainOptions(
            method=f"{method}+tiny", data=str(store), dataset="ntu60", protocol="xview", run=run, device="cpu"
        )
    )
    results = evaluate(
        EvaluateOptions(run=run, tasks=("linear", "retrieval"), overrides=("linear.epochs=2",), device="cpu")
    )
    scored = {(result.task, result.subject) for result in results}
    assert {("linear", "trained"), ("retrieval", "trained"), ("retrieval", "random encoder")} <= scored
    assert all(0 <= result.scores["accuracy"] <= 1 for result in results)
    encoder = load_encoder(export(run, None, tmp_path / "export"))
    config = tiny(method)
    x = torch.randn(3, config.views.frames, FRAME_SIZE, generator=torch.Generator().manual_seed(2))
    path = latest_checkpoint(run)
    assert path is not None
    state = load_checkpoint(path).objective
    again = config.objective.encoder.build().eval()
    again.load_state_dict(
        {name.removeprefix("encoders.joint."): value for name, value in state.items() if name.startswith("encoders.")}
    )
    with torch.inference_mode():
        feature, frames = encoder(x)
        assert torch.equal(feature, again(x).feature)
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(tmp_path / "export" / "encoder.onnx")
        names = [output.name for output in session.get_outputs()]
        found = dict(zip(names, session.run(names, {"x": x.numpy()}), strict=True))
    assert names == (["feature"] if frames is None else ["feature", "frames"])
    torch.testing.assert_close(torch.from_numpy(found["feature"]), feature, atol=1e-4, rtol=1e-4)
