"""What the tasks of one evaluation share: a benchmark's samples, the encoders that are scored, and their features."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch

from flows.build import build_encoder, build_objective, open_views, pick_loader
from flows.config import PretrainConfig, check_protocol
from flows.options import LoaderOptions, PlaceText
from flows.tasks.config import EvaluateConfig
from models.encoders.encoder import Encoder
from models.evaluation.feature_store import ABOUT, feature_key, read_features, stored_features, verify_features
from models.evaluation.features import (
    Features,
    coordinate_features,
    extract_features,
    layer_names,
    projector_from_state,
)
from models.evaluation.finetune import prepare_encoder
from models.evaluation.heads import Curve
from models.evaluation.results import Setting
from models.evaluation.subsets import split_by_subject
from models.heads import Projector
from models.training.checkpoint import Header, encoder_state, load_checkpoint
from pipelines.loaders.labels import SampleFacts, sample_facts
from pipelines.loaders.loader import ViewLoader
from pipelines.loaders.resident import Resident
from pipelines.loaders.split import Split, open_split
from pipelines.loaders.subset import only
from pipelines.views.downstream import evaluation_spec
from pipelines.views.spec import ViewSpec
from shards.batch import Views
from shards.catalog import dataset as dataset_named
from shards.errors import CheckpointError, ConfigError
from shards.manifest import Manifest, find_store, read_manifest
from shards.places import Place, place
from shards.skeleton import Stream
from shards.sources import Side
from shards.trees import first_difference, flatten

Subject = Literal["trained", "random encoder", "coordinates"]
Ids = npt.NDArray[np.int64]
T = TypeVar("T")


def objection(check: Callable[[], object]) -> str | None:
    """What a check has against a task; None when it passes."""
    try:
        check()
    except ConfigError as error:
        return str(error)
    return None


class Scored(NamedTuple):
    """The numbers of a row, and what lies behind them; see `TaskResult`."""

    scores: dict[str, float | int]
    details: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """What results depend on besides the options; fixed at the start, because the run may still be training."""

    fingerprint: str
    checkpoint: Path
    sha256: str
    results: Path


@dataclass(frozen=True)
class Benchmark:
    """Both sides of a protocol, as encoders of one stream and length of view take them."""

    folder: Place
    dataset: str
    protocol: str
    stream: Stream
    frames: int
    window: int
    loader: LoaderOptions
    device: torch.device
    _facts: dict[Side, SampleFacts] = field(default_factory=dict, repr=False, compare=False)
    _resident: dict[Side, Resident] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of_run(
        cls,
        config: PretrainConfig,
        folder: Place,
        loader: LoaderOptions,
        device: torch.device,
        stream: Stream | None = None,
    ) -> Self:
        """What a run was trained on, in its store.

        Args:
            stream: of those of the run; None for its first.

        Raises:
            ConfigError: the data set has no such protocol, or the run no such stream.
        """
        data = config.data
        check_protocol(data.dataset, data.protocol)
        if stream is not None and stream not in data.streams:
            raise ConfigError(f"--stream {stream}: found a run of {', '.join(data.streams)}, expected one of these")
        return cls(
            folder,
            data.dataset,
            data.protocol,
            stream or data.streams[0],
            config.views.frames,
            data.window,
            loader,
            device,
        )

    @property
    def num_classes(self) -> int:
        return dataset_named(self.dataset).num_classes

    @cached_property
    def manifest(self) -> Manifest:
        return read_manifest(self.folder)

    def split(self, side: Side) -> Split:
        return open_split(self.folder, self.dataset, self.protocol, side)

    def facts(self, side: Side) -> SampleFacts:
        """Of all samples of a side.

        Raises:
            ConfigError: there are none.
        """
        if side not in self._facts:
            manifest, name = self.manifest, f"{self.dataset}/{self.protocol}"
            if side not in {manifest.cells[shard.cell].memberships.get(name) for shard in manifest.shards}:
                raise ConfigError(
                    f"{self.folder}: found no sample of {self.dataset} {self.protocol} {side}, expected at least one"
                )
            self._facts[side] = sample_facts(self.split(side))
        return self._facts[side]

    def absent_classes(self, ids: Ids | None = None, held_out: Ids | None = None) -> dict[str, Any]:
        """For the details of a row: classes of which nothing trains, and those of which nothing is tested.

        Both are part of the benchmark as it is. A class without training samples is never predicted, so its test
        samples count as errors; one without test samples has no accuracy.

        Args:
            ids: of the training samples; None for all of that side.
            held_out: of those samples of that side that choose an epoch; None for no such choice.

        Raises:
            ConfigError: every score, or every choice, would be the same whatever was learned: a side has no sample, no
                test sample or none that is held out is of a class that trains, or one class alone trains.
        """
        train, test = self.facts("train"), self.facts("test")
        trained = np.unique(train.label if ids is None else train.label[np.isin(train.sample_id, ids)])
        tested, where = np.unique(test.label), f"{self.dataset} {self.protocol}"
        chosen_by = tested if held_out is None else np.unique(train.label[np.isin(train.sample_id, held_out)])
        for what, found in (("test", tested), ("validation", chosen_by)):
            if not np.isin(found, trained).any():
                raise ConfigError(
                    f"{where}: found training samples of the classes {trained.tolist()} and {what} samples of"
                    f" {found.tolist()}, expected a class on both sides"
                )
        if len(trained) < 2:
            raise ConfigError(
                f"{where}: found training samples of class {trained[0]} alone, expected two classes or more"
            )
        every = np.arange(self.num_classes)
        missing, untested = (np.setdiff1d(every, found).tolist() for found in (trained, tested))
        return {"missing_classes": missing, "untested_classes": untested}

    def spec(self, crop: Literal["centre", "random"], *, centre_ratio: float = 0.95, degrees: float = 0.0) -> ViewSpec:
        """As `evaluation_spec`."""
        return evaluation_spec(crop, self.stream, self.frames, centre_ratio=centre_ratio, degrees=degrees)

    def views(
        self,
        side: Side,
        spec: ViewSpec,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        ids: Ids | None = None,
    ) -> ViewLoader:
        """Every sample of a side, or those of `ids`."""
        split = self.split(side)
        resident = self._samples(side, split) if ids is None else None
        if ids is not None:
            split = only(split, ids, self.facts(side))
        return open_views(
            split,
            spec,
            self.loader,
            # of a subset a window of shards holds few samples
            window=self.window if ids is None else 0,
            batch_size=batch_size,
            seed=seed,
            device=self.device,
            shuffle=shuffle,
            drop_last=False,
            resident=resident,
        )

    def _samples(self, side: Side, split: Split) -> Resident | None:
        """All samples of a side, read once for the dozens of views that tasks make of them, where memory takes them."""
        if side not in self._resident:
            if pick_loader(split, self.loader.loader, self.device)[0] != "resident":
                return None
            self._resident[side] = Resident(split, self.device)
        return self._resident[side]


class Bench:
    """One evaluation: a benchmark, the encoders of one checkpoint, and what several tasks need of them.

    Args:
        run: folder of the run; features are kept in it.
        config: of the run.
        options: of the tasks.
        benchmark: that the run was trained on.
        source: the checkpoint, and where results go.
        progress: show bars.
    """

    def __init__(
        self,
        run: Path,
        config: PretrainConfig,
        options: EvaluateConfig,
        benchmark: Benchmark,
        source: Source,
        *,
        progress: bool,
    ) -> None:
        self.run, self.config, self.options, self.source = run, config, options, source
        self.benchmark, self.device, self.progress = benchmark, benchmark.device, progress
        self._made: dict[Any, Any] = {}

    def once(self, key: object, make: Callable[[], T]) -> T:
        """What `make` gave the first time that `key` was asked for."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made

    def spec(self, crop: Literal["centre", "random"], benchmark: Benchmark | None = None) -> ViewSpec:
        """The plain view of samples, by the options; of the run's own benchmark unless another is given."""
        options = self.options
        seen = self.benchmark if benchmark is None else benchmark
        return seen.spec(crop, centre_ratio=options.centre_ratio, degrees=options.degrees)

    def encoder(self, subject: Subject) -> Encoder:
        """The run's encoder, or the one it began with; on the device."""
        return self._model(subject)[0]

    def reading(self, subject: Subject) -> tuple[Encoder, Projector | None]:
        """The same with its projector, None where the checkpoint has none; for features of `options.layer`.

        Raises:
            ConfigError: it has no such layer.
        """
        encoder, projector = self._model(subject)
        names, layer = layer_names(encoder, projector), self.options.layer
        if layer not in names:
            where = self.source.checkpoint if subject == "trained" else f"{self.run}, {subject}"
            raise ConfigError(
                f"{where}: found the layers {', '.join(names)}, expected {layer}, as --set layer asks for"
            )
        return encoder, projector

    def _model(self, subject: Subject) -> tuple[Encoder, Projector | None]:
        assert subject != "coordinates", "coordinates have no encoder"
        return self.once(("model", subject), lambda: self._load(subject))

    def _load(self, subject: Subject) -> tuple[Encoder, Projector | None]:
        stream = self.benchmark.stream
        if subject == "trained":
            checkpoint = load_checkpoint(self.source.checkpoint, expect_fingerprint=self.source.fingerprint)
            _check_config(self.run / "config.json", self.config, self.source.checkpoint, checkpoint)
            encoder = build_encoder(self.config, encoder_state(checkpoint, stream), stream)
            projector = projector_from_state(checkpoint.objective, stream)
        else:
            objective = build_objective(self.config)
            encoder = cast(Encoder, objective.encoders[stream])
            projector = projector_from_state(objective.state_dict(), stream)
        return encoder.to(self.device), None if projector is None else projector.to(self.device).eval()

    def features(self, side: Side, subject: Subject) -> Features:
        """Centre crop, in stored order; kept in the run's folder. The coordinates themselves are made anew."""
        return self.once(("features", side, subject), lambda: self._features(side, subject))

    def kept(self, side: Side, subject: Subject) -> Features | None:
        """The same where they have been kept, else None; reads sizes and shapes alone and writes nothing."""
        if subject == "coordinates":
            return None
        about = self._about(side, subject)
        folder = self.run / "features" / feature_key(about)
        return read_features(folder, about) if (folder / ABOUT).is_file() else None

    def _features(self, side: Side, subject: Subject) -> Features:
        def extract() -> Features:
            return self.encoded(subject, side, self.spec("centre"))

        if subject == "coordinates":
            return extract()
        about = self._about(side, subject)
        root = self.run / "features"
        features = stored_features(root, about, extract)
        # once an evaluation: a flipped bit would give another score and no error
        verify_features(root / feature_key(about))
        return features

    def _about(self, side: Side, subject: Subject) -> dict[str, Any]:
        """All that features depend on."""
        return {
            "encoder": self._about_encoder(subject),
            "stream": self.benchmark.stream,
            "fingerprint": self.source.fingerprint,
            "dataset": self.benchmark.dataset,
            "protocol": self.benchmark.protocol,
            "side": side,
            "view": self.spec("centre").model_dump(mode="json"),
            "layer": self.options.layer,
            "precision": "float32",
        }

    def _about_encoder(self, subject: Subject) -> dict[str, Any]:
        if subject == "trained":
            return {"checkpoint_sha256": self.source.sha256}
        return {"random": self.config.train.seed, "objective": self.config.objective.model_dump(mode="json")}

    def encoded(self, subject: Subject, side: Side, spec: ViewSpec, *, seed: int = 0) -> Features:
        """Features of another view "x" of a side, in stored order; not kept."""
        with closing(self.benchmark.views(side, spec, self.options.batch_size, seed=seed)) as views:
            if subject == "coordinates":
                return coordinate_features(views.epoch(0))
            encoder, projector = self.reading(subject)
            return extract_features(
                encoder,
                views.epoch(0),
                device=self.device,
                layer=self.options.layer,
                projector=projector,
                progress=self.progress,
                total=len(views),
            )

    def training(self, subject: Subject) -> tuple[Features, Features | None]:
        """Centre-crop features to train on, and those that choose an epoch, if some of the subjects do."""
        features = self.features("train", subject)
        if self.held_out is None:
            return features, None
        train, validation = self.held_out
        return features.only(train), features.only(validation)

    @cached_property
    def held_out(self) -> tuple[Ids, Ids] | None:
        """Ids to train on and ids that choose an epoch, of different people; None to train on all."""
        if not self.options.validation:
            return None
        facts = self.benchmark.facts("train")
        return split_by_subject(facts.subject, facts.sample_id, self.options.validation, seed=0)

    def absent_classes(self) -> dict[str, Any]:
        """As of the benchmark; subjects that validate do not train."""
        return self.benchmark.absent_classes(*(self.held_out or ()))

    def check_layer(self) -> None:
        """Refuse a layer that the encoder does not have; of a projector its checkpoint alone tells, once it is there.

        Raises:
            ConfigError: it has no such layer.
        """
        layer = self.options.layer
        if layer != "projector":
            with torch.device("meta"):
                names = layer_names(self.config.objective.encoder.build())
            if layer not in names:
                raise ConfigError(
                    f"{self.run}: found an encoder with the layers {', '.join(names)}, expected {layer}, as --set layer"
                    " asks for"
                )
        elif self.source.checkpoint.is_file():
            self.reading("trained")

    def check_tuning(self) -> None:
        """Refuse fine-tuning that the encoder does not allow.

        Raises:
            ConfigError: as `prepare_encoder`.
        """
        with torch.device("meta"):
            prepare_encoder(self.config.objective.encoder.build(), self.options.finetune)

    def other(self, dataset: str, protocol: str, data: PlaceText | None) -> Benchmark:
        """Another data set, seen the same way; in the folder of the run's store unless `data` names one.

        Raises:
            StoreError: no such store.
        """
        own = self.benchmark
        folder = find_store(own.folder.parent if data is None else place(data), dataset)
        return Benchmark(folder, dataset, protocol, own.stream, own.frames, own.window, own.loader, own.device)


def _check_config(path: Path, config: PretrainConfig, checkpoint_path: Path, checkpoint: Header) -> None:
    """Refuse a configuration that is not the one the checkpoint was trained by, but for the schedule."""
    here, there = (flatten(tree) for tree in (config.model_dump(mode="json"), checkpoint.meta.get("config", {})))
    # those of both: an older checkpoint may lack options that came later
    names = [name for name in here if name in there and (not name.startswith("train.") or name == "train.seed")]
    difference = first_difference({name: here[name] for name in names}, {name: there[name] for name in names})
    if difference is not None:
        name, found, expected = difference
        raise CheckpointError(f"{path}: found {name} {found!r}, expected {expected!r} as in {checkpoint_path.name}")


@contextmanager
def scoring(results: Path) -> Iterator[None]:
    """Hold a share in a folder of results; what killed evaluations left half-written goes before the first one's work.

    Several processes may score different tasks at a time. The kernel takes the share back when a process dies.
    """
    results.mkdir(parents=True, exist_ok=True)
    with (results / ".lock").open("w") as file:
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for half_written in results.rglob(".*.tmp"):
                half_written.unlink()
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def repeats(first_seed: int, options: EvaluateConfig) -> list[Setting]:
    """A row for each seed."""
    return [{"seed": first_seed + number} for number in range(options.repeats)]


def curve_details(curve: Curve) -> dict[str, Any]:
    """For the details of a row: accuracies on the way, and the epochs they are of."""
    return {
        "best_epoch": curve.best_epoch,
        "chosen_epoch": curve.chosen_epoch,
        "scored_epochs": list(curve.scored_epochs),
        "curve": list(curve.curve),
        "validation_curve": None if curve.validation_curve is None else list(curve.validation_curve),
    }


def each(views: ViewLoader) -> Callable[[], Iterator[Views]]:
    """What gives the first epoch of a loader as often as it is asked for."""
    return lambda: views.epoch(0)
