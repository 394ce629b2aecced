"""Run configuration: the components' own models, composed; and typed `--set a.b=value` overrides on any of them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from models.objectives.pcm3pp import PCM3PPConfig, check_config
from models.training.schedule import TrainConfig
from pipelines.augmentations.mixing import MIN_ROWS
from pipelines.loaders.order import WINDOW
from pipelines.views.methods import PCM3PPViewsConfig
from shards import trees
from shards.catalog import dataset
from shards.errors import ConfigError
from shards.frozen import Frozen
from shards.skeleton import NUM_COORDINATES, NUM_JOINTS, NUM_PERSONS, Stream

# an epoch's order is made at once; that of more samples than these would not fit in memory
SourceWeight = Annotated[float, Field(gt=0, le=1000)]
SourceSamples = Annotated[int, Field(ge=1, le=100_000_000)]


class SourceConfig(Frozen):
    """One more source that a mixture takes samples of.

    Attributes:
        dataset: name in `shards.catalog.DATASETS`.
        protocol: one of the data set's protocols; training uses its train side.
        weight: how often an epoch takes each of its samples; 0.5 takes half of them, the other half in the next.
        samples: an epoch takes that many of them instead.
        classes: label of each of its classes; None takes those of an earlier source of the same archive, else puts them
            behind the classes of the sources before.
    """

    dataset: str
    protocol: str
    weight: SourceWeight = 1.0
    samples: SourceSamples | None = None
    classes: tuple[Annotated[int, Field(ge=0)], ...] | None = None


class DataConfig(Frozen):
    """Which samples a run sees.

    Attributes:
        dataset: name in `shards.catalog.DATASETS`.
        protocol: one of the data set's protocols; training uses its train side.
        stream: joint coordinates, bones (child minus parent) or motion (next frame minus this one).
        window: shards shuffled together; 0 shuffles the whole split, for which a streaming loader reads all over it.
        weight, samples, classes: as of a source, where `also` names others.
        also: further sources, mixed with this one into one stream; downstream tasks see `dataset` alone.
    """

    dataset: str
    protocol: str
    stream: Stream = "joint"
    window: int = Field(WINDOW, ge=0)
    weight: SourceWeight = 1.0
    samples: SourceSamples | None = None
    classes: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    also: tuple[SourceConfig, ...] = ()

    @property
    def sources(self) -> tuple[SourceConfig, ...]:
        """All sources, this one first."""
        names = SourceConfig.model_fields
        return (SourceConfig.model_validate({name: getattr(self, name) for name in names}), *self.also)


def check_protocol(name: str, protocol: str) -> None:
    """ConfigError when the data set has no such protocol."""
    protocols = dataset(name).protocols
    if protocol not in protocols:
        raise ConfigError(f"{name} has no protocol {protocol!r}, expected {' or '.join(protocols)}")


class PretrainConfig(Frozen):
    """Everything that decides a pre-training run except where its files lie.

    Attributes:
        method: name of a recipe, and of variants joined by "+".
    """

    method: str
    data: DataConfig
    views: PCM3PPViewsConfig = PCM3PPViewsConfig()
    objective: PCM3PPConfig = PCM3PPConfig()
    train: TrainConfig = TrainConfig()

    @property
    def title(self) -> str:
        """The `tags` for people."""
        return "{method} {dataset} {protocol} {stream} seed {seed}".format(**self.tags)

    @property
    def tags(self) -> dict[str, str]:
        """What a run is called and found by."""
        data = self.data
        names = {"method": self.method, "dataset": data.dataset, "protocol": data.protocol, "stream": data.stream}
        return {**names, "seed": str(self.train.seed)}

    @model_validator(mode="after")
    def _fits(self) -> "PretrainConfig":
        queue, batch = self.objective.queue_size, self.train.batch_size
        if batch < MIN_ROWS:
            raise ValueError(
                f"train.batch_size is {batch}, expected at least {MIN_ROWS}: each sample is mixed with another one of"
                " the batch"
            )
        if queue <= batch:
            raise ValueError(f"objective.queue_size is {queue}, expected more than train.batch_size {batch}")
        if queue % batch:  # as JHang2020/PCM3 asserts: all keys of a step are then of one age
            raise ValueError(f"objective.queue_size is {queue}, expected a multiple of train.batch_size {batch}")
        width, entries = self.objective.encoder.input_size, NUM_JOINTS * NUM_COORDINATES * NUM_PERSONS
        if width != entries:
            raise ValueError(f"objective.encoder.input_size is {width}, expected {entries}, the entries of a frame")
        check_config(self.objective)
        post, terms = self.train.post, self.objective.terms
        if post.epochs and not set(post.terms) <= set(terms):
            raise ValueError(f"train.post.terms is {post.terms}, expected some of the objective's terms {terms}")
        return self


Config = TypeVar("Config", bound=BaseModel)


def apply_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """A copy of `config` with each "a.b=value" set; the value is JSON, or a plain word.

    Raises:
        ConfigError: no "=", an unknown key (with the nearest valid ones), or a value of the wrong type or range.
    """
    tree = config.model_dump(mode="json")
    valid = sorted(leaf_keys(config))
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"--set {override!r}: found no '=', expected key=value")
        if key not in valid:
            near = get_close_matches(key, valid, n=3, cutoff=0.4)
            hint = f"; nearest: {', '.join(near)}" if near else f"; the keys are {', '.join(valid)}"
            raise ConfigError(f"--set {override!r}: unknown key {key!r}{hint}")
        _assign(tree, key.split("."), _value(text))
    return validated(type(config), tree, "--set")


def changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """A copy of `config` with the value of each dotted name replaced, unchecked; for recipes."""
    for key, value in changes.items():
        name, _, rest = key.partition(".")
        assert name in type(config).model_fields, f"{type(config).__name__} has no {key}"
        config = config.model_copy(update={name: changed(getattr(config, name), {rest: value}) if rest else value})
    return config


def validated(kind: type[Config], tree: dict[str, Any], where: str) -> Config:
    """`tree`, as JSON has it, as a model of that kind; a ConfigError lists every value that does not fit."""
    try:
        # strict: true for a number or "3" for 3 is a mistake; as JSON, because only there a list is a strict tuple
        return kind.model_validate_json(json.dumps(tree, allow_nan=False), strict=True)
    except ValidationError as error:
        raise ConfigError(f"{where}: {'; '.join(map(_problem, error.errors()))}") from error
    except ValueError as error:
        raise ConfigError(f"{where}: found NaN or infinity, expected finite numbers") from error


def _problem(item: ErrorDetails) -> str:
    place = ".".join(map(str, item["loc"]))
    if isinstance(item["input"], dict):  # a check over several values: its message names them
        message = item["msg"].removeprefix("Value error, ")
        return f"{place}: {message}" if place else message
    return f"{place}: found {item['input']!r}: {item['msg']}"


def leaf_keys(model: BaseModel, prefix: str = "") -> Iterator[str]:
    """The dotted name of every value that can be set."""
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from leaf_keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def read_config(path: Path) -> PretrainConfig:
    """The resolved configuration of a run folder."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: found no readable configuration ({error}), expected a run folder's config.json"
        ) from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: found a JSON {type(tree).__name__}, expected a run folder's config.json")
    return validated(PretrainConfig, tree, str(path))


def first_difference(a: BaseModel, b: BaseModel) -> str | None:
    """The first key whose values differ, with both values; None when the configurations are equal."""
    left, right = (dict(sorted(trees.flatten(model.model_dump(mode="json")).items())) for model in (a, b))
    difference = trees.first_difference(left, right)
    return None if difference is None else "{} is {!r} there and {!r} here".format(*difference)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _assign(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        tree = tree[name]
    tree[path[-1]] = value
