"""Pre-training on several data sets as one stream: by command, resumable, and tied to the data of all of them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.cli.main import main
from flows.config import read_config
from flows.options import AlsoOptions, PretrainOptions
from flows.pretrain import find_finished_run, pretrain, read_run
from models.training.checkpoint import load_checkpoint
from models.training.runlog import LOG, read_log
from pipelines.conversion.convert import convert
from pipelines.synthetic import synthesize
from shards.errors import CheckpointError, ConfigError
from shards.manifest import read_manifest

Make = Callable[..., PretrainOptions]


def _pku(folder: Path, seed: int) -> Path:
    raw = synthesize("pkummd1", folder / "raw", subjects=4, classes=4, samples=6, seed=seed, zipped=False)
    return Path(str(convert("pkummd1", [raw], folder / "data", workers=0).folder))


@pytest.fixture(scope="module")
def pku(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of six PKU-MMD videos."""
    return _pku(tmp_path_factory.mktemp("pku"), 0)


def _trained(store: Path) -> int:
    """Samples on the train side of PKU-MMD's xsub."""
    cells = read_manifest(store).cells.values()
    return sum(cell.samples for cell in cells if cell.memberships.get("pkummd1/xsub") == "train")


def test_a_mixed_run_sees_all_samples_and_goes_on_after_an_interruption(
    options: Make, store: Path, pku: Path, tmp_path: Path
) -> None:
    also = (AlsoOptions(dataset="pkummd1", protocol="xsub", data=str(pku)),)
    whole = pretrain(options(tmp_path / "whole", "train.log_every=1", also=also))
    config, record = read_config(tmp_path / "whole" / "config.json"), read_run(tmp_path / "whole")
    assert [(source.dataset, source.protocol) for source in config.data.also] == [("pkummd1", "xsub")]
    assert (record.fingerprint, record.also) == (
        read_manifest(store).fingerprint,
        (read_manifest(pku).fingerprint,),
    )
    assert whole.steps == 2 * ((32 + _trained(pku)) // 8)
    first = pretrain(options(tmp_path / "cut", "train.epochs=1", "train.log_every=1", also=also))
    assert first.epochs == 1
    (tmp_path / "cut" / "config.json").write_bytes((tmp_path / "whole" / "config.json").read_bytes())
    resumed = pretrain(options(tmp_path / "cut", "train.log_every=1", also=also, resume=True))
    found, expected = (load_checkpoint(result.checkpoint).objective for result in (resumed, whole))
    assert all(bool((found[name] == value).all()) for name, value in expected.items())
    assert find_finished_run(options(tmp_path / "cut", "train.log_every=1", also=also)) is not None


def test_weights_and_counts_decide_what_an_epoch_takes(options: Make, pku: Path, tmp_path: Path) -> None:
    choices: list[tuple[dict[str, float], int]] = [({"weight": 2.0}, 2 * _trained(pku)), ({"samples": 11}, 11)]
    for number, (fields, taken) in enumerate(choices):
        also = (AlsoOptions.model_validate({"dataset": "pkummd1", "protocol": "xsub", "data": str(pku), **fields}),)
        result = pretrain(options(tmp_path / str(number), "train.epochs=1", "data.samples=20", also=also))
        assert result.steps == (20 + taken) // 8
        assert len(read_log(tmp_path / str(number))) == 1


def test_other_data_in_a_further_source_is_refused(options: Make, pku: Path, tmp_path: Path) -> None:
    other = _pku(tmp_path, 1)
    also = (AlsoOptions(dataset="pkummd1", protocol="xsub", data=str(pku)),)
    pretrain(options(tmp_path / "run", also=also))
    before = (tmp_path / "run" / LOG).read_bytes()
    for resume in (False, True):
        changed = options(
            tmp_path / "run", also=(AlsoOptions(dataset="pkummd1", protocol="xsub", data=str(other)),), resume=resume
        )
        with pytest.raises(CheckpointError) as caught:
            pretrain(changed)
        for data in (pku, other):
            assert read_manifest(data).fingerprint in str(caught.value)
    assert (tmp_path / "run" / LOG).read_bytes() == before


def test_the_command_mixes_data_sets(
    store: Path, pku: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pretrain", "pcm3pp+tiny+no-post", "--plain", "--data", str(store), "--set", "train.epochs=1"]
    words += ["--also", f"pkummd1/xsub=0.5@{pku}", "--run", str(tmp_path / "run"), "--device", "cpu"]
    words += ["--dataset", "ntu60", "--protocol", "xview", "--loader", "stream", "--workers", "2"]
    assert main(words) == 0
    assert "loader: stream, as asked for" in capsys.readouterr().err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"]["also"] == [
        {"dataset": "pkummd1", "protocol": "xsub", "weight": 0.5, "samples": None, "classes": None}
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pkummd1", "found 'pkummd1', expected DATASET/PROTOCOL[=WEIGHT][@DATA]"),
        ("pkummd1/xsub=", "found 'pkummd1/xsub=', expected DATASET/PROTOCOL[=WEIGHT][@DATA]"),
        ("pkummd1/xsub=0", "found '0': Input should be greater than 0"),
        ("pkummd1/xsub=-1", "found '-1': Input should be greater than 0"),
        ("pkummd1/xsub=x", "found 'x': Input should be a valid number"),
        ("/", "found '/', expected DATASET/PROTOCOL[=WEIGHT][@DATA]"),
    ],
)
def test_a_source_that_cannot_be_read_is_refused(text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["pretrain", "pcm3pp", "--plain", "--data", "d", "--dataset", "ntu60", "--protocol", "xview", "--run", "r"]
    with pytest.raises(SystemExit) as caught:
        main([*words, "--also", text])
    assert caught.value.code == 2
    assert f"argument --also: {message}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("also", "message"),
    [
        ({"dataset": "ntu61", "protocol": "xsub"}, "unknown data set 'ntu61'"),
        ({"dataset": "pkummd1", "protocol": "xset"}, "pkummd1 has no protocol 'xset'"),
        ({"dataset": "ntu60", "protocol": "xview"}, "which ntu60 xview train holds too"),
    ],
)
def test_a_source_that_makes_no_sense_is_refused(
    options: Make, tmp_path: Path, also: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        pretrain(options(tmp_path / "run", also=(AlsoOptions.model_validate(also),)))
    assert not (tmp_path / "run").exists()


def test_the_help_of_pretraining_names_loaders_and_mixtures(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["pretrain", "--help"])
    text = capsys.readouterr().out
    for word in ("--loader {auto,resident,stream,dali}", "--also", "--cache"):
        assert word in text
