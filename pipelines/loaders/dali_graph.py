"""The DALI graph of a plan: built once, run batch by batch. The one door of DALI."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from pipelines.loaders.dali_plan import INPUTS, NodeKind, Plan, Stage
from shards.batch import flatten
from shards.errors import ConfigError, SkelstreamError

Node = Any
"""A node of a graph; DALI ships no types."""


def imported_dali() -> Any:
    """The module `nvidia.dali`, imported when it is needed: 0.3 s.

    Raises:
        ConfigError: it is not installed, or not made for this platform.
    """
    try:
        import nvidia.dali.fn
        import nvidia.dali.types
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"--loader dali: found no usable DALI ({error}), expected nvidia-dali-cuda130 or nvidia-dali-cuda120, which"
            " exist for Linux; --loader resident and stream need nothing"
        ) from error
    return nvidia.dali


class Graph:
    """A pipeline without prefetching: what it gives is a pure function of what it is fed.

    One thread at a time may run it. Outputs are copied before it runs again, because DALI uses its buffers again.

    Args:
        plans: of the views to make, each after the one that it is made of.
        frames: T of the views.
        rows: samples of a batch, at most.
        half: stored frames are float16, else float32.
        device: where views are made; without CUDA a graph of the CPU.
        threads: of DALI.
    """

    def __init__(
        self, plans: Sequence[Plan], frames: int, *, rows: int, half: bool, device: torch.device, threads: int
    ) -> None:
        dali = imported_dali()
        self.rows, self._device = rows, device
        self._plans = [plan for plan in plans if plan.inside]
        number = None
        if device.type == "cuda":
            number = torch.cuda.current_device() if device.index is None else device.index
        # without a queue and without a thread of its own a run gives the batch just fed, and nothing stays in between
        self._pipeline = dali.Pipeline(
            batch_size=rows,
            num_threads=threads,
            device_id=number,
            seed=0,  # nothing is drawn in the graph
            prefetch_queue_depth=1,
            exec_pipelined=False,
            exec_async=False,
        )
        with self._pipeline:
            self._pipeline.set_outputs(*_Nodes(dali, frames, device.type == "cuda").views(self._plans, half))
        self._pipeline.build()

    def run(self, samples: Sequence[Tensor], fed: Mapping[str, Sequence[Tensor]]) -> dict[str, Tensor]:
        """Make the views of a batch.

        Args:
            samples: frames of each, (length, M, V, C) on the host.
            fed: view -> one (N, ...) tensor on the host for each input of each of its nodes.

        Returns:
            view -> (N, T, V*C*M) float32 on the device.

        Raises:
            SkelstreamError: DALI failed; the graph is of no further use.
        """
        inputs: dict[str, Any] = {"samples": [frames.numpy() for frames in samples]}
        for plan in self._plans:
            names = [name for number, stage in enumerate(plan.nodes) for name in _inputs(plan, number, stage)]
            tensors = fed[plan.view.name]
            inputs.update({name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)})
        try:
            outputs = self._pipeline.run(**inputs)
            made = [flatten(from_dlpack(output.as_tensor())) for output in outputs]
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise SkelstreamError(_reason(str(error))) from error
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()  # until here the copies read DALI's buffers
        return {plan.view.name: x for plan, x in zip(self._plans, made, strict=True)}


class _Nodes:
    """Makes the nodes of a graph inside its pipeline's scope."""

    def __init__(self, dali: Any, frames: int, cuda: bool) -> None:
        self._fn, self._types, self._frames, self._cuda = dali.fn, dali.types, frames, cuda
        self._made: dict[NodeKind, Callable[..., Node]] = {
            "retimed": self._retimed,
            "mapped": self._mapped,
            "mapped_each": self._mapped_each,
            "difference": self._difference,
            "masked": self._masked,
            "same": self._same,
        }

    def views(self, plans: Sequence[Plan], half: bool) -> list[Node]:
        """The node of each view, (T, M, V, C) a sample."""
        stored = self._placed(self._fn.external_source(name="samples"))
        if half:
            stored = self._fn.cast(stored, dtype=self._types.FLOAT)
        views: dict[str, Node] = {}
        for plan in plans:
            x = stored if plan.view.of is None else views[plan.view.of]
            for number, stage in enumerate(plan.nodes):
                inputs = [self._fn.external_source(name=name) for name in _inputs(plan, number, stage)]
                x = self._made[stage.node](x, *inputs)
            views[plan.view.name] = x
        return list(views.values())

    def _placed(self, x: Node) -> Node:
        # arguments of operators are read on the host; what enters arithmetic lies where it is done
        return x.gpu() if self._cuda else x

    def _retimed(self, x: Node, lower: Node, upper: Node, weight: Node) -> Node:
        first = self._fn.sequence_rearrange(x, new_order=lower)
        second = self._fn.sequence_rearrange(x, new_order=upper)
        return first + (second - first) * self._placed(weight)

    def _mapped(self, x: Node, matrix: Node) -> Node:
        return self._fn.coord_transform(x, M=matrix)

    def _mapped_each(self, x: Node, *columns: Node) -> Node:
        first, second, third = (
            self._fn.slice(x, start=[number], shape=[1], axes=[3]) * self._placed(column)
            for number, column in enumerate(columns)
        )
        return first + second + third

    def _difference(self, x: Node) -> Node:
        following = [*range(1, self._frames), self._frames - 1]
        return self._fn.sequence_rearrange(x, new_order=following) - x

    def _masked(self, x: Node, visible: Node) -> Node:
        return x * self._placed(visible)

    def _same(self, x: Node) -> Node:
        return x


def _inputs(plan: Plan, number: int, stage: Stage) -> list[str]:
    return [f"{plan.view.name} {number} {stage.kind} {count}" for count in range(INPUTS[stage.node])]


def _reason(message: str) -> str:
    """The one sentence that matters of what DALI prints: around it stand its own and our source lines."""
    _, _, found = message.rpartition("encountered:")
    found = found.partition("C++ context")[0].partition("Current pipeline object")[0]
    return " ".join(found.split()) or "no reason given"


def located(
    build: Callable[[Sequence[Plan]], Graph],
    plans: Sequence[Plan],
    samples: Sequence[Tensor],
    fed: Mapping[str, Sequence[Tensor]],
) -> tuple[str, list[int]]:
    """Where a graph fails, found by building it operation by operation: DALI's messages name neither view nor sample.

    Args:
        build: makes a graph of some plans.
        plans, samples, fed: with which a graph failed.

    Returns:
        The view and its operation, and the numbers of the samples that fail alone; all of them if none does.
    """
    every = list(range(len(samples)))
    done: list[Plan] = []
    for plan in (plan for plan in plans if plan.inside):
        for count in range(len(plan.stages) + 1):
            part = [*done, replace(plan, stages=plan.stages[:count])]
            if _fails(build, part, samples, fed, slice(None)):
                alone = [row for row in every if _fails(build, part, samples, fed, slice(row, row + 1))]
                return f"view {plan.view.name}, {part[-1].nodes[-1].kind}", alone or every
        done.append(plan)
    return "all views together", every


def _fails(
    build: Callable[[Sequence[Plan]], Graph],
    plans: Sequence[Plan],
    samples: Sequence[Tensor],
    fed: Mapping[str, Sequence[Tensor]],
    rows: slice,
) -> bool:
    counts = {plan.view.name: sum(INPUTS[stage.node] for stage in plan.nodes) for plan in plans}
    try:
        build(plans).run(samples[rows], {name: [x[rows] for x in fed[name][:count]] for name, count in counts.items()})
    except SkelstreamError:
        return True
    return False
