"""Post-distillation of a finished main stage: the second stage of PCM3++ for a run that was trained without it."""

import json
from pathlib import Path

from flows.config import DataConfig, PretrainConfig, SourceConfig, read_config
from flows.options import AlsoOptions, DistillOptions, PretrainOptions
from flows.pretrain import pretrain, resolve
from flows.recipes import recipe
from flows.run_folder import RunRecord, read_import, read_run
from models.training.checkpoint import latest_checkpoint, read_header
from models.training.engine import TrainResult
from models.training.schedule import Stage
from shards.catalog import dataset
from shards.errors import ConfigError
from shards.places import place
from shards.trees import flatten

_GIVEN = ("data.dataset", "data.protocol", "data.streams", "data.also", "method", "init")  # by options of their own


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
    plain = DataConfig(dataset=data.dataset, protocol=data.protocol, streams=data.streams, also=data.also)
    options = PretrainOptions(
        method=config.method,
        data=store,
        dataset=data.dataset,
        protocol=data.protocol,
        also=tuple(
            _also(source, fingerprint, store, data.dataset, record)
            for source, fingerprint in zip(data.also, record.also, strict=True)
        ),
        streams=data.streams,
        run=run,
        init_from=None if config.init is None else Path(config.init.run),
        freeze=0 if config.init is None else config.init.freeze,
        overrides=_overrides(config, recipe(config.method, plain)),
        resume=True,
    )
    assert resolve(options) == config, "the options of a run do not give its configuration"
    return options


def _overrides(config: PretrainConfig, base: PretrainConfig) -> tuple[str, ...]:
    """What the run's configuration changes of its recipe, as it is today."""
    ours, theirs = flatten(config.model_dump(mode="json")), flatten(base.model_dump(mode="json"))
    # a part of another kind has defaults of its own
    parts = tuple(key.removesuffix("kind") for key in ours if key.endswith(".kind") and ours[key] != theirs.get(key))
    changed = {key: value for key, value in ours.items() if key.startswith(parts) or theirs.get(key) != value}
    return tuple(f"{key}={json.dumps(value)}" for key, value in changed.items() if not key.startswith(_GIVEN))


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
    begun, stages = done - config.train.epochs, config.train.stages
    post = Stage(name="post", epochs=options.epochs, lr=options.lr, terms=("distill", "prediction"))
    if begun and (len(stages) != 1 or begun > options.epochs or stages[0].lr != options.lr):
        found = ", ".join(f"{stage.epochs} of stage {stage.name} at a rate of {stage.lr}" for stage in stages)
        raise ConfigError(
            f"{run}: found {begun} epochs done after the main stage ({found}), expected at most {options.epochs} of"
            f" post-distillation at {options.lr}"
        )
    before = options_of(run, options.data)
    kept = tuple(override for override in before.overrides if not override.startswith("train.stages="))
    stage = json.dumps([post.model_dump(mode="json")])
    request = before.model_copy(
        update={
            "overrides": (*kept, f"train.stages={stage}"),
            "loader": options.loader,
            "device": options.device,
            "gpus": options.gpus,
            "share_gpu": options.share_gpu,
        }
    )
    return pretrain(request, progress=progress)
