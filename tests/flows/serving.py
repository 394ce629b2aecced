"""Real servers, serves and workers for tests, each in a process of its own that ends with the test."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES, Artifact, FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
SKELSTREAM = "import sys; from flows.cli.main import main; sys.exit(main())"


def environment(home: Path, **changes: str) -> dict[str, str]:
    """Of a process that knows nothing of this user's Prefect, and looks for work every second."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    return kept | {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        **changes,
    }


def until(what: Callable[[], Any], about: Callable[[], str] = str) -> Any:
    """The first true value of `what`."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited in vain: {about()}")


@contextmanager
def started(arguments: list[str], folder: Path, log: Path, env: dict[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    """A process in a session of its own; at the end no process of it is left."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            arguments, cwd=folder, env=env, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    known = psutil.Process(process.pid)
    try:
        yield process
    finally:
        children = known.children(recursive=True) if process.poll() is None else []
        for one in [known, *children]:
            if one.is_running():
                one.send_signal(signal.SIGKILL)
        process.wait()


@dataclass(frozen=True)
class Serve:
    """A `skelstream serve`."""

    process: "subprocess.Popen[bytes]"
    url: str
    log: Path

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@contextmanager
def serve(folder: Path, port: int, *files: Path) -> Iterator[Serve]:
    """One with a server of its own, from when it serves; `folder` is where it is called."""
    log = folder / f"serve-{time.monotonic_ns()}.log"
    command = [sys.executable, "-c", SKELSTREAM, "serve", *map(str, files), "--port", str(port)]
    with started(command, folder, log, environment(folder / "prefect")) as process:
        until(lambda: "\nserving" in f"\n{log.read_text()}" or process.poll() is not None, log.read_text)
        assert process.poll() is None, log.read_text()
        yield Serve(process, f"http://127.0.0.1:{port}/api", log)


@contextmanager
def client(url: str) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as found:
        yield found


def submit(api: SyncPrefectClient, deployment: str, parameters: dict[str, Any]) -> UUID:
    """Ask for a run as the form of the browser does."""
    found = api.read_deployment_by_name(deployment)
    return api.create_flow_run_from_deployment(found.id, parameters=parameters).id


def await_state(api: SyncPrefectClient, run: UUID, *names: str) -> FlowRun:
    def reached() -> FlowRun | None:
        found = api.read_flow_run(run)
        return found if found.state is not None and found.state.name in names else None

    found = until(reached, lambda: str(api.read_flow_run_states(run)))
    assert isinstance(found, FlowRun)
    return found


def ended(api: SyncPrefectClient, deployment: str) -> FlowRun | None:
    """A run of that deployment that has ended, if there is one."""
    runs = api.read_flow_runs(
        deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[deployment])),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[*TERMINAL_STATES]))),
        limit=1,
    )
    return runs[0] if runs else None


def artifacts(api: SyncPrefectClient, run: UUID) -> dict[str, Artifact]:
    found = api.read_artifacts(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run])))
    return {artifact.key: artifact for artifact in found if artifact.key is not None}
