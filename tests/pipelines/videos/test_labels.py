import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines.videos.labels import Overlaps, frame_labels
from shards.schema import Segment


def action(row: int, start: int, end: int, label: int) -> Segment:
    return Segment(0, row, start, end, label, 2)


def test_frames_outside_actions_are_background_and_inside_the_label_plus_one() -> None:
    label, overlaps = frame_labels(6, [action(0, 1, 3, 0), action(1, 3, 5, 50)])
    assert label.dtype == np.int64
    assert label.tolist() == [0, 1, 1, 51, 51, 0]
    assert overlaps == Overlaps(0, 0, 0)


def test_where_actions_overlap_the_later_row_of_the_label_file_wins() -> None:
    label, overlaps = frame_labels(8, [action(1, 1, 5, 3), action(0, 3, 8, 6)])
    assert label.tolist() == [0, 4, 4, 4, 4, 7, 7, 7]
    assert overlaps == Overlaps(frames=2, actions=2, hidden=0)


def test_an_action_that_a_later_row_covers_whole_is_counted_as_hidden() -> None:
    label, overlaps = frame_labels(6, [action(0, 2, 4, 3), action(1, 1, 5, 6), action(2, 5, 6, 1)])
    assert label.tolist() == [0, 7, 7, 7, 7, 2]
    assert overlaps == Overlaps(frames=2, actions=2, hidden=1)


def test_a_video_without_actions_is_all_background() -> None:
    label, overlaps = frame_labels(3, [])
    assert label.tolist() == [0, 0, 0]
    assert overlaps == Overlaps()


@given(st.lists(st.tuples(st.integers(0, 18), st.integers(1, 12), st.integers(0, 50)), max_size=6))
def test_labels_and_overlaps_equal_a_loop_over_frames(drawn: list[tuple[int, int, int]]) -> None:
    actions = [action(row, s, min(20, s + n), label) for row, (s, n, label) in enumerate(drawn)]
    label, overlaps = frame_labels(20, actions)
    owners: list[int | None] = []
    shared = set()
    frames = 0
    for t in range(20):
        rows = [a.row for a in actions if a.start <= t < a.end]
        owners.append(rows[-1] if rows else None)
        if len(rows) > 1:
            frames += 1
            shared |= set(rows)
    assert label.tolist() == [0 if row is None else actions[row].label + 1 for row in owners]
    assert overlaps == Overlaps(frames, len(shared), len({a.row for a in actions} - set(owners)))
