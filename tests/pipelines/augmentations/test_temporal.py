"""Windows in time and changes of the order of frames, against one frame after the other in float64."""

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines.augmentations.draws import uniform
from pipelines.augmentations.operation import Crop, Key, Samples, TimeMap, Window
from pipelines.augmentations.temporal import (
    CentreCrop,
    ClipCrop,
    RandomCrop,
    Reverse,
    SegmentShuffle,
    Speed,
    StartCrop,
    TemporalShift,
    apply_resize,
    centre_crop,
)
from pipelines.views.draw import Step, interpolated, time_index
from shards.batch import RaggedBatch
from shards.errors import ConfigError

KEY = Key(seed=1, epoch=2, step=3, view="base")
CROPS = [RandomCrop(), CentreCrop(), StartCrop(), ClipCrop(), ClipCrop(frames=16)]
TIME_MAPS = [Reverse(), Speed(), TemporalShift(), TemporalShift(max_frames=10, edges="reflect"), SegmentShuffle()]


def _kind(operation: Crop | TimeMap) -> str:
    return operation.kind


def _samples(lengths: list[int] | torch.Tensor, first: int = 0) -> Samples:
    length = torch.as_tensor(lengths)
    return Samples(torch.arange(first, first + len(length)), length)


def _index(operation: TimeMap, count: int, frames: int, first: int = 0) -> torch.Tensor:
    return operation.index(operation.draw(_samples([99] * count, first), KEY, frames), frames)


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
    window = RandomCrop().draw(Samples(ids, length), KEY, 64)
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
    crop = RandomCrop(min_ratio=ratios[0], max_ratio=ratios[1], min_frames=min_frames)
    window = crop.draw(_samples(lengths), Key(0, epoch, 0, "key"), 64)
    assert (window.first >= 0).all()
    assert (window.first + window.length <= length).all()
    assert (window.length >= length.clamp(max=min_frames)).all()
    assert (window.length <= torch.ceil(length * ratios[1]).clamp(min=min_frames)).all()


def test_crops_reach_both_ends_and_every_start_equally_often() -> None:
    count = 60_000
    crop = RandomCrop(min_ratio=0.1, max_ratio=0.9)
    window = crop.draw(_samples(torch.full((count,), 69)), Key(0, 0, 0, "base"), 64)
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


@pytest.mark.parametrize(("length", "left"), [(1, 1), (2, 2), (39, 1), (40, 2)])
def test_the_centre_crop_leaves_a_frame_whatever_the_ratio(length: int, left: int) -> None:
    assert int(centre_crop(torch.tensor([length]), 1e-30).length) == left


@settings(deadline=None)
@given(tenths=st.integers(1, 10), lengths=st.lists(st.integers(1, 5000), min_size=1, max_size=20))
def test_the_start_crop_keeps_the_first_frames_rounded_down(tenths: int, lengths: list[int]) -> None:
    window = StartCrop(ratio=tenths / 10).draw(_samples(lengths), KEY, 64)
    assert window.first.tolist() == [0] * len(lengths)
    assert window.length.tolist() == [max(1, length * tenths // 10) for length in lengths]


@pytest.mark.parametrize("length", [1, 3, 16, 17, 100])
@pytest.mark.parametrize(("options", "kept"), [({"ratio": 0.25}, 25), ({"ratio": 1.0}, 100), ({"frames": 16}, 16)])
def test_a_clip_has_its_share_or_its_frames_and_a_shorter_sample_is_kept_whole(
    length: int, options: dict[str, float], kept: int
) -> None:
    window = ClipCrop.model_validate(options).draw(_samples([length] * 200), KEY, 64)
    share = options.get("ratio")
    expected = min(kept, length) if share is None else max(1, math.floor(length * share))
    assert set(window.length.tolist()) == {expected}
    assert (window.first >= 0).all()
    assert (window.first + window.length <= length).all()


def test_a_clip_begins_at_every_frame_equally_often() -> None:
    window = ClipCrop(frames=16).draw(_samples(torch.full((50_000,), 20)), KEY, 64)
    starts = torch.bincount(window.first)
    # 10,000 each are expected, standard deviation 89
    assert len(starts) == 5
    assert ((starts - 10_000).abs() < 450).all()


@pytest.mark.parametrize("operation", CROPS, ids=_kind)
def test_what_a_crop_draws_for_a_sample_does_not_depend_on_its_batch(operation: Crop) -> None:
    lengths = [1, 5, 64, 65, 130, 300]
    together = operation.draw(_samples(lengths), KEY, 64)
    for row, length in enumerate(lengths):
        alone = operation.draw(_samples([length], row), KEY, 64)
        assert (int(alone.first), int(alone.length)) == (int(together.first[row]), int(together.length[row]))
        assert 0 <= int(alone.first) <= length - int(alone.length) < length


@pytest.mark.parametrize("operation", TIME_MAPS, ids=_kind)
def test_what_a_time_map_draws_for_a_sample_does_not_depend_on_its_batch(operation: TimeMap) -> None:
    together = _index(operation, 30, 64)
    assert together.shape == (30, 64)
    assert together.dtype == torch.float64
    assert together.min() >= 0
    assert together.max() <= 63
    for row in range(30):
        assert torch.equal(_index(operation, 1, 64, row), together[row : row + 1])


@pytest.mark.parametrize("operation", [Reverse(), Speed(), TemporalShift(max_frames=1)], ids=_kind)
def test_a_view_of_one_frame_has_nothing_to_move(operation: TimeMap) -> None:
    assert _index(operation, 5, 1).tolist() == [[0.0]] * 5


@pytest.mark.parametrize("kind", [Reverse, Speed, TemporalShift, SegmentShuffle])
def test_probability_decides_which_samples_a_time_map_changes(kind: type[TimeMap]) -> None:
    samples = _samples([64] * 3000)
    x = torch.randn(1, 16, 1, 1, 1).expand(3000, -1, -1, -1, -1)
    changed = {}
    for probability in (0.0, 0.3, 1.0):
        operation = kind.model_validate({"probability": probability})
        step = Step(operation, operation.draw(samples, KEY, 16), operation.applies(samples, KEY))
        found = interpolated(x, time_index(step, 16))
        changed[probability] = (found != x).flatten(1).any(dim=1)
    assert not changed[0.0].any()
    # standard deviation 0.0084; an identity order of segments or a shift by 0 changes nothing
    assert abs(changed[0.3].sum().item() / changed[1.0].sum().item() - 0.3) < 0.03
    assert (changed[1.0] | ~changed[0.3]).all()


def test_reverse_plays_the_frames_backwards() -> None:
    x = torch.randn(3, 64, 2, 25, 3)
    assert torch.equal(interpolated(x, _index(Reverse(), 3, 64)), x.flip(1))


def test_speed_keeps_its_moment_and_takes_frames_in_between_linearly() -> None:
    x = torch.randn(20, 40, 2, 25, 3)
    operation = Speed()
    params = operation.draw(_samples([99] * 20), KEY, 40)
    found = interpolated(x, operation.index(params, 40))
    draws = uniform(1, 2, torch.arange(20), "base", "speed", 2).tolist()
    for n in range(20):
        factor, moment = 0.5 + 1.5 * draws[n][0], 39 * draws[n][1]
        for t in range(40):
            position = min(max(moment + (t - moment) * factor, 0.0), 39.0)
            lower = min(math.floor(position), 38)
            share = position - lower
            expected = (1 - share) * x[n, lower].double() + share * x[n, lower + 1].double()
            torch.testing.assert_close(found[n, t].double(), expected, rtol=0, atol=1e-5)


def test_speeds_and_moments_are_uniform_and_independent() -> None:
    params = Speed(min_factor=0.5, max_factor=1.5).draw(_samples([99] * 20_000), KEY, 65)
    factor, moment = params[:, 0], params[:, 1] / 64
    for found, low in ((factor, 0.5), (moment, 0.0)):
        assert low <= found.min() < low + 0.001
        assert low + 0.999 < found.max() <= low + 1
        # standard errors 0.002 and 0.0005
        assert abs(found.mean() - low - 0.5) < 0.01
        assert abs(found.var() - 1 / 12) < 0.003
    assert torch.corrcoef(params.T)[0, 1].abs() < 0.035


@pytest.mark.parametrize("edges", ["repeat", "reflect"])
@pytest.mark.parametrize("max_frames", [1, 5, 30])
def test_a_shift_equals_a_crop_from_a_padded_sequence(edges: str, max_frames: int) -> None:
    x = torch.randn(50, 30, 2, 25, 3)
    operation = TemporalShift.model_validate({"max_frames": max_frames, "edges": edges})
    params = operation.draw(_samples([99] * 50), KEY, 30)
    found = interpolated(x, operation.index(params, 30))
    for n in range(50):
        start = int(params[n]) + max_frames
        width = ((max_frames, max_frames), (0, 0), (0, 0), (0, 0))
        if edges == "repeat":
            padded = np.pad(x[n].numpy(), width, mode="edge")
        else:
            padded = np.pad(x[n].numpy(), width, mode="symmetric")
        np.testing.assert_array_equal(found[n].numpy(), padded[start : start + 30])


def test_shifts_reach_both_limits_and_are_equally_likely() -> None:
    params = TemporalShift(max_frames=2).draw(_samples([99] * 50_000), KEY, 64)
    assert (int(params.min()), int(params.max())) == (-2, 2)
    # 10,000 each are expected, standard deviation 89
    assert ((torch.bincount(params + 2) - 10_000).abs() < 450).all()


@pytest.mark.parametrize("segments", [2, 3, 4])
def test_a_shuffle_puts_the_pieces_in_the_order_whose_number_is_its_target(segments: int) -> None:
    orders = list(itertools.permutations(range(segments)))
    x = torch.randn(200, 24, 2, 25, 3)
    operation = SegmentShuffle(segments=segments)
    params = operation.draw(_samples([99] * 200), KEY, 24)
    found = interpolated(x, operation.index(params, 24))
    target = operation.target(params)
    assert set(target.tolist()) == set(range(len(orders)))
    for n in range(200):
        pieces = x[n].chunk(segments)
        assert torch.equal(found[n], torch.cat([pieces[piece] for piece in orders[int(target[n])]]))


def test_every_order_of_four_segments_is_equally_likely() -> None:
    operation = SegmentShuffle()
    target = operation.target(operation.draw(_samples([99] * 48_000), KEY, 64))
    counts = torch.bincount(target, minlength=24)
    # 2,000 each are expected, standard deviation 44
    assert len(counts) == 24
    assert ((counts - 2000).abs() < 220).all()


def test_frames_that_do_not_divide_into_segments_and_shifts_beyond_the_view_are_named() -> None:
    with pytest.raises(ConfigError, match=r"found a view of 63 frames, expected .* segments=4"):
        SegmentShuffle().draw(_samples([99]), KEY, 63)
    with pytest.raises(ConfigError, match="temporal_shift: found max_frames=8, expected at most the view's 7 frames"):
        TemporalShift().draw(_samples([99]), KEY, 7)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (RandomCrop, {"min_ratio": 0.6, "max_ratio": 0.5}),
        (StartCrop, {"ratio": 0.0}),
        (StartCrop, {"ratio": 1.1}),
        (ClipCrop, {"ratio": 0.0}),
        (ClipCrop, {"frames": 0}),
        (Speed, {"min_factor": 0.0}),
        (Speed, {"min_factor": 2.0, "max_factor": 1.0}),
        (TemporalShift, {"max_frames": 0}),
        (TemporalShift, {"edges": "wrap"}),
        (SegmentShuffle, {"segments": 1}),
        (Reverse, {"probability": 1.5}),
    ],
)
def test_values_that_cannot_work_are_refused(kind: type[Crop | TimeMap], options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        kind.model_validate(options)
