"""The flows through Prefect, on a server of their own: they return what the plain functions return, and show it."""

import base64
import errno
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from prefect import Flow, State, flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import Artifact, FlowRun
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ParameterTypeError
from prefect.flows import load_flow_from_entrypoint
from prefect.testing.utilities import prefect_test_harness

from flows import demo
from flows.deployments.demo import demo_flow
from flows.deployments.evaluate import evaluate_flow
from flows.deployments.preprocess import preprocess_flow
from flows.deployments.pretrain import pretrain_flow
from flows.evaluate import evaluate, find_finished_scores
from flows.evaluate import resolve as resolve_scores
from flows.options import EvaluateOptions, PreprocessOptions, PretrainOptions
from flows.pretrain import resolve
from flows.service import tracking
from flows.service.recovery import MAX_RUNS, GivenUpError, begin
from flows.service.serve import FLOWS
from models.training.runlog import read_log
from pipelines.synthetic import synthesize
from shards.errors import ConfigError, StoreError
from tests.flows.serving import PATIENCE, artifacts

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = {entry["name"]: entry for entry in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}


@pytest.fixture(scope="module", autouse=True)
def _server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=round(PATIENCE)):
        yield


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shown(state: State[Any]) -> tuple[FlowRun, dict[str, Artifact]]:
    """The flow run of a state, and its artefacts."""
    with get_client(sync_client=True) as api:
        run = api.read_flow_run(state.state_details.flow_run_id)
        return run, artifacts(api, run.id)


def test_preprocess_makes_the_same_bytes(
    raw: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = PreprocessOptions(source="ntu", raw=(raw,), out=tmp_path, workers=0)
    state = preprocess_flow(options, progress=False, return_state=True)
    assert state.result() == str(tmp_path / store.name)
    assert tree(tmp_path / store.name) == tree(store)
    run, seen = shown(state)
    assert (run.name, {"source:ntu", "recipe:pcm3"} <= set(run.tags)) == ("ntu pcm3", True)
    assert seen["store-ntu-pcm3-progress"].data == 100
    assert sum(row["samples"] for row in json.loads(str(seen["store-ntu-pcm3-cells"].data))) == 48
    assert (tmp_path / store.name).as_uri() in str(seen["store-ntu-pcm3-folder"].data)
    assert "wrote" in str(seen["store-ntu-pcm3-provenance"].data)
    again = preprocess_flow(options, progress=False, return_state=True)
    assert again.result() == str(tmp_path / store.name)
    assert "not written again" in str(shown(again)[1]["store-ntu-pcm3-provenance"].data)
    assert "nothing to do" in capsys.readouterr().out


def test_pretrain_makes_the_same_checkpoint(run: Path, options: Callable[..., PretrainOptions], tmp_path: Path) -> None:
    expected = Path("checkpoints", "epoch_0002.pt")
    state = pretrain_flow(options(tmp_path / "run"), progress=False, return_state=True)
    assert state.result() == str(tmp_path / "run" / expected)
    assert (tmp_path / "run" / expected).read_bytes() == (run / expected).read_bytes()
    flow_run, seen = shown(state)
    assert flow_run.name == "pcm3pp+tiny+no-post ntu60 xview joint seed 0"
    assert {"method:pcm3pp+tiny+no-post", "dataset:ntu60", "protocol:xview", "stream:joint", "run:run"} <= set(
        flow_run.tags
    )
    assert seen["run-progress"].data == 100
    assert [row["epoch"] for row in json.loads(str(seen["run-epochs"].data))] == [1, 2]
    assert (tmp_path / "run").as_uri() in str(seen["run-folder"].data)
    kind, _, data = str(seen["run-curve"].data).partition(",")
    assert kind == "data:image/svg+xml;base64"
    (line,) = ElementTree.fromstring(base64.b64decode(data)).iter("{http://www.w3.org/2000/svg}polyline")
    assert len(line.attrib["points"].split()) == 2
    assert "trained from the beginning" in str(seen["run-provenance"].data)
    again = pretrain_flow(options(tmp_path / "run"), progress=False, return_state=True)
    assert again.result() == str(tmp_path / "run" / expected)
    assert "found 2 of 2 epochs trained" in str(shown(again)[1]["run-provenance"].data)


def test_pretrain_starts_ranks_and_finds_their_run(options: Callable[..., PretrainOptions], tmp_path: Path) -> None:
    ours = options(tmp_path / "run", "train.epochs=1", gpus=2)
    assert pretrain_flow(ours, progress=False) == str(tmp_path / "run" / "checkpoints" / "epoch_0001.pt")
    assert len(read_log(tmp_path / "run")) == 1


def test_evaluate_gives_the_same_scores(run: Path, tmp_path: Path) -> None:
    wanted: dict[str, Any] = {"tasks": ("retrieval",), "device": "cpu"}
    for name in ("plain", "flow"):
        shutil.copytree(run, tmp_path / name)
    plain = evaluate(EvaluateOptions(run=tmp_path / "plain", **wanted))
    state = evaluate_flow(EvaluateOptions(run=tmp_path / "flow", **wanted), progress=False, return_state=True)
    assert state.result() == str(tmp_path / "flow" / "results")
    stored = find_finished_scores(EvaluateOptions(run=tmp_path / "flow", **wanted))
    assert stored is not None
    assert [result.scores for result in stored] == [result.scores for result in plain]
    flow_run, seen = shown(state)
    assert flow_run.name == "retrieval: pcm3pp+tiny+no-post ntu60 xview joint seed 0"
    assert {"method:pcm3pp+tiny+no-post", "dataset:ntu60", "run:flow"} <= set(flow_run.tags)
    assert seen["flow-scores-progress"].data == 100
    (row,) = json.loads(str(seen["flow-scores"].data))
    assert row["trained"] == f"{100 * plain[0].scores['accuracy']:.1f} %"
    assert "all rows scored anew" in str(seen["flow-scores-provenance"].data)
    again = evaluate_flow(EvaluateOptions(run=tmp_path / "flow", **wanted), progress=False, return_state=True)
    assert f"found {len(plain)} rows scored" in str(shown(again)[1]["flow-scores-provenance"].data)


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
            "train.stages.post.epochs=0",
            "views.frames=16",
            "views.mask_segments=8",
            "views.clip_frames=4",
        ),
    )
    page = tmp_path / "demo" / "report.html"
    assert demo_flow(str(tmp_path / "demo")) == str(page)
    first = capsys.readouterr()
    assert first.out.endswith(f"report: {page}\n")
    assert "coordinates" in first.out
    assert "Warning" not in first.err
    assert "from scratch" not in first.err
    before = page.read_bytes()
    demo_flow(str(tmp_path / "demo"))
    assert "nothing to do" in capsys.readouterr().out
    assert page.read_bytes() == before


def test_a_users_error_comes_out_of_a_flow_as_it_is(options: Callable[..., PretrainOptions], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'train\.epoch'"):
        pretrain_flow(options(tmp_path / "run", "train.epoch=1"), progress=False)


def wrapped(error: Exception, inner: Exception) -> Exception:
    error.__cause__ = inner
    return error


class Answer(Exception):  # noqa: N818 - as aiohttp has one
    def __init__(self, status: int) -> None:
        self.status = status


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (OSError(errno.EHOSTUNREACH, "no route"), True),
        (wrapped(StoreError("found no answer"), TimeoutError()), True),
        (wrapped(OSError("found no way to read it"), Answer(503)), True),
        (Answer(429), True),
        (Answer(404), False),
        (wrapped(ConfigError("found no such option"), TimeoutError()), False),
        (OSError(errno.ENOSPC, "no space"), False),
        (FileNotFoundError(), False),
        (StoreError("found other content"), False),
        (AssertionError("a bug"), False),
    ],
)
def test_only_what_may_pass_is_tried_again(error: Exception, passes: bool) -> None:
    assert tracking.may_pass(error) is passes


def test_an_attempt_is_repeated_while_its_error_may_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "FIRST_DELAY", 0.01)
    errors: list[Exception] = [ConnectionResetError(), TimeoutError(), ConfigError("found that, expected this")]

    def work(number: int) -> int:
        if errors:
            raise errors.pop(0)
        return number

    @flow
    def ours() -> int:
        return tracking.attempt("work", work)(3)

    with pytest.raises(ConfigError, match="found that"):
        ours()
    assert not errors
    errors += [ConnectionResetError()] * tracking.RETRIES
    assert ours() == 3
    errors += [ConnectionResetError()] * (tracking.RETRIES + 1)
    with pytest.raises(ConnectionResetError):
        ours()
    assert not errors


def test_outside_of_a_flow_nothing_is_shown_and_everything_works() -> None:
    tracking.name_run("ours", run="1")
    tracking.table("key", [{"a": 1}], "rows")
    tracking.link("key", Path("there"), "folder")
    tracking.markdown("key", "text", "text")
    tracking.picture("key", "<svg/>", "image")
    with tracking.progress("key", "nothing", lambda: 1 // 0):  # type: ignore[arg-type,return-value]
        pass
    assert not tracking.tracked()


def test_what_cannot_be_shown_stops_nothing_and_an_interrupted_block_leaves_the_bar_where_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise ConnectionResetError

    @flow
    def ours() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(tracking, "create_table_artifact", refuse)
            tracking.table("table", [{"a": 1}], "rows")
        with tracking.progress("broken", "a measure that fails", lambda: 1 // 0):  # type: ignore[arg-type,return-value]
            pass
        with tracking.progress("half", "half done", lambda: (1, 2)):
            raise ConfigError("interrupted")

    state = ours(return_state=True)
    with pytest.raises(ConfigError, match="interrupted"):
        state.result()
    seen = shown(state)[1]
    assert {key: artifact.data for key, artifact in seen.items()} == {"broken": 100, "half": 50}


@pytest.mark.parametrize(("deployed", "count", "runs"), [(True, MAX_RUNS, True), (True, MAX_RUNS + 1, False)])
def test_a_run_that_crashes_again_and_again_is_given_up(deployed: bool, count: int, runs: bool) -> None:
    some = "00000000-0000-0000-0000-000000000001"
    run = FlowRun.model_validate({"flow_id": some, "deployment_id": some if deployed else None, "run_count": count})
    if runs:
        begin(run)
    else:
        with pytest.raises(GivenUpError, match=f"found {MAX_RUNS} crashes"):
            begin(run)


def load(name: str) -> Flow[..., Any]:
    return load_flow_from_entrypoint(DEPLOYMENTS[name]["entrypoint"])


def test_every_flow_is_deployed_and_served_alike() -> None:
    assert {name: load(name).name for name in DEPLOYMENTS} == {name: name for name in FLOWS}
    for name, served in FLOWS.items():
        assert DEPLOYMENTS[name]["entrypoint"] == served.entrypoint
        assert DEPLOYMENTS[name]["parameters"] == served.parameters
        assert "skelstream" in DEPLOYMENTS[name]["tags"]
        queue, limit = DEPLOYMENTS[name]["work_pool"]["work_queue_name"], DEPLOYMENTS[name].get("concurrency_limit")
        assert queue == "gpu" if served.limit == 1 and limit is None else limit == served.limit


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
    options = PretrainOptions.model_validate(pretrain)
    assert options.resume, "a run that is scheduled again has to go on"
    trained = resolve(options)
    assert trained.train.epochs == 451
    assert resolve_scores(EvaluateOptions.model_validate(evaluate), trained).baselines


def test_the_benchmark_is_scheduled_each_night() -> None:
    (schedule,) = DEPLOYMENTS["benchmark"]["schedules"]
    assert CronSchedule.model_validate(schedule).cron == schedule["cron"]


@pytest.mark.parametrize("name", ["preprocess", "pretrain", "evaluate"])
def test_the_form_explains_every_parameter(name: str) -> None:
    schema = load(name).parameters.model_dump()
    (model,) = (found for key, found in schema["definitions"].items() if key.lower() == f"{name}options")
    assert all(field.get("description") for field in model["properties"].values()), model["properties"]
    assert set(model.get("required", ())) <= set(DEPLOYMENTS[name]["parameters"]["options"])
