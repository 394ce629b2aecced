"""Streams, against one joint and frame after the other."""

import torch

from pipelines.streams import apply_stream
from shards.skeleton import PARENTS


def _sequences() -> torch.Tensor:
    return torch.randn(2, 6, 2, 25, 3, generator=torch.Generator().manual_seed(0))


def test_the_joint_stream_is_the_input() -> None:
    x = _sequences()
    assert apply_stream(x, "joint") is x


def test_bones_are_joints_minus_their_parents() -> None:
    x = _sequences()
    bones = apply_stream(x, "bone")
    for joint, parent in enumerate(PARENTS):
        assert torch.equal(bones[..., joint, :], x[..., joint, :] - x[..., parent, :])
    assert not bones[..., 20, :].any()


def test_motion_is_the_next_frame_minus_this_one_and_ends_with_zero() -> None:
    x = _sequences()
    motion = apply_stream(x, "motion")
    for t in range(5):
        assert torch.equal(motion[:, t], x[:, t + 1] - x[:, t])
    assert not motion[:, 5].any()


def test_bones_and_motion_do_not_see_where_a_body_stands() -> None:
    x = _sequences()
    moved = x + torch.tensor([0.5, -2.0, 4.0])
    for stream in ("bone", "motion"):
        torch.testing.assert_close(apply_stream(moved, stream), apply_stream(x, stream), rtol=0, atol=1e-5)


def test_a_single_frame_has_no_motion() -> None:
    assert not apply_stream(_sequences()[:, :1], "motion").any()
