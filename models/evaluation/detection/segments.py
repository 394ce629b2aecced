"""From class probabilities of frames to detected actions (JHang2020/Simple-Skeleton-Detection).

The original appends background frames up to 9000 to every video before this step, by mistake: they take part in the
smoothing of the last frames, and an action may end after the video. `pad` does the same where its figures are wanted;
without it nothing beyond the video is seen.
"""

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from models.evaluation.detection.events import Events, FloatArray
from shards.errors import ConfigError
from shards.frozen import Frozen

Probabilities = npt.NDArray[np.float32] | FloatArray
"""(T, C) of T frames; class 0 is the background, the others are 1..C-1 as in `Events`."""

HALF_WIDTH = 10
ACTIVITY = 0.4
ORIGINAL_FRAMES = 9000
"""The length to which the original pads every video."""

# of the window search: frames of a window, frames of a step back, share of frames that keeps a window in the action
_WINDOW, _STEP, _SHARE = 15, 2, 0.1


class PostProcessing(Frozen):
    """How actions are found; the defaults are the published ones, apart from the padding.

    Attributes:
        search: "threshold" smooths and takes runs of active frames; "window" is the older search of the same source,
            on probabilities that are not smoothed.
        half_width: frames before and after, of the mean filter of "threshold".
        activity: least probability of any action in an active frame, of "threshold".
        pad_to: frames to which each video is filled with background; 9000 is what the original does.
    """

    search: Literal["threshold", "window"] = "threshold"
    half_width: int = Field(HALF_WIDTH, ge=1, le=1_000_000)
    activity: float = Field(ACTIVITY, gt=0, le=1)
    pad_to: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


_PUBLISHED = PostProcessing()


def find_actions(prob: Probabilities, video: int, options: PostProcessing = _PUBLISHED) -> Events:
    """The actions of one video.

    Args:
        prob: (T, C) probabilities.
        video: its index, for the events.
        options: see there.

    Raises:
        ConfigError: no frame, no class beside the background, a number that is no probability, or more frames than
            `pad_to`.
    """
    if options.pad_to is not None:
        prob = pad(prob, options.pad_to)
    if options.search == "window":
        return window_search(prob, video)
    return segments(smooth(prob, options.half_width), video, options.activity)


def smooth(prob: Probabilities, half_width: int = HALF_WIDTH) -> FloatArray:
    """Mean over the frames from `half_width` before to `half_width` - 1 after; fewer at the ends.

    As in the original, the last frame of a video is left out of every window that would reach or pass the end. A video
    of one frame stays as it is (the original has no window for it).

    Args:
        prob: (T, C) probabilities.
        half_width: frames, at least 1.

    Returns:
        (T, C) float64.

    Raises:
        ConfigError: see `find_actions`.
    """
    values = _checked(prob)
    frames = len(values)
    if frames == 1:
        return values
    assert half_width >= 1
    middle = np.arange(frames)
    first = np.maximum(middle - half_width, 0)
    stop = np.where(middle + half_width < frames, middle + half_width, frames - 1)
    total = np.concatenate((np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)))
    mean: FloatArray = (total[stop] - total[first]) / (stop - first)[:, None]
    return mean


def segments(prob: Probabilities, video: int = 0, activity: float = ACTIVITY) -> Events:
    """Runs of frames in which some action is probable; nothing is suppressed or merged.

    Args:
        prob: (T, C) probabilities, smoothed or not.
        video: index for the events.
        activity: a frame is active if 1 - p(background) is at least this.

    Returns:
        One event for each longest run of active frames: the class (not the background) with the highest mean over the
        run, which is its score.

    Raises:
        ConfigError: see `find_actions`.
    """
    values = _checked(prob)
    active = 1 - values[:, 0] >= activity
    change = np.diff(active.astype(np.int8), prepend=0, append=0)
    start, end = np.flatnonzero(change == 1), np.flatnonzero(change == -1)
    means = [values[a:b, 1:].mean(axis=0) for a, b in zip(start, end, strict=True)]
    label = [1 + int(mean.argmax()) for mean in means]
    return Events.of(video, label, start, end, np.array([mean.max() for mean in means]))


def window_search(prob: Probabilities, video: int = 0) -> Events:
    """Grow actions window by window from each frame whose most probable class is one.

    An action of class c begins at a frame of class c if more than a tenth of the 15 frames after it are c, grows by 15
    frames while that holds for the next 15, and is cut back by 2 frames until one of its last 2 frames is c. The next
    one may begin in its last frame. Videos of up to 30 frames, and the last 30 frames of any, begin none.

    Args:
        prob: (T, C) probabilities, not smoothed.
        video: index for the events.

    Returns:
        Events with exclusive ends, one above the (inclusive) ones of the original. The score is the mean of c over
        the action, rounded to 5 decimals.

    Raises:
        ConfigError: see `find_actions`.
    """
    values = _checked(prob)
    frames = len(values)
    label = values.argmax(axis=1)
    seen = np.cumsum(label[:, None] == np.arange(values.shape[1]), axis=0)

    def share(after: int, last: int, c: int) -> float:
        return float(seen[last, c] - seen[after, c]) / (last - after)

    found: list[tuple[int, int, int, float]] = []
    start = 0
    while start + 2 * _WINDOW < frames:
        c = int(label[start])
        if c == 0 or share(start, start + _WINDOW, c) <= _SHARE:
            start += 1
            continue
        last = start + _WINDOW
        while share(last, last + _WINDOW, c) > _SHARE and last + 2 * _WINDOW < frames:
            last += _WINDOW
        # ends within the last window, of which at least two frames are c
        while share(last - _STEP, last, c) < _SHARE:
            last -= _STEP
        found.append((c, start, last + 1, round(float(values[start : last + 1, c].mean()), 5)))
        start = last
    classes, starts, ends, scores = zip(*found, strict=True) if found else ((), (), (), ())
    return Events.of(video, classes, starts, ends, scores)


def pad(prob: Probabilities, frames: int = ORIGINAL_FRAMES) -> FloatArray:
    """(frames, C): the probabilities, then frames that are background for certain.

    Raises:
        ConfigError: the video is longer, or see `find_actions`.
    """
    values = _checked(prob)
    if len(values) > frames:
        raise ConfigError(f"found a video of {len(values)} frames, expected at most {frames}, to which it is padded")
    padded = np.zeros((frames, values.shape[1]))
    padded[:, 0] = 1
    padded[: len(values)] = values
    return padded


def _checked(prob: Probabilities) -> FloatArray:
    """(T, C) float64; the tolerance is for sums of float32."""
    if prob.ndim != 2 or prob.shape[0] < 1 or prob.shape[1] < 2:
        raise ConfigError(f"found probabilities of shape {prob.shape}, expected (frames, background and classes)")
    values = prob.astype(np.float64)
    # a comparison with NaN is false
    wrong = np.flatnonzero(~((values >= -1e-5) & (values <= 1 + 1e-5)).all(axis=1))
    if len(wrong):
        raise ConfigError(f"frame {wrong[0]}: found {values[wrong[0]]}, expected probabilities between 0 and 1")
    return values
