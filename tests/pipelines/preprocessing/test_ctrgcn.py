"""The CTR-GCN recipe against a slow reference that goes body by body and frame by frame, as its rules are worded."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.preprocessing import ctrgcn, steps
from pipelines.preprocessing.recipes import recipe
from shards.errors import RawInputError
from shards.schema import RawSequence

KEY = "S001C001P001R001A001"


@dataclass
class SlowBody:
    joints: list[np.ndarray] = field(default_factory=list)
    interval: list[int] = field(default_factory=list)
    motion: float = 0.0


def variance(joints: list[np.ndarray]) -> np.float32:
    return np.var(np.concatenate(joints), axis=0).sum()


def slow_ctrgcn(listed: list[list[tuple[int, np.ndarray]]]) -> tuple[np.ndarray, dict[str, int]] | None:
    """Final (T', 2, 25, 3) and bodies dropped by rule, from the (id, joints) of each frame; None where it stops."""
    frames = [frame for frame in listed if frame]
    bodies: dict[int, SlowBody] = {}
    for number, frame in enumerate(frames):
        for one, joints in frame:
            body = bodies.setdefault(one, SlowBody())
            body.interval.append(body.interval[-1] + 1 if body.interval else number)
            body.joints.append(joints.astype(np.float32))
    if not bodies:
        return None
    several, dropped = len(bodies) > 1, {"length": 0, "spread": 0, "overlap": 0}
    if several:
        for one, body in list(bodies.items()):
            body.motion = variance(body.joints)
            if len(body.joints) <= 11:
                del bodies[one]
                dropped["length"] += 1
        if not bodies:
            return None
        for one, body in list(bodies.items()):
            if len(bodies) == 1:
                break
            good = [j for j in body.joints if not np.ptp(j[:, 0]) > np.float32(0.8) * np.ptp(j[:, 1])]
            noisy = len(body.joints) - len(good)
            if noisy and noisy / len(body.joints) >= 0.69754:
                del bodies[one]
                dropped["spread"] += 1
            elif noisy:
                body.motion = min(body.motion, variance(good))
    ranked = sorted(bodies.values(), key=lambda body: body.motion, reverse=True)
    final = np.zeros((len(frames), len(ranked[:2]), 75), np.float32)
    hulls = [[ranked[0].interval[0], ranked[0].interval[-1]], [0, 0]]
    for rank, body in enumerate(ranked):
        start, end = body.interval[0], body.interval[-1]
        if end >= len(frames):
            return None  # an id twice in a frame
        for actor, hull in enumerate(hulls):
            if rank == 0 or min(hull[1], end) - max(hull[0], start) <= 0:
                for number, joints in zip(body.interval, body.joints, strict=True):
                    final[number, actor] = joints.reshape(75)
                hull[:] = min(hull[0], start), max(hull[1], end)
                break
        else:
            dropped["overlap"] += 1
    if several:
        final = np.stack([frame for frame in final if frame.reshape(-1).sum() != 0])
    empty = np.array([[person.sum() == 0 for person in frame] for frame in final])
    origin = next(frame[0, 3:6] for frame in final if frame[0].any())
    final = final - np.tile(origin, 25)
    if final.shape[1] == 2:
        final[empty] = 0
    else:
        final = np.concatenate([final, np.zeros_like(final)], axis=1)
    return final.reshape(-1, 2, 25, 3), dropped


def recorded(listed: list[list[tuple[int, np.ndarray]]]) -> RawSequence:
    num_slots = max(1, *map(len, listed))
    frames = np.zeros((len(listed), num_slots, 25, 3))
    ids = np.zeros((len(listed), num_slots), np.int64)
    for t, frame in enumerate(listed):
        for s, (one, joints) in enumerate(frame):
            frames[t, s], ids[t, s] = joints, one
    return RawSequence(KEY, frames, np.array([len(frame) for frame in listed], np.int64), ids)


def acted(patterns: list[tuple[list[bool], float, bool]], seed: int, swap: bool) -> list[list[tuple[int, np.ndarray]]]:
    """Bodies by (whether there in each frame, how far they spread, whether they are sometimes wider than tall)."""
    rng = np.random.default_rng(seed)
    listed: list[list[tuple[int, np.ndarray]]] = []
    for t in range(max(len(there) for there, _, _ in patterns)):
        frame = []
        for number, (there, size, lies) in enumerate(patterns):
            if t < len(there) and there[t]:
                shape = np.array([2.0, 0.5, 0.3]) if lies and rng.random() < 0.7 else np.array([0.4, 1.0, 0.3])
                joints = (rng.uniform(-1, 1, (25, 3)) * shape * size + rng.normal(0, 0.2, 3)).round(6)
                frame.append((7_000_000_000_000_000_000 + number, joints))
        listed.append(frame[::-1] if swap and rng.random() < 0.3 else frame)
    return listed


runs = st.lists(st.tuples(st.booleans(), st.integers(1, 16)), min_size=1, max_size=4).map(
    lambda parts: [there for there, length in parts for _ in range(length)]
)
patterns = st.lists(st.tuples(runs, st.sampled_from([0.1, 0.5, 1.0]), st.booleans()), min_size=1, max_size=5)


@settings(max_examples=120, deadline=None)
@given(patterns, st.integers(0, 2**32 - 1), st.booleans())
def test_the_recipe_equals_the_slow_reference(
    bodies: list[tuple[list[bool], float, bool]], seed: int, swap: bool
) -> None:
    listed = acted(bodies, seed, swap)
    expected = slow_ctrgcn(listed)
    if expected is None:
        with pytest.raises(RawInputError, match=f"^{KEY}: found (no body|. bodies of at most)"):
            recipe("ctrgcn", "ntu").sample(recorded(listed))
        return
    sample = recipe("ctrgcn", "ntu").sample(recorded(listed))
    np.testing.assert_array_equal(sample.frames, expected[0])
    quality = sample.quality
    assert quality.dropped_by_rank == 0
    assert {reason: getattr(quality, f"dropped_by_{reason}") for reason in expected[1]} == expected[1]


def one_after_the_other(*lengths: int, seed: int = 1) -> list[list[tuple[int, np.ndarray]]]:
    patterns, before = [], 0
    for length in lengths:
        patterns.append(([False] * before + [True] * length, 1.0, False))
        before += length
    return acted(patterns, seed, swap=False)


def test_bodies_that_follow_each_other_are_one_actor() -> None:
    sample = recipe("ctrgcn", "ntu").sample(recorded(one_after_the_other(15, 20)))
    assert (sample.bodies, len(sample.frames)) == (1, 35)
    assert not sample.frames[:, 1].any()


def test_a_gap_is_closed_by_what_comes_behind_it() -> None:
    listed = acted([([True] * 30, 1.0, False), ([True] * 12 + [False] * 6 + [True] * 12, 0.5, False)], 3, swap=False)
    scene = ctrgcn.bodies_by_id(steps.begin(recorded(listed)))
    assert [(track.first, track.last) for track in scene.tracks] == [(0, 29), (0, 23)]
    np.testing.assert_array_equal(scene.tracks[1].frames[12], listed[18][1][1].astype(np.float32))


def test_frames_left_out_are_reported() -> None:
    pattern = ([False] * 3 + [True] * 20, 1.0, False)
    assert recipe("ctrgcn", "ntu").sample(recorded(acted([pattern], 0, swap=False))).repairs == [
        "left out 3 of 23 frames, which list no body"
    ]
    phantom = recipe("ctrgcn", "ntu").sample(recorded(one_after_the_other(5, 20)))
    assert phantom.repairs == ["left out 5 of 25 frames, in which no chosen body is there"]
    assert phantom.quality.dropped_by_length == 1


def test_an_id_that_is_listed_twice_in_a_frame_is_refused() -> None:
    listed = one_after_the_other(20)
    listed[3] = listed[3] * 2
    with pytest.raises(RawInputError, match="found a body id 21 times from frame 1 of 20 on"):
        recipe("ctrgcn", "ntu").sample(recorded(listed))


def test_a_main_body_that_is_zero_throughout_is_refused() -> None:
    frames = np.zeros((4, 2, 25, 3))
    frames[:, 1] = np.random.default_rng(0).normal(0, 1, (4, 25, 3))
    raw = RawSequence(KEY, frames, np.full(4, 2), np.zeros((4, 2), np.int64))
    with pytest.raises(RawInputError, match="found no main body in any of 4 frames"):
        recipe("ctrgcn", "nwucla").sample(raw)


def test_the_first_spine_is_the_origin_and_the_trajectory_stays() -> None:
    raw = recorded(one_after_the_other(20))
    frames = recipe("ctrgcn", "ntu").sample(raw).frames
    np.testing.assert_array_equal(frames[0, 0, 1], 0)
    np.testing.assert_allclose(frames[19, 0] - frames[0, 0], raw.frames[19, 0] - raw.frames[0, 0], atol=1e-6)


def test_the_recording_is_left_as_it_was() -> None:
    raw = recorded(one_after_the_other(14, 20))
    before = raw.frames.copy()
    recipe("ctrgcn", "ntu").sample(raw)
    np.testing.assert_array_equal(raw.frames, before)
