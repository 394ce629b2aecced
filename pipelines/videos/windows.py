"""Which frames a window takes, and how they become what an encoder sees. Axis legend in `shards.schema`."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pipelines.augmentations.streams import apply_stream
from pipelines.preprocessing.bodies import present
from pipelines.preprocessing.recipes import Recipe, cut, fill_persons
from pipelines.preprocessing.steps import Frames
from shards.batch import flatten
from shards.skeleton import Stream

Coordinates = Literal["raw", "recipe"]
"""Metres as the camera saw them; or prepared by the store's recipe, as the clips of pre-training were."""


def window_frames(centre: Tensor, stride: Tensor, length: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """Which frames windows take (rule of JHang2020/Simple-Skeleton-Detection).

    A window spans frames * stride frames, half of them before its centre, and takes the first of every `stride`. Where
    it would leave the video it is moved inside as a whole, so that all windows near an end are the same; in a video
    shorter than the span the last frame is repeated (there the reference has zeros).

    Args:
        centre: (N,) int64, frame of the video.
        stride: (N,) int64.
        length: (N,) int64, frames of the video.
        frames: of a window.

    Returns:
        (N, frames) int64 frames of the video; (N,) int64 the frame in the middle of each moved window, whose label
        trains it.
    """
    span = frames * stride
    start = torch.minimum(centre - span // 2, length - span).clamp_min(0)
    taken = start[:, None] + stride[:, None] * torch.arange(frames, device=centre.device)
    last = length - 1
    return torch.minimum(taken, last[:, None]), torch.minimum(start + span // 2, last)


def prepare_windows(windows: Tensor, recipe: Recipe, coordinates: Coordinates, stream: Stream) -> Tensor:
    """Windows as an encoder takes them, (N, T, M, V, C) float32 in metres -> (N, T, V*C*M).

    With "recipe" each window goes through the recipe as a clip of its own: that of pcm3 fills empty frames, centres
    each frame and turns all by the first one; those without a normalisation of clips change nothing.
    """
    if coordinates == "recipe":
        windows = torch.from_numpy(np.stack([recipe.window(clip) for clip in windows.numpy()]))
    return flatten(apply_stream(windows, stream))


def prepare_video(frames: Frames, recipe: Recipe, coordinates: Coordinates, stream: Stream) -> Tensor:
    """A whole video as an encoder takes it, (T, M, V, C) float32 in metres -> (1, T, V*C*M); see `whole`."""
    if coordinates == "recipe":
        frames = whole(frames, recipe)
    return flatten(apply_stream(torch.from_numpy(frames)[None], stream))


def whole(frames: Frames, recipe: Recipe) -> Frames:
    """The recipe's clip operations on a whole video, but for cutting and filling, which would move frames in time.

    Frames before the one in which person 0 first appears have nothing to be centred or turned by: they stay.
    """
    there = present(frames)[:, 0]
    first = int(there.argmax()) if there.any() else len(frames)
    seen = frames[first:]
    for operation in recipe.operations:
        if operation.stage == "window" and operation.function not in (cut, fill_persons):
            seen = operation(seen)
    return np.concatenate((frames[:first], seen))
