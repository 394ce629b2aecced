"""SIGINT and SIGTERM, taken between two steps."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from models.training.distributed import max_over_ranks


class Interruption:
    """Notes the first SIGINT or SIGTERM, to be acted upon between two steps; a second one takes its course at once."""

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
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._former = {}
