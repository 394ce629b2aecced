"""The runs of a report, each read once: what they are, what they are called, and which are one but for the seed."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.config import PretrainConfig, read_config
from flows.run_folder import RunRecord, read_run
from flows.scores.compare import seed_groups
from flows.scores.summary import read_stored
from models.evaluation.results import TaskResult
from models.training.runlog import read_log
from shards.errors import ConfigError, StoreError
from shards.manifest import Manifest, find_store, read_manifest
from shards.places import Place, place


@dataclass(frozen=True)
class Data:
    """The store of a run as it is found now: there, or not and why."""

    folder: Place | None
    manifest: Manifest | None
    missing: str = ""


@dataclass(frozen=True)
class Run:
    """A run of the report.

    Attributes:
        number: its place, and of its colour.
        name: short, and no other run of the report has it.
        log: a line an epoch.
    """

    number: int
    name: str
    path: Path
    config: PretrainConfig
    record: RunRecord
    log: tuple[dict[str, Any], ...]
    results: list[TaskResult]
    data: Data

    @property
    def properties(self) -> dict[str, str]:
        """What runs can be told apart and coloured by."""
        return {**_properties(self.config), "run": self.name}

    @property
    def hours(self) -> float:
        """Of training, by the log."""
        return sum(float(line.get("seconds", 0)) for line in self.log) / 3600


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed.

    Attributes:
        number: of the first.
        name: no other group of the report has it.
        short: the same without the data, for where all is of one data set.
    """

    number: int
    name: str
    short: str
    runs: tuple[Run, ...]

    @property
    def results(self) -> list[TaskResult]:
        """Of all its runs."""
        return [result for run in self.runs for result in run.results]


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read what lies in run folders.

    Raises:
        ConfigError: no run, one twice, or a folder that holds none.
        SkelstreamError: a log or a file of results is garbled.
    """
    if not paths:
        raise ConfigError("report: found no run, expected at least one run folder")
    for path, count in Counter(path.resolve() for path in paths).items():
        if count > 1:
            raise ConfigError(f"{path}: found it {count} times among the runs, expected each once")
    configs = [read_config(path / "config.json") for path in paths]
    names = _names([{**_properties(config), "folder": path.name} for config, path in zip(configs, paths, strict=True)])
    runs = []
    for number, (path, config, name) in enumerate(zip(paths, configs, names, strict=True)):
        record = read_run(path)
        log, results = read_log(path), read_stored(path / "results")
        runs.append(Run(number, name, path, config, record, log, results, _data(config, record)))
    return runs


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """The runs by what they are but for the seed, in their order."""
    of = {str(run.path): run for run in runs}
    members = [tuple(of[name] for name in names) for names in seed_groups(list(of))]
    told = [_properties(own[0].config) | {"folder": own[0].path.name} for own in members]
    for properties in told:
        del properties["seed"]
    names, shorts = _names(told), short_names([{**own, "data": ""} for own in told])
    return [Group(own[0].number, name, short, own) for own, name, short in zip(members, names, shorts, strict=True)]


def brief(groups: Sequence[Group]) -> dict[str, str]:
    """Name of each group -> its short one, where these still tell the groups apart."""
    shorts = {group.short for group in groups}
    return {group.name: group.short if len(shorts) == len(groups) else group.name for group in groups}


def _properties(config: PretrainConfig) -> dict[str, str]:
    data = config.data
    return {
        "method": config.method,
        "data": f"{data.dataset} {data.protocol}",
        "stream": data.stream,
        "seed": f"seed {config.train.seed}",
    }


def short_names(told: Sequence[Mapping[str, str]]) -> list[str]:
    """Of each its method and what else tells it apart, but for its folder."""
    varying = [name for name in told[0] if name != "folder" and (name == "method" or _differ(told, name))]
    return [", ".join(own[name] for name in varying) for own in told]


def _names(told: Sequence[Mapping[str, str]]) -> list[str]:
    """The short ones; where these are not enough, with the folder, and then a number."""
    names = short_names(told)
    again = {name for name, count in Counter(names).items() if count > 1}
    names = [f"{name} ({own['folder']})" if name in again else name for name, own in zip(names, told, strict=True)]
    again = {name for name, count in Counter(names).items() if count > 1}
    return [f"{name} #{number}" if name in again else name for number, name in enumerate(names, 1)]


def _differ(told: Sequence[Mapping[str, str]], name: str) -> bool:
    return len({own[name] for own in told}) > 1


def _data(config: PretrainConfig, record: RunRecord) -> Data:
    """The store; a report is about the run, and outlives the store."""
    try:
        folder = find_store(place(record.store), config.data.dataset)
        manifest = read_manifest(folder)
    except StoreError as error:
        return Data(None, None, str(error))
    if manifest.fingerprint != record.fingerprint:
        why = f"found fingerprint {manifest.fingerprint}, expected {record.fingerprint}, on which the run was trained"
        return Data(None, None, f"{folder.name}: {why}")
    return Data(folder, manifest)


def colourings(runs: Sequence[Run]) -> dict[str, list[int]]:
    """What the runs can be coloured by -> the colour of each: properties in which they differ."""
    found: dict[str, list[int]] = {}
    for name in runs[0].properties:
        values = [run.properties[name] for run in runs]
        numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
        if len(numbers) > 1 or name == "run":
            found[name] = [numbers[value] for value in values]
    return found


def several(values: Sequence[str], noun: str, show: Callable[[str], str] = str) -> str:
    """Different values in words: the one, or how many and which."""
    found = list(dict.fromkeys(values))
    if len(found) == 1:
        return show(found[0])
    return f"{len(found)} {noun} ({', '.join(map(show, found))})"
