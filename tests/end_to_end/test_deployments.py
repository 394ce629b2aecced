"""The deployments of `prefect.yaml` as a user sets them up: a server, a work pool, `prefect deploy`, a worker."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.events.schemas.automations import EventTrigger
from prefect.states import Pending

from flows.service.recovery import AUTOMATIONS, automations
from models.training.runlog import read_log
from pipelines.conversion.convert import convert
from pipelines.synthetic import synthesize
from tests.flows.serving import (
    ROOT,
    artifacts,
    await_state,
    client,
    ended,
    environment,
    started,
    submit,
    until,
)
from tests.ports import free_port

METHOD = "pcm3pp+tiny+no-post"
RARE = "train.checkpoint_every=10"
OPTIONS = {"method": METHOD, "data": "data", "dataset": "ntu60", "protocol": "xview", "device": "cpu"}
EPOCHS = 40


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a user deploys and workers run, with the data that prefect.yaml names."""
    folder = tmp_path_factory.mktemp("lab")
    synthesize("ntu", folder / "raw", subjects=4, classes=4, samples=48, seed=0, zipped=True)
    convert("ntu", [folder / "raw"], folder / "data", workers=0)
    return folder


def deployments() -> dict[str, Any]:
    """The repository's, but for schedules and parameters: a tiny pre-training fires in a moment."""
    tree: dict[str, Any] = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    for entry in tree["deployments"]:
        if entry["name"] == "pretrain":
            options = entry["parameters"]["options"]
            assert (options["data"], options["dataset"], options["protocol"]) == ("data", "ntu60", "xview")
            options |= {"method": METHOD, "device": "cpu", "overrides": [RARE], "run": "runs/scheduled"}
            # so far apart that no second run comes before the schedule is paused
            soon = datetime.now(UTC) + timedelta(seconds=20)
            entry["schedules"] = [{"interval": 90, "anchor_date": soon.isoformat()}]
    return tree


@pytest.fixture(scope="module")
def api(place: Path) -> Iterator[SyncPrefectClient]:
    """A server as a guide has a user set it up, with everything deployed."""
    port = free_port()
    env = environment(place / "prefect", PREFECT_API_URL=f"http://127.0.0.1:{port}/api", PWD=str(place))

    def prefect(*arguments: str) -> None:
        command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
        done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    server = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
    with started(server, place, place / "server.log", env), client(env["PREFECT_API_URL"]) as found:
        until(lambda: answers(found), (place / "server.log").read_text)
        prefect("work-pool", "create", "skelstream", "--type", "process")
        prefect("work-queue", "create", "gpu", "--pool", "skelstream", "--limit", "1")
        (place / "prefect.yaml").write_text(yaml.safe_dump(deployments(), sort_keys=False))
        prefect("deploy", "--all")
        prefect("automation", "create", "--from-file", str(AUTOMATIONS))
        yield found


def answers(api: SyncPrefectClient) -> bool:
    return api.api_healthcheck() is None


@pytest.fixture
def workers(place: Path, api: SyncPrefectClient) -> Iterator[Any]:
    """Starts workers."""
    env = environment(place / "prefect", PREFECT_API_URL=str(api.api_url).rstrip("/"))
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "skelstream"]
    with ExitStack() as held:
        yield lambda: held.enter_context(started(command, place, place / "worker.log", env))


@contextmanager
def hasty(api: SyncPrefectClient, name: str, seconds: int) -> Iterator[None]:
    """One of our automations, but sooner, and for as long as the block only: a busy machine is slow, not dead."""
    (own,) = (automation for automation in automations() if automation.name == name)
    assert isinstance(own.trigger, EventTrigger)
    assert own.trigger.within >= timedelta(minutes=5)
    trigger = own.trigger.model_copy(update={"within": timedelta(seconds=seconds)})
    made = api.create_automation(own.model_copy(update={"name": f"hasty {name}", "trigger": trigger}))
    try:
        yield
    finally:
        api.delete_automation(made)


def log(place: Path) -> str:
    return (place / "worker.log").read_text()


def test_the_scheduled_run_fires_works_and_shows_up(place: Path, api: SyncPrefectClient, workers: Any) -> None:
    workers()
    run = until(lambda: ended(api, "pretrain"), lambda: log(place))
    api.pause_deployment(api.read_deployment_by_name("pretrain/pretrain").id)
    assert (run.state_name, run.auto_scheduled) == ("Completed", True), log(place)
    assert run.name == f"{METHOD} ntu60 xview joint seed 0"
    assert (place / "runs" / "scheduled" / "checkpoints" / "epoch_0002.pt").is_file()
    seen = artifacts(api, run.id)
    assert {"scheduled-progress", "scheduled-epochs", "scheduled-curve", "scheduled-folder"} <= seen.keys()
    assert seen["scheduled-progress"].data == 100


def test_a_run_whose_worker_died_before_it_was_started_is_picked_up(
    place: Path, api: SyncPrefectClient, workers: Any
) -> None:
    options = {**OPTIONS, "run": "runs/taken", "overrides": [RARE, "train.epochs=1"]}
    taken = submit(api, "pretrain/pretrain", {"options": options, "progress": False})
    with hasty(api, "skelstream mark the never started", seconds=10):
        api.set_flow_run_state(taken, Pending(), force=True)  # as a worker does that takes it
        until(lambda: not api.read_flow_run(taken).state.is_pending())
    workers()
    run = await_state(api, taken, "Completed", "Failed")
    assert run.state_name == "Completed", log(place)
    assert (place / "runs" / "taken" / "checkpoints" / "epoch_0001.pt").is_file()


def test_runs_of_the_gpu_queue_wait_for_each_other_and_one_that_dies_with_its_host_goes_on_elsewhere(
    place: Path, api: SyncPrefectClient, workers: Any
) -> None:
    parameters = {
        name: {
            "options": {**OPTIONS, "run": f"runs/{name}", "overrides": [RARE, f"train.epochs={EPOCHS}"]},
            "progress": False,
        }
        for name in ("first", "second")
    }
    # it sees the one sign of life at the beginning of a run, and nothing may run for longer while it is there
    with hasty(api, "skelstream mark the dead", seconds=40):
        worker = workers()
        first = submit(api, "pretrain/pretrain", parameters["first"])
        until(lambda: len(read_log(place / "runs" / "first")) > 2, lambda: log(place))
        second = submit(api, "pretrain/pretrain", parameters["second"])
        host = psutil.Process(worker.pid)
        for process in [host, *host.children(recursive=True)]:
            process.send_signal(signal.SIGKILL)
        assert len(read_log(place / "runs" / "first")) < EPOCHS
        until(lambda: "Crashed" in {state.name for state in api.read_flow_run_states(first)})
    waiting = api.read_flow_run(second)
    assert waiting.state is not None
    assert waiting.state.is_scheduled(), "two trainings at once"
    workers()
    ends = [await_state(api, run, "Completed", "Failed") for run in (first, second)]
    assert [run.state_name for run in ends] == ["Completed", "Completed"], log(place)
    assert ends[0].run_count > 1, "it was not run again"
    same = [(place / "runs" / name / "checkpoints" / f"epoch_{EPOCHS:04}.pt").read_bytes() for name in parameters]
    assert same[0] == same[1], "the one that died ends otherwise than the one that did not"
