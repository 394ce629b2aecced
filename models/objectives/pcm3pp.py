"""PCM3++: prompted contrast with masked motion modelling, and a clip of the sequence as a fifth query.

Source: the paper "Self-Supervised Skeleton-Based Action Representation Learning: A Benchmark and Beyond" and the
released code of its predecessor, JHang2020/PCM3. With `prompt_place="before_norm"` and without the pair "clip" a step
is the released one.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, cast, get_args

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from models.collectives import gather_rows, rank
from models.encoders.gru import GRUConfig, GRUEncoder, Width
from models.heads import Decoder, Projector, Prompts
from models.momentum import Queue, become_twin, momentum_update
from models.norm import BatchStatistics
from models.objectives import losses
from models.objectives.inputs import check_views
from models.objectives.objective import (
    OBJECTIVES,
    Objective,
    ObjectiveConfig,
    Outcome,
    Prediction,
    Progress,
    check_queue,
    one_stream,
)
from shards.batch import Views
from shards.errors import ConfigError

Pair = Literal["base", "masked", "predicted", "mix", "clip"]
# also the order in which the views enter the running statistics of the input norm, which the released code fixes
PAIRS: tuple[Pair, ...] = get_args(Pair)

MAX_QUEUE = 1 << 24

# what is beyond these makes gradients overflow float32 in the first steps
Temperature = Annotated[float, Field(ge=1e-4, le=1e4)]
Weight = Annotated[float, Field(ge=0, le=1e4)]


@OBJECTIVES.add
class PCM3PPConfig(ObjectiveConfig):
    """Options of PCM3++; the defaults are the paper's.

    Attributes:
        feature_dim: width of queries and keys.
        queue_size: negatives kept; must exceed the batch size.
        momentum: share of itself that the key encoder keeps in a step.
        temperature: of InfoNCE.
        teacher_temperature, student_temperature: of the distributions over the negatives that distillation compares.
        contrast_weight, distillation_weight, prediction_weight: of the three kinds of terms; 0 leaves a kind out (the
            released bone and motion variant: `distillation_weight=0`).
        distillation_top_k: distil over the negatives nearest to each key alone (CMD: 8192 of 16384); None is the whole
            queue (PCM3's released command line says 16384 of 16384). Over one alone there is nothing to distil.
        pairs: queries that are drawn to the key.
        clip_prompt: input prompt of the clip view; which one is not published.
        clip_queue: the clip is compared in a space of its own: projector, its twin, and a queue of that twin's keys. A
            clip and its sequence have the same key, so with the common projector an own queue would hold the same keys.
        input_statistics: whose statistics the input norm keeps for evaluation; in training each view is normalised by
            its own. "all_views" moves them by each query view in turn, as released, so that they mix masked and clean
            views; "base_view" by the unmasked, unmixed one alone, which is what downstream tasks see.
        prompts: learnt vectors on the input and the features, one for each kind of view and task.
        prompt_width: entries of a feature prompt in each half; None is an eighth of the hidden width (published: 128
            of 1024).
        guidance: the gradient of the predicted pair reaches the decoder by a second pass over detached features;
            without it the predicted view is a constant (the released bone and motion variant).
        decoder_width: None is half of the hidden width (published: 512 of 1024).
    """

    kind: Literal["pcm3pp"] = "pcm3pp"
    encoder: GRUConfig = GRUConfig()
    feature_dim: Width = 128
    queue_size: int = Field(default=16384, le=MAX_QUEUE)
    momentum: float = Field(default=0.999, ge=0, le=1)
    temperature: Temperature = 0.07
    teacher_temperature: Temperature = 0.05
    student_temperature: Temperature = 0.1
    contrast_weight: Weight = 1.0
    distillation_weight: Weight = 1.0
    prediction_weight: Weight = 40.0
    distillation_top_k: int | None = Field(default=None, ge=2)
    pairs: tuple[Pair, ...] = PAIRS
    clip_prompt: Literal["base", "masked"] = "base"
    clip_queue: bool = False
    input_statistics: Literal["all_views", "base_view"] = "all_views"
    prompts: bool = True
    prompt_width: Width | None = None
    guidance: bool = True
    decoder_width: Width | None = None

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

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the loss terms of a step."""
        contrast = self.pairs if self.contrast_weight else ()
        others = {"distill": self.distillation_weight, "prediction": self.prediction_weight}
        return (*contrast, *(name for name, weight in others.items() if weight))

    def check(self, batch_size: int) -> None:
        """Refuse options that exclude each other, or a queue that does not fit the batch."""
        check_queue(self.queue_size, batch_size)
        check_config(self)

    def build(self, streams: Sequence[str], seed: int = 0) -> "PCM3PP":
        """The objective of one stream."""
        return PCM3PP(self, seed, one_stream(f"objective {self.kind!r}", streams))


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
        features: (N, F), detached features of the first pair's query, without a feature prompt.
        keys: for each bank the keys of the global batch (world * N, D), which its queue takes after the step.
    """

    terms: dict[str, Tensor]
    similarity: dict[str, Tensor]
    teacher: dict[str, Tensor]
    reconstruction: Tensor | None
    features: Tensor
    keys: tuple[Tensor, ...]


class Bank(NamedTuple):
    """Pairs that are compared in one space, among the keys of one queue."""

    pairs: tuple[Pair, ...]
    projector: Projector
    key_projector: Projector
    queue: Queue


class PCM3PP(Objective):
    """The online encoder and its heads, their momentum twins, the queue, and one training step over them.

    Args:
        config: options.
        seed: of the initial weights and queue; equal seeds give equal states.
        stream: of the encoder.

    Raises:
        ConfigError: an option that cannot work.
    """

    def __init__(self, config: PCM3PPConfig, seed: int = 0, stream: str = "joint") -> None:
        super().__init__()
        check_config(config)
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self._build(config, stream)
        become_twin(self.key_encoder, self.encoder)
        for bank in self.banks():
            become_twin(bank.key_projector, bank.projector)

    def _build(self, config: PCM3PPConfig, stream: str) -> None:
        width, inputs = config.decoder_width or max(1, config.encoder.hidden // 2), config.encoder.input_size
        self.encoders = nn.ModuleDict({stream: GRUEncoder(config.encoder)})
        self.key_encoder = GRUEncoder(config.encoder)
        features = self.encoder.width
        self.projector, self.key_projector = (Projector(features, config.feature_dim) for _ in range(2))
        self.decoder = Decoder(features, width, inputs)
        self.prompts = Prompts(inputs, config.feature_prompt_width) if config.prompts else None
        self.queue = Queue(config.queue_size, config.feature_dim)
        if config.clip_queue:  # last, so that all else starts as without
            self.clip_projector, self.key_clip_projector = (Projector(features, config.feature_dim) for _ in range(2))
            self.clip_queue = Queue(config.queue_size, config.feature_dim)

    @property
    def unreached(self) -> Mapping[str, str]:
        """The decoder where nothing is predicted; whatever belongs to a view that no pair needs."""
        return {} if self.config.needs_decoder else {"decoder.": "no term needs what it predicts"}

    @property
    def encoder(self) -> GRUEncoder:
        """The online encoder."""
        (encoder,) = self.encoders.values()
        return cast(GRUEncoder, encoder)

    def banks(self) -> tuple[Bank, ...]:
        """The pairs by the queue that they are compared with."""
        pairs = self.config.pairs
        if not self.config.clip_queue:
            return (Bank(pairs, self.projector, self.key_projector, self.queue),)
        others = tuple(pair for pair in pairs if pair != "clip")
        return (
            Bank(others, self.projector, self.key_projector, self.queue),
            Bank(("clip",), self.clip_projector, self.key_clip_projector, self.clip_queue),
        )

    def draw(self, seed: int, epoch: int, step: int, n: int) -> Draws:
        """What the step draws, a pure function of the numbers; one set for the batch, whatever its size `n`."""
        generator = random.Random(f"pcm3pp/{seed}/{epoch}/{step}")
        # the released code never draws the last possible start; kept where there is another
        stop = max(1, self.config.encoder.hidden - self.config.feature_prompt_width)
        return Draws({name: generator.randrange(stop) for name in PASSES})

    def queue_age(self, step: int, batch_size: int) -> int:
        """Steps since the oldest key was pushed, after `step` steps of global batches; the random first keys are of
        step 0."""
        return min(step, math.ceil(self.config.queue_size / batch_size))

    def forward(self, views: Views, draws: Draws) -> Outcome:
        """`step`, as the engine sees it: a term for each pair, "distill" and "prediction".

        The accuracy of a pair is the share of queries that are nearer to their key than to every negative.
        """
        output = self.step(views, draws)
        with torch.no_grad():
            metrics = {
                f"accuracy/{pair}": (s[:, 0] > s[:, 1:].amax(1)).float().mean() for pair, s in output.similarity.items()
            }
        kept = {f"keys/{number}": keys for number, keys in enumerate(output.keys)}
        return Outcome(output.terms, metrics, output.features, kept)

    def before_step(self, progress: Progress) -> None:
        """Move the twins."""
        momentum_update(self.key_encoder, self.encoder, self.config.momentum)
        for bank in self.banks():
            momentum_update(bank.key_projector, bank.projector, self.config.momentum)

    def after_step(self, outcome: Outcome) -> None:
        """Push the keys of the global batch."""
        for number, bank in enumerate(self.banks()):
            bank.queue.push(outcome.kept[f"keys/{number}"])

    @property
    def predictor(self) -> tuple[str, ...]:
        """Nothing where no term needs the decoder."""
        return ("encoders.", "decoder.", "prompts.") if self.config.needs_decoder else ()

    def predict(self, views: Views, draws: Draws) -> Prediction:
        """The decoder's output."""
        reconstruction = self.step(views, draws).reconstruction
        assert reconstruction is not None
        return Prediction(reconstruction, "target", "masked")

    def step(self, views: Views, draws: Draws) -> StepOutput:
        """One step; it changes no parameter and no buffer but the running statistics of norms.

        Args:
            views: "key" and what the pairs and the prediction need: "base", "mix" (with partner and weight), "masked"
                (masked entries zero, with its mask), "target" (the same view unmasked), "clip".
            draws: from `draw`.

        Raises:
            ConfigError: a view that the configuration needs is missing or of another shape, or the queue is not larger
                than the batch.
        """
        self._check_views(views)
        features, reconstruction = self._features(views, draws)
        key_features = self._key_features(views, draws)
        terms: dict[str, Tensor] = {}
        similarity: dict[str, Tensor] = {}
        teacher: dict[str, Tensor] = {}
        divergences: list[Tensor] = []
        every_key: list[Tensor] = []
        c = self.config
        for bank in self.banks():
            similarity_PNK, teacher_PNK, keys = self._compare(bank, features, key_features, views, draws)
            every_key.append(keys)
            similarity |= zip(bank.pairs, similarity_PNK, strict=True)
            teacher |= zip(bank.pairs, teacher_PNK, strict=True)
            if c.contrast_weight:
                contrast = c.contrast_weight * losses.info_nce(similarity_PNK, c.temperature)
                terms |= zip(bank.pairs, contrast, strict=True)
            if c.distillation_weight:
                temperatures = c.student_temperature, c.teacher_temperature
                student_PNK = similarity_PNK[:, :, 1:]
                divergence = losses.distillation(student_PNK, teacher_PNK, *temperatures, c.distillation_top_k)
                divergences.append(divergence.sum())
        if divergences:
            terms["distill"] = c.distillation_weight * torch.stack(divergences).sum()
        if reconstruction is not None and c.prediction_weight:
            error = losses.masked_mse(reconstruction, views.views["target"], views.masks["masked"])
            terms["prediction"] = c.prediction_weight * error
        return StepOutput(
            terms, similarity, teacher, reconstruction, features[c.pairs[0]][:, -1].detach(), tuple(every_key)
        )

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
            if name == "base" or self.config.input_statistics == "all_views":
                self.encoder.input_norm.record(statistics[name])
        return features, reconstruction

    def _reconstruct(self, masked_NTF: Tensor, views: Views, draws: Draws) -> tuple[Tensor, Tensor]:
        """The reconstruction, and the predicted view: that in the masked region, what is visible elsewhere."""
        prompted = self._prompt_features(masked_NTF, "prediction", draws.prompt_starts["prediction"])
        if self.config.guidance and "predicted" in self.config.pairs:
            reconstruction, guided = self.decoder(prompted, prompted.detach())
        else:
            (reconstruction,) = self.decoder(prompted)
            guided = reconstruction.detach()
        return reconstruction, torch.where(views.masks["masked"], views.views["masked"], guided)

    @torch.no_grad()
    def _key_features(self, views: Views, draws: Draws) -> Tensor:
        """Prompted features of the key view by the twin, (N, F).

        The key pass has the prompts of the moment, without momentum.
        """
        features = self.key_encoder(views.views["key"], self._input_prompt("base")).feature
        return self._prompt_features(features, "contrast", draws.prompt_starts["key"])

    def _compare(
        self, bank: Bank, features: dict[str, Tensor], key_features: Tensor, views: Views, draws: Draws
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Similarities (P, N, 1+K) and those of the teacher (P, N, K) of a bank's P pairs; the keys for its queue."""
        prompted = [
            self._prompt_features(features[pair][:, -1], "contrast", draws.prompt_starts[pair]) for pair in bank.pairs
        ]
        queries_PND = bank.projector(torch.cat(prompted)).unflatten(0, (len(prompted), -1))
        keys, key, mixed_key = self._keys(bank.key_projector, key_features, views)
        keys_PND = torch.stack([mixed_key if pair == "mix" else key for pair in bank.pairs])
        negatives = bank.queue.keys
        # inner products are divided by temperatures of 0.05 to 0.1: bfloat16 would lose them
        with torch.autocast(key.device.type, enabled=False):
            similarity = losses.similarities(queries_PND, keys_PND, negatives)
            teacher = keys_PND @ negatives.T
        return similarity, teacher, keys

    @torch.no_grad()
    def _keys(self, projector: Projector, features: Tensor, views: Views) -> tuple[Tensor, Tensor, Tensor]:
        """Keys of the global batch (world * N, D), which the queue takes; this rank's keys and mixed keys, (N, D)."""
        keys = gather_rows(projector(features))
        key = keys[rank() * len(views) :][: len(views)]
        if views.mix_partner is None or views.mix_weight is None:
            return keys, key, key
        weight = views.mix_weight.to(key.dtype)[:, None]
        return keys, key, F.normalize((1 - weight) * key + weight * keys[views.mix_partner], dim=1)

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
        masks = ("masked",) if c.needs_decoder else ()
        check_views(views, c.encoder.input_size, needed=needed, masks=masks, mixed="mix" in c.pairs)
        self.queue.check_batch(len(views))


def check_config(config: PCM3PPConfig) -> None:
    """Refuse options that exclude each other.

    Raises:
        ConfigError: which, and what would do.
    """
    if not config.pairs or len(set(config.pairs)) != len(config.pairs):
        raise ConfigError(f"pairs {config.pairs} found, expected at least one of {PAIRS}, each once")
    if not config.contrast_weight and not config.distillation_weight and not config.prediction_weight:
        raise ConfigError("contrast_weight, distillation_weight and prediction_weight are all 0, expected one above 0")
    if config.prompts and config.feature_prompt_width > config.encoder.hidden:
        raise ConfigError(
            f"prompt_width {config.feature_prompt_width} found, expected at most encoder.hidden {config.encoder.hidden}"
        )
    if config.clip_queue and ("clip" not in config.pairs or len(config.pairs) == 1):
        raise ConfigError(f"clip_queue with pairs {config.pairs} found, expected 'clip' beside others")
    if config.input_statistics == "base_view" and "base" not in config.pairs:
        raise ConfigError(f"input_statistics 'base_view' with pairs {config.pairs} found, expected 'base' among them")
    if config.distillation_top_k is not None and config.distillation_top_k > config.queue_size:
        raise ConfigError(
            f"distillation_top_k {config.distillation_top_k} found, expected at most queue_size {config.queue_size}"
        )
