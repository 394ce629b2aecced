"""The command `skelstream`. Imports what a command needs when it needs it, so that --help stays instant."""

import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from tempfile import gettempdir
from types import FrameType
from typing import NoReturn, TextIO

from flows.cli.commands import read_command
from flows.machine import rank
from shards.errors import NO_SPACE, SkelstreamError
from shards.progress import tell
from shards.signals import ending_signals

# No telemetry, and no chatter around our own output: Prefect logs the traceback of every error, twice, and the user
# has our one line (a programming error still ends in its traceback). What the user has set stays.
_QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    # torch remarks on each parallel model whose parameters are all used, from each rank
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}

_ENDINGS: dict[int, str] = {signal.SIGTERM: "terminated", signal.SIGHUP: "the terminal was closed"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 done, 1 a user's error (told in one message), 128 + its number when a signal ended it."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)

    def run() -> int:
        call = read_command(sys.argv[1:] if arguments is None else arguments)  # may load a user's own data set
        with orderly_termination():
            return call() or 0

    return tell_errors(run)


def tell_errors(run: Callable[[], int]) -> int:
    """The status of `run`, its errors told to the user; by a rank to its launcher, which tells them once."""
    try:
        status = run()
        if sys.stdout is not None:
            sys.stdout.flush()
    except (SkelstreamError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _is_unread(sys.stdout):  # `head`, for example, has enough
            _forget_output()
            return 128 + signal.SIGPIPE
        text = str(error)
        if isinstance(error, OSError) and error.errno in NO_SPACE and not (error.filename or error.strerror == text):
            text += f": the disk of the output is full, or that of temporary files ({gettempdir()})"
        if not rank.leave_error(text, rank.USER):
            print(f"skelstream: error: {text}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        _say_how_to_go_on("interrupted")
        return 130
    except Exception:
        if not rank.leave_error(traceback.format_exc(), rank.BUG):
            raise
        return 1
    else:
        return status


def _is_unread(stream: TextIO | None) -> bool:
    """Whether a stream is a pipe that nobody reads any more."""
    poll = select.poll()
    try:
        poll.register(stream.fileno() if stream is not None else -1, 0)
    except (OSError, ValueError):
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _forget_output() -> None:
    """Have nothing more written to a pipe that nobody reads, not even by Python as it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            os.dup2(nowhere, stream.fileno())


def _say_how_to_go_on(ending: str) -> None:
    """Tell the user; of several ranks none does, whoever started them does."""
    if not rank.is_rank():
        tell(f"skelstream: {ending}; the same command goes on from there (pretrain: with --resume)")


@contextmanager
def orderly_termination() -> Iterator[None]:
    """Signals end the process by way of its exit handlers, which end its server; SIGINT does so by itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = [number for number in ending_signals() if number != signal.SIGINT]
    before = {number: signal.signal(number, _leave) for number in taken}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    _say_how_to_go_on(_ENDINGS.get(number, f"ended by {signal.Signals(number).name}"))
    raise SystemExit(128 + number)


if __name__ == "__main__":
    rank.leave(main())
