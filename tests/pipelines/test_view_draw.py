"""A view whose leading operations are folded, against its operations one after the other in NumPy."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.augmentations.joints import JointCorruption
from pipelines.augmentations.masks import BodyPartMask, ClipMask
from pipelines.augmentations.noise import GaussianBlur, GaussianNoise
from pipelines.augmentations.operation import Crop, Free, JointMatrices, Key, Linear, Mask, Operation, Samples, TimeMap
from pipelines.augmentations.spatial import (
    AxisMask,
    FixedRotation,
    Flip,
    LabelledRotation,
    Rotation,
    Scale,
    Shear,
    apply_map,
)
from pipelines.augmentations.streams import ToStream
from pipelines.augmentations.temporal import (
    CentreCrop,
    ClipCrop,
    RandomCrop,
    Reverse,
    SegmentShuffle,
    Speed,
    StartCrop,
    TemporalShift,
)
from pipelines.augmentations.vocabulary import OneOf
from pipelines.views.draw import Drawn, draw_view
from pipelines.views.render import apply_steps, render_plain
from pipelines.views.spec import View
from shards.batch import RaggedBatch, flatten, unflatten
from shards.skeleton import PARENTS

Array = npt.NDArray[np.float64]

FRAMES = 16
SEED, EPOCH, STEP = 4, 1, 2

CROPS: list[Crop] = [RandomCrop(min_frames=4), CentreCrop(), StartCrop(), ClipCrop(), ClipCrop(frames=5)]
OTHERS: list[Operation] = [
    Reverse(),
    Reverse(probability=0.5),
    TemporalShift(max_frames=5),
    TemporalShift(max_frames=5, edges="reflect", probability=0.5),
    SegmentShuffle(),
    SegmentShuffle(segments=2, probability=0.5),
    Shear(),
    Shear(probability=0.5),
    Rotation(probability=0.5),
    FixedRotation(),
    LabelledRotation(probability=0.5),
    Scale(),
    Flip(),
    Flip(mirror=True, probability=0.5),
    AxisMask(probability=0.5),
    JointCorruption(),
    OneOf(operations=(JointCorruption(), Shear(), Flip()), weights=(0.3, 0.3, 0.4), probability=0.5),
    GaussianNoise(probability=0.5),
    GaussianBlur(probability=0.5),
    BodyPartMask(scope="sample", probability=0.5),
    BodyPartMask(),
    ClipMask(frames=6),
    ToStream(stream="bone"),
    ToStream(stream="motion"),
]


def _batch(lengths: list[int], first: int = 0) -> RaggedBatch:
    """Sample `id` always has the same frames."""
    ids = torch.arange(first, first + len(lengths))
    frames = [
        torch.randn(length, 2, 25, 3, generator=torch.Generator().manual_seed(int(sample)))
        for sample, length in zip(ids, lengths, strict=True)
    ]
    length = torch.tensor(lengths)
    return RaggedBatch(torch.cat(frames), length.cumsum(0) - length, length, ids, ids)


def _drawn(view: View, batch: RaggedBatch) -> Drawn:
    return draw_view(view, Samples(batch.sample_id, batch.length), FRAMES, seed=SEED, epoch=EPOCH, step=STEP)


def _folded(view: View, batch: RaggedBatch) -> tuple[Array, torch.Tensor | None]:
    drawn = _drawn(view, batch)
    x, mask = apply_steps(flatten(render_plain(batch, drawn, FRAMES)), drawn.steps)
    return unflatten(x).double().numpy(), mask


def _between(x: Array, position: float) -> Array:
    lower = math.floor(position)
    upper = min(lower + 1, len(x) - 1)
    mixed: Array = (1 - (position - lower)) * x[lower] + (position - lower) * x[upper]
    return mixed


def _mapped(x: Array, matrices: Array, source: list[int]) -> Array:
    out = np.empty_like(x)
    for joint in range(x.shape[2]):
        matrix = matrices[joint if len(matrices) > 1 else 0]
        out[:, :, joint] = np.einsum("ij,tmj->tmi", matrix, x[:, :, source[joint]])
    return out


def _streamed(x: Array, stream: str) -> Array:
    out = np.zeros_like(x)
    if stream == "bone":
        for joint, parent in enumerate(PARENTS):
            out[:, :, joint] = x[:, :, joint] - x[:, :, parent]
    else:
        for t in range(len(x) - 1):
            out[t] = x[t + 1] - x[t]
    return out


def _applied(operation: Operation, params: Any, x: Array, n: int) -> Array:
    """Sample n of (N, T, M, V, C) after one operation."""
    if isinstance(operation, TimeMap):
        return np.stack([_between(x[n], position) for position in operation.index(params, FRAMES)[n].tolist()])
    if isinstance(operation, Linear):
        joints = operation.joint_map(params)
        source = list(range(25)) if joints.source is None else joints.source[n].tolist()
        return _mapped(x[n], joints.matrices[n].double().numpy(), source)
    if isinstance(operation, Free):
        return operation.apply(torch.tensor(x, dtype=torch.float32), params)[n].double().numpy()
    if isinstance(operation, Mask):
        visible = operation.visible(torch.tensor(x, dtype=torch.float32), params)
        hidden: Array = x[n] * visible.expand(len(x), -1, -1, -1)[n, ..., None].numpy()
        return hidden
    assert isinstance(operation, ToStream)
    return _streamed(x[n], operation.stream)


def _cropped(crop: Crop, batch: RaggedBatch, key: Key) -> Array:
    window = crop.draw(Samples(batch.sample_id, batch.length), key, FRAMES)
    out = []
    for n in range(len(batch)):
        start = int(batch.start[n] + window.first[n])
        x = batch.frames[start : start + int(window.length[n])].double().numpy()
        positions = [(t + 0.5) * len(x) / FRAMES - 0.5 for t in range(FRAMES)]
        out.append(np.stack([_between(x, min(max(position, 0.0), len(x) - 1.0)) for position in positions]))
    return np.stack(out)


def _one_after_the_other(view: View, batch: RaggedBatch) -> Array:
    samples = Samples(batch.sample_id, batch.length)
    seen: dict[str, int] = {}
    x = np.empty(0)
    for operation in view.operations:
        seen[operation.kind] = seen.get(operation.kind, 0) + 1
        slot = "" if seen[operation.kind] == 1 else f"{seen[operation.kind]}:"
        key = Key(SEED, EPOCH, STEP, view.name, slot)
        if isinstance(operation, Crop):
            x = _cropped(operation, batch, key)
            continue
        params = operation.draw(samples, key, FRAMES)
        applies = operation.applies(samples, key) if isinstance(operation, (TimeMap, Linear, Free, Mask)) else None
        x = np.stack(
            [
                _applied(operation, params, x, n) if applies is None or bool(applies[n]) else x[n]
                for n in range(len(batch))
            ]
        )
    return x


def _masks_last(operations: list[Operation]) -> list[Operation]:
    """As a specification wants them: behind a mask only masks."""
    return sorted(operations, key=lambda operation: isinstance(operation, Mask))


def _assert_same(view: View, batch: RaggedBatch) -> None:
    found, _ = _folded(view, batch)
    expected = _one_after_the_other(view, batch)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * max(1.0, float(np.abs(expected).max())))


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    lengths=st.lists(st.sampled_from([1, 2, 5, 16, 40]), min_size=1, max_size=3),
    crop=st.sampled_from(CROPS),
    others=st.lists(st.sampled_from(OTHERS), max_size=5),
)
def test_folded_operations_equal_operations_one_after_the_other(
    lengths: list[int], crop: Crop, others: list[Operation]
) -> None:
    _assert_same(View(name="v", operations=(crop, *_masks_last(others))), _batch(lengths))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    before=st.lists(st.sampled_from([*(o for o in OTHERS if not isinstance(o, Mask)), Speed()]), max_size=2),
    speed=st.sampled_from([Speed(), Speed(probability=0.5), Speed(min_factor=0.1, max_factor=5.0)]),
    behind=st.lists(st.sampled_from(OTHERS), max_size=2),
)
def test_a_speed_is_folded_exactly_where_the_crop_and_the_maps_before_it_take_whole_neighbours(
    before: list[Operation], speed: Speed, behind: list[Operation]
) -> None:
    # Positions are chained and the stored frames interpolated once, so a crop that resamples or a speed behind a
    # shuffle gives frames of one moment where one operation after the other would blend two.
    _assert_same(
        View(name="v", operations=(CentreCrop(ratio=1.0), *before, speed, *_masks_last(behind))),
        _batch([FRAMES, FRAMES]),
    )


def test_a_speed_behind_a_resampling_takes_the_stored_frames_in_between() -> None:
    # on a ramp the frame is its own position
    batch = _batch([160])
    ramp = torch.arange(160.0)[:, None, None, None].expand_as(batch.frames)
    batch = RaggedBatch(ramp, batch.start, batch.length, batch.label, batch.sample_id)
    view = View(name="v", operations=(CentreCrop(ratio=1.0), Speed()))
    index = _drawn(view, batch).index
    assert index is not None
    expected = ((index[0] + 0.5) * 10 - 0.5).clamp(0, 159)
    np.testing.assert_allclose(_folded(view, batch)[0][0, :, 0, 0, 0], expected.numpy(), rtol=0, atol=1e-4)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(crop=st.sampled_from(CROPS), others=st.lists(st.sampled_from([*OTHERS, Speed()]), max_size=5))
def test_a_view_of_a_sample_does_not_depend_on_the_others_in_its_batch(crop: Crop, others: list[Operation]) -> None:
    view = View(name="v", operations=(crop, *_masks_last(others)))
    lengths = [3, 40, 16, 1]
    together, mask = _folded(view, _batch(lengths))
    for row, length in enumerate(lengths):
        alone, alone_mask = _folded(view, _batch([length], row))
        np.testing.assert_array_equal(alone[0], together[row])
        assert (mask is None) == (alone_mask is None)
        if mask is not None and alone_mask is not None:
            assert torch.equal(alone_mask[0], mask[row if len(mask) > 1 else 0])


def test_operations_fold_until_one_that_cannot() -> None:
    view = View(
        name="v",
        operations=(RandomCrop(), Shear(), Reverse(), Flip(), ToStream(stream="bone"), GaussianBlur(), Scale()),
    )
    drawn = _drawn(view, _batch([40, 20]))
    assert drawn.index is not None
    assert drawn.joints is not None
    assert drawn.stream == "bone"
    assert [step.operation.kind for step in drawn.steps] == ["gaussian_blur", "scale"]


def test_two_operations_of_a_kind_draw_apart_and_both_report_their_target() -> None:
    view = View(name="v", operations=(RandomCrop(), SegmentShuffle(), SegmentShuffle(), LabelledRotation()))
    targets = _drawn(view, _batch([40] * 50)).targets
    assert set(targets) == {"segment_shuffle", "2:segment_shuffle", "labelled_rotation"}
    assert not torch.equal(targets["segment_shuffle"], targets["2:segment_shuffle"])


def test_a_mask_says_what_the_view_has_hidden() -> None:
    view = View(name="v", operations=(CentreCrop(), ClipMask(frames=6), BodyPartMask(scope="sample", probability=0.5)))
    batch = _batch([40] * 8)
    found, mask = _folded(view, batch)
    assert mask is not None
    np.testing.assert_array_equal(found != 0, unflatten(mask).expand(found.shape).numpy())


@pytest.mark.parametrize("first_of", [1, 25])
@pytest.mark.parametrize("second_of", [1, 25])
@pytest.mark.parametrize("moving", [(False, False), (True, False), (False, True), (True, True)])
def test_two_maps_of_joints_become_one(first_of: int, second_of: int, moving: tuple[bool, bool]) -> None:
    generator = torch.Generator().manual_seed(first_of * 100 + second_of)
    x = torch.randn(3, 4, 2, 25, 3, generator=generator)
    maps = [
        JointMatrices(
            torch.randn(3, count, 3, 3, generator=generator),
            torch.randint(0, 25, (3, 25), generator=generator) if moves else None,
        )
        for count, moves in zip((first_of, second_of), moving, strict=True)
    ]
    found = apply_map(x, maps[0].then(maps[1]))
    for n in range(3):
        expected = x[n].double().numpy()
        for joints in maps:
            source = list(range(25)) if joints.source is None else joints.source[n].tolist()
            expected = _mapped(expected, joints.matrices[n].double().numpy(), source)
        np.testing.assert_allclose(found[n].numpy(), expected, rtol=0, atol=1e-4)


def test_a_sample_that_a_labelled_operation_passes_by_has_target_zero() -> None:
    operations = (CentreCrop(), SegmentShuffle(probability=0.5), LabelledRotation(probability=0.5))
    samples = Samples(torch.arange(500), torch.full((500,), 40))
    drawn = draw_view(View(name="v", operations=operations), samples, FRAMES, seed=SEED, epoch=EPOCH, step=STEP)
    key = Key(SEED, EPOCH, STEP, "v")
    for operation in operations[1:]:
        expected = operation.target(operation.draw(samples, key, FRAMES))
        applies = operation.applies(samples, key)
        assert expected is not None
        assert applies is not None
        assert torch.equal(drawn.targets[operation.kind], torch.where(applies, expected, 0))
