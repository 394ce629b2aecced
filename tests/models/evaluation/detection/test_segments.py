from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from models.evaluation.detection.segments import PostProcessing, find_actions, pad, segments, smooth, window_search
from shards.errors import ConfigError

Array = npt.NDArray[np.float64]


def probabilities(longest: int) -> st.SearchStrategy[Array]:
    """(T, 4), rows that sum to 1; runs of equal rows are frequent."""

    def build(rows: Array, lengths: list[int]) -> Array:
        chosen = rows[: len(lengths)].repeat(lengths[: len(rows)], axis=0)
        normalised: Array = chosen / chosen.sum(axis=1, keepdims=True)
        return normalised

    rows = st_numpy.arrays(np.float64, (12, 4), elements=st.sampled_from([0.01, 0.1, 0.5, 1.0]))
    return st.builds(build, rows, st.lists(st.integers(1, longest), min_size=1, max_size=12))


def slow_smooth(prob: Array, half_width: int) -> Array:
    frames = len(prob)
    if frames == 1:
        return prob
    rows = []
    for i in range(frames):
        stop = i + half_width if i + half_width < frames else frames - 1
        rows.append(np.mean(prob[max(i - half_width, 0) : stop], axis=0))
    return np.stack(rows)


def slow_segments(prob: Array, activity: float) -> list[tuple[int, int, int, float]]:
    found, run = [], list[int]()
    for t in range(len(prob) + 1):
        if t < len(prob) and 1 - prob[t, 0] >= activity:
            run.append(t)
        elif run:
            means = [float(np.mean([prob[u, c] for u in run])) for c in range(1, prob.shape[1])]
            found.append((1 + means.index(max(means)), run[0], run[-1] + 1, max(means)))
            run = []
    return found


def slow_windows(prob: Array) -> list[tuple[int, int, int, float]]:
    """The rules of the golden numbers, word for word; ends inclusive."""
    frames, label = len(prob), [int(row.argmax()) for row in prob]

    def n(i: int, j: int, c: int) -> int:
        return sum(label[t] == c for t in range(i + 1, j + 1))

    found, i = [], 0
    while i < frames - 15:
        c = label[i]
        if c > 0 and n(i, i + 15, c) / 15 > 0.1 and i + 30 < frames:
            pos = i + 15
            r = n(pos, pos + 15, c) / 15
            while r > 0.1 and pos + 30 < frames:
                pos += 15
                r = n(pos, pos + 15, c) / 15
            r = n(pos - 2, pos, c) / 2
            while r < 0.1 and pos > i:
                pos -= 2
                r = n(pos - 2, pos, c) / 2
            if pos > i:
                found.append((c, i, pos, round(float(np.mean(prob[i : pos + 1, c])), 5)))
                i = pos
                continue
        i += 1
    return found


@given(prob=probabilities(4), half_width=st.integers(1, 12))
def test_smoothing_equals_a_mean_frame_by_frame(prob: Array, half_width: int) -> None:
    np.testing.assert_allclose(smooth(prob, half_width), slow_smooth(prob, half_width), atol=1e-12)


@given(prob=probabilities(4), activity=st.sampled_from([0.25, 0.4, 0.8]))
def test_segments_equal_a_walk_over_the_frames(prob: Array, activity: float) -> None:
    found = segments(prob, 7, activity)
    expected = slow_segments(prob, activity)
    assert list(zip(found.start, found.end, strict=True)) == [row[1:3] for row in expected]
    np.testing.assert_allclose(found.score, [row[3] for row in expected], atol=1e-12)
    # of classes whose means differ by rounding alone either may be named
    for label, start, end, score in zip(found.label, found.start, found.end, found.score, strict=True):
        np.testing.assert_allclose(prob[start:end, label].mean(), score, atol=1e-12)
    assert set(found.video.tolist()) <= {7}


@given(prob=probabilities(30))
def test_the_window_search_equals_its_rules_word_for_word(prob: Array) -> None:
    found = window_search(prob, 7)
    expected = slow_windows(prob)
    rows = list(zip(found.label, found.start, found.end - 1, strict=True))
    assert rows == [row[:3] for row in expected]
    np.testing.assert_allclose(found.score, [row[3] for row in expected], atol=1.1e-5)


def test_the_window_search_finds_actions_apart_and_none_in_a_short_video() -> None:
    prob = np.eye(3)[[0] * 20 + [1] * 40 + [0] * 20 + [2] * 50 + [0] * 40]
    found = window_search(prob)
    assert found.label.tolist() == [1, 2]
    assert found.start.tolist() == [20, 80]
    assert np.all(np.abs(found.end - [60, 130]) <= 1)
    assert len(window_search(np.eye(3)[[1] * 30])) == 0
    assert len(window_search(np.eye(3)[[1] * 31])) == 1


def test_certain_probabilities_give_the_actions_back() -> None:
    prob = np.eye(5)[[0] * 6 + [3] * 30 + [0] * 25 + [1] * 40 + [0] * 25 + [3] * 30]
    found = segments(prob, 2)
    assert found.video.tolist() == [2, 2, 2]
    assert found.label.tolist() == [3, 1, 3]
    assert found.start.tolist() == [6, 61, 126]
    assert found.end.tolist() == [36, 101, 156]
    assert found.score.tolist() == [1, 1, 1]
    smoothed = find_actions(prob, 2)
    assert smoothed.label.tolist() == [3, 1, 3]
    # 6 frames of background at the start are too few for a window of 20
    assert smoothed.start.tolist() == [0, 59, 124]
    assert smoothed.end.tolist() == [39, 104, 156]


def test_padding_is_background_and_reaches_into_the_last_frames() -> None:
    prob = np.eye(3)[[0] * 40 + [2] * 30]
    padded = pad(prob, 100)
    assert padded.shape == (100, 3)
    np.testing.assert_array_equal(padded[70:], np.eye(3)[[0] * 30])
    assert find_actions(prob, 0).end.tolist() == [70]
    assert find_actions(prob, 0, PostProcessing(pad_to=100)).end.tolist() > [70]
    np.testing.assert_array_equal(pad(prob, 70), prob)
    with pytest.raises(ConfigError, match="found a video of 70 frames, expected at most 69"):
        pad(prob, 69)


def test_the_options_choose_the_search_and_its_numbers() -> None:
    prob = np.eye(3)[[0] * 40 + [2] * 60 + [0] * 40] * 0.5 + 0.5 / 3
    assert (
        find_actions(prob, 1, PostProcessing(search="window")).score.tolist() == window_search(prob, 1).score.tolist()
    )
    narrow = find_actions(prob, 1, PostProcessing(half_width=1, activity=0.8))
    assert (narrow.start.tolist(), narrow.end.tolist()) == ([41], [100])
    assert len(find_actions(prob, 1, PostProcessing(activity=0.9))) == 0


def test_a_video_of_one_frame_stays_as_it_is() -> None:
    np.testing.assert_array_equal(smooth(np.array([[0.25, 0.75]])), [[0.25, 0.75]])


@pytest.mark.parametrize(
    ("prob", "message"),
    [
        (np.zeros((0, 3)), r"shape \(0, 3\), expected \(frames, background and classes\)"),
        (np.ones((4, 1)), r"shape \(4, 1\)"),
        (np.ones(4), r"shape \(4,\)"),
        (np.array([[0.5, 0.5], [1.0, float("nan")]]), "frame 1: .*nan.*expected probabilities between 0 and 1"),
        (np.array([[0.5, 3.5]]), "frame 0: "),
        (np.array([[1.5, -0.5]]), "frame 0: "),
    ],
)
@pytest.mark.parametrize("function", [smooth, segments, window_search, pad])
def test_numbers_that_are_no_probabilities_are_refused(function: Any, prob: Array, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        function(prob)
