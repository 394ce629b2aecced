"""The safetensors file of an encoder: what goes in comes out, and nothing else is taken for it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from models.encoders.gru import GRUConfig, GRUEncoder
from models.exchange.export import Provenance, load_encoder, read_header, write_encoder
from shards.errors import CheckpointError

SOURCE = Provenance(stream="bone", frames=32, recipe="pcm3", fingerprint="0123abcd")


def _encoder(direction: str = "parallel_forward") -> GRUEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = GRUEncoder(GRUConfig.model_validate({"hidden": 8, "layers": 2, "direction": direction}))
        encoder(torch.randn(4, 6, 150))  # moves the running statistics
    return encoder


def _write(path: Path, encoder: GRUEncoder) -> None:
    write_encoder(path, encoder.config, encoder, SOURCE)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    _write(tmp_path / "encoder.safetensors", _encoder())
    return tmp_path / "encoder.safetensors"


@pytest.mark.parametrize("direction", ["parallel_forward", "bidirectional"])
def test_a_loaded_encoder_is_the_one_that_was_written(direction: str, tmp_path: Path) -> None:
    encoder, x = _encoder(direction), torch.randn(3, 5, 150)
    _write(tmp_path / "encoder.safetensors", encoder)
    loaded = load_encoder(tmp_path)
    assert loaded.config == encoder.config
    assert not loaded.training
    assert {n: t.tolist() for n, t in loaded.state_dict().items()} == {
        n: t.tolist() for n, t in encoder.state_dict().items()
    }
    assert isinstance(loaded, GRUEncoder)
    expected = encoder.eval()(x)
    assert torch.equal(loaded(x).feature, expected.feature)
    assert torch.equal(loaded(x).frames, expected.frames)


def test_the_folder_and_the_file_name_the_same_encoder(file: Path) -> None:
    x = torch.ones(1, 2, 150)
    assert torch.equal(load_encoder(file)(x).frames, load_encoder(str(file.parent))(x).frames)


def test_the_header_says_what_the_encoder_was_trained_on(file: Path) -> None:
    header = read_header(file)
    assert header.provenance == SOURCE
    assert header.encoder == GRUConfig(hidden=8, layers=2)


def test_equal_encoders_give_equal_bytes(file: Path, tmp_path: Path) -> None:
    _write(tmp_path / "again.safetensors", _encoder())
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()


def test_loading_draws_from_no_generator(file: Path) -> None:
    before = torch.get_rng_state()
    load_encoder(file)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loaded_encoder_does_not_change_with_its_file(file: Path) -> None:
    x = torch.ones(1, 3, 150)
    encoder = load_encoder(file)
    before = encoder(x).frames
    with file.open("r+b") as opened:
        opened.seek(-4000, 2)
        opened.write(b"\xff" * 4000)
    assert torch.equal(encoder(x).frames, before)


def _rewritten(file: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]) -> None:
    with safe_open(file, framework="pt") as opened:
        header = json.loads(opened.metadata()["skelstream"])
        state = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118 - no mapping
    change(header, state)
    save_file(state, file, metadata={"skelstream": json.dumps(header)})


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "is missing": (Path.unlink, "cannot be read"),
    "is cut": (lambda file: file.write_bytes(file.read_bytes()[:-7]), "cannot be read"),
    "is text": (lambda file: file.write_text("weights"), "cannot be read"),
    "has one other bit": (_flip, "found other numbers than were written"),
    "is another program's": (lambda file: save_file({"a": torch.ones(2)}, file), "another program"),
    "has a later version": (
        lambda file: _rewritten(file, lambda header, state: header.update(version=3)),
        "found encoder format 3, expected 2",
    ),
    "has another header": (
        lambda file: _rewritten(file, lambda header, state: header.pop("encoder")),
        "of another version of skelstream or of none",
    ),
    "lacks a tensor": (
        lambda file: _rewritten(file, lambda header, state: state.pop("layers.1.second.bias_hh_l0")),
        "found missing layers.1.second.bias_hh_l0; expected the 21 tensors",
    ),
    "has one tensor more": (
        lambda file: _rewritten(file, lambda header, state: state.update(extra=torch.ones(1))),
        "found unexpected extra;",
    ),
    "has another shape": (
        lambda file: _rewritten(file, lambda header, state: header["encoder"].update(hidden=9)),
        r"found layers.0.first.weight_ih_l0 of shape \(24, 150\), expected \(27, 150\)",
    ),
    "has another type": (
        lambda file: _rewritten(
            file, lambda header, state: state.update({"input_norm.bias": state["input_norm.bias"].half()})
        ),
        "found input_norm.bias of torch.float16, expected torch.float32",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_does_not_fit_is_one_clear_error(damage: str, file: Path) -> None:
    act, message = DAMAGES[damage]
    act(file)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_encoder(file)
    assert str(file) in str(caught.value)
