"""What was drawn for a view of one sample, in words with numbers, by family: a new operation needs no new words."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipelines.augmentations.mixing import Mixing, Mixings
from pipelines.augmentations.operation import (
    Blend,
    Crop,
    JointMatrices,
    Key,
    Linear,
    Mask,
    Mix,
    Occasional,
    Operation,
    Samples,
    TimeMap,
    Window,
)
from pipelines.augmentations.vocabulary import OneOf
from pipelines.views.spec import View
from shards.skeleton import BODY_PARTS, JOINT_NAMES

PART_NAMES = ("trunk", "right arm", "left arm", "right leg", "left leg")
"""Of `shards.skeleton.BODY_PARTS`."""

MOST = 16
"""Stretches of time, and numbers, that are told one by one."""

LONGEST = 800
"""Letters that what a mask hides may take; beyond that it is summed up."""


@dataclass(frozen=True)
class Line:
    """An operation of a view: its kind, its options, and what it drew for the sample."""

    kind: str
    options: str
    drawn: str


def lines(
    view: View, samples: Samples, frames: int, *, seed: int, epoch: int, step: int, mixed: str = ""
) -> Iterator[Line]:
    """What each operation of `view` drew for the one sample in `samples`.

    Args:
        view, frames, seed, epoch, step: as of `pipelines.views.draw.draw_view`.
        samples: of one sample.
        mixed: what a mix did, see `mix_words`; its partner is drawn for a whole batch.
    """
    for slot, operation in view.named():
        told = mixed
        if not isinstance(operation, Mix):
            told = _drawn(operation, samples, frames, Key(seed, epoch, step, operation.share or view.name, slot))
        yield Line(operation.kind, options(operation), told)


def options(operation: Operation) -> str:
    """The options that an operation was given or has by default."""
    return _named(operation.model_dump(mode="json"))


def _named(given: dict[str, Any]) -> str:
    told = {name: value for name, value in given.items() if name != "kind" and value is not None}
    if told.get("probability") == 1:
        del told["probability"]
    return ", ".join(f"{name} {_plain(value)}" for name, value in told.items())


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value.get('kind', '')}({_named(value)})"
    return f"[{', '.join(map(_plain, value))}]" if isinstance(value, list) else str(value)


def _drawn(operation: Operation, samples: Samples, frames: int, key: Key) -> str:
    if isinstance(operation, Occasional):
        applies = operation.applies(samples, key)
        if applies is not None and not applies[0]:
            return "passes this sample by"
    return _words(operation, operation.draw(samples, key, frames), frames)


def _words(operation: Operation, params: Any, frames: int) -> str:
    if isinstance(operation, Crop):
        return window_words(params, frames)
    if isinstance(operation, OneOf):
        which, each = int(params[0][0]), params[1]
        chosen = operation.operations[which]
        return f"{chosen.kind}: {_words(chosen, each[which], frames)}"
    if isinstance(operation, TimeMap):
        return index_words(operation.index(params, frames)[0].cpu().numpy())
    if isinstance(operation, Linear):
        return map_words(operation.joint_map(params))
    # what a mask hides may depend on the view, and is told of the view
    return "" if isinstance(operation, Mask) or params is None else any_words(params)


def window_words(window: Window, frames: int) -> str:
    """A crop, frames counted from 0."""
    first, length = int(window.first[0]), int(window.length[0])
    return f"frames {first} to {first + length - 1}, {length} in all, resampled to {frames}"


def index_words(index: npt.NDArray[np.float64]) -> str:
    """Which frames stand at the places 0..T-1."""
    if np.array_equal(index, np.arange(len(index))):
        return "every frame in its place"
    whole, steps = index.astype(np.int64), np.diff(index)
    if not np.array_equal(whole, index):
        return f"frames {index[0]:.1f} to {index[-1]:.1f} in steps of {steps.min():.2f} to {steps.max():.2f}"
    runs = _runs(whole.tolist())
    told = ", ".join(_span(*run) for run in runs[:MOST])
    return f"frames {told}" + (f" and {len(runs) - MOST} stretches more" if len(runs) > MOST else "")


def _runs(numbers: Sequence[int]) -> list[tuple[int, int, int]]:
    """First, last and length of each stretch that counts up, counts down or stays."""
    runs: list[tuple[int, int, int]] = []
    start, pace = 0, None
    for place in range(1, len(numbers) + 1):
        step = numbers[place] - numbers[place - 1] if place < len(numbers) else None
        if step is not None and abs(step) <= 1 and pace in (None, step):
            pace = step
            continue
        runs.append((numbers[start], numbers[place - 1], place - start))
        start, pace = place, None
    return runs


def _span(first: int, last: int, length: int = 1) -> str:
    if first != last:
        return f"{first} to {last}"
    return str(first) if length == 1 else f"{first} ({length} times)"


def map_words(joints: JointMatrices) -> str:
    """A linear map of each joint, joints by name."""
    matrices = joints.matrices[0].cpu().double()
    told = [] if joints.source is None else _sources(joints.source[0].tolist())
    if len(matrices) == 1:
        same = torch.equal(matrices[0], torch.eye(3, dtype=torch.float64))
        return "; ".join(told + ([] if same and told else ["unchanged" if same else matrix_words(matrices[0])]))
    groups: dict[str, list[int]] = {}
    for joint, matrix in enumerate(matrices):
        groups.setdefault(_deed(matrix), []).append(joint)
    groups.pop("", None)
    if len(groups) > MOST:
        return "; ".join([*told, f"{sum(map(len, groups.values()))} joints, each by a matrix of its own"])
    return "; ".join([*told, *(f"{joint_words(group)} {deed}" for deed, group in groups.items())]) or "unchanged"


def _deed(matrix: Tensor) -> str:
    if torch.equal(matrix, torch.eye(3, dtype=matrix.dtype)):
        return ""
    return f"multiplied by the {matrix_words(matrix)}" if matrix.any() else "set to zero"


def _sources(source: Sequence[int]) -> list[str]:
    moved = {joint: origin for joint, origin in enumerate(source) if joint != origin}
    swapped = {joint for joint, origin in moved.items() if moved.get(origin) == joint}
    told = [f"{JOINT_NAMES[j]} and {JOINT_NAMES[moved[j]]}" for j in sorted(swapped) if j < moved[j]]
    taken = [f"{JOINT_NAMES[j]} from {JOINT_NAMES[moved[j]]}" for j in moved if j not in swapped]
    return [f"swapped: {', '.join(told)}"] * bool(told) + [f"taken: {', '.join(taken)}"] * bool(taken)


def matrix_words(matrix: Tensor) -> str:
    """A 3x3 matrix, row by row, for column vectors."""
    return "matrix " + "; ".join(" ".join(map(_entry, row.tolist())) for row in matrix)


def _entry(value: float) -> str:
    return f"{round(value, 4) + 0.0:.3g}"  # no traces of rounding, and no minus before a zero


def joint_words(joints: Sequence[int]) -> str:
    """Whole body parts by their names, other joints by theirs."""
    left, told = set(joints), []
    if len(left) == len(JOINT_NAMES):
        return "all joints"
    for name, part in zip(PART_NAMES, BODY_PARTS, strict=True):
        if left.issuperset(part):
            told.append(name)
            left -= set(part)
    return ", ".join(told + [JOINT_NAMES[joint] for joint in sorted(left)])


def mask_words(hidden: npt.NDArray[np.bool_]) -> list[str]:
    """Which joints are hidden when.

    Args:
        hidden: (T, M, V), of the persons who are there.
    """
    if not hidden.any():
        return ["nothing"]
    runs = [list(alike) for _, alike in groupby(range(len(hidden)), lambda t: hidden[t].tobytes())]
    told = [f"frames {_span(run[0], run[-1])}: {_who(hidden[run[0]])}" for run in runs[: MOST + 1]]
    if len(runs) <= MOST and sum(map(len, told)) <= LONGEST:
        return told
    counts = hidden.reshape(len(hidden), -1).sum(axis=1)
    return [f"{hidden.mean():.0%} of all joints, {counts.min()} to {counts.max()} in a frame, others in most frames"]


def _who(hidden: npt.NDArray[np.bool_]) -> str:
    if hidden.all():
        return "everything"
    if not hidden.any():
        return "nothing"
    if len(hidden) == 1 or (hidden == hidden[0]).all():
        return joint_words(np.flatnonzero(hidden[0]).tolist())
    each = [f"{joint_words(np.flatnonzero(one).tolist())} of person {m}" for m, one in enumerate(hidden) if one.any()]
    return "; ".join(each)


def mix_words(blend: Blend, partner: str, of: str, frames: int) -> str:
    """How `partner` was mixed into the view `of` of one sample."""
    teller = _MIXES.get(type(blend.params))
    how = any_words(blend.params) if teller is None else teller(blend.params, of, frames)
    return f"partner {partner}, its share {float(blend.weight):.3f}; {how}"


def _mixing(mix: Mixing, of: str, frames: int) -> str:
    if mix.mode == "mixup":
        return f"mixup: {1 - mix.blend:.3f} of {of} and {mix.blend:.3f} of the partner"
    unit = frames // mix.units
    first, length = mix.first * unit, mix.length * unit
    over = f"frames {first} to {first + length - 1} of {joint_words(mix.joints)}"
    if mix.mode == "cut":
        return f"cut: {over} are the partner's"
    return f"time: {over} are the partner's first {min(2 * length, frames)} frames, resized"


_MIXES: dict[type[Any], Callable[[Any, str, int], str]] = {
    Mixing: _mixing,
    Mixings: lambda mixes, of, frames: _mixing(mixes.of(0), of, frames),
}


def any_words(params: Any) -> str:
    """Parameters of any kind: numbers where they are few, else their shape and range."""
    if isinstance(params, Key):
        return "numbers of the sample's own"
    if isinstance(params, Tensor):
        return _tensor_words(params)
    if is_dataclass(params):
        named = {field.name: getattr(params, field.name) for field in fields(params)}
        return ", ".join(f"{name} {any_words(value)}" for name, value in named.items())
    if isinstance(params, dict):
        return ", ".join(f"{name} {any_words(value)}" for name, value in params.items())
    if isinstance(params, (tuple, list)):
        return ", ".join(map(any_words, params)) or "none"
    return f"{params:.4g}" if isinstance(params, float) else str(params)


def _tensor_words(values: Tensor) -> str:
    values = values[0] if values.ndim and len(values) == 1 else values
    if values.dtype == torch.bool and values.shape == (len(JOINT_NAMES),):
        return joint_words(values.nonzero()[:, 0].tolist()) or "no joint"
    if values.numel() <= MOST:
        return " ".join(f"{number:.4g}" for number in values.double().flatten().tolist()) or "none"
    shape = " x ".join(map(str, values.shape))
    return f"{shape} numbers from {float(values.min()):.4g} to {float(values.max()):.4g}"
