"""Pre-training: shards -> views -> objective -> checkpoints, as a plain function and as a Prefect flow."""

import fcntl
import json
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from prefect import flow, task
from torch import nn

from flows.build import Side, build_objective, open_evaluation, open_views, pick_device
from flows.config import (
    DataConfig,
    Frozen,
    PretrainConfig,
    SourceConfig,
    apply_overrides,
    first_difference,
    read_config,
)
from flows.options import LoaderOptions, PlaceText
from flows.recipes import recipe
from models.evaluation.features import extract_features
from models.evaluation.retrieval import RetrievalConfig, retrieval
from models.training.checkpoint import latest_checkpoint, load_checkpoint
from models.training.engine import Probe, TrainResult, train
from models.training.monitor import LOG
from pipelines.loaders.mixture import Part, mixed
from pipelines.loaders.split import Split, open_split
from shards.catalog import dataset
from shards.errors import CheckpointError, ConfigError
from shards.manifest import find_store, read_manifest, write_atomic
from shards.places import Place, place


class AlsoOptions(SourceConfig):
    """A further source of a mixture; `data` is where its store lies, None for where the first one does."""

    data: PlaceText | None = None


class PretrainOptions(Frozen):
    """What to train on which data, and where the run lies. See `skelstream pretrain --help`."""

    method: str = "pcm3pp"
    data: PlaceText
    dataset: str
    protocol: str
    also: tuple[AlsoOptions, ...] = ()
    stream: Literal["joint", "bone", "motion"] = "joint"
    loader: LoaderOptions = LoaderOptions()
    run: Path
    overrides: tuple[str, ...] = ()
    resume: bool = False
    device: str = "auto"

    def resolve(self) -> PretrainConfig:
        """The complete configuration: the method's recipe with the overrides."""
        for name, protocol in ((self.dataset, self.protocol), *((s.dataset, s.protocol) for s in self.also)):
            protocols = dataset(name).protocols
            if protocol not in protocols:
                raise ConfigError(f"{name} has no protocol {protocol!r}, expected {' or '.join(protocols)}")
        also = tuple(SourceConfig.model_validate(source.model_dump(exclude={"data"})) for source in self.also)
        data = DataConfig(dataset=self.dataset, protocol=self.protocol, stream=self.stream, also=also)
        config = apply_overrides(recipe(self.method, data), self.overrides)
        fixed = {name: getattr(config.data, name) for name in ("window", "weight", "samples", "classes")}
        if config.method != self.method or config.data != data.model_copy(update=fixed):
            raise ConfigError(
                "--set: method, dataset, protocol, stream and also have options of their own, expected those"
            )
        return config

    def places(self) -> tuple[Place, ...]:
        """Where the store of each source lies, or the folder that holds it."""
        return (place(self.data), *(place(source.data or self.data) for source in self.also))


class RunRecord(Frozen):
    """`run.json`: what identifies a run besides its configuration.

    Attributes:
        store, recipe, fingerprint: of the data set that downstream tasks see.
        also: fingerprints of the further sources of a mixture.
        revision: of the code.
        versions: of what computed it.
    """

    store: str
    recipe: str
    fingerprint: str
    also: tuple[str, ...] = ()
    revision: str
    versions: dict[str, str]


def pretrain(options: PretrainOptions, *, progress: bool = False) -> TrainResult:
    """Train, or go on with `resume`; returns at once when the run is complete.

    Raises:
        ConfigError: the run folder holds another configuration, or an unfinished run and `resume` is not set.
        CheckpointError: the checkpoint is of another data fingerprint.
    """
    done = finished(options)
    if done is not None:
        return done
    config = options.resolve()
    folders = _stores(options, config)
    manifest, *others = [read_manifest(folder) for folder in folders]
    device = pick_device(options.device)
    split = open_mixture(folders, config)
    spec = config.views.spec(config.data.stream)
    objective = build_objective(config).to(device)
    record = RunRecord(
        store=str(folders[0].absolute() if isinstance(folders[0], Path) else folders[0]),
        recipe=manifest.recipe,
        fingerprint=manifest.fingerprint,
        also=tuple(other.fingerprint for other in others),
        revision=revision(),
        versions=versions(),
    )
    _check_resumable(options, record)
    train_config = config.train
    views = open_views(
        split,
        spec,
        options.loader,
        window=config.data.window,
        batch_size=train_config.batch_size,
        seed=train_config.seed,
        device=device,
    )
    if progress:
        print(f"loader: {views.about}", file=sys.stderr)
    with closing(views), _alone(options.run):
        _write_run(options.run, config, record)
        return train(
            objective,
            views,
            train_config,
            options.run,
            meta={"fingerprint": manifest.fingerprint, "recipe": manifest.recipe, "config": _tree(config)},
            resume=options.resume and _begun(options.run),
            probe=_retrieval_probe(folders[0], config, options, device) if train_config.probe_every else None,
            device=device,
            progress=progress,
        )


def _stores(options: PretrainOptions, config: PretrainConfig) -> list[Place]:
    """The store of each source."""
    return [
        find_store(where, source.dataset) for where, source in zip(options.places(), config.data.sources, strict=True)
    ]


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
    return mixed(parts)


def finished(options: PretrainOptions) -> TrainResult | None:
    """The result of a run that is complete under the same configuration and data, else None."""
    if not (options.run / "config.json").is_file():
        return None
    config = options.resolve()
    difference = first_difference(read_config(options.run / "config.json"), config)
    if difference is not None:
        raise ConfigError(f"{options.run} holds a run with another configuration: {difference}; choose another --run")
    path = latest_checkpoint(options.run)
    if path is None:
        return None
    folders = _stores(options, config)
    checkpoint = load_checkpoint(path, expect_fingerprint=read_manifest(folders[0]).fingerprint)
    _check_others(options, tuple(read_manifest(folder).fingerprint for folder in folders[1:]))
    if checkpoint.epoch < config.train.epochs:
        return None
    return TrainResult(epochs=checkpoint.epoch, steps=checkpoint.step, checkpoint=path, curves=())


def summary(result: TrainResult) -> str:
    """One line about a run."""
    return f"{result.checkpoint}: {result.epochs} epochs, {result.steps} steps"


def read_run(run: Path) -> RunRecord:
    """The record of a run folder; ConfigError when it is none."""
    try:
        return RunRecord.model_validate_json((run / "run.json").read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{run}: found no readable run.json ({error}), expected the folder of a pre-training run"
        ) from error


def versions() -> dict[str, str]:
    """What computed a run or a result."""
    return {"skelstream": version("skelstream"), "torch": torch.__version__, "python": platform.python_version()}


def revision() -> str:
    """The git revision of the code, "+changes" when the tree differs from it; "unknown" outside a checkout."""
    root = Path(__file__).resolve().parents[1]
    try:
        top, head = _git(root, "rev-parse", "--show-toplevel", "HEAD").splitlines()
        changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, ValueError, subprocess.CalledProcessError):
        return "unknown"
    if Path(top) != root:  # installed somewhere inside another project's checkout
        return "unknown"
    return head + ("+changes" if changes.strip() else "")


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def _check_resumable(options: PretrainOptions, record: RunRecord) -> None:
    path = latest_checkpoint(options.run)
    if path is None:
        return
    if not options.resume:
        raise ConfigError(
            f"{options.run} holds an unfinished run ({path.name}); go on with --resume or choose another --run"
        )
    load_checkpoint(path, expect_fingerprint=record.fingerprint)
    _check_others(options, record.also)


def _check_others(options: PretrainOptions, fingerprints: tuple[str, ...]) -> None:
    """Refuse to go on with other data in the further sources of a mixture."""
    before = read_run(options.run).also
    for source, found, expected in zip(options.also, fingerprints, before, strict=True):
        if found != expected:
            raise CheckpointError(
                f"{options.run}: found data of fingerprint {found} for {source.dataset}, expected {expected} as before"
            )


def _begun(run: Path) -> bool:
    return (run / LOG).exists() or latest_checkpoint(run) is not None


def _write_run(run: Path, config: PretrainConfig, record: RunRecord) -> None:
    for name, model in (("config.json", config), ("run.json", record)):
        write_atomic(run / name, (json.dumps(_tree(model), indent=2, sort_keys=True) + "\n").encode())


def _tree(model: Frozen) -> dict[str, Any]:
    return model.model_dump(mode="json")


@contextmanager
def _alone(run: Path) -> Iterator[None]:
    """Hold the only right to train in the folder: a schedule may fire while the last run still trains.

    The kernel takes the right back when the process dies, however it dies.
    """
    run.mkdir(parents=True, exist_ok=True)
    with (run / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{run}: found another process training in it, expected to be the only one") from None
        yield


def _retrieval_probe(folder: Place, config: PretrainConfig, options: PretrainOptions, device: torch.device) -> Probe:
    """A function that scores an encoder by 1-NN retrieval, train side against test side."""
    sides = {
        side: open_evaluation(folder, config, side, "centre", options.loader, batch_size=256, device=device)
        for side in get_args(Side)
    }

    def probe(encoder: nn.Module) -> dict[str, float]:
        gallery = extract_features(encoder, sides["train"].epoch(0), device=device)
        query = extract_features(encoder, sides["test"].epoch(0), device=device)
        return {"retrieval": retrieval(gallery, query, RetrievalConfig()).accuracy}

    return probe


@flow(name="pretrain", validate_parameters=True)
def pretrain_flow(options: PretrainOptions, progress: bool = True) -> str:
    """Pre-train an encoder; returns the checkpoint's path."""
    result = task(name=f"train-{options.method}")(pretrain)(options, progress=progress)
    print(summary(result))
    return str(result.checkpoint)
