"""What a flow shows in Prefect (name and tags, how far it is, what came out), and which errors it tries again.

Everything here works in a flow run and does nothing outside of one, so that functions that show something run without
Prefect too. What cannot be shown is logged and stops nothing: the work is worth more than its picture.
"""

import base64
import errno
import math
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial, wraps
from html import escape
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast
from urllib.parse import quote
from uuid import UUID

from prefect import Flow, flow, get_run_logger, task
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.tasks import exponential_backoff

from flows.machine.parent import at_work
from flows.service.recovery import begin, tell_cancellation
from flows.service.serve import PAGES
from shards.errors import ConfigError
from shards.places import Place

Inputs = ParamSpec("Inputs")
Result = TypeVar("Result")

RETRIES = 3
"""Times that what failed for a passing reason is tried again."""

FIRST_DELAY = 30.0
"""Seconds before the first of them, about; twice as many before each further one, so 3.5 minutes in all.

Requests to remote storage have been tried for 15 s by then (`shards.remote`)."""

JITTER = 0.3
"""Share by which a delay is longer or shorter at random, so that many flows do not come back at once."""

EVERY = 5.0
"""Seconds between two looks at how far the work is."""

_PASSING = {
    getattr(errno, name)
    for name in (
        *("ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETRESET"),
        *("ENETUNREACH", "EPIPE", "ESTALE", "ETIMEDOUT"),
    )
}
# of botocore, aiohttp and distributed, which need not be installed
_BROKEN = {"HTTPClientError", "ClientConnectionError", "ClientPayloadError", "CommClosedError", "HTTPTimeoutError"}
_AGAIN = {408, 425, 429}


def may_pass(error: BaseException) -> bool:
    """Whether trying again can help: a connection, a name server or a remote storage failed, here or underneath.

    Never for what the user has to change, for a bug, or for a local disk.
    """
    if isinstance(error, ConfigError):
        return False
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and error.errno in _PASSING:
        return True
    if _BROKEN & {kind.__name__ for kind in type(error).__mro__} or _answered_busy(error):
        return True
    reason = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return reason is not None and may_pass(reason)


def _answered_busy(error: BaseException) -> bool:
    """Whether a server answered that it cannot now."""
    response = getattr(error, "response", None)  # of botocore
    facts = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    status = facts.get("HTTPStatusCode") or getattr(error, "status", None)
    return isinstance(status, int) and (status in _AGAIN or 500 <= status < 600)


BEGUN, RETURNED = "begun", "returned"

bodies: dict[str, str] = {}
"""How far the body of each flow of this process has come, by its name: `BEGUN` or `RETURNED`."""


def tracked_flow(name: str) -> Callable[[Callable[Inputs, Result]], Flow[Inputs, Result]]:
    """Make a function a Prefect flow of this name; `bodies` tells whether its body has run."""

    def make(function: Callable[Inputs, Result]) -> Flow[Inputs, Result]:
        @wraps(function)
        def body(*arguments: Inputs.args, **named: Inputs.kwargs) -> Result:
            bodies[name] = BEGUN
            result = function(*arguments, **named)
            bodies[name] = RETURNED
            return result

        return flow(name=name, validate_parameters=True)(body)

    return make


def tell(text: str) -> None:
    """Print a line, and have it in the log of the flow run, which the browser shows."""
    print(text, flush=True)
    if FlowRunContext.get() is not None:
        get_run_logger().info(text)


def attempt(name: str, function: Callable[Inputs, Result]) -> Callable[Inputs, Result]:
    """`function` as a Prefect task of this name, which is tried again when it fails for a reason that may pass.

    Its arguments and its result stay in this process; every call works, none is answered from a cache. The function has
    to go on where it stopped, as all that is long here does.
    """

    @wraps(function)
    def whole(*arguments: Inputs.args, **named: Inputs.kwargs) -> Result:
        try:
            with at_work():
                return function(*arguments, **named)
        except TerminationSignal:
            tell_cancellation()
            raise

    def passes(task: Any, run: Any, state: Any) -> bool:  # Prefect asks plain functions only
        return isinstance(state.data, BaseException) and may_pass(state.data)

    return task(
        name=name,
        task_run_name=name,
        retries=RETRIES,
        retry_delay_seconds=exponential_backoff(FIRST_DELAY),
        retry_jitter_factor=JITTER,
        retry_condition_fn=passes,
        persist_result=False,
        cache_policy=NO_CACHE,
    )(whole)


def tracked() -> bool:
    """Whether this is a flow run, so that somebody may look at what it shows."""
    context = FlowRunContext.get()
    return context is not None and context.flow_run is not None


def name_run(name: str, **tags: str) -> None:
    """Begin a flow run, as every flow does first: give it a name and tags `key:value`, by which it is found again.

    Tags that it has stay. From here on it leaves in order when whoever started its process dies.

    Raises:
        GivenUpError: it has crashed too often (see `flows.service.recovery`).
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    run = context.flow_run
    begin(run)
    wanted = [*run.tags, *(f"{key}:{value}" for key, value in tags.items())]

    def update() -> None:
        with get_client(sync_client=True) as client:
            client.update_flow_run(run.id, name=name, tags=list(dict.fromkeys(wanted)))

    _shown("the name of this run", update)


@contextmanager
def progress(
    key: str, description: str, measure: Callable[[], tuple[float, float]], every: float = EVERY
) -> Iterator[None]:
    """Show how far the work of the block is, as a bar; it is full when the block ends well.

    Args:
        key: of the artefact.
        description: what is being done.
        measure: how much is done, and of how much; called in another thread, often.
        every: seconds between two calls.
    """
    if not tracked():
        yield
        return
    over, ended = threading.Event(), threading.Event()

    def watch() -> None:
        bar: UUID | None = None
        before, last = -1.0, False
        while True:
            share = 100.0 if ended.is_set() else _shown("progress", lambda: _per_cent(measure()))
            if share is not None and share != before:
                bar = _shown("progress", partial(_draw, bar, share, slug(key), description)) or bar
                before = share
            if last:
                return
            last = over.wait(every)

    thread = threading.Thread(target=copy_context().run, args=(watch,), daemon=True, name=f"progress of {key}")
    thread.start()
    try:
        yield
        ended.set()
    finally:
        over.set()
        thread.join(10)  # a server that does not answer must not hold the work back


def _draw(bar: UUID | None, share: float, key: str, description: str) -> UUID:
    if bar is None:
        return cast(UUID, create_progress_artifact(share, key, description))
    return cast(UUID, update_progress_artifact(bar, share))


def _per_cent(measured: tuple[float, float]) -> float:
    done, total = measured
    return round(100 * min(max(done / total, 0.0), 1.0), 1) if total else 0.0


def table(key: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
    """Show rows of equal keys."""
    if tracked():
        _shown(key, lambda: create_table_artifact([dict(row) for row in rows], slug(key), description))


def link(key: str, path: Place | str, description: str) -> None:
    """Show where a folder or file lies; pages below the folder of a `skelstream serve` it opens by itself."""
    where = path.absolute() if isinstance(path, Path) else path
    if tracked():
        _shown(key, lambda: create_link_artifact(_address(where), str(where), slug(key), description))


def _address(where: Place | str) -> str:
    if not isinstance(where, Path):
        return str(where)
    server, here = os.environ.get(PAGES), Path.cwd()
    if server is None or where.suffix != ".html" or not where.is_relative_to(here):
        return where.as_uri()  # browsers follow it from a file alone, but people can copy it
    return f"{server}/{quote(where.relative_to(here).as_posix())}"


def markdown(key: str, text: str, description: str) -> None:
    """Show text."""
    if tracked():
        _shown(key, lambda: create_markdown_artifact(text, slug(key), description))


def picture(key: str, svg: str, description: str) -> None:
    """Show an SVG image; it travels inside the artefact."""
    if tracked():
        data = f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
        _shown(key, lambda: create_image_artifact(data, slug(key), description))


def line_chart(values: Sequence[float], title: str) -> str:
    """A line through values at 1, 2, ..., as an SVG image that needs no style sheet; finite values are drawn."""
    width, height, edge = 480, 220, 36
    points = [(number, value) for number, value in enumerate(values) if math.isfinite(value)]
    low, high = min((y for _, y in points), default=0.0), max((y for _, y in points), default=1.0)
    across, up = (width - 2 * edge) / max(len(values) - 1, 1), (height - 2 * edge) / ((high - low) or 1.0)
    line = " ".join(f"{edge + x * across:.1f},{height - edge - (y - low) * up:.1f}" for x, y in points)
    text = '<text x="{}" y="{}" font-family="sans-serif" font-size="12" fill="#6a6f75">{}</text>'
    return "".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">',
            '<rect width="100%" height="100%" fill="#fff"/>',
            text.format(edge, edge - 14, escape(f"{title}: {high:.4g} at the top, {low:.4g} at the bottom")),
            text.format(edge, height - edge + 20, 1),
            text.format(width - edge - 20, height - edge + 20, len(values)),
            f'<polyline points="{line}" fill="none" stroke="#3b7dd8" stroke-width="2" stroke-linecap="round"/>',
            "</svg>",
        )
    )


def slug(text: str) -> str:
    """`text` as the key of an artefact: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def give_up_at_once() -> None:
    """From now on, once something could not be shown, show nothing more: a person waits for the end of the command."""
    _hurry.set()


_hurry, _given_up = threading.Event(), threading.Event()


def _shown(what: str, show: Callable[[], Result]) -> Result | None:
    """What `show` returns; when it fails, None and a word in the log."""
    if _given_up.is_set():
        return None
    try:
        return show()
    except Exception as error:  # noqa: BLE001 - a server that is gone must not end a training of days
        get_run_logger().warning("not shown: %s: %s: %s", what, type(error).__name__, error)
        if _hurry.is_set():
            _given_up.set()
        return None
