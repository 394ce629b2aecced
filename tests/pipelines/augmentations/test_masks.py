"""Masks, against one frame and joint after the other."""

import pytest
import torch
from torch import Tensor

from pipelines.augmentations.masks import (
    BodyPartMask,
    ClipMask,
    FrameMask,
    RandomMask,
    TubeMask,
    keep_least,
    main_person_only,
    part_mask,
    part_table,
)
from pipelines.augmentations.operation import Key, Mask, Samples
from shards.errors import ConfigError
from shards.skeleton import BODY_PARTS

KEY = Key(seed=1, epoch=0, step=5, view="masked")


def _samples(count: int) -> Samples:
    return Samples(torch.arange(count), torch.full((count,), 100))


def _visible(operation: Mask, count: int, frames: int = 64, key: Key = KEY) -> Tensor:
    """(N, T, M, V) of samples 0..N-1."""
    shown = operation.visible(torch.empty(count, frames, 2, 25, 3), operation.draw(_samples(count), key, frames))
    return shown.expand(count, frames, 2, 25)


def test_every_joint_belongs_to_exactly_one_part() -> None:
    assert part_table().sum(dim=0).tolist() == [1] * 25
    assert part_table().sum(dim=1).tolist() == [len(part) for part in BODY_PARTS]


@pytest.mark.parametrize(("ratio", "hidden"), [(0.2, 1), (0.4, 2), (0.6, 3), (0.79, 3), (0.8, 4), (0.99, 4)])
def test_a_ratio_hides_whole_parts_rounded_down(ratio: float, hidden: int) -> None:
    parts = BodyPartMask(ratio=ratio).draw(_samples(3), KEY, 64)
    assert parts.shape == (1, 8, hidden)
    assert all(len(set(row)) == hidden for row in parts[0].tolist())


def test_every_part_is_hidden_equally_often_and_segments_are_independent() -> None:
    keys = [Key(seed=0, epoch=1, step=step, view="masked") for step in range(1000)]
    by_batch = torch.cat([BodyPartMask().draw(_samples(2), key, 64) for key in keys])
    for drawn in (by_batch, BodyPartMask(scope="sample").draw(_samples(1000), keys[0], 64)):
        counts = torch.stack([torch.bincount(drawn[:, s].flatten(), minlength=5) for s in range(8)])
        # 600 each are expected, standard deviation 15.5
        assert ((counts - 600).abs() < 75).all()
        same = (drawn[:, 0].sort(dim=1).values == drawn[:, 1].sort(dim=1).values).all(dim=1).float().mean()
        # two of the ten triples agree by chance once in ten, standard error 0.0095
        assert abs(same.item() - 0.1) < 0.045


@pytest.mark.parametrize(("frames", "segments"), [(64, 8), (32, 8), (16, 4), (48, 1)])
@pytest.mark.parametrize("scope", ["batch", "sample"])
def test_hidden_parts_hide_their_joints_in_their_segment(frames: int, segments: int, scope: str) -> None:
    operation = BodyPartMask.model_validate({"segments": segments, "scope": scope})
    drawn = operation.draw(_samples(6), KEY, frames)
    assert len(drawn) == (1 if scope == "batch" else 6)
    visible = part_mask(drawn, frames)
    for n, parts in enumerate(drawn.tolist()):
        for t in range(frames):
            hidden = {joint for part in parts[t * segments // frames] for joint in BODY_PARTS[part]}
            assert visible[n, t].tolist() == [joint not in hidden for joint in range(25)]
    assert torch.equal(part_mask(drawn[0], frames), visible[0])
    assert torch.equal(operation.visible(torch.empty(6, frames, 2, 25, 3), drawn), main_person_only(visible))


@pytest.mark.parametrize("persons", ["main", "both"])
@pytest.mark.parametrize("kind", [BodyPartMask, RandomMask, TubeMask, FrameMask])
def test_the_second_person_is_always_visible_or_hidden_like_the_first(kind: type[Mask], persons: str) -> None:
    visible = _visible(kind.model_validate({"persons": persons}), 4)
    assert not visible[:, :, 0].all()
    if persons == "main":
        assert visible[:, :, 1].all()
    else:
        assert torch.equal(visible[:, :, 0], visible[:, :, 1])


@pytest.mark.parametrize(("clip", "frames"), [(1, 64), (16, 64), (63, 64), (64, 64), (16, 32)])
def test_a_clip_keeps_one_run_of_its_length(clip: int, frames: int) -> None:
    visible = _visible(ClipMask(frames=clip), 200, frames)
    kept = visible[:, :, 0, 0]
    assert torch.equal(visible, kept[:, :, None, None].expand_as(visible))
    assert (kept.sum(dim=1) == clip).all()
    edges = torch.nn.functional.pad(kept.int(), (1, 1)).diff(dim=1)
    assert ((edges == 1).sum(dim=1) == 1).all()


def test_clips_begin_at_every_place_equally_often() -> None:
    starts = torch.bincount(ClipMask(frames=16).draw(_samples(49_000), KEY, 64)[:, 0], minlength=49)
    # 1,000 each are expected, standard deviation 31
    assert len(starts) == 49
    assert ((starts - 1000).abs() < 160).all()


def test_the_tokens_of_least_noise_stay() -> None:
    noise = torch.tensor([[0.3, 0.1, 0.2, 0.1], [4.0, 3.0, 2.0, 1.0]])
    assert keep_least(noise, 2).tolist() == [[False, True, False, True], [False, False, True, True]]


@pytest.mark.parametrize(("ratio", "patch", "kept"), [(0.9, 4, 39), (0.5, 1, 800), (0.6, 64, 10), (0.25, 8, 150)])
def test_a_random_mask_hides_whole_tokens_of_one_joint(ratio: float, patch: int, kept: int) -> None:
    operation = RandomMask(ratio=ratio, patch=patch)
    tokens = operation.draw(_samples(5), KEY, 64)
    visible = _visible(operation, 5)
    for n in range(5):
        assert int(tokens[n].sum()) == kept
        for t in range(64):
            assert visible[n, t, 0].tolist() == tokens[n, t // patch].tolist()


def test_a_random_mask_takes_every_token_and_every_pair_of_neighbours_equally_often() -> None:
    hidden = ~RandomMask(ratio=0.5, patch=16).draw(_samples(20_000), KEY, 64)
    # standard error 0.0035
    assert (hidden.double().mean(dim=0) - 0.5).abs().max() < 0.017
    pairs = (hidden[:, 1:] & hidden[:, :-1]).double().mean(dim=0)
    assert (pairs - 0.5 * 49 / 99).abs().max() < 0.016


@pytest.mark.parametrize(("ratio", "kept"), [(0.6, 10), (0.9, 2), (0.96, 1), (0.01, 24)])
@pytest.mark.parametrize("segments", [1, 4, 64])
@pytest.mark.parametrize("scope", ["batch", "sample"])
def test_a_tube_hides_the_same_joints_in_all_frames_of_a_segment(
    ratio: float, kept: int, segments: int, scope: str
) -> None:
    operation = TubeMask.model_validate({"ratio": ratio, "segments": segments, "scope": scope})
    visible = _visible(operation, 50)
    by_segment = visible.view(50, segments, 64 // segments, 2, 25)
    assert torch.equal(by_segment, by_segment[:, :, :1].expand_as(by_segment))
    shown = by_segment[:, :, 0, 0]
    assert (shown.sum(dim=-1) == kept).all()
    assert bool((shown == shown[:1]).all()) is (scope == "batch")
    assert bool((shown == shown[:, :1]).all()) is (segments == 1)


def test_a_tube_takes_every_joint_equally_often() -> None:
    shown = TubeMask(segments=2).draw(_samples(20_000), KEY, 64).double()
    # standard error 0.0035
    assert (shown.mean(dim=0) - 10 / 25).abs().max() < 0.017
    both = shown.prod(dim=1).mean(dim=0)
    # segments are independent; standard error 0.0026
    assert (both - 0.16).abs().max() < 0.013


@pytest.mark.parametrize("pattern", ["scattered", "run"])
@pytest.mark.parametrize(("ratio", "kept"), [(0.5, 32), (0.9, 6), (0.01, 63)])
def test_a_frame_mask_hides_all_joints_of_its_share_of_frames(pattern: str, ratio: float, kept: int) -> None:
    visible = _visible(FrameMask.model_validate({"ratio": ratio, "pattern": pattern}), 100)
    shown = visible[:, :, 0, 0]
    assert torch.equal(visible, shown[:, :, None, None].expand_as(visible))
    assert (shown.sum(dim=1) == kept).all()
    runs = (torch.nn.functional.pad(~shown, (1, 1)).int().diff(dim=1) == 1).sum(dim=1)
    assert (runs == 1).all() if pattern == "run" or ratio == 0.01 else runs.max() > 3


def test_hidden_frames_are_equally_frequent_and_hidden_runs_begin_everywhere_equally_often() -> None:
    scattered = FrameMask().draw(_samples(20_000), KEY, 64).double()
    assert (scattered.mean(dim=0) - 0.5).abs().max() < 0.017
    first = (~FrameMask(pattern="run").draw(_samples(33_000), KEY, 64)).int().argmax(dim=1)
    starts = torch.bincount(first, minlength=33)
    # 1,000 each are expected, standard deviation 31
    assert len(starts) == 33
    assert ((starts - 1000).abs() < 160).all()


@pytest.mark.parametrize(
    "operation",
    [
        BodyPartMask(scope="sample"),
        ClipMask(),
        RandomMask(),
        TubeMask(),
        TubeMask(segments=8),
        FrameMask(),
        FrameMask(pattern="run"),
    ],
)
def test_what_is_hidden_of_a_sample_does_not_depend_on_its_batch_or_step(operation: Mask) -> None:
    some = torch.tensor([59, 3, 17])
    samples = Samples(some, torch.tensor([1, 2, 3]))
    x = torch.empty(3, 64, 2, 25, 3)
    every = _visible(operation, 60)
    found = operation.visible(x, operation.draw(samples, Key(1, 0, 99, "masked"), 64)).expand(3, 64, 2, 25)
    assert torch.equal(found, every[some])
    assert not torch.equal(_visible(operation, 60, key=Key(2, 0, 5, "masked")), every)


@pytest.mark.parametrize(
    ("operation", "frames", "message"),
    [
        (BodyPartMask(segments=7), 64, "view of 64 frames, expected a multiple of 7 segments"),
        (ClipMask(frames=17), 16, "clip of 17 frames, expected at most the view's 16"),
        (RandomMask(patch=5), 64, "view of 64 frames, expected a multiple of the 5 frames of a token"),
        (RandomMask(patch=128), 64, "view of 64 frames, expected a multiple of the 128 frames of a token"),
        (TubeMask(segments=7), 64, "view of 64 frames, expected a multiple of 7 segments"),
        (TubeMask(ratio=0.97), 64, r"mask of 0\.97 of 25, which leaves none; expected one to stay"),
        (FrameMask(ratio=0.9), 8, r"mask of 0\.9 of 8, which leaves none; expected one to stay"),
    ],
)
def test_a_mask_that_does_not_fit_the_view_is_refused(operation: Mask, frames: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        operation.draw(_samples(2), KEY, frames)
