"""Local copies of the remote shards of a split: fetched ahead in the order of their use, kept while they are of use."""

import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from pipelines.loaders.cache.files import Cache, copy_size
from pipelines.loaders.order import Places
from pipelines.loaders.split import Split, SplitShard
from shards.remote import Stopped

FETCHERS = 4
"""Shards fetched at once; each by several requests."""

AHEAD = 32
"""Shards that wait for their first use, at most: the next window while one is used."""

AHEAD_BYTES = 1 << 32
"""Their bytes, at most, unless it is only one."""


class Copies:
    """Copies in a cache, or else in a temporary folder, where each goes after its last announced use.

    Args:
        split: with remote shards.
        cache: folder of the cache; None: a temporary folder, which goes when this is closed or the program ends.
        limit: bytes of the cache.

    Raises: as `Cache`; ConfigError if a shard does not fit.
    """

    def __init__(self, split: Split, cache: Path | None, limit: int | None) -> None:
        folder = Path(tempfile.mkdtemp(prefix="skelstream-shards-")) if cache is None else cache
        self._split, self._limit, self._is_temporary = split, limit, cache is None
        self._plans: list[_Plan] = []  # the one that is followed
        self._end = weakref.finalize(self, _end, self._plans, folder if self._is_temporary else None)
        self._cache = Cache(folder, limit)
        for shard in split.shards:
            if not isinstance(shard.folder, Path):
                self._cache.check(shard)
        self._plans.append(_Plan(self._cache, split, None, limit))

    def announce(self, places: Places) -> None:
        """Begin to fetch what these places need, first use first. What was announced before is no longer fetched."""
        before, plan = self._plans[0], _Plan(self._cache, self._split, places, self._limit)
        before.stop()
        self._plans[0] = plan
        if self._is_temporary:
            for number in before.fetched() - plan.left.keys():
                self._cache.discard(self._split.shards[number])
        plan.start()

    @contextmanager
    def hold(self, number: int, rows: int) -> Iterator[Path]:
        """A whole copy of a shard for the use of `rows` of its samples.

        Raises: as `Cache.hold`; what failed while it was fetched ahead is raised here.
        """
        plan = self._plans[0]
        plan.wait(number)
        with self._cache.hold(self._split.shards[number]) as path:
            yield path
        plan.use(number, rows, self._cache.discard if self._is_temporary else self._cache.release)

    def close(self) -> None:
        """Stop fetching; remove the temporary folder."""
        self._end()


class _Plan:
    """What an epoch needs, and how far it has come.

    Attributes:
        left: samples of each shard that are still to be used, in the order of first use.
    """

    def __init__(self, cache: Cache, split: Split, places: Places | None, limit: int | None) -> None:
        self._cache, self._split, self._limit = cache, split, limit
        self.left: dict[int, int] = {}
        if places is not None:
            shards, first, counts = np.unique(places.shard, return_index=True, return_counts=True)
            order = np.argsort(first)
            pairs = zip(shards[order].tolist(), counts[order].tolist(), strict=True)
            self.left = {n: count for n, count in pairs if not isinstance(split.shards[n].folder, Path)}
        self._coming = iter(list(self.left))
        self._ahead: dict[int, Future[None]] = {}
        self._waiting: set[int] = set()  # fetched ahead, or about to be
        self._in_use: set[int] = set()
        self._begun: set[int] = set()
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to fetch."""
        for number in range(min(FETCHERS, len(self.left))):
            thread = threading.Thread(target=self._work, name=f"skelstream-fetch-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Give up what is being fetched; no thread is left."""
        with self._changed:
            self._stop.set()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def fetched(self) -> set[int]:
        """Shards that may have a copy."""
        with self._changed:
            return self._waiting | self._in_use

    def wait(self, number: int) -> None:
        """Wait for a shard that is being fetched, and raise what went wrong."""
        with self._changed:
            self._begun.add(number)
            self._in_use.add(number)
            self._waiting.discard(number)
            future = self._ahead.get(number)
            self._changed.notify_all()
        if future is not None:
            with suppress(Stopped):  # of a plan that another one follows; this use needs it still
                future.result()

    def use(self, number: int, rows: int, done: Callable[[SplitShard], None]) -> None:
        """So many samples of a shard were used; after the last use `done` is called, before anything takes its room."""
        with self._changed:
            if number in self.left:
                self.left[number] -= rows
            if self.left.get(number, 1) <= 0:
                self._in_use.discard(number)
                self._ahead.pop(number, None)
                done(self._split.shards[number])
            self._changed.notify_all()

    def _work(self) -> None:
        while (found := self._next()) is not None:
            number, future = found
            try:
                with self._cache.hold(self._split.shards[number], self._stop):
                    future.set_result(None)
            except BaseException as error:  # noqa: BLE001 - raised where the shard is used
                future.set_exception(error)
                return

    def _next(self) -> tuple[int, "Future[None]"] | None:
        """The next shard to fetch, once there is room for it ahead of the consumer."""
        with self._changed:
            number = next((n for n in self._coming if n not in self._begun), None)
            if number is None:
                return None
            self._changed.wait_for(lambda: self._stop.is_set() or number in self._begun or self._has_room(number))
            if self._stop.is_set():
                return None
            future: Future[None] = Future()
            self._ahead[number] = future
            if number not in self._begun:
                self._waiting.add(number)
            return number, future

    def _has_room(self, number: int) -> bool:
        size = sum(copy_size(self._split.shards[n]) for n in (number, *self._waiting))
        used = sum(copy_size(self._split.shards[n]) for n in self._in_use)
        if self._limit is not None and size + used > self._limit:
            return False
        return not self._waiting or (len(self._waiting) < AHEAD and size <= AHEAD_BYTES)


def _end(plans: list[_Plan], temporary: Path | None) -> None:
    for plan in plans:
        plan.stop()
    if temporary is not None:
        shutil.rmtree(temporary, ignore_errors=True)
