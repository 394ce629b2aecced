"""The rows of a store: what its tables say of them, and which of them lie in one of its files of frames."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pipelines.conversion.recordings import Recording
from pipelines.repair.reparse import Frames, RawInput, Reparsed
from shards.catalog import source as source_of
from shards.errors import StoreError
from shards.schema import Quality, SampleInfo, Segment
from shards.store import FRAMES_PER_SHARD, Store


@dataclass(frozen=True)
class Rows:
    """What `shards.store.create` takes: what is known of each row, its frames, its actions, its quality."""

    infos: list[SampleInfo]
    lengths: list[int]
    segments: list[Segment] | None
    quality: list[Quality] | None

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        return np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64)

    def spans_in(self, number: int) -> Iterator[tuple[int, int, int]]:
        """Row, first frame and stop frame of what the rows have in a file of frames."""
        first, stop = number * FRAMES_PER_SHARD, min((number + 1) * FRAMES_PER_SHARD, int(self.offsets[-1]))
        row = int(np.searchsorted(self.offsets, first, side="right")) - 1
        while row < len(self.infos) and (begin := int(self.offsets[row])) < stop:
            yield row, max(first - begin, 0), min(stop - begin, self.lengths[row])
            row += 1


def rows_of(store: Store) -> Rows:
    """The rows of a store whose tables are sound."""
    return Rows(store.infos, np.diff(store.offsets).tolist(), store.segments, store.quality)


def rows_again(source: str, raw: RawInput, again: Reparsed) -> Rows:
    """The rows that a conversion makes of raw input, all of which was parsed again."""
    parsed = [again.parsed(recording.key) for recording in raw.recordings]
    rows = [(row, row.info) for row in parsed if row.info is not None]
    segments = [
        Segment(video, action.row, action.start, action.end, action.label, action.confidence)
        for video, (row, _) in enumerate(rows)
        for action in row.actions
    ]
    quality = [row.quality for row, _ in rows if row.quality is not None]
    return Rows(
        [info for _, info in rows],
        [row.frames for row, _ in rows],
        segments if source_of(source).untrimmed else None,
        quality if len(quality) == len(rows) else None,
    )


def recordings_in(numbers: Iterable[int], rows: Rows, raw: RawInput) -> list[Recording]:
    """The recordings that have frames in these files of frames."""
    keys = {rows.infos[row].key for number in numbers for row, _, _ in rows.spans_in(number)}
    return [recording for recording in raw.recordings if recording.key in keys]


def frames_again(number: int, rows: Rows, again: Reparsed) -> Frames:
    """What one file of frames holds, (n, M, V, C) float32, of recordings that were parsed again.

    Raises:
        StoreError: a recording has another number of frames now.
    """
    pieces = []
    for row, first, stop in rows.spans_in(number):
        key, length = rows.infos[row].key, rows.lengths[row]
        parsed = again.parsed(key)
        if parsed.frames != length:
            found = parsed.faults[0].reason if parsed.faults else f"{parsed.frames} frames"
            raise StoreError(f"{key}: found {found} in the raw input, expected the {length} frames of the store")
        pieces.append(again.frames(key, first, stop))
    return np.concatenate(pieces)
