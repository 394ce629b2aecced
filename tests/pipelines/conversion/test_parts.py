"""Parts: batches of raw files, and their division into Zarr shards."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines.conversion.parts import FRAME_BYTES, PartUnit, part_frames, read_part, store_units
from pipelines.conversion.recordings import list_recordings
from pipelines.synthetic import synthesize
from shards.store import FRAMES_PER_SHARD


@given(st.lists(st.integers(0, 3 * FRAMES_PER_SHARD), min_size=1, max_size=8).filter(sum))
def test_store_units_cover_every_frame_of_every_part_once_and_in_order(lengths: list[int]) -> None:
    units = store_units(Path("work"), lengths)
    frames = [sum(stop - first for _, first, stop in unit.pieces) for unit in units]
    assert frames[:-1] == [FRAMES_PER_SHARD] * (len(units) - 1)
    assert sum(frames) == sum(lengths)
    pieces = [piece for unit in units for piece in unit.pieces]
    for part, length in enumerate(lengths):
        bounds = [(first, stop) for number, first, stop in pieces if number == part]
        assert [first for first, _ in bounds] == [0, *(stop for _, stop in bounds[:-1])][: len(bounds)]
        assert (bounds[-1][1] if bounds else 0) == length
    assert [part for part, _, _ in pieces] == sorted(part for part, _, _ in pieces)


def test_a_part_that_is_torn_or_garbled_is_made_again(tmp_path: Path) -> None:
    raw = synthesize("ntu", tmp_path / "raw", subjects=2, classes=2, samples=4, seed=0, zipped=False)
    recordings = tuple(list_recordings("ntu", [raw]))[:3]
    unit = PartUnit(tmp_path, 0, "ntu", "raw", recordings, True)
    assert not unit.is_done()
    unit()
    assert unit.is_done()
    part, path = read_part(tmp_path, 0), part_frames(tmp_path, 0)
    assert part is not None
    whole, note = path.read_bytes(), path.with_suffix(".json").read_bytes()
    assert len(whole) == part.frames * FRAME_BYTES
    assert np.isfinite(np.frombuffer(whole, "<f4")).all()
    for damaged_frames, damaged_note in ((whole[:-4], note), (whole, note[:-9]), (whole, b"[]")):
        path.write_bytes(damaged_frames)
        path.with_suffix(".json").write_bytes(damaged_note)
        assert not unit.is_done()
        unit()
        assert (path.read_bytes(), path.with_suffix(".json").read_bytes()) == (whole, note)
