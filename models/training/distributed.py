"""The ranks of a run, outside its tensors: how they find each other, agree, and tell each other what went wrong.

A message between ranks is JSON over gloo, on the host: no GPU waits for it, and nothing is unpickled. With one process
every function is the plain call.

What one rank alone meets inside a step (a loader that fails, memory that runs out) is not told to the others: they
wait for it in their next exchange. gloo notices a closed connection at once; NCCL does not, and the launcher has to
end them, as torchrun does.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.collectives import rank, world_size
from shards import errors
from shards.errors import ConfigError, SkelstreamError
from shards.trees import first_difference, flatten

T = TypeVar("T")

_ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# the others wait while rank 0 probes the encoder or writes a checkpoint
_PATIENCE = timedelta(hours=2)


@contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Join the ranks that torchrun started, and leave them in the end; without torchrun's environment, a run of one.

    Yields:
        This rank's device: `device`, or on CUDA the one of its number on the node.

    Raises:
        ConfigError: part of the environment is missing or no number, or the node has more ranks than CUDA devices.
    """
    if "RANK" not in os.environ:
        yield device
        return
    local, local_world = _check_environment()
    if device.type == "cuda":
        found = torch.cuda.device_count()
        if local_world > found:
            raise ConfigError(
                f"found {found} CUDA devices for {local_world} ranks on this node, expected one for each rank"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    # flows.machine.launch names a file to meet in: the store that torch would open listens on all interfaces
    dist.init_process_group(
        backend,
        init_method=os.environ.get("SKELSTREAM_MEETING", "env://"),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=_PATIENCE,
    )
    try:
        yield device
    finally:
        dist.destroy_process_group()


def _check_environment() -> tuple[int, int]:
    """Number of this rank on its node, and how many the node has."""
    missing = [name for name in _ENVIRONMENT if name not in os.environ]
    if missing:
        raise ConfigError(f"found RANK without {', '.join(missing)}, expected the whole environment of torchrun")
    values = {name: os.environ[name] for name in _ENVIRONMENT if name != "MASTER_ADDR"}
    for name, value in values.items():
        if not value.isdecimal():
            raise ConfigError(f"found {name}={value!r} in the environment, expected a number")
    for name, total in (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE")):
        if int(values[name]) >= int(values[total]):
            raise ConfigError(f"found {name}={values[name]} in the environment, expected below {total}={values[total]}")
    return int(values["LOCAL_RANK"]), int(values["LOCAL_WORLD_SIZE"])


def parallel(loss: nn.Module, *example: Any) -> nn.Module:
    """A loss, its gradients averaged over the ranks in each backward pass.

    Parameters and buffers become those of rank 0. A parameter that the loss does not reach keeps the gradient None, so
    that the optimiser leaves it alone as in a run of one process.

    Args:
        loss: returns a scalar first, reaches the same parameters in every step, and changes nothing in evaluation mode.
        example: arguments of one call.
    """
    if world_size() == 1:
        return loss
    loss.eval()
    reached = _reached(loss(*example)[0])
    loss.train()
    # torch looks for them in the graph of every step, and then waits for the device: only where there are any
    some_unreached = any(p.requires_grad and p not in reached for p in loss.parameters())
    # buffers need no sending: statistics and queue are computed of the global batch, on each rank alike
    return DistributedDataParallel(loss, forward_sync_buffers=False, find_unused_parameters=some_unreached)


def _reached(loss: Tensor) -> set[Any]:
    """The parameters that the gradient of a loss flows to."""
    seen: set[Any] = set()
    nodes = [loss.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes += [following for following, _ in node.next_functions]
    return {node.variable for node in seen if hasattr(node, "variable")}


def exchange(value: Any) -> list[Any]:
    """The JSON values of all ranks, in their order. Every rank has to call it."""
    if world_size() == 1:
        return [value]
    data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(data)]))
    padded = torch.zeros(int(max(sizes)), dtype=torch.uint8)
    padded[: len(data)] = data
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return [json.loads(bytes(part[: int(size)].tolist())) for part, size in zip(parts, sizes, strict=True)]


def max_over_ranks(number: int) -> int:
    """The largest of the ranks' numbers."""
    if world_size() == 1:
        return number
    largest = torch.tensor(number)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def check_agreement(facts: dict[str, Any]) -> None:
    """Make sure that all ranks were given the same.

    Args:
        facts: JSON; differences within nested objects are told by their path.

    Raises:
        ConfigError: on every rank, with the first fact that differs.
    """
    first, *others = [flatten(each) for each in exchange(facts)]
    for number, other in enumerate(others, 1):
        difference = first_difference(other, first)
        if difference is not None:
            name, found, expected = difference
            raise ConfigError(f"rank {number}: found {name} {found}, expected {expected} as on rank 0")


def run_together(action: Callable[[], T]) -> T:
    """Run `action` on every rank; what it raises on one rank is raised on all, so that none waits for another."""
    if world_size() == 1:
        return action()
    try:
        result = action()
    except Exception as error:
        exchange({"kind": type(error).__name__, "text": str(error)})
        raise
    for number, problem in enumerate(exchange(None)):
        if problem is not None:
            raise _error(number, problem)
    return result


def leader_first(action: Callable[[], T]) -> T:
    """Run `action` on rank 0 alone; its result, which is JSON, or its error on all ranks."""
    if world_size() == 1:
        return action()
    shared: T = exchange(run_together(lambda: action() if rank() == 0 else None))[0]
    return shared


def _error(number: int, problem: dict[str, str]) -> Exception:
    kind = getattr(errors, problem["kind"], None)
    if isinstance(kind, type) and issubclass(kind, SkelstreamError):
        return kind(problem["text"])
    return RuntimeError(f"rank {number}: {problem['kind']}: {problem['text']}")
