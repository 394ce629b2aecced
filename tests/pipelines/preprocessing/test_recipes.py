"""Recipes by name: what they keep, what they refuse, what they say of themselves."""

import json

import numpy as np
import pytest

from pipelines.preprocessing.normalize import normalize
from pipelines.preprocessing.recipes import RECIPES, recipe
from shards.catalog import SOURCES
from shards.errors import ConfigError, RawInputError
from shards.schema import RawSequence


def raw(frames: np.ndarray) -> RawSequence:
    shape = frames.shape[:2]
    return RawSequence("S001C001P001R001A001", frames, np.zeros(shape[0], np.int64), np.zeros(shape, np.int64))


def recording(num_frames: int, *sizes: float) -> RawSequence:
    """A recording with one slot a size; size 0 is an empty slot."""
    rng = np.random.default_rng(7)
    return raw(np.stack([rng.normal(0, 1, (num_frames, 25, 3)) * size for size in sizes], axis=1))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_serves_every_source_and_describes_itself_in_json(name: str, source: str) -> None:
    made = recipe(name, source)
    steps = json.loads(json.dumps(made.steps))
    assert [set(step) >= {"name"} for step in steps] == [True] * len(made.steps)
    assert made.name == name
    frames, bodies, repairs = made.sample(recording(9, 1.0, 0.5))
    assert frames.shape == (9, 2, 25, 3)
    assert frames.dtype == made.window(frames).dtype == np.float32
    assert (bodies, repairs) == (2, [])


def test_steps_differ_between_recipes() -> None:
    descriptions = {json.dumps(recipe(name, source).steps) for name in RECIPES for source in ("ntu", "pkummd1")}
    assert len(descriptions) == 4


def test_ntu_takes_the_two_widest_bodies_and_pkummd_its_two_slots_as_they_are() -> None:
    recorded = recording(6, 0.0, 0.2, 0.9)
    ntu, bodies, _ = recipe("raw", "ntu").sample(recorded)
    np.testing.assert_array_equal(ntu, recorded.frames[:, [2, 1]].astype(np.float32))
    assert bodies == 2
    pku, bodies, _ = recipe("raw", "pkummd1").sample(recorded)
    np.testing.assert_array_equal(pku, recorded.frames[:, :2].astype(np.float32))
    assert bodies == 1


def test_pcm3_normalises_and_cuts_the_clip_at_300_frames_and_says_so() -> None:
    pcm3 = recipe("pcm3", "ntu")
    frames, _, repairs = pcm3.sample(recording(301, 1.0))
    np.testing.assert_array_equal(pcm3.window(frames), normalize(frames[:300]))
    assert repairs == pcm3.repairs(301) == ["cut from 301 to 300 frames"]
    assert pcm3.repairs(300) == []


def test_raw_neither_cuts_nor_normalises() -> None:
    unchanged = recipe("raw", "ntu")
    frames, _, repairs = unchanged.sample(recording(301, 1.0))
    np.testing.assert_array_equal(unchanged.window(frames), frames)
    assert repairs == unchanged.repairs(301) == []


def test_videos_are_not_cut_as_samples_but_as_windows() -> None:
    pcm3 = recipe("pcm3", "pkummd1")
    frames, _, repairs = pcm3.sample(recording(400, 1.0, 0.0))
    assert (len(frames), repairs) == (400, [])
    assert len(pcm3.window(frames)) == 300


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((0, 1, 25, 3)), "found 0 frames"),
        (np.zeros((4, 2, 25, 3)), "found no body in any of 4 frames"),
        (np.full((4, 2, 25, 3), 1e5), "frame 1: found a coordinate of 100000 m"),
        (np.full((4, 2, 25, 3), np.nan), "frame 1: found a coordinate of nan m"),
    ],
)
@pytest.mark.parametrize("name", RECIPES)
def test_recordings_without_use_are_refused_by_name(name: str, frames: np.ndarray, message: str) -> None:
    with pytest.raises(RawInputError, match=f"^S001C001P001R001A001: .*{message}"):
        recipe(name, "nwucla").sample(raw(frames))


def test_a_far_coordinate_is_named_by_its_frame() -> None:
    recorded = recording(5, 1.0)
    recorded.frames[3, 0, 2, 1] = -2e4
    with pytest.raises(RawInputError, match="frame 4: found a coordinate of 20000 m"):
        recipe("pcm3", "ntu").sample(recorded)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown recipe 'ctr', expected one of pcm3, raw"):
        recipe("ctr", "ntu")
    with pytest.raises(ConfigError, match="unknown source"):
        recipe("pcm3", "kinetics")
