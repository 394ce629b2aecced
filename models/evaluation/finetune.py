"""Fine-tuning: encoder and head trained together (settings of maoyunyao/CMD, maoyunyao/MAMP and JHang2020/HiCLR).

Semi-supervised training is this on a subset of the training split (`models.evaluation.subsets`), and transfer is this
with the encoder of another data set.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from models.encoders.encoder import Encoded, Encoder
from models.evaluation.features import Features, extract_features
from models.evaluation.heads import Count, Curve, HeadConfig, LinearHead, Share, TokenHead, fit
from models.evaluation.metrics import accuracies, check_labels
from models.training.precision import products
from models.training.schedule import MAX_EPOCHS, Rate
from shards.batch import EpochViews, Views
from shards.errors import ConfigError

Split = Callable[[], Iterator[Views]]


class FinetuneConfig(HeadConfig):
    """How encoder and head are trained; the defaults are the published ones (maoyunyao/CMD, semi-supervised script).

    Attributes:
        lr: learning rate after the warm-up, of encoder and head alike but for the layer-wise decay of "adamw".
        head: "linear": one layer on the feature. "mlp": two layers on the tokens, whose joints stay apart; of encoders
            that have tokens of joints (`models.evaluation.heads.TokenHead`).
        dropout: share of the entries of a feature, or of all tokens, that the head drops.
        drop_path: probability with which a row skips a branch of the encoder's last block, rising linearly from 0 in
            its first; None leaves it as in pre-training.
        score_every: epochs between two scores; the last epoch is scored in any case. The published best epoch is one
            of every fifth.
        seed: of the head's initial weights, and of all dropout.
    """

    epochs: Annotated[int, Field(ge=1, le=MAX_EPOCHS)] = 80
    batch_size: Count = 64
    lr: Rate = 0.01
    milestones: tuple[Annotated[int, Field(ge=0)], ...] = (50, 70)
    score_every: Count = 5
    head: Literal["linear", "mlp"] = "linear"
    dropout: Share = 0.0
    drop_path: Share | None = None


@dataclass(frozen=True)
class FinetuneResult(Curve):
    """Accuracies on the test split.

    Attributes:
        per_class: after the last epoch; None for a class without test samples.
        logits: class scores (N, C) after the last epoch, on the CPU; for `models.evaluation.fusion`.
    """

    per_class: tuple[float | None, ...]
    logits: Features = field(repr=False, compare=False)


def finetune(
    encoder: Encoder,
    train: EpochViews,
    test: Split,
    config: FinetuneConfig,
    num_classes: int,
    *,
    validation: Split | None = None,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> FinetuneResult:
    """Train a copy of the encoder and a head on it; the encoder itself is left as it was.

    All parameters of the copy learn, also those that ask for no gradient. Its norms take the statistics of the batch
    while it learns, and the running ones while it is scored. Products are float32 on every device. Equal inputs give
    equal results, on a CPU to the bit.

    Args:
        encoder: its dropout, where it has some, is drawn by the seed, epoch and step.
        train: training split in batches of `config.batch_size`, cropped at random.
        test: gives the test split, centre crop.
        config: schedule.
        num_classes: outputs of the head.
        validation: gives the validation split, centre crop.
        device: where it is computed.
        progress: show a bar.

    Raises:
        ConfigError: a split is empty, a label is out of range, or the encoder is none that `prepare_encoder` can
            prepare.
        DivergenceError: the loss is not finite; found at the end of its epoch.
        SkelstreamError: NaN or infinity among the class scores.
    """
    if next(test(), None) is None:
        raise ConfigError("test split: found no samples, expected at least one")
    tuned = copy.deepcopy(encoder).to(device).requires_grad_(True)
    model = Classifier(tuned, config, num_classes).to(device)
    per_class: tuple[float | None, ...]
    logits: Features

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in train.epoch(epoch):
            # once: the samples are the same in every epoch, and to read labels from a GPU is to wait for it
            if epoch == 0:
                check_labels(batch.label, num_classes, "training split")
            yield batch.views["x"].to(device), batch.label.to(device)

    def score(epoch: int) -> tuple[float, float | None]:
        nonlocal per_class, logits
        accuracy, per_class, logits = _score(model, test, "test split", num_classes, device)
        if validation is None:
            return accuracy, None
        return accuracy, _score(model, validation, "validation split", num_classes, device)[0]

    # unasked, cuDNN rounds the inputs of a GRU's products to TF32
    with products("float32", torch.device(device)):
        curve = fit(
            model,
            batches,
            len(train),
            config,
            score,
            what="fine-tuning",
            encoders={"encoder.": tuned},
            least=2 if config.head == "mlp" else 1,
            progress=progress,
        )
    return FinetuneResult(**vars(curve), per_class=per_class, logits=logits.to("cpu"))


def prepare_encoder(encoder: Encoder, config: FinetuneConfig) -> None:
    """Give an encoder the drop path of the options, and see that it has what their head takes.

    Raises:
        ConfigError: it has not, or no branches to skip.
    """
    if config.head == "mlp" and not encoder.joint_tokens:
        raise ConfigError(
            f'found finetune.head "mlp" for an encoder ({encoder.family}) without tokens of joints, expected "linear"'
        )
    if config.drop_path is not None:
        encoder.set_drop_path(config.drop_path)


class Classifier(nn.Module):
    """Class scores (N, C) of views (N, T, V*C*M): an encoder, and on it the head that the options name.

    Raises:
        ConfigError: as `prepare_encoder`.
    """

    def __init__(self, encoder: Encoder, config: FinetuneConfig, num_classes: int) -> None:
        super().__init__()
        prepare_encoder(encoder, config)
        self.encoder = encoder
        self.head: LinearHead | TokenHead
        if config.head == "mlp":
            self.head = TokenHead(encoder.width, num_classes, seed=config.seed, dropout=config.dropout)
        else:
            self.head = LinearHead(
                encoder.width, num_classes, seed=config.seed, std=config.init_std, dropout=config.dropout
            )

    def forward(self, x_NTD: Tensor) -> Tensor:
        """(N, T, V*C*M) -> (N, C)."""
        of_tokens = isinstance(self.head, TokenHead)
        logits: Tensor = self.head(self.encoder.tokens(x_NTD) if of_tokens else self.encoder(x_NTD).feature)
        return logits


class _Scores(Encoder):
    """A classifier as an encoder whose feature is the class scores, so that it is scored like one."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_NTD: Tensor) -> Encoded:
        return Encoded(self.model(x_NTD), None)


def _score(
    model: Classifier, views: Split, name: str, num_classes: int, device: torch.device | str
) -> tuple[float, tuple[float | None, ...], Features]:
    """Accuracy, that of each class, and the class scores."""
    logits = extract_features(_Scores(model), views(), device=device)
    check_labels(logits.label, num_classes, name)
    return *accuracies(logits.values.argmax(dim=1), logits.label, num_classes), logits
