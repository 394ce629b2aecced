"""Options of the downstream tasks; the defaults are the published settings of the GRU, see `flows.tasks.official`."""

from typing import Annotated, Literal

from pydantic import Field

from flows.options import LocalPath, PlaceText
from models.evaluation.detection.detector import DetectionConfig
from models.evaluation.features import Layer
from models.evaluation.few_shot import FewShotConfig
from models.evaluation.finetune import FinetuneConfig
from models.evaluation.linear import LinearConfig
from models.evaluation.retrieval import RetrievalConfig
from models.evaluation.subsets import FRACTIONS
from pipelines.views.downstream import EarlyConfig, OcclusionConfig, RobustnessConfig
from shards.frozen import Frozen

Sampling = Literal["unstratified", "stratified"]
Share = Annotated[float, Field(gt=0, le=1)]
Threshold = Annotated[float, Field(gt=0, le=1)]


class SemiConfig(Frozen):
    """Fine-tuning with few labels; the schedule is that of `finetune`.

    Attributes:
        fractions: of the training labels.
        sampling: "unstratified" as maoyunyao/CMD and maoyunyao/MAMP draw, "stratified" as JHang2020/HiCLR.
        draws: of each, with seeds from 0.
        epoch: "labelled": one pass over the labelled samples. "all": as many as make up the training split, so that
            few labels get as many steps as all (JHang2020/HiCLR).
    """

    fractions: tuple[Share, ...] = Field(FRACTIONS, min_length=1)
    sampling: tuple[Sampling, ...] = Field(("unstratified", "stratified"), min_length=1)
    draws: int = Field(5, ge=1, le=1000)
    epoch: Literal["labelled", "all"] = "labelled"


class TransferConfig(Frozen):
    """Fine-tuning on another data set (maoyunyao/CMD: PKU-MMD II); the schedule is that of `finetune`.

    Attributes:
        dataset: where to.
        protocol: of it.
        data: folder of its store; None for the folder of the run's.
    """

    dataset: str = "pkummd2"
    protocol: str = "xsub"
    data: PlaceText | None = None


class FusionConfig(Frozen):
    """The runs of the other two streams, whose linear task has been scored as this run's.

    Attributes:
        bone, motion: folders of those runs; both are needed, but where one run has all three streams.
    """

    bone: LocalPath | None = None
    motion: LocalPath | None = None


class DetectionTaskConfig(DetectionConfig):
    """Detection in untrimmed videos.

    Attributes:
        dataset: whose videos.
        protocol: of it.
        data: folder of its store; None for the folder of the run's.
        tious: overlaps from which on a detection counts.
    """

    dataset: str = "pkummd1"
    protocol: str = "xsub"
    data: PlaceText | None = None
    tious: tuple[Threshold, ...] = Field((0.1, 0.2, 0.3, 0.4, 0.5), min_length=1)


class EvaluateConfig(Frozen):
    """Everything that changes a score.

    Attributes:
        layer: that frozen tasks read features from.
        centre_ratio: share of a sample, its middle, that views with the crop "centre" show; those of all test samples.
        degrees: largest angle by which training views with the crop "random" are turned about each axis, either way.
        validation: share of the training subjects that choose an epoch instead of training; 0 for none.
        repeats: runs of tasks that train something, with seeds from that of the task on.
        batch_size: samples encoded at a time.
        baselines: also score the encoder before training, and where there is nothing to train the coordinates.
    """

    linear: LinearConfig = LinearConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    semi: SemiConfig = SemiConfig()
    transfer: TransferConfig = TransferConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    fusion: FusionConfig = FusionConfig()
    occluded: OcclusionConfig = OcclusionConfig()
    detection: DetectionTaskConfig = DetectionTaskConfig()
    few_shot: FewShotConfig = FewShotConfig()
    robustness: RobustnessConfig = RobustnessConfig()
    early: EarlyConfig = EarlyConfig()
    layer: Layer = "last"
    centre_ratio: Share = 0.95
    degrees: float = Field(0.0, ge=0, le=180)
    validation: float = Field(0.0, ge=0, lt=1)
    repeats: int = Field(1, ge=1, le=1000)
    batch_size: int = Field(256, ge=1)
    baselines: bool = True
