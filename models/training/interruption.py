"""Signals that end a process, taken between two steps."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from models.training.distributed import max_over_ranks
from shards.signals import KEYBOARD, ending_signals


class Interruption:
    """Notes the first signal that ends a process, to be acted upon between two steps.

    A second one takes its course at once if a person sends it (Ctrl-C twice), or if it is the first one again. But
    SIGHUP, and another one than the first, do not: who closes a terminal causes two SIGHUP, by the shell and by the
    kernel, and a session that ends causes SIGTERM and SIGHUP.
    """

    def __init__(self) -> None:
        self._number = self._agreed = 0
        self._former: dict[int, Any] = {}

    def agreed(self) -> bool:
        """Whether a signal has come to any rank. All ranks have to ask at the same step, and get the same answer.

        No GPU waits for it: the host, which is ahead of it, takes 0.5 ms (two ranks on two busy cores).
        """
        self._agreed = max_over_ranks(self._number)
        return self._agreed != 0

    def proceed(self) -> None:
        """Give the signal its usual course, on every rank."""
        assert self._agreed
        self._restore()
        signal.raise_signal(self._agreed)
        raise KeyboardInterrupt  # whoever handles the signal may have let it pass

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in ending_signals():
                self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self._number:
            self._number = number
        elif number in KEYBOARD or (number == self._number and number != signal.SIGHUP):
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._former = {}
