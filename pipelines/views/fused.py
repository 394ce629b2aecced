"""The folded part of a view as one pointwise function, which torch.compile makes one pass over memory: for GPUs."""

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from pipelines.augmentations.operation import JointMatrices
from pipelines.augmentations.spatial import identity
from pipelines.augmentations.temporal import sampling
from pipelines.views.draw import Drawn
from shards.batch import RaggedBatch
from shards.skeleton import FRAME_SIZE, NUM_COORDINATES, NUM_JOINTS, NUM_PERSONS, PARENTS, Stream

_log = logging.getLogger(__name__)

# Without these Inductor writes what several places read, positions and weights, into memory between two kernels.
_ONE_KERNEL: dict[str, str | int | bool | Callable[..., Any]] = {
    "realize_reads_threshold": 1000,
    "realize_opcount_threshold": 10000,
}


class Fused:
    """`render_plain` by one kernel; where none can be compiled, it says so once and gives nothing from then on."""

    def __init__(self) -> None:
        self._works = True

    def __call__(self, batch: RaggedBatch, drawn: Drawn, frames: int) -> Tensor | None:
        """(N, T, V*C*M) float32, or None."""
        # sizes of one are constants to torch.compile: rare, and not worth another kernel
        if not self._works or min(len(batch.frames), len(batch), frames) < 2:
            return None
        from torch._dynamo.exc import FailOnRecompileLimitHit

        try:
            with torch.no_grad():
                return compiled()(*complete(batch, drawn, frames), frames, drawn.stream)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ImportError, OSError, FailOnRecompileLimitHit) as error:  # what torch.compile raises
            self._works = False
            cause = getattr(error, "inner_exception", error)
            reason = next((line for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
            _log.warning("views are made without a fused kernel, which cannot be compiled here: %s", reason)
            return None


fused = Fused()


@cache
def compiled() -> Callable[..., Tensor]:
    """`pointwise`, compiled once for each stream and storage, for all batch sizes."""
    made: Callable[..., Tensor] = torch.compile(pointwise, fullgraph=True, dynamic=True, options=_ONE_KERNEL)
    return made


def complete(batch: RaggedBatch, drawn: Drawn, frames: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The tensors of `pointwise`, also where a view leaves something out: one kernel for all views of a stream."""
    assert drawn.window is not None
    device, samples = batch.frames.device, len(drawn.window.first)
    index, joints = drawn.index, drawn.joints
    if index is None:
        index = torch.arange(frames, dtype=torch.float64, device=device).expand(samples, -1)
    if joints is None:
        joints = JointMatrices(torch.eye(3, device=device).expand(samples, 1, 3, 3))
    source = identity(samples, device) if joints.source is None else joints.source
    # copies: torch.compile makes another kernel for tensors that are views of others
    length, index, matrices, source = (
        x.clone(memory_format=torch.contiguous_format)
        for x in (drawn.window.length, index, joints.matrices.expand(-1, NUM_JOINTS, 3, 3), source)
    )
    return batch.frames, batch.start + drawn.window.first, length, index, matrices, source


def pointwise(
    frames: Tensor,
    begin: Tensor,
    length: Tensor,
    index: Tensor,
    matrices: Tensor,
    source: Tensor,
    T: int,
    stream: Stream,
) -> Tensor:
    """Each entry of a view from the entries of the stored frames that it depends on.

    Args:
        frames: (F, M, V, C) float32 or float16.
        begin, length: (N,) int64, the windows in frames.
        index: (N, T) float64, as of `Drawn`.
        matrices, source: (N, V, 3, 3) and (N, V), as of `JointMatrices`.
        T: frames of the view.
        stream: of the coordinates.

    Returns:
        (N, T, V*C*M) float32.
    """
    device = frames.device
    lower, upper, weight = sampling(length, T, index)
    lower, upper = begin[:, None] + lower, begin[:, None] + upper
    sample = torch.arange(len(begin), device=device)[:, None, None, None, None]
    joints = torch.arange(NUM_JOINTS, device=device)[:, None, None]
    row = torch.arange(NUM_COORDINATES, device=device)[:, None]
    person = torch.arange(NUM_PERSONS, device=device)

    def coordinate(time: Tensor, joint: Tensor, column: int) -> Tensor:
        """(N, T, V, 1, M): a coordinate of each joint at places `time` of the view."""
        taken = source[sample, joint]
        a, b, share = (x[:, time][:, :, None, None, None] for x in (lower, upper, weight))
        first, second = frames[a, person, taken, column].float(), frames[b, person, taken, column].float()
        return first + share * (second - first)

    def mapped(time: Tensor, joint: Tensor) -> Tensor:
        """(N, T, V, C, M)."""
        x, y, z = (matrices[sample, joint, row, column] * coordinate(time, joint, column) for column in range(3))
        return x + y + z

    time = torch.arange(T, device=device)
    view = mapped(time, joints)
    if stream == "bone":
        view = view - mapped(time, torch.tensor(PARENTS, device=device)[:, None, None])
    if stream == "motion":
        view = mapped((time + 1).clamp(max=T - 1), joints) - view
    return view.reshape(len(begin), T, FRAME_SIZE)
