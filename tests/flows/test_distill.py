"""Post-distillation of a finished run: the same run as one that had the stage from the start."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.cli.main import main
from flows.config import read_config
from flows.distill import distill, options_of
from flows.options import AlsoOptions, DistillOptions, PretrainOptions
from flows.pretrain import pretrain, resolve
from flows.run_folder import new_record, write_run
from shards.errors import CheckpointError, ConfigError
from shards.manifest import read_manifest

Make = Callable[..., PretrainOptions]


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy"))


@pytest.mark.parametrize(
    ("fields", "overrides"),
    [
        ({}, ()),
        ({"method": "pcm3pp-small+no-clip+mask-joints", "streams": ("motion",)}, ("train.epochs=7",)),
        (
            {"method": "skeletonclr", "streams": ("bone", "joint")},
            (
                "objective.encoder.kind=gru",
                "objective.encoder.layers=2",
                "train.optimizer.kind=adam",
                "views.frames=16",
            ),
        ),
        (
            {"method": "pcm3+tiny", "protocol": "xsub"},
            ("data.window=0", "data.weight=0.5", "train.seed=9", "views.min_ratio=0.4"),
        ),
    ],
)
def test_a_runs_options_come_back_from_its_folder(
    options: Make, store: Path, tmp_path: Path, fields: dict[str, str], overrides: tuple[str, ...]
) -> None:
    made = options(tmp_path / "run", *overrides, **fields)
    write_run(made.run, resolve(made), new_record(store, read_manifest(store)))
    found = options_of(made.run)
    assert resolve(found) == resolve(made)
    assert (found.data, found.resume) == (str(store), True)
    assert options_of(made.run, "elsewhere").data == "elsewhere"


def test_the_sources_of_a_mixture_come_back_with_their_stores(
    options: Make, store: Path, other_store: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    first, second = (shutil.copytree(folder, data / folder.name) for folder in (store, other_store))
    also = (
        AlsoOptions(dataset="ntu120", protocol="xset", weight=0.5),
        AlsoOptions(dataset="ntu120", protocol="xsub", samples=5, data=str(second)),
    )
    made = options(tmp_path / "run", data=first, also=also)
    fingerprints = tuple(read_manifest(folder).fingerprint for folder in (first, second))
    write_run(made.run, resolve(made), new_record(first, read_manifest(first), also=fingerprints))
    found = options_of(made.run)
    assert resolve(found) == resolve(made)
    assert found.also == also
    shutil.rmtree(second)
    with pytest.raises(ConfigError, match=f"found no store of ntu with the fingerprint {fingerprints[1]}"):
        options_of(made.run)


def test_a_distilled_run_is_the_run_that_had_the_stage_from_the_start(
    options: Make, copy: Path, tmp_path: Path
) -> None:
    stage = {"name": "post", "epochs": 2, "lr": 0.01, "terms": ["distill", "prediction"]}
    pretrain(options(tmp_path / "whole", f"train.stages={json.dumps([stage])}"))
    result = distill(DistillOptions(run=copy, epochs=2, lr=0.01, device="cpu"))
    assert (result.epochs, result.checkpoint.name) == (4, "epoch_0004.pt")
    name = Path("checkpoints", "epoch_0004.pt")
    assert (copy / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert read_config(copy / "config.json") == read_config(tmp_path / "whole" / "config.json")
    assert (copy / "checkpoints" / "epoch_0002.pt").is_file()  # the main stage's last stays


def test_distillation_that_is_done_returns_at_once_and_more_epochs_go_on(copy: Path) -> None:
    asked = DistillOptions(run=copy, epochs=1, lr=0.01, device="cpu")
    first = distill(asked)
    before = first.checkpoint.stat().st_mtime_ns
    assert distill(asked).checkpoint.stat().st_mtime_ns == before
    assert distill(asked.model_copy(update={"epochs": 2})).epochs == 4
    with pytest.raises(
        ConfigError,
        match=r"found 2 epochs done after .*\(2 of stage post at a rate of 0\.01\), expected at most 1 of .* at 0\.01",
    ):
        distill(asked)
    with pytest.raises(ConfigError, match=r"at a rate of 0\.01\), expected at most 2 of post-distillation at 0\.02"):
        distill(asked.model_copy(update={"epochs": 2, "lr": 0.02}))


def test_an_unfinished_main_stage_is_not_distilled(copy: Path) -> None:
    before = (copy / "config.json").read_bytes()
    for name, done in (("epoch_0002.pt", 1), ("epoch_0001.pt", 0)):
        (copy / "checkpoints" / name).unlink()
        with pytest.raises(ConfigError, match=f"found {done} of 2 epochs of the main stage, expected all"):
            distill(DistillOptions(run=copy, device="cpu"))
    assert (copy / "config.json").read_bytes() == before


def test_other_data_and_imported_weights_are_refused(copy: Path, other_store: Path) -> None:
    with pytest.raises(CheckpointError, match="found a checkpoint of data"):
        distill(DistillOptions(run=copy, data=str(other_store), device="cpu"))
    record = {"repository": "a/b", "file": "c", "sha256": "d", "stream": "joint", "epoch": None, "lacks": []}
    (copy / "import.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match="found imported weights"):
        distill(DistillOptions(run=copy, device="cpu"))


def test_the_command_distils(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["distill", str(copy), "--epochs", "1", "--lr", "0.01", "--device", "cpu", "--plain"]
    assert main(words) == 0
    assert capsys.readouterr().out.endswith(f"{copy}/checkpoints/epoch_0003.pt: 3 epochs, 12 steps\n")
    with pytest.raises(SystemExit):
        main(["distill", str(copy), "--epochs", "0", "--plain"])
    assert "--epochs: found '0'" in capsys.readouterr().err
