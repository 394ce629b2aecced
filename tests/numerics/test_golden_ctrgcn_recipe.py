"""Recipe `ctrgcn` against numbers of the reference implementation (Uason-Chen/CTR-GCN), run on synthetic recordings."""

import re
from typing import Any

import numpy as np
import pytest

from pipelines.preprocessing import ctrgcn, steps
from pipelines.preprocessing.recipes import recipe
from shards.errors import RawInputError
from shards.schema import RawSequence
from tests.numerics.golden import facts, found, matching, numbers
from tests.numerics.recordings import NAMES, VIDEO, parsed, refusal, video

NUMBERS, FACTS = numbers("ntu_ctrgcn"), facts("ntu_ctrgcn")
GOOD = matching(NUMBERS, "*__final")
REFUSED = [name for name in FACTS if FACTS[name]["error"]]
ACTIONS = found(numbers("pku_pcm3")["label_table"][:, 1:3].tolist())


def reason(fact: dict[str, Any]) -> str:
    """Why a recording is refused on which the reference stops."""
    if missing := re.search(r"All frames data \((\d+)\)", fact["error"]):
        return refusal(int(missing[1]))
    assert "get_raw_denoised_data: IndexError" in fact["error"]
    longest = max(body["frames"] for body in fact["bodies"])
    return f"found {len(fact['bodies'])} bodies of at most {longest} frames, expected one of more than 11"


def test_every_golden_recording_has_numbers_or_an_error() -> None:
    assert sorted(FACTS) == NAMES
    assert sorted([*GOOD, *REFUSED]) == NAMES


@pytest.mark.parametrize("name", GOOD)
def test_recipe_from_raw_file_to_clip_equals_the_reference(name: str) -> None:
    made = recipe("ctrgcn", "ntu")
    sample = made.sample(parsed(name))
    expected = NUMBERS[f"{name}__final"].reshape(-1, 2, 25, 3)
    assert sample.frames.dtype == np.float32
    assert sample.frames.shape == expected.shape
    np.testing.assert_allclose(made.window(sample.frames), expected, rtol=0, atol=1e-6)
    assert sample.bodies == expected.any(axis=(0, 2, 3)).sum()


@pytest.mark.parametrize("name", GOOD)
def test_chosen_and_denoised_joints_equal_the_reference_exactly(name: str) -> None:
    scene = steps.begin(parsed(name))
    for operation in recipe("ctrgcn", "ntu").operations:
        if operation.stage == "sample" and operation.name != "translate":
            scene = operation(scene)
    expected = NUMBERS[f"{name}__before_translation"].reshape(len(scene.frames), -1, 25, 3)
    persons = expected.shape[1]
    np.testing.assert_array_equal(scene.frames[:, :persons], expected)
    assert not scene.frames[:, persons:].any()
    assert persons * 75 == FACTS[name]["width_before_align"]
    assert len(scene.frames) == FACTS[name]["frames_final"]


@pytest.mark.parametrize("name", GOOD)
def test_dropped_bodies_and_empty_frames_are_those_of_the_reference(name: str) -> None:
    quality, fact = recipe("ctrgcn", "ntu").sample(parsed(name)).quality, FACTS[name]
    assert quality.dropped_by_length == len(fact["dropped_by_length"])
    assert quality.dropped_by_spread == len(fact["dropped_by_spread"])
    assert quality.dropped_by_overlap == len(fact.get("dropped_overlapping_both", []))
    assert quality.dropped_by_rank == 0
    assert quality.empty_frames == len(fact["dropped_empty_frames"])
    assert quality.frames - quality.empty_frames == fact["num_frames_valid"]
    assert quality.ids == len(fact["bodies"])


@pytest.mark.parametrize("name", found(name for name in FACTS if "bodies" in FACTS[name]))
def test_tracks_and_motions_are_those_of_the_reference(name: str) -> None:
    scene = ctrgcn.bodies_by_id(ctrgcn.drop_empty_frames(steps.begin(parsed(name))))
    expected = FACTS[name]["bodies"]
    assert [[t.first, t.last] for t in scene.tracks] == [body["interval"] for body in expected]
    assert [len(t.frames) for t in scene.tracks] == [body["frames"] for body in expected]
    if scene.several:
        motions = [body["motion_before"] for body in expected]
        np.testing.assert_allclose([t.motion for t in scene.tracks], motions, rtol=1e-5)
    if FACTS[name]["error"] is None:
        before = {t.motion for t in scene.tracks}
        after = {t.motion for t in ctrgcn.drop_wide(ctrgcn.drop_short(scene)).tracks} - before
        updated = [new for _, _, new in FACTS[name]["motion_updated_by_spread"]]
        np.testing.assert_allclose(sorted(after), sorted(updated), atol=1e-6)


@pytest.mark.parametrize("name", REFUSED)
def test_recordings_on_which_the_reference_stops_are_refused_by_name(name: str) -> None:
    with pytest.raises(RawInputError, match=f"^{name}: .*{reason(FACTS[name])}"):
        recipe("ctrgcn", "ntu").sample(parsed(name))


@pytest.mark.parametrize(("start", "end"), ACTIONS)
def test_actions_of_videos_stay_in_raw_coordinates(start: int, end: int) -> None:
    raw = video()
    made = recipe("ctrgcn", "pkummd1")
    there = raw.any(axis=(2, 3)).sum(axis=1)
    frames = made.sample(RawSequence(VIDEO, raw, there, np.zeros((len(raw), 2), np.int64))).frames
    clip = frames[start:end]
    np.testing.assert_array_equal(made.window(clip), raw[start:end].astype(np.float32))
    assert (made.refuses(clip) is None) == bool(clip.any())
