"""Who does the units of work of a conversion: threads of this process, or Dask. The only place that knows dask.

Threads beat processes here: inflating, parsing, normalising, compressing and hashing release the interpreter lock, a
thread starts at once (a local Dask cluster takes two seconds), and all threads share one copy of the libraries.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

from shards.errors import ConfigError, StoreError

_CONNECT_SECONDS = 10
_JOIN_SECONDS = 30
_WORKERS_SECONDS = 30
_LOOK_SECONDS = 5


class Unit(Protocol):
    """A piece of work that any thread, process or host can do alone; doing it twice does no harm."""

    def __call__(self) -> None: ...

    def is_done(self) -> bool: ...


Runner = Callable[[Sequence[Unit]], Iterator[None]]
"""Does units and yields once for each, in their order; the first error ends it."""


@contextmanager
def open_runner(scheduler: str | None, workers: int) -> Iterator[Runner]:
    """Threads of this process, or the workers of a running Dask scheduler.

    Args:
        scheduler: address of the scheduler; its workers must see the same paths.
        workers: threads, where there is no scheduler; 1 or less works in the calling thread.

    Raises:
        ConfigError: no scheduler with workers answers.
    """
    if scheduler is not None:
        with _connection(scheduler) as client:
            yield partial(_run_on_cluster, client)
    elif workers <= 1:
        yield lambda units: map(_call, units)
    else:
        with ThreadPoolExecutor(workers, "convert") as pool:
            yield partial(_run_on_threads, pool, 2 * workers)


def _call(unit: Unit) -> None:
    unit()


def _run_on_threads(pool: ThreadPoolExecutor, window: int, units: Sequence[Unit]) -> Iterator[None]:
    """Results are taken in order of submission: of several faults, the one that surfaces is always the first."""
    pending: deque[Future[None]] = deque()
    try:
        for unit in units:
            pending.append(pool.submit(_call, unit))
            if len(pending) >= window:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


@contextmanager
def _connection(address: str) -> Iterator[Any]:
    from distributed import Client

    # Dask tells of every connection it closes; what goes wrong reaches the user as an error of ours.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    try:
        client = Client(address, timeout=_CONNECT_SECONDS)  # type: ignore[no-untyped-call]  # distributed is untyped
        client.wait_for_workers(1, timeout=_JOIN_SECONDS)
    except (OSError, ValueError, TimeoutError) as error:
        raise ConfigError(f"found no dask scheduler with workers at {address} ({error}), expected one") from error
    with client:
        yield client


def _run_on_cluster(client: Any, units: Sequence[Unit]) -> Iterator[None]:
    """Submit units a few at a time, so that neither the scheduler nor this process holds them all.

    A unit whose worker dies is done again by another (Dask's `allowed-failures` bounds how often).
    """
    from distributed import wait

    pending: deque[Any] = deque()
    try:
        for unit in units:
            pending.append(client.submit(_call, unit, pure=False))
            # Asked each time: workers join and leave.
            if len(pending) >= max(2, 3 * sum(client.ncores().values())):
                _wait_for(client, pending.popleft())
                yield
        while pending:
            _wait_for(client, pending.popleft())
            yield
    except StoreError:
        raise
    except Exception:
        # what is begun may be writing
        wait(list(pending))  # type: ignore[no-untyped-call]  # distributed is untyped
        raise
    finally:
        client.cancel(list(pending))


def _wait_for(client: Any, future: Any) -> None:
    """Wait for a unit, as long as there is somebody to do it."""
    from distributed import KilledWorker
    from distributed.comm.core import CommClosedError

    alone_since: float | None = None
    while True:
        try:
            future.result(timeout=_LOOK_SECONDS)
        except TimeoutError:
            if client.status != "running":
                raise StoreError("found the dask scheduler gone, expected it to live: start it and run again") from None
            if client.ncores():
                alone_since = None
            else:
                alone_since = alone_since or time.monotonic()
                if time.monotonic() - alone_since > _WORKERS_SECONDS:
                    found = f"no dask worker for {_WORKERS_SECONDS} s"
                    raise StoreError(f"found {found}, expected at least one: start some and run again") from None
        except KilledWorker as error:
            raise StoreError(f"found workers that died ({error}), expected them to live: is memory short?") from error
        except (CancelledError, CommClosedError, OSError) as error:
            if isinstance(error, OSError) and not isinstance(error, CommClosedError):
                raise  # of the unit itself: a full disk, a lost permission
            raise StoreError(
                f"found the dask scheduler gone ({error}), expected it to live: start it and run again"
            ) from error
        else:
            return
