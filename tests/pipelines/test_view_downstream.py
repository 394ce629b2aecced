"""The views of downstream tasks, against one sample after the other in NumPy from the same draws."""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import BaseModel, ValidationError

from pipelines.augmentations.draws import uniform
from pipelines.views import make_views
from pipelines.views.downstream import (
    EarlyConfig,
    OcclusionConfig,
    RobustnessConfig,
    evaluation_spec,
    occluded_spec,
    up_axis,
)
from pipelines.views.spec import ViewSpec
from shards.batch import RaggedBatch, unflatten
from shards.errors import StoreError
from shards.skeleton import PARENTS, Stream

Array = npt.NDArray[np.float64]

SEED, FRAMES = 3, 16
LENGTHS = [1, 2, 16, 40, 57, 170]
STREAMS: tuple[Stream, ...] = ("joint", "bone", "motion")
LEVELS = RobustnessConfig()

of_streams = pytest.mark.parametrize("stream", STREAMS)


def _batch(rows: list[int] | None = None) -> RaggedBatch:
    """Samples 5, 12, 19, ...; the second person is absent from every other one, and at times from the rest."""
    rows = list(range(len(LENGTHS))) if rows is None else rows
    frames = []
    for row in rows:
        x = torch.randn(LENGTHS[row], 2, 25, 3, generator=torch.Generator().manual_seed(row))
        x[:, 1] *= row % 2 * (torch.arange(LENGTHS[row]) % 20 < 12)[:, None, None]
        frames.append(x)
    length = torch.tensor([LENGTHS[row] for row in rows])
    ids = torch.tensor([5 + 7 * row for row in rows])
    return RaggedBatch(torch.cat(frames), length.cumsum(0) - length, length, ids % 4, ids)


def _made(spec: ViewSpec, batch: RaggedBatch, *, step: int = 0) -> npt.NDArray[np.float32]:
    views = make_views(batch, spec, seed=SEED, epoch=0, step=step)
    assert list(views.views) == ["x"]
    return np.asarray(unflatten(views.views["x"]).numpy())


def _of(batch: RaggedBatch, row: int) -> Array:
    start, length = int(batch.start[row]), int(batch.length[row])
    return batch.frames[start : start + length].double().numpy()


def _centre(x: Array, ratio: float = 0.95) -> Array:
    cut = int((1 - ratio) * len(x) / 2)
    return x[cut : len(x) - cut]


def _resized(x: Array) -> Array:
    out = np.empty((FRAMES, *x.shape[1:]))
    for t in range(FRAMES):
        position = max((t + 0.5) * len(x) / FRAMES - 0.5, 0)
        lower = min(math.floor(position), len(x) - 1)
        upper = min(lower + 1, len(x) - 1)
        out[t] = x[lower] + (position - lower) * (x[upper] - x[lower])
    return out


def _streamed(x: Array, stream: Stream) -> Array:
    if stream == "bone":
        return x - x[:, :, list(PARENTS)]
    if stream == "motion":
        return np.concatenate((x[1:] - x[:-1], np.zeros_like(x[:1])))
    return x


def _assert_equal(found: npt.NDArray[np.float32], expected: Array) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


@of_streams
def test_a_random_view_is_cropped_as_without_and_turned_by_at_most_the_degrees(stream: Stream) -> None:
    batch = _batch()
    plain = _made(evaluation_spec("random", "joint", FRAMES), batch)
    found = _made(evaluation_spec("random", "joint", FRAMES, degrees=20), batch)
    streamed = _made(evaluation_spec("random", stream, FRAMES, degrees=20), batch)
    for row in range(len(batch)):
        of_row = found[row].astype(np.float64)
        _assert_equal(streamed[row], _streamed(of_row, stream))
        before, after = plain[row].reshape(-1, 3).astype(np.float64), of_row.reshape(-1, 3)
        turn = np.linalg.lstsq(before, after, rcond=None)[0].T
        _assert_equal(found[row].reshape(-1, 3), before @ turn.T)
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), rtol=0, atol=1e-4)
        # x' = Rz Ry Rx x
        angles = np.degrees(
            [math.atan2(turn[2, 1], turn[2, 2]), -math.asin(turn[2, 0]), math.atan2(turn[1, 0], turn[0, 0])]
        )
        assert 0 < np.abs(angles).max() <= 20


@of_streams
def test_centre_views_show_the_share_that_is_asked_for_also_when_they_are_degraded(stream: Stream) -> None:
    batch = _batch()
    whole = _made(evaluation_spec("full", stream, FRAMES), batch)
    assert np.array_equal(_made(evaluation_spec("centre", stream, FRAMES, centre_ratio=1.0, degrees=20), batch), whole)
    turned = RobustnessConfig(rotated=(0.0,)).specs(stream, FRAMES, up="z", centre_ratio=1.0)["rotated"][0.0]
    assert np.array_equal(_made(turned, batch), whole)


@of_streams
def test_noise_is_added_to_the_joints_of_those_present_before_bones_and_motion_are_made(stream: Stream) -> None:
    batch = _batch()
    levels = LEVELS.specs(stream, FRAMES, up="z")["noise"]
    entries = FRAMES * 150
    draws = uniform(SEED, 0, batch.sample_id, "x", "gaussian_noise", entries).numpy()
    for std, spec in levels.items():
        found = _made(spec, batch)
        for row in range(len(batch)):
            x = _resized(_centre(_of(batch, row)))
            first, second = draws[row, : entries // 2], draws[row, entries // 2 :]
            radius, angle = np.sqrt(-2 * np.log(1 - first)), 2 * np.pi * second
            noise = np.concatenate((radius * np.cos(angle), radius * np.sin(angle))).reshape(x.shape)
            for t in range(FRAMES):
                for person in range(2):
                    if x[t, person].any():
                        x[t, person] += std * noise[t, person]
            _assert_equal(found[row], _streamed(x, stream))


@of_streams
def test_missing_joints_are_zero_in_all_frames_and_more_of_them_hold_the_fewer(stream: Stream) -> None:
    batch = _batch()
    order = uniform(SEED, 0, batch.sample_id, "x", "joint-mask", 25).argsort(dim=1)
    for count, spec in LEVELS.specs(stream, FRAMES, up="z")["missing_joints"].items():
        found = _made(spec, batch)
        for row in range(len(batch)):
            x = _resized(_centre(_of(batch, row)))
            x[:, :, order[row, : int(count)].tolist()] = 0
            _assert_equal(found[row], _streamed(x, stream))


@of_streams
def test_a_shorter_clip_is_the_middle_resized(stream: Stream) -> None:
    batch = _batch()
    for ratio, spec in LEVELS.specs(stream, FRAMES, up="z")["shorter"].items():
        found = _made(spec, batch)
        for row in range(len(batch)):
            _assert_equal(found[row], _streamed(_resized(_centre(_of(batch, row), ratio)), stream))


@of_streams
@pytest.mark.parametrize("up", ["y", "z"])
def test_a_rotated_view_turns_about_the_vertical_axis_by_the_right_hand_rule(stream: Stream, up: str) -> None:
    batch = _batch()
    for degrees, spec in LEVELS.specs(stream, FRAMES, up="y" if up == "y" else "z")["rotated"].items():
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]] if up == "y" else [[c, -s, 0], [s, c, 0], [0, 0, 1]])
        found = _made(spec, batch)
        for row in range(len(batch)):
            _assert_equal(found[row], _streamed(_resized(_centre(_of(batch, row))) @ turn.T, stream))


@of_streams
def test_early_prediction_sees_the_first_frames_resized_and_at_last_all(stream: Stream) -> None:
    batch = _batch()
    specs = EarlyConfig().specs(stream, FRAMES)
    assert [round(100 * ratio) for ratio in specs] == list(range(10, 101, 10))
    for ratio, spec in specs.items():
        found = _made(spec, batch)
        for row in range(len(batch)):
            x = _of(batch, row)
            seen = x[: max(1, len(x) * round(10 * ratio) // 10)]
            _assert_equal(found[row], _streamed(_resized(seen), stream))


@of_streams
def test_occluded_views_are_the_plain_ones_with_zeros_where_the_file_hides(stream: Stream, tmp_path: Path) -> None:
    batch, config = _batch(), OcclusionConfig()
    for kind in config.kinds:
        path = tmp_path / f"{kind}.npz"
        config.store(path, kind, batch.sample_id.flip(0), FRAMES)
        with np.load(path) as stored:
            assert stored["sample_id"].tolist() == batch.sample_id.tolist()
            visible = stored["visible"]
        hidden = 1 - visible.mean(axis=(1, 2, 3))
        assert (hidden >= 0.3).all()
        for crop in ("centre", "random"):
            plain = make_views(batch, evaluation_spec(crop, stream, FRAMES), seed=SEED, epoch=0, step=0).views["x"]
            found = _made(occluded_spec(path, stream, FRAMES, crop=crop), batch)
            assert np.array_equal(found, unflatten(plain).numpy() * visible[..., None])


def test_masks_are_those_of_the_seed_and_of_the_ratio(tmp_path: Path) -> None:
    files = {"first": OcclusionConfig(), "again": OcclusionConfig(), "other": OcclusionConfig(seed=1)}
    for name, config in files.items():
        config.store(tmp_path / name, "spatial", list(range(50)), FRAMES)
    first, again, other = ((tmp_path / name).read_bytes() for name in files)
    assert first == again != other
    OcclusionConfig(min_ratio=1.0, max_ratio=1.0).store(tmp_path / "all", "temporal", [4], FRAMES)
    with np.load(tmp_path / "all") as stored:
        assert not stored["visible"].any()


def test_a_sample_without_a_mask_is_refused(tmp_path: Path) -> None:
    OcclusionConfig().store(tmp_path / "masks", "spatial", [5, 12], FRAMES)
    with pytest.raises(StoreError, match="found no mask of sample 19, expected one of every sample"):
        _made(occluded_spec(tmp_path / "masks", "joint", FRAMES), _batch())


def test_a_degraded_view_of_a_sample_depends_on_seed_and_sample_alone() -> None:
    whole, some = _batch(), [4, 1, 3]
    for levels in LEVELS.specs("bone", FRAMES, up="z").values():
        for spec in levels.values():
            assert np.array_equal(_made(spec, _batch(some), step=9), _made(spec, whole)[some])


def test_every_curve_has_its_levels_and_one_without_levels_is_left_out() -> None:
    found = LEVELS.specs("joint", up="y")
    assert tuple(found) == ("noise", "missing_joints", "shorter", "rotated")
    assert {curve: tuple(levels) for curve, levels in found.items()} == {c: getattr(LEVELS, c) for c in found}
    assert all(spec.frames == 64 for levels in found.values() for spec in levels.values())
    assert tuple(RobustnessConfig(noise=(), shorter=()).specs("joint", up="y")) == ("missing_joints", "rotated")


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (RobustnessConfig, {"noise": (0.0,)}, "greater than 0"),
        (RobustnessConfig, {"noise": (math.inf,)}, "finite number"),
        (RobustnessConfig, {"missing_joints": (26,)}, "less than or equal to 25"),
        (RobustnessConfig, {"shorter": (1.5,)}, "less than or equal to 1"),
        (RobustnessConfig, {"rotated": (181,)}, "less than or equal to 180"),
        (RobustnessConfig, {"rotated": (30, 45, 30)}, r"found levels \(30.0, 45.0, 30.0\), expected each once"),
        (RobustnessConfig, {"blur": (1,)}, "not permitted"),
        (EarlyConfig, {"ratios": ()}, "at least 1 item"),
        (EarlyConfig, {"ratios": (0.5, 0.5)}, "expected each once"),
        (OcclusionConfig, {"min_ratio": 0.8}, "found min_ratio=0.8, expected at most max_ratio=0.7"),
        (OcclusionConfig, {"kinds": ("spacial",)}, "Input should be 'spatial' or 'temporal'"),
    ],
)
def test_options_that_cannot_be_are_refused(config: type[BaseModel], options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config.model_validate(options)


def test_up_is_z_where_the_recipe_has_turned_the_spine_to_it_and_else_the_cameras_y() -> None:
    from pipelines.preprocessing.recipes import recipe

    assert {name: up_axis(recipe(name, "ntu").steps) for name in ("pcm3", "ctrgcn", "raw")} == {
        "pcm3": "z",
        "ctrgcn": "y",
        "raw": "y",
    }


@of_streams
def test_all_specifications_survive_being_written_as_json(stream: Stream, tmp_path: Path) -> None:
    specs = [spec for levels in LEVELS.specs(stream, up="z").values() for spec in levels.values()]
    specs += [*EarlyConfig().specs(stream).values(), occluded_spec(tmp_path / "masks", stream)]
    for spec in specs:
        assert ViewSpec.model_validate_json(spec.model_dump_json()) == spec


@of_streams
def test_dali_makes_the_same_views(stream: Stream, tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali")
    from pipelines.loaders.dali import DaliViews
    from pipelines.views import Block

    batch = _batch()
    OcclusionConfig().store(tmp_path / "masks", "temporal", batch.sample_id, FRAMES)
    specs = [levels[-1] for curve in LEVELS.specs(stream, FRAMES, up="z").values() if (levels := list(curve.values()))]
    specs += [EarlyConfig().specs(stream, FRAMES)[0.3], occluded_spec(tmp_path / "masks", stream, FRAMES)]
    for spec in specs:
        found = DaliViews(spec, "cpu", seed=SEED, batch_size=len(batch), threads=1).make(
            batch, Block(0, len(batch), len(batch)), 0, 0
        )
        np.testing.assert_allclose(unflatten(found.views["x"]).numpy(), _made(spec, batch), rtol=0, atol=2e-5)
