"""The views of downstream tasks: the plain ones (`evaluation_spec`), and occluded, degraded, cut short.

One view "x" a sample each. What is random in them depends on (seed, sample id) in epoch 0 alone: loaders take `seed` of
the configuration and not the run's, so that every checkpoint that is compared sees the same views. Levels of a curve
draw alike: more noise is the same noise times a number, and more missing joints are those of the level before and
others. Without other word, time is the centre crop of all other tasks, and points change before bones and motion are
made of them, as when a sensor had seen them so.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from pipelines.augmentations.joints import JointMask
from pipelines.augmentations.noise import GaussianNoise
from pipelines.augmentations.occlusion import (
    SpatialOcclusion,
    StoredOcclusion,
    TemporalOcclusion,
    store_occlusion,
)
from pipelines.augmentations.operation import Crop, Linear, Operation
from pipelines.augmentations.spatial import Axis, FixedRotation, Rotation
from pipelines.augmentations.streams import ToStream
from pipelines.augmentations.temporal import CentreCrop, RandomCrop, StartCrop
from pipelines.views.spec import View, ViewSpec
from shards.frozen import Frozen
from shards.skeleton import NUM_JOINTS, Stream

OcclusionKind = Literal["spatial", "temporal"]
Curve = Literal["noise", "missing_joints", "shorter", "rotated"]


def _different(levels: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(levels)) < len(levels):
        raise ValueError(f"found levels {levels}, expected each once")
    return levels


Metres = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Ratio = Annotated[float, Field(gt=0, le=1)]
Degrees = Annotated[float, Field(ge=-180, le=180)]
JointCount = Annotated[int, Field(ge=1, le=NUM_JOINTS)]


def evaluation_spec(
    crop: Literal["centre", "random", "full"],
    stream: Stream,
    frames: int = 64,
    *,
    centre_ratio: float = 0.95,
    degrees: float = 0.0,
) -> ViewSpec:
    """One view "x" a sample: its middle, a random crop U[0.5, 1], or all of it, resized (maoyunyao/CMD).

    Args:
        crop: which of these.
        stream: of the view.
        frames: T of the view.
        centre_ratio: share of a sample that "centre" keeps.
        degrees: largest angle by which "random" turns a sample about each axis, either way (maoyunyao/MAMP: 0.3 rad).
    """
    operations: list[Operation] = [CentreCrop(ratio=centre_ratio if crop == "centre" else 1.0)]
    if crop == "random":
        operations = [RandomCrop(min_ratio=0.5, max_ratio=1.0, share="evaluation")]
        if degrees:
            operations.append(Rotation(pick="all", degrees=(-degrees, degrees), share="evaluation"))
    return _one_view(frames, *operations, ToStream(stream=stream))


def whole_spec(streams: Sequence[Stream], frames: int) -> ViewSpec:
    """All of a sample, resized: the view "x" of one stream, "x/<stream>" of each of several."""
    whole = CentreCrop(ratio=1.0)
    names = ["x"] if len(streams) == 1 else [f"x/{stream}" for stream in streams]
    views = (
        View(name=name, operations=(whole, ToStream(stream=stream)))
        for name, stream in zip(names, streams, strict=True)
    )
    return ViewSpec(frames=frames, views=tuple(views))


class OcclusionConfig(Frozen):
    """Occluded views: "A Benchmark and Beyond", 4.4.2, with a ratio U[0.3, 0.7]; the details are ours.

    Attributes:
        kinds: "spatial" hides body parts in all frames, "temporal" one block of frames; for both persons.
        min_ratio, max_ratio: share of joints or frames that a sample loses at least.
        seed: of the masks.
    """

    kinds: Annotated[tuple[OcclusionKind, ...], Field(min_length=1), AfterValidator(_different)] = (
        "spatial",
        "temporal",
    )
    min_ratio: Ratio = 0.3
    max_ratio: Ratio = 0.7
    seed: int = 0

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.min_ratio > self.max_ratio:
            raise ValueError(f"found min_ratio={self.min_ratio}, expected at most max_ratio={self.max_ratio}")
        return self

    def operation(self, kind: OcclusionKind) -> SpatialOcclusion | TemporalOcclusion:
        """What is drawn."""
        made = SpatialOcclusion if kind == "spatial" else TemporalOcclusion
        return made(min_ratio=self.min_ratio, max_ratio=self.max_ratio)

    def store(self, path: Path, kind: OcclusionKind, sample_ids: Sequence[int] | Tensor, frames: int) -> None:
        """Draw the masks of all samples of a side once and write them; arguments and errors as of `store_occlusion`."""
        ids = torch.as_tensor(sample_ids, dtype=torch.int64)
        store_occlusion(path, self.operation(kind), ids, frames=frames, seed=self.seed)


def occluded_spec(
    path: Path,
    stream: Stream,
    frames: int = 64,
    *,
    crop: Literal["centre", "random"] = "centre",
    centre_ratio: float = 0.95,
    degrees: float = 0.0,
) -> ViewSpec:
    """The view "x" of `evaluation_spec`, behind it the masks of a file: what they hide is zero in the stream.

    Args:
        path: masks of all samples, by `OcclusionConfig.store`.
        stream: of the view.
        frames: T, for which the masks were drawn.
        crop: "random" for a head that is trained on occluded data.
        centre_ratio, degrees: as of `evaluation_spec`.
    """
    (plain,) = evaluation_spec(crop, stream, frames, centre_ratio=centre_ratio, degrees=degrees).views
    return _one_view(frames, *plain.operations, StoredOcclusion(path=path))


class RobustnessConfig(Frozen):
    """Curves of robustness: a level of one degradation each, all else as in the plain views. Levels are ours.

    Attributes:
        noise: standard deviation in metres of Gaussian noise on every coordinate of those present, in every frame of
            the view; AimCLR augments by 0.01, AS-CAL by 0.05, yfsong0709/RA-GCNv2 tests `--sigma` 0.05 and
            0.1 on some joints.
        missing_joints: so many joints, random ones of each sample, are zero in all frames; YujieOuO/PSTL hides 8.
        shorter: share of a sample, its middle, of which the view is made.
        rotated: degrees about the vertical axis through the origin, by the right-hand rule; NTU's neighbouring cameras
            are 45 apart. Where the recipe leaves a person off the origin (`raw`), the place turns too.
        seed: of the loader that makes the views.
    """

    noise: Annotated[tuple[Metres, ...], AfterValidator(_different)] = (0.01, 0.02, 0.05, 0.1)
    missing_joints: Annotated[tuple[JointCount, ...], AfterValidator(_different)] = (1, 3, 5, 8, 12)
    shorter: Annotated[tuple[Ratio, ...], AfterValidator(_different)] = (0.8, 0.6, 0.4, 0.2)
    rotated: Annotated[tuple[Degrees, ...], AfterValidator(_different)] = (15.0, 30.0, 45.0, 60.0, 90.0)
    seed: int = 0

    def specs(
        self, stream: Stream, frames: int = 64, *, up: Axis, centre_ratio: float = 0.95
    ) -> dict[Curve, dict[float, ViewSpec]]:
        """Curve -> level -> the view "x" at that level; a curve without levels is left out.

        Args:
            stream: of the views.
            frames: T of the views.
            up: the vertical axis, by `up_axis`.
            centre_ratio: as of `evaluation_spec`.
        """

        def degraded(change: Linear | GaussianNoise) -> ViewSpec:
            (plain,) = evaluation_spec("centre", stream, frames, centre_ratio=centre_ratio).views
            crop, to_stream = plain.operations
            return _one_view(frames, crop, change, to_stream)

        views: dict[Curve, dict[float, ViewSpec]] = {
            "noise": {std: degraded(GaussianNoise(std=std, present=True)) for std in self.noise},
            "missing_joints": {k: degraded(JointMask(joints=k)) for k in self.missing_joints},
            "shorter": {ratio: _of_window(stream, frames, CentreCrop(ratio=ratio)) for ratio in self.shorter},
            "rotated": {degrees: degraded(FixedRotation(axis=up, degrees=degrees)) for degrees in self.rotated},
        }
        return {curve: levels for curve, levels in views.items() if levels}


class EarlyConfig(Frozen):
    """Early prediction: the first part of each action alone, resized to the view.

    Attributes:
        ratios: shares that were seen, the observation ratios of the field (Ke et al., TIP 2020); these ten are ours.
    """

    ratios: Annotated[tuple[Ratio, ...], Field(min_length=1), AfterValidator(_different)] = (
        0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0,
    )  # fmt: skip

    def specs(self, stream: Stream, frames: int = 64) -> dict[float, ViewSpec]:
        """Ratio -> the view "x"; at 1 it is the whole action, not its middle."""
        return {ratio: _of_window(stream, frames, StartCrop(ratio=ratio)) for ratio in self.ratios}


def up_axis(recipe_steps: Sequence[Mapping[str, Any]]) -> Axis:
    """The coordinate that points upwards: z where the recipe has turned the spine to it (`pcm3`), else a camera's y.

    Args:
        recipe_steps: of the manifest.
    """
    turned = any(step.get("name") == "align" and step.get("axis") == "z" for step in recipe_steps)
    return "z" if turned else "y"


def _of_window(stream: Stream, frames: int, crop: Crop) -> ViewSpec:
    return _one_view(frames, crop, ToStream(stream=stream))


def _one_view(frames: int, *operations: Operation) -> ViewSpec:
    return ViewSpec(frames=frames, views=(View(name="x", operations=operations),))
