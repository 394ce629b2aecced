"""Pre-training: shards -> views -> objective -> checkpoints, resumable, on one device or on ranks."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import torch

from flows.build import build_objective, open_views, pick_device, pick_ranks_device, start_from
from flows.config import (
    DataConfig,
    InitConfig,
    PretrainConfig,
    SourceConfig,
    apply_overrides,
    change_values,
    check_protocol,
    first_difference,
    read_config,
)
from flows.machine import rank
from flows.machine.gpus import lease_gpus, visible
from flows.machine.launch import launch
from flows.machine.room import check_pretrain
from flows.options import PretrainOptions
from flows.recipes import recipe
from flows.run_folder import RunRecord, alone, new_record, read_import, read_run, write_run
from flows.tasks.bench import Benchmark
from models import collectives
from models.encoders.encoder import Encoder
from models.evaluation.features import extract_features
from models.evaluation.retrieval import RetrievalConfig, retrieval
from models.objectives.objective import Objective
from models.training.checkpoint import latest_checkpoint, read_header
from models.training.distributed import check_agreement, leader_first, process_group, run_together
from models.training.engine import Probe, TrainResult, has_begun, train
from models.training.precision import check_precision
from models.training.schedule import check_schedule
from pipelines.loaders.mixture import Part, mix_parts
from pipelines.loaders.split import Split, open_split
from pipelines.views.downstream import whole_spec
from shards.batch import Views
from shards.errors import CheckpointError, ConfigError
from shards.files import sha256_file
from shards.frozen import Frozen
from shards.manifest import find_store, read_manifest
from shards.places import Place, place
from shards.registry import plugin_versions
from shards.sources import Side


def resolve(options: PretrainOptions) -> PretrainConfig:
    """The complete configuration: the method's recipe with the overrides."""
    for name, protocol in ((options.dataset, options.protocol), *((s.dataset, s.protocol) for s in options.also)):
        check_protocol(name, protocol)
    also = tuple(SourceConfig.model_validate(source.model_dump(exclude={"data"})) for source in options.also)
    data = DataConfig(dataset=options.dataset, protocol=options.protocol, streams=options.streams, also=also)
    config = apply_overrides(recipe(options.method, data), options.overrides)
    _check_ranks(options, config.train.batch_size)
    fixed = {name: getattr(config.data, name) for name in ("window", "weight", "samples", "classes")}
    if config.method != options.method or config.data != data.model_copy(update=fixed) or config.init is not None:
        raise ConfigError(
            "--set: method, dataset, protocol, stream, also and init have options of their own, expected those"
        )
    return change_values(config, {"init": _find_start(options)})


def _find_start(options: PretrainOptions) -> InitConfig | None:
    """The run that this one starts from, by its last checkpoint.

    Where the run folder has a configuration, it is the one named there: the other run may have gone on, or gone.
    """
    if options.init_from is None:
        if options.freeze:
            raise ConfigError(
                f"--freeze {options.freeze}: found no --init-from, expected a run whose blocks are frozen"
            )
        return None
    known = options.run / "config.json"
    before = read_config(known).init if known.is_file() else None
    if before is not None and before.run == str(options.init_from):
        return before.model_copy(update={"freeze": options.freeze})
    path = latest_checkpoint(options.init_from)
    if path is None:
        raise CheckpointError(
            f"--init-from {options.init_from}: found no checkpoint, expected a run that has saved one"
        )
    return InitConfig(run=str(options.init_from), sha256=sha256_file(path), freeze=options.freeze)


def _check_ranks(options: PretrainOptions, batch_size: int) -> None:
    if options.gpus is not None and rank.is_rank():
        raise ConfigError("--gpus: found a rank that torchrun started, expected only one of the two to start ranks")
    if options.gpus is not None and batch_size % options.gpus:
        raise ConfigError(
            f"--gpus {options.gpus}: train.batch_size is {batch_size}, expected a multiple of {options.gpus}"
        )
    if rank.is_rank() and options.device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device {options.device} in a rank: expected auto, cuda or cpu; each rank takes its own")


def pretrain(options: PretrainOptions, *, progress: bool = False) -> TrainResult:
    """Train, or go on with `resume`; returns at once when the run is complete.

    In a process that torchrun started it is a rank of the run. Otherwise, with `gpus` above 1, it starts the ranks and
    waits for them.

    Raises:
        ConfigError: the run folder holds another configuration, or an unfinished run and `resume` is not set; the batch
            does not divide among the ranks, or they do not agree.
        CheckpointError: the checkpoint is of another data fingerprint or method.
        RankError: a rank failed.
        ShortageError: disk or memory is short.
    """
    done = find_finished_run(options)
    if done is not None:
        return done
    config = resolve(options)
    if options.gpus is None:
        device = pick_device(options.device)
    else:
        device = pick_ranks_device(options.device, options.gpus)
        if options.gpus > 1:
            check_precision(config.train.precision, device)
            _open(options, config)  # a user's error is told before a wait
            return _launched(options, options.gpus, device, progress)
    with process_group(device) as own, ExitStack() as held:
        return _train(options, config, own, held, progress and collectives.rank() == 0)


def _launched(options: PretrainOptions, ranks: int, device: torch.device, progress: bool) -> TrainResult:
    """Train in ranks of this machine."""
    request = options.model_copy(update={"gpus": None, "device": device.type})
    with _leased(options, device, ranks) as gpus, visible(gpus):
        launch(["-m", "flows.cli.rank", request.model_dump_json(), *(["--progress"] if progress else [])], ranks)
    result = find_finished_run(options)
    assert result is not None, "the ranks ended well without the last checkpoint"
    return result


def _leased(
    options: PretrainOptions, device: torch.device, count: int = 1
) -> AbstractContextManager[tuple[torch.device, ...]]:
    return lease_gpus(device, count=count, share=options.share_gpu, about=f"training {options.run}")


def _train(
    options: PretrainOptions, config: PretrainConfig, device: torch.device, held: ExitStack, progress: bool
) -> TrainResult:
    """Train as the only process, or as one rank of several: every rank sees the data, rank 0 alone writes.

    What it takes for itself goes into `held`: a GPU, the folder.
    """
    check_precision(config.train.precision, device)
    folders, split = run_together(lambda: _open(options, config))
    manifest, *others = [read_manifest(folder) for folder in folders]
    record = new_record(folders[0], manifest, also=tuple(other.fingerprint for other in others))
    facts = {"config": _tree(config), "run": _tree(record) | {"store": None}, "resume": options.resume}
    check_agreement({**facts, "plug-ins": plugin_versions()})
    (device,) = run_together(lambda: held.enter_context(_leased(options, device)))
    ranks = int(os.environ["LOCAL_WORLD_SIZE"]) if rank.is_rank() else 1
    run_together(lambda: check_pretrain(config, split, options.loader, options.run, device, ranks=ranks))
    train_config = config.train
    views = open_views(
        split,
        config.views.spec(config.data.streams),
        options.loader,
        window=config.data.window,
        batch_size=train_config.batch_size,
        seed=train_config.seed,
        device=device,
        rank=collectives.rank(),
        world=collectives.world_size(),
    )
    if progress:
        print(f"loader: {views.about}", file=sys.stderr)
    leader_first(lambda: _check_resumable(options, record, config, len(views)))
    # whatever can fail comes before the folder is taken, so that a failure leaves none
    probe = run_together(lambda: _retrieval_probe(folders[0], config, options, device) if _probes(config) else None)
    objective = run_together(lambda: _build(config, options).to(device))
    with closing(views):

        def take_folder() -> bool:
            """Take the folder; whether a run has begun in it."""
            held.enter_context(alone(options.run))
            begun = has_begun(options.run)
            if begun:  # perhaps by another process, while this one waited
                _refuse_other(options, config)
            write_run(options.run, config, record)
            return begun

        begun = leader_first(take_folder)
        return train(
            objective,
            views,
            train_config,
            options.run,
            meta={
                "fingerprint": manifest.fingerprint,
                "recipe": manifest.recipe,
                "method": config.method,
                "config": _tree(config),
            },
            resume=options.resume and begun,
            probe=probe,
            split=partial(_each_sample, split, config, options, device),
            device=device,
            progress=progress,
        )


def _build(config: PretrainConfig, options: PretrainOptions) -> Objective:
    objective = build_objective(config)
    if latest_checkpoint(options.run) is None:
        start_from(objective, config)
    return objective


def _each_sample(
    split: Split, config: PretrainConfig, options: PretrainOptions, device: torch.device
) -> Iterator[Views]:
    """The whole split in order, for what an objective computes of it between epochs."""
    spec = whole_spec(config.data.streams, config.views.frames)
    views = open_views(
        split,
        spec,
        options.loader,
        window=config.data.window,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        device=device,
        shuffle=False,
        drop_last=False,
    )
    with closing(views):
        yield from views.epoch(0)


def _open(options: PretrainOptions, config: PretrainConfig) -> tuple[list[Place], Split]:
    folders = _stores(options, config)
    split, batch = open_mixture(folders, config), config.train.batch_size
    samples = sum(source.samples for source in split.sources)
    if samples < batch:
        names = " and ".join(source.name for source in split.sources)
        raise ConfigError(f"{names}: found {samples} samples for an epoch, expected train.batch_size {batch} or more")
    return folders, split


def _probes(config: PretrainConfig) -> bool:
    """Whether this process scores the encoder as it trains: rank 0 alone does."""
    return config.train.probe_every > 0 and collectives.rank() == 0


def _stores(options: PretrainOptions, config: PretrainConfig) -> list[Place]:
    """The store of each source."""
    places = (place(options.data), *(place(source.data or options.data) for source in options.also))
    return [find_store(where, source.dataset) for where, source in zip(places, config.data.sources, strict=True)]


def open_mixture(folders: Sequence[Place], config: PretrainConfig) -> Split:
    """The train side of the run's sources, as one."""
    parts = [
        Part(
            open_split(folder, source.dataset, source.protocol, "train"),
            weight=source.weight,
            samples=source.samples,
            classes=source.classes,
        )
        for folder, source in zip(folders, config.data.sources, strict=True)
    ]
    return mix_parts(parts)


def find_finished_run(options: PretrainOptions) -> TrainResult | None:
    """The result of a run that is complete under the same configuration and data, else None.

    With `resume`, options of training may differ: some may change, such as the number of epochs (see `check_schedule`).
    Where nothing was trained, as after a failure in the first step, all may.
    """
    if read_import(options.run) is not None:
        raise ConfigError(
            f"{options.run}: found imported weights, expected a run trained here; choose another --run (imported ones"
            " can be evaluated and exported)"
        )
    if not (options.run / "config.json").is_file():
        return None
    config = resolve(options)
    if not has_begun(options.run):
        read_run(options.run)  # else the configuration there is none of ours, and must not be overwritten
        return None
    _refuse_other(options, config)
    path = latest_checkpoint(options.run)
    if path is None:
        return None
    folders = _stores(options, config)
    header = read_header(path, expect_fingerprint=read_manifest(folders[0]).fingerprint)
    _check_others(options, tuple(read_manifest(folder).fingerprint for folder in folders[1:]))
    if header.epoch < config.train.total_epochs:
        return None
    return TrainResult(epochs=header.epoch, steps=header.step, checkpoint=path, curves=())


def _refuse_other(options: PretrainOptions, config: PretrainConfig) -> None:
    """Refuse to go on with a run of another configuration."""
    before = read_config(options.run / "config.json")
    if options.resume:
        before = before.model_copy(update={"train": config.train})
    difference = first_difference(before, config)
    if difference is not None:
        raise ConfigError(f"{options.run} holds a run with another configuration: {difference}; choose another --run")


def summary(result: TrainResult) -> str:
    """One line about a run."""
    return f"{result.checkpoint}: {result.epochs} epochs, {result.steps} steps"


def _check_resumable(options: PretrainOptions, record: RunRecord, config: PretrainConfig, epoch_steps: int) -> None:
    """Refuse to go on from a run of other data or of options that may not change; nothing has been written yet."""
    path = latest_checkpoint(options.run)
    if path is None:
        return
    if not options.resume:
        raise ConfigError(
            f"{options.run} holds an unfinished run ({path.name}); go on with --resume or choose another --run"
        )
    header = read_header(path, expect_fingerprint=record.fingerprint)
    check_schedule(path, header, config.train, epoch_steps)
    _check_others(options, record.also)


def _check_others(options: PretrainOptions, fingerprints: tuple[str, ...]) -> None:
    """Refuse to go on with other data in the further sources of a mixture."""
    before = read_run(options.run).also
    for source, found, expected in zip(options.also, fingerprints, before, strict=True):
        if found != expected:
            raise CheckpointError(
                f"{options.run}: found data of fingerprint {found} for {source.dataset}, expected {expected} as before"
            )


def _tree(model: Frozen) -> dict[str, Any]:
    return model.model_dump(mode="json")


def _retrieval_probe(folder: Place, config: PretrainConfig, options: PretrainOptions, device: torch.device) -> Probe:
    """A function that scores each encoder by 1-NN retrieval, train side against test side."""
    streams = config.data.streams
    benchmark = Benchmark.of_run(config, folder, options.loader, device)
    try:
        benchmark.absent_classes()
    except ConfigError as error:
        raise ConfigError(f"train.probe_every: {error}; 0 for no scores while training") from error
    sides = {
        (stream, side): benchmark.views(side, replace(benchmark, stream=stream).spec("centre"), batch_size=256)
        for stream in streams
        for side in get_args(Side)
    }

    def probe(encoders: Mapping[str, Encoder]) -> dict[str, float]:
        scores = {}
        for stream in streams:
            gallery, query = (
                extract_features(encoders[stream], sides[stream, side].epoch(0), device=device)
                for side in get_args(Side)
            )
            name = "retrieval" if len(streams) == 1 else f"retrieval/{stream}"
            scores[name] = retrieval(gallery, query, RetrievalConfig()).accuracy
        return scores

    return probe
