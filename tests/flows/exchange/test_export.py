"""`skelstream export`: a folder that a stranger can use, whole or not at all."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from flows.build import build_encoder
from flows.cli.main import main
from flows.config import read_config
from flows.exchange import export as export_module
from flows.exchange.export import export
from flows.options import PretrainOptions
from flows.pretrain import pretrain
from models.exchange.export import load_encoder, read_header
from models.training.checkpoint import encoder_state, latest_checkpoint, load_checkpoint
from shards.errors import CheckpointError, ConfigError
from shards.files import sha256_file
from shards.manifest import read_manifest

FILES = {"encoder.safetensors", "encoder.onnx", "README.md", "config.json"}


@pytest.fixture(scope="module")
def exported(scored: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(scored, None, tmp_path_factory.mktemp("exported") / "export")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_exported_encoder_is_that_of_the_last_checkpoint_in_torch_and_in_onnx(exported: Path, run: Path) -> None:
    path = latest_checkpoint(run)
    assert path is not None
    state = encoder_state(load_checkpoint(path), "joint")
    reference = build_encoder(read_config(run / "config.json"), state, "joint").eval()
    x = torch.randn(3, 16, 150, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(exported / "encoder.onnx", providers=["CPUExecutionProvider"])
    feature, frames = session.run(["feature", "frames"], {"x": x.numpy()})
    with torch.no_grad():
        expected = reference(x)
        loaded = load_encoder(exported)(x)
    assert torch.equal(loaded.feature, expected.feature)
    assert loaded.frames is not None
    assert torch.equal(loaded.frames, expected.frames)
    assert np.abs(frames - loaded.frames.numpy()).max() < 1e-5
    assert np.array_equal(feature, frames[:, -1])


def test_the_folder_holds_what_the_encoder_was_trained_on(exported: Path, run: Path, store: Path) -> None:
    assert {path.name for path in exported.iterdir()} == FILES
    assert (exported / "config.json").read_bytes() == (run / "config.json").read_bytes()
    fingerprint = read_manifest(store).fingerprint
    source = {"stream": "joint", "frames": 16, "recipe": "pcm3", "fingerprint": fingerprint}
    assert read_header(exported).provenance.model_dump() == source
    properties = {p.key: p.value for p in onnx.load(exported / "encoder.onnx").metadata_props}
    assert properties == {name: str(value) for name, value in source.items()}


def test_the_lines_of_the_card_load_the_encoder(exported: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)
    x = torch.ones(2, 5, 150)
    features = []
    for block, given in zip(blocks, (x, x.numpy()), strict=True):
        assert len([line for line in block.splitlines() if line]) == 3
        names = {"x": given}
        exec(block.replace("DIR", str(exported)), names)
        features.append(torch.as_tensor(names["feature"]))
    assert features[0].shape == (2, 16)
    assert (features[0] - features[1]).abs().max() < 1e-5


def test_the_card_says_what_the_weights_are(exported: Path, run: Path, store: Path) -> None:
    card = (exported / "README.md").read_text()
    path = latest_checkpoint(run)
    assert path is not None
    record, checkpoint = json.loads((run / "run.json").read_text()), load_checkpoint(path)
    for fact in (
        "# pcm3pp+tiny+no-post encoder, ntu60 xview, joint stream",
        f"recipe pcm3, fingerprint {read_manifest(store).fingerprint}",
        f"| trained | {checkpoint.epoch} of {checkpoint.epoch} epochs, {checkpoint.step} steps of 8 samples |",
        f"{path.name}, SHA-256 {sha256_file(path)}",
        f"revision {record['revision']}",
        f"torch {torch.__version__}",
        "Preprocessing recipe `pcm3`, version 1:\n   choose bodies; cut; fill; centre; align; align (",
        "flattened in the order V, C, M",
        "NTU RGB+D, PKU-MMD and Northwestern-UCLA are for research",
        '"hidden": 8',
    ):
        assert fact in card
    assert str(run) not in card  # nothing of the machine it was made on
    assert str(store) not in card


def test_the_card_has_the_scores_of_this_checkpoint_and_of_no_other(
    scored: Path, exported: Path, tmp_path: Path
) -> None:
    card = (exported / "README.md").read_text()
    rows = json.loads((scored / "results" / "retrieval.json").read_text())["results"]
    cells = [f"{100 * row['scores']['accuracy']:.1f} %" for row in rows]
    assert f"| retrieval |  | {' | '.join(cells)} | official gru |" in card
    assert "| task | setting | trained | random encoder | coordinates | options |" in card
    assert "another checkpoint" not in card
    shutil.copytree(scored, tmp_path / "run")
    results = tmp_path / "run" / "results" / "retrieval.json"
    results.write_text(results.read_text().replace(rows[0]["checkpoint_sha256"], "0" * 64))
    other = (export(tmp_path / "run", None, tmp_path / "out") / "README.md").read_text()
    assert "| task | setting | random encoder | coordinates | options |" in other
    assert "belong to another checkpoint and are left out: 1." in other


def test_the_same_run_gives_the_same_bytes_and_finds_them_done(scored: Path, exported: Path, tmp_path: Path) -> None:
    out = export(scored, None, tmp_path / "out")
    assert content(out) == content(exported)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    export(scored, None, out)
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_is_filled_and_one_with_other_content_stays(scored: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert {path.name for path in export(scored, None, tmp_path / "empty").iterdir()} == FILES
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"full: found other content \(.*thesis.txt\), expected an empty folder"):
        export(scored, None, tmp_path / "full")
    assert content(tmp_path / "full") == {"thesis.txt": b"mine"}
    with pytest.raises(ConfigError, match="found a file, expected a folder"):
        export(scored, None, tmp_path / "full" / "thesis.txt")


def test_a_failure_leaves_nothing(scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_module, "encoder_model", fail)
    with pytest.raises(OSError, match="No space left"):
        export(scored, None, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_named_checkpoint_must_be_of_this_run(
    options: Callable[..., PretrainOptions], run: Path, tmp_path: Path
) -> None:
    first = sorted((run / "checkpoints").glob("*.pt"))[0]
    card = (export(run, first, tmp_path / "first") / "README.md").read_text()
    checkpoint = load_checkpoint(first)
    assert f"| trained | {checkpoint.epoch} of " in card
    assert f" epochs, {checkpoint.step} steps" in card
    other = pretrain(options(tmp_path / "run", "objective.encoder.hidden=6")).checkpoint
    with pytest.raises(CheckpointError, match=r"another run: objective.encoder.hidden is 6 there and 8 here"):
        export(run, other, tmp_path / "other")


def test_a_run_without_a_checkpoint_is_refused(run: Path, tmp_path: Path) -> None:
    for name in ("config.json", "run.json"):
        shutil.copy(run / name, tmp_path / name)
    with pytest.raises(CheckpointError, match="found no checkpoint"):
        export(tmp_path, None, tmp_path / "out")


def test_the_command_exports_into_the_run_folder(
    scored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(scored, tmp_path / "run")
    assert main(["export", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'run' / 'export'}\n"
    assert {path.name for path in (tmp_path / "run" / "export").iterdir()} == FILES


def test_the_commands_import_nothing_heavy_before_they_run() -> None:
    code = (
        "import sys, flows.cli.exchange; print(sorted({'torch', 'onnx', 'safetensors', 'jinja2'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
