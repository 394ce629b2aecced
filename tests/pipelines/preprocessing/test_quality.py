"""Quality of a recording against a slow count."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.preprocessing.quality import measure
from pipelines.preprocessing.recipes import recipe
from pipelines.preprocessing.steps import Dropped
from shards.schema import Quality, RawSequence


def recorded(listed: list[list[int]]) -> RawSequence:
    """A recording that lists bodies of these ids."""
    num_slots = max(1, *map(len, listed)) if listed else 1
    ids = np.zeros((len(listed), num_slots), np.int64)
    for t, frame in enumerate(listed):
        ids[t, : len(frame)] = frame
    frames = np.zeros((len(listed), num_slots, 25, 3))
    return RawSequence("k", frames, np.array([len(frame) for frame in listed], np.int64), ids)


def slow(listed: list[list[int]]) -> Quality:
    pairs = [(a, b) for x, y in pairwise(listed) for a, b in zip(x, y, strict=False)]
    return Quality(
        frames=len(listed),
        empty_frames=sum(not frame for frame in listed),
        bodies=max(map(len, listed), default=0),
        ids=len({one for frame in listed for one in frame} - {0}),
        switches=sum(a != b for a, b in pairs),
    )


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from([5, 6, 7, 2**62, 2**62 + 1]), max_size=4), max_size=12))
def test_quality_equals_a_slow_count(listed: list[list[int]]) -> None:
    assert measure(recorded(listed)) == slow(listed)


@pytest.mark.parametrize("num_ids", [63, 64, 65, 200])
def test_any_number_of_ids_is_counted(num_ids: int) -> None:
    listed = [[one] for one in range(1, num_ids + 1)] * 2
    assert measure(recorded(listed)) == slow(listed)


def test_formats_without_ids_have_none_and_no_switches() -> None:
    assert measure(recorded([[0, 0], [0], [0, 0]])) == Quality(frames=3, bodies=2)


def test_what_the_recipe_dropped_is_entered_by_reason() -> None:
    assert measure(recorded([[1]]), Dropped(1, 2, 3, 4)) == Quality(1, 0, 1, 1, 0, 1, 2, 3, 4)


def test_arrays_that_cannot_be_written_or_are_no_block_serve_too() -> None:
    raw = recorded([[1, 2], [2, 1]] * 3)
    raw.body_ids.flags.writeable = False
    raw.num_bodies.flags.writeable = False
    assert measure(raw).switches == 10
    every_other = RawSequence("k", raw.frames[::2, :1], raw.num_bodies[::2], raw.body_ids[::2, :1])
    assert measure(every_other) == Quality(frames=3, bodies=2, ids=1)


@pytest.mark.parametrize(("num_slots", "filled", "left_out"), [(2, 2, 0), (3, 3, 1), (4, 2, 0), (6, 6, 4)])
@pytest.mark.parametrize("source", ["ntu", "nwucla"])
def test_slots_beyond_the_two_kept_are_dropped_by_rank(source: str, num_slots: int, filled: int, left_out: int) -> None:
    frames = np.zeros((5, num_slots, 25, 3))
    frames[:, :filled] = np.random.default_rng(0).normal(0, 1, (5, filled, 25, 3))
    raw = RawSequence("k", frames, np.full(5, filled), np.zeros((5, num_slots), np.int64))
    for name in ("pcm3", "raw"):
        assert recipe(name, source).sample(raw).quality.dropped_by_rank == left_out
