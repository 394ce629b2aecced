"""Files as PCM3 and CMD release them, against the released models' own way of running: a GRU, frame by frame."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.exchange.export import encoder_from_state
from models.exchange.released import Released, read_released
from models.objectives.pcm3pp import PCM3PP
from shards.errors import CheckpointError

HIDDEN, INPUTS, FEATURE, QUEUE, WIDTH = 8, 150, 6, 32, 5


class _Recurrence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(INPUTS, HIDDEN, num_layers=3, bidirectional=True, batch_first=True)


class _Encoder(nn.Module):
    """Modules in the released order and by the released names."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = _Recurrence()
        self.fc = nn.Sequential(nn.Linear(2 * HIDDEN, 2 * HIDDEN), nn.ReLU(), nn.Linear(2 * HIDDEN, FEATURE))
        self.input_norm = nn.BatchNorm1d(INPUTS)
        with torch.no_grad():
            self.input_norm.running_mean.normal_()  # type: ignore[union-attr]  # None only without tracking
            self.input_norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]  # None only without tracking

    @torch.no_grad()
    def features(self, x_NTD: Tensor) -> Tensor:
        """One frame at a time, so that both "directions" run forward."""
        self.eval()
        normalised, state, outputs = self.input_norm(x_NTD.transpose(1, 2)).transpose(1, 2), None, []
        for frame in range(x_NTD.shape[1]):
            output, state = self.encoder.gru(normalised[:, frame : frame + 1], state)
            outputs.append(output)
        return torch.cat(outputs, 1)


class _Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.GRU(WIDTH, WIDTH, num_layers=2, batch_first=True)
        self.reconstruction = nn.Linear(WIDTH, INPUTS)


class _PCM3(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name, shape in (("cl", (1, 4)), ("mp", (1, 4)), *((n, (1, 1, INPUTS)) for n in PROMPTS)):
            self.register_parameter(f"{name}_prompt", nn.Parameter(torch.randn(shape)))
        self.encoder_q, self.encoder_k = _Encoder(), _Encoder()
        self.linear = nn.Sequential(
            nn.Linear(2 * HIDDEN, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)
        )
        self.recons_decoder = _Decoder()
        self.register_buffer("queue", torch.randn(FEATURE, QUEUE))
        self.register_buffer("queue_ptr", torch.tensor([8]))


class _CMD(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for suffix in STREAMS.values():
            setattr(self, f"encoder_q{suffix}", _Encoder())
            setattr(self, f"encoder_k{suffix}", _Encoder())
            self.register_buffer(f"queue{suffix}", torch.randn(FEATURE, QUEUE))
            self.register_buffer(f"queue_ptr{suffix}", torch.zeros(1, dtype=torch.int64))


PROMPTS = ("base", "mask", "recons", "mix")
STREAMS: dict[Any, str] = {"joint": "", "motion": "_motion", "bone": "_bone"}


def _model(kind: type[nn.Module]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return kind()


def _save(path: Path, state: dict[str, Tensor], prefix: str = "") -> Path:
    """As the released training code saves it, after a step of its optimiser."""
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.02, momentum=0.9)
    parameter.sum().backward()
    optimizer.step()
    named = {prefix + name: tensor for name, tensor in state.items()}
    torch.save({"epoch": 451, "state_dict": named, "optimizer": optimizer.state_dict()}, path)
    return path


def _features(released: Released, x: Tensor, stream: str = "joint") -> Tensor:
    """Of every frame."""
    prefix = f"encoders.{stream}."
    state = {n.removeprefix(prefix): t for n, t in released.objective.items() if n.startswith(prefix)}
    with torch.no_grad():
        frames = encoder_from_state(released.config.encoder, state, "test").eval()(x).frames
    assert frames is not None
    return frames


X = torch.randn(3, 11, INPUTS, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def pcm3(tmp_path: Path) -> Path:
    return _save(tmp_path / "checkpoint_0450.pth.tar", _model(_PCM3).state_dict())


@pytest.fixture
def cmd(tmp_path: Path) -> Path:
    return _save(tmp_path / "checkpoint_0450.pth.tar", _model(_CMD).state_dict())


def test_the_encoder_of_pcm3_gives_the_features_of_the_released_loop(pcm3: Path) -> None:
    released = read_released(pcm3, "pcm3", "joint")
    assert (_features(released, X) - _model(_PCM3).encoder_q.features(X)).abs().max() < 1e-6


def test_everything_in_a_file_of_pcm3_has_its_place_in_our_objective(pcm3: Path) -> None:
    released, reference = read_released(pcm3, "pcm3", "joint"), _model(_PCM3).state_dict()
    PCM3PP(released.config).load_state_dict(released.objective)
    assert len(released.objective) == len(reference)
    assert (released.epoch, released.lacks) == (451, ())
    assert torch.equal(released.objective["queue.keys"], reference["queue"].T)
    assert torch.equal(released.objective["queue.position"], torch.tensor([8]))
    assert torch.equal(released.objective["prompts.predicted"], reference["recons_prompt"].flatten())
    assert torch.equal(released.objective["key_projector.layers.2.bias"], reference["encoder_k.fc.2.bias"])
    config = released.config
    assert (config.queue_size, config.feature_dim, config.decoder_width, config.feature_prompt_width) == (32, 6, 5, 2)
    assert config.encoder.prompt_place == "before_norm"


def test_the_bone_and_motion_variant_of_pcm3_has_no_guidance_and_no_distillation(pcm3: Path) -> None:
    joint, bone = (read_released(pcm3, "pcm3", stream).config for stream in ("joint", "bone"))
    assert (joint.guidance, joint.distillation_weight) == (True, 1.0)
    assert bone == joint.model_copy(update={"guidance": False, "distillation_weight": 0.0})


def test_the_prefix_of_parallel_runs_changes_nothing(pcm3: Path, tmp_path: Path) -> None:
    prefixed = _save(tmp_path / "parallel.pth.tar", _model(_PCM3).state_dict(), prefix="module.")
    assert _equal(read_released(prefixed, "pcm3", "joint"), read_released(pcm3, "pcm3", "joint"))


def test_a_state_dict_alone_says_no_epoch(pcm3: Path, tmp_path: Path) -> None:
    torch.save(_model(_PCM3).state_dict(), tmp_path / "safe.pt")
    alone = read_released(tmp_path / "safe.pt", "pcm3", "joint")
    assert alone.epoch is None
    assert _equal(alone, read_released(pcm3, "pcm3", "joint"))


@pytest.mark.parametrize("stream", STREAMS)
def test_the_stream_chooses_the_encoder_of_cmd(cmd: Path, stream: Any) -> None:
    released, reference = read_released(cmd, "cmd", stream), _model(_CMD)
    encoder = getattr(reference, f"encoder_q{STREAMS[stream]}")
    assert (_features(released, X, stream) - encoder.features(X)).abs().max() < 1e-6
    assert torch.equal(released.objective["queue.keys"], getattr(reference, f"queue{STREAMS[stream]}").T)
    assert len(released.objective) == len(reference.state_dict()) / 3


def test_what_cmd_does_not_have_is_said_and_not_made_up(cmd: Path) -> None:
    released = read_released(cmd, "cmd", "bone")
    assert released.lacks == ("decoder",)
    ours = PCM3PP(released.config, stream="bone").state_dict()
    assert {name.split(".")[0] for name in ours.keys() - released.objective.keys()} == {"decoder"}
    assert not released.objective.keys() - ours.keys()


def test_an_encoder_alone_is_enough(tmp_path: Path) -> None:
    state = {n: t for n, t in _model(_PCM3).state_dict().items() if n.startswith("encoder_q.") and ".fc." not in n}
    released = read_released(_save(tmp_path / "pruned.pth.tar", state), "pcm3", "joint")
    assert released.lacks == ("projector", "key encoder", "key projector", "queue", "decoder", "prompts")
    assert (_features(released, X) - _model(_PCM3).encoder_q.features(X)).abs().max() < 1e-6


def test_every_name_of_the_released_model_is_known(golden: Path, tmp_path: Path) -> None:
    """With a small length in the place of each published one, to be quick."""
    small = {1024: 8, 2048: 16, 3072: 24, 512: 4, 1536: 12, 256: 4, 128: 6, 64: 32, 150: 150, 1: 1}
    entries = json.loads((golden / "pcm3_forward.json").read_text())["parameters"]
    state = {}
    for entry in entries:
        whole = entry["name"].endswith(("num_batches_tracked", "queue_ptr"))
        state[entry["name"]] = torch.ones([small[n] for n in entry["shape"]], dtype=torch.int64 if whole else None)
    released = read_released(_save(tmp_path / "file.pth.tar", state), "pcm3", "joint")
    assert released.objective.keys() == PCM3PP(released.config).state_dict().keys()
    assert len(released.objective) == len(entries) == 93


def _equal(a: Released, b: Released) -> bool:
    names = a.objective.keys()
    return names == b.objective.keys() and all(torch.equal(a.objective[name], b.objective[name]) for name in names)


def _changed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def act(path: Path) -> None:
        state = _model(_PCM3).state_dict()
        change(state)
        _save(path, state)

    return act


def _flip(path: Path) -> None:
    """Change a byte of a weight."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda item: item.file_size)
    data = bytearray(path.read_bytes())
    data[largest.header_offset + largest.file_size // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "has another byte": (_flip, "found damaged data"),
    "is a list": (lambda path: torch.save([1, 2], path), "found a list, expected a dict"),
    "is something else": (lambda path: torch.save({"epoch": 3}, path), "found the entries epoch, expected"),
    "is a classifier": (
        _changed(lambda state: state.update({"encoder_q.fc.weight": torch.ones(60, 16)})),
        "found unexpected encoder_q.fc.weight;",
    ),
    "lacks two names": (
        _changed(lambda state: (state.pop("encoder_q.encoder.gru.bias_hh_l1"), state.pop("mix_prompt"))),
        "found missing encoder_q.encoder.gru.bias_hh_l1, mix_prompt; expected the 93 tensors",
    ),
    "has no encoder": (
        _changed(lambda state: [state.pop(name) for name in list(state) if name.startswith("encoder_q")]),
        "found missing encoder_q.*input_norm.weight",
    ),
    "has another shape": (
        _changed(lambda state: state.update({"encoder_q.input_norm.bias": torch.ones(75)})),
        r"found encoder_q.input_norm.bias of shape \(75,\), expected \(150,\)",
    ),
    "has other numbers": (
        _changed(lambda state: state.update(queue_ptr=torch.ones(1))),
        "found queue_ptr of torch.float32, expected torch.int64",
    ),
    "holds NaN": (
        _changed(lambda state: state["recons_decoder.decoder.bias_ih_l1"].fill_(float("nan"))),
        "found NaN or infinity in recons_decoder.decoder.bias_ih_l1",
    ),
    "has a queue larger than any": (
        _changed(lambda state: state.update(queue=torch.ones(1, 1).expand(FEATURE, (1 << 24) + 1))),
        "found tensors of .*, expected sizes that a model here can have",
    ),
    "has a negative variance": (
        _changed(lambda state: state["encoder_q.input_norm.running_var"].fill_(-1)),
        "found NaN or infinity in the features of a fixed input",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_does_not_fit_is_one_clear_error(damage: str, pcm3: Path) -> None:
    act, message = DAMAGES[damage]
    act(pcm3)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_released(pcm3, "pcm3", "joint")
    assert str(pcm3) in str(caught.value)


def test_a_file_of_the_other_method_is_refused(pcm3: Path, cmd: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="found unexpected encoder_k_bone"):
        read_released(cmd, "pcm3", "joint")
    with pytest.raises(CheckpointError, match="found missing encoder_q_bone"):
        read_released(_save(tmp_path / "pcm3.pth.tar", _model(_PCM3).state_dict()), "cmd", "bone")
