"""How far a piece of work is, on stderr: a bar on a terminal, a plain line now and then in a file or a pipe.

The one door to tqdm, which is imported (40 ms) when there is something to show.
"""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from tqdm import tqdm

Item = TypeVar("Item")

SECONDS = 30.0
"""Between two lines about one piece of work, at least."""

_NARROW = 40  # columns; a narrower bar is cut before it tells anything


class Progress:
    """Counts what is done of a piece of work, and shows it.

    On a terminal that is one bar. Elsewhere, and where a terminal is dumb or narrow, it is a line at the start, one
    after half a minute or more, and one at the end. A stream that takes nothing any more stops no work.

    Args:
        title: what is done.
        total: how much there is; None: nobody knows.
        unit: of `total`, in the singular.
        shown: whether to show anything.
        done: what was done before.
        scaled: show 12.3k instead of 12,300.
        passing: a part of something greater: its bar goes when it is done, and it has lines only when it takes long.
        steady: tell the time left by the mean since the start, for work whose steps differ much.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        unit: str,
        *,
        shown: bool,
        done: int = 0,
        scaled: bool = False,
        passing: bool = False,
        steady: bool = False,
    ) -> None:
        self._title, self._total, self._unit, self._scaled, self._passing = title, total, unit, scaled, passing
        self._done, self._done_before, self._note = done, done, ""
        self._begun = self._told = time.monotonic()
        self._bar: tqdm[Any] | None = None
        width = _find_width() if shown else None
        self._has_lines = shown and width is None
        if width is not None:
            self._bar = _draw(
                desc=title,
                total=total,
                unit=unit,
                initial=done,
                unit_scale=scaled,
                leave=not passing,
                smoothing=0 if steady else 0.3,
                **width,
            )
        elif shown and not passing:
            self._write()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __str__(self) -> str:
        """What a line says."""
        from tqdm import tqdm

        return tqdm.format_meter(
            self._done,
            self._total,  # type: ignore[arg-type]  # its stub knows no unknown total
            time.monotonic() - self._begun,
            ncols=0,
            prefix=self._title,
            unit=self._unit,
            unit_scale=self._scaled,
            postfix=self._note,
            initial=self._done_before,
        )

    def advance(self, count: int = 1) -> None:
        """Count that much as done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._has_lines and time.monotonic() - self._told >= SECONDS:
            self._write()

    def over(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, each of which counts as one when the next is asked for; closed after the last."""
        with self:
            for item in items:
                yield item
                self.advance()

    def entitle(self, title: str) -> None:
        """Show another title from the next time on."""
        self._title = title
        if self._bar is not None:
            self._bar.set_description_str(title, refresh=False)

    def remark(self, note: str) -> None:
        """Show a remark beside the count from the next time on."""
        self._note = note
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)

    def close(self) -> None:
        """Show the end; closing it again does nothing."""
        if self._bar is not None:
            self._bar.close()
        elif self._has_lines and not (self._passing and self._told == self._begun):
            self._write()
        self._has_lines = False

    def _write(self) -> None:
        self._told = time.monotonic()
        _write_line(str(self))


def tell(text: str) -> None:
    """Write a line to stderr, above the bars; of several ranks the first alone does (torchrun numbers them by RANK)."""
    if os.environ.get("RANK", "0") == "0":
        _write_line(text)


def _draw(**options: Any) -> "tqdm[Any]":
    from tqdm import tqdm

    return tqdm(**options)


def _write_line(text: str) -> None:
    if sys.stderr is None:  # a process without one
        return
    with suppress(OSError, ValueError):  # a full disk, a reader that has gone, a stream that was closed
        if "tqdm" in sys.modules:
            from tqdm import tqdm

            tqdm.write(text, file=sys.stderr)
        else:
            sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def _find_width() -> dict[str, Any] | None:
    """How tqdm is to find the width of a bar on stderr; None where no bar can be drawn."""
    text = os.environ.get("COLUMNS", "")
    stated = int(text) if text.isdecimal() else 0
    try:
        if sys.stderr is None or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
            return None
        found = 0 if stated else os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):  # closed, or of no file
        return None
    columns = stated or found or 80  # a terminal that nobody told its size has 0
    if columns < _NARROW:
        return None
    return {"dynamic_ncols": True} if found else {"ncols": columns - 1, "nrows": 20}
