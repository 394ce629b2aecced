"""Processes that end with the one that started them."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

LEAVE = 150.0
"""Seconds to leave in order once the parent has died: a step, and a checkpoint of 0.6 GB on a slow disk."""

REPORT = 5.0
"""Seconds to tell the server; it may be gone too, and Prefect would try for minutes."""

_at_work: list[bool] = []


def leave_with_parent(parent: int | None = None, every: float = 1.0) -> None:
    """From now on, when the process that started this one dies, leave as by SIGTERM, and in the end by SIGKILL.

    Args:
        parent: its number, where it may have died already; None for the parent of this moment.
        every: seconds between two looks.
    """
    parent = os.getppid() if parent is None else parent

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(every)
        os.kill(os.getpid(), signal.SIGTERM)
        until = time.monotonic() + LEAVE
        while _at_work and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(REPORT)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="waits for the end of the parent").start()


@contextmanager
def at_work() -> Iterator[None]:
    """What this process is for: it may take its time to leave the block."""
    _at_work.append(True)
    try:
        yield
    finally:
        _at_work.pop()
