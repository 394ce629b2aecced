"""Parsers against the numbers of public reference code, bit for bit."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipelines.parsers.ntu import parse as parse_ntu
from pipelines.parsers.pkummd import parse as parse_pkummd
from pipelines.parsers.pkummd import parse_labels
from shards.schema import RawSequence

REFERENCE_SLOTS = 4


def first_slots(sequence: RawSequence) -> np.ndarray:
    padded = np.zeros((len(sequence.frames), REFERENCE_SLOTS, 25, 3))
    kept = sequence.frames[:, :REFERENCE_SLOTS]
    padded[:, : kept.shape[1]] = kept
    return padded


def test_ntu_files_equal_the_reference_exactly(golden: Path) -> None:
    names = json.loads((golden / "ntu_files.json").read_text())
    assert len(names) == 18
    with np.load(golden / "ntu_pcm3.npz") as expected:
        for name in names:
            path = golden / "ntu_raw" / f"{name}.skeleton"
            sequence = parse_ntu(path.read_bytes(), name, path.name)
            assert np.array_equal(first_slots(sequence), expected[f"{name}__raw"]), name
            assert np.array_equal(sequence.num_bodies, expected[f"{name}__num_bodies"]), name
            ids = [[str(i) if i else "" for i in row] for row in sequence.body_ids.tolist()]
            assert np.array(ids, dtype=str).reshape(sequence.body_ids.shape).tolist() == (
                expected[f"{name}__body_ids"].tolist()
            ), name


@pytest.fixture
def pku_video(golden: Path) -> RawSequence:
    return parse_pkummd((golden / "pku/0901-M.txt").read_bytes(), "0901-M", "0901-M.txt")


def test_pku_actions_equal_the_reference_exactly(golden: Path, pku_video: RawSequence) -> None:
    with np.load(golden / "pku_pcm3.npz") as expected:
        for number, (_, start, end, _) in enumerate(expected["label_table"]):
            clip = pku_video.frames[start:end].transpose(3, 0, 2, 1)
            assert np.array_equal(clip, expected[f"trim_{number:02d}"]), number
        assert number == 11


def test_pku_labels_equal_the_reference_but_for_the_rows_that_are_refused(golden: Path, pku_video: RawSequence) -> None:
    data = (golden / "pku/0901-M.label.txt").read_bytes()
    rows, problems = parse_labels(data, "0901-M.label.txt", len(pku_video.frames), num_classes=51)
    with np.load(golden / "pku_pcm3.npz") as expected:
        table = expected["label_table"]
    for row in rows:
        assert [row.label + 1, row.start, row.end, row.confidence] == table[row.row].tolist()
    starts_late_or_ends_late = (table[:, 1] >= table[:, 2]) | (table[:, 2] > len(pku_video.frames))
    assert [row for row, _ in problems] == np.flatnonzero(starts_late_or_ends_late).tolist() != []
