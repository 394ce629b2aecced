"""The views of a batch, against a feeder that makes one sample after the other in NumPy from the same draws."""

import itertools
import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from flows.recipes.pcm3 import PCM3PPViewsConfig
from pipelines.augmentations.draws import uniform
from pipelines.augmentations.operation import Samples
from pipelines.views import Block, draw_blend, make_views, needed_rows
from pipelines.views.downstream import evaluation_spec
from shards.batch import RaggedBatch, Views, flatten, unflatten
from shards.errors import ConfigError
from shards.skeleton import BODY_PARTS, PARENTS, Stream

Array = npt.NDArray[np.float64]

CONFIG = PCM3PPViewsConfig()
OF_SAMPLES = PCM3PPViewsConfig(mix_scope="sample", mask_scope="sample")
"""Nothing but who is mixed with whom is drawn for a batch."""

CONFIGS = (CONFIG, OF_SAMPLES, PCM3PPViewsConfig(mask_granularity="joint", mask_persons="both"))

OWN = ("base", "key", "target", "clip")
"""The views that a sample has in any company."""


def _batch(ids: list[int], dtype: torch.dtype = torch.float32) -> RaggedBatch:
    """Sample `id` always has the same frames; the buffer depends on the batch."""
    frames, lengths = [], []
    for sample in ids:
        generator = torch.Generator().manual_seed(sample)
        lengths.append(int(torch.randint(1, 180, (1,), generator=generator)))
        frames.append(torch.randn(lengths[-1], 2, 25, 3, generator=generator).to(dtype))
    length = torch.tensor(lengths)
    return RaggedBatch(torch.cat(frames), length.cumsum(0) - length, length, torch.tensor(ids) % 7, torch.tensor(ids))


def _views(
    batch: RaggedBatch,
    stream: Stream = "joint",
    config: PCM3PPViewsConfig = CONFIG,
    *,
    seed: int = 1,
    epoch: int = 2,
    step: int = 3,
) -> Views:
    return make_views(batch, config.spec((stream,)), seed=seed, epoch=epoch, step=step)


def _evaluated(batch: RaggedBatch, crop: Literal["centre", "random", "full"], stream: Stream, epoch: int = 0) -> Views:
    return make_views(batch, evaluation_spec(crop, stream), seed=0, epoch=epoch, step=0)


def _draw(sample: int, view: str, operation: str, count: int) -> list[float]:
    drawn: list[float] = uniform(1, 2, torch.tensor([sample]), view, operation, count)[0].tolist()
    return drawn


def _slow_resize(x: Array, frames: int) -> Array:
    position = np.maximum((np.arange(frames) + 0.5) * len(x) / frames - 0.5, 0)
    out: Array = np.empty((frames, *x.shape[1:]))
    for i, p in enumerate(position):
        lower = min(math.floor(p), len(x) - 1)
        upper = min(lower + 1, len(x) - 1)
        out[i] = x[lower] + (p - lower) * (x[upper] - x[lower])
    return out


def _slow_augmented(x: Array, sample: int, view: str) -> Array:
    share, place = _draw(sample, view, "crop", 2)
    kept = min(max(math.floor(len(x) * (share * 0.9 + 0.1)), 64), len(x))
    first = math.floor(place * (len(x) - kept + 1))
    x = _slow_resize(x[first : first + kept], 64)
    if view != "target" and _draw(sample, view, "which", 1)[0] < 0.5:
        joints = np.argsort(_draw(sample, view, "corrupt-joints", 25))[:15]
        how, *entries = _draw(sample, view, "corrupt-how", 10)
        x[:, :, joints] = x[:, :, joints] @ (np.reshape(entries, (3, 3)) * 2 - 1) if how >= 0.5 else 0
        return x
    a, b, c, d, e, f = np.array(_draw(sample, view, "shear", 6)) * 2 - 1
    sheared: Array = x @ np.array([[1, a, b], [c, 1, d], [e, f, 1]]).T
    return sheared


def _slow_stream(x: Array, stream: Stream) -> Array:
    if stream == "bone":
        return x - x[:, :, list(PARENTS)]
    if stream == "motion":
        return np.concatenate((x[1:] - x[:-1], np.zeros_like(x[:1])))
    return x


def _slow_flatten(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Index v*6 + c*2 + m, by its definition."""
    out = np.empty((len(x), 150), dtype=x.dtype)
    for v in range(25):
        for c in range(3):
            for m in range(2):
                out[:, v * 6 + c * 2 + m] = x[:, m, v, c]
    return out


def _slow_mixed(x: Array, partner: Array, number: int) -> tuple[Array, float]:
    """A view mixed as step or sample `number` draws it, and the partner's share."""
    _, how_many, how_long, where, branch, share = _draw(number, "mix", "batch", 6)
    if branch <= 0.25:
        return (1 - share) * x + share * partner, share
    parts = np.argsort(_draw(number, "mix", "parts", 5))[: 2 + math.floor(2 * how_many)]
    joints = [joint for part in parts for joint in BODY_PARTS[part]]
    units = 7 + math.floor(5 * how_long)
    begin, count = 4 * math.floor(where * (17 - units)), 4 * units
    mixed = x.copy()
    for t in range(count):
        source = begin + t if branch > 0.5 else t * min(2 * count, 64) // count
        mixed[begin + t][:, joints] = partner[source][:, joints]
    return mixed, count / 64 * len(joints) / 25


@pytest.mark.parametrize("config", [CONFIG, OF_SAMPLES])
@pytest.mark.parametrize("stream", ["joint", "bone", "motion"])
def test_views_equal_a_feeder_that_makes_sample_after_sample(stream: Stream, config: PCM3PPViewsConfig) -> None:
    ids = list(range(40, 60))
    batch = _batch(ids)
    views = _views(batch, stream, config)
    assert views.mix_partner is not None
    assert views.mix_weight is not None
    raws = [
        batch.frames[first : first + count].double().numpy()
        for first, count in zip(batch.start.tolist(), batch.length.tolist(), strict=True)
    ]
    bases = [
        _slow_stream(_slow_augmented(raw.copy(), sample, "base"), stream) for raw, sample in zip(raws, ids, strict=True)
    ]
    shift = 1 + math.floor(_draw(3, "mix", "batch", 1)[0] * 18)
    modes = set()
    for row, sample in enumerate(ids):
        base, raw = bases[row], raws[row]
        key, target = (_slow_stream(_slow_augmented(raw.copy(), sample, view), stream) for view in ("key", "target"))
        masked, number = target.copy(), sample if config == OF_SAMPLES else 3
        for segment, noise in enumerate(np.reshape(_draw(number, "masked", "parts", 40), (8, 5))):
            for part in np.argsort(noise)[:3]:
                masked[8 * segment : 8 * segment + 8, 0, list(BODY_PARTS[part])] = 0
        begin = math.floor(_draw(sample, "clip", "start", 1)[0] * 49)
        clip = np.zeros_like(key)
        clip[begin : begin + 16] = key[begin : begin + 16]
        mix, weight = _slow_mixed(base, bases[(row + shift) % 20], number)
        assert int(views.mix_partner[row]) == (row + shift) % 20
        assert float(views.mix_weight[row]) == pytest.approx(weight, abs=1e-6)
        modes.add(math.ceil(_draw(number, "mix", "batch", 6)[4] * 4))
        expected = {"base": base, "key": key, "target": target, "masked": masked, "mix": mix, "clip": clip}
        for name, x in expected.items():
            np.testing.assert_allclose(
                views.views[name][row].numpy(), _slow_flatten(x), rtol=0, atol=1e-5, err_msg=f"{name} of {sample}"
            )
    assert modes >= {1, 2, 3} if config == OF_SAMPLES else len(modes) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_views_neither_change_nor_share_the_frames_of_the_batch(dtype: torch.dtype) -> None:
    # 64 frames are taken whole: the resized sample equals the stored one, so that a view might be returned for a copy
    ids, length = torch.arange(3), torch.full((3,), 64)
    batch = RaggedBatch(torch.randn(192, 2, 25, 3).to(dtype), length.cumsum(0) - length, length, ids, ids)
    before = batch.frames.clone()
    evaluated = _evaluated(batch, "full", "joint").views["x"]
    assert torch.equal(evaluated, flatten(before.float().view(3, 64, 2, 25, 3)))
    views = _views(batch).views
    for x in (evaluated, *views.values()):
        x.fill_(7.0)
    assert torch.equal(batch.frames, before)


def test_no_view_shares_memory_with_another() -> None:
    views = _views(_batch([1, 2, 3])).views
    assert len({x.untyped_storage().data_ptr() for x in views.values()}) == len(views)


@pytest.mark.parametrize("stream", ["joint", "bone", "motion"])
def test_a_sample_of_one_frame_stands_still(stream: Stream) -> None:
    length, ids = torch.tensor([1, 90, 1]), torch.tensor([4, 5, 6])
    batch = RaggedBatch(torch.randn(92, 2, 25, 3), length.cumsum(0) - length, length, ids, ids)
    views = _views(batch, stream).views
    for row, sample in ((0, 4), (2, 6)):
        raw = batch.frames[int(batch.start[row])][None].double().numpy()
        for name in ("base", "key", "target"):
            found = views[name][row]
            assert (found == found[0]).all()
            expected = _slow_flatten(_slow_stream(_slow_augmented(raw.copy(), sample, name), stream))
            np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-5)
    x = _evaluated(batch, "centre", stream).views["x"]
    assert (x[0] == x[0, 0]).all()


def test_half_precision_frames_give_the_views_of_the_same_numbers_in_single_precision() -> None:
    half = _batch([1, 2, 3, 4], torch.float16)
    single = RaggedBatch(half.frames.float(), half.start, half.length, half.label, half.sample_id)
    expected = _views(single).views
    for name, x in _views(half).views.items():
        assert torch.equal(x, expected[name]), name


def test_views_are_single_precision_sequences_whatever_the_storage() -> None:
    for dtype in (torch.float32, torch.float16):
        views = _views(_batch([1, 2, 3, 4], dtype))
        assert set(views.views) == {"base", "key", "target", "masked", "mix", "clip"}
        for x in views.views.values():
            assert x.shape == (4, 64, 150)
            assert x.dtype == torch.float32
            assert x.is_contiguous()
            assert x.isfinite().all()


@settings(max_examples=40, deadline=None)
@given(
    ids=st.lists(st.integers(0, 400), min_size=3, max_size=12, unique=True),
    others=st.lists(st.integers(401, 500), max_size=9, unique=True),
    order=st.randoms(use_true_random=False),
    stream=st.sampled_from(["joint", "bone", "motion"]),
)
def test_a_samples_own_views_are_bit_equal_in_any_company(
    ids: list[int], others: list[int], order: Any, stream: Stream
) -> None:
    company = [*ids, *others]
    order.shuffle(company)
    alone, together = (_views(_batch(some), stream, OF_SAMPLES, step=step) for some, step in ((ids, 0), (company, 99)))
    rows = [company.index(sample) for sample in ids]
    for name in (*OWN, "masked"):
        assert torch.equal(alone.views[name], together.views[name][rows]), name
    for name, mask in alone.masks.items():
        assert torch.equal(mask, together.masks[name][rows]), name
    assert alone.mix_weight is not None
    assert together.mix_weight is not None
    assert torch.equal(alone.mix_weight, together.mix_weight[rows])


@settings(max_examples=40, deadline=None)
@given(
    total=st.integers(3, 24),
    world=st.integers(1, 8),
    step=st.integers(0, 50),
    stream=st.sampled_from(["joint", "bone", "motion"]),
    config=st.sampled_from(CONFIGS),
)
def test_the_ranks_together_see_the_views_of_the_whole_batch(
    total: int, world: int, step: int, stream: Stream, config: PCM3PPViewsConfig
) -> None:
    spec = config.spec((stream,))
    ids = list(range(100, 100 + total))
    whole = _views(_batch(ids), stream, config, step=step)
    edges = [total * rank // world for rank in range(world + 1)]
    for first, stop in itertools.pairwise(edges):
        if first == stop:
            continue
        block = Block(first, stop, total)
        rows = needed_rows(spec, block, seed=1, epoch=2, step=step)
        assert rows[: len(block)] == list(range(first, stop))
        assert len(rows) == len(set(rows)) <= min(total, 2 * len(block))
        part = make_views(_batch([ids[row] for row in rows]), spec, seed=1, epoch=2, step=step, block=block)
        assert part.sample_id.tolist() == ids[first:stop]
        for name, x in whole.views.items():
            torch.testing.assert_close(part.views[name], x[first:stop], rtol=0, atol=1e-6)
        masked = whole.masks["masked"]
        assert torch.equal(part.masks["masked"], masked if len(masked) == 1 else masked[first:stop])
        assert torch.equal(part.masks["clip"], whole.masks["clip"][first:stop])
        assert part.mix_partner is not None
        assert part.mix_weight is not None
        assert whole.mix_partner is not None
        assert whole.mix_weight is not None
        assert torch.equal(part.mix_partner, whole.mix_partner[first:stop])
        assert torch.equal(part.mix_weight, whole.mix_weight[first:stop])


def test_views_do_not_depend_on_where_the_frames_lie() -> None:
    small = _batch([5, 6, 7])
    buffer = torch.full((1000, 2, 25, 3), float("nan"))
    start = torch.tensor([600, 0, 300])
    for row in range(3):
        source, count = int(small.start[row]), int(small.length[row])
        buffer[start[row] : start[row] + count] = small.frames[source : source + count]
    moved = RaggedBatch(buffer, start, small.length, small.label, small.sample_id)
    for name, x in _views(small).views.items():
        assert torch.equal(_views(moved).views[name], x), name


@pytest.mark.parametrize(("seed", "epoch", "step", "own"), [(77, 2, 3, True), (1, 77, 3, True), (1, 2, 77, False)])
def test_a_samples_own_views_change_with_seed_and_epoch_but_not_with_the_step(
    seed: int, epoch: int, step: int, own: bool
) -> None:
    batch = _batch([1, 2, 3, 4, 5])
    first, second = _views(batch), _views(batch, seed=seed, epoch=epoch, step=step)
    for name in OWN:
        assert torch.equal(first.views[name], second.views[name]) is not own, name
    assert not torch.equal(first.masks["masked"], second.masks["masked"])
    assert not torch.equal(first.views["mix"], second.views["mix"])


def test_the_same_keys_give_the_same_views() -> None:
    first, second = _views(_batch([1, 2, 3])), _views(_batch([1, 2, 3]))
    assert all(torch.equal(x, second.views[name]) for name, x in first.views.items())


def test_base_key_and_target_are_augmented_independently() -> None:
    views = _views(_batch(list(range(12)))).views
    for a, b in (("base", "key"), ("base", "target"), ("key", "target")):
        assert not (views[a] == views[b]).all(dim=(1, 2)).any()


def test_the_masked_view_hides_three_of_five_parts_of_the_main_person_in_every_segment() -> None:
    views = _views(_batch([1, 2, 3, 4]))
    visible = views.masks["masked"]
    assert visible.shape == (1, 64, 150)
    assert visible.dtype == torch.bool
    by_axis = unflatten(visible)
    assert by_axis[:, :, 1].all()
    for segment in by_axis[0, :, 0, :, 0].view(8, 8, 25):
        assert (segment == segment[0]).all()
        assert sum(bool(segment[0, list(part)].all()) for part in BODY_PARTS) == 2
        assert sum(not segment[0, list(part)].any() for part in BODY_PARTS) == 3
    assert torch.equal(views.views["masked"], views.views["target"].where(visible, torch.zeros(())))


@pytest.mark.parametrize("scope", ["batch", "sample"])
@pytest.mark.parametrize("persons", ["main", "both"])
def test_the_masked_view_may_hide_as_many_single_joints_in_every_segment(scope: str, persons: str) -> None:
    config = PCM3PPViewsConfig.model_validate(
        {"mask_granularity": "joint", "mask_scope": scope, "mask_persons": persons}
    )
    views = _views(_batch([1, 2, 3, 4]), config=config)
    visible = views.masks["masked"]
    assert visible.shape == (1 if scope == "batch" else 4, 64, 150)
    joints = unflatten(visible).view(-1, 8, 8, 2, 25, 3)
    assert torch.equal(joints, joints[:, :, :1, :, :, :1].expand_as(joints))
    hidden = (~joints[:, :, 0, :, :, 0]).sum(dim=-1)
    assert (hidden[..., 0] == 15).all()
    assert (hidden[..., 1] == (15 if persons == "both" else 0)).all()
    assert torch.equal(views.views["masked"], views.views["target"].where(visible, torch.zeros(())))


def test_the_clip_keeps_a_run_of_the_key_view_and_nothing_else() -> None:
    views = _views(_batch([1, 2, 3, 4]))
    kept = views.masks["clip"]
    assert kept.shape == (4, 64, 1)
    assert (kept.sum(dim=1) == 16).all()
    assert torch.equal(views.views["clip"], views.views["key"].where(kept, torch.zeros(())))


@pytest.mark.parametrize("step", range(8))
def test_the_mixed_view_takes_its_weight_from_its_partner(step: int) -> None:
    batch = _batch(list(range(20, 28)))
    samples = Samples(batch.sample_id, batch.length)
    blend = draw_blend(CONFIG.spec(("joint",)), samples, 8, seed=1, epoch=2, step=step)
    assert blend is not None
    views = _views(batch, step=step)
    base, mixed = unflatten(views.views["base"]), unflatten(views.views["mix"])
    assert views.mix_partner is not None
    assert views.mix_weight is not None
    assert views.mix_partner.tolist() == [(n + blend.shift) % 8 for n in range(8)]
    assert views.mix_weight.tolist() == pytest.approx([blend.weight] * 8, abs=1e-6)
    blended = torch.lerp(base, base[views.mix_partner], blend.weight)
    pasted = (mixed != base).any(dim=(0, 2, 4)).float().mean().item()
    assert torch.allclose(mixed, blended, atol=1e-5) or pasted == pytest.approx(blend.weight, abs=1e-6)


@pytest.mark.parametrize(("frames", "segments", "clip"), [(16, 4, 4), (32, 8, 16), (48, 3, 48), (128, 8, 16)])
def test_views_of_another_length(frames: int, segments: int, clip: int) -> None:
    config = PCM3PPViewsConfig(frames=frames, mask_segments=segments, clip_frames=clip, mask_ratio=0.4)
    views = _views(_batch([1, 2, 3]), config=config)
    assert all(x.shape == (3, frames, 150) for x in views.views.values())
    assert views.masks["masked"].shape == (1, frames, 150)
    assert (views.masks["clip"].sum(dim=1) == clip).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 60}, "frames=60, expected a multiple of 16"),
        ({"frames": 80, "mask_segments": 7}, "of 7 segments"),
        ({"min_ratio": 0.9, "max_ratio": 0.5}, "min_ratio=0.9, expected at most max_ratio=0.5"),
        ({"frames": 16, "clip_frames": 17}, "clip_frames=17, expected at most frames=16"),
        ({"corrupt_joints": 26}, "corrupt_joints"),
        ({"mask_ratio": 1.0}, "mask_ratio"),
        ({"mask_ratio": 0.97, "mask_granularity": "joint"}, "mask of 0.97 of 25, which leaves none"),
        ({"clip_length": 8}, "clip_length"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PCM3PPViewsConfig(**options)


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        CONFIG.frames = 32  # type: ignore[misc]


def test_a_batch_too_small_to_mix_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch of 2, expected at least 3"):
        _views(_batch([1, 2]))


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_the_probability_of_a_corruption_can_be_set(probability: float) -> None:
    config = PCM3PPViewsConfig(corrupt_probability=probability, corrupt_joints=25)
    views = _views(_batch(list(range(10))), config=config).views
    zeroed = (views["base"] == 0).all(dim=(1, 2))
    assert bool(zeroed.any()) is (probability == 1.0)
    assert not (views["target"] == 0).all(dim=(1, 2)).any()


@pytest.mark.parametrize(("crop", "ratio"), [("centre", 0.95), ("full", 1.0)])
def test_the_evaluation_sees_the_resized_middle_or_all_of_a_sample(
    crop: Literal["centre", "full"], ratio: float
) -> None:
    ids = [3, 8, 9]
    batch = _batch(ids)
    views = _evaluated(batch, crop, "bone")
    assert set(views.views) == {"x"}
    assert views.sample_id.tolist() == ids
    assert views.label.tolist() == [sample % 7 for sample in ids]
    for row in range(3):
        start, length = int(batch.start[row]), int(batch.length[row])
        cut = int((1 - ratio) * length / 2)
        raw = batch.frames[start + cut : start + length - cut].double().numpy()
        expected = _slow_flatten(_slow_stream(_slow_resize(raw, 64), "bone"))
        np.testing.assert_allclose(views.views["x"][row].numpy(), expected, rtol=0, atol=1e-5)


def test_random_evaluation_crops_change_with_the_epoch_only() -> None:
    ids = list(range(10, 20))  # some longer than the 64 frames that a crop keeps in any case
    batch, company = _batch(ids), _batch([7, *ids, 9])
    first = _evaluated(batch, "random", "joint").views["x"]
    assert torch.equal(_evaluated(company, "random", "joint").views["x"][1:-1], first)
    assert not torch.equal(_evaluated(batch, "random", "joint", 1).views["x"], first)


def test_flattening_has_an_inverse() -> None:
    x = torch.randn(2, 5, 2, 25, 3)
    assert torch.equal(unflatten(flatten(x)), x)
    assert np.array_equal(flatten(x)[0].numpy(), _slow_flatten(x[0].numpy()))
