"""What is there already is found by its identity, and what it saves is said."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.config import PretrainConfig, change_values, read_config
from flows.options import PretrainOptions
from flows.pretrain import pretrain, resolve
from flows.run_folder import read_run
from flows.storage.identity import (
    about_features,
    about_results,
    about_run,
    about_store,
    find_run,
    identity,
    training_seconds,
)
from models.training.runlog import LOG
from pipelines.conversion.convert import ConvertResult
from shards.amounts import describe_bytes
from shards.manifest import read_manifest
from tests.flows.records import result


@pytest.fixture
def config(run: Path) -> PretrainConfig:
    return read_config(run / "config.json")


@pytest.fixture
def data(run: Path) -> tuple[str, ...]:
    return (read_run(run).fingerprint,)


def test_all_that_a_run_depends_on_is_its_identity(config: PretrainConfig) -> None:
    others = [
        (change_values(config, {"train.seed": 1}), ["a"]),
        (change_values(config, {"views.frames": 8}), ["a"]),
        (config, ["b"]),
        (config, ["a", "b"]),
        (config, ["b", "a"]),
    ]
    names = [identity(config, ["a"]), *(identity(*other) for other in others)]
    assert len(set(names)) == len(names)
    again = PretrainConfig.model_validate(config.model_dump())
    assert identity(again, ("a",)) == names[0]


def test_a_complete_run_is_found_whatever_its_name(
    run: Path, config: PretrainConfig, data: tuple[str, ...], tmp_path: Path
) -> None:
    assert find_run(tmp_path / "absent", config, data) is None
    assert find_run(tmp_path, config, data) is None
    (tmp_path / "notes.txt").write_text("no run")
    (tmp_path / "a-folder").mkdir()
    for name in ("zoe", "bob"):
        shutil.copytree(run, tmp_path / name)
    assert find_run(tmp_path, config, data) == tmp_path / "bob"


def test_a_run_of_another_identity_is_not_found(
    run: Path, config: PretrainConfig, data: tuple[str, ...], tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "run")
    assert find_run(tmp_path, change_values(config, {"train.seed": 1}), data) is None
    assert find_run(tmp_path, config, ("000000000000",)) is None
    assert find_run(tmp_path, config, (*data, "000000000000")) is None


@pytest.mark.parametrize("damage", ["unfinished", "no checkpoint", "imported", "garbled config", "no record", "cut"])
def test_a_run_that_cannot_serve_is_not_found(
    run: Path, config: PretrainConfig, data: tuple[str, ...], tmp_path: Path, damage: str
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    last = copy / "checkpoints" / "epoch_0002.pt"
    if damage in ("unfinished", "no checkpoint"):
        last.unlink()
    if damage == "no checkpoint":
        (copy / "checkpoints" / "epoch_0001.pt").unlink()
    if damage == "imported":
        (copy / "import.json").write_text("{}")
    if damage == "garbled config":
        (copy / "config.json").write_text("{")
    if damage == "no record":
        (copy / "run.json").unlink()
    if damage == "cut":
        last.write_bytes(last.read_bytes()[:100])
    assert find_run(tmp_path, config, data) is None


def test_a_run_given_more_epochs_since_is_another(
    options: Callable[..., PretrainOptions], run: Path, config: PretrainConfig, data: tuple[str, ...], tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "run")
    more = options(tmp_path / "run", "train.epochs=3", resume=True)
    pretrain(more)
    assert find_run(tmp_path, config, data) is None
    assert find_run(tmp_path, resolve(more), data) == tmp_path / "run"


def test_what_a_run_saves_is_the_time_of_its_epochs(run: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (run / LOG).read_text().splitlines()]
    assert training_seconds(run) == sum(line["seconds"] for line in lines if line["kind"] == "epoch") > 0
    fields = {"kind": "epoch", "step": 1}
    (tmp_path / LOG).write_text(
        "".join(json.dumps({**fields, "epoch": e, "seconds": 1800.5}) + "\n" for e in range(10))
        + json.dumps({**fields, "kind": "step", "epoch": 9, "seconds": 1e6})
        + "\n"
    )
    assert about_run(tmp_path) == f"reused {tmp_path}: saves 10 epochs, 5.0 h of training"


def test_what_results_save_is_the_time_of_their_rows() -> None:
    rows = [result(seconds=30.0), result(seconds=20.0, setting={"seed": 1}), result("retrieval", seconds=3.0)]
    assert about_results(rows) == "reused 3 rows of linear, retrieval: saves 53 s of scoring"


def test_what_features_save_is_their_size(tmp_path: Path) -> None:
    assert about_features(tmp_path) is None
    for name, count in (("0123456789abcdef", 1_500_000), ("fedcba9876543210", 500), (".a.tmp", 9_999)):
        (tmp_path / "features" / name).mkdir(parents=True)
        (tmp_path / "features" / name / "values.npy").write_bytes(bytes(count))
    assert about_features(tmp_path) == f"reused features in {tmp_path / 'features'}: 1.5 MB"


def test_what_a_store_saves_is_its_size(store: Path) -> None:
    listed = sum(entry.bytes for entry in read_manifest(store).files)
    found = about_store(ConvertResult(store, True, read_manifest(store)))
    assert found == f"reused {store}: saves converting {describe_bytes(listed)} of store and shards"
