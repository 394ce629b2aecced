"""An encoder as one safetensors file that needs nothing else to be loaded.

from models.exchange.export import load_encoder
encoder = load_encoder("RUN/export")
feature, frames = encoder(x)  # x (N, T, V*C*M) float32
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import PositiveInt, ValidationError
from torch import Tensor

from models.encoders.encoder import AnyEncoderConfig, Encoder, EncoderConfig
from shards.errors import CheckpointError
from shards.files import write_atomic
from shards.frozen import Frozen
from shards.skeleton import Stream

FORMAT_VERSION = 2
FILE = "encoder.safetensors"
# one entry alone: safetensors 0.8 writes several in a random order, and equal encoders must give equal bytes
_KEY = "skelstream"
# in the names of whole numbers, here and in released files
_COUNTERS = ("num_batches_tracked", "queue_ptr")


class Provenance(Frozen):
    """What an encoder was trained on, and so what it expects.

    Attributes:
        stream: "joint", "bone" or "motion".
        frames: T of the views it saw; other lengths work, but it has not met them.
        recipe: preprocessing recipe of the store.
        fingerprint: of the store.
    """

    stream: Stream
    frames: PositiveInt
    recipe: str
    fingerprint: str


class Header(Frozen):
    """The text of an encoder file.

    Attributes:
        version: of this format.
        encoder: its shape.
        provenance: what it was trained on.
        sha256: of the tensors, see `_digest`; safetensors itself has no checksum.
    """

    version: int
    encoder: AnyEncoderConfig
    provenance: Provenance
    sha256: str


def write_encoder(path: Path, config: EncoderConfig, encoder: Encoder, provenance: Provenance) -> None:
    """Write an encoder of these options, whole or not at all; equal encoders give equal bytes."""
    from safetensors.torch import save

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    header = Header(version=FORMAT_VERSION, encoder=config, provenance=provenance, sha256=_digest(state))
    write_atomic(path, save(state, metadata={_KEY: header.model_dump_json()}))


def load_encoder(path: Path | str) -> Encoder:
    """The encoder of `skelstream export`, in evaluation mode, on the CPU.

    Args:
        path: the exported folder, or its encoder.safetensors.

    Raises:
        CheckpointError: no such file, damaged, of another program or version, or with other tensors than it names.
    """
    file = _file(path)
    header, state = _read(file)
    encoder = encoder_from_state(header.encoder, state, str(file))
    if _digest(state) != header.sha256:
        raise CheckpointError(f"{file}: found other numbers than were written, expected an undamaged file")
    return encoder.eval()


def read_header(path: Path | str) -> Header:
    """What an exported encoder is: its shape and what it was trained on. Errors as of `load_encoder`."""
    return _read(_file(path))[0]


def encoder_from_state(config: EncoderConfig, state: Mapping[str, Tensor], where: str) -> Encoder:
    """The encoder with these tensors; no generator is drawn from.

    Args:
        config: its shape.
        state: as of `Encoder.state_dict`.
        where: for the error, the file of the tensors.

    Raises:
        CheckpointError: a tensor is missing, unexpected, or of another shape or type.
    """
    with torch.device("meta"):
        encoder = config.build()
    check_tensors(state, {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}, where)
    # copied, because tensors that were read may be mapped from their file
    encoder.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, assign=True)
    return encoder


def check_tensors(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Compare a state with the names and shapes that it must have; numbers are float32, counters int64.

    Raises:
        CheckpointError: all names that are missing or unexpected, or the first tensor that does not fit.
    """
    missing, unexpected = sorted(shapes.keys() - state.keys()), sorted(state.keys() - shapes.keys())
    if missing or unexpected:
        lists = (("missing", missing), ("unexpected", unexpected))
        found = "; ".join(f"{what} {', '.join(names)}" for what, names in lists if names)
        raise CheckpointError(f"{where}: found {found}; expected the {len(shapes)} tensors of this model")
    for name, shape in shapes.items():
        tensor = state[name]
        if tuple(tensor.shape) != shape:
            raise CheckpointError(f"{where}: found {name} of shape {tuple(tensor.shape)}, expected {shape}")
        dtype = torch.int64 if any(part in name for part in _COUNTERS) else torch.float32
        if tensor.dtype != dtype:
            raise CheckpointError(f"{where}: found {name} of {tensor.dtype}, expected {dtype}")


def _file(path: Path | str) -> Path:
    path = Path(path)
    return path / FILE if path.is_dir() else path


def _read(path: Path) -> tuple[Header, dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            state = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: found a file that cannot be read ({error}), expected the {FILE} of `skelstream export`"
        ) from error
    if text is None:
        raise CheckpointError(f"{path}: found a file of another program, expected the {FILE} of `skelstream export`")
    try:
        header = Header.model_validate_json(text)
    except ValidationError as error:
        raise CheckpointError(
            f"{path}: found metadata of another version of skelstream or of none ({error.error_count()} problems),"
            f" expected format {FORMAT_VERSION}"
        ) from error
    if header.version != FORMAT_VERSION:
        raise CheckpointError(f"{path}: found encoder format {header.version}, expected {FORMAT_VERSION}")
    return header, state


def _digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over name, type, shape and bytes of every tensor, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
