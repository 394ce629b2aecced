"""`skelstream serve`: every flow within reach of a browser and of a schedule, by one command on one machine.

It starts a Prefect server on the loopback interface, unless PREFECT_API_URL names one, and runs what is asked of it in
processes of its own. When it ends, those write their checkpoints, and the next one goes on with them.
"""

import asyncio
import fcntl
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.service.client import check_server, find_named_url
from flows.service.recovery import LOCK, TAG, automations, ensure_automations, pick_up
from flows.service.server import HOST, SERVING, Server, keep_loopback_from_proxies, prefect_home
from shards.errors import ConfigError, SkelstreamError

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment
    from prefect.runner import Runner

PAGES = "SKELSTREAM_PAGES"
"""Environment variable of flow runs: where the server gives the pages that lie below the folder of the serve."""

LEAVE = 180.0
"""Seconds to wait for flow runs of a serve that ended: see `flows.machine.parent.LEAVE`."""


@dataclass(frozen=True)
class Served:
    """A flow as it is offered.

    Attributes:
        entrypoint: module and function.
        parameters: what the form shows at first; it can be submitted as it is, given the data.
        limit: flow runs at once; None for any number. Those that train have 1: what a GPU holds is for one.
    """

    entrypoint: str
    parameters: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None


RUN = "runs/pcm3pp-ntu60-xview-joint"
FLOWS = {
    "preprocess": Served(
        "flows.deployments.preprocess.preprocess_flow",
        {"options": {"source": "ntu", "raw": ["raw"], "out": "data"}, "progress": False},
        limit=1,
    ),
    "pretrain": Served(
        "flows.deployments.pretrain.pretrain_flow",
        {"options": {"data": "data", "dataset": "ntu60", "protocol": "xview", "run": RUN}, "progress": False},
        limit=1,
    ),
    "evaluate": Served("flows.deployments.evaluate.evaluate_flow", {"options": {"run": RUN}, "progress": False}),
    "benchmark": Served(
        "flows.deployments.benchmark.benchmark_flow",
        {"options": {"file": "benchmark.yaml"}, "progress": False},
        limit=1,
    ),
    "distill": Served("flows.deployments.distill.distill_flow", {"options": {"run": RUN}, "progress": False}, limit=1),
    "export": Served("flows.deployments.export.export_flow", {"options": {"run": RUN}}),
    "demo": Served("flows.deployments.demo.demo_flow", {"out": "demo"}, limit=1),
}


@dataclass(frozen=True)
class Scheduled:
    """A benchmark that runs on a schedule.

    Attributes:
        name: of the benchmark, and of its deployment.
        file: its YAML file.
        schedule: cron; None for none.
        timezone: of the schedule.
    """

    name: str
    file: Path
    schedule: str | None
    timezone: str


def serve(schedules: Sequence[Scheduled] = (), *, port: int = 4200) -> None:
    """Serve all flows, and benchmarks on their schedules, until SIGINT or SIGTERM comes.

    Args:
        schedules: of benchmarks.
        port: of the server and its pages.

    Raises:
        ConfigError: two benchmarks have one name, or another process uses the port.
        SkelstreamError: the server does not start.
    """
    names = ["benchmark", *(scheduled.name for scheduled in schedules)]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{name}: found it twice as the name of a benchmark, expected a name of its own for each")
    with _server(port) as (url, own):
        from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_LEVEL, temporary_settings

        # the command line is silent about Prefect's own words; of a flow run they are the log that the browser shows
        with temporary_settings({PREFECT_API_URL: url, PREFECT_LOGGING_LEVEL: "INFO"}):
            asyncio.run(_serve([*map(_offered, FLOWS), *map(_scheduled, schedules)], url, own))


def _offered(flow: str, **changes: Any) -> "RunnerDeployment":
    """The deployment of a flow, named as it is; with what else Prefect takes."""
    from prefect.deployments.runner import RunnerDeployment

    served = FLOWS[flow]
    known = {"name": flow, "parameters": served.parameters, "concurrency_limit": served.limit, "tags": [TAG]}
    return RunnerDeployment.from_entrypoint(served.entrypoint, **known | changes)


def _scheduled(benchmark: Scheduled) -> "RunnerDeployment":
    from prefect.schedules import Cron

    cron = None if benchmark.schedule is None else Cron(benchmark.schedule, timezone=benchmark.timezone)
    parameters = {"options": {"file": str(benchmark.file.absolute())}, "progress": False}
    return _offered("benchmark", name=benchmark.name, parameters=parameters, schedule=cron)


async def _serve(deployments: "Sequence[RunnerDeployment]", url: str, own: bool) -> None:
    """Serve until a signal comes. `own`: nobody else runs these deployments, for the server is ours."""
    from prefect.client.orchestration import get_client
    from prefect.runner import Runner

    runner = Runner(name="skelstream serve", pause_on_shutdown=not own)
    ids = [await runner.aadd_deployment(deployment) for deployment in deployments]
    with get_client(sync_client=True) as client:
        ensure_automations(client, automations())
        for run in pick_up(client, ids) if own else []:
            print(f"picked up: {run.name}, whose process is gone")
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    serving = asyncio.create_task(runner.start())
    await asyncio.sleep(0)  # it takes SIGTERM
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    print(f"serving {len(ids)} deployments: {url.removesuffix('/api')} (stop: Ctrl-C)", flush=True)
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        stopped.cancel()
        await serving
        raise SkelstreamError(f"{url}: found that serving has ended by itself, expected it to go on")
    print("stopping: flow runs write their checkpoints; the next serve goes on with them", flush=True)
    await _leave(runner)
    serving.cancel()
    await asyncio.wait({serving})


async def _leave(runner: "Runner") -> None:
    """Have all flow runs leave in order. A runner that is cancelled kills them, one that is stopped cancels them."""
    runner._scheduled_run_poller.stopping = True  # else it would go on with them at once
    processes = runner._process_manager
    handles = [handle for run in processes.flow_run_ids() if (handle := processes.get(run)) is not None]
    for handle in handles:
        with suppress(ProcessLookupError):
            handle.graceful_kill()
    until = time.monotonic() + LEAVE
    while time.monotonic() < until and any(handle.is_alive() for handle in handles):
        await asyncio.sleep(0.1)


@contextmanager
def _server(port: int) -> Iterator[tuple[str, bool]]:
    """The address of the API, and whether the server is ours; one that is ends with the block."""
    keep_loopback_from_proxies()
    named = find_named_url()
    if named is not None:
        check_server(named)
        yield named, False
        return
    with _alone(port), _flow_runs_gone():
        server = Server(port, pages=True)
        try:
            server.wait()
            os.environ[PAGES] = f"{server.url.removesuffix('/api')}/skelstream"
            yield server.url, True
        finally:
            server.stop()


@contextmanager
def _alone(port: int) -> Iterator[None]:
    """Be the only serve of this user's Prefect; the others read here where it is."""
    with (prefect_home() / SERVING).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            where = file.read().strip() or "it is just starting"
            raise ConfigError(
                f"found another skelstream serve of this user ({where}), expected to be the only one; serve all"
                " benchmarks by one command (skelstream serve A.yaml B.yaml), or set another PREFECT_HOME"
            ) from None
        file.truncate(0)
        print(f"http://{HOST}:{port}/api in {Path.cwd()}", file=file, flush=True)
        yield


@contextmanager
def _flow_runs_gone() -> Iterator[None]:
    """Begin once the flow runs of the last serve have left, and hold a lock that our own will hold too."""
    path = prefect_home() / "skelstream-serve.lock"
    with path.open("w") as file:
        _wait_for(file.fileno(), path)
        fcntl.flock(file, fcntl.LOCK_SH)
        os.environ[LOCK] = str(path)
        try:
            yield
        finally:
            del os.environ[LOCK]


def _wait_for(descriptor: int, path: Path) -> None:
    """Take a lock; ConfigError when it is held for longer than flow runs need to leave."""
    until = time.monotonic() + LEAVE
    told = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise ConfigError(
                    f"{path}: found flow runs of the last skelstream serve that do not end, expected none; end them"
                ) from None
            if not told:
                print("waiting: flow runs of the last serve write their checkpoints", flush=True)
            told = True
            time.sleep(0.5)
        else:
            return
