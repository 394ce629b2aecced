"""The folded part of a view on the CPU by compiled kernels, on as many threads as torch may use."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from torch import Tensor

from pipelines.augmentations.mixing import MODES, Mixing, Mixings, pasted_frames, pasted_frames_each
from pipelines.views.draw import Drawn
from pipelines.views.recycling import aligned, empty
from shards.batch import RaggedBatch
from shards.skeleton import FRAME_SIZE, NUM_COORDINATES, NUM_JOINTS, NUM_PERSONS

_ROWS_A_THREAD = 32
"""Samples for which another thread pays: waking it takes 0.05 ms, making so many views 0.1 ms."""

_STREAMS = ("joint", "bone", "motion")


def takes(frames: Tensor) -> bool:
    """Whether the kernels know frames of this kind."""
    return (
        frames.device.type == "cpu"
        and frames.dtype in (torch.float32, torch.float16)
        and frames.shape[1:] == (NUM_PERSONS, NUM_JOINTS, NUM_COORDINATES)
        and frames.is_contiguous()
    )


def passes_over(x: Tensor) -> bool:
    """Whether `hide` and `mix` know flat views of this kind."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.is_contiguous()


def render_rows(batch: RaggedBatch, drawn: Drawn, frames: int) -> Tensor:
    """The folded part of a view: (N, T, V*C*M) float32; equal to `render_plain` up to rounding.

    Products and sums are rounded once where the processor has such an instruction: the same bits on all that have it.

    Raises:
        IndexError: a window outside the buffer of frames, or a joint taken from none.
    """
    from pipelines.views import kernels

    assert drawn.window is not None
    samples = len(drawn.window.first)
    out = empty(samples, frames, FRAME_SIZE)
    stored = batch.frames.view(-1).numpy()
    index, joints = drawn.index, drawn.joints
    matrices = None if joints is None else joints.matrices.contiguous().numpy()
    source = None if joints is None or joints.source is None else joints.source.contiguous().numpy()
    arguments = (
        stored.view(np.uint16) if stored.dtype == np.float16 else stored,
        (batch.start + drawn.window.first).numpy(),
        drawn.window.length.contiguous().numpy(),
        np.empty((0, 0)) if index is None else index.contiguous().numpy(),
        np.empty((samples, 0, 3, 3), np.float32) if matrices is None else matrices,
        np.empty((samples, 0), np.int64) if source is None else source,
        _STREAMS.index(drawn.stream),
        out.view(-1).numpy(),
    )

    def work(first: int, stop: int) -> int:
        room = aligned(kernels.ROOM)
        room.fill(0)
        return int(kernels.render_rows(*arguments, room, out.data_ptr() % 64 == 0, frames, first, stop))

    for row in _shared_out(work, samples):
        if row >= 0:
            first, length = int(arguments[1][row]), int(arguments[2][row])
            raise IndexError(
                f"sample {int(batch.sample_id[row])}: found frames {first} to {first + length - 1} or a joint outside"
                f" 0..{NUM_JOINTS - 1}, expected at least one of {len(batch.frames)} frames"
            )
    return out


def hide(x: Tensor, shown: Tensor) -> Tensor:
    """A flat view (N, T, W), contiguous float32, with zeros where `shown` (N or 1, T, W or 1) is False."""
    from pipelines.views import passes

    samples, frames, width = x.shape
    shown = shown.expand(-1, frames, -1).contiguous()
    assert shown.shape[0] in (1, samples)
    assert shown.shape[2] in (1, width)
    out = empty(*x.shape)
    kernel = passes.hide_frames if shown.shape[2] == 1 else passes.hide_entries
    arguments = (
        x.view(-1).numpy(),
        shown.view(-1).view(torch.uint8).numpy(),
        shown[0].numel() if len(shown) > 1 else 0,
        out.view(-1).numpy(),
        out.data_ptr() % 64 == 0,
        frames,
        width,
    )
    _shared_out(lambda first, stop: int(kernel(*arguments, first, stop)), samples)
    return out


def mix(x: Tensor, rows: Tensor, mixing: Mixing | Mixings) -> Tensor:
    """Mix the first samples of a flat view (.., T, V*C*M), contiguous float32, with those at `rows` (N,), in one pass.

    Equal to `apply_mix` and `apply_mixings`.

    Raises:
        ConfigError: the view is no multiple of the units of time.
        IndexError: a partner that x does not have.
    """
    from pipelines.views import passes

    samples, frames = len(rows), x.shape[1]
    if samples and not 0 <= int(rows.min()) <= int(rows.max()) < len(x):
        raise IndexError(f"found partners {int(rows.min())}..{int(rows.max())}, expected some of {len(x)} samples")
    out = empty(samples, *x.shape[1:])
    if isinstance(mixing, Mixings):
        each, taken, joints = 1, pasted_frames_each(mixing, frames).numpy(), mixing.joints.numpy()
        assert taken.shape == (samples, frames)
    else:
        if mixing.mode == "mixup":
            return _blended(x, rows.tolist(), mixing.blend, out)
        each, taken, joints = 0, np.array(pasted_frames(mixing, frames)), np.zeros(NUM_JOINTS, np.bool_)
        joints[list(mixing.joints)] = True
    arguments = (
        x.view(-1).numpy(),
        rows.numpy(),
        taken.reshape(-1),
        joints.repeat(FRAME_SIZE // NUM_JOINTS, axis=-1).reshape(-1).view(np.uint8),
        each,
        out.view(-1).numpy(),
    )
    aligned_out = out.data_ptr() % 64 == 0

    def work(first: int, stop: int) -> int:
        return int(passes.paste_rows(*arguments, aligned(passes.ROOM), aligned_out, frames, first, stop))

    _shared_out(work, samples)
    if isinstance(mixing, Mixings):
        for n in (mixing.mode == MODES.index("mixup")).nonzero()[:, 0].tolist():
            torch.lerp(x[n], x[int(rows[n])], float(mixing.blend[n]), out=out[n])
    return out


def _blended(x: Tensor, rows: list[int], share: float, out: Tensor) -> Tensor:
    """Blend with partners, most of which stand side by side as the samples do."""
    start = 0
    for stop in range(1, len(rows) + 1):
        if stop == len(rows) or rows[stop] != rows[stop - 1] + 1:
            partners = x[rows[start] : rows[start] + stop - start]
            torch.lerp(x[start:stop], partners, share, out=out[start:stop])
            start = stop
    return out


def _shared_out(work: Callable[[int, int], int], samples: int) -> list[int]:
    """What `work` returns for parts of the samples, each on its own thread."""
    # threads that make batches ahead each make theirs alone
    own = threading.current_thread() is threading.main_thread()
    threads = min(torch.get_num_threads(), samples // _ROWS_A_THREAD) if own else 1
    if threads < 2:
        return [work(0, samples)]
    edges = [samples * part // threads for part in range(threads + 1)]
    others = [_pool(threads).submit(work, *edges[part : part + 2]) for part in range(1, threads)]
    return [work(*edges[:2]), *(other.result() for other in others)]


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads - 1, "views")


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not live on in a child
