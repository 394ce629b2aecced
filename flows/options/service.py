"""Options of the commands that keep flows within reach of a browser, and commands within reach of a shell."""

from typing import Annotated, Literal

from flows.options.argument import POSITIONAL, Argument
from flows.options.fields import LocalPath, Options


class ServeOptions(Options):
    """Which benchmarks to serve, and where."""

    files: Annotated[tuple[LocalPath, ...], Argument(metavar="FILE", positional=True)] = ()
    """Files of benchmarks to run on their schedules."""

    port: Annotated[int, Argument(metavar="PORT")] = 4200
    """Port of the server, on the loopback interface; PREFECT_API_URL names another server."""


class CompletionOptions(Options):
    """Whose completion to write."""

    shell: Annotated[Literal["bash", "zsh", "fish"], POSITIONAL]
    """The shell that reads it."""
