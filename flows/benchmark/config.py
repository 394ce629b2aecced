"""The file of a benchmark: which runs, which scores, where, and when."""

import json
from collections.abc import Hashable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, JsonValue, ValidationError

from flows.config import check_protocol, validate_tree
from flows.options import LoaderOptions, LocalPath, PlaceText, PreprocessOptions
from flows.service.client import import_prefect
from flows.service.server import ServerError
from flows.tasks.registry import TASKS
from shards.errors import ConfigError
from shards.frozen import Frozen
from shards.skeleton import Stream

ALL = "all"
Overrides = dict[str, JsonValue]


class SpecialConfig(Frozen):
    """Options of those cells alone that it names, after those of all.

    Attributes:
        method: as in `methods`; None for every one.
        dataset: as in `datasets`; None for every one.
        pretrain, evaluate: as of the benchmark.
    """

    method: str | None = None
    dataset: str | None = None
    pretrain: Overrides = {}
    evaluate: Overrides = {}


class BenchmarkConfig(Frozen):
    """A matrix of runs and their scores.

    A cell is a method on a data set by a protocol, a stream and a seed: one pre-training, and its tasks. Paths are
    relative to the working directory, as everywhere on the command line.

    Attributes:
        name: of the benchmark; its tables and report lie in `<runs>/benchmarks/<name>`.
        data: folder of the store, or of several; path or URL.
        runs: folder of all run folders; benchmarks that share it share the runs they have in common.
        preprocess: raw archives of which stores in `data` are made first: options of `preprocess` without `out`.
        methods: recipes with their variants, see `skelstream methods`.
        datasets: "name/protocol", such as "ntu60/xview".
        streams: what a view is made of.
        seeds: of the pre-training.
        tasks: downstream tasks by name, or "all" for all that a cell and its data allow.
        pretrain: values as of `pretrain --set`, by dotted or nested names.
        evaluate: values as of `evaluate --set`.
        special: values of some cells alone.
        round: "once" trains each cell one time; "date" (UTC) and "revision" (of the code) train all cells again when
            that changes, and keep the runs of each round.
        device: "auto", "cpu", "cuda" or "cuda:N".
        gpus: of this machine that share each pre-training; None for one process.
        loader: how samples reach the device.
        share_gpu: compute on a GPU that another process has; else wait until one is free.
        spread: have workers carry out the cells, as flow runs of the deployments pretrain/pretrain and
            evaluate/evaluate; they need the same files at the same paths.
        schedule: of `skelstream serve`, in five fields of cron; None for none.
        timezone: of the schedule.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    data: PlaceText
    runs: LocalPath = Path("runs")
    preprocess: tuple[PreprocessOptions, ...] = ()
    methods: tuple[str, ...] = Field(min_length=1)
    datasets: tuple[str, ...] = Field(min_length=1)
    streams: tuple[Stream, ...] = Field(("joint",), min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), min_length=1)
    tasks: tuple[str, ...] = Field(("linear", "retrieval"), min_length=1)
    pretrain: Overrides = {}
    evaluate: Overrides = {}
    special: tuple[SpecialConfig, ...] = ()
    round: Literal["once", "date", "revision"] = "once"
    device: str = "auto"
    gpus: int | None = Field(None, ge=1)
    loader: LoaderOptions = LoaderOptions()
    share_gpu: bool = False
    spread: bool = False
    schedule: str | None = None
    timezone: str = "UTC"

    @property
    def folder(self) -> Path:
        """Where the tables and the report lie."""
        return self.runs / "benchmarks" / self.name


def read_benchmark(path: Path) -> BenchmarkConfig:
    """The benchmark of a YAML file.

    Raises:
        ConfigError: no readable YAML, an unknown key (with the nearest one), a value that does not fit, or names that
            do not go together; it says in which file and where.
    """
    tree = _read(path)
    _check_keys(tree, BenchmarkConfig, f"{path}")
    config = validate_tree(BenchmarkConfig, tree, str(path))
    try:
        _check(config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    stores = (entry.model_copy(update={"out": config.data}) for entry in config.preprocess)
    return config.model_copy(update={"preprocess": tuple(stores)})


def write_yaml(config: BenchmarkConfig) -> bytes:
    """The whole configuration, defaults included, as a file that `read_benchmark` takes."""
    tree = config.model_dump(mode="json")
    for entry in tree["preprocess"]:
        del entry["out"]
    text: str = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)
    return text.encode()


def settings(overrides: Mapping[str, JsonValue], prefix: str = "") -> tuple[str, ...]:
    """Values by dotted or nested names as `--set` takes them; text as it is, so that 1e-4 is a number here too."""
    found: list[str] = []
    for name, value in overrides.items():
        if isinstance(value, dict):
            found += settings(value, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}={value if isinstance(value, str) else json.dumps(value)}")
    return tuple(found)


class _Loader(yaml.SafeLoader):
    """Plain values only, and no key twice: YAML would silently take the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in seen and name != "<<":
                raise ConfigError(f"line {line}: found {name!r} twice, expected each key once")
            seen.add(name)
        found: dict[Hashable, Any] = super().construct_mapping(node, deep=deep)
        return found


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
        json.dumps(tree, allow_nan=False)  # a date is no value here
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (OSError, ValueError, TypeError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: found no readable YAML ({error}), expected the file of a benchmark") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: found a {type(tree).__name__}, expected the keys of a benchmark")
    return tree


def _check_keys(tree: Any, kind: type[BaseModel], where: str) -> None:
    """Refuse a key that the model has not, here or in the models within."""
    if not isinstance(tree, dict):
        return  # what it should be, the model says
    valid = [name for name in kind.model_fields if not (kind is PreprocessOptions and name == "out")]
    for key in tree:
        if key not in valid:
            near = get_close_matches(str(key), valid, n=3, cutoff=0.4)
            hint = f"nearest: {', '.join(near)}" if near else f"the keys are {', '.join(valid)}"
            raise ConfigError(f"{where}: unknown key {key!r}; {hint}")
    for name, inner in (("special", SpecialConfig), ("preprocess", PreprocessOptions)):
        entries = tree.get(name) if kind is BenchmarkConfig else None
        for number, entry in enumerate(entries if isinstance(entries, list) else []):
            _check_keys(entry, inner, f"{where}: {name}[{number}]")
    if kind is BenchmarkConfig:
        _check_keys(tree.get("loader"), LoaderOptions, f"{where}: loader")


def _check(config: BenchmarkConfig) -> None:
    """What a model cannot say of single values."""
    for name in ("methods", "datasets", "streams", "seeds", "tasks"):
        values = getattr(config, name)
        twice = [str(value) for value in dict.fromkeys(values) if values.count(value) > 1]
        if twice:
            raise ConfigError(f"{name}: found {', '.join(twice)} twice, expected each once")
    for named in config.datasets:
        dataset, separator, protocol = named.partition("/")
        if not separator:
            raise ConfigError(f"datasets: found {named!r}, expected name/protocol, such as ntu60/xview")
        check_protocol(dataset, protocol)
    unknown = [name for name in config.tasks if name not in TASKS]
    if config.tasks != (ALL,) and unknown:
        raise ConfigError(f"tasks: found {', '.join(unknown)}, expected {ALL} alone or some of {', '.join(TASKS)}")
    if "fusion" in config.tasks and (len(config.streams) < 3 or "linear" not in config.tasks):
        raise ConfigError("tasks: found fusion, expected the task linear and the streams joint, bone and motion too")
    for number, special in enumerate(config.special):
        _check_special(config, special, f"special[{number}]")
    _check_own(config.pretrain, config.evaluate, "")
    _check_schedule(config)


def _check_special(config: BenchmarkConfig, special: SpecialConfig, where: str) -> None:
    for name, value, known in (
        ("method", special.method, config.methods),
        ("dataset", special.dataset, config.datasets),
    ):
        if value is not None and value not in known:
            raise ConfigError(f"{where}.{name}: found {value!r}, expected one of {', '.join(known)}")
    _check_own(special.pretrain, special.evaluate, f"{where}.")


def _check_own(pretrain: Overrides, evaluate: Overrides, where: str) -> None:
    """Refuse values that the matrix itself sets."""
    for setting in settings(pretrain):
        if setting.startswith("train.seed="):
            raise ConfigError(f"{where}pretrain: found {setting}, expected the key seeds to name the seeds")
    for setting in settings(evaluate):
        if setting.startswith("fusion."):
            raise ConfigError(f"{where}evaluate: found {setting}, expected the key streams to name all three instead")


def _check_schedule(config: BenchmarkConfig) -> None:
    if config.schedule is None:
        return
    try:
        import_prefect()
    except ServerError:
        return  # the benchmark runs without it; `skelstream serve`, which keeps schedules, will say why it cannot

    from prefect.client.schemas.schedules import CronSchedule  # not above: a second, and it may fail

    try:
        CronSchedule(cron=config.schedule, timezone=config.timezone)
    except (ValidationError, ValueError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise ConfigError(
            f"schedule: found {config.schedule!r} in {config.timezone!r} ({reason}), expected five fields of cron such"
            ' as "0 20 * * *", and a time zone such as UTC'
        ) from None
