"""SkeletonCLR: momentum contrast of two views of a sequence.

Source: Li et al., "3D Human Action Representation Learning via Cross-View Consistency Pursuit" (CVPR 2021), its
one-view part; LinguoLi/CrosSCLR.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from models.collectives import gather_rows
from models.dropout import seed_dropout
from models.encoders import stgcn
from models.encoders.encoder import AnyEncoderConfig
from models.heads import Projector
from models.momentum import Queue, become_twin, momentum_update
from models.objectives import losses
from models.objectives.inputs import check_views
from models.objectives.objective import OBJECTIVES, Objective, ObjectiveConfig, Outcome, Progress, check_queue
from shards.batch import Views
from shards.errors import CheckpointError
from shards.skeleton import FRAME_SIZE


@OBJECTIVES.add
class SkeletonCLRConfig(ObjectiveConfig):
    """Options of SkeletonCLR; the defaults are those of LinguoLi/CrosSCLR.

    Attributes:
        feature_dim: width of queries and keys.
        queue_size: negatives kept; a multiple of the batch size, and more than it.
        momentum: share of itself that the key encoder keeps in a step.
        temperature: of InfoNCE.
        key_init: where the key encoder and its projector start. "independent": at weights drawn for them, as released
            (the trainer draws all weights once more after the copy); "copy": at those of their online twins.
    """

    kind: Literal["skeletonclr"] = "skeletonclr"
    encoder: AnyEncoderConfig = stgcn.STGCNConfig()
    feature_dim: int = Field(128, ge=1, le=1 << 16)
    queue_size: int = Field(32768, ge=1, le=1 << 24)
    momentum: float = Field(0.999, ge=0, le=1)
    # what is beyond makes gradients overflow float32 in the first steps
    temperature: float = Field(0.07, ge=1e-4, le=1e4)
    key_init: Literal["independent", "copy"] = "independent"

    @property
    def terms(self) -> tuple[str, ...]:
        return ("contrast",)

    def check(self, batch_size: int) -> None:
        check_queue(self.queue_size, batch_size)

    def build(self, streams: Sequence[str], seed: int = 0) -> "SkeletonCLR":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return SkeletonCLR(self, streams)


class SkeletonCLR(Objective):
    """For each stream an encoder, a projector, their momentum twins and a queue of keys.

    With one stream it takes the views "query" and "key" and gives the term "contrast"; with several "query/<stream>",
    "key/<stream>" and "contrast/<stream>", and the streams share nothing.

    Args:
        config: options.
        streams: an encoder for each; weights and queues are drawn from torch's global generator.
    """

    def __init__(self, config: SkeletonCLRConfig, streams: Sequence[str]) -> None:
        super().__init__()
        self.config = config
        self.encoders, self.key_encoders, self.projectors, self.key_projectors, self.queues = (
            nn.ModuleDict() for _ in range(5)
        )
        for stream in streams:
            for encoders, projectors in self._pairs():
                encoder = config.encoder.build()
                encoders[stream], projectors[stream] = encoder, Projector(encoder.width, config.feature_dim)
                stgcn.initialise(projectors[stream])
            self.queues[stream] = Queue(config.queue_size, config.feature_dim)
        for online, twin in self._twins():
            if config.key_init == "copy":
                become_twin(twin, online)
            else:
                twin.requires_grad_(False)

    def _pairs(self) -> tuple[tuple[nn.ModuleDict, nn.ModuleDict], ...]:
        """Encoders and projectors, of the queries and of the keys."""
        return (self.encoders, self.projectors), (self.key_encoders, self.key_projectors)

    def _twins(self) -> tuple[tuple[nn.Module, nn.Module], ...]:
        """Online modules and their twins."""
        return (self.encoders, self.key_encoders), (self.projectors, self.key_projectors)

    def draw(self, seed: int, epoch: int, step: int, n: int) -> tuple[int, int, int]:
        """What seeds the dropout of a step."""
        return seed, epoch, step

    def before_step(self, progress: Progress) -> None:
        for online, twin in self._twins():
            momentum_update(twin, online, self.config.momentum)

    def forward(self, views: Views, draws: tuple[int, int, int]) -> Outcome:
        """A term for each stream; its accuracy is the share of queries that are nearer to their key than to negatives.

        The features are those of the first stream's queries, before the projector.
        """
        names = [self._name(view, stream) for view in ("query", "key") for stream in self.encoders]
        check_views(views, FRAME_SIZE, needed=names, masks=(), mixed=False)
        terms: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        kept: dict[str, Tensor] = {}
        features = []
        for stream in self.encoders:
            feature, query = self._embed("query", stream, views, draws)
            with torch.no_grad():
                _, key = self._embed("key", stream, views, draws)
            # inner products are divided by a temperature of 0.07: bfloat16 would lose them
            with torch.autocast(query.device.type, enabled=False):
                similarity = losses.similarities(query, key, self._queue(stream).keys)
            term = self._name("contrast", stream)
            terms[term] = losses.info_nce(similarity, self.config.temperature)
            found = similarity.detach()
            metrics[f"accuracy/{term}"] = (found[:, 0] > found[:, 1:].amax(1)).float().mean()
            kept[self._name("keys", stream)] = gather_rows(key)
            features.append(feature.detach())
        return Outcome(terms, metrics, features[0], kept)

    def after_step(self, outcome: Outcome) -> None:
        for stream in self.queues:
            self._queue(stream).push(outcome.kept[self._name("keys", stream)])

    def queue_age(self, step: int, batch_size: int) -> float:
        return min(step, math.ceil(self.config.queue_size / batch_size))

    def _queue(self, stream: str) -> Queue:
        return cast(Queue, self.queues[stream])

    def _name(self, what: str, stream: str) -> str:
        return what if len(self.encoders) == 1 else f"{what}/{stream}"

    def _embed(
        self, view: Literal["query", "key"], stream: str, views: Views, draws: tuple[int, int, int]
    ) -> tuple[Tensor, Tensor]:
        """Feature (N, F) and its projection (N, dim) by the online modules or by their twins."""
        encoders, projectors = self._pairs()[view == "key"]
        seed_dropout(encoders[stream], view, stream, *draws)
        feature: Tensor = encoders[stream](views.views[self._name(view, stream)]).feature
        return feature, projectors[stream](feature)


_REFERENCE_PREFIXES = {
    "encoder_q.fc.": "projectors.{stream}.layers.",
    "encoder_k.fc.": "key_projectors.{stream}.layers.",
    "encoder_q.": "encoders.{stream}.",
    "encoder_k.": "key_encoders.{stream}.",
}
_REFERENCE_QUEUE = {"queue": "queues.{stream}.keys", "queue_ptr": "queues.{stream}.position"}


def from_reference_name(name: str, stream: str = "joint") -> str:
    """Our name of an entry of the SkeletonCLR model of LinguoLi/CrosSCLR on an ST-GCN, trained on `stream`.

    `encoder_q.*` becomes `encoders.<stream>.*` (see `stgcn.from_reference_name`), `encoder_k.*` its twin, their `fc`
    the projectors, `queue` and `queue_ptr` the queue's buffers.

    Raises:
        CheckpointError: the name is none of the reference's.
    """
    if name in _REFERENCE_QUEUE:
        return _REFERENCE_QUEUE[name].format(stream=stream)
    for theirs, ours in _REFERENCE_PREFIXES.items():
        if name.startswith(theirs):
            rest = name.removeprefix(theirs)
            return ours.format(stream=stream) + (rest if theirs.endswith("fc.") else stgcn.from_reference_name(rest))
    raise CheckpointError(f"entry {name!r} found, expected encoder_q.*, encoder_k.*, queue or queue_ptr")


def from_reference_state(state: Mapping[str, Tensor], stream: str = "joint") -> dict[str, Tensor]:
    """The state of a released model under our names and shapes: the queue has a key in each row."""
    return {
        from_reference_name(name, stream): tensor.T.contiguous() if name == "queue" else tensor
        for name, tensor in state.items()
    }
