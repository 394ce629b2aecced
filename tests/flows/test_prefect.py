"""The flows through Prefect, on a server of their own: they return what the plain functions return."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from prefect import Flow
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ParameterTypeError
from prefect.flows import load_flow_from_entrypoint
from prefect.testing.utilities import prefect_test_harness

from flows import demo
from flows.evaluate import EvaluateOptions, evaluate, evaluate_flow, finished
from flows.preprocess import PreprocessOptions, preprocess_flow
from flows.pretrain import PretrainOptions, pretrain_flow
from models.training.runlog import read_log
from pipelines.synthetic import synthesize
from shards.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = {entry["name"]: entry for entry in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}


@pytest.fixture(scope="module", autouse=True)
def _server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_preprocess_makes_the_same_bytes(
    raw: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = PreprocessOptions(source="ntu", raw=(raw,), out=tmp_path, workers=0)
    assert preprocess_flow(options, progress=False) == str(tmp_path / store.name)
    assert tree(tmp_path / store.name) == tree(store)
    assert preprocess_flow(options, progress=False) == str(tmp_path / store.name)
    assert "nothing to do" in capsys.readouterr().out


def test_pretrain_makes_the_same_checkpoint(run: Path, options: Callable[..., PretrainOptions], tmp_path: Path) -> None:
    expected = Path("checkpoints", "epoch_0002.pt")
    assert pretrain_flow(options(tmp_path / "run"), progress=False) == str(tmp_path / "run" / expected)
    assert (tmp_path / "run" / expected).read_bytes() == (run / expected).read_bytes()
    assert pretrain_flow(options(tmp_path / "run"), progress=False) == str(tmp_path / "run" / expected)


def test_pretrain_starts_ranks_and_finds_their_run(options: Callable[..., PretrainOptions], tmp_path: Path) -> None:
    ours = options(tmp_path / "run", "train.epochs=1", gpus=2)
    assert pretrain_flow(ours, progress=False) == str(tmp_path / "run" / "checkpoints" / "epoch_0001.pt")
    assert len(read_log(tmp_path / "run")) == 1


def test_evaluate_gives_the_same_scores(run: Path, tmp_path: Path) -> None:
    wanted: dict[str, Any] = {"tasks": ("retrieval",), "device": "cpu"}
    for name in ("plain", "flow"):
        shutil.copytree(run, tmp_path / name)
    plain = evaluate(EvaluateOptions(run=tmp_path / "plain", **wanted))
    assert evaluate_flow(EvaluateOptions(run=tmp_path / "flow", **wanted), progress=False) == str(
        tmp_path / "flow" / "results"
    )
    stored = finished(EvaluateOptions(run=tmp_path / "flow", **wanted))
    assert stored is not None
    assert [result.scores for result in stored] == [result.scores for result in plain]


def test_the_demo_goes_the_whole_path_and_reuses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def archives(raw: Path) -> Path:
        if not raw.exists():
            synthesize("ntu", raw, subjects=4, classes=4, samples=48, seed=0, zipped=True)
        return raw

    monkeypatch.setattr(demo, "archives", archives)
    monkeypatch.setattr(
        demo,
        "OVERRIDES",
        (
            "objective.encoder.hidden=8",
            "objective.queue_size=32",
            "train.batch_size=16",
            "train.epochs=1",
            "train.post.epochs=0",
            "views.frames=16",
            "views.mask_segments=8",
            "views.clip_frames=4",
        ),
    )
    page = tmp_path / "demo" / "report.html"
    assert demo.demo_flow(str(tmp_path / "demo")) == str(page)
    first = capsys.readouterr()
    assert first.out.endswith(f"report: {page}\n")
    assert "coordinates" in first.out
    assert "Warning" not in first.err
    assert "from scratch" not in first.err
    before = page.read_bytes()
    demo.demo_flow(str(tmp_path / "demo"))
    assert "nothing to do" in capsys.readouterr().out
    assert page.read_bytes() == before


def test_a_users_error_comes_out_of_a_flow_as_it_is(options: Callable[..., PretrainOptions], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'train\.epoch'"):
        pretrain_flow(options(tmp_path / "run", "train.epoch=1"), progress=False)


def load(name: str) -> Flow[..., Any]:
    return load_flow_from_entrypoint(DEPLOYMENTS[name]["entrypoint"])


def test_there_is_a_deployment_of_every_flow() -> None:
    assert set(DEPLOYMENTS) == {"preprocess", "pretrain", "evaluate", "demo"}
    assert {name: load(name).name for name in DEPLOYMENTS} == {name: name for name in DEPLOYMENTS}


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_deployments_parameters_are_those_of_its_flow(name: str) -> None:
    parameters = DEPLOYMENTS[name]["parameters"]
    valid = load(name).validate_parameters(parameters)
    assert valid.keys() >= parameters.keys()
    if "options" in parameters:
        assert valid["options"].model_fields_set == set(parameters["options"])
        with pytest.raises(ParameterTypeError, match="nonsense"):
            load(name).validate_parameters({**parameters, "options": {**parameters["options"], "nonsense": 1}})


def test_the_deployed_evaluation_scores_the_deployed_pre_training() -> None:
    pretrain, evaluate = (DEPLOYMENTS[name]["parameters"]["options"] for name in ("pretrain", "evaluate"))
    assert evaluate["run"] == pretrain["run"]
    assert pretrain["resume"] is True
    assert PretrainOptions.model_validate(pretrain).resolve().train.epochs == 451
    assert EvaluateOptions.model_validate({**evaluate, "tasks": tuple(evaluate["tasks"])}).resolve().baselines


@pytest.mark.parametrize("name", ["pretrain", "evaluate"])
def test_pre_training_and_evaluation_are_scheduled(name: str) -> None:
    (schedule,) = DEPLOYMENTS[name]["schedules"]
    assert CronSchedule.model_validate(schedule).cron == schedule["cron"]
