"""The file of a benchmark: read, checked, and refused with what was meant."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.benchmark.config import BenchmarkConfig, read_benchmark, settings, write_yaml
from shards.errors import ConfigError

WHOLE = """
name: all-keys
data: s3://bucket/data
runs: elsewhere
preprocess:
  - {source: ntu, raw: [a.zip, b.zip], recipe: ctrgcn}
methods: [pcm3pp-small, pcm3pp-small+no-clip]
datasets: [ntu60/xview, ntu60/xsub]
streams: [joint, bone, motion]
seeds: [0, 3]
tasks: [linear, fusion]
pretrain: {train: {epochs: 60, lr: 1e-3}, objective.prompts: false}
evaluate: {linear.epochs: 50}
special:
  - {method: pcm3pp-small+no-clip, dataset: ntu60/xsub, pretrain: {train.lr: 0.02}}
round: date
device: cuda:1
gpus: 2
loader: {loader: stream, workers: 2}
share_gpu: true
spread: true
schedule: "0 20 * * 1-5"
timezone: Europe/Berlin
"""
PLAIN = "{name: a, data: data, methods: [pcm3], datasets: [ntu60/xview]%s}"


def read(folder: Path, text: str) -> BenchmarkConfig:
    path = folder / "a.yaml"
    path.write_text(text)
    return read_benchmark(path)


def test_every_key_is_taken(tmp_path: Path) -> None:
    config = read(tmp_path, WHOLE)
    assert config.model_fields_set == set(BenchmarkConfig.model_fields)
    assert config.folder == Path("elsewhere/benchmarks/all-keys")
    assert config.preprocess[0].raw == ("a.zip", "b.zip")
    assert config.preprocess[0].out == "s3://bucket/data"
    assert (config.loader.workers, config.special[0].pretrain) == (2, {"train.lr": 0.02})


def test_what_is_written_reads_as_the_same_benchmark(tmp_path: Path) -> None:
    for text in (WHOLE, PLAIN % ""):
        config = read(tmp_path, text)
        again = read(tmp_path, write_yaml(config).decode())
        assert again == config
        assert write_yaml(again) == write_yaml(config)


def test_nested_and_dotted_names_are_the_same_settings() -> None:
    wanted = ("train.epochs=60", "train.stages.post.lr=0.1", "views.frames=8")
    assert settings({"train": {"epochs": 60, "stages.post": {"lr": 0.1}}, "views.frames": 8}) == wanted
    assert settings({"train.epochs": 60, "train": {"stages": {"post.lr": 0.1}}, "views": {"frames": 8}}) == wanted


def test_a_value_is_what_it_is_on_the_command_line() -> None:
    found = settings({"a": True, "b": None, "c": [1, 2], "d": "cosine", "e": "1e-3"})
    assert found == ("a=true", "b=null", "c=[1, 2]", "d=cosine", "e=1e-3")


def test_a_number_that_yaml_takes_for_text_is_a_number(benchmark: Callable[..., BenchmarkConfig]) -> None:
    from flows.benchmark.plan import check

    (resolved,) = check(benchmark(pretrain={"train.lr": "1e-3"}))
    assert resolved.train.lr == 0.001


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (", method: [a]", "a.yaml: unknown key 'method'; nearest: methods"),
        (", zzz: 1", "unknown key 'zzz'; the keys are name, data, runs, "),
        (", loader: {worker: 1}", "a.yaml: loader: unknown key 'worker'; nearest: workers"),
        (", special: [{}, {pretrian: {}}]", r"a.yaml: special\[1\]: unknown key 'pretrian'; nearest: pretrain"),
        (", preprocess: [{source: ntu, raw: [a], out: b}]", r"preprocess\[0\]: unknown key 'out'"),
        (", name: b", "line 1: found 'name' twice, expected each key once"),
        (", pretrain: {train: {lr: 1, lr: 2}}", "line 1: found 'lr' twice"),
        (", true: 1", "unknown key True"),
        (", seeds: [0, 1, 0]", "seeds: found 0 twice"),
        (", seeds: 3", "seeds: found 3: Input should be a valid array"),
        (", seeds: ['0']", "seeds.0: found '0': Input should be a valid integer"),
        (", seeds: []", "seeds: found .*at least 1"),
        (", round: 2030-01-01", "found no readable YAML"),
        (", gpus: 0", "gpus: found 0"),
        (", streams: [joints]", "streams.0: found 'joints'"),
        (", tasks: [linear, retreival]", "tasks: found retreival, expected all alone or some of linear, retrieval,"),
        (", tasks: [all, linear]", "tasks: found all, expected all alone"),
        (", tasks: [linear, fusion]", "expected the task linear and the streams joint, bone and motion too"),
        (", tasks: [fusion], streams: [joint, bone, motion]", "tasks: found fusion, expected the task linear"),
        (", special: [{method: pcm3pp}]", r"special\[0\].method: found 'pcm3pp', expected one of pcm3"),
        (", special: [{dataset: ntu60/xsub}]", r"special\[0\].dataset: found 'ntu60/xsub', expected one of ntu60/xvi"),
        (", pretrain: {train.seed: 4}", "pretrain: found train.seed=4, expected the key seeds"),
        (", special: [{pretrain: {train: {seed: 4}}}]", r"special\[0\].pretrain: found train.seed=4"),
        (", evaluate: {fusion: {bone: x}}", "evaluate: found fusion.bone=x, expected the key streams"),
        (", schedule: every night", r"schedule: found 'every night' in 'UTC' \("),
        (", schedule: 0 20 * * *, timezone: Mars", r"schedule: found '0 20 \* \* \*' in 'Mars' \("),
    ],
)
def test_a_mistake_is_named_with_what_was_meant(tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, PLAIN % more)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "../up"}, "name: found '../up'"),
        ({"datasets": ["ntu60"]}, "datasets: found 'ntu60', expected name/protocol"),
        ({"datasets": ["ntu60/xset"]}, "ntu60 has no protocol 'xset', expected"),
        ({"datasets": ["ntu61/xset"]}, "ntu61"),
        ({"methods": []}, "methods: found"),
    ],
)
def test_a_name_that_cannot_be_is_refused(
    benchmark: Callable[..., BenchmarkConfig], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        benchmark(**changes)


@pytest.mark.parametrize("text", ["", "- a", "a: [", "!!python/object/apply:os.getcwd []", "a: .nan", "a: &a [*a]"])
def test_what_is_no_benchmark_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"a\.yaml: "):
        read(tmp_path, text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: found no readable YAML"):
        read_benchmark(tmp_path / "absent.yaml")
