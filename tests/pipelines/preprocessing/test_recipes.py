"""Recipes by name: what they keep, what they refuse, and that they do exactly what they say of themselves."""

import json
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.preprocessing.normalize import normalize
from pipelines.preprocessing.recipes import NORMALIZATION, RECIPES, Recipe, fused, recipe
from shards.catalog import SOURCES
from shards.errors import ConfigError, RawInputError
from shards.manifest import fingerprint
from shards.schema import Quality, RawSequence

KEY = "S001C001P001R001A001"


def raw(frames: np.ndarray) -> RawSequence:
    there = frames.any(axis=(2, 3)).sum(axis=1)
    return RawSequence(KEY, frames, there, np.where(np.arange(frames.shape[1]) < there[:, None], 7, 0))


def recording(num_frames: int, *sizes: float) -> RawSequence:
    """A recording with one slot a size; size 0 is an empty slot."""
    rng = np.random.default_rng(7)
    return raw(np.stack([rng.normal(0, 1, (num_frames, 25, 3)) * size for size in sizes], axis=1))


def identity(made: Recipe) -> str:
    return fingerprint("ntu", "0" * 64, made.steps, "float32")


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_serves_every_source_and_describes_itself_in_json(name: str, source: str) -> None:
    made = recipe(name, source)
    steps = json.loads(json.dumps(made.steps))
    assert steps == list(made.steps)
    assert steps[0] == {"name": "recipe", "recipe": name, "version": 1}
    frames, bodies, repairs, quality = made.sample(recording(9, 1.0))
    assert frames.shape == (9, 2, 25, 3)
    assert frames.dtype == made.window(frames).dtype == np.float32
    assert (bodies, repairs, quality) == (1, [], Quality(frames=9, ids=1))


def test_steps_differ_between_recipes() -> None:
    descriptions = {json.dumps(recipe(name, source).steps) for name in RECIPES for source in ("ntu", "pkummd1")}
    assert len(descriptions) == 6


@pytest.mark.parametrize("name", RECIPES)
def test_every_change_of_a_recipe_is_another_fingerprint(name: str) -> None:
    made = recipe(name, "ntu")
    variants = [made, replace(made, version=made.version + 1), replace(made, name="other")]
    for number, operation in enumerate(made.operations):
        rest = made.operations[:number], made.operations[number + 1 :]
        variants.append(replace(made, operations=(*rest[0], *rest[1])))
        for parameter in operation.parameters:
            changed = replace(operation, parameters={**operation.parameters, parameter: "other"})
            variants.append(replace(made, operations=(*rest[0], changed, *rest[1])))
    assert len({identity(variant) for variant in variants}) == len(variants)


def variant(made: Recipe, name: str, **parameters: Any) -> Recipe:
    """The recipe with other parameters of the step of that name."""
    operations = tuple(
        replace(o, parameters={**o.parameters, **parameters}) if o.name == name else o for o in made.operations
    )
    return replace(made, operations=operations)


def test_a_changed_parameter_changes_what_is_done() -> None:
    pcm3 = recipe("pcm3", "ntu")
    shorter = variant(pcm3, "cut", frames=4)
    frames = shorter.sample(recording(6, 1.0, 0.5))
    assert frames.repairs == ["cut from 6 to 4 frames"]
    np.testing.assert_array_equal(shorter.window(frames.frames), pcm3.window(frames.frames)[:4])
    one_slot = variant(pcm3, "choose bodies", slots=1).sample(recording(6, 0.2, 0.9))
    np.testing.assert_array_equal(one_slot.frames[:, 0], recording(6, 0.2).frames[:, 0].astype(np.float32))
    assert one_slot.quality.dropped_by_rank == 1
    by_the_neck = variant(recipe("ctrgcn", "ntu"), "translate", joint=2).sample(recording(6, 1.0))
    np.testing.assert_array_equal(by_the_neck.frames[0, 0, 2], 0)
    keeps_short = variant(recipe("ctrgcn", "ntu"), "drop short bodies", frames=0)
    followed = recording(9, 1.0)
    followed.body_ids[:4] = 8
    assert keeps_short.sample(followed).quality.dropped_by_spread == 1
    assert len(variant(keeps_short, "drop wide bodies", share=1.1).sample(followed).frames) == 9
    with pytest.raises(RawInputError, match="found 2 bodies of at most 5 frames, expected one of more than 11"):
        recipe("ctrgcn", "ntu").sample(followed)


def test_another_alignment_runs_step_by_step() -> None:
    made = recipe("pcm3", "ntu")
    hips = variant(made, "align", from_joint=12, to_joint=16)
    clip = hips.window(made.sample(recording(5, 1.0)).frames)
    bone = clip[0, 0, 16] - clip[0, 0, 12]
    np.testing.assert_allclose(bone / np.linalg.norm(bone), [1, 0, 0], atol=1e-5)


presence = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=10).map(np.array)


@settings(max_examples=60, deadline=None)
@given(presence, st.integers(0, 2**32 - 1))
def test_the_fused_normalisation_equals_its_steps_one_after_the_other(there: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames = (rng.normal(0, 1, (*there.shape, 25, 3)) * there[:, :, None, None]).astype(np.float32)
    stepwise = frames
    for operation in NORMALIZATION:
        stepwise = operation(stepwise)
    np.testing.assert_array_equal(normalize(frames), stepwise)


def test_only_its_own_steps_are_fused() -> None:
    cut, *steps = [o for o in recipe("pcm3", "ntu").operations if o.stage == "window"]
    assert fused((cut, *steps)) == (cut, normalize)
    assert fused((cut, *steps[:-1])) == (cut, *steps[:-1])
    assert fused((*steps, cut, *steps)) == (normalize, cut, normalize)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_can_be_sent_to_other_processes(name: str) -> None:
    made = recipe(name, "ntu")
    frames = made.sample(recording(5, 1.0)).frames
    sent = pickle.loads(pickle.dumps(made))  # noqa: S301 - made on the line itself
    assert sent == made
    np.testing.assert_array_equal(sent.window(frames), made.window(frames))


def test_ntu_takes_the_two_widest_bodies_and_pkummd_its_two_slots_as_they_are() -> None:
    recorded = recording(6, 0.0, 0.2, 0.9)
    ntu = recipe("raw", "ntu").sample(recorded)
    np.testing.assert_array_equal(ntu.frames, recorded.frames[:, [2, 1]].astype(np.float32))
    assert (ntu.bodies, ntu.quality.dropped_by_rank) == (2, 0)
    for name in RECIPES:
        pku = recipe(name, "pkummd1").sample(recorded)
        np.testing.assert_array_equal(pku.frames, recorded.frames[:, :2].astype(np.float32))
        assert (pku.bodies, pku.quality.dropped_by_rank) == (1, 1)


def test_pcm3_normalises_and_cuts_the_clip_at_300_frames_and_says_so() -> None:
    pcm3 = recipe("pcm3", "ntu")
    frames, _, repairs, _ = pcm3.sample(recording(301, 1.0))
    np.testing.assert_array_equal(pcm3.window(frames), normalize(frames[:300]))
    assert repairs == pcm3.repairs(301) == ["cut from 301 to 300 frames"]
    assert pcm3.repairs(300) == []
    assert (pcm3.clip_length(301), pcm3.clip_length(299), pcm3.max_frames) == (300, 299, 300)


@pytest.mark.parametrize("name", ["raw", "ctrgcn"])
def test_the_others_do_not_cut_and_their_window_changes_nothing(name: str) -> None:
    uncut = recipe(name, "ntu")
    frames, _, repairs, _ = uncut.sample(recording(301, 1.0))
    np.testing.assert_array_equal(uncut.window(frames), frames)
    assert repairs == uncut.repairs(301) == []
    assert (uncut.clip_length(301), uncut.max_frames) == (301, None)


def test_videos_are_not_cut_as_samples_but_as_windows() -> None:
    pcm3 = recipe("pcm3", "pkummd1")
    frames, _, repairs, _ = pcm3.sample(recording(400, 1.0, 0.0))
    assert (len(frames), repairs) == (400, [])
    assert len(pcm3.window(frames)) == 300


def test_only_ctrgcn_leaves_out_actions_without_a_body() -> None:
    empty, full = np.zeros((4, 2, 25, 3), np.float32), np.ones((4, 2, 25, 3), np.float32)
    refused = {name: recipe(name, "pkummd2").refuses(empty) for name in RECIPES}
    assert refused == {
        "pcm3": None,
        "ctrgcn": "no body in any of its 4 frames: the recipe leaves such clips out",
        "raw": None,
    }
    assert [recipe(name, "pkummd2").refuses(full) for name in RECIPES] == [None] * 3


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((0, 1, 25, 3)), "found 0 frames"),
        (np.zeros((4, 2, 25, 3)), "found no body in any of 4 frames"),
        (np.full((4, 2, 25, 3), 1e5), "frame 1: found a coordinate of 100000 m"),
        (np.full((4, 2, 25, 3), 1e300), "frame 1: found a coordinate of 1e\\+300 m"),
        (np.full((4, 2, 25, 3), np.nan), "frame 1: found a coordinate of nan m"),
        (np.full((4, 2, 25, 3), -np.inf), "frame 1: found a coordinate of inf m"),
    ],
)
@pytest.mark.parametrize("source", ["ntu", "nwucla", "pkummd1"])
@pytest.mark.parametrize("name", RECIPES)
def test_recordings_without_use_are_refused_by_name(name: str, source: str, frames: np.ndarray, message: str) -> None:
    with pytest.raises(RawInputError, match=f"^{KEY}: .*{message}"):
        recipe(name, source).sample(raw(frames))


@pytest.mark.parametrize("name", RECIPES)
def test_a_far_coordinate_is_named_by_its_frame(name: str) -> None:
    recorded = recording(5, 1.0)
    recorded.frames[3, 0, 2, 1] = -2e4
    with pytest.raises(RawInputError, match="frame 4: found a coordinate of 20000 m"):
        recipe(name, "ntu").sample(recorded)


def test_nwucla_is_centred_by_the_first_spine_under_ctrgcn() -> None:
    recorded = recording(5, 1.0)
    frames = recipe("ctrgcn", "nwucla").sample(recorded).frames
    expected = recorded.frames[:, 0].astype(np.float32)
    np.testing.assert_array_equal(frames[:, 0], expected - expected[0, 1])
    assert not frames[:, 1].any()


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown recipe 'ctr', expected one of pcm3, ctrgcn, raw"):
        recipe("ctr", "ntu")
    with pytest.raises(ConfigError, match="unknown source"):
        recipe("pcm3", "kinetics")
