"""What reading and writing through fsspec needs beyond `pathlib`: its errors, and many ranges of bytes at once."""

import asyncio
import hashlib
import random
import threading
import time
from bisect import bisect_right
from collections.abc import Sequence
from concurrent import futures
from pathlib import Path
from typing import Any, BinaryIO

from upath import UPath

from shards.errors import StoreError
from shards.places import Place

MAX_GAP = 1 << 18
"""Bytes between two ranges that are cheaper to fetch than another request: 256 kB pass in the 3 ms of a near one."""

MAX_REQUEST = 1 << 24
"""Bytes of one request at most; several are under way at once."""

PART = 1 << 23
"""Bytes of one request when a whole file is fetched."""

PARTS = 4
"""Requests of one file under way at once when it is fetched whole, and REQUESTS when ranges of it are read."""

REQUESTS = 32

ATTEMPTS = 5
"""Times that a request is made before it is an error."""

BACKOFF = 1.0
"""Seconds before the second attempt, at most; twice as many before each further one, so 15 in all."""

STALL = 60.0
"""Seconds without an answer, or without another byte of it, after which an attempt has failed."""

SLOWEST = 1 << 16
"""Bytes a second of a request, below which it has failed: the file systems that do not count single bytes' time."""

_POLL = 0.1

Span = tuple[int, int]


class Stopped(Exception):  # noqa: N818 - it is no error
    """What was being read is not wanted any more."""


def failures(place: Place, local: tuple[type[Exception], ...] = (OSError,)) -> tuple[type[Exception], ...]:
    """The exceptions by which reading at `place` can fail for reasons outside this program.

    For a remote one it is every `Exception`: botocore, aiohttp and the libraries of Google and Microsoft raise families
    of their own, which cannot be named where they are not installed.

    Args:
        place: where something is read.
        local: what a local path raises.
    """
    return local if isinstance(place, Path) else (Exception,)


def fetch(place: UPath, file: BinaryIO, size: int, *, stall: float = STALL, stop: threading.Event | None = None) -> str:
    """Copy a remote file of known size to the end of `file`, by ranges of which several are under way at once.

    Timeouts, broken connections, answers 5xx and answers that are too short are tried again, ATTEMPTS times in all,
    after BACKOFF seconds and twice as long each time.

    Args:
        place: the remote file.
        file: where its bytes go, in order. What writing to it raises is passed on.
        size: of the remote file in bytes; what it has beyond is not read.
        stall: as STALL.
        stop: ends it with `Stopped` when it is set.

    Returns:
        SHA-256 of the bytes, 64 hex digits.

    Raises:
        StoreError: there is no such file, or no way to get it; names the place, the attempts and the last reason.
    """
    digest = hashlib.sha256()
    spans = [(start, min(start + PART, size)) for start in range(0, size, PART)]
    for first in range(0, len(spans), PARTS):
        try:
            blobs = _read(place, spans[first : first + PARTS], True, stall, stop)
        except _Failed as failed:
            raise StoreError(f"{place}: found {failed}, expected {size} bytes") from failed.reason
        for blob in blobs:
            digest.update(blob)
            file.write(blob)
    return digest.hexdigest()


def read_ranges(place: UPath, ranges: Sequence[Span]) -> list[memoryview]:
    """Bytes `start`..`stop - 1` of each range of one file; ranges that lie close together share a request.

    A range beyond the end of the file comes back shorter. What `fetch` tries again is tried again.

    Raises:
        OSError: there is no way to read it; says how often it was tried and why not.
    """
    merged = merge_ranges(ranges)
    blobs: list[bytes] = []
    for first in range(0, len(merged), REQUESTS):
        try:
            blobs += _read(place, merged[first : first + REQUESTS], False, STALL, None)
        except _Failed as failed:
            raise OSError(str(failed)) from failed.reason
    starts = [start for start, _ in merged]
    found = []
    for start, stop in ranges:
        number = bisect_right(starts, start) - 1
        found.append(memoryview(blobs[number])[start - starts[number] : stop - starts[number]])
    return found


def merge_ranges(ranges: Sequence[Span]) -> list[Span]:
    """Rising ranges that cover the given ones, joined where the gap is at most MAX_GAP, up to MAX_REQUEST."""
    merged: list[Span] = []
    for start, stop in sorted(set(ranges)):
        if merged and start - merged[-1][1] <= MAX_GAP and max(stop, merged[-1][1]) - merged[-1][0] <= MAX_REQUEST:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


class _Failed(Exception):  # noqa: N818 - becomes the error that its reader owes
    def __init__(self, reason: Exception, attempts: int) -> None:
        again = f" at attempt {attempts} of {ATTEMPTS}" if attempts > 1 else ""
        super().__init__(f"no way to read it{again} ({str(reason) or type(reason).__name__})")
        self.reason = reason


def _read(place: UPath, spans: Sequence[Span], whole: bool, stall: float, stop: threading.Event | None) -> list[bytes]:
    """These ranges of a file; what failed is asked for again. `whole`: an answer that is too short has failed."""
    fs = _of_one_attempt(place.fs, stall)
    blobs: dict[int, bytes] = {}
    for attempt in range(1, ATTEMPTS + 1):
        missing = [number for number in range(len(spans)) if number not in blobs]
        answers = _ask(fs, place.path, [spans[number] for number in missing], stall, stop)
        reasons = []
        for number, answer in zip(missing, answers, strict=True):
            start, end = spans[number]
            if isinstance(answer, Exception):
                reasons.append(answer)
            elif len(answer) > end - start or (whole and len(answer) < end - start):
                reasons.append(OSError(f"{len(answer)} bytes from byte {start} on instead of {end - start}"))
            else:
                blobs[number] = answer
        if not reasons:
            break
        final = next((reason for reason in reasons if _is_final(reason)), None)
        if final or attempt == ATTEMPTS:
            raise _Failed(final or reasons[-1], attempt)
        _pause(BACKOFF * 2 ** (attempt - 1) * random.Random().uniform(0.5, 1), stop)
    return [blobs[number] for number in range(len(spans))]


def _ask(
    fs: Any, path: str, spans: Sequence[Span], stall: float, stop: threading.Event | None
) -> list[bytes | Exception]:
    """One request for each range, all at once where the file system can."""
    if not fs.async_impl:
        return [_ask_in_turn(fs, path, span, stop) for span in spans]
    # Not `fs.cat_ranges`: it cannot be left before the last answer, which may never come.
    asked = [
        asyncio.run_coroutine_threadsafe(fs._cat_file(path, start=start, end=end), fs.loop) for start, end in spans
    ]
    seconds = stall + sum(end - start for start, end in spans) / SLOWEST
    deadline, pending = time.monotonic() + seconds, set(asked)
    try:
        while pending and time.monotonic() < deadline:
            _, pending = futures.wait(pending, _POLL)
            _refuse_stopped(stop)
        late = TimeoutError(f"no whole answer in {seconds:.0f} s")
        return [late if future in pending else _outcome(future) for future in asked]
    finally:
        for future in asked:
            future.cancel()


def _ask_in_turn(fs: Any, path: str, span: Span, stop: threading.Event | None) -> bytes | Exception:
    _refuse_stopped(stop)
    try:
        found: bytes = fs.cat_file(path, start=span[0], end=span[1])
    except Exception as error:  # noqa: BLE001 - as `failures`
        return error
    return found


def _outcome(future: "futures.Future[bytes]") -> bytes | Exception:
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, Exception):
        return error
    raise error


def _pause(seconds: float, stop: threading.Event | None) -> None:
    if stop is None:
        time.sleep(seconds)
    else:
        stop.wait(seconds)
    _refuse_stopped(stop)


def _refuse_stopped(stop: threading.Event | None) -> None:
    if stop is not None and stop.is_set():
        raise Stopped


def _is_final(reason: Exception) -> bool:
    """Whether asking again is of no use: the file is not there, or not for us."""
    if isinstance(reason, FileNotFoundError | PermissionError | IsADirectoryError | NotImplementedError):
        return True
    response = getattr(reason.__cause__, "response", None)  # of botocore, whose error s3fs translates
    facts = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    status = facts.get("HTTPStatusCode") or getattr(reason, "status", None) or getattr(reason, "code", None)
    return isinstance(status, int) and 400 <= status < 500 and status not in (408, 425, 429)


def _of_one_attempt(fs: Any, stall: float) -> Any:
    """The same file system, which gives up after `stall` seconds without a byte and tries nothing again by itself.

    By default a request to S3 is tried 125 times: botocore five times, s3fs five times around it, twice. File systems
    that we do not know stay as they are.
    """
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    options = dict(fs.storage_options)
    if "s3" in protocols:
        config = {"read_timeout": stall, **(options.get("config_kwargs") or {}), "retries": {"max_attempts": 0}}
        ours = type(fs)(*fs.storage_args, **(options | {"config_kwargs": config}))  # fsspec keeps it for the next time
        ours.retries = 1
        return ours
    if "http" in protocols:
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(total=None, sock_connect=stall, sock_read=stall)
        client = {"timeout": timeout, **(options.get("client_kwargs") or {})}
        return type(fs)(*fs.storage_args, **(options | {"client_kwargs": client}))
    return fs
