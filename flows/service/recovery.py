"""Flow runs whose process is gone: they leave in order where they can, are found dead else, and are run again.

What happens to a run in a process that a runner or a worker started:
- Its parent dies (killed, out of memory): the run notes it within a second and leaves as by SIGTERM; a training writes
  a checkpoint of that very step. Prefect calls that crashed.
- It dies itself, or with its host: its heartbeats end, and an automation of the server calls it crashed.
- Its worker dies before it has started the process: another automation calls the run crashed too.
- Whatever crashed is scheduled again by a third automation (`automations/recovery.yaml`), at most `MAX_RUNS` times.
"""

import fcntl
import os
import threading
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import yaml
from prefect._internal import control_listener
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.events.schemas.automations import AutomationCore
from prefect.states import AwaitingRetry, Cancelled

from flows.machine.parent import leave_with_parent
from shards.errors import SkelstreamError

RUNNING, PENDING = StateType.RUNNING, StateType.PENDING
CANCELLING, CRASHED = StateType.CANCELLING, StateType.CRASHED

TAG = "skelstream"
"""Of all our deployments; their runs inherit it, and the automations look for it."""

MAX_RUNS = 5
"""Times that one flow run is run: what kills its process that often will do so again."""

AUTOMATIONS = Path(__file__).parent / "automations" / "recovery.yaml"

LOCK = "SKELSTREAM_SERVE_LOCK"
"""Environment variable: a file that a `skelstream serve` and all its flow runs hold, so that the next one knows."""

_STARTED = "PREFECT__FLOW_RUN_ID"  # set by Prefect for the process of one flow run


class GivenUpError(SkelstreamError):
    """A flow run crashed too often to be run again."""


def begin(run: FlowRun) -> None:
    """What a flow does first, for the run to be found when its process dies, and to die with whoever started it.

    Raises:
        GivenUpError: the run has crashed `MAX_RUNS` times.
    """
    if _STARTED in os.environ and not _begun.is_set():
        _begun.set()
        with suppress(PermissionError):  # it leads a session
            os.setpgid(0, 0)  # Ctrl-C in the terminal of the parent is for the parent, which asks us to leave
        _hold_lock()
        leave_with_parent()
    if run.deployment_id is not None and run.run_count > MAX_RUNS:
        raise GivenUpError(
            f"flow run {run.name}: found {MAX_RUNS} crashes, expected none; what it has made is whole as far as it"
            " came: find out what ends its process (out of memory?), then run it again"
        )


_begun = threading.Event()


def _hold_lock() -> None:
    """Hold the lock of the `skelstream serve` that started this process, until it ends, however it ends."""
    path = os.environ.get(LOCK)
    if path is not None:
        fcntl.flock(os.open(path, os.O_RDONLY | os.O_CLOEXEC), fcntl.LOCK_SH)


def tell_cancellation() -> None:
    """Tell Prefect whether the signal that came cancels this flow run; if not, it has crashed, and is picked up.

    Prefect asks for that before it sends the signal, and only of a process that leaves the signal to it, which a
    training does not.
    """
    if _STARTED not in os.environ or control_listener.get_intent() is not None:
        return
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(UUID(os.environ[_STARTED])).state
    if state is not None and state.is_cancelling():
        control_listener._set_intent("cancel")


def automations(path: Path = AUTOMATIONS) -> list[AutomationCore]:
    """Those of a file such as `prefect automation create --from-file` takes."""
    return [AutomationCore.model_validate(entry) for entry in yaml.safe_load(path.read_text())["automations"]]


def ensure_automations(client: SyncPrefectClient, wanted: list[AutomationCore]) -> None:
    """Create on the server those that it does not have by name; what a user has changed stays."""
    known = {automation.name for automation in client.read_automations()}
    for automation in wanted:
        if automation.name not in known:
            client.create_automation(automation)


def pick_up(client: SyncPrefectClient, deployments: list[UUID]) -> list[FlowRun]:
    """Schedule again the runs of these deployments that crashed or pass for alive; only for who knows that none is.

    Returns:
        Those; one that was being cancelled is cancelled now, and not among them.
    """
    states = FlowRunFilterState(type=FlowRunFilterStateType(any_=[RUNNING, PENDING, CANCELLING, CRASHED]))
    runs = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=states),
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=deployments)),
    )
    again = [run for run in runs if run.state_type != CANCELLING]
    for run in runs:
        state: State[None] = AwaitingRetry(message="its process is gone") if run in again else Cancelled()
        client.set_flow_run_state(run.id, state, force=True)
    return again
