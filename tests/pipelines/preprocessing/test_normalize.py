"""Normalisation against a slow reference that goes frame by frame, as the steps are worded, and one in NumPy."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.preprocessing.normalize import align, centre, fill, normalize, rotation_between

X, Z = np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])


def slow_fill(body: np.ndarray) -> np.ndarray:
    frames = list(body)
    if not body.any():
        return body
    if frames[0].sum() == 0:
        full = [frame for frame in frames if frame.sum() != 0]
        frames = full + [np.zeros_like(body[0])] * (len(frames) - len(full))
    for i in range(1, len(frames)):
        if all(frame.sum() == 0 for frame in frames[i:]):
            return np.stack([frames[t % i] if t >= i else frames[t] for t in range(len(frames))])
    return np.stack(frames)


def slow_rotation(vector: np.ndarray, target: np.ndarray) -> np.ndarray:
    """By quaternion: half-way vector, then the matrix written out."""
    v = vector / np.linalg.norm(vector)
    w, (x, y, z) = 1 + v @ target, np.cross(v, target)
    n = np.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w / n, x / n, y / n, z / n
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def slow_normalize(frames: np.ndarray) -> np.ndarray:
    x = np.stack([slow_fill(frames[:, m]) for m in range(2)], axis=1).astype(np.float64)
    centred = np.zeros_like(x)
    for t, m, v in np.ndindex(*x.shape[:3]):
        if x[t, m, v].sum() != 0:
            centred[t, m, v] = x[t, m, v] - x[t, 0, 1]
    for start, stop, target in ((0, 1, Z), (4, 8, X)):
        bone = centred[0, 0, stop] - centred[0, 0, start]
        if np.abs(bone).sum() > 1e-6:
            matrix = slow_rotation(bone, target)
            for t, m, v in np.ndindex(*centred.shape[:3]):
                centred[t, m, v] = matrix @ centred[t, m, v]
    return centred


def numpy_rotation(vector: np.ndarray, target: np.ndarray) -> np.ndarray | None:
    """By the angle, as the published code words it."""
    axis = np.cross(vector, target)
    if np.abs(vector).sum() < 1e-6 or np.abs(axis).sum() < 1e-6:
        return None
    angle = np.arccos(np.clip(vector @ target / np.linalg.norm(vector), -1.0, 1.0))
    if angle < 1e-6:
        return None
    x, y, z = axis / np.linalg.norm(axis)
    k = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sin(angle) * k + (1.0 - np.cos(angle)) * (k @ k)


def numpy_normalize(frames: np.ndarray) -> np.ndarray:
    """All steps on whole arrays; float32 after each."""
    x = frames.copy()
    for m in range(x.shape[1]):
        x[:, m] = slow_fill(x[:, m])
    x = np.where(x.sum(axis=-1, keepdims=True) != 0, x - x[:, :1, 1:2], 0).astype(np.float32)
    for start, stop, target in ((0, 1, Z), (4, 8, X)):
        matrix = numpy_rotation(x[0, 0, stop].astype(float) - x[0, 0, start].astype(float), target)
        if matrix is not None:
            turned = sum(x[..., c, None].astype(float) * matrix[:, c] for c in range(3))
            x = np.where((x.sum(axis=(2, 3)) != 0)[:, :, None, None], turned, x).astype(np.float32)
    return x


def moving(there: np.ndarray, seed: int) -> np.ndarray:
    """Frames (T, 2, V, C) with content where `there` (T, 2) says."""
    rng = np.random.default_rng(seed)
    return (rng.normal(0.0, 1.0, (*there.shape, 25, 3)) * there[:, :, None, None]).astype(np.float32)


presence = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12).map(np.array)


@settings(max_examples=60, deadline=None)
@given(presence, st.integers(0, 2**32 - 1))
def test_normalisation_equals_the_slow_reference(there: np.ndarray, seed: int) -> None:
    frames = moving(there, seed)
    np.testing.assert_allclose(normalize(frames), slow_normalize(frames), atol=2e-5)


@settings(deadline=None)
@given(presence, st.integers(0, 2**32 - 1))
def test_normalisation_equals_numpy_in_all_but_a_rare_last_bit(there: np.ndarray, seed: int) -> None:
    # Sine and cosine differ in their last bit from those by the angle; no float32 of 1.2 million showed it.
    frames = moving(there, seed)
    ours, expected = normalize(frames), numpy_normalize(frames)
    np.testing.assert_allclose(ours, expected, rtol=2e-7, atol=1e-7)
    assert np.mean(ours.view(np.int32) != expected.view(np.int32)) < 0.01


@settings(max_examples=60, deadline=None)
@given(presence, st.integers(0, 2**32 - 1), st.integers(0, 20))
def test_one_pass_has_the_bits_of_the_steps_one_by_one(there: np.ndarray, seed: int, length: int) -> None:
    frames = moving(there, seed)
    padded = np.zeros((length, 2, 25, 3), np.float32)
    padded[: len(frames)] = frames[:length]
    steps = np.stack([fill(padded[:, m]) for m in range(2)], axis=1)
    steps = align(align(centre(steps), 0, 1, Z), 4, 8, X)
    assert normalize(frames, length).tobytes() == steps.tobytes()


def test_cancelling_numbers_count_as_absent_as_in_numpy() -> None:
    frames = moving(np.ones((6, 2), bool), 5)
    frames[2, 0] = 0
    frames[2, 0, :2] = [(1, -0.5, -0.5), (2, -1, -1)]
    frames[4, 1, 3] = (0.25, -0.5, 0.25)
    assert normalize(frames).tobytes() == numpy_normalize(frames).tobytes()


@given(st.tuples(*[st.floats(-5, 5)] * 3).map(np.array))
def test_rotations_equal_those_by_the_angle(vector: np.ndarray) -> None:
    for target in (X, Z):
        ours, expected = rotation_between(vector, target), numpy_rotation(vector, target)
        # Near its end the arc cosine has 8 good digits: there this side is the better one.
        if ours is not None and expected is not None:
            np.testing.assert_allclose(ours, expected, atol=1e-9 if abs(ours @ target)[target > 0] < 0.999 else 1e-7)


def test_threads_do_not_matter() -> None:
    clips = [moving(np.ones((40, 2), bool), seed) for seed in range(64)]
    with ThreadPoolExecutor(4) as pool:
        for found, clip in zip(pool.map(normalize, clips), clips, strict=True):
            assert found.tobytes() == normalize(clip).tobytes()


@settings(max_examples=60, deadline=None)
@given(presence, st.integers(0, 2**32 - 1))
def test_padding_to_300_never_shows_within_the_true_length(there: np.ndarray, seed: int) -> None:
    frames = moving(there, seed)
    np.testing.assert_array_equal(normalize(frames, length=300)[: len(frames)], normalize(frames))


@pytest.mark.parametrize(
    ("there", "source"),
    [
        ([1, 1, 1, 1], [0, 1, 2, 3]),
        ([1, 1, 0, 0], [0, 1, 0, 1]),  # repeated behind the last frame
        ([1, 0, 1, 0], [0, 1, 2, 0]),  # the gap stays and is repeated as a gap
        ([0, 1, 0, 1], [1, 3, 1, 3]),  # an empty start closes the gaps
        ([0, 0, 0, 0], [0, 1, 2, 3]),
    ],
)
def test_filling_takes_the_frames_it_should(there: list[int], source: list[int]) -> None:
    body = np.arange(1, 5, dtype=np.float32)[:, None, None] * np.array(there, np.float32)[:, None, None]
    body = np.broadcast_to(body, (4, 25, 3))
    np.testing.assert_array_equal(fill(body), body[source])


def test_the_spine_of_person_0_is_the_origin_of_every_frame_and_zero_joints_stay_zero() -> None:
    frames = moving(np.ones((4, 2), bool), 1)
    frames[2, 1, 7] = 0
    centred = centre(frames)
    np.testing.assert_array_equal(centred[:, 0, 1], 0)
    np.testing.assert_array_equal(centred[2, 1, 7], 0)
    np.testing.assert_array_equal(centred[3, 1, 7], frames[3, 1, 7] - frames[3, 0, 1])


def test_the_first_spine_points_up_and_then_the_shoulders_point_along_x() -> None:
    centred = centre(moving(np.ones((4, 2), bool), 2))
    upright = align(centred, 0, 1, Z)
    spine = upright[0, 0, 1] - upright[0, 0, 0]
    np.testing.assert_allclose(spine / np.linalg.norm(spine), Z, atol=1e-6)
    shoulders = np.subtract(*normalize(centred)[0, 0, [8, 4]])
    np.testing.assert_allclose(shoulders / np.linalg.norm(shoulders), X, atol=1e-6)


def test_bones_without_length_or_already_in_place_turn_nothing() -> None:
    assert rotation_between(np.zeros(3), Z) is None
    assert rotation_between(Z * 0.3, Z) is None
    assert rotation_between(np.array([0.0, 0.0, -1.0]), Z) is None  # no axis to turn about: left as it is


@given(st.tuples(*[st.floats(-5, 5).filter(lambda v: abs(v) > 1e-3)] * 3).map(np.array))
def test_rotations_keep_lengths_and_reach_their_target(vector: np.ndarray) -> None:
    matrix = rotation_between(vector, Z)
    assert matrix is not None
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(matrix @ vector, Z * np.linalg.norm(vector), atol=1e-9)


def test_the_input_is_left_as_it_was_and_nothing_gives_nothing() -> None:
    frames = moving(np.array([[0, 1], [1, 0], [1, 1]], bool), 3)
    before = frames.copy()
    assert normalize(frames).dtype == np.float32
    np.testing.assert_array_equal(frames, before)
    assert normalize(frames[:0]).shape == (0, 2, 25, 3)
    np.testing.assert_array_equal(normalize(frames[:0], length=5), np.zeros((5, 2, 25, 3)))
