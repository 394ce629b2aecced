"""What reading and writing through fsspec needs beyond `pathlib`: its errors, and many ranges of bytes at once."""

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

from upath import UPath

from shards.places import Place

MAX_GAP = 1 << 18
"""Bytes between two ranges that are cheaper to fetch than another request: 256 kB pass in the 3 ms of a near one."""

MAX_REQUEST = 1 << 24
"""Bytes of one request at most; several are under way at once."""


def failures(place: Place, local: tuple[type[Exception], ...] = (OSError,)) -> tuple[type[Exception], ...]:
    """The exceptions by which reading at `place` can fail for reasons outside this program.

    For a remote one it is every `Exception`: botocore, aiohttp and the libraries of Google and Microsoft raise families
    of their own, which cannot be named where they are not installed.

    Args:
        place: where something is read.
        local: what a local path raises.
    """
    return local if isinstance(place, Path) else (Exception,)


def read_ranges(place: UPath, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
    """Bytes `start`..`stop - 1` of each range of one file; ranges that lie close together share a request.

    A range beyond the end of the file comes back shorter. Raises whatever the file system raises.
    """
    merged = merge_ranges(ranges)
    starts, stops = [start for start, _ in merged], [stop for _, stop in merged]
    blobs = place.fs.cat_ranges([place.path] * len(merged), starts, stops, on_error="raise")
    found = []
    for start, stop in ranges:
        number = bisect_right(starts, start) - 1
        found.append(memoryview(blobs[number])[start - starts[number] : stop - starts[number]])
    return found


def merge_ranges(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Rising ranges that cover the given ones, joined where the gap is at most MAX_GAP, up to MAX_REQUEST."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(set(ranges)):
        if merged and start - merged[-1][1] <= MAX_GAP and max(stop, merged[-1][1]) - merged[-1][0] <= MAX_REQUEST:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged
