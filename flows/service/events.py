"""What happened to an evaluation, as Prefect events that an automation can act on; see `flows/service/automations/`.

skelstream.evaluation.failed      resource skelstream.run.<name of its folder>
skelstream.evaluation.regressed   resource skelstream.benchmark.<name>

Within a flow run Prefect adds the flow run, its deployment, work pool and tags as related resources. The payload's
`text` is one message for people.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.scores.regression import Change
from flows.service.client import import_prefect
from flows.service.server import ServerError

FAILED = "skelstream.evaluation.failed"
REGRESSED = "skelstream.evaluation.regressed"


def evaluation_failed(run: Path, tasks: Sequence[str], error: BaseException) -> bool:
    """Tell that tasks of a run could not be scored; whether there was somebody to tell.

    The payload: `run`, `tasks`, `kind` (class of the error), `message`, `text`.
    """
    payload = {
        "run": str(run),
        "tasks": list(tasks),
        "kind": type(error).__name__,
        "message": str(error),
        "text": f"evaluation of {run} failed ({', '.join(tasks)}): {error}",
    }
    return _emit(FAILED, f"skelstream.run.{run.absolute().name}", run.absolute().name, payload)


@contextmanager
def report_failure(run: Path, tasks: Sequence[str]) -> Iterator[None]:
    """Tell of an error that ends the block, and let it pass; who cancels or interrupts makes no failure."""
    try:
        yield
    except Exception as error:
        evaluation_failed(run, tasks, error)
        raise


def evaluation_regressed(benchmark: str, round_name: str, previous: str, changes: Sequence[Change]) -> bool:
    """Tell which measurements of a round are worse than those of the one before; whether there was somebody to tell.

    One event for all, none where nothing has regressed. The payload: `benchmark`, `round`, `previous`, `text`, and
    `regressed`, a list of the measurement's fields with `before` and `now` (a value for each run), `drop` and `bound`.

    Args:
        benchmark, round_name, previous: names.
        changes: of `flows.scores.regression.compare_rounds`; others than those that regressed are left out.
    """
    worse = [change for change in changes if change.status == "regressed"]
    if not worse:
        return False
    lines = "\n".join(change.line() for change in worse)
    payload = {
        "benchmark": benchmark,
        "round": round_name,
        "previous": previous,
        "regressed": [_fields(change) for change in worse],
        "text": f"{benchmark}, round {round_name} against {previous}: {len(worse)} regressed\n{lines}",
    }
    return _emit(REGRESSED, f"skelstream.benchmark.{benchmark}", benchmark, payload)


def _fields(change: Change) -> dict[str, Any]:
    numbers = {"before": list(change.before), "now": list(change.now), "drop": change.drop, "bound": change.bound}
    return vars(change.what) | numbers


def _emit(event: str, resource: str, name: str, payload: dict[str, Any]) -> bool:
    if "prefect" not in sys.modules and not os.environ.get("PREFECT_API_URL"):
        return False
    try:
        import_prefect()
    except ServerError:
        return False

    from prefect.context import FlowRunContext
    from prefect.events import emit_event
    from prefect.settings import get_current_settings

    # without this Prefect would start a server, only to tell nobody
    if FlowRunContext.get() is None and not get_current_settings().api.url:
        return False
    resources = {"prefect.resource.id": resource, "prefect.resource.name": name}
    return emit_event(event, resource=resources, payload=payload) is not None
