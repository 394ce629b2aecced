"""Windows in time, against one frame after the other in float64."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.augmentations.draws import uniform
from pipelines.augmentations.temporal import Window, apply_resize, centre_crop, draw_crop
from shards.batch import RaggedBatch


def _batch(lengths: list[int], dtype: torch.dtype = torch.float32) -> RaggedBatch:
    length = torch.tensor(lengths)
    frames = torch.randn(sum(lengths), 2, 25, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    ids = torch.arange(len(lengths))
    return RaggedBatch(frames, length.cumsum(0) - length, length, ids, ids)


def _slow_resize(x: npt.NDArray[np.float64], frames: int) -> npt.NDArray[np.float64]:
    out = np.empty((frames, *x.shape[1:]))
    for i in range(frames):
        position = max((i + 0.5) * len(x) / frames - 0.5, 0.0)
        lower = min(math.floor(position), len(x) - 1)
        upper = min(lower + 1, len(x) - 1)
        share = position - lower if upper > lower else 0.0
        out[i] = (1 - share) * x[lower] + share * x[upper]
    return out


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=4),
    frames=st.sampled_from([1, 16, 32, 64, 100]),
    data=st.data(),
)
def test_resizing_equals_interpolating_frame_by_frame(lengths: list[int], frames: int, data: st.DataObject) -> None:
    batch = _batch(lengths)
    first = [data.draw(st.integers(0, length - 1)) for length in lengths]
    kept = [data.draw(st.integers(1, length - begin)) for length, begin in zip(lengths, first, strict=True)]
    found = apply_resize(batch, Window(torch.tensor(first), torch.tensor(kept)), frames)
    assert found.shape == (len(lengths), frames, 2, 25, 3)
    for row, (begin, count) in enumerate(zip(first, kept, strict=True)):
        start = int(batch.start[row]) + begin
        expected = _slow_resize(batch.frames[start : start + count].double().numpy(), frames)
        np.testing.assert_allclose(found[row].numpy(), expected, rtol=0, atol=1e-5)


def test_positions_far_into_a_long_sample_are_exact() -> None:
    # on a ramp the result is the position itself; in float32 it would be off by 1e-4 here
    ramp = torch.arange(1400.0)[:, None, None, None].expand(-1, 2, 25, 3) - 1000
    one = torch.tensor([0])
    batch = RaggedBatch(ramp, one, torch.tensor([1400]), one, one)
    found = apply_resize(batch, Window(one, torch.tensor([1400])), 96)[0, :, 0, 0, 0].double()
    expected = (torch.arange(96, dtype=torch.float64) + 0.5) * 1400 / 96 - 0.5 - 1000
    near = expected.abs() < 100
    torch.testing.assert_close(found[near], expected[near], rtol=0, atol=1e-5)


def test_a_window_as_long_as_the_view_is_returned_as_it_is() -> None:
    batch = _batch([70, 64])
    found = apply_resize(batch, Window(torch.tensor([6, 0]), torch.tensor([64, 64])), 64)
    assert torch.equal(found.flatten(0, 1), batch.frames[6:])


def test_half_precision_frames_are_interpolated_in_single_precision() -> None:
    half = _batch([90, 30], torch.float16)
    single = RaggedBatch(half.frames.float(), half.start, half.length, half.label, half.sample_id)
    window = Window(torch.tensor([3, 0]), torch.tensor([80, 30]))
    found = apply_resize(half, window, 64)
    assert found.dtype == torch.float32
    assert torch.equal(found, apply_resize(single, window, 64))


def test_crops_follow_the_released_rule_for_lengths() -> None:
    length = torch.arange(1, 301)
    ids = torch.arange(300)
    window = draw_crop(length, ids, 0.1, 1.0, seed=1, epoch=2, view="base")
    share, place = uniform(1, 2, ids, "base", "crop", 2).T.tolist()
    for i, total in enumerate(length.tolist()):
        kept = min(max(math.floor(total * (share[i] * 0.9 + 0.1)), 64), total)
        assert int(window.length[i]) == kept
        assert int(window.first[i]) == math.floor(place[i] * (total - kept + 1))


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=20),
    ratios=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
    min_frames=st.integers(1, 100),
    epoch=st.integers(0, 50),
)
def test_a_crop_lies_inside_its_sample(lengths: list[int], ratios: list[float], min_frames: int, epoch: int) -> None:
    length = torch.tensor(lengths)
    window = draw_crop(
        length, torch.arange(len(lengths)), *ratios, seed=0, epoch=epoch, view="key", min_frames=min_frames
    )
    assert (window.first >= 0).all()
    assert (window.first + window.length <= length).all()
    assert (window.length >= length.clamp(max=min_frames)).all()
    assert (window.length <= torch.ceil(length * ratios[1]).clamp(min=min_frames)).all()


def test_crops_reach_both_ends_and_every_start_equally_often() -> None:
    count = 60_000
    window = draw_crop(torch.full((count,), 69), torch.arange(count), 0.1, 0.9, seed=0, epoch=0, view="base")
    starts = torch.bincount(window.first, minlength=6)
    assert (window.length == 64).all()
    # 10,000 each are expected, standard deviation 91
    assert ((starts - count / 6).abs() < 450).all()


@pytest.mark.parametrize(("length", "ratio"), [(1, 0.95), (39, 0.95), (40, 0.95), (131, 0.95), (300, 0.9), (57, 1.0)])
def test_the_centre_crop_cuts_both_ends_alike(length: int, ratio: float) -> None:
    window = centre_crop(torch.tensor([length]), ratio)
    cut = int((1 - ratio) * length / 2)
    assert int(window.first) == cut
    assert int(window.length) == length - 2 * cut
