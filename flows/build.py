"""The one place that joins the siblings: loaders and views of `pipelines` with encoders and objectives of `models`."""

import os
from pathlib import Path
from typing import cast

import torch

from flows.config import PretrainConfig
from flows.options import LoaderKind, LoaderOptions
from models.encoders.encoder import Encoder
from models.exchange.export import check_tensors
from models.objectives.objective import Objective
from models.training.checkpoint import latest_checkpoint, load_checkpoint, part_of_state
from pipelines.loaders.dali import DaliEngine
from pipelines.loaders.loader import Engine, TorchEngine, ViewLoader
from pipelines.loaders.order import WINDOW, Partition
from pipelines.loaders.resident import Resident, Shared
from pipelines.loaders.split import Split
from pipelines.loaders.stream import Stream
from pipelines.views.spec import ViewSpec
from shards.amounts import describe_bytes
from shards.errors import CheckpointError, ConfigError
from shards.files import sha256_file
from shards.skeleton import NUM_COORDINATES, NUM_JOINTS, NUM_PERSONS

ANY_LOADER = LoaderOptions()
"""Resident where the split fits, else streamed."""


def pick_device(name: str) -> torch.device:
    """The named device; "auto" is the GPU where there is one. ConfigError when it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device {name!r}: {error}") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device {name!r}: expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"--device {name}: found {torch.cuda.device_count()} CUDA devices, expected that one")
    return device


def pick_ranks_device(name: str, ranks: int) -> torch.device:
    """The kind of device that each of `ranks` processes of this machine takes one of.

    Raises:
        ConfigError: fewer GPUs than ranks, or `name` is a single one.
    """
    if name == "cpu":
        return torch.device("cpu")
    if name not in ("auto", "cuda"):
        raise ConfigError(f"--device {name} with --gpus {ranks}: expected auto, cuda or cpu; each rank takes its own")
    found = torch.cuda.device_count()
    if found < ranks:
        raise ConfigError(f"--gpus {ranks}: found {found} CUDA devices, expected at least {ranks}, or --device cpu")
    return torch.device("cuda")


def open_views(
    split: Split,
    spec: ViewSpec,
    options: LoaderOptions = ANY_LOADER,
    *,
    window: int = WINDOW,
    batch_size: int,
    seed: int,
    device: torch.device,
    shuffle: bool = True,
    drop_last: bool = True,
    rank: int = 0,
    world: int = 1,
    resident: Resident | None = None,
) -> ViewLoader:
    """The views of a split, by the engine that `options` name; order and views are the same from all of them.

    Args:
        split: which samples; may mix sources.
        spec: the views of each.
        options: how samples reach the device.
        window: shards shuffled together, 0 for all.
        batch_size: samples in a step, of all ranks together.
        seed: of order and views.
        device: of the views.
        shuffle: a new order each epoch; False: by shard.
        drop_last: leave out a last batch that is not full.
        rank, world: which part of each batch.
        resident: the samples of this very split, where they are on the device already; they stay when this is closed.
    """
    kind, why = pick_loader(split, options.loader, device) if resident is None else ("resident", "read before")
    order = split.order(window=window, seed=seed, shuffle=shuffle)
    partition = Partition(order.samples, batch_size, rank=rank, world=world, drop_last=drop_last)
    engine = (
        _engine(kind, split, spec, options, batch_size=batch_size, seed=seed, device=device)
        if resident is None
        else TorchEngine(Shared(resident), spec, seed)
    )
    workers = options.workers
    if workers is None:
        # on the CPU a worker takes the trainer's own cores: one made training 1.7 times as slow (two threads of OpenMP)
        workers = 0 if device.type == "cpu" else 1
    about = f"{kind}, {why}"
    if isinstance(engine, DaliEngine):
        about = f"{about}; {engine.report()}"
    return ViewLoader(engine, order, partition, spec, seed=seed, workers=workers, about=about)


def _engine(
    kind: LoaderKind,
    split: Split,
    spec: ViewSpec,
    options: LoaderOptions,
    *,
    batch_size: int,
    seed: int,
    device: torch.device,
) -> Engine:
    if kind == "resident":
        return TorchEngine(Resident(split, device), spec, seed)
    limit = None if options.cache_gb is None else int(options.cache_gb * 1e9)
    if kind == "stream":
        return TorchEngine(Stream(split, device, cache=options.cache, cache_bytes=limit), spec, seed)
    return DaliEngine(split, spec, device, seed=seed, batch_size=batch_size, cache=options.cache, cache_bytes=limit)


def pick_loader(split: Split, kind: LoaderKind, device: torch.device) -> tuple[LoaderKind, str]:
    """The engine, and why: "auto" takes "resident" for frames of at most a quarter of the device's memory."""
    if kind != "auto":
        return kind, "as asked for"
    needed = split.num_frames * NUM_PERSONS * NUM_JOINTS * NUM_COORDINATES * split.dtype.itemsize
    memory = _memory(device)
    facts = f"the split's frames take {describe_bytes(needed)} of the {describe_bytes(memory)} of memory on {device}"
    if needed <= memory // 4:
        return "resident", f"{facts}, at most a quarter"
    return "stream", f"{facts}, more than a quarter"


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def build_objective(config: PretrainConfig) -> Objective:
    """The objective with the parameters its seed gives; blocks that `config.init` freezes ask for no gradient."""
    objective = config.objective.build(config.data.streams, config.train.seed)
    if config.init is not None:
        for encoder in objective.encoders.values():
            cast(Encoder, encoder).freeze(config.init.freeze)
    return objective


def start_from(objective: Objective, config: PretrainConfig) -> None:
    """Put the encoders of the run that `config.init` names into an objective.

    An encoder takes the state of the same stream, or that of the run's only one.

    Raises:
        CheckpointError: the run has another checkpoint than the one named, or encoders that do not fit.
    """
    if config.init is None:
        return
    path = latest_checkpoint(Path(config.init.run))
    if path is None or sha256_file(path) != config.init.sha256:
        raise CheckpointError(
            f"{config.init.run}: found {path.name if path else 'no checkpoint'}, expected the one of SHA-256"
            f" {config.init.sha256} that this run starts from"
        )
    state = load_checkpoint(path).objective
    theirs = sorted({name.split(".")[1] for name in state if name.startswith("encoders.")})
    for stream, encoder in objective.encoders.items():
        source = stream if stream in theirs or len(theirs) != 1 else theirs[0]
        part, own = part_of_state(state, f"encoders.{source}."), encoder.state_dict()
        check_tensors(part, {name: tuple(own[name].shape) for name in own}, f"{path}, encoder of {source}")
        encoder.load_state_dict(part)


def build_encoder(config: PretrainConfig, state: dict[str, torch.Tensor] | None, stream: str) -> Encoder:
    """The encoder of a stream with these parameters; with None, as a run begins: random, by the run's seed."""
    if state is None:
        return cast(Encoder, build_objective(config).encoders[stream])
    encoder = config.objective.encoder.build()
    encoder.load_state_dict(state)
    return encoder
