"""Commands that do their work whether or not Prefect can record it.

What a user types is carried out as a flow run where a Prefect server answers: one that the user has named, that of
`skelstream serve`, or else one that this process starts. Where none does, or it stops answering, one line says so and
the work is done all the same. A flow run that a worker or `skelstream serve` starts is another matter: there Prefect is
who asks.
"""

import atexit
import os
from collections.abc import Callable
from importlib import import_module
from traceback import walk_tb
from typing import Any

from flows.machine.packages import PACKAGES
from flows.service.client import check_server, find_named_url, shorten
from flows.service.server import Server, ServerError, find_served_url, keep_loopback_from_proxies
from shards.progress import tell

_RETRIES = "1"
"""Times that a request of a command typed by hand is repeated, after 2 s. Prefect's own 5 take a minute, for each of
the many requests that end a flow run."""


def record(entrypoint: str, options: Any, work: Callable[[bool], None] | None, *, plain: bool = False) -> None:
    """Carry out a command as a flow run, or by `work` where Prefect does not answer or is not wanted.

    Args:
        entrypoint: module and name of the flow, such as "flows.deployments.pretrain.pretrain_flow".
        options: its one argument.
        work: does the same without Prefect, told whether the flow had begun, so that there may be something to go on
            with; None for what needs a server.
        plain: by `work`, without asking Prefect.

    Raises:
        ServerError: no server answers, and there is no `work`.
    """
    if plain:
        assert work is not None, "what is to be done without a server can be"
        work(False)
        return
    begun: list[bool] = []
    try:
        _run(entrypoint, options, begun)
    except ServerError as error:
        if work is None:
            raise
        tell(f"skelstream: {error}; going on without a record of the run, as --plain does")
        work(bool(begun))


def _run(entrypoint: str, options: Any, begun: list[bool]) -> None:
    """Run the flow; ServerError when Prefect fails it before its body has returned."""
    os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", _RETRIES)
    keep_loopback_from_proxies()
    named = find_named_url() or find_served_url()
    server = _own_server() if named is None else None
    flow = _load(entrypoint)  # seconds in which our server starts
    if server is not None:
        server.wait()
        url = server.url
    else:
        assert named is not None
        check_server(named)
        url = named

    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.service import tracking

    tracking.give_up_at_once()
    tracking.bodies.pop(flow.name, None)
    try:
        with temporary_settings({PREFECT_API_URL: url}):
            flow(options)
    except Exception as error:
        if not _is_prefects(error):
            raise
        state = tracking.bodies.get(flow.name)
        if state == tracking.RETURNED:
            tell(f"skelstream: Prefect stopped answering ({shorten(error)}): the work is done, its record has no end")
            return
        if state is not None:
            begun.append(True)
        raise ServerError(f"Prefect stopped answering: {shorten(error)}") from error


def _own_server() -> Server:
    """A server of this process, which ends with it: after Prefect has sent it all, so not with the command."""
    if not _servers or not _servers[-1].is_running():
        server = Server(pages=False)
        atexit.register(server.stop)
        _servers.append(server)
    return _servers[-1]


_servers: list[Server] = []


def _load(entrypoint: str) -> Any:
    module, _, name = entrypoint.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except Exception as error:
        if not _is_prefects(error):
            raise
        raise ServerError(f"Prefect cannot be imported: {shorten(error)}") from error


def _is_prefects(error: BaseException) -> bool:
    """Whether Prefect raised an error: of its frames and ours, the innermost is one of Prefect's."""
    ours = (*PACKAGES, "prefect")
    packages = (frame.f_globals.get("__name__", "").partition(".")[0] for frame, _ in walk_tb(error.__traceback__))
    innermost = [package for package in packages if package in ours][-1:]
    return innermost == ["prefect"]
