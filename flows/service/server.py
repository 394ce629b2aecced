"""A Prefect server on the loopback interface, in a process that ends with the one that started it."""

import errno
import fcntl
import http.client
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from flows.machine.packages import own_environment, own_module
from flows.machine.parent import leave_with_parent
from shards.errors import ConfigError, SkelstreamError
from shards.progress import tell

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

HOST = "127.0.0.1"

START = 120.0
"""Seconds for a server to answer: 6 to 12 on two cores, 40 where other work takes them, more where its database is made
on a slow disk. PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS, where the user has set it, counts instead."""

SERVING = "skelstream-serving"
"""File in Prefect's folder, locked by the `skelstream serve` of this user, that says where its server is."""

NOTICE = 3.0
"""Seconds before the user is told what is waited for."""

_QUIET = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1", "PREFECT_SERVER_LOGGING_LEVEL": "ERROR"}
_LOCK = "skelstream-start.lock"
_ERROR = re.compile(r"[\w.]*\b\w*(?:Error|Exception|Refused|Denied)\b:? .+")


class ServerError(SkelstreamError):
    """No Prefect server answers."""


class Server:
    """A server in a process of its own.

    Attributes:
        url: of its API.
    """

    def __init__(self, port: int | None = None, *, pages: bool) -> None:
        """Start it; it does not answer yet.

        Args:
            port: to listen on; None for a free one.
            pages: give Prefect's pages and run its services, such as schedules; else only record what is told.

        Raises:
            ConfigError: another process listens on the port.
            ServerError: the folder of Prefect cannot be written, or no socket can be had.
        """
        self._home, self._pages, self._answers = prefect_home(), pages, False
        self._said: deque[str] = deque(maxlen=400)
        self._waiting = _Waiting(self._home)
        with _listening(port) as listener:
            self._lock = self._waiting.lock()
            own_port = listener.getsockname()[1]
            self.url = f"http://{HOST}:{own_port}/api"
            address = {"PREFECT_SERVER_API_HOST": HOST, "PREFECT_SERVER_API_PORT": str(own_port)}  # its pages ask there
            self._process = subprocess.Popen(
                [*own_module("flows.service.server"), str(listener.fileno()), str(os.getpid()), *["pages"] * pages],
                env=_QUIET | own_environment() | address,
                stderr=subprocess.PIPE,
                pass_fds=[listener.fileno()],
                start_new_session=True,  # Ctrl-C is for us, and flow runs that leave still need the server
            )
        assert self._process.stderr is not None
        threading.Thread(target=self._read, args=(self._process.stderr,), daemon=True, name="reads the server").start()

    def _read(self, words: IO[bytes]) -> None:
        """Keep what it says for an error message; of one with pages all goes on to stderr once it answers."""
        with words:
            for line in words:
                text = line.decode(errors="replace").rstrip()
                self._said.append(text)
                if self._answers and self._pages:
                    print(text, file=sys.stderr)

    def wait(self) -> None:
        """Return when it answers.

        Raises:
            ServerError: it ends, or does not answer in time; the message has its reason.
        """
        with self._lock:
            while not _answers(self.url):
                if self._process.poll() is not None:
                    raise ServerError(f"Prefect's server ended as it started: {self._reason()}")
                try:
                    self._waiting.go_on(f"{self.url} does not answer")
                except ServerError:
                    self._process.kill()
                    raise
        self._answers = True

    def _reason(self) -> str:
        """The last line of its words that names an error."""
        time.sleep(0.1)  # its last words may still be in the pipe
        lines = [line for line in self._said if _ERROR.fullmatch(line)]
        reason = lines[-1] if lines else next((line for line in reversed(self._said) if line), "without a word")
        if "Can't locate revision" in reason:
            reason += "; a newer version of Prefect made it"
        return f"{reason} (its database: {self._home})"

    def is_running(self) -> bool:
        """Whether its process lives."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def prefect_home() -> Path:
    """The folder where Prefect keeps its database and settings.

    Raises:
        ServerError: it cannot be written, or there is no home folder.
    """
    try:
        home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
        home.mkdir(parents=True, exist_ok=True)
        with (home / _LOCK).open("a"):
            return home
    except RuntimeError as error:
        raise ServerError(f"Prefect's server needs a home folder: {error}") from error
    except OSError as error:
        raise ServerError(f"Prefect's server cannot write its folder {home}: {error.strerror}") from error


def keep_loopback_from_proxies() -> None:
    """Have nobody ask a proxy for the loopback interface, where our servers are."""
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        if "*" not in hosts:
            os.environ[name] = ",".join(dict.fromkeys((*hosts, "127.0.0.1", "localhost", "::1")))


def find_served_url() -> str | None:
    """The API of the `skelstream serve` of this user, where one runs."""
    try:
        with (prefect_home() / SERVING).open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                url = file.read().partition(" ")[0]
                return url if url and _answers(url) else None
    except (OSError, ServerError):
        pass
    return None


@contextmanager
def _listening(port: int | None) -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port or 0))
            listener.listen(128)
        except OSError as error:
            if port is not None and error.errno == errno.EADDRINUSE:
                raise ConfigError(
                    f"--port {port}: found another process listening on it, expected none; to add flows to a server"
                    f" that runs there: PREFECT_API_URL=http://{HOST}:{port}/api"
                ) from None
            raise ServerError(f"Prefect's server finds no port on {HOST}: {error.strerror}") from error
        yield listener


class _Waiting:
    """How long somebody has waited for a server, and may."""

    def __init__(self, home: Path) -> None:
        self._home, self._told = home, False
        self._patience = float(os.environ.get("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS") or START)
        self._begun = time.monotonic()

    def go_on(self, problem: str) -> None:
        """Wait a little more; ServerError with the problem when it has been long enough."""
        waited = time.monotonic() - self._begun
        if waited > self._patience:
            raise ServerError(f"Prefect's server at {problem} after {self._patience:.0f} s (its folder: {self._home})")
        if waited > NOTICE and not self._told:
            tell(f"skelstream: waiting for Prefect's server, at most {self._patience:.0f} s")
            self._told = True
        time.sleep(0.1)

    def lock(self) -> IO[str]:
        """A lock to hold while a server starts: two that make the same database at once get into each other's way."""
        with ExitStack() as opened:
            file = opened.enter_context((self._home / _LOCK).open("a"))
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    self.go_on(f"{self._home} is being started by another command, and does not answer")
                else:
                    opened.pop_all()
                    return file


def _answers(url: str) -> bool:
    """Whether the server at the loopback answers that it is well; no proxy is asked."""
    address = url.removeprefix("http://").removesuffix("/api")
    connection = http.client.HTTPConnection(address, timeout=2)
    try:
        connection.request("GET", "/api/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


async def _page(request: "Request") -> "Response":
    """A page below the folder of the serve, such as a report."""
    from starlette.responses import FileResponse, PlainTextResponse

    here = Path.cwd().resolve()
    path = (here / request.path_params["path"]).resolve()
    if not path.is_relative_to(here) or path.suffix != ".html" or not path.is_file():
        return PlainTextResponse("no such page below the folder of this server", status_code=404)
    return FileResponse(path)


def main(listener: int, parent: int, *, pages: bool) -> None:
    """Be the server, until SIGTERM comes or the process that started this one is gone.

    Args:
        listener: descriptor of the socket that it listens on.
        parent: number of the process that started this one.
        pages: as of `Server`.
    """
    leave_with_parent(parent)

    import uvicorn
    from prefect.server.api.server import create_app
    from starlette.routing import Route

    app = create_app(ephemeral=not pages, final=True)
    if pages:  # before those of Prefect, which take all
        app.router.routes.insert(0, Route("/skelstream/{path:path}", _page))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=5))
    with suppress(KeyboardInterrupt), socket.socket(fileno=listener) as listening:
        server.run(sockets=[listening])
    raise SystemExit(0 if server.started else 3)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), pages=sys.argv[3:] == ["pages"])
