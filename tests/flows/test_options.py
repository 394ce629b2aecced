"""Every option that is a path expands `~`, wherever it comes from: a command, a YAML file, a form of Prefect's."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from flows.benchmark.config import BenchmarkConfig, read_benchmark
from flows.cli.main import main
from flows.config import SourceConfig
from flows.options import (
    AlsoOptions,
    BenchmarkOptions,
    CompareOptions,
    DemoOptions,
    DiffOptions,
    DistillOptions,
    EvaluateOptions,
    ExportOptions,
    ImportOptions,
    ListOptions,
    LoaderOptions,
    PlanOptions,
    PreprocessOptions,
    PretrainOptions,
    PruneOptions,
    RepairOptions,
    ReportOptions,
    ServeOptions,
    StatsOptions,
    SynthOptions,
    VerifyOptions,
    ViewOptions,
)
from flows.tasks.config import FusionConfig
from pipelines.augmentations.occlusion import StoredOcclusion

DATA: dict[str, Any] = {"data": "~/x", "dataset": "ntu60", "protocol": "xview"}
PATHS: list[tuple[type[BaseModel], dict[str, Any], tuple[str, ...]]] = [
    (PretrainOptions, DATA | {"run": "~/x", "init_from": "~/x"}, ("data", "run", "init_from")),
    (AlsoOptions, DATA, ("data",)),
    (EvaluateOptions, {"run": "~/x", "data": "~/x"}, ("run", "data")),
    (DistillOptions, {"run": "~/x", "data": "~/x"}, ("run", "data")),
    (ExportOptions, {"run": "~/x", "checkpoint": "~/x", "out": "~/x"}, ("run", "checkpoint", "out")),
    (ImportOptions, DATA | {"method": "cmd", "file": "~/x", "run": "~/x"}, ("file", "run", "data")),
    (PreprocessOptions, {"source": "ntu", "raw": ["~/x"], "out": "~/x", "scratch": "~/x"}, ("raw", "out", "scratch")),
    (LoaderOptions, {"cache": "~/x"}, ("cache",)),
    (BenchmarkOptions, {"file": "~/x"}, ("file",)),
    (DemoOptions, {"out": "~/x"}, ("out",)),
    (SynthOptions, {"source": "ntu", "out": "~/x"}, ("out",)),
    (PlanOptions, {"source": "ntu", "raw": ["~/x"], "out": "~/x"}, ("raw", "out")),
    (VerifyOptions, {"data": "~/x", "deep": ["~/x"]}, ("data", "deep")),
    (RepairOptions, {"data": "~/x", "raw": ["~/x"]}, ("data", "raw")),
    (StatsOptions, {"data": "~/x", "html": "~/x", "json_file": "~/x"}, ("data", "html", "json_file")),
    (DiffOptions, {"a": "~/x", "b": "~/x", "csv": "~/x"}, ("a", "b", "csv")),
    (ViewOptions, {"data": "~/x", "key": "a", "views": "~/x", "out": "~/x"}, ("data", "views", "out")),
    (CompareOptions, {"results": ["~/x"]}, ("results",)),
    (ReportOptions, {"runs": ["~/x"], "out": "~/x"}, ("runs", "out")),
    (ListOptions, {"folders": ["~/x"]}, ("folders",)),
    (PruneOptions, {"folders": ["~/x"]}, ("folders",)),
    (ServeOptions, {"files": ["~/x"]}, ("files",)),
    (
        BenchmarkConfig,
        {"name": "a", "data": "~/x", "runs": "~/x", "methods": ["pcm3"], "datasets": ["ntu60/xview"]},
        ("data", "runs"),
    ),
    (FusionConfig, {"bone": "~/x", "motion": "~/x"}, ("bone", "motion")),
    (StoredOcclusion, {"path": "~/x"}, ("path",)),
]


@pytest.mark.parametrize(("model", "values", "names"), PATHS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_path_option_expands_the_home_folder(
    model: type[BaseModel], values: dict[str, Any], names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    for options in (model(**values), model.model_validate_json(model(**values).model_dump_json())):
        for name in names:
            found = getattr(options, name)
            assert str(found[0] if isinstance(found, tuple) else found) == "/home/ada/x", name
    nobody = {
        name: ["~nobody-by-this-name"] if isinstance(values[name], list) else "~nobody-by-this-name" for name in names
    }
    with pytest.raises(ValidationError, match="found no home folder"):
        model(**(values | nobody))


def test_urls_stay_as_they_are() -> None:
    assert EvaluateOptions(run="r", data="s3://bucket/~/x").data == "s3://bucket/~/x"


def test_a_benchmark_file_may_name_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "a.yaml"
    file.write_text("{name: a, data: data, runs: ~/runs, methods: [pcm3pp], datasets: [ntu60/xview]}")
    assert read_benchmark(file).folder == tmp_path / "runs" / "benchmarks" / "a"


@pytest.mark.parametrize(
    "words",
    [
        ("synth", "--source", "ntu", "--out=~/made", "--subjects=2", "--classes=2", "--samples=2"),
        ("preprocess", "ntu", "~/raw", "--out=~/made", "--plain", "--workers=0"),
    ],
)
def test_a_command_writes_into_the_home_folder(
    words: tuple[str, ...], raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "raw").symlink_to(raw)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert main(list(words)) == 0
    assert (tmp_path / "home" / "made").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_home_folder_that_is_not_there_is_refused_by_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["report", "run", "--out=~nobody-by-this-name/page.html"],
        ["pretrain", "pcm3", "--data=~nobody-by-this-name", "--dataset=ntu60", "--protocol=xview", "--run=r"],
    ):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2
        assert "found no home folder" in capsys.readouterr().err


def test_the_options_import_nothing_that_takes_long() -> None:
    code = "import sys, flows.options; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "pydantic" in loaded
    assert not {"torch", "numpy", "prefect", "fsspec", "pipelines", "models", "flows.config"} & set(loaded)


def test_a_further_source_has_the_options_of_a_source_and_where_its_store_lies() -> None:
    own, shared = AlsoOptions.model_fields, SourceConfig.model_fields
    assert list(own) == [*shared, "data"]
    ours, theirs = (model.model_json_schema()["properties"] for model in (AlsoOptions, SourceConfig))
    for name in shared:
        described, known = ours[name], theirs[name]
        assert {key: value for key, value in described.items() if key != "description"} == known


def test_a_further_source_is_also_read_from_text() -> None:
    assert AlsoOptions.model_validate("ntu120/xsub") == AlsoOptions(dataset="ntu120", protocol="xsub")
    whole = AlsoOptions(dataset="ntu120", protocol="xsub", weight=0.5, data="s3://bucket/data")
    assert AlsoOptions.model_validate("ntu120/xsub=0.5@s3://bucket/data") == whole
