"""Steps made ahead by threads and delivered in order; views made on a GPU arrive as if the consumer had made them."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from shards.batch import Views

T = TypeVar("T")

NAME = "skelstream-ahead"
"""How the threads' names begin."""

GRACE = 10.0
"""Seconds that closing waits for steps that are being made; a remote that stalls may hold one for minutes."""


def ahead(make: Callable[[int], T], steps: range, *, workers: int, depth: int) -> Iterator[T]:
    """`make(step)` of each step, in order.

    What `make` raises is raised here at its step, after all steps before it. No thread is begun before the first step
    is asked for, and none is left when this ends: exhausted, by an error, or closed. Closing waits for the steps that
    are being made, but not longer than GRACE.

    Args:
        make: called from any thread, for several steps at once.
        steps: to make.
        workers: threads that make steps, each whichever is next; 0 makes a step when it is asked for, right here.
        depth: steps finished or being made ahead of the one that the consumer has, at most.
    """
    if not workers:
        for step in steps:
            yield make(step)
        return
    line = _Line(make, steps, depth, _Gpu.of_this_thread())
    names = (f"{NAME}-{number}" for number in range(min(workers, depth, len(steps))))
    threads = [threading.Thread(target=line.work, name=name, daemon=True) for name in names]
    try:
        for thread in threads:
            thread.start()
        for position in range(len(steps)):
            yield line.wait(position)
    finally:
        line.stop()
        deadline = time.monotonic() + GRACE
        for thread in threads:
            # Garbage collection may close a forgotten generator in a thread of its own.
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))


@dataclass(frozen=True)
class _Made(Generic[T]):
    """A step's outcome, and on which events of the GPU it is complete."""

    value: T
    events: Sequence[torch.cuda.Event] = ()


class _Line(Generic[T]):
    """Steps between the threads that make them and the one consumer, by their position in `steps`."""

    def __init__(self, make: Callable[[int], T], steps: range, depth: int, gpu: "_Gpu | None") -> None:
        self._make, self._steps, self._depth, self._gpu = make, steps, depth, gpu
        self._changed = threading.Condition()
        self._done: dict[int, _Made[T] | BaseException] = {}
        self._taken = self._delivered = 0
        self._stopped = False

    def work(self) -> None:
        """Make steps until there are no more."""
        with self._gpu.side_stream() if self._gpu else nullcontext():
            while (position := self._take()) is not None:
                self._put(position, self._outcome(position))

    def _outcome(self, position: int) -> "_Made[T] | BaseException":
        try:
            value = self._make(self._steps[position])
            return _Made(value, _mark(value))
        except BaseException as error:  # noqa: BLE001 - whatever goes wrong is raised in the consumer
            return error

    def _take(self) -> int | None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._taken < self._delivered + self._depth)
            if self._stopped or self._taken >= len(self._steps):
                return None
            self._taken += 1
            return self._taken - 1

    def _put(self, position: int, made: _Made[T] | BaseException) -> None:
        with self._changed:
            self._done[position] = made
            if isinstance(made, BaseException):
                self._taken = len(self._steps)  # nobody will ask for what follows
            self._changed.notify_all()

    def wait(self, position: int) -> T:
        """The step at `position`, once it is made."""
        with self._changed:
            self._changed.wait_for(lambda: position in self._done)
            made = self._done.pop(position)
            self._delivered = position + 1
            self._changed.notify_all()
        if isinstance(made, BaseException):
            raise made
        _receive(made.value, made.events)
        return made.value

    def stop(self) -> None:
        """Let no further step be begun."""
        with self._changed:
            self._stopped = True
            self._done.clear()
            self._changed.notify_all()


@dataclass(frozen=True)
class _Gpu:
    """The consumer's device, which a new thread does not have, and an event after all that the consumer did so far."""

    device: int
    before: torch.cuda.Event

    @classmethod
    def of_this_thread(cls) -> "_Gpu | None":
        """None where CUDA is not in use."""
        if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch leaves it untyped
            return None
        return cls(torch.cuda.current_device(), torch.cuda.current_stream().record_event())

    def side_stream(self) -> torch.cuda.StreamContext:
        """A stream of the calling thread's own, so that its kernels and copies run beside the consumer's."""
        torch.cuda.set_device(self.device)
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        stream.wait_event(self.before)  # frames that the consumer's stream still brings to the device
        return torch.cuda.stream(stream)


def _tensors(value: object) -> list[Tensor]:
    """What of a step lies on a GPU."""
    if not isinstance(value, Views):
        return []
    found = [value.label, value.sample_id, value.mix_partner, value.mix_weight]
    found += [*value.views.values(), *value.masks.values(), *value.targets.values()]
    return [x for x in found if x is not None and x.is_cuda]


def _mark(value: object) -> list[torch.cuda.Event]:
    """An event of each device after which `value` is complete, as the thread that made it sees it."""
    return [torch.cuda.current_stream(device).record_event() for device in {x.device for x in _tensors(value)}]


def _receive(value: object, events: Sequence[torch.cuda.Event]) -> None:
    """Let the consumer's streams wait for `value`, and its memory be kept until they are done with it."""
    tensors = _tensors(value) if events else []
    streams = {device: torch.cuda.current_stream(device) for device in {x.device for x in tensors}}
    for stream in streams.values():
        for event in events:
            stream.wait_event(event)
    for x in tensors:
        x.record_stream(streams[x.device])
