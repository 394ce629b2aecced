import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.augmentations.streams import apply_stream
from pipelines.preprocessing.recipes import recipe
from pipelines.videos.windows import prepare_video, prepare_windows, whole, window_frames
from shards.batch import flatten, unflatten
from shards.skeleton import SPINE_MID


def by_cases(centre: int, stride: int, length: int, frames: int) -> tuple[list[int], int]:
    """The rule as three cases; only for videos of at least one span."""
    span = frames * stride
    half = span // 2
    if centre < half:
        start = 0
    elif centre > length - half:
        start = length - span
    else:
        start = centre - half
    start = min(start, length - span)  # an odd span has one frame more behind its centre
    return list(range(start, start + span, stride)), start + half


@given(st.integers(1, 20), st.integers(1, 6), st.integers(0, 60), st.data())
def test_a_window_lies_around_its_centre_or_is_moved_inside(
    frames: int, stride: int, more: int, data: st.DataObject
) -> None:
    length = frames * stride + more
    centre = data.draw(st.integers(0, length - 1))
    taken, middle = window_frames(torch.tensor([centre]), torch.tensor([stride]), torch.tensor([length]), frames)
    expected, label = by_cases(centre, stride, length, frames)
    assert taken.tolist() == [expected]
    assert middle.tolist() == [label]


def test_the_published_test_window_of_a_middle_frame_ends_28_frames_after_it() -> None:
    taken, middle = window_frames(torch.tensor([500]), torch.tensor([4]), torch.tensor([1000]), 16)
    assert taken.tolist() == [list(range(468, 532, 4))]
    assert taken[0, -1] == 528
    assert middle.tolist() == [500]


def test_a_video_shorter_than_a_window_has_its_last_frame_repeated() -> None:
    taken, middle = window_frames(torch.tensor([0, 4]), torch.tensor([2, 2]), torch.tensor([5, 5]), 4)
    assert taken.tolist() == [[0, 2, 4, 4]] * 2
    assert middle.tolist() == [4, 4]


@pytest.mark.parametrize("stream", ["joint", "bone", "motion"])
def test_raw_windows_are_the_frames_as_the_stream_shows_them(stream) -> None:
    windows = torch.randn(3, 16, 2, 25, 3)
    x = prepare_windows(windows, recipe("pcm3", "pkummd1"), "raw", stream)
    assert torch.equal(x, flatten(apply_stream(windows, stream)))


def test_by_the_recipe_each_window_is_a_clip_of_its_own() -> None:
    windows, pcm3 = torch.randn(3, 16, 2, 25, 3), recipe("pcm3", "pkummd1")
    x = unflatten(prepare_windows(windows, pcm3, "recipe", "bone"))
    for window, seen in zip(windows, x, strict=True):
        assert torch.equal(seen, apply_stream(torch.from_numpy(pcm3.window(window.numpy()))[None], "bone")[0])
        assert not torch.equal(seen, apply_stream(window[None], "bone")[0])


def test_a_recipe_that_leaves_clips_as_they_are_leaves_windows_so() -> None:
    windows = torch.randn(2, 16, 2, 25, 3)
    x = prepare_windows(windows, recipe("ctrgcn", "pkummd1"), "recipe", "joint")
    assert torch.equal(x, flatten(windows))


def test_a_whole_video_by_the_recipe_is_centred_and_turned_but_neither_cut_nor_moved_in_time() -> None:
    frames = np.random.default_rng(0).normal(size=(400, 2, 25, 3)).astype(np.float32)
    frames[:5] = 0
    frames[100:110] = 0
    made = whole(frames, recipe("pcm3", "pkummd1"))
    assert made.shape == frames.shape
    assert made.dtype == np.float32
    empty = ~frames.any(axis=(1, 2, 3))
    np.testing.assert_array_equal(~made.any(axis=(1, 2, 3)), empty)
    np.testing.assert_allclose(made[~empty, 0, SPINE_MID], 0, atol=1e-6)
    # the clip that begins with the first frame in which somebody is, and ends before the gap
    clip = recipe("pcm3", "pkummd1").window(frames[5:100])
    np.testing.assert_allclose(made[5:100], clip, atol=1e-5)


def test_a_whole_video_without_the_first_person_stays() -> None:
    frames = np.random.default_rng(0).normal(size=(6, 2, 25, 3)).astype(np.float32)
    frames[:, 0] = 0
    np.testing.assert_array_equal(whole(frames, recipe("pcm3", "pkummd1")), frames)


@pytest.mark.parametrize("stream", ["joint", "motion"])
def test_a_whole_raw_video_is_one_sequence(stream) -> None:
    frames = np.random.default_rng(0).normal(size=(50, 2, 25, 3)).astype(np.float32)
    x = prepare_video(frames, recipe("pcm3", "pkummd1"), "raw", stream)
    assert torch.equal(x, flatten(apply_stream(torch.from_numpy(frames)[None], stream)))
