"""Recipe `ctrgcn` against numbers of the reference implementation (Uason-Chen/CTR-GCN), run on synthetic recordings."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.parsers import ntu
from pipelines.preprocessing import ctrgcn, steps
from pipelines.preprocessing.recipes import recipe
from shards.errors import RawInputError
from shards.schema import RawSequence

GOOD = [
    "S001C001P001R001A001",
    "S001C003P008R002A010",
    "S002C002P003R001A055",
    "S002C003P012R002A055",
    "S003C001P007R002A058",
    "S004C002P010R001A043",
    "S005C003P015R001A024",
    "S006C001P019R002A050",
    "S007C003P026R001A052",
    "S008C001P033R002A056",
    "S010C001P013R002A006",
    "S011C002P001R001A027",
    "S012C003P017R001A018",
    "S013C001P025R001A057",
    "S016C001P040R001A059",
]
REFUSED = {
    "S009C002P007R001A032": "found 0 frames",
    "S014C002P019R002A030": "found no body in any of 12 frames",
    "S015C001P037R001A060": "found 2 bodies of at most 9 frames, expected one of more than 11",
}


@pytest.fixture(scope="module")
def numbers(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "ntu_ctrgcn.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def facts(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "ntu_ctrgcn.json").read_text())


def parsed(golden: Path, name: str) -> RawSequence:
    path = golden / "ntu_raw" / f"{name}.skeleton"
    return ntu.parse(path.read_bytes(), name, path.name)


def test_every_golden_recording_is_in_a_list(facts: dict[str, Any]) -> None:
    assert sorted([*GOOD, *REFUSED]) == sorted(facts)
    assert sorted(REFUSED) == sorted(name for name, fact in facts.items() if fact["error"])


@pytest.mark.parametrize("name", GOOD)
def test_recipe_from_raw_file_to_clip_equals_the_reference(
    golden: Path, numbers: dict[str, np.ndarray], name: str
) -> None:
    made = recipe("ctrgcn", "ntu")
    sample = made.sample(parsed(golden, name))
    expected = numbers[f"{name}__final"].reshape(-1, 2, 25, 3)
    assert sample.frames.dtype == np.float32
    assert sample.frames.shape == expected.shape
    np.testing.assert_allclose(made.window(sample.frames), expected, rtol=0, atol=1e-6)
    assert sample.bodies == expected.any(axis=(0, 2, 3)).sum()


@pytest.mark.parametrize("name", GOOD)
def test_chosen_and_denoised_joints_equal_the_reference_exactly(
    golden: Path, numbers: dict[str, np.ndarray], facts: dict[str, Any], name: str
) -> None:
    scene = steps.begin(parsed(golden, name))
    for operation in recipe("ctrgcn", "ntu").operations:
        if operation.stage == "sample" and operation.name != "translate":
            scene = operation(scene)
    expected = numbers[f"{name}__before_translation"].reshape(len(scene.frames), -1, 25, 3)
    persons = expected.shape[1]
    np.testing.assert_array_equal(scene.frames[:, :persons], expected)
    assert not scene.frames[:, persons:].any()
    assert persons * 75 == facts[name]["width_before_align"]
    assert len(scene.frames) == facts[name]["frames_final"]


@pytest.mark.parametrize("name", GOOD)
def test_dropped_bodies_and_empty_frames_are_those_of_the_reference(
    golden: Path, facts: dict[str, Any], name: str
) -> None:
    quality, fact = recipe("ctrgcn", "ntu").sample(parsed(golden, name)).quality, facts[name]
    assert quality.dropped_by_length == len(fact["dropped_by_length"])
    assert quality.dropped_by_spread == len(fact["dropped_by_spread"])
    assert quality.dropped_by_overlap == len(fact.get("dropped_overlapping_both", []))
    assert quality.dropped_by_rank == 0
    assert quality.empty_frames == len(fact["dropped_empty_frames"])
    assert quality.frames - quality.empty_frames == fact["num_frames_valid"]
    assert quality.ids == len(fact["bodies"])


@pytest.mark.parametrize("name", [*GOOD, "S015C001P037R001A060"])
def test_tracks_and_motions_are_those_of_the_reference(golden: Path, facts: dict[str, Any], name: str) -> None:
    scene = ctrgcn.bodies_by_id(ctrgcn.drop_empty_frames(steps.begin(parsed(golden, name))))
    expected = facts[name]["bodies"]
    assert [[t.first, t.last] for t in scene.tracks] == [body["interval"] for body in expected]
    assert [len(t.frames) for t in scene.tracks] == [body["frames"] for body in expected]
    if scene.several:
        motions = [body["motion_before"] for body in expected]
        np.testing.assert_allclose([t.motion for t in scene.tracks], motions, rtol=1e-5)
    if facts[name]["error"] is None:
        before = {t.motion for t in scene.tracks}
        after = {t.motion for t in ctrgcn.drop_wide(ctrgcn.drop_short(scene)).tracks} - before
        updated = [new for _, _, new in facts[name]["motion_updated_by_spread"]]
        np.testing.assert_allclose(sorted(after), sorted(updated), atol=1e-6)


@pytest.mark.parametrize("name", REFUSED)
def test_recordings_on_which_the_reference_stops_are_refused_by_name(golden: Path, name: str) -> None:
    with pytest.raises(RawInputError, match=f"^{name}: .*{REFUSED[name]}"):
        recipe("ctrgcn", "ntu").sample(parsed(golden, name))


@pytest.mark.parametrize("start_end", [(131, 131), (12, 75), (270, 585)])
def test_actions_of_videos_stay_in_raw_coordinates(golden: Path, start_end: tuple[int, int]) -> None:
    video = np.loadtxt(golden / "pku" / "0901-M.txt").reshape(-1, 2, 25, 3)
    made = recipe("ctrgcn", "pkummd1")
    there = video.any(axis=(2, 3)).sum(axis=1)
    frames = made.sample(RawSequence("0901-M", video, there, np.zeros((len(video), 2), np.int64))).frames
    clip = frames[slice(*start_end)]
    np.testing.assert_array_equal(made.window(clip), video[slice(*start_end)].astype(np.float32))
    assert (made.refuses(clip) is None) == bool(clip.any())
