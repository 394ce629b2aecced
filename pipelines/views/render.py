"""Applying what is drawn: the folded part of a view in one go, and its further steps one by one."""

import torch
from torch import Tensor

from pipelines.augmentations.operation import Free, Linear, Mask, TimeMap
from pipelines.augmentations.spatial import apply_map
from pipelines.augmentations.streams import ToStream, apply_stream
from pipelines.augmentations.temporal import apply_resize
from pipelines.views import processor
from pipelines.views.draw import Drawn, Step, interpolated, joint_matrices, time_index
from pipelines.views.fused import fused
from shards.batch import RaggedBatch, flatten, flatten_mask, unflatten


def render(batch: RaggedBatch, drawn: Drawn, frames: int) -> Tensor:
    """The folded part of a view of stored samples: (N, T, V*C*M) float32, contiguous."""
    if processor.takes(batch.frames):
        return processor.render_rows(batch, drawn, frames)
    if batch.frames.device.type == "cuda" and (view := fused(batch, drawn, frames)) is not None:
        return view
    return flatten(render_plain(batch, drawn, frames)).contiguous()


def render_plain(batch: RaggedBatch, drawn: Drawn, frames: int) -> Tensor:
    """The same by whole-batch operations one after the other, (N, T, M, V, C): the oracle of every other way."""
    assert drawn.window is not None
    x = apply_resize(batch, drawn.window, frames, drawn.index)
    if drawn.joints is not None:
        x = apply_map(x, drawn.joints)
    return apply_stream(x, drawn.stream)


def hidden(x: Tensor, shown: Tensor) -> Tensor:
    """A flat view with zeros where `shown` (N or 1, T, V*C*M or 1) is False."""
    if processor.passes_over(x):
        return processor.hide(x, shown)
    return torch.where(shown, x, 0.0)


def apply_steps(x: Tensor, steps: tuple[Step, ...]) -> tuple[Tensor, Tensor | None]:
    """Apply operations to a flat view (N, T, V*C*M), and say what they masked.

    Returns:
        The flat view, and its mask as `flatten_mask` gives it, True where visible; None if nothing was masked.
    """
    mask: Tensor | None = None
    for step in steps:
        operation, applies = step.operation, step.applies
        if isinstance(operation, Mask):
            visible = operation.visible(unflatten(x), step.params)
            if applies is not None:
                visible = visible | ~applies[:, None, None, None]
            shown = flatten_mask(visible)
            x = hidden(x, shown)
            mask = shown if mask is None else mask & shown
            continue
        plain = unflatten(x)
        if isinstance(operation, Linear):
            plain = apply_map(plain, joint_matrices(step))
        elif isinstance(operation, TimeMap):
            plain = interpolated(plain, time_index(step, x.shape[1]))
        elif isinstance(operation, ToStream):
            plain = apply_stream(plain, operation.stream)
        else:
            assert isinstance(operation, Free)
            changed = operation.apply(plain, step.params)
            plain = changed if applies is None else torch.where(applies[:, None, None, None, None], changed, plain)
        x = flatten(plain)
    return x, mask
