"""Compiled draws on the CPU are bit by bit those of torch, which other devices make."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.augmentations.joints import JointCorruption, _maps_compiled, _maps_torch
from pipelines.augmentations.operation import Key, Samples
from pipelines.augmentations.spatial import Shear
from pipelines.augmentations.temporal import RandomCrop

KEY = Key(seed=3, epoch=2, step=9, view="base", slot="2:")


def _samples(count: int, strided: bool = False) -> Samples:
    generator = torch.Generator().manual_seed(count)
    ids = torch.randint(0, 2**62, (2 * count,), generator=generator)
    length = torch.randint(1, 400, (2 * count,), generator=generator)
    return Samples(ids[::2], length[::2]) if strided else Samples(ids[:count].clone(), length[:count].clone())


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(0, 200),
    ratios=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
    frames=st.integers(1, 500),
    strided=st.booleans(),
)
def test_crops(count: int, ratios: list[float], frames: int, strided: bool) -> None:
    crop, samples = RandomCrop(min_ratio=ratios[0], max_ratio=ratios[1], min_frames=frames), _samples(count, strided)
    compiled, plain = crop._draw_compiled(samples, KEY), crop._draw_torch(samples, KEY)
    assert torch.equal(compiled.first, plain.first)
    assert torch.equal(compiled.length, plain.length)
    assert torch.equal(crop.draw(samples, KEY, 64).first, plain.first)


@settings(deadline=None, max_examples=30)
@given(count=st.integers(0, 200), amplitude=st.floats(0.001, 10), strided=st.booleans())
def test_shears(count: int, amplitude: float, strided: bool) -> None:
    shear, samples = Shear(amplitude=amplitude), _samples(count, strided)
    plain = shear._draw_torch(samples, KEY)
    assert torch.equal(shear._draw_compiled(samples, KEY), plain)
    assert torch.equal(shear.draw(samples, KEY, 64), plain)


@settings(deadline=None, max_examples=30)
@given(count=st.integers(0, 100), joints=st.integers(1, 25), strided=st.booleans())
def test_corruptions_and_their_matrices(count: int, joints: int, strided: bool) -> None:
    corruption, samples = JointCorruption(joints=joints), _samples(count, strided)
    compiled, plain = corruption._draw_compiled(samples, KEY), corruption._draw_torch(samples, KEY)
    for name in ("joints", "linear", "matrix"):
        assert torch.equal(getattr(compiled, name), getattr(plain, name)), name
    matrices = _maps_torch(plain)
    assert torch.equal(_maps_compiled(plain), matrices)
    assert torch.equal(corruption.joint_map(compiled).matrices, matrices)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.0])
def test_odd_entries_of_a_matrix_stay_what_torch_makes_of_them(value: float) -> None:
    plain = JointCorruption()._draw_torch(_samples(6), KEY)
    plain.matrix[:, 1, 2] = value
    expected, found = _maps_torch(plain), _maps_compiled(plain)
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.nan_to_num(7.0), expected.nan_to_num(7.0))
    assert torch.equal(found.signbit(), expected.signbit())
