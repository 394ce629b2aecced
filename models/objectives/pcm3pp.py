"""PCM3++: prompted contrast with masked motion modelling, and a clip of the sequence as a fifth query.

Source: the paper "Self-Supervised Skeleton-Based Action Representation Learning: A Benchmark and Beyond" and the
released code of its predecessor, JHang2020/PCM3. With `prompt_place="before_norm"` and without the pair "clip" a step
is the released one.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from models.encoders import gru
from models.encoders.gru import BatchStatistics, EncoderConfig, GRUEncoder
from models.heads import Decoder, Projector, Prompts
from models.momentum import Queue, become_twin, momentum_update
from models.objectives import losses
from shards.batch import Views
from shards.errors import CheckpointError, ConfigError

Pair = Literal["base", "masked", "predicted", "mix", "clip"]
# also the order in which the views enter the running statistics of the input norm, which the released code fixes
PAIRS: tuple[Pair, ...] = get_args(Pair)


class PCM3PPConfig(BaseModel):
    """Options of PCM3++; the defaults are the paper's.

    Attributes:
        feature_dim: width of queries and keys.
        queue_size: negatives kept; must exceed the batch size.
        momentum: share of itself that the key encoder keeps in a step.
        temperature: of InfoNCE.
        contrast_weight, distillation_weight, prediction_weight: of the three kinds of terms; 0 leaves a kind out
            (post-distillation: `contrast_weight=0`; the released bone and motion variant: `distillation_weight=0`).
        pairs: queries that are drawn to the key.
        clip_prompt: input prompt of the clip view; which one is not published.
        prompts: learnt vectors on the input and the features, one for each kind of view and task.
        prompt_width: entries of a feature prompt in each half; None is an eighth of the hidden width (published: 128
            of 1024).
        guidance: the gradient of the predicted pair reaches the decoder by a second pass over detached features;
            without it the predicted view is a constant (the released bone and motion variant).
        decoder_width: None is half of the hidden width (published: 512 of 1024).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: EncoderConfig = EncoderConfig()
    feature_dim: PositiveInt = 128
    queue_size: int = 16384
    momentum: float = Field(default=0.999, ge=0, le=1)
    temperature: PositiveFloat = 0.07
    teacher_temperature: PositiveFloat = 0.05
    student_temperature: PositiveFloat = 0.1
    contrast_weight: NonNegativeFloat = 1.0
    distillation_weight: NonNegativeFloat = 1.0
    prediction_weight: NonNegativeFloat = 40.0
    pairs: tuple[Pair, ...] = PAIRS
    clip_prompt: Literal["base", "masked"] = "base"
    prompts: bool = True
    prompt_width: PositiveInt | None = None
    guidance: bool = True
    decoder_width: PositiveInt | None = None

    @property
    def feature_prompt_width(self) -> int:
        """Resolved `prompt_width`."""
        return self.prompt_width or max(1, self.encoder.hidden // 8)

    @property
    def needs_masked(self) -> bool:
        """Whether the masked view is encoded at all."""
        return self.needs_decoder or "masked" in self.pairs

    @property
    def needs_decoder(self) -> bool:
        """Whether the masked region is reconstructed."""
        return self.prediction_weight > 0 or "predicted" in self.pairs


@dataclass(frozen=True)
class Draws:
    """What a step draws: for each pass, where in a half of the features its prompt begins."""

    prompt_starts: Mapping[str, int]


# a start is drawn for every pass in every step, so that leaving a pair out does not change the draws of the others
PASSES = (*PAIRS, "prediction", "key")


@dataclass(frozen=True)
class StepOutput:
    """A step in full.

    Attributes:
        terms: weighted loss terms, scalars whose sum is the loss.
        similarity: pair -> (N, 1+K), see `losses.similarities`.
        teacher: pair -> (N, K), inner products of the pair's key with the negatives.
        reconstruction: (N, T, V*C*M), the decoder's output; None if no term needs it.
    """

    terms: dict[str, Tensor]
    similarity: dict[str, Tensor]
    teacher: dict[str, Tensor]
    reconstruction: Tensor | None


class PCM3PP(nn.Module):
    """The online encoder and its heads, their momentum twins, the queue, and one training step over them.

    Args:
        config: options.
        seed: of the initial weights and queue; equal seeds give equal states.

    Raises:
        ConfigError: an option that cannot work.
    """

    def __init__(self, config: PCM3PPConfig, seed: int = 0) -> None:
        super().__init__()
        _check_config(config)
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self._build(config)
        become_twin(self.key_encoder, self.encoder)
        become_twin(self.key_projector, self.projector)

    def _build(self, config: PCM3PPConfig) -> None:
        width, inputs = config.decoder_width or max(1, config.encoder.hidden // 2), config.encoder.input_size
        self.encoder, self.key_encoder = GRUEncoder(config.encoder), GRUEncoder(config.encoder)
        features = self.encoder.feature_size
        self.projector, self.key_projector = (Projector(features, config.feature_dim) for _ in range(2))
        self.decoder = Decoder(features, width, inputs)
        self.prompts = Prompts(inputs, config.feature_prompt_width) if config.prompts else None
        self.queue = Queue(config.queue_size, config.feature_dim)

    def draw(self, seed: int, epoch: int, step: int, n: int) -> Draws:
        """What the step draws, a pure function of the numbers; one set for the batch, whatever its size `n`."""
        generator = random.Random(f"pcm3pp/{seed}/{epoch}/{step}")
        # the released code never draws the last possible start; kept where there is another
        stop = max(1, self.config.encoder.hidden - self.config.feature_prompt_width)
        return Draws({name: generator.randrange(stop) for name in PASSES})

    def forward(self, views: Views, draws: Draws) -> dict[str, Tensor]:
        """The weighted loss terms of `step`: one for each pair, "distill" and "prediction"."""
        return self.step(views, draws).terms

    def step(self, views: Views, draws: Draws) -> StepOutput:
        """One step; in train mode it also updates the twins (before the keys) and the queue (after the similarities).

        Args:
            views: "key" and what the pairs and the prediction need: "base", "mix" (with partner and weight), "masked"
                (masked entries zero, with its mask), "target" (the same view unmasked), "clip".
            draws: from `draw`.

        Raises:
            ConfigError: a view that the configuration needs is missing, or the queue is not larger than the batch.
        """
        self._check_views(views)
        features, reconstruction = self._features(views, draws)
        key, mixed_key = self._keys(views, draws)
        negatives = self.queue.keys.clone()  # a push changes the queue before the backward pass reads it
        similarity: dict[str, Tensor] = {}
        teacher: dict[str, Tensor] = {}
        for pair in self.config.pairs:
            query = self.projector(self._prompt_features(features[pair][:, -1], "contrast", draws.prompt_starts[pair]))
            own_key = mixed_key if pair == "mix" else key
            # inner products are divided by temperatures of 0.05 to 0.1: bfloat16 would lose them
            with torch.autocast(key.device.type, enabled=False):
                similarity[pair] = losses.similarities(query, own_key, negatives)
                teacher[pair] = own_key @ negatives.T
        if self.training:
            self.queue.push(key)
        terms = self._contrast_terms(similarity, teacher) | self._prediction_term(reconstruction, views)
        return StepOutput(terms, similarity, teacher, reconstruction)

    def _features(self, views: Views, draws: Draws) -> tuple[dict[str, Tensor], Tensor | None]:
        """Features of every query view (N, T, F), and the reconstruction.

        All views but the predicted one go through the recurrence in one call, each normalised by itself.
        """
        names = [name for name in PAIRS if name in self.config.pairs or (name == "masked" and self.config.needs_masked)]
        statistics: dict[str, BatchStatistics | None] = {}
        inputs: dict[str, Tensor] = {}
        for name in names:
            if name != "predicted":
                inputs[name], statistics[name] = self._normalise(views.views[name], name)
        recurred = self.encoder.recur(torch.cat(list(inputs.values())))
        features = dict(zip(inputs, recurred.chunk(len(inputs)), strict=True))
        reconstruction = None
        if self.config.needs_decoder:
            reconstruction, predicted = self._reconstruct(features["masked"], views, draws)
            if "predicted" in names:
                normalised, statistics["predicted"] = self._normalise(predicted, "predicted")
                features["predicted"] = self.encoder.recur(normalised)
        for name in names:
            self.encoder.input_norm.record(statistics[name])
        return features, reconstruction

    def _reconstruct(self, masked_NTF: Tensor, views: Views, draws: Draws) -> tuple[Tensor, Tensor]:
        """The reconstruction, and the predicted view: that in the masked region, what is visible elsewhere."""
        prompted = self._prompt_features(masked_NTF, "prediction", draws.prompt_starts["prediction"])
        reconstruction: Tensor = self.decoder(prompted)
        guided = reconstruction.detach()
        if self.config.guidance and "predicted" in self.config.pairs:
            guided = self.decoder(prompted.detach())
        return reconstruction, torch.where(views.masks["masked"], views.views["masked"], guided)

    @torch.no_grad()
    def _keys(self, views: Views, draws: Draws) -> tuple[Tensor, Tensor]:
        """Key and mixed key, (N, D) each. The key pass has the prompts of the moment, without momentum."""
        if self.training:
            momentum_update(self.key_encoder, self.encoder, self.config.momentum)
            momentum_update(self.key_projector, self.projector, self.config.momentum)
        features = self.key_encoder(views.views["key"], self._input_prompt("base"))[:, -1]
        key: Tensor = self.key_projector(self._prompt_features(features, "contrast", draws.prompt_starts["key"]))
        if views.mix_partner is None or views.mix_weight is None:
            return key, key
        weight = views.mix_weight.to(key.dtype)[:, None]
        return key, F.normalize((1 - weight) * key + weight * key[views.mix_partner], dim=1)

    def _contrast_terms(self, similarity: dict[str, Tensor], teacher: dict[str, Tensor]) -> dict[str, Tensor]:
        c = self.config
        terms: dict[str, Tensor] = {}
        if c.contrast_weight:
            terms = {pair: c.contrast_weight * losses.info_nce(s, c.temperature) for pair, s in similarity.items()}
        if c.distillation_weight and similarity:
            divergences = [
                losses.distillation(
                    similarity[pair][:, 1:], teacher[pair], c.student_temperature, c.teacher_temperature
                )
                for pair in similarity
            ]
            terms["distill"] = c.distillation_weight * torch.stack(divergences).sum()
        return terms

    def _prediction_term(self, reconstruction: Tensor | None, views: Views) -> dict[str, Tensor]:
        if reconstruction is None or not self.config.prediction_weight:
            return {}
        error = losses.masked_mse(reconstruction, views.views["target"], views.masks["masked"])
        return {"prediction": self.config.prediction_weight * error}

    def _normalise(self, view: Tensor, name: str) -> tuple[Tensor, BatchStatistics | None]:
        return self.encoder.normalise(view, self._input_prompt(self.config.clip_prompt if name == "clip" else name))

    def _input_prompt(self, name: str) -> Tensor | None:
        return None if self.prompts is None else self.prompts.input(name)

    def _prompt_features(self, features: Tensor, task: Literal["contrast", "prediction"], start: int) -> Tensor:
        if self.prompts is None:
            return features
        return self.prompts.add(features, getattr(self.prompts, task), start)

    def _check_views(self, views: Views) -> None:
        c = self.config
        needed = {"key", *c.pairs} - {"predicted"} | ({"masked"} if c.needs_masked else set())
        needed |= {"target"} if c.prediction_weight else set()
        missing = needed - views.views.keys()
        if missing:
            raise ConfigError(
                f"views {sorted(views.views)} found, expected also {sorted(missing)} for the pairs {c.pairs}"
            )
        if "mix" in c.pairs and (views.mix_partner is None or views.mix_weight is None):
            raise ConfigError("the view 'mix' found without its partner and weight, expected both for the pair 'mix'")
        if c.needs_decoder and "masked" not in views.masks:
            raise ConfigError(f"masks {sorted(views.masks)} found, expected also 'masked' for the masked prediction")
        self.queue.check_batch(len(views))


def _check_config(config: PCM3PPConfig) -> None:
    if not config.pairs or len(set(config.pairs)) != len(config.pairs):
        raise ConfigError(f"pairs {config.pairs} found, expected at least one of {PAIRS}, each once")
    if not config.contrast_weight and not config.distillation_weight and not config.prediction_weight:
        raise ConfigError("contrast_weight, distillation_weight and prediction_weight are all 0, expected one above 0")
    if config.prompts and config.feature_prompt_width > config.encoder.hidden:
        raise ConfigError(
            f"prompt_width {config.feature_prompt_width} found, expected at most encoder.hidden {config.encoder.hidden}"
        )


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


def from_reference_name(name: str, direction: gru.Direction = "parallel_forward") -> str:
    """Our name of an entry of the model of JHang2020/PCM3, with or without the prefix `module.` of its parallel runs.

    `encoder_q.*` becomes `encoder.*` (see `gru.from_reference_name`), `encoder_k.*` becomes `key_encoder.*`, their `fc`
    the projectors, `linear` and `recons_decoder` parts of the decoder, `queue` and `queue_ptr` the queue's buffers.

    Raises:
        CheckpointError: the name is none of the reference's.
    """
    name = name.removeprefix("module.")
    if name in _REFERENCE_NAMES:
        return _REFERENCE_NAMES[name]
    for theirs, ours in (*_REFERENCE_PREFIXES.items(), ("encoder_q.", "encoder."), ("encoder_k.", "key_encoder.")):
        if name.startswith(theirs):
            rest = name.removeprefix(theirs)
            return ours + (gru.from_reference_name(rest, direction) if ours.endswith("encoder.") else rest)
    raise CheckpointError(f"entry {name!r} found, expected a name of the PCM3 model")


def from_reference_state(
    state: Mapping[str, Tensor], direction: gru.Direction = "parallel_forward"
) -> dict[str, Tensor]:
    """The state of a released PCM3 model under our names and shapes: prompts flat, the queue with a key in each row."""
    ours = {from_reference_name(name, direction): tensor for name, tensor in state.items()}
    for name, tensor in ours.items():
        if name.startswith("prompts."):
            ours[name] = tensor.flatten()
        elif name == "queue.keys":
            ours[name] = tensor.T.contiguous()
    return ours
