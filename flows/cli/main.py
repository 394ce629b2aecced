"""The command `skelstream`. Imports what a command needs when it needs it, so that --help stays instant."""

import argparse
import os
import re
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import gettempdir
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from flows.cli import benchmark as cli_benchmark
from flows.cli import data as cli_data
from flows.cli import exchange as cli_exchange
from flows.cli import scores as cli_scores
from flows.cli import service as cli_serve
from flows.cli import storage as cli_shelf
from flows.cli.data import add_loader, add_plain, command, loader_options, local_path, place_text
from flows.cli.pages import add_view
from flows.machine import rank
from flows.service.recording import record
from shards.catalog import DATASETS
from shards.errors import NO_SPACE, ConfigError, SkelstreamError
from shards.progress import tell
from shards.signals import ending_signals

if TYPE_CHECKING:
    from flows.pretrain import AlsoOptions

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
        options = parser().parse_args(arguments)  # may load the catalogue entry of a user's own data set
        with orderly_termination():
            return int(options.command(options) or 0)

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


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    root = argparse.ArgumentParser(
        prog="skelstream",
        description="Raw skeleton archives -> shards -> self-supervised pre-training -> downstream scores.",
    )
    commands = root.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(commands)
    cli_data.add_commands(commands)
    add_view(commands)
    _add_methods(commands)
    _add_pretrain(commands)
    cli_scores.add_commands(commands)
    cli_exchange.add_commands(commands)
    cli_benchmark.add_commands(commands)
    cli_shelf.add_commands(commands)
    cli_serve.add_commands(commands)
    return root


def _add_methods(commands: Any) -> None:
    command(commands, "methods", _methods, "list the methods, their variants, and the paper's ablations among them")


def _methods(options: argparse.Namespace) -> None:
    from flows.cli.listing import listing

    print(listing())


def _add_pretrain(commands: Any) -> None:
    sub = command(commands, "pretrain", _pretrain, "pre-train an encoder without labels")
    sub.add_argument("method", metavar="METHOD", help="pcm3pp, pcm3pp-small+no-clip, ...: see `skelstream methods`")
    sub.add_argument("--data", type=place_text, required=True, help="folder of a store, or of several; path or URL")
    sub.add_argument("--dataset", required=True, choices=DATASETS, metavar="DATASET", help="%(choices)s")
    sub.add_argument("--protocol", required=True, help="xsub, xview or xset; the train side is used")
    sub.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="DATASET/PROTOCOL[=WEIGHT][@DATA]",
        help="mix another data set in; WEIGHT: how often an epoch takes each of its samples (1); DATA: where its store"
        " lies, if not where the first one does; repeatable",
    )
    sub.add_argument("--stream", choices=["joint", "bone", "motion"], default="joint", help="what a view is made of")
    sub.add_argument("--run", type=local_path, required=True, help="folder of the run")
    sub.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="a.b=v", help="set one value; repeatable"
    )
    sub.add_argument("--resume", action="store_true", help="go on from the last checkpoint of the run")
    sub.add_argument(
        "--gpus",
        type=int,
        metavar="N",
        help="train in N processes of this machine, one a GPU (with --device cpu: on the CPU), which share each batch;"
        " on several machines: torchrun ... -m -- skelstream pretrain ... --plain",
    )
    add_loader(sub)
    add_plain(sub)


def _pretrain(options: argparse.Namespace) -> None:
    from flows.pretrain import PretrainOptions, finished, pretrain, summary

    request = PretrainOptions(
        method=options.method,
        data=options.data,
        dataset=options.dataset,
        protocol=options.protocol,
        also=tuple(map(_also, options.also)),
        stream=options.stream,
        loader=loader_options(options),
        run=options.run,
        overrides=tuple(options.overrides),
        resume=options.resume,
        device=options.device,
        gpus=_count("--gpus", options.gpus),
        share_gpu=options.share_gpu,
    )

    def work(begun: bool) -> None:
        again = request.model_copy(update={"resume": True}) if begun else request
        result = pretrain(again, progress=True)
        if rank.is_leader():
            print(summary(result))

    if options.plain or finished(request) is not None:
        work(False)
    else:
        record("flows.deployments.pretrain.pretrain_flow", request, work)


def _count(option: str, number: int | None) -> int | None:
    if number is not None and number < 1:
        raise ConfigError(f"{option} {number}: expected at least 1")
    return number


def _also(text: str) -> "AlsoOptions":
    """A source from `DATASET/PROTOCOL[=WEIGHT][@DATA]`."""
    from flows.pretrain import AlsoOptions

    problem = ConfigError(f"--also {text!r}: expected DATASET/PROTOCOL[=WEIGHT][@DATA] with a weight above 0")
    match = re.fullmatch(r"([^/=@]+)/([^/=@]+)(?:=([^@]+))?(?:@(.+))?", text)
    if match is None:
        raise problem
    try:
        weight = 1.0 if match[3] is None else float(match[3])
        return AlsoOptions(dataset=match[1], protocol=match[2], weight=weight, data=match[4])
    except ValueError:  # pydantic's errors are of it
        raise problem from None


def _add_demo(commands: Any) -> None:
    sub = command(commands, "demo", _demo, "the whole path on synthetic archives: shards, pre-training, scores, report")
    sub.add_argument("--out", type=local_path, default=Path("demo"), help="folder for everything the demo makes")


def _demo(options: argparse.Namespace) -> None:

    def work(begun: bool) -> None:
        from flows.demo import demo

        demo(options.out)

    record("flows.deployments.demo.demo_flow", str(options.out), work)


if __name__ == "__main__":
    rank.leave(main())
