from typing import Any

import numpy as np
import pytest

from models.evaluation.detection.events import Events, check_evaluable, concatenate
from shards.errors import ConfigError

GOOD: dict[str, Any] = {
    "video": [4, 4, 7],
    "label": [1, 2, 1],
    "start": [0, 5, 9],
    "end": [3, 6, 20],
    "score": [1, 0, -2],
}


def test_one_video_and_one_score_hold_for_all_events() -> None:
    events = Events.of(3, [1, 2], [0, 4], [1, 9])
    assert len(events) == 2
    assert events.video.tolist() == [3, 3]
    assert events.score.tolist() == [1.0, 1.0]
    assert len(Events.of(3, [], [], [])) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"end": [3, 5, 20]}, r"row 1: found start 5 and end 5, expected start < end \(ends are exclusive\)"),
        ({"label": [1, 2, 0]}, "row 2: found label 0, expected 1 or more"),
        ({"video": [4, -1, 7]}, "row 1: found video -1, expected 0 or more"),
        ({"start": [-3, 5, 9]}, "row 0: found start -3, expected 0 or more"),
        ({"score": [1, float("nan"), 0]}, "row 1: found score nan, expected a finite number"),
        ({"score": [1, 0, float("inf")]}, "row 2: found score inf, expected a finite number"),
        ({"label": [1, 2]}, r"found arrays of shapes .*'label': \(2,\).*, expected one dimension and equal lengths"),
        ({"start": [[0, 5, 9]]}, "expected one dimension"),
        ({"start": [0, 5.5, 9]}, "start: found numbers of type float64, expected whole numbers"),
    ],
)
def test_a_wrong_event_is_refused_with_its_row(change: dict[str, Any], message: str) -> None:
    Events.of(**GOOD)
    with pytest.raises(ConfigError, match=message):
        Events.of(**GOOD | change)


def test_concatenated_events_keep_their_order() -> None:
    events = Events.of(**GOOD)
    both = concatenate([events.take(np.array([2, 0])), Events.of(0, [], [], []), events.take(events.video == 4)])
    assert both.start.tolist() == [9, 0, 0, 5]
    assert both.score.tolist() == [-2, 1, 1, 0]
    assert len(concatenate([])) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"truth": Events.of(4, [], [], [])}, "ground truth: found no event"),
        ({"videos": np.array([], dtype=np.int64)}, "videos: found 0 indices, expected at least one and each once"),
        ({"videos": np.array([4, 7, 4])}, "videos: found 3 indices, expected at least one and each once"),
        (
            {"detections": Events.of([4, 7], [1, 3], 2 * [0], 2 * [1])},
            r"detections: row 1: found label 3, expected 1\.\.2",
        ),
        ({"truth": Events.of([4, 5], [1, 1], 2 * [0], 2 * [1])}, "ground truth: row 1: found video 5, expected one of"),
        ({"tious": (0.5, 0.0)}, r"tIoU: found thresholds \[0.5, 0.0\]"),
        ({"tious": ()}, "expected at least one"),
        ({"tious": (1.5,)}, "at most 1"),
    ],
)
def test_what_could_only_be_scored_wrongly_is_refused(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"truth": Events.of(**GOOD), "detections": Events.of(**GOOD), "videos": np.array([7, 4, 6])}
    good |= {"num_classes": 2, "tious": (0.5, 1.0)}
    check_evaluable(**good)
    with pytest.raises(ConfigError, match=message):
        check_evaluable(**good | change)
