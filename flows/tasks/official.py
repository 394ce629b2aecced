"""The published settings of downstream tasks, by the family of the encoder that is scored.

Where a task is not named here, none is known for the family: it is scored as the GRU is.
"""

import math

from flows.tasks.config import DetectionTaskConfig, EvaluateConfig, SemiConfig
from models.encoders.encoder import Family
from models.evaluation.finetune import FinetuneConfig
from models.evaluation.linear import LinearConfig
from models.training.optimizers import AdamWConfig, SGDConfig

# without an input norm of every entry of a frame there is nothing to re-estimate on the videos: their frames are
# prepared as those of pre-training were. No setting is published for any encoder but the GRU.
_PREPARED = DetectionTaskConfig(coordinates="recipe", input_norm="frozen")


def official(family: Family) -> EvaluateConfig:
    """The setting of a family; of "lstm", "cnn" and "dgcnn" none is known: all but detection is the GRU's."""
    if family == "gru":
        return _gru()
    if family == "gcn":
        return _gcn()
    if family == "transformer":
        return _transformer()
    return _gru().model_copy(update={"detection": _PREPARED})


def _gru() -> EvaluateConfig:
    """The defaults: linear of JHang2020/PCM3; fine-tuning, few labels, retrieval and transfer of maoyunyao/CMD;
    detection of JHang2020/Simple-Skeleton-Detection; few shots of "A Benchmark and Beyond"."""
    return EvaluateConfig()


def _gcn() -> EvaluateConfig:
    """ST-GCN: linear of LinguoLi/CrosSCLR, Levigty/AimCLR and JHang2020/HiCLR, which agree; fine-tuning and few labels
    of JHang2020/HiCLR, which alone releases them (AimCLR fine-tunes with its norms and dropout in eval mode).

    No augmentation anywhere: a sample is seen whole. What differs from the releases: the last batch of an epoch is
    trained on though it is not full; the warm-up rises within epochs instead of by 0.2 an epoch, and ends with the
    fourth, so that the full rate begins where it does there; the head of fine-tuning begins as AimCLR's (HiCLR's keeps
    torch's default); few labels are trained on by the schedule of fine-tuning (HiCLR: 60 epochs, x0.1 at 20 and 40
    cross-subject, at 15 and 30 cross-view).
    """
    return EvaluateConfig(
        linear=LinearConfig(
            epochs=100,
            batch_size=128,
            lr=3.0,
            optimizer=SGDConfig(momentum=0.9, weight_decay=0.0),
            milestones=(80,),
            crop="centre",
            init_std=0.02,
            score_every=5,
        ),
        finetune=FinetuneConfig(
            epochs=70,
            batch_size=64,
            lr=0.1,
            optimizer=SGDConfig(momentum=0.9, nesterov=True, weight_decay=1e-4),
            milestones=(29, 54),  # there 30 and 55, from 1
            warmup_epochs=4,
            crop="centre",
            init_std=0.02,
            score_every=5,
        ),
        semi=SemiConfig(sampling=("stratified",), epoch="all"),
        detection=_PREPARED,
        centre_ratio=1.0,
    )


def _transformer() -> EvaluateConfig:
    """maoyunyao/MAMP, whose settings S-JEPA and Skeleton2vec take over: linear, fine-tuning and few labels.

    Batches are those of its two processes together. Of linear it is the setting of NTU; PKU-MMD I has batches of 128,
    PKU-MMD II of 32 and the rate 0.01. What differs from the release: the last batch of an epoch is trained on though
    it is not full, unless it is a single sample; the warm-up begins at its first step's share of the rate, not at 0;
    its semi-supervised runs see twice the labels, since each process draws its own; its networks without pre-training
    have no layer-wise decay, and here the random encoder is tuned as the trained one.
    """
    return EvaluateConfig(
        linear=LinearConfig(
            epochs=100,
            batch_size=256,
            lr=0.1,
            optimizer=SGDConfig(momentum=0.9, weight_decay=0.0),
            schedule="cosine",
            milestones=(),
            init_std=0.01,
            batch_norm=True,
        ),
        finetune=FinetuneConfig(
            epochs=100,
            batch_size=48,
            lr=3e-4,
            min_lr=1e-5,
            optimizer=AdamWConfig(betas=(0.9, 0.999), weight_decay=0.05, layer_decay=0.8),
            schedule="cosine",
            milestones=(),
            warmup_epochs=5,
            label_smoothing=0.1,
            head="mlp",
            dropout=0.3,
            drop_path=0.3,
            score_every=1,
        ),
        semi=SemiConfig(sampling=("unstratified",)),
        detection=_PREPARED,
        degrees=math.degrees(0.3),  # training views, also of linear
    )
