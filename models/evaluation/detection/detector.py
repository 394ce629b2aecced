"""Action detection by a linear layer on a frozen encoder: class probabilities of every frame of a video.

Source of the method "window": JHang2020/Simple-Skeleton-Detection. Class 0 is background, class c + 1 the action of
label c; the reference adds 1 once more and leaves class 1 empty. Encoders are pre-trained on 64 frames; windows have 16
as there.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from models.encoders.encoder import Encoder
from models.evaluation.detection.segments import PostProcessing
from models.evaluation.features import encode, frozen
from models.evaluation.metrics import check_labels
from models.training.schedule import Gamma, Rate, check_decay, stepped_rate
from shards.batch import EpochViews, Views
from shards.errors import ConfigError, SkelstreamError
from shards.frozen import Frozen
from shards.progress import Progress
from shards.skeleton import FRAME_SIZE

Count = Annotated[int, Field(ge=1, le=1_000_000)]

_FRAME_CLASSES = "x/action"


class DetectionConfig(Frozen):
    """How frames are scored, and actions made of the scores; the defaults are the published setting.

    Attributes:
        method: "window": the feature of a frame is that of the window centred on it, at the window's last frame.
            "dense": one pass over the whole video gives the features of all its frames, for encoders that read
            sequences of any length; each sees all that came before, and costs one step instead of `window`.
            How strong it is depends on `look_ahead` and on the encoder. On synthetic PKU-MMD, three seeds, a small
            pre-trained encoder reached mAP@0.5 of 53 % (8 frames ahead) against 49 % by windows, by two of the seeds,
            and the same 55 and 56 % at 0.1; after less pre-training 51 % with 8 frames ahead, 39 % with 14. What
            pre-training gained fell from 14 points to 3 (tests/benchmarks/detection.py). On real data: not measured.
        coordinates: "raw": metres as the camera saw them. "recipe": prepared by the store's recipe, as in pre-training.
        input_norm: "reestimate": the statistics of the encoder's input norm become those of the training videos. With
            "window" as in the reference, whose norm stays in train mode: while the layer trains, each batch is
            normalised by itself and the running statistics follow. With "dense" they are computed once, over all
            frames. "frozen": they stay those of pre-training.
        epochs: passes over the training windows, or over the frames that "dense" keeps.
        batch_size: windows or frames in a step.
        lr: learning rate.
        momentum: of SGD, Nesterov's.
        weight_decay: of SGD.
        milestones: epochs (from 0) from which on the rate is multiplied by `gamma` once more; the reference counts from
            1 and states 40.
        gamma: see `milestones`.
        score_every: epochs between two scores of the test videos, beside that of the last epoch; as in the reference,
            which states the best of them. One scoring of PKU-MMD I cross-subject encodes 650,000 windows, as many as 43
            epochs of training: the twelve of the published setting make it take six times as long as the last alone
            (`score_every=60`). "dense" encodes a sixteenth of that. Nothing is kept from one scoring to the next: with
            "window" the statistics of the input norm, and so all features, have changed.
        window: frames of a window.
        train_strides: smallest and largest stride of a training window.
        test_stride: of a test window.
        windows_per_video: training windows in an epoch.
        look_ahead: "dense" reads the feature of a frame so many frames later (at the latest at the video's last one),
            to see as much of what follows as the published test window does, whose last frame is 28 after its centre.
        frames_per_video: training frames, drawn once, that "dense" keeps of each video. 256 of 944 videos take 2 GB for
            features 2048 wide.
        post: from scores to actions.
        seed: of the layer's initial weights; with "dense" also of the frames and their order.
    """

    method: Literal["window", "dense"] = "window"
    coordinates: Literal["raw", "recipe"] = "raw"
    input_norm: Literal["reestimate", "frozen"] = "reestimate"
    epochs: Count = 60
    batch_size: Count = 64
    lr: Rate = 0.01
    momentum: float = Field(0.9, gt=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    milestones: tuple[Annotated[int, Field(ge=0)], ...] = (39,)
    gamma: Gamma = 0.1
    score_every: Count = 5
    window: int = Field(16, ge=2, le=4096)
    train_strides: tuple[Count, Count] = (3, 5)
    test_stride: Count = 4
    windows_per_video: Count = 16
    look_ahead: int = Field(28, ge=0, le=1_000_000)
    frames_per_video: Count = 256
    post: PostProcessing = PostProcessing()
    seed: int = Field(0, ge=0, lt=1 << 31)

    _decays = model_validator(mode="after")(check_decay)

    @field_validator("train_strides")
    @classmethod
    def _rising(cls, strides: tuple[int, int]) -> tuple[int, int]:
        if strides[0] > strides[1]:
            raise ValueError("expected the smallest and the largest stride, in this order")
        return strides


@dataclass(frozen=True)
class Detector:
    """What scores frames.

    Attributes:
        encoder: a copy of the one it was trained on, in eval mode; of other statistics where the input norm was
            re-estimated.
        head: its features -> background and classes.
        config: by which it was trained.
    """

    encoder: Encoder
    head: nn.Linear
    config: DetectionConfig


Batches = Callable[[int], Iterator[tuple[Tensor, Tensor]]]


def train_detector(
    encoder: Encoder,
    train: EpochViews,
    config: DetectionConfig,
    num_classes: int,
    *,
    device: torch.device | str = "cpu",
    progress: bool = False,
    after_epoch: Callable[[int, Detector], None] | None = None,
) -> Detector:
    """Train the layer; the given encoder is left exactly as it was.

    Args:
        encoder: on `device`.
        train: the view "x". "window": windows, each labelled with the class of its middle frame. "dense": whole videos
            (1, T, V*C*M), one a step and the same in every epoch, with the target "x/action" (1, T): the classes of
            their frames.
        config: the setting; what windows are like was settled where `train` was made.
        num_classes: of actions; the layer has one class more.
        device: where it is computed.
        progress: show a bar.
        after_epoch: called after every `config.score_every`-th epoch and the last, with the epoch (from 0) and the
            detector so far, which the next epoch changes.

    Raises:
        ConfigError: no input norm to re-estimate, no batch, a label out of range, or an encoder that does not give one
            feature a frame.
        SkelstreamError: NaN or infinity among the features, or training diverged.
    """
    own = copy.deepcopy(encoder).eval()
    norm = _input_norm(own) if config.input_norm == "reestimate" else None
    if config.method == "dense":
        if norm is not None:
            _estimate(norm, train.epoch(0), device)
        frames = Progress("features", len(train), "video", shown=progress).over(train.epoch(0))
        values, label = _kept(own, frames, config, num_classes, device)
        width, batches = values.shape[1], _kept_batches(values, label, config)
    else:
        if next(train.epoch(0), None) is None:
            raise ConfigError("found no training window for the detector, expected at least one")
        width, batches = own.width, _window_batches(own, norm, train, num_classes, device)
    detector = Detector(own, _head(width, num_classes + 1, config.seed).to(device), config)
    _fit(detector, batches, progress, after_epoch)
    return detector


def frame_scores(detector: Detector, views: Iterator[Views], *, device: torch.device | str = "cpu") -> Tensor:
    """Class probabilities of the frames of one video.

    Args:
        detector: on `device`.
        views: the view "x". "window": windows centred on each frame, in the order of the frames. "dense": the whole
            video as one sequence.
        device: where it is computed.

    Returns:
        (T, C+1) float32 on the CPU, each row adding up to 1; column 0 is background.

    Raises:
        ConfigError: there are no windows, or the encoder does not give one feature a frame.
        SkelstreamError: NaN or infinity among the features.
    """
    parts = []
    with frozen(detector.encoder):
        for batch in views:
            values = _features(detector.encoder, batch, detector.config, device)
            parts.append(detector.head(values).float().softmax(dim=1).cpu())
    if not parts:
        raise ConfigError("found no frame to score, expected a video of at least one")
    with torch.inference_mode(mode=False):
        return torch.cat(parts)


def _features(encoder: Encoder, batch: Views, config: DetectionConfig, device: torch.device | str) -> Tensor:
    """(N, D): one row a window; or a frame, by `look_ahead`."""
    if config.method == "window":
        return encode(encoder, batch, device)
    x = batch.views["x"]
    assert len(x) == 1, f"{len(x)} sequences, expected one whole video"
    features: Tensor | None = encoder(x.to(device)).frames
    if features is None or features.shape[:2] != x.shape[:2]:
        found = "no" if features is None else f"{features.shape[1]}"
        raise ConfigError(
            f"found {found} features of a video of {x.shape[1]} frames, expected one a frame for the method"
            ' "dense": use "window" with this encoder'
        )
    values = features[0].float()
    bad = (~values.isfinite().all(dim=1)).nonzero()
    if len(bad):
        raise SkelstreamError(
            f"found NaN or infinity in the features of frame {int(bad[0])} of the video that begins with frame"
            f" {int(batch.sample_id[0])} of the store, expected finite numbers"
        )
    later = torch.arange(len(values), device=values.device) + config.look_ahead
    return values[later.clamp_max(len(values) - 1)]


def _input_norm(encoder: Encoder) -> nn.BatchNorm1d:
    norm = getattr(encoder, "input_norm", None)
    if not isinstance(norm, nn.BatchNorm1d) or norm.num_features != FRAME_SIZE:
        raise ConfigError(
            'found an encoder without an input norm of every entry of a frame, expected input_norm="frozen" for it'
        )
    return norm


@torch.no_grad()
def _estimate(norm: nn.BatchNorm1d, views: Iterator[Views], device: torch.device | str) -> None:
    """Set the running statistics to mean and unbiased variance over all frames of the views."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    total = square = torch.zeros(norm.num_features, dtype=torch.float64, device=device)
    rows = 0
    for batch in views:
        x = batch.views["x"].flatten(0, 1).to(device).double()
        rows, total, square = rows + len(x), total + x.sum(0), square + x.square().sum(0)
    if rows < 2:
        raise ConfigError(f"found {rows} frames to train on, expected at least 2 for the statistics of the input norm")
    mean = total / rows
    norm.running_mean.copy_(mean)
    norm.running_var.copy_((square / rows - mean.square()).clamp_min(0) * (rows / (rows - 1)))


def _kept(
    encoder: Encoder,
    views: Iterator[Views],
    config: DetectionConfig,
    num_classes: int,
    device: torch.device | str,
) -> tuple[Tensor, Tensor]:
    """Features (K, D) and classes (K,) of frames drawn from each video: all frames would be 40 GB."""
    parts = []
    for batch in views:
        label = batch.targets[_FRAME_CLASSES][0]
        check_labels(label, num_classes + 1, "training frames")
        generator = torch.Generator().manual_seed((config.seed << 32) + int(batch.sample_id[0]))
        chosen = torch.randperm(len(label), generator=generator)[: config.frames_per_video]
        with frozen(encoder):
            values = _features(encoder, batch, config, device)[chosen.to(device)]
        # copies made outside inference mode may take part in a backward pass
        parts.append((values.clone(), label[chosen].to(device)))
    if not parts:
        raise ConfigError("found no training video for the detector, expected at least one")
    values, label = (torch.cat(column) for column in zip(*parts, strict=True))
    return values, label


def _kept_batches(values: Tensor, label: Tensor, config: DetectionConfig) -> Batches:
    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed((config.seed << 32) + epoch)
        order = torch.randperm(len(label), generator=generator).to(label.device)
        for first in range(0, len(order), config.batch_size):
            chosen = order[first : first + config.batch_size]
            yield values[chosen], label[chosen]

    return batches


def _window_batches(
    encoder: Encoder,
    norm: nn.BatchNorm1d | None,
    train: EpochViews,
    num_classes: int,
    device: torch.device | str,
) -> Batches:
    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in train.epoch(epoch):
            check_labels(batch.label, num_classes + 1, "training windows")
            with frozen(encoder):
                if norm is not None:
                    norm.train()
                values = encode(encoder, batch, device)
            yield values.clone(), batch.label.to(device)

    return batches


def _head(features: int, classes: int, seed: int) -> nn.Linear:
    """Weights and biases from U(-1/sqrt(D), 1/sqrt(D)), torch's own as in the reference; equal on every device."""
    head = nn.Linear(features, classes, device="meta").to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for parameter in head.parameters():
        nn.init.uniform_(parameter, -(features**-0.5), features**-0.5, generator=generator)
    return head


def _fit(
    detector: Detector, batches: Batches, progress: bool, after_epoch: Callable[[int, Detector], None] | None
) -> None:
    config, head = detector.config, detector.head
    optimizer = torch.optim.SGD(
        head.parameters(), config.lr, momentum=config.momentum, weight_decay=config.weight_decay, nesterov=True
    )
    for epoch in Progress("detector", config.epochs, "epoch", shown=progress).over(range(config.epochs)):
        for group in optimizer.param_groups:
            group["lr"] = stepped_rate(config.lr, config.gamma, config.milestones, epoch)
        for values, label in batches(epoch):
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(head(values), label).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
        if not all(parameter.isfinite().all() for parameter in head.parameters()):
            raise SkelstreamError(
                f"found NaN or infinity in the detector's layer after epoch {epoch}, expected finite weights:"
                f" the rate {config.lr:g} is too high for these features"
            )
        if after_epoch is not None and ((epoch + 1) % config.score_every == 0 or epoch + 1 == config.epochs):
            after_epoch(epoch, detector)
