"""The measures of samples equal those of a slow loop; what is out of place is located."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.quality.measures import (
    SPEED_STEP,
    Measures,
    measure_frames,
    nothing_measured,
    sample_blocks,
    speed_quantile,
)
from pipelines.quality.outliers import fastest, longest_gap, robust_z
from shards.skeleton import PARENTS

Frames = npt.NDArray[np.float32]

HEAD = 3


def body(frames: int) -> Frames:
    """One person who trembles by a millimetre: (frames, 2, 25, 3) float32, the second person absent."""
    draw = np.random.default_rng(3)
    array = np.zeros((frames, 2, 25, 3), np.float32)
    array[:, 0] = draw.normal(size=(25, 3)) * 0.3 + draw.normal(size=(frames, 25, 3)) * 0.001
    return array


class Reference(NamedTuple):
    """Measures of one sample, by loops over persons, joints and frames."""

    lengths: dict[tuple[int, int], float]
    variations: dict[tuple[int, int], float]
    top: float
    fast: float
    empty: int
    pairs: int
    duplicates: int
    frozen: list[int]


def reference(frames: Frames) -> Reference:
    there = [[body.sum() != 0 for body in frame] for frame in frames]
    wide = frames.astype(np.float64)
    lengths, variations = {}, {}
    for person in range(2):
        for joint, parent in enumerate(PARENTS):
            frames_there = [f[person] for f, t in zip(wide, there, strict=True) if t[person]]
            bone = [np.linalg.norm(one[joint] - one[parent]) for one in frames_there]
            if bone and joint != parent:
                lengths[person, joint], variations[person, joint] = np.median(bone), np.std(bone)
    moves, frozen, pairs, duplicates = [], [0] * 25, 0, 0
    for t in range(1, len(frames)):
        both = [person for person in range(2) if there[t - 1][person] and there[t][person]]
        pairs += bool(both)
        duplicates += bool(both) and np.array_equal(frames[t - 1], frames[t])
        for person in both:
            for joint in range(25):
                before, after = wide[t - 1, person, joint], wide[t, person, joint]
                moves.append(np.linalg.norm(after - before))
                frozen[joint] += bool((before == after).all() and before.any())
    return Reference(
        lengths,
        variations,
        max(moves, default=0),
        np.quantile(moves, 0.99) if moves else 0,
        sum(not any(t) for t in there),
        pairs,
        duplicates,
        frozen,
    )


def awkward_samples() -> list[Frames]:
    """Two persons who come and go, repeated frames, frozen joints, one frame, nobody at all."""
    draw = np.random.default_rng(5)
    samples = [draw.normal(size=(length, 2, 25, 3)).astype(np.float32) for length in (1, 2, 9, 30, 31)]
    samples[2][3:6, 1] = 0
    samples[3][4:9] = samples[3][4]
    samples[3][10:14, :, 7] = samples[3][10, :, 7]
    samples[3][20:22] = 0
    samples[4][:, :, 1] = 0  # a joint that a recipe has put to the origin
    samples[4][::2, 0] = 0
    return [*samples, np.zeros((6, 2, 25, 3), np.float32)]


def measured(samples: list[Frames]) -> Measures:
    measures = nothing_measured(len(samples))
    measure_frames(np.concatenate(samples), np.cumsum([0, *map(len, samples)]), measures)
    return measures


def test_measures_equal_those_of_a_loop_over_samples_persons_joints_and_frames() -> None:
    samples = awkward_samples()
    measures = measured(samples)
    slow = [reference(frames) for frames in samples]
    for number, one in enumerate(slow):
        for values, expected in ((measures.lengths, one.lengths), (measures.variations, one.variations)):
            known = {(int(p), int(v)) for p, v in np.argwhere(~np.isnan(values[number]))}
            assert known == set(expected)
            for cell, value in expected.items():
                assert values[number][cell] == pytest.approx(value, rel=1e-6, abs=1e-7)
        assert measures.top_speeds[number] == pytest.approx(one.top, rel=1e-6)
        assert measures.fast_speeds[number] == pytest.approx(one.fast, rel=1e-6)
    assert measures.empty.tolist() == [one.empty for one in slow]
    assert measures.pairs.tolist() == [one.pairs for one in slow]
    assert measures.duplicates.tolist() == [one.duplicates for one in slow]
    assert measures.duplicates[3] >= 4
    assert measures.frozen.tolist() == np.sum([one.frozen for one in slow], axis=0).tolist()
    bodies = np.concatenate([frames[frames.sum(axis=(2, 3)) != 0].reshape(-1, 3) for frames in samples])
    assert measures.lowest.tolist() == bodies.min(axis=0).tolist()
    assert measures.highest.tolist() == bodies.max(axis=0).tolist()


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 60))
def test_blocks_hold_every_sample_once_and_only_a_long_one_exceeds_them(lengths: list[int], frames: int) -> None:
    blocks = list(sample_blocks(np.cumsum([0, *lengths]), frames))
    assert [number for first, stop in blocks for number in range(first, stop)] == list(range(len(lengths)))
    assert all(sum(lengths[first:stop]) <= frames or stop - first == 1 for first, stop in blocks)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 10**6))
def test_medians_and_quantiles_are_numpys_however_many_values_are_equal(steps: list[int], seed: int) -> None:
    scale = np.random.default_rng(seed).uniform(0.01, 1)
    frames = np.zeros((len(steps) + 1, 2, 25, 3), np.float32)
    frames[:, 0] = np.arange(75).reshape(25, 3)
    frames[1:, 0] += (scale * np.cumsum(steps)).astype(np.float32)[:, None, None] * (np.arange(25) % 4)[:, None]
    one, expected = measured([frames]), reference(frames)
    assert one.fast_speeds[0] == pytest.approx(expected.fast, rel=1e-6, abs=1e-6)
    for cell, length in expected.lengths.items():
        assert one.lengths[0][cell] == pytest.approx(length, rel=1e-6)


def test_speeds_of_joints_are_counted_to_half_a_millimetre() -> None:
    samples = awkward_samples()
    for frames in samples:
        frames *= 0.1
    measures = measured(samples)
    wide = [frames.astype(np.float64) for frames in samples]
    moves = [
        np.linalg.norm(f[t, m, 5] - f[t - 1, m, 5])
        for f in wide
        for t in range(1, len(f))
        for m in range(2)
        if f[t - 1, m].any() and f[t, m].any()
    ]
    assert measures.speeds[5].sum() == len(moves)
    for share in (0.5, 0.99):
        expected = np.quantile(moves, share, method="inverted_cdf")
        assert abs(speed_quantile(measures.speeds[5], share) - expected) <= SPEED_STEP / 2 + 1e-9
    assert speed_quantile(np.zeros(9, np.int64), 0.5) == 0


def test_a_huge_or_undefined_distance_is_counted_beyond_the_last_step() -> None:
    frames = body(3)
    frames[1, 0, 9] = 1e30
    frames[1, 0, 10] = np.nan
    measures = measured([frames])
    assert measures.speeds[9, -1] == 2
    assert measures.speeds[9].sum() == 2


def test_z_is_in_robust_standard_deviations_of_the_bone_but_at_least_noise() -> None:
    values = np.full((101, 2, 25), np.nan, np.float32)
    values[:, 0, 5] = np.random.default_rng(0).normal(0.3, 0.05, 101)
    values[:, 0, 6] = 0.2  # a rigid bone: 1 cm away is two units of noise
    values[0, 0, 6] = 0.21
    z = robust_z(values)
    assert np.isnan(z[:, 1]).all()
    assert z[0, 0, 6] == pytest.approx(2, rel=1e-3)
    column = values[:, 0, 5].astype(np.float64)
    away = column - np.median(column)
    np.testing.assert_allclose(z[:, 0, 5], away / (1.4826 * np.median(np.abs(away))), rtol=1e-4, atol=1e-6)


def test_the_fastest_frame_is_the_one_out_of_place() -> None:
    frames = body(20)
    assert fastest(jump(frames, 8)) == (8, 0, HEAD)
    assert fastest(jump(frames, 0)) == (0, 0, HEAD)
    assert fastest(jump(frames, 19)) == (19, 0, HEAD)


def jump(frames: Frames, frame: int) -> Frames:
    changed = frames.copy()
    changed[frame, 0, HEAD] += 1
    return changed


def test_the_longest_gap_is_found_at_either_end() -> None:
    frames = body(20)
    assert longest_gap(frames).frame == 0
    frames[:3] = 0
    assert longest_gap(frames).frame == 0
    frames[15:] = 0
    assert longest_gap(frames).frame == 15
