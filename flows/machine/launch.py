"""Starts the ranks of a pre-training on this machine, one process each, by torch's own launcher."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from flows.machine.packages import own_environment
from flows.machine.rank import RUN_ID, USER, left_errors
from flows.machine.threads import defaults
from shards.cores import count_cores
from shards.errors import SkelstreamError
from shards.signals import ending_signals

# a rank asked to leave finishes its step and writes a checkpoint; of full size it takes 0.6 GB
_SECONDS_TO_LEAVE = 120
_MEETING = "SKELSTREAM_MEETING"  # see models.training.distributed.process_group
_LOOPBACK = "lo" if sys.platform == "linux" else "lo0"


class RankError(SkelstreamError):
    """A rank failed; the message is the rank's own."""


def launch(arguments: Sequence[str], ranks: int) -> None:
    """Run `python -P ARGUMENTS` in that many ranks of this machine, and wait for them.

    They meet in a file and talk over the loopback interface. Signals that end a process are passed on to them, then
    take their usual course here; they are left alone outside the main thread, where Python cannot take them. If a rank
    fails, the others are told to leave.

    Raises:
        RankError: a rank failed.
    """
    with (
        TemporaryDirectory(prefix="skelstream-ranks-") as folder,
        _quiet(),
        _environment(ranks, Path(folder)),
        _own_signals(),
    ):
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=ranks,
            run_id=RUN_ID,
            rdzv_backend="c10d",
            rdzv_endpoint=str(Path(folder, "rendezvous")),
            rdzv_configs={"store_type": "file"},
            local_addr="127.0.0.1",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            signals_to_handle=_signal_names(),
            shutdown_timeout=_SECONDS_TO_LEAVE,
        )
        number = None
        try:
            # it expands $ in arguments
            elastic_launch(config, sys.executable)("-P", *(argument.replace("$", "$$") for argument in arguments))
        except SignalException as interruption:
            number = interruption.sigval
            _raise_users_error(Path(folder))
        except ChildFailedError as error:
            _raise_users_error(Path(folder))
            raise _cause(Path(folder), error.failures) from None
    if number is not None:
        signal.raise_signal(number)
        raise KeyboardInterrupt  # whoever handles the signal may have let it pass


def _raise_users_error(folder: Path) -> None:
    for kind, text in left_errors(folder)[:1]:
        if kind == USER:
            raise RankError(text)


def _cause(folder: Path, failures: Mapping[int, ProcessFailure]) -> RankError:
    """What tells most about why ranks failed: one that was killed, else an error of the program."""
    in_time = sorted(failures.items(), key=lambda failure: failure[1].timestamp)
    first = in_time[0][1].timestamp
    for number, failure in in_time:
        # the others lose their connection to it within a second; those that the launcher has to kill come much later
        if failure.exitcode == -signal.SIGKILL and failure.timestamp <= first + 2:
            return RankError(f"rank {number} {_end(failure.exitcode)}")
    for _, text in left_errors(folder):
        return RankError(f"found an error of the program in a rank:\n{text}")
    number, failure = in_time[0]
    return RankError(f"rank {number} {_end(failure.exitcode)}")


def _end(exitcode: int) -> str:
    number = -exitcode if exitcode < 0 else exitcode - 128  # a rank that handles a signal leaves with the latter
    if number in signal.valid_signals():
        return f"was ended by {signal.Signals(number).name}; the same command goes on from there, with --resume"
    return f"ended with exit status {exitcode}, expected 0"


@contextmanager
def _quiet() -> Iterator[None]:
    """No word of the launcher's own: what it has to tell of a failure is in the one error that is raised."""
    logger = logging.getLogger("torch.distributed.elastic")
    handler, propagate = logging.NullHandler(), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = propagate
        logger.removeHandler(handler)


@contextmanager
def _environment(ranks: int, folder: Path) -> Iterator[None]:
    """What the ranks inherit; variables that the user has set stay."""
    wanted = {
        "OMP_NUM_THREADS": str(max(1, count_cores() // ranks)),
        # torch's own store listens on all interfaces, so that the ranks meet in a file instead
        _MEETING: (folder / "meeting").as_uri(),
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "TORCHELASTIC_SIGNALS_TO_HANDLE": _signal_names(),  # the launcher sets it for good
        "GLOO_SOCKET_IFNAME": _LOOPBACK,
        "NCCL_SOCKET_IFNAME": _LOOPBACK,
    }
    former = dict(os.environ)
    os.environ |= {name: value for name, value in wanted.items() if name not in former or name in defaults}
    os.environ["PYTHONPATH"] = own_environment()["PYTHONPATH"]
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(former)


def _signal_names() -> str:
    return ",".join(number.name for number in ending_signals())


@contextmanager
def _own_signals() -> Iterator[None]:
    """Undo the launcher's signal handlers at the end: it sets them for good."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.getsignal(number) for number in ending_signals()}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
