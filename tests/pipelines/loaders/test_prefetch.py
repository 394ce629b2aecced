"""Steps made ahead arrive in order, an error at its step, and no thread outlives its consumer."""

import gc
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.loaders import prefetch as ahead_module
from pipelines.loaders.prefetch import NAME, ahead
from tests.patience import PATIENCE

WORKERS = [0, 1, 2, 5]


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(NAME)]


def _close(iterator: Iterator[object]) -> None:
    iterator.close()  # type: ignore[attr-defined]  # a generator


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


@settings(max_examples=40, deadline=None)
@given(
    first=st.integers(0, 5),
    count=st.integers(0, 20),
    workers=st.integers(0, 6),
    depth=st.integers(1, 6),
    naps=st.lists(st.sampled_from([0, 0.001, 0.004]), min_size=25, max_size=25),
)
def test_every_step_arrives_once_and_in_order(
    first: int, count: int, workers: int, depth: int, naps: list[float]
) -> None:
    made: list[int] = []

    def make(step: int) -> int:
        time.sleep(naps[step])
        made.append(step)
        return step * step

    steps = range(first, first + count)
    assert list(ahead(make, steps, workers=workers, depth=depth)) == [step * step for step in steps]
    assert sorted(made) == list(steps)
    assert not _threads()


@pytest.mark.parametrize("workers", WORKERS)
def test_an_error_is_raised_at_its_step_after_all_steps_before_it(workers: int) -> None:
    def make(step: int) -> int:
        if step == 3:
            raise KeyError(step)  # at once, while the steps before it take their time
        time.sleep(0.02)
        return step

    iterator, seen = ahead(make, range(9), workers=workers, depth=5), []
    with pytest.raises(KeyError, match="3"):
        seen.extend(iterator)
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(iterator)
    assert not _threads()


@pytest.mark.parametrize("workers", WORKERS)
def test_steps_before_an_error_are_delivered(workers: int) -> None:
    def make(step: int) -> int:
        if step == 3:
            raise KeyError(step)
        return step

    iterator = ahead(make, range(9), workers=workers, depth=5)
    assert [next(iterator) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError):
        next(iterator)


@pytest.mark.parametrize("workers", WORKERS)
def test_an_interrupt_of_a_worker_reaches_the_consumer(workers: int) -> None:
    def make(step: int) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(ahead(make, range(3), workers=workers, depth=2))
    assert not _threads()


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_no_more_than_depth_steps_are_made_ahead_of_the_consumer(workers: int, depth: int) -> None:
    begun: list[int] = []
    iterator = ahead(lambda step: begun.append(step), range(100), workers=workers, depth=depth)
    for taken in range(1, 4):
        next(iterator)
        _until(lambda taken=taken: len(begun) == taken + depth)  # type: ignore[misc]  # mypy knows no defaults of lambdas
        time.sleep(0.03)
        assert len(begun) == taken + depth
    _close(iterator)
    assert not _threads()


def test_workers_make_steps_at_the_same_time() -> None:
    together = threading.Barrier(3)

    def make(step: int) -> int:
        together.wait(timeout=PATIENCE)
        return step

    assert list(ahead(make, range(6), workers=3, depth=3)) == list(range(6))


def test_without_workers_a_step_is_made_when_it_is_asked_for_by_the_asking_thread() -> None:
    made: list[threading.Thread] = []
    iterator = ahead(lambda step: made.append(threading.current_thread()), range(9), workers=0, depth=4)
    next(iterator)
    next(iterator)
    assert made == [threading.current_thread()] * 2


def test_an_iterator_that_is_never_begun_starts_no_thread() -> None:
    iterator = ahead(lambda step: step, range(9), workers=2, depth=4)
    assert not _threads()
    del iterator


def test_an_abandoned_iterator_ends_its_threads() -> None:
    iterator = ahead(lambda step: step, range(9), workers=2, depth=4)
    next(iterator)
    assert _threads()
    del iterator
    gc.collect()
    assert not _threads()


def test_an_error_in_the_consumer_ends_the_threads() -> None:
    def consume() -> None:
        for _ in ahead(lambda step: step, range(9), workers=2, depth=4):
            raise KeyError("consumer")

    with pytest.raises(KeyError, match="consumer"):
        consume()
    gc.collect()
    assert not _threads()


def test_closing_waits_for_no_step_that_is_not_begun() -> None:
    begun: list[int] = []

    def make(step: int) -> None:
        begun.append(step)
        time.sleep(0.05)

    iterator = ahead(make, range(1000), workers=2, depth=4)
    next(iterator)
    _close(iterator)
    assert len(begun) <= 1 + 4
    assert not _threads()


def test_closing_does_not_wait_for_ever_for_a_step_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead_module, "GRACE", 0.1)
    hang = threading.Event()

    def make(step: int) -> int:
        if step:
            hang.wait(PATIENCE)
        return step

    iterator = ahead(make, range(9), workers=2, depth=4)
    next(iterator)
    before = time.monotonic()
    _close(iterator)
    assert time.monotonic() - before < PATIENCE / 2
    hang.set()
    _until(lambda: not _threads())


def test_a_forgotten_iterator_in_a_cycle_may_be_collected_by_its_own_worker() -> None:
    class Cycle:
        def __init__(self) -> None:
            self.iterator = ahead(lambda step: gc.collect(), range(1000), workers=1, depth=2)
            self.me = self

    cycle = Cycle()
    next(cycle.iterator)
    del cycle
    _until(lambda: not _threads())


def test_what_was_delivered_is_kept_by_nobody_else() -> None:
    class Batch:
        alive = 0

        def __init__(self) -> None:
            Batch.alive += 1

        def __del__(self) -> None:
            Batch.alive -= 1

    iterator = ahead(lambda step: Batch(), range(50), workers=2, depth=3)
    for _ in range(20):
        next(iterator)
    _until(lambda: Batch.alive <= 3)
    _close(iterator)
    assert Batch.alive == 0
