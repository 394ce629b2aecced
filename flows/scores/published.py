"""Published figures, in per cent, as the literature states them: what a result stands beside."""

from dataclasses import dataclass

from models.evaluation.results import Setting

_SEED = "A Benchmark and Beyond (arXiv 2406.02978)"


@dataclass(frozen=True)
class Published:
    """One figure.

    Attributes:
        method: as published, with what it was pre-trained on where that is not the data set itself.
        task, setting, score: the row of a task and its score.
        dataset, protocol: of the test.
        value: per cent.
        source: where it is stated.
    """

    method: str
    task: str
    dataset: str
    protocol: str
    value: float
    source: str
    setting: Setting | None = None
    score: str = "accuracy"


def _linear(method: str, **figures: float) -> list[Published]:
    """Linear evaluation of the joint stream, by data set and protocol."""
    return [
        Published(method, "linear", name.partition("_")[0], name.partition("_")[2], value, _SEED)
        for name, value in figures.items()
    ]


def _seed(pretrained: str, *figures: float) -> list[Published]:
    """A row of PCM3++ in the order of its paper's tables."""
    method = f"PCM3++, pre-trained on {pretrained}"
    places: list[tuple[str, str, str, Setting | None, str]] = [
        ("linear", "ntu60", "xsub", None, "accuracy"),
        ("linear", "ntu120", "xsub", None, "accuracy"),
        ("retrieval", "ntu60", "xsub", None, "accuracy"),
        ("retrieval", "ntu120", "xsub", None, "accuracy"),
        ("occluded", "ntu60", "xview", {"occlusion": "spatial"}, "accuracy"),
        ("occluded", "ntu60", "xview", {"occlusion": "temporal"}, "accuracy"),
        ("detection", "pkummd1", "xsub", None, "mAP@0.1"),
        ("detection", "pkummd1", "xsub", None, "mAP@0.5"),
        ("few_shot", "ntu120", "xset", {"shots": 1}, "accuracy"),
        ("few_shot", "ntu120", "xset", {"shots": 5}, "accuracy"),
    ]
    return [
        Published(method, task, dataset, protocol, value, _SEED, setting, score)
        for (task, dataset, protocol, setting, score), value in zip(places, figures, strict=True)
    ]


PUBLISHED: tuple[Published, ...] = (
    *_linear("PCM3++", ntu60_xsub=84.8, ntu60_xview=91.0, ntu120_xsub=76.7),
    *_linear("PCM3", ntu60_xsub=83.9, ntu60_xview=90.4, ntu120_xsub=76.5, ntu120_xset=77.5),
    *_linear("Eq-Contrast", ntu60_xsub=83.9, ntu60_xview=90.3, ntu120_xsub=75.7, ntu120_xset=77.2),
    *_linear("UmURL", ntu60_xsub=82.3, ntu60_xview=89.8, ntu120_xsub=73.5, ntu120_xset=74.3),
    *_linear("ActCLR", ntu60_xsub=80.9, ntu60_xview=86.7, ntu120_xsub=69.0, ntu120_xset=70.5),
    *_linear("HiCo", ntu60_xsub=80.6, ntu60_xview=88.6, ntu120_xsub=72.5, ntu120_xset=73.8),
    *_linear("CMD", ntu60_xsub=79.8, ntu60_xview=86.9, ntu120_xsub=70.3, ntu120_xset=71.5),
    *_linear("MAMP", ntu60_xsub=84.9, ntu60_xview=89.1, ntu120_xsub=78.6, ntu120_xset=79.1),
    *_linear("HaLP", ntu60_xsub=79.7, ntu60_xview=86.8, ntu120_xsub=71.1, ntu120_xset=72.2),
    *_linear("SkeleMixCLR", ntu60_xsub=79.6, ntu60_xview=84.4, ntu120_xsub=67.4, ntu120_xset=69.6),
    *_linear("CPM", ntu60_xsub=78.7, ntu60_xview=84.9),
    *_linear("HYSP", ntu60_xsub=78.2, ntu60_xview=82.6),
    *_linear("GL-Transformer", ntu60_xsub=76.3, ntu60_xview=83.8, ntu120_xsub=66.0, ntu120_xset=68.7),
    *_linear("SkeletonMAE", ntu60_xsub=74.8, ntu60_xview=77.7, ntu120_xsub=72.5, ntu120_xset=73.5),
    *_linear("AimCLR", ntu60_xsub=74.3, ntu60_xview=79.7, ntu120_xsub=63.4, ntu120_xset=63.4),
    *_linear("SkeletonCLR", ntu60_xsub=68.3, ntu60_xview=76.4, ntu120_xsub=56.8, ntu120_xset=55.9),
    *_seed("NTU 60", 84.8, 73.5, 75.4, 58.8, 88.0, 85.8, 75.5, 69.8, 66.7, 84.8),
    *_seed("NTU 120", 85.1, 76.7, 75.3, 64.5, 87.7, 88.2, 75.3, 69.4, 69.6, 87.2),
    *_seed("PKU-MMD", 77.6, 67.5, 65.1, 52.9, 78.0, 79.3, 70.7, 65.7, 58.9, 78.9),
    *_seed("NTU 120 and PKU-MMD", 85.8, 77.0, 76.2, 64.5, 88.4, 88.0, 76.2, 70.5, 69.4, 87.0),
)
