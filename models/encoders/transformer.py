"""Transformer encoder of MAMP, which its coordinate baseline, S-JEPA and others share. Source: maoyunyao/MAMP.

A token is one joint of one person in a few frames (`models.tokens`); persons are rows of the batch of their own, so
that the two of a sample never see each other before they are pooled. There is no class token.
"""

import re
from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from models.encoders.encoder import ENCODERS, Encoded, Encoder, EncoderConfig, Family
from models.tokens import Block, Positions, patches, start_linear, token_steps
from shards.errors import CheckpointError, ConfigError
from shards.skeleton import NUM_COORDINATES, NUM_JOINTS, NUM_PERSONS


@ENCODERS.add
class TransformerConfig(EncoderConfig):
    """Shape of a `TransformerEncoder`; the defaults are those of MAMP.

    Attributes:
        width: D, of tokens and features.
        layers: blocks.
        heads: of the attention; `width` is a multiple.
        mlp_ratio: hidden width of a block's MLP in widths.
        patch_frames: frames of a token.
        frames: T of the views for which the vectors of time are learnt; for views of another length they are resized
            (see `Positions`).
        drop_path: probability with which a row skips a branch of the last block; it rises linearly from 0 in the
            first. 0 in pre-training; as released 0.3 in fine-tuning.
        qkv_bias: whether queries, keys and values have a bias.
        persons: whose tokens a feature is the mean of. "released": of both, so that those of a person who is absent, a
            constant, are half of it. "present": of those who have a coordinate other than 0 anywhere in the view; of
            both where nobody has.
    """

    family: ClassVar[Family] = "transformer"

    kind: Literal["transformer"] = "transformer"
    width: int = Field(256, ge=1, le=1 << 14)
    layers: int = Field(8, ge=1, le=100)
    heads: int = Field(8, ge=1, le=1 << 10)
    mlp_ratio: int = Field(4, ge=1, le=64)
    patch_frames: int = Field(4, ge=1, le=1 << 12)
    frames: int = Field(120, ge=1, le=1 << 16)
    drop_path: float = Field(0.0, ge=0, lt=1)
    qkv_bias: bool = True
    persons: Literal["released", "present"] = "released"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width={self.width}, expected a multiple of heads={self.heads}")
        if self.frames % self.patch_frames:
            raise ValueError(f"frames={self.frames}, expected a multiple of patch_frames={self.patch_frames}")
        return self

    def check(self, frames: int) -> None:
        """Refuse views that are no multiple of `patch_frames`."""
        if frames % self.patch_frames:
            raise ConfigError(
                f"views.frames is {frames}, expected a multiple of objective.encoder.patch_frames {self.patch_frames}"
            )

    def build(self) -> "TransformerEncoder":
        return TransformerEncoder(self)


class TransformerEncoder(Encoder):
    """Embedded tokens, pre-norm blocks, a last layer norm; the feature of a sample is the mean of its tokens.

    Layers are "block1", "block2", ..., pooled without the last norm. `blocks` counts as released: 0 embeddings, i block
    i, then the norm, so that layer-wise decay is rate**(layers + 1 - i). Under bfloat16 autocast the sums of the blocks
    stay float32.
    """

    family = TransformerConfig.family
    joint_tokens = True

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.width, self.stride = config.width, config.patch_frames
        self.layer_names = tuple(f"block{number}" for number in range(1, config.layers + 1))
        self.blocks = (
            ("embedding", "positions"),
            *((f"layers.{number}",) for number in range(config.layers)),
            ("norm",),
        )
        # keeps torch's own initial values, as released (there it is a convolution, whose fan-in is the same)
        self.embedding = nn.Linear(config.patch_frames * NUM_COORDINATES, config.width)
        self.positions = Positions(config.frames // config.patch_frames, config.width)
        self.layers = nn.ModuleList(
            Block(
                config.width,
                config.heads,
                mlp_ratio=config.mlp_ratio,
                qkv_bias=config.qkv_bias,
            )
            for _ in range(config.layers)
        )
        self.set_drop_path(config.drop_path)
        start_linear(self.layers)
        self.norm = nn.LayerNorm(config.width)

    def set_drop_path(self, most: float) -> None:
        for number, block in enumerate(self.layers):
            assert isinstance(block, Block)
            block.drop_path1.p = block.drop_path2.p = most * number / max(1, len(self.layers) - 1)

    def forward(self, x_NTD: Tensor) -> Encoded:
        """Encode views (N, T, V*C*M): features (N, D), and (N, T/patch_frames, D) of each step of time.

        Raises:
            ConfigError: T is no multiple of `patch_frames`.
        """
        return self._pool(self.encode_tokens(x_NTD), x_NTD)

    def encode_tokens(self, x_NTD: Tensor, kept_ids: Tensor | None = None) -> Tensor:
        """The latent of each token behind the last norm, (N*M, L, D); row n*M + m is person m of sample n.

        Args:
            x_NTD: views.
            kept_ids: (N*M, K) int64, the tokens of each row that are seen, in the order in which they are wanted; the
                others are never computed. None is all, in their order.

        Returns:
            (N*M, K or L, D).
        """
        latent: Tensor = self.norm(self._run(x_NTD, self.config.layers, kept_ids))
        return latent

    def tokens(self, x_NTD: Tensor) -> Tensor:
        rows = self.encode_tokens(x_NTD)
        return rows.view(-1, NUM_PERSONS, rows.shape[1] // NUM_JOINTS, NUM_JOINTS, self.width)

    def layer(self, x_NTD: Tensor, name: str) -> Tensor:
        if name == "last":
            return self.forward(x_NTD).feature
        if name not in self.layer_names:
            return super().layer(x_NTD, name)
        return self._pool(self._run(x_NTD, self.layer_names.index(name) + 1), x_NTD).feature

    def _run(self, x_NTD: Tensor, layers: int, kept_ids: Tensor | None = None) -> Tensor:
        """The tokens behind the first `layers` blocks, (N*M, K or L, D)."""
        entries = patches(x_NTD, self.config.patch_frames)
        positions = self.positions(entries.shape[1] // NUM_JOINTS)
        if kept_ids is not None:  # before they are embedded: nine tokens of ten are hidden in pre-training
            entries = entries.gather(1, kept_ids[..., None].expand(-1, -1, entries.shape[2]))
            positions = nn.functional.embedding(kept_ids, positions)
        tokens: Tensor = self.embedding(entries) + positions
        for layer in self.layers[:layers]:
            tokens = layer(tokens)
        return tokens

    def _pool(self, tokens_RLD: Tensor, x_NTD: Tensor) -> Encoded:
        """Means over persons and joints, and over time too."""
        steps = token_steps(x_NTD.shape[1], self.config.patch_frames)
        persons = tokens_RLD.view(-1, NUM_PERSONS, steps, NUM_JOINTS, self.width).mean(3)  # (N, M, S, D)
        if self.config.persons == "released":
            frames = persons.mean(1)
        else:
            present = (x_NTD != 0).view(x_NTD.shape[0], -1, NUM_PERSONS).any(1)
            share = (present | ~present.any(1, keepdim=True)).to(persons.dtype)
            share = share / share.sum(1, keepdim=True)
            frames = (persons * share[:, :, None, None]).sum(1)
        return Encoded(frames.mean(1), frames)


_RENAMED = {
    "pos_embed": "positions.joints",
    "temp_embed": "positions.times",
    "joints_embed.proj.weight": "embedding.weight",
    "joints_embed.proj.bias": "embedding.bias",
}
_BLOCK = re.compile(r"blocks\.(\d+\.(?:norm[12]|attn\.(?:qkv|proj)|mlp\.fc[12])\.(?:weight|bias))")


def from_reference_name(name: str) -> str:
    """Our name of an entry of the encoder of maoyunyao/MAMP.

    `blocks.0.attn.qkv.weight` becomes `layers.0.attn.qkv.weight`, `joints_embed.proj.bias` `embedding.bias`,
    `pos_embed` `positions.joints` and `temp_embed` `positions.times`; `norm.*` keeps its name.

    Raises:
        CheckpointError: the name is none of the reference encoder's.
    """
    if name in ("norm.weight", "norm.bias"):
        return name
    match = _BLOCK.fullmatch(name)
    if match is not None:
        return f"layers.{match[1]}"
    if name not in _RENAMED:
        expected = ", ".join(("blocks.*", "norm.*", *_RENAMED))
        raise CheckpointError(f"entry {name!r} found, expected one of {expected}")
    return _RENAMED[name]


def from_reference_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of the encoder of maoyunyao/MAMP under our names and in our shapes; see `from_reference_name`.

    The convolution over patches (D, C, patch_frames, 1) becomes the linear layer (D, patch_frames*C) of the same
    numbers.
    """
    renamed = {from_reference_name(name): tensor for name, tensor in state.items()}
    weight = renamed.get("embedding.weight")
    if weight is not None:
        renamed["embedding.weight"] = weight.squeeze(3).transpose(1, 2).flatten(1)
    return renamed
