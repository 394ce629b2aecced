"""Runs that start from the encoder of another run, some of its blocks frozen."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from flows.build import build_objective, start_from
from flows.config import InitConfig, read_config
from flows.distill import options_of
from flows.options import PretrainOptions
from flows.pretrain import find_finished_run, pretrain, resolve
from models.training.checkpoint import encoder_state, load_checkpoint
from shards.errors import CheckpointError, ConfigError
from shards.files import sha256_file
from shards.skeleton import Stream

Make = Callable[..., PretrainOptions]

# of the input norm: they follow the views also where nothing is learnt
STATISTICS = {f"input_norm.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
LAST = Path("checkpoints", "epoch_0002.pt")


def encoder(run: Path, stream: Stream = "joint") -> dict[str, Tensor]:
    return encoder_state(load_checkpoint(run / LAST), stream)


@pytest.fixture(scope="module")
def begun(run: Path, options: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that started from `run`, with its first block frozen; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    pretrain(options(folder, "train.seed=5", init_from=run, freeze=1))
    return folder


def test_a_run_records_from_which_checkpoint_it_started(run: Path, begun: Path, options: Make) -> None:
    init = InitConfig(run=str(run), sha256=sha256_file(run / LAST), freeze=1)
    assert read_config(begun / "config.json").init == init
    assert find_finished_run(options(begun, "train.seed=5", init_from=run, freeze=1)) is not None


def test_a_run_starts_at_the_other_ones_encoder_and_its_own_seed_for_all_else(
    run: Path, options: Make, tmp_path: Path
) -> None:
    config = resolve(options(tmp_path / "run", "train.seed=5", init_from=run))
    plain = resolve(options(tmp_path / "run", "train.seed=5"))
    objective, random = build_objective(config), build_objective(plain)
    start_from(objective, config)
    state, before, theirs = objective.state_dict(), random.state_dict(), encoder(run)
    assert state.keys() == before.keys()
    for name, tensor in state.items():
        expected = theirs[name.removeprefix("encoders.joint.")] if name.startswith("encoders.") else before[name]
        assert torch.equal(tensor, expected), name
    start_from(random, plain)  # that of no other run: nothing changes
    assert all(torch.equal(tensor, before[name]) for name, tensor in random.state_dict().items())


def test_frozen_parameters_stay_to_the_bit_and_the_others_learn(run: Path, begun: Path) -> None:
    before, after = encoder(run), encoder(begun)
    learnable = [name for name in before if name not in STATISTICS]
    frozen = [name for name in learnable if name.startswith(("input_norm.", "layers.0."))]
    assert 0 < len(frozen) < len(learnable)
    for name in learnable:
        assert torch.equal(before[name], after[name]) == (name in frozen), name
    trained = {name.rpartition("/")[0] for name in load_checkpoint(begun / LAST).optimizer}
    assert not trained & {f"encoders.joint.{name}" for name in frozen}
    assert {f"encoders.joint.{name}" for name in learnable if name not in frozen} <= trained


def test_with_all_blocks_frozen_the_encoder_is_still_the_other_ones(run: Path, options: Make, tmp_path: Path) -> None:
    pretrain(options(tmp_path / "run", init_from=run, freeze=2))
    before, after = encoder(run), encoder(tmp_path / "run")
    assert all(torch.equal(before[name], after[name]) for name in before if name not in STATISTICS)


def test_a_run_goes_on_after_the_other_run_is_gone_to_the_bytes_of_an_undisturbed_one(
    run: Path, options: Make, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    ours = options(tmp_path / "run", init_from=other, freeze=1)
    whole = (pretrain(ours).checkpoint).read_bytes()
    (ours.run / LAST).unlink()
    shutil.rmtree(other)
    resumed = pretrain(ours.model_copy(update={"resume": True}))
    assert resumed.checkpoint.read_bytes() == whole
    assert find_finished_run(ours) is not None
    with pytest.raises(CheckpointError, match=f"^--init-from {other}: found no checkpoint, expected a run that has"):
        pretrain(options(tmp_path / "new", init_from=other))
    assert not (tmp_path / "new").exists()


def test_a_checkpoint_other_than_the_one_a_run_started_from_is_refused(
    run: Path, options: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    ours = options(tmp_path / "run", init_from=other)

    def fail(*arguments: object, **named: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("flows.pretrain.train", fail)  # the folder has its configuration, and nothing was trained
        with pytest.raises(MemoryError):
            pretrain(ours)
    (other / LAST).unlink()
    sha256 = sha256_file(run / LAST)
    with pytest.raises(CheckpointError, match=rf"^{other}: found epoch_0001\.pt, expected the one of SHA-256 {sha256}"):
        pretrain(ours)
    shutil.rmtree(other)
    with pytest.raises(CheckpointError, match=f"^{other}: found no checkpoint, expected the one of SHA-256 {sha256}"):
        pretrain(ours)
    assert not (ours.run / "checkpoints").exists()
    shutil.copytree(run, other)
    assert pretrain(ours).epochs == 2


def test_another_start_or_number_of_frozen_blocks_is_another_configuration(
    run: Path, begun: Path, options: Make, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    for fields, message in (
        ({"init_from": run, "freeze": 0}, r"init\.freeze is 1 there and 0 here"),
        ({"init_from": copy, "freeze": 1}, r"init\.run is '.*' there and '.*copy' here"),
        ({}, "init.* is .* there and None here"),
    ):
        with pytest.raises(ConfigError, match=message):
            pretrain(options(begun, "train.seed=5", resume=True, **fields))


@pytest.mark.parametrize(
    ("overrides", "fields", "error", "message"),
    [
        ((), {"freeze": 1}, ConfigError, "^--freeze 1: found no --init-from, expected a run whose blocks are frozen$"),
        ((), {"init_from": "run", "freeze": 3}, ConfigError, "found 3 blocks to freeze, expected 0 to 2"),
        (
            ("objective.encoder.hidden=4",),
            {"init_from": "run"},
            CheckpointError,
            r"epoch_0002\.pt, encoder of joint: found layers",
        ),
        (
            (),
            {"init_from": "run", "method": "skeletonclr+tiny"},
            CheckpointError,
            r"\.pt, encoder of joint: found missing",
        ),
        ((), {"init_from": "nowhere"}, CheckpointError, "^--init-from .*nowhere: found no checkpoint"),
        (('init={"run": "run", "sha256": "0"}',), {}, ConfigError, "have options of their own"),
    ],
)
def test_a_start_that_cannot_be_made_is_refused_and_leaves_no_folder(
    run: Path,
    options: Make,
    tmp_path: Path,
    overrides: tuple[str, ...],
    fields: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    named = {
        name: {"run": run, "nowhere": tmp_path / "nowhere"}.get(str(value), value) for name, value in fields.items()
    }
    with pytest.raises(error, match=message) as caught:
        pretrain(options(tmp_path / "run", *overrides, **named))
    assert not (tmp_path / "run").exists()
    assert "\n" not in str(caught.value)


def test_a_run_of_several_streams_takes_the_encoder_of_each_and_gives_one_of_them(
    options: Make, tmp_path: Path
) -> None:
    method, short = "skeletonclr+tiny", "train.epochs=1"
    first = Path("checkpoints", "epoch_0001.pt")
    pretrain(options(tmp_path / "both", short, method=method, streams=("joint", "bone")))
    both = load_checkpoint(tmp_path / "both" / first)
    streams: tuple[Stream, ...]
    for streams in (("bone",), ("bone", "joint")):
        run = tmp_path / "+".join(streams)
        asked = options(run, short, method=method, streams=streams, init_from=tmp_path / "both", freeze=10)
        pretrain(asked)
        after = load_checkpoint(run / first)
        for stream in streams:
            theirs, ours = encoder_state(both, stream), encoder_state(after, stream)
            weights = [name for name, _ in build_objective(resolve(asked)).encoders[stream].named_parameters()]
            assert weights
            assert all(torch.equal(theirs[name], ours[name]) for name in weights)


def test_the_only_encoder_of_a_run_starts_one_of_another_stream(run: Path, options: Make, tmp_path: Path) -> None:
    config = resolve(options(tmp_path / "run", streams=("motion",), init_from=run))
    objective = build_objective(config)
    start_from(objective, config)
    theirs = encoder(run)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in objective.encoder.state_dict().items())


def test_the_options_of_a_run_that_started_from_another_come_back_from_its_folder(begun: Path, run: Path) -> None:
    found = options_of(begun)
    assert (found.init_from, found.freeze) == (run, 1)
    assert resolve(found) == read_config(begun / "config.json")
    assert json.loads((begun / "config.json").read_text())["init"]["run"] == str(run)
