"""Run configuration: the components' own models, composed; and typed `--set a.b=value` overrides on any of them."""

import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, SerializeAsAny, TypeAdapter, ValidationError, WrapValidator, model_validator
from pydantic_core import ErrorDetails

from flows.options import SourceSamples, SourceWeight
from models.objectives.objective import AnyObjectiveConfig, ObjectiveConfig
from models.training.schedule import TrainConfig
from pipelines.augmentations.mixing import MIN_ROWS
from pipelines.loaders.order import WINDOW
from pipelines.views.spec import ViewSpec
from shards import trees
from shards.catalog import dataset
from shards.errors import ConfigError
from shards.frozen import Frozen
from shards.registry import Kind, Registry
from shards.skeleton import Stream


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
        streams: what views are made of: joint coordinates, bones (child minus parent), motion (next frame minus this
            one); several where the method has an encoder for each.
        window: shards shuffled together; 0 shuffles the whole split, for which a streaming loader reads all over it.
        weight, samples, classes: as of a source, where `also` names others.
        also: further sources, mixed with this one into one stream; downstream tasks see `dataset` alone.
    """

    dataset: str
    protocol: str
    streams: tuple[Stream, ...] = Field(("joint",), min_length=1)
    window: int = Field(WINDOW, ge=0)
    weight: SourceWeight = 1.0
    samples: SourceSamples | None = None
    classes: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    also: tuple[SourceConfig, ...] = ()

    @property
    def stream(self) -> str:
        """The streams as one word."""
        return "+".join(self.streams)

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


class ViewsConfig(Kind):
    """Base of what methods see of a sample.

    Attributes:
        frames: T of every view, and of those of downstream tasks.
    """

    frames: int

    @abstractmethod
    def spec(self, streams: Sequence[Stream]) -> ViewSpec:
        """The views of these streams.

        Raises:
            ConfigError: the method takes no such streams.
        """

    def check(self, objective: ObjectiveConfig) -> None:
        """Refuse an objective whose options say otherwise than these.

        Raises:
            ConfigError: which, and what would do.
        """


VIEWS: Registry[ViewsConfig] = Registry("views", "flows.recipes", "skelstream.methods")
"""All views by `kind`."""

AnyViewsConfig = Annotated[SerializeAsAny[ViewsConfig], WrapValidator(VIEWS.validate)]


class InitConfig(Frozen):
    """Where a run starts: at the encoders of another one.

    Attributes:
        run: its folder.
        sha256: of the checkpoint.
        freeze: that many of the first blocks of each encoder get no gradient.
    """

    run: str
    sha256: str
    freeze: int = Field(0, ge=0)


class PretrainConfig(Frozen):
    """Everything that decides a pre-training run except where its files lie.

    Attributes:
        method: name of a recipe, and of variants joined by "+".
        data: which samples.
        views: what is seen of each, by `kind`.
        objective: what is learnt, by `kind`, and its encoder.
        train: schedule.
        init: the run that it starts from; None for random initial weights.
    """

    method: str
    data: DataConfig
    views: AnyViewsConfig
    objective: AnyObjectiveConfig
    train: TrainConfig = TrainConfig()
    init: InitConfig | None = None

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
        streams, batch = self.data.streams, self.train.batch_size
        if len(set(streams)) < len(streams):
            raise ValueError(f"data.streams is {', '.join(streams)}, expected each once")
        if any(view.mix for view in self.views.spec(streams).views) and batch < MIN_ROWS:
            raise ValueError(
                f"train.batch_size is {batch}, expected at least {MIN_ROWS}: each sample is mixed with another one of"
                " the batch"
            )
        self.objective.check(batch)
        self.objective.encoder.check(self.views.frames)
        self.views.check(self.objective)
        terms = {*self.objective.terms}
        if len(streams) > 1:
            terms |= {f"{term}/{stream}" for term in self.objective.terms for stream in streams}
        for stage in self.train.stages:
            if stage.epochs and not set(stage.terms or ()) <= terms:
                raise ValueError(
                    f"train.stages.{stage.name}.terms is {stage.terms}, expected some of the objective's terms"
                    f" {self.objective.terms}"
                )
        return self


Config = TypeVar("Config", bound=BaseModel)


def apply_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """A copy of `config` with each "a.b=value" set; the value is JSON, or a plain word.

    Another `kind` comes with its own defaults, whatever the order: all else is set after it.

    Raises:
        ConfigError: no "=", an unknown key (with the nearest valid ones), or a value of the wrong type or range.
    """
    given = [_split_override(override) for override in overrides]
    for _, key, value in sorted(given, key=lambda split: split[1].count(".")):  # what holds another one first
        if key.endswith(".kind") and key in settable_keys(config):
            config = _of_kind(config, key.removesuffix(".kind").split("."), value)
    tree, valid = config.model_dump(mode="json"), sorted(settable_keys(config))
    for override, key, value in given:
        if key not in valid:
            near = get_close_matches(key, valid, n=3, cutoff=0.4)
            hint = f"; nearest: {', '.join(near)}" if near else f"; the keys are {', '.join(valid)}"
            raise ConfigError(f"--set {override!r}: unknown key {key!r}{hint}")
        if not _assign(tree, key.split("."), value):
            raise ConfigError(f"--set {override!r}: found no {key} after the values before it, expected it in them")
    return validate_tree(type(config), tree, "--set")


def _of_kind(config: Config, path: Sequence[str], kind: Any) -> Config:
    """A copy whose part at `path` has the defaults of that kind; whether all fits together is not looked at."""
    whole: BaseModel = reduce(getattr, path[:-1], config)
    if getattr(whole, path[-1]).kind == kind:
        return config
    field = type(whole).model_fields[path[-1]]
    kinds: Any = Annotated[field.annotation, field]
    adapter: TypeAdapter[BaseModel] = TypeAdapter(kinds)
    try:
        part = adapter.validate_python({"kind": kind})
    except ValidationError as error:
        problems = (_problem({**item, "loc": (*path, *item["loc"])}) for item in error.errors())
        raise ConfigError(f"--set: {'; '.join(problems)}") from error
    return change_values(config, {".".join(path): part})


def _split_override(override: str) -> tuple[str, str, Any]:
    key, separator, text = override.partition("=")
    if not separator:
        raise ConfigError(f"--set {override!r}: found no '=', expected key=value")
    return override, key, _value(text)


def change_values(config: Config, changes: Mapping[str, Any]) -> Config:
    """A copy of `config` with the value of each dotted name replaced, unchecked; for recipes."""
    for key, value in changes.items():
        name, _, rest = key.partition(".")
        assert name in type(config).model_fields, f"{type(config).__name__} has no {key}"
        before = getattr(config, name)
        if rest and isinstance(before, tuple):
            element, _, inner = rest.partition(".")
            assert any(part.name == element for part in before), f"{name} has no {element}"
            after = tuple(change_values(part, {inner: value}) if part.name == element else part for part in before)
        else:
            after = change_values(before, {rest: value}) if rest else value
        config = config.model_copy(update={name: after})
    return config


def validate_tree(kind: type[Config], tree: dict[str, Any], where: str) -> Config:
    """`tree`, as JSON has it, as a model of that kind; a ConfigError lists every value that does not fit."""
    try:
        # strict: true for a number or "3" for 3 is a mistake; as JSON, because only there a list is a strict tuple
        return kind.model_validate_json(json.dumps(tree, allow_nan=False), strict=True)
    except ValidationError as error:
        raise ConfigError(f"{where}: {describe_problems(error)}") from error
    except ValueError as error:
        raise ConfigError(f"{where}: found NaN or infinity, expected finite numbers") from error


def describe_problems(error: ValidationError) -> str:
    """Every value that does not fit, in one line."""
    return "; ".join(map(_problem, error.errors()))


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


def settable_keys(model: BaseModel, prefix: str = "") -> Iterator[str]:
    """The dotted names that `apply_overrides` knows: those of `leaf_keys`, and of what lies in lists of named parts."""
    for name in type(model).model_fields:
        value, key = getattr(model, name), f"{prefix}{name}"
        if isinstance(value, BaseModel):
            yield from settable_keys(value, f"{key}.")
            continue
        yield key
        for part in value if isinstance(value, tuple) else ():
            if isinstance(part, BaseModel) and hasattr(part, "name"):
                yield from settable_keys(part, f"{key}.{part.name}.")


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
    objective = tree.get("objective")
    if isinstance(objective, dict) and "kind" not in objective:
        raise ConfigError(
            f"{path}: found a run of an older version of skelstream, expected one of this version: train it anew"
        )
    return validate_tree(PretrainConfig, tree, str(path))


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


def _assign(tree: Any, path: Sequence[str], value: Any) -> bool:
    """Set a value of a tree, unless what should hold it is not there."""
    for name in path[:-1]:
        if isinstance(tree, list):
            tree = next((part for part in tree if isinstance(part, dict) and part.get("name") == name), None)
        else:
            tree = tree.get(name) if isinstance(tree, dict) else None
    if isinstance(tree, dict):
        tree[path[-1]] = value
    return isinstance(tree, dict)
