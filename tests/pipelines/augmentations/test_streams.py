"""Streams, against one joint and frame after the other."""

import pytest
import torch

from pipelines.augmentations.joints import JointMask
from pipelines.augmentations.operation import Operation
from pipelines.augmentations.spatial import Shear
from pipelines.augmentations.streams import ToStream, apply_stream
from pipelines.augmentations.temporal import CentreCrop
from pipelines.views import make_views
from pipelines.views.spec import View, ViewSpec
from shards.batch import RaggedBatch, unflatten
from shards.skeleton import PARENTS, Stream


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


def _view(*operations: Operation) -> torch.Tensor:
    """A view of the sequences by these operations, (N, T, M, V, C), all of it and at its own length."""
    number = torch.arange(2)
    batch = RaggedBatch(_sequences().flatten(0, 1), number * 6, torch.full((2,), 6), number, number)
    view = View(name="x", operations=(CentreCrop(ratio=1), *operations))
    return unflatten(make_views(batch, ViewSpec(frames=6, views=(view,)), seed=1, epoch=0, step=0).views["x"])


@pytest.mark.parametrize("stream", ["bone", "motion"])
def test_a_stream_is_taken_where_it_stands_among_the_operations(stream: Stream) -> None:
    hidden = (_view(JointMask()) == 0).all(dim=(1, 2, 4))
    assert hidden.sum(dim=1).tolist() == [8, 8]
    zeroed = torch.where(hidden[:, None, None, :, None], 0, _sequences())
    before, after = _view(JointMask(), ToStream(stream=stream)), _view(ToStream(stream=stream), JointMask())
    torch.testing.assert_close(before, apply_stream(zeroed, stream))
    of_all = apply_stream(_sequences(), stream)
    torch.testing.assert_close(after, torch.where(hidden[:, None, None, :, None], 0, of_all))
    # joints lose their bones to parents as well, but motion is one of each joint
    assert torch.equal(before, after) == (stream == "motion")


@pytest.mark.parametrize("stream", ["joint", "bone", "motion"])
def test_one_matrix_for_all_joints_and_a_stream_may_change_places(stream: Stream) -> None:
    before, after = _view(Shear(), ToStream(stream=stream)), _view(ToStream(stream=stream), Shear())
    torch.testing.assert_close(before, after, rtol=0, atol=1e-5)
