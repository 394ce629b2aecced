"""Parsers against the numbers of public reference code, bit for bit."""

import numpy as np
import pytest

from pipelines.parsers.pkummd import parse as parse_pkummd
from pipelines.parsers.pkummd import parse_labels
from shards.schema import RawSequence
from tests.numerics.golden import FOLDER, matching, numbers
from tests.numerics.recordings import NAMES, VIDEO, VIDEO_FRAMES, VIDEO_LABELS, parsed

TRIMMED = numbers("pku_pcm3")
TABLE = TRIMMED["label_table"]


def first_slots(sequence: RawSequence, slots: int) -> np.ndarray:
    padded = np.zeros((len(sequence.frames), slots, *sequence.frames.shape[2:]))
    kept = sequence.frames[:, :slots]
    padded[:, : kept.shape[1]] = kept
    return padded


def test_every_golden_recording_has_numbers_and_every_number_a_recording() -> None:
    assert sorted(path.stem for path in (FOLDER / "ntu_raw").iterdir()) == NAMES
    assert sorted(matching(numbers("ntu_pcm3"), "*__raw")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_ntu_files_equal_the_reference_exactly(name: str) -> None:
    sequence, expected = parsed(name), numbers("ntu_pcm3")
    raw = expected[f"{name}__raw"]
    assert len(raw) == expected[f"{name}__num_frame"]
    assert np.array_equal(first_slots(sequence, raw.shape[1]), raw)
    assert np.array_equal(sequence.num_bodies, expected[f"{name}__num_bodies"])
    ids = [[str(i) if i else "" for i in row] for row in sequence.body_ids.tolist()]
    assert np.array(ids, dtype=str).reshape(sequence.body_ids.shape).tolist() == expected[f"{name}__body_ids"].tolist()


@pytest.fixture(scope="module")
def pku_video() -> RawSequence:
    return parse_pkummd(VIDEO_FRAMES.read_bytes(), VIDEO, VIDEO_FRAMES.name)


def test_pku_actions_equal_the_reference_exactly(pku_video: RawSequence) -> None:
    assert len(matching(TRIMMED, "trim_*")) == len(TABLE)
    for number, (_, start, end, _) in enumerate(TABLE):
        clip = pku_video.frames[start:end].transpose(3, 0, 2, 1)
        assert np.array_equal(clip, TRIMMED[f"trim_{number:02d}"]), number


def test_pku_labels_equal_the_reference_but_for_the_rows_that_are_refused(pku_video: RawSequence) -> None:
    rows, problems = parse_labels(VIDEO_LABELS.read_bytes(), VIDEO_LABELS.name, len(pku_video.frames), num_classes=51)
    for row in rows:
        assert [row.label + 1, row.start, row.end, row.confidence] == TABLE[row.row].tolist()
    starts_late_or_ends_late = (TABLE[:, 1] >= TABLE[:, 2]) | (TABLE[:, 2] > len(pku_video.frames))
    assert [row for row, _ in problems] == np.flatnonzero(starts_late_or_ends_late).tolist()
    assert len(rows) + len(problems) == len(TABLE) > 0
