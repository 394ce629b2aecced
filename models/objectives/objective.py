"""What every objective is: views in, named weighted loss terms out, and hooks around the step."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple, TypeVar, cast

from pydantic import SerializeAsAny, WrapValidator
from torch import Tensor, nn

from models.encoders.encoder import AnyEncoderConfig, Encoder
from shards.batch import Views
from shards.errors import ConfigError
from shards.registry import Kind, Registry


@dataclass(frozen=True)
class Outcome:
    """A step as the engine sees it.

    Attributes:
        terms: weighted loss terms, scalars whose sum is the loss.
        metrics: what is watched, detached scalars: "accuracy/<pair>", ... Means over this rank's samples.
        features: (N, F) detached features of this rank's samples, whose spread shows a collapse.
        kept: detached tensors that `after_step` takes, such as the keys of the global batch.
    """

    terms: dict[str, Tensor]
    metrics: dict[str, Tensor]
    features: Tensor
    kept: dict[str, Tensor] = field(default_factory=dict)


class Progress(NamedTuple):
    """Where in a run a step is.

    Attributes:
        epoch: from 0, over all stages.
        step: of the epoch, from 0.
        epoch_steps: steps in an epoch.
        epochs: of all stages.
        stage: name of the stage, "main" for the first.
        epochs_before: epochs of the stages before this one.
    """

    epoch: int
    step: int
    epoch_steps: int
    epochs: int
    stage: str = "main"
    epochs_before: int = 0

    @property
    def share(self) -> float:
        """Share of the run's steps that are done, from 0 to 1."""
        return (self.epoch * self.epoch_steps + self.step) / (self.epochs * self.epoch_steps)


class Prediction(NamedTuple):
    """What an objective with a decoder predicts of a view, for pages.

    Attributes:
        predicted: (N, T, V*C*M), in the space of the view; where the method predicts something else, what that says of
            the view.
        view: name of the view that is the truth.
        masked: name of the view whose mask tells what was hidden.
    """

    predicted: Tensor
    view: str
    masked: str


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a rate and a decay.

    Attributes:
        parameters: their names in the objective.
        rate: multiplies the learning rate of the step.
        decay: whether the optimiser's weight decay applies.
    """

    parameters: tuple[str, ...]
    rate: float = 1.0
    decay: bool = True


S = TypeVar("S", bound=str)

Split = Callable[[], Iterator[Views]]
"""Gives the training split once, in order, each sample whole: the view "x", or of several streams "x/<stream>" each."""


class Objective(nn.Module):
    """Base of all objectives.

    `forward` changes no parameter and no buffer, so that a step can be repeated; what moves, moves in the hooks. (The
    running statistics of `models.norm.GlobalBatchNorm` are kept aside by the engine until the step is done.)

    Attributes:
        encoders: the online encoders by stream; checkpoints hold them under "encoders.<stream>.".
    """

    encoders: nn.ModuleDict

    @property
    def predictor(self) -> tuple[str, ...]:
        """Beginnings of the names of the state that `predict` needs; () where it predicts nothing."""
        return ()

    @property
    def unreached(self) -> Mapping[str, str]:
        """Names, or beginnings of names, of trainable parameters that no gradient reaches, each with the reason."""
        return {}

    @property
    def encoder(self) -> Encoder:
        """The online encoder of an objective that has one."""
        (encoder,) = self.encoders.values()
        return cast(Encoder, encoder)

    def draw(self, seed: int, epoch: int, step: int, n: int) -> Any:
        """What step `step` (from 0) of `epoch` with `n` samples draws: a pure function of the numbers."""
        return None

    @abstractmethod
    def forward(self, views: Views, draws: Any) -> Outcome:
        """The weighted scalar loss terms, and what is watched beside them.

        Raises:
            ConfigError: a view is missing or of another shape.
        """

    def before_step(self, progress: Progress) -> None:
        """What moves before a step: twins by momentum, schedules."""

    def after_step(self, outcome: Outcome) -> None:
        """What moves after the optimiser's step: queues."""

    def begin_epoch(self, progress: Progress, split: Split) -> None:
        """What is computed of the whole split before an epoch: clusters, prototypes, thresholds.

        Rank 0 alone computes, so that it has to encode in evaluation mode: a norm in train mode would wait for the
        other ranks. The buffers of all ranks are its own afterwards. A run that goes on within an epoch does not call
        it again: what it computed lies in buffers, and so in the checkpoint.
        """

    def groups(self) -> Sequence[ParameterGroup]:
        """The trainable parameters by rate and decay, each in one group; by default one group."""
        return (ParameterGroup(tuple(name for name, p in self.named_parameters() if p.requires_grad)),)

    def predict(self, views: Views, draws: Any) -> Prediction:
        """What a decoder makes of the masked view; see `predictor`."""
        raise AssertionError(f"{type(self).__name__} predicts nothing")

    def queue_age(self, step: int, batch_size: int) -> float | None:
        """Steps since the oldest entry of the queue came, after `step` steps; None without a queue."""
        return None


class ObjectiveConfig(Kind):
    """Base of the objectives' options.

    Attributes:
        encoder: of each stream.
    """

    encoder: AnyEncoderConfig

    @property
    @abstractmethod
    def terms(self) -> tuple[str, ...]:
        """Names of the loss terms of a step."""

    def check(self, batch_size: int) -> None:
        """Refuse options that cannot work together, or with that batch; see `check_queue`.

        Raises:
            ConfigError: which, and what would do.
        """

    @abstractmethod
    def build(self, streams: Sequence[str], seed: int = 0) -> Objective:
        """The objective with initial weights of that seed; equal seeds give equal states.

        Args:
            streams: an encoder for each.
            seed: of weights and queues.
        """


OBJECTIVES: Registry[ObjectiveConfig] = Registry("objective", "models.objectives", "skelstream.methods")
"""All objectives by `kind`."""

AnyObjectiveConfig = Annotated[SerializeAsAny[ObjectiveConfig], WrapValidator(OBJECTIVES.validate)]
"""A field that takes the options of any objective."""


def check_queue(queue_size: int, batch_size: int) -> None:
    """Refuse a queue that a batch fills, or whose keys of a step would be of two ages.

    Raises:
        ConfigError: the queue is not larger than the batch, or no multiple of it.
    """
    if queue_size <= batch_size:
        raise ConfigError(f"objective.queue_size is {queue_size}, expected more than train.batch_size {batch_size}")
    if queue_size % batch_size:
        raise ConfigError(f"objective.queue_size is {queue_size}, expected a multiple of train.batch_size {batch_size}")


def one_stream(what: str, streams: Sequence[S]) -> S:
    """The stream of what takes one alone.

    Raises:
        ConfigError: there are several.
    """
    if len(streams) != 1:
        raise ConfigError(f"{what}: found the streams {', '.join(streams)}, expected one")
    return streams[0]
