"""Body choice, compared with hand-made cases and a slow count."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.preprocessing.bodies import as_persons, choose_bodies, choose_slots, count_bodies, energies, present


def body(frames: int, size: float, seed: int = 0) -> np.ndarray:
    """A body (T, V, C) whose extent grows with `size`."""
    return np.random.default_rng(seed).normal(0, size, (frames, 25, 3))


def slots(*bodies: np.ndarray) -> np.ndarray:
    return np.stack(bodies, axis=1)


def test_energy_leaves_out_the_frames_in_which_a_slot_is_empty() -> None:
    whole = body(6, 1.0)
    gappy = np.concatenate([np.zeros((4, 25, 3)), whole, np.zeros((3, 25, 3))])
    expected = sum(whole[..., c].std() for c in range(3))
    np.testing.assert_allclose(energies(slots(gappy))[0], expected, rtol=1e-12)


def test_the_widest_body_comes_first_and_a_fifth_is_left_out() -> None:
    bodies = [body(5, size, seed) for seed, size in enumerate((0.2, 0.5, 0.1, 0.4, 9.0))]
    chosen, there, listed = choose_bodies(slots(*bodies))
    np.testing.assert_array_equal(chosen, slots(bodies[1], bodies[3]).astype(np.float32))
    assert (there, listed) == (2, 5)


def test_equal_energies_leave_the_lower_slot_first() -> None:
    same = body(5, 0.3)
    np.testing.assert_array_equal(choose_slots(slots(same, same, same, same)), [0, 1])
    np.testing.assert_array_equal(choose_slots(np.zeros((5, 4, 25, 3))), [0, 1])


def numpy_energies(frames: np.ndarray) -> np.ndarray:
    there = frames.sum(axis=(2, 3)) != 0
    bodies = [frames[there[:, slot], slot] for slot in range(frames.shape[1])]
    return np.array([one.std(axis=(0, 1)).sum() if len(one) else 0.0 for one in bodies])


@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_energies_and_choice_equal_numpy(num_frames: int, num_slots: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames = rng.normal(rng.normal(0, 3), rng.uniform(0.1, 2), (num_frames, num_slots, 25, 3))
    frames *= rng.random((num_frames, num_slots, 1, 1)) < 0.7
    expected = numpy_energies(frames)
    np.testing.assert_allclose(energies(frames), expected, rtol=1e-12)
    order = np.argsort(-expected[:4], kind="stable")[:2]
    chosen, there, listed = choose_bodies(frames)
    assert chosen[:, : len(order)].tobytes() == frames[:, order].astype(np.float32).tobytes()
    assert not chosen[:, len(order) :].any()
    ever = (frames.sum(axis=(2, 3)) != 0).any(axis=0)
    assert (there, listed) == (ever[order].sum(), ever.sum())


@given(st.sampled_from([np.float32, np.float64]), st.integers(0, 2**32 - 1))
def test_present_is_where_numpy_sums_to_anything(kind: type, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Few different numbers of either sign, so that sums cancel, some only by the order of their additions.
    frames = rng.choice(np.array([0, 0.1, -0.1, 1e8, -1e8, 3], kind), (9, 3, 25, 3)) * (
        rng.random((9, 3, 25, 3)) < 0.08
    )
    frames = frames.astype(kind)
    for view in (frames, frames[:, :2], frames[::2], frames[:, ::-1]):
        np.testing.assert_array_equal(present(view), view.sum(axis=(2, 3)) != 0)


def test_a_single_slot_gets_an_empty_second_person() -> None:
    alone = body(5, 0.3)
    chosen, there, listed = choose_bodies(slots(alone))
    np.testing.assert_array_equal(chosen, slots(alone, np.zeros_like(alone)).astype(np.float32))
    assert (there, listed) == (1, 1)


def test_absent_means_that_the_sum_is_zero() -> None:
    frames = np.zeros((2, 1, 25, 3))
    frames[0, 0, 3] = (1.0, -0.5, -0.5)
    frames[1, 0, 3] = (1.0, 0.0, 0.0)
    np.testing.assert_array_equal(present(frames), [[False], [True]])


@pytest.mark.parametrize(("num_slots", "expected"), [(1, 2), (2, 2), (5, 2)])
def test_there_are_always_two_persons(num_slots: int, expected: int) -> None:
    assert as_persons(np.ones((3, num_slots, 25, 3))).shape == (3, expected, 25, 3)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=9))
def test_bodies_are_counted_over_all_frames(there: list[tuple[bool, bool]]) -> None:
    frames = np.array(there, dtype=np.float64)[:, :, None, None] * np.ones((25, 3))
    assert count_bodies(frames) == any(a for a, _ in there) + any(b for _, b in there)
