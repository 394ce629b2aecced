"""MAMP: a masked Transformer that predicts the motion of hidden tokens; with coordinates, its MAE baseline.

Source: Mao et al., "Masked Motion Predictors are Strong 3D Action Representation Learners", ICCV 2023, and the released
code, maoyunyao/MAMP. Which tokens are hidden is drawn with the views. The baseline (`target="coordinates"`, tokens
hidden uniformly) is what the field quotes as SkeletonMAE on a plain Transformer.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from models.dropout import seed_dropout
from models.encoders import transformer
from models.encoders.transformer import TransformerConfig, TransformerEncoder
from models.objectives.inputs import check_views
from models.objectives.losses import masked_mse
from models.objectives.objective import (
    OBJECTIVES,
    Objective,
    ObjectiveConfig,
    Outcome,
    ParameterGroup,
    Prediction,
    one_stream,
)
from models.tokens import TokenDecoder, from_patches, patches, token_steps, visible_tokens
from shards.batch import Views
from shards.errors import CheckpointError, ConfigError
from shards.skeleton import FRAME_SIZE, NUM_COORDINATES

_VARIANCE_FLOOR = 1e-6


@OBJECTIVES.add
class MAMPConfig(ObjectiveConfig):
    """Options of MAMP; the defaults are the released ones.

    Attributes:
        ratio: share of a person's tokens that the mask of the views hides, which must say the same; int(tokens * (1 -
            ratio)) are encoded. The mask must hide as many in every row: then nothing waits for the device to count
            them.
        decoder_width: width of the decoder; a multiple of the encoder's heads.
        decoder_layers: its blocks. As released 5 for NTU RGB+D 120 and PKU-MMD, and 3 for NTU RGB+D 60.
        target: what is predicted of a token, "motion" (x[t + stride] - x[t]) or its own "coordinates".
        motion_stride: frames between which a motion is taken; it is 0 in the last ones of a view.
        normalise_target: whether the target of each token has mean 0 and variance 1.
        weight: of the term "prediction".
    """

    kind: Literal["mamp"] = "mamp"
    encoder: TransformerConfig = TransformerConfig()
    ratio: float = Field(0.9, gt=0, lt=1)
    decoder_width: int = Field(256, ge=1, le=1 << 14)
    decoder_layers: int = Field(5, ge=1, le=100)
    target: Literal["motion", "coordinates"] = "motion"
    motion_stride: int = Field(1, ge=1, le=1 << 16)
    normalise_target: bool = True
    weight: float = Field(1.0, gt=0, le=1e4)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.decoder_width % self.encoder.heads:
            raise ValueError(
                f"decoder_width={self.decoder_width}, expected a multiple of encoder.heads={self.encoder.heads}"
            )
        return self

    @property
    def terms(self) -> tuple[str, ...]:
        return ("prediction",)

    def build(self, streams: Sequence[str], seed: int = 0) -> "MAMP":
        return MAMP(self, one_stream(f"objective {self.kind!r}", streams), seed)


class Target(NamedTuple):
    """What is predicted of each token of a view.

    Attributes:
        values: (N*M, L, patch*C).
        mean, deviation: (N*M, L, 1), by which a prediction becomes metres again; 0 and 1 where nothing is normalised.
    """

    values: Tensor
    mean: Tensor
    deviation: Tensor


class StepOutput(NamedTuple):
    """A step in full; rows are n*M + m.

    Attributes:
        latent: (N*M, K, D), of the tokens that were seen.
        kept_ids: (N*M, K) int64, which they are, ascending.
        visible: (N*M, L) bool.
        predicted: (N*M, L, patch*C), of every token.
    """

    latent: Tensor
    kept_ids: Tensor
    visible: Tensor
    predicted: Tensor


class MAMP(Objective):
    """The encoder of one stream, and the decoder that predicts from what it saw.

    Args:
        config: options.
        stream: of the encoder.
        seed: of the initial weights.
    """

    def __init__(self, config: MAMPConfig, stream: str, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        shape = config.encoder
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.encoders = nn.ModuleDict({stream: shape.build()})
            # no drop path here: as released it has the encoder's own list, so that it could not be deeper
            self.decoder = TokenDecoder(
                shape.width,
                config.decoder_width,
                config.decoder_layers,
                shape.heads,
                shape.patch_frames * NUM_COORDINATES,
                shape.frames // shape.patch_frames,
                mlp_ratio=shape.mlp_ratio,
                qkv_bias=shape.qkv_bias,
            )

    def draw(self, seed: int, epoch: int, step: int, n: int) -> tuple[int, int, int]:
        """The numbers from which drop paths are drawn."""
        return seed, epoch, step

    def forward(self, views: Views, draws: tuple[int, int, int]) -> Outcome:
        """The term "prediction": mean squared error over the entries of all hidden tokens.

        All rows hide the same number of tokens, so that those of a person who is absent count as any others, as
        released.

        Args:
            views: "target", the whole view, and the mask "masked" (True where visible) of whole tokens.
            draws: from `draw`.

        Raises:
            ConfigError: a view is missing or of another shape, T is no multiple of a token, or no token would stay.
                Of a mask that does not show as many tokens in every row as `ratio` says, the loss is NaN: to count
                them would have the host wait for the device.
        """
        self._check(views)
        step = self.step(views, draws)
        target = self.target(views.views["target"])
        error = masked_mse(step.predicted, target.values, step.visible[..., None])
        fits = (step.visible.sum(1) == step.kept_ids.shape[1]).all()
        loss = torch.where(fits, self.config.weight * error, torch.nan)
        features = step.latent.detach().view(len(views), -1, step.latent.shape[2]).mean(1)
        return Outcome({"prediction": loss}, {}, features)

    def step(self, views: Views, draws: tuple[int, int, int]) -> StepOutput:
        """What is encoded and predicted of the view "target"; arguments and errors as of `forward`."""
        encoder = self._transformer
        seed_dropout(encoder, *draws)
        x_NTD = views.views["target"]
        patch = self.config.encoder.patch_frames
        visible = visible_tokens(views.masks["masked"], x_NTD.shape, patch)
        kept_ids = self._kept_ids(visible)
        latent = encoder.encode_tokens(x_NTD, kept_ids)
        predicted = self.decoder(latent, kept_ids, x_NTD.shape[1] // patch)
        return StepOutput(latent, kept_ids, visible, predicted)

    def target(self, x_NTD: Tensor) -> Target:
        """What is to be predicted of every token of a view.

        Raises:
            ConfigError: the view is not longer than the stride, or no multiple of a token.
        """
        moved = x_NTD if self.config.target == "coordinates" else motion(x_NTD, self.config.motion_stride)
        return patch_target(patches(moved, self.config.encoder.patch_frames), self.config.normalise_target)

    def groups(self) -> Sequence[ParameterGroup]:
        """No weight decay of biases and other vectors; positions and the mask token have it, as released."""
        named = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        plain = tuple(name for name, p in named if p.dim() <= 1 or name.endswith(".bias"))
        decayed = tuple(name for name, _ in named if name not in set(plain))
        return ParameterGroup(decayed), ParameterGroup(plain, decay=False)

    @property
    def predictor(self) -> tuple[str, ...]:
        return "encoders.", "decoder."

    @torch.no_grad()
    def predict(self, views: Views, draws: tuple[int, int, int]) -> Prediction:
        """What the prediction says of the hidden tokens of the view "target"; visible ones are the truth.

        A normalised prediction gets the mean and the deviation of the true target of its token, as the pictures of
        masked autoencoders do: it tells the shape within a token, and not where or how large that is. A motion is
        added up from the last frame that was visible, or from the true first frames of the view: the token that a
        frame is reached from gives its true motion where it was visible, and the predicted one else.
        """
        self._check(views)
        step = self.step(views, draws)
        x_NTD = views.views["target"]
        target = self.target(x_NTD)
        values = step.predicted.to(target.values.dtype) * target.deviation + target.mean
        truth = target.values * target.deviation + target.mean
        shown = step.visible[..., None].expand_as(values)
        patch = self.config.encoder.patch_frames
        told = from_patches(torch.where(shown, truth, values), patch)
        if self.config.target == "motion":
            told = add_up(told, x_NTD, from_patches(shown, patch), self.config.motion_stride)
        return Prediction(told, "target", "masked")

    @property
    def _transformer(self) -> TransformerEncoder:
        encoder = self.encoder
        assert isinstance(encoder, TransformerEncoder)
        return encoder

    def _kept_ids(self, visible_RL: Tensor) -> Tensor:
        """(R, K) int64, the visible tokens of each row."""
        tokens = visible_RL.shape[1]
        kept = int(tokens * (1 - self.config.ratio))  # in floats, as the masks of the views count
        if kept == 0:
            raise ConfigError(f"found ratio={self.config.ratio:g} of {tokens} tokens, expected one to stay at least")
        return visible_RL.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :kept]

    def _check(self, views: Views) -> None:
        check_views(views, FRAME_SIZE, needed={"target"}, masks={"masked"}, mixed=False)
        token_steps(views.views["target"].shape[1], self.config.encoder.patch_frames)


def motion(x_NTD: Tensor, stride: int) -> Tensor:
    """x[t + stride] - x[t] of (N, T, D), same shape; 0 in the last `stride` frames.

    Raises:
        ConfigError: the view is not longer than the stride.
    """
    frames = x_NTD.shape[1]
    if not 1 <= stride < frames:
        raise ConfigError(f"found motion_stride={stride}, expected 1 to {frames - 1} for a view of {frames} frames")
    return F.pad(x_NTD[:, stride:] - x_NTD[:, :-stride], (0, 0, 0, stride))


def patch_target(entries: Tensor, normalise: bool) -> Target:
    """The entries of each token (R, L, E) as a target, normalised by their mean and unbiased variance (plus 1e-6)."""
    mean = entries.mean(2, keepdim=True)
    if not normalise:
        return Target(entries, torch.zeros_like(mean), torch.ones_like(mean))
    deviation = (entries.var(2, keepdim=True) + _VARIANCE_FLOOR).sqrt()
    return Target((entries - mean) / deviation, mean, deviation)


def add_up(motion_NTD: Tensor, x_NTD: Tensor, visible_NTD: Tensor, stride: int) -> Tensor:
    """Where a motion leads: x[t] where it is visible or t < stride, else the result's frame t - stride plus its motion.

    Args:
        motion_NTD: from each frame to the one `stride` later.
        x_NTD: the truth.
        visible_NTD: bool.
        stride: in frames.
    """
    frames: list[Tensor] = []
    for t, x in enumerate(x_NTD.unbind(1)):
        reached = x if t < stride else frames[t - stride] + motion_NTD[:, t - stride]
        frames.append(torch.where(visible_NTD[:, t], x, reached))
    return torch.stack(frames, dim=1)


_DECODER = re.compile(r"decoder_(blocks\..+|pos_embed|temp_embed|norm\.(?:weight|bias))")
_RENAMED = {
    "mask_token": "mask_token",
    "decoder_embed.weight": "embedding.weight",
    "decoder_embed.bias": "embedding.bias",
    "decoder_pred.weight": "head.weight",
    "decoder_pred.bias": "head.bias",
}


def from_reference_name(name: str, stream: str = "joint") -> str:
    """Our name of an entry of a pre-training checkpoint of maoyunyao/MAMP, in an objective of that stream.

    Raises:
        CheckpointError: the name is none of the reference's.
    """
    if name in _RENAMED:
        return f"decoder.{_RENAMED[name]}"
    match = _DECODER.fullmatch(name)
    if match is not None:
        return f"decoder.{transformer.from_reference_name(match[1])}"
    if name.startswith("decoder_"):
        raise CheckpointError(f"entry {name!r} found, expected one of the decoder of maoyunyao/MAMP")
    return f"encoders.{stream}.{transformer.from_reference_name(name)}"


def from_reference_state(state: Mapping[str, Tensor], stream: str = "joint") -> dict[str, Tensor]:
    """A pre-training checkpoint of maoyunyao/MAMP (its entry "model") under our names and in our shapes."""
    own = {name for name in state if name in _RENAMED or name.startswith("decoder_")}
    encoder = transformer.from_reference_state({name: tensor for name, tensor in state.items() if name not in own})
    decoder = {from_reference_name(name): state[name] for name in state if name in own}
    return decoder | {f"encoders.{stream}.{name}": tensor for name, tensor in encoder.items()}
