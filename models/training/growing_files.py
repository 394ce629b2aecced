"""Files of a run that grow while it goes on: lines of its log, and events for TensorBoard."""

import io
import os
import socket
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

_numbers = count()


class GrowingFile:
    """A file to whose end pieces are added, each at once, and whole or not at all. It is closed when one fails.

    Raises:
        OSError: it cannot be opened; later, when a piece cannot be written.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)

    def append(self, piece: bytes) -> None:
        """Add a piece."""
        before, left = os.fstat(self._file.fileno()).st_size, memoryview(piece)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            with suppress(OSError):
                self._file.truncate(before)
            self._file.close()
            raise

    def sync(self) -> None:
        """Return when all of it is safely on disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close it; a second time does nothing."""
        self._file.close()


class EventFile:
    """A file of events for TensorBoard, which then shows nothing of earlier files from `step` on.

    Not torch's SummaryWriter: on a full disk its thread prints a traceback and leaves half an event.

    Raises:
        OSError: as of `GrowingFile`.
    """

    def __init__(self, folder: Path, step: int) -> None:
        # imported late: it takes 0.3 s, and only training needs it; tensorboard ships no types
        from tensorboard.compat.proto import event_pb2, summary_pb2  # type: ignore[import-untyped]
        from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

        self._event, self._summary, self._records = event_pb2.Event, summary_pb2.Summary, RecordWriter
        # TensorBoard reads the files in the order of their names
        number = f"{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        self._file = GrowingFile(folder / f"events.out.tfevents.{number}")
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._append([{"file_version": "brain.Event:2"}, {"step": step, "session_log": start}])

    def append(self, scalars: Mapping[str, float], step: int) -> None:
        """Add the scalars of a step, by their tags."""
        values = [self._summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._append([{"step": step, "summary": self._summary(value=values)}])

    def close(self) -> None:
        """Close it."""
        self._file.close()

    def _append(self, events: Iterable[Mapping[str, Any]]) -> None:
        piece = io.BytesIO()
        for fields in events:
            self._records(piece).write(self._event(wall_time=time.time(), **fields).SerializeToString())
        self._file.append(piece.getvalue())
