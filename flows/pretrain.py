"""Pre-training: shards -> views -> objective -> checkpoints, as a plain function and as a Prefect flow."""

import fcntl
import json
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from prefect import flow, task
from torch import nn

from flows.build import PretrainViews, Split, build_objective, open_evaluation, open_loader, pick_device
from flows.config import DataConfig, Frozen, PretrainConfig, apply_overrides, first_difference, read_config
from flows.options import PlaceText
from flows.recipes import recipe
from models.evaluation.features import extract_features
from models.evaluation.retrieval import RetrievalConfig, retrieval
from models.training.checkpoint import latest_checkpoint, load_checkpoint
from models.training.engine import Probe, TrainResult, train
from models.training.monitor import LOG
from shards.catalog import dataset
from shards.errors import ConfigError
from shards.manifest import find_store, read_manifest, write_atomic
from shards.places import Place, place


class PretrainOptions(Frozen):
    """What to train on which data, and where the run lies. See `skelstream pretrain --help`."""

    method: str = "pcm3pp"
    data: PlaceText
    dataset: str
    protocol: str
    stream: Literal["joint", "bone", "motion"] = "joint"
    run: Path
    overrides: tuple[str, ...] = ()
    resume: bool = False
    device: str = "auto"

    def resolve(self) -> PretrainConfig:
        """The complete configuration: the method's recipe with the overrides."""
        protocols = dataset(self.dataset).protocols
        if self.protocol not in protocols:
            raise ConfigError(f"{self.dataset} has no protocol {self.protocol!r}, expected {' or '.join(protocols)}")
        data = DataConfig(dataset=self.dataset, protocol=self.protocol, stream=self.stream)
        config = apply_overrides(recipe(self.method, data), self.overrides)
        if config.method != self.method or config.data != data.model_copy(update={"loader": config.data.loader}):
            raise ConfigError("--set: method, dataset, protocol and stream have options of their own, expected those")
        return config


class RunRecord(Frozen):
    """`run.json`: what identifies a run besides its configuration."""

    store: str
    recipe: str
    fingerprint: str
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
    folder = find_store(place(options.data), options.dataset)
    manifest = read_manifest(folder)
    device = pick_device(options.device)
    loader = open_loader(
        folder, config.data, "train", batch_size=config.train.batch_size, seed=config.train.seed, device=device
    )
    objective = build_objective(config).to(device)
    _check_resumable(options, manifest.fingerprint)
    record = RunRecord(
        store=str(folder.absolute() if isinstance(folder, Path) else folder),
        recipe=manifest.recipe,
        fingerprint=manifest.fingerprint,
        revision=revision(),
        versions=versions(),
    )
    with _alone(options.run):
        _write_run(options.run, config, record)
        return train(
            objective,
            PretrainViews(loader, config),
            config.train,
            options.run,
            meta={"fingerprint": manifest.fingerprint, "recipe": manifest.recipe, "config": _tree(config)},
            resume=options.resume and _begun(options.run),
            probe=_retrieval_probe(folder, config, device) if config.train.probe_every else None,
            device=device,
            progress=progress,
        )


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
    fingerprint = read_manifest(find_store(place(options.data), options.dataset)).fingerprint
    checkpoint = load_checkpoint(path, expect_fingerprint=fingerprint)
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


def _check_resumable(options: PretrainOptions, fingerprint: str) -> None:
    path = latest_checkpoint(options.run)
    if path is None:
        return
    if not options.resume:
        raise ConfigError(
            f"{options.run} holds an unfinished run ({path.name}); go on with --resume or choose another --run"
        )
    load_checkpoint(path, expect_fingerprint=fingerprint)


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


def _retrieval_probe(folder: Place, config: PretrainConfig, device: torch.device) -> Probe:
    """A function that scores an encoder by 1-NN retrieval, train side against test side."""
    sides = {
        split: open_evaluation(folder, config, split, "centre", batch_size=256, device=device)
        for split in get_args(Split)
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
