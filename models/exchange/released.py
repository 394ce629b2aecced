"""Released weight files of JHang2020/PCM3 and maoyunyao/CMD under our names.

Both repositories save {"epoch", "state_dict", "optimizer"}; the model's entries carry the prefix "module." when it ran
on several GPUs. PCM3 has one online encoder `encoder_q`, trained on one stream; CMD has three, `encoder_q`,
`encoder_q_motion` and `encoder_q_bone`, each with a key encoder and a queue of its own; it has no decoder and no
prompts.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from models.encoders.gru import GRUConfig
from models.exchange.export import check_tensors, encoder_from_state
from models.objectives.pcm3_names import from_reference_state
from models.objectives.pcm3pp import PCM3PPConfig
from models.torch_file import read_torch_file
from models.training.checkpoint import part_of_state
from shards.errors import CheckpointError
from shards.skeleton import Stream

Method = Literal["pcm3", "cmd"]
Shapes = dict[str, tuple[int, ...]]

_SUFFIXES: dict[Stream, str] = {"joint": "", "motion": "_motion", "bone": "_bone"}
_ENCODER = "online encoder"


@dataclass(frozen=True)
class Released:
    """What a released file holds of one stream.

    Attributes:
        config: sizes as found; everything else as published, since the file does not say it.
        objective: the state under our names, as far as the file has it; the encoder is always there.
        epoch: whole epochs trained; None when the file does not say.
        lacks: parts of `config`'s model that the file does not hold.
    """

    config: PCM3PPConfig
    objective: dict[str, Tensor]
    epoch: int | None
    lacks: tuple[str, ...]


def read_released(path: Path, method: Method, stream: Stream) -> Released:
    """Read a file without running any code of it, and verify it by name, shape and a forward pass.

    Args:
        path: as released, or the model's state dict alone.
        method: whose file it is.
        stream: which encoder of CMD; for PCM3, whose files hold one, what it was trained on.

    Raises:
        CheckpointError: as of `read_torch_file`; tensors that are missing, unexpected, of another shape, or not finite,
            or sizes that no model here has.
    """
    state, epoch = _read(path)
    suffix = _SUFFIXES[stream] if method == "cmd" else ""
    streams = {other: _groups(state, method, other) for other in (_SUFFIXES.values() if method == "cmd" else ("",))}
    wanted = {
        name: shape
        for other, groups in streams.items()
        for group, shapes in groups.items()
        if state.keys() & shapes.keys() or (group == _ENCODER and other == suffix)
        for name, shape in shapes.items()
    }
    check_tensors(state, wanted, str(path))
    _refuse_non_finite(path, state)
    groups = streams[suffix]
    # without the stream in it, a name of CMD is one of PCM3
    chosen = {
        name.replace(suffix, "", 1): state[name] for shapes in groups.values() for name in shapes if name in state
    }
    lacks = [group for group, shapes in groups.items() if not state.keys() & shapes.keys()]
    if method == "cmd":
        lacks.append("decoder")
    # cloned, because torch saves the whole memory that a view of it shares
    objective = {name: tensor.clone() for name, tensor in from_reference_state(chosen, stream=stream).items()}
    sizes = _Sizes.of(state, suffix)
    try:
        config = _config(sizes, method, stream)
    except ValidationError as error:
        raise CheckpointError(f"{path}: found tensors of {sizes}, expected sizes that a model here can have") from error
    _check_forward(path, config.encoder, part_of_state(objective, f"encoders.{stream}."))
    return Released(config=config, objective=objective, epoch=epoch, lacks=tuple(lacks))


@dataclass(frozen=True)
class _Sizes:
    """What the released code takes as options, read from the tensors that show it; 0 where they are missing."""

    inputs: int
    hidden: int
    layers: int
    feature: int
    queue: int
    decoder: int
    prompt: int

    @classmethod
    def of(cls, state: Mapping[str, Tensor], suffix: str) -> "_Sizes":
        def extent(name: str, axis: int) -> int:
            tensor = state.get(name)
            return 0 if tensor is None or tensor.dim() <= axis else tensor.shape[axis]

        gru = f"encoder_q{suffix}.encoder.gru"
        numbers = re.findall(rf"^{gru}\.\w+_l(\d+)(?:_reverse)?$", "\n".join(state), re.MULTILINE)
        return cls(
            inputs=extent(f"{gru}.weight_ih_l0", 1),
            hidden=extent(f"{gru}.weight_hh_l0", 1),
            layers=len(set(numbers)),
            feature=extent(f"encoder_q{suffix}.fc.2.weight", 0) or extent(f"queue{suffix}", 0),
            queue=extent(f"queue{suffix}", 1),
            decoder=extent("linear.0.weight", 0),
            prompt=extent("cl_prompt", 1),
        )


def _groups(state: Mapping[str, Tensor], method: Method, suffix: str) -> dict[str, Shapes]:
    """The parts of one stream's model, each with the names and shapes of its tensors."""
    sizes = _Sizes.of(state, suffix)
    groups = {
        _ENCODER: _encoder(f"encoder_q{suffix}", sizes),
        "projector": _projector(f"encoder_q{suffix}.fc", sizes),
        "key encoder": _encoder(f"encoder_k{suffix}", sizes),
        "key projector": _projector(f"encoder_k{suffix}.fc", sizes),
        "queue": {f"queue{suffix}": (sizes.feature, sizes.queue), f"queue_ptr{suffix}": (1,)},
    }
    if method == "pcm3":
        groups["decoder"] = _decoder(sizes)
        groups["prompts"] = {f"{name}_prompt": (1, sizes.prompt) for name in ("cl", "mp")}
        groups["prompts"] |= {f"{name}_prompt": (1, 1, sizes.inputs) for name in ("base", "mask", "recons", "mix")}
    return groups


def _encoder(prefix: str, sizes: _Sizes) -> Shapes:
    shapes: Shapes = {}
    for layer in range(sizes.layers):
        inputs = 2 * sizes.hidden if layer else sizes.inputs
        for reverse in ("", "_reverse"):
            shapes |= _gru(f"{prefix}.encoder.gru", f"_l{layer}{reverse}", inputs, sizes.hidden)
    return shapes | _norm(f"{prefix}.input_norm", sizes.inputs)


def _gru(prefix: str, suffix: str, inputs: int, hidden: int) -> Shapes:
    return {
        f"{prefix}.weight_ih{suffix}": (3 * hidden, inputs),
        f"{prefix}.weight_hh{suffix}": (3 * hidden, hidden),
        f"{prefix}.bias_ih{suffix}": (3 * hidden,),
        f"{prefix}.bias_hh{suffix}": (3 * hidden,),
    }


def _linear(prefix: str, inputs: int, outputs: int) -> Shapes:
    return {f"{prefix}.weight": (outputs, inputs), f"{prefix}.bias": (outputs,)}


def _norm(prefix: str, width: int) -> Shapes:
    names = ("weight", "bias", "running_mean", "running_var")
    return {f"{prefix}.{name}": (width,) for name in names} | {f"{prefix}.num_batches_tracked": ()}


def _projector(prefix: str, sizes: _Sizes) -> Shapes:
    features = 2 * sizes.hidden
    return _linear(f"{prefix}.0", features, features) | _linear(f"{prefix}.2", features, sizes.feature)


def _decoder(sizes: _Sizes) -> Shapes:
    width = sizes.decoder
    shapes = _linear("linear.0", 2 * sizes.hidden, width) | _norm("linear.1", width) | _linear("linear.3", width, width)
    for layer in range(2):
        shapes |= _gru("recons_decoder.decoder", f"_l{layer}", width, width)
    return shapes | _linear("recons_decoder.reconstruction", width, sizes.inputs)


def _config(sizes: _Sizes, method: Method, stream: Stream) -> PCM3PPConfig:
    encoder = GRUConfig(hidden=sizes.hidden, layers=sizes.layers, input_size=sizes.inputs, prompt_place="before_norm")
    defaults = PCM3PPConfig()
    config = PCM3PPConfig(
        encoder=encoder,
        feature_dim=sizes.feature or defaults.feature_dim,
        queue_size=sizes.queue or defaults.queue_size,
        prompt_width=sizes.prompt // 2 or None,
        decoder_width=sizes.decoder or None,
        pairs=("base", "masked", "predicted", "mix"),
    )
    if method == "pcm3" and stream == "joint":
        return config
    if method == "pcm3":  # its file has prompts, but they are not used on these streams
        return config.model_copy(update={"guidance": False, "distillation_weight": 0.0})
    # what is left of CMD in one stream: its distillation goes from stream to stream
    alone = {"pairs": ("base",), "prompts": False, "prediction_weight": 0.0, "distillation_weight": 0.0}
    return config.model_copy(update=alone)


def _read(path: Path) -> tuple[dict[str, Tensor], int | None]:
    """The state dict without the prefix of parallel runs, and the epoch beside it."""
    payload = read_torch_file(path, "weights that torch.save wrote")
    if not isinstance(payload, dict):
        raise CheckpointError(f"{path}: found a {type(payload).__name__}, expected a dict with 'state_dict'")
    state = payload.get("state_dict", payload)
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        found = ", ".join(sorted(map(str, payload))[:8]) or "nothing"
        raise CheckpointError(f"{path}: found the entries {found}, expected 'state_dict', or a state dict of tensors")
    epoch = payload.get("epoch")
    whole = epoch if isinstance(epoch, int) and not isinstance(epoch, bool) and epoch >= 0 else None
    return {str(name).removeprefix("module."): tensor for name, tensor in state.items()}, whole


def _refuse_non_finite(path: Path, state: Mapping[str, Tensor]) -> None:
    bad = sorted(name for name, tensor in state.items() if not tensor.isfinite().all())
    if bad:
        raise CheckpointError(f"{path}: found NaN or infinity in {', '.join(bad)}, expected finite numbers")


@torch.no_grad()
def _check_forward(path: Path, config: GRUConfig, state: Mapping[str, Tensor]) -> None:
    """Refuse an encoder whose features of a fixed input are not finite, such as by a negative running variance."""
    encoder = encoder_from_state(config, state, str(path)).eval()
    x = torch.sin(torch.arange(2 * 16 * config.input_size, dtype=torch.float32)).view(2, 16, config.input_size)
    if not encoder(x).feature.isfinite().all():
        raise CheckpointError(f"{path}: found NaN or infinity in the features of a fixed input, expected finite ones")
