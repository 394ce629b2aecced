"""Names and shapes of the released PCM3 weights (JHang2020/PCM3) under ours."""

from collections.abc import Mapping

from torch import Tensor

from models.encoders import gru
from shards.errors import CheckpointError

_REFERENCE_PREFIXES = {
    "linear.": "decoder.reduce.",
    "recons_decoder.decoder.": "decoder.gru.",
    "recons_decoder.reconstruction.": "decoder.coordinates.",
    "encoder_q.fc.": "projector.layers.",
    "encoder_k.fc.": "key_projector.layers.",
}
_REFERENCE_NAMES = {
    "cl_prompt": "prompts.contrast",
    "mp_prompt": "prompts.prediction",
    "base_prompt": "prompts.base",
    "mask_prompt": "prompts.masked",
    "recons_prompt": "prompts.predicted",
    "mix_prompt": "prompts.mix",
    "queue": "queue.keys",
    "queue_ptr": "queue.position",
}


def from_reference_name(name: str, direction: gru.Direction = "parallel_forward", stream: str = "joint") -> str:
    """Our name of an entry of the model of JHang2020/PCM3, with or without the prefix `module.` of its parallel runs.

    `encoder_q.*` becomes `encoders.<stream>.*` (see `gru.from_reference_name`), `encoder_k.*` becomes `key_encoder.*`,
    their `fc` the projectors, `linear` and `recons_decoder` parts of the decoder, `queue` and `queue_ptr` the queue's
    buffers.

    Raises:
        CheckpointError: the name is none of the reference's.
    """
    name = name.removeprefix("module.")
    if name in _REFERENCE_NAMES:
        return _REFERENCE_NAMES[name]
    for theirs, ours in (
        *_REFERENCE_PREFIXES.items(),
        ("encoder_q.", f"encoders.{stream}."),
        ("encoder_k.", "key_encoder."),
    ):
        if name.startswith(theirs):
            rest = name.removeprefix(theirs)
            return ours + (gru.from_reference_name(rest, direction) if theirs in ("encoder_q.", "encoder_k.") else rest)
    raise CheckpointError(f"entry {name!r} found, expected a name of the PCM3 model")


def from_reference_state(
    state: Mapping[str, Tensor], direction: gru.Direction = "parallel_forward", stream: str = "joint"
) -> dict[str, Tensor]:
    """The state of a released PCM3 model under our names and shapes: prompts flat, the queue with a key in each row."""
    ours = {from_reference_name(name, direction, stream): tensor for name, tensor in state.items()}
    for name, tensor in ours.items():
        if name.startswith("prompts."):
            ours[name] = tensor.flatten()
        elif name == "queue.keys":
            ours[name] = tensor.T.contiguous()
    return ours
