"""Post-distillation of a finished main stage: the second stage of PCM3++ for a run that was trained without it."""

import json
from pathlib import Path

from pydantic import ConfigDict, Field

from flows.config import DataConfig, PretrainConfig, SourceConfig, leaf_keys, read_config
from flows.options import LoaderOptions, LocalPath, PlaceText
from flows.pretrain import AlsoOptions, PretrainOptions, pretrain
from flows.recipes import recipe
from flows.run_folder import RunRecord, read_import, read_run
from models.training.checkpoint import latest_checkpoint, read_header
from models.training.engine import TrainResult
from shards.catalog import dataset
from shards.errors import ConfigError
from shards.frozen import Frozen
from shards.places import place

_GIVEN = {"data.dataset", "data.protocol", "data.stream", "data.also", "method"}  # by options of their own


class DistillOptions(Frozen):
    """Which run, and for how long."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    run: LocalPath
    """Folder of a run whose main stage is finished; it becomes the run with both stages."""

    epochs: int = Field(151, ge=1)
    """Of the stage; the default is that of the author's configurations."""

    lr: float = Field(0.002, gt=0)
    """Its learning rate."""

    data: PlaceText | None = None
    """Folder of the store when it has moved since pre-training."""

    loader: LoaderOptions = LoaderOptions()
    """How samples reach the device; no result depends on it."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    gpus: int | None = Field(None, ge=1)
    """Processes of this machine, one a GPU, which share each batch."""

    share_gpu: bool = False
    """Compute on a GPU that another process has; else wait until one is free."""


def options_of(run: Path, moved: str | None = None) -> PretrainOptions:
    """The options by which the run in this folder is trained on; loader and device are not part of a run.

    Args:
        run: its folder.
        moved: folder of the store where it has moved.

    Raises:
        ConfigError: it holds no run, or imported weights; or a further source of its mixture has no store beside the
            first one.
    """
    if read_import(run) is not None:
        raise ConfigError(f"{run}: found imported weights, expected a run trained here")
    config, record = read_config(run / "config.json"), read_run(run)
    store = moved or record.store
    data = config.data
    plain = DataConfig(dataset=data.dataset, protocol=data.protocol, stream=data.stream, also=data.also)
    options = PretrainOptions(
        method=config.method,
        data=store,
        dataset=data.dataset,
        protocol=data.protocol,
        also=tuple(
            _also(source, fingerprint, store, data.dataset, record)
            for source, fingerprint in zip(data.also, record.also, strict=True)
        ),
        stream=data.stream,
        run=run,
        overrides=_overrides(config, recipe(config.method, plain)),
        resume=True,
    )
    assert options.resolve() == config, "the options of a run do not give its configuration"
    return options


def _overrides(config: PretrainConfig, base: PretrainConfig) -> tuple[str, ...]:
    """What the run's configuration changes of its recipe, as it is today."""
    ours, theirs = config.model_dump(mode="json"), base.model_dump(mode="json")
    changed = (key for key in leaf_keys(config) if key not in _GIVEN and _leaf(ours, key) != _leaf(theirs, key))
    return tuple(f"{key}={json.dumps(_leaf(ours, key))}" for key in changed)


def _leaf(tree: object, key: str) -> object:
    for name in key.split("."):
        assert isinstance(tree, dict), key
        tree = tree[name]
    return tree


def _also(named: SourceConfig, fingerprint: str, store: str, first: str, record: RunRecord) -> AlsoOptions:
    """A further source; where its store lies, no run records: in the first one, or beside it under its name."""
    where = None
    source = dataset(named.dataset).source
    if fingerprint != record.fingerprint or source != dataset(first).source:
        beside = place(store).parent
        names = sorted(path.name for path in beside.iterdir() if path.is_dir())
        found = [name for name in names if name.startswith(f"{source}-") and name.endswith(f"-{fingerprint}")]
        if not found:
            raise ConfigError(
                f"{beside}: found no store of {source} with the fingerprint {fingerprint}, expected that of"
                f" {named.dataset} beside the first one"
            )
        where = str(beside / found[0])
    return AlsoOptions(**named.model_dump(), data=where)


def distill(options: DistillOptions, *, progress: bool = False) -> TrainResult:
    """Add the stage to the run and train it, or go on with it; returns at once when it is done.

    Raises:
        ConfigError: the main stage is not finished, or the run has a stage that these options would not have given.
        CheckpointError: the data are others than those of the run.
    """
    run = options.run
    config, path = read_config(run / "config.json"), latest_checkpoint(run)
    done = 0 if path is None else read_header(path).epoch
    if done < config.train.epochs:
        raise ConfigError(
            f"{run}: found {done} of {config.train.epochs} epochs of the main stage, expected all; go on with pretrain"
        )
    begun, post = done - config.train.epochs, config.train.post
    if begun > options.epochs or (begun and post.lr != options.lr):
        raise ConfigError(
            f"{run}: found {begun} epochs of post-distillation at a rate of {post.lr}, expected at most"
            f" {options.epochs} at {options.lr}"
        )
    before = options_of(run, options.data)
    kept = tuple(o for o in before.overrides if not o.startswith(("train.post.epochs=", "train.post.lr=")))
    stage = (f"train.post.epochs={options.epochs}", f"train.post.lr={options.lr}")
    request = before.model_copy(
        update={
            "overrides": (*kept, *stage),
            "loader": options.loader,
            "device": options.device,
            "gpus": options.gpus,
            "share_gpu": options.share_gpu,
        }
    )
    return pretrain(request, progress=progress)
