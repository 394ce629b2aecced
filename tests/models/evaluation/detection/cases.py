"""Small cases of detection, rich in ties, duplicates and gaps, for the tests of both evaluators."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from models.evaluation.detection.events import Events

Row = tuple[int, int, int, int, float]
"""Video, label, start, end, score."""


@dataclass(frozen=True)
class Case:
    """Ground truth and detections as rows, and what else the evaluators are given."""

    truth_rows: list[Row]
    detection_rows: list[Row]
    videos: npt.NDArray[np.int64]
    num_classes: int

    @property
    def arguments(self) -> tuple[Events, Events, npt.NDArray[np.int64], int]:
        return as_events(self.truth_rows), as_events(self.detection_rows), self.videos, self.num_classes

    def rows_of(self, column: int, value: int) -> tuple[list[Row], list[Row]]:
        """Ground truth and detections of a video (column 0) or a class (column 1)."""
        truth, detections = self.truth_rows, self.detection_rows
        return [row for row in truth if row[column] == value], [row for row in detections if row[column] == value]


def as_events(rows: list[Row]) -> Events:
    video, label, start, end, score = zip(*rows, strict=True) if rows else ([],) * 5
    return Events.of(video, label, start, end, score)


def _rows(least: int) -> SearchStrategy[list[Row]]:
    row = st.builds(
        lambda video, label, start, length, score: (video, label, start, start + length, score),
        st.sampled_from([2, 5, 9]),
        st.integers(1, 3),
        st.integers(0, 6),
        st.integers(1, 6),
        st.sampled_from([0.1, 0.2, 0.5, 0.9]),
    )
    # half of the time with two rows again
    return st.builds(
        lambda rows, again: rows + rows[:again], st.lists(row, min_size=least, max_size=10), st.sampled_from([0, 2])
    )


def cases() -> SearchStrategy[Case]:
    """Cases in which video 11 and class 4 have no event at all."""
    return st.builds(Case, _rows(1), _rows(0), st.permutations([2, 5, 9, 11]).map(np.array), st.just(4))


def large_case(seed: int) -> Case:
    """Detections near the ground truth, all scores different; each class and video has ground truth."""
    generator = np.random.default_rng(seed)
    truth: list[Row] = []
    detections: list[Row] = []
    for video in range(12):
        start = 0
        for i in range(15):
            start += int(generator.integers(5, 40))
            end = start + int(generator.integers(10, 60))
            label = 1 + (video + i) % 7
            truth.append((video, label, start, end, 1.0))
            for _ in range(int(generator.integers(0, 4))):
                moved = max(0, start + int(generator.integers(-20, 20)))
                detections.append((video, label, moved, end + 25, 0.0))
            start = end
    scores = generator.permutation(len(detections)) / len(detections)
    detections = [(*row[:4], float(score)) for row, score in zip(detections, scores, strict=True)]
    return Case(truth, detections, np.arange(12), 7)


def shuffled(case: Case, seed: int) -> Case:
    """The same case with its detections in another order."""
    order = np.random.default_rng(seed).permutation(len(case.detection_rows))
    return replace(case, detection_rows=[case.detection_rows[i] for i in order])


def oracle(case: Case) -> Case:
    """The case with its ground truth, each event once and with a score of its own, as detections."""
    truth = sorted(set(case.truth_rows))
    truth = [row for i, row in enumerate(truth) if row[:4] not in {other[:4] for other in truth[:i]}]
    detections = [(*row[:4], i / len(truth)) for i, row in enumerate(truth)]
    return replace(case, truth_rows=truth, detection_rows=detections)
