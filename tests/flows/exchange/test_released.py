"""`skelstream import-checkpoint`: a run folder that every later command takes as one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flows.cli.main import main
from flows.config import read_config
from flows.evaluate import evaluate
from flows.exchange.export import export
from flows.exchange.released import import_released
from flows.options import EvaluateOptions, ImportOptions, PretrainOptions
from flows.pages.report import write_report
from flows.pretrain import pretrain
from models.training.checkpoint import encoder_state, load_checkpoint
from shards.errors import CheckpointError, ConfigError
from shards.files import sha256_file
from shards.manifest import read_manifest

HIDDEN, QUEUE = 8, 256


def _encoder(prefix: str) -> dict[str, Tensor]:
    """An encoder and its projector by the released names, full of random numbers."""
    state = {}
    for layer in range(3):
        for end in (f"l{layer}", f"l{layer}_reverse"):
            gru = f"{prefix}.encoder.gru"
            state[f"{gru}.weight_ih_{end}"] = torch.randn(3 * HIDDEN, 2 * HIDDEN if layer else 150) / 4
            state[f"{gru}.weight_hh_{end}"] = torch.randn(3 * HIDDEN, HIDDEN) / 4
            state |= {f"{gru}.bias_{kind}_{end}": torch.randn(3 * HIDDEN) for kind in ("ih", "hh")}
    for name in ("weight", "bias", "running_mean"):
        state[f"{prefix}.input_norm.{name}"] = torch.randn(150)
    state[f"{prefix}.input_norm.running_var"] = torch.rand(150) + 0.5
    state[f"{prefix}.input_norm.num_batches_tracked"] = torch.tensor(7)
    for number, width in ((0, 2 * HIDDEN), (2, 128)):
        state |= {f"{prefix}.fc.{number}.weight": torch.randn(width, 2 * HIDDEN)}
        state |= {f"{prefix}.fc.{number}.bias": torch.randn(width)}
    return state


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """The state of a CMD model."""
    state: dict[str, Tensor] = {}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for suffix in ("", "_motion", "_bone"):
            state |= _encoder(f"encoder_q{suffix}") | _encoder(f"encoder_k{suffix}")
            state[f"queue{suffix}"] = torch.randn(128, QUEUE)
            state[f"queue_ptr{suffix}"] = torch.zeros(1, dtype=torch.int64)
    return state


@pytest.fixture(scope="module")
def cmd(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("released") / "cmd.pth.tar"
    torch.save({"epoch": 451, "state_dict": weights, "optimizer": {"state": {}, "param_groups": []}}, path)
    return path


@pytest.fixture(scope="module")
def pruned(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of PCM3 with nothing but the online encoder and its projector, and no epoch."""
    path = tmp_path_factory.mktemp("released") / "pcm3.pth.tar"
    torch.save({n: t for n, t in weights.items() if n.startswith("encoder_q.")}, path)
    return path


def ask(file: Path, run: Path, store: Path, **fields: Any) -> ImportOptions:
    known = {"method": "cmd", "dataset": "ntu60", "protocol": "xview", "stream": "bone"}
    return ImportOptions(**{**known, **fields}, file=file, run=run, data=store)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_imported_weights_can_be_evaluated_reported_and_exported(
    cmd: Path, weights: dict[str, Tensor], store: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    import_released(ask(cmd, run, store))
    rows = evaluate(EvaluateOptions(run=run, tasks=("retrieval",), device="cpu"))
    assert [row.subject for row in rows] == ["trained", "random encoder", "coordinates"]
    assert {row.stream for row in rows} == {"bone"}
    assert rows[0].checkpoint == "epoch_0451.pt"
    state = encoder_state(load_checkpoint(run / "checkpoints" / "epoch_0451.pt"), "bone")
    assert torch.equal(state["input_norm.running_mean"], weights["encoder_q_bone.input_norm.running_mean"])
    write_report([run], tmp_path / "report.html")
    card = (export(run, None, tmp_path / "export") / "README.md").read_text()
    assert f"imported from `cmd.pth.tar` of maoyunyao/CMD\n(SHA-256 {sha256_file(cmd)}), 451 epochs" in card
    assert "| trained | 451" not in card
    assert "3. Bones:" in card


def test_the_run_records_where_its_weights_come_from(cmd: Path, store: Path, tmp_path: Path) -> None:
    said = import_released(ask(cmd, tmp_path / "run", store))
    record = json.loads((tmp_path / "run" / "import.json").read_text())
    assert record == {
        "repository": "maoyunyao/CMD",
        "file": "cmd.pth.tar",
        "sha256": sha256_file(cmd),
        "stream": "bone",
        "epoch": 451,
        "lacks": ["decoder"],
    }
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoints" / "epoch_0451.pt")
    assert checkpoint.meta["imported"] == record
    assert checkpoint.meta["fingerprint"] == read_manifest(store).fingerprint
    assert "68 tensors of maoyunyao/CMD, bone stream, 451 epochs" in said
    assert len(checkpoint.objective) == 68  # twice 24 of the GRU, 5 of the norm, 4 of the projector; 2 of the queue
    assert "the file does not hold: decoder" in said
    config = read_config(tmp_path / "run" / "config.json")
    assert (config.method, config.objective.queue_size, config.objective.encoder.hidden) == ("cmd", QUEUE, HIDDEN)
    assert (config.train.batch_size, config.train.lr) == (64, 0.01)


def test_what_a_pruned_file_does_not_say_is_told(pruned: Path, store: Path, tmp_path: Path) -> None:
    said = import_released(ask(pruned, tmp_path / "run", store, method="pcm3", stream="joint"))
    assert "joint stream, an unknown number of epochs" in said
    assert "the file does not hold: key encoder, key projector, queue, decoder, prompts" in said
    assert (tmp_path / "run" / "checkpoints" / "epoch_0000.pt").is_file()
    assert read_config(tmp_path / "run" / "config.json").objective.pairs == ("base", "masked", "predicted", "mix")


def test_imported_weights_are_no_run_to_go_on_with(cmd: Path, store: Path, tmp_path: Path) -> None:
    import_released(ask(cmd, tmp_path / "run", store))
    options = PretrainOptions(
        method="pcm3", data=str(store), dataset="ntu60", protocol="xview", run=tmp_path / "run", resume=True
    )
    with pytest.raises(ConfigError, match="found imported weights, expected a run trained here"):
        pretrain(options)


def test_importing_again_changes_nothing_even_after_an_evaluation(cmd: Path, store: Path, tmp_path: Path) -> None:
    options = ask(cmd, tmp_path / "run", store)
    said = import_released(options)
    (tmp_path / "run" / "results").mkdir()
    (tmp_path / "run" / "results" / "linear.json").write_text("scores")
    before = content(tmp_path / "run")
    assert import_released(options) == said
    assert content(tmp_path / "run") == before


def test_a_folder_with_anything_else_stays_as_it_is(cmd: Path, pruned: Path, store: Path, tmp_path: Path) -> None:
    import_released(ask(cmd, tmp_path / "run", store))
    before = content(tmp_path / "run")
    for other in (
        ask(cmd, tmp_path / "run", store, stream="motion"),
        ask(pruned, tmp_path / "run", store, method="pcm3"),
    ):
        with pytest.raises(ConfigError, match="found other content"):
            import_released(other)
        assert content(tmp_path / "run") == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_bad_file_or_protocol_leaves_no_run(cmd: Path, store: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.pth.tar").write_text("no weights")
    with pytest.raises(CheckpointError, match=r"bad.pth.tar: found"):
        import_released(ask(tmp_path / "bad.pth.tar", tmp_path / "run", store))
    with pytest.raises(ConfigError, match="ntu60 has no protocol 'xset', expected xsub or xview"):
        import_released(ask(cmd, tmp_path / "run", store, protocol="xset"))
    assert not (tmp_path / "run").exists()


def test_the_command_imports(cmd: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", str(store), "--dataset", "ntu60", "--protocol", "xview", "--stream", "motion"]
    assert main(["import-checkpoint", "cmd", str(cmd), "--run", str(tmp_path / "run"), *data]) == 0
    assert "motion stream, 451 epochs" in capsys.readouterr().out
    assert read_config(tmp_path / "run" / "config.json").data.stream == "motion"
