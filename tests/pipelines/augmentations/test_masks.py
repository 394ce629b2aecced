"""Part masks and clips, against one frame and joint after the other."""

import pytest
import torch

from pipelines.augmentations.masks import draw_clip, draw_part_mask, main_person_only, part_mask, part_table
from shards.skeleton import BODY_PARTS


def test_every_joint_belongs_to_exactly_one_part() -> None:
    assert part_table().sum(dim=0).tolist() == [1] * 25
    assert part_table().sum(dim=1).tolist() == [len(part) for part in BODY_PARTS]


@pytest.mark.parametrize(("ratio", "hidden"), [(0.2, 1), (0.4, 2), (0.6, 3), (0.79, 3), (0.8, 4), (0.99, 4)])
def test_a_ratio_hides_whole_parts_rounded_down(ratio: float, hidden: int) -> None:
    parts = draw_part_mask(ratio, 8, seed=0, epoch=0, step=0)
    assert parts.shape == (8, hidden)
    assert all(len(set(row)) == hidden for row in parts.tolist())


def test_every_part_is_hidden_equally_often_and_segments_are_independent() -> None:
    drawn = torch.stack([draw_part_mask(0.6, 8, seed=0, epoch=1, step=step) for step in range(1000)])
    counts = torch.stack([torch.bincount(drawn[:, s].flatten(), minlength=5) for s in range(8)])
    # 600 each are expected, standard deviation 15.5
    assert ((counts - 600).abs() < 75).all()
    same = (drawn[:, 0].sort(dim=1).values == drawn[:, 1].sort(dim=1).values).all(dim=1).float().mean()
    # two of the ten triples agree by chance once in ten, standard error 0.0095
    assert abs(same.item() - 0.1) < 0.045


@pytest.mark.parametrize(("frames", "segments"), [(64, 8), (32, 8), (16, 4), (48, 1)])
def test_hidden_parts_hide_their_joints_in_their_segment(frames: int, segments: int) -> None:
    parts = draw_part_mask(0.6, segments, seed=1, epoch=0, step=5)
    visible = part_mask(parts, frames)
    assert visible.shape == (frames, 25)
    for t in range(frames):
        hidden = {joint for part in parts[t * segments // frames].tolist() for joint in BODY_PARTS[part]}
        assert visible[t].tolist() == [joint not in hidden for joint in range(25)]


def test_the_second_person_is_always_visible() -> None:
    mask = main_person_only(part_mask(draw_part_mask(0.6, 8, seed=0, epoch=0, step=0), 64))
    assert mask.shape == (1, 64, 2, 25, 1)
    assert mask[:, :, 1].all()
    assert not mask[:, :, 0].all()


@pytest.mark.parametrize(("clip", "frames"), [(1, 64), (16, 64), (63, 64), (64, 64), (16, 32)])
def test_a_clip_keeps_one_run_of_its_length(clip: int, frames: int) -> None:
    kept = draw_clip(torch.arange(200), clip, frames, seed=0, epoch=0)
    assert kept.shape == (200, frames)
    assert (kept.sum(dim=1) == clip).all()
    edges = torch.nn.functional.pad(kept.int(), (1, 1)).diff(dim=1)
    assert ((edges == 1).sum(dim=1) == 1).all()


def test_clips_begin_at_every_place_equally_often() -> None:
    kept = draw_clip(torch.arange(49_000), 16, 64, seed=0, epoch=0)
    starts = torch.bincount(kept.int().argmax(dim=1), minlength=49)
    # 1,000 each are expected, standard deviation 31
    assert len(starts) == 49
    assert ((starts - 1000).abs() < 160).all()
