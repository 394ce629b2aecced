"""The downstream tasks by name."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from flows.tasks import detect, frozen, tuned
from flows.tasks.bench import Bench, Scored, Subject
from flows.tasks.config import EvaluateConfig
from models.evaluation.results import Setting

_BOTH: tuple[Subject, ...] = ("trained", "random encoder")
_ALL: tuple[Subject, ...] = (*_BOTH, "coordinates")


def _no_wait(bench: Bench, before: Collection[str]) -> str | None:
    return None


def _nothing(bench: Bench) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Task:
    """A downstream task.

    Attributes:
        settings: the rows of the task, for each subject; each is scored, stored and resumed by itself.
        score: scores one of them.
        parts: names of the options in `EvaluateConfig` that change its numbers.
        obstacle: why the task cannot be run here, or would be worthless, by the data and the options alone; None when
            it can.
        subjects: what is scored; with `baselines=false` the first alone.
        shown: scores of a table, those there are.
        waits: what another run, or a task that does not come before in this evaluation (the names of those that do are
            given), has yet to leave for it; None for nothing.
        other: details of its rows that tell on which other data or runs the numbers depend, as they would be now.
    """

    settings: Callable[[EvaluateConfig], list[Setting]]
    score: Callable[[Bench, Subject, Setting], Scored]
    parts: tuple[str, ...]
    obstacle: Callable[[Bench], str | None]
    subjects: tuple[Subject, ...] = _BOTH
    shown: tuple[str, ...] = ("accuracy", "best", "chosen")
    waits: Callable[[Bench, Collection[str]], str | None] = _no_wait
    other: Callable[[Bench], dict[str, Any]] = _nothing

    def options(self, config: EvaluateConfig, subject: Subject) -> dict[str, Any]:
        """Everything that changes its numbers, as JSON has it; options of the first part stand at the top."""
        own, *others = (_dumped(getattr(config, part)) for part in self.parts)
        # see `frozen.retrieve`
        changed = {"metric": "euclidean"} if subject == "coordinates" and "metric" in own else {}
        others_by_name = dict(zip(self.parts[1:], others, strict=True))
        return {**own, **changed, **others_by_name, "test_crop": f"centre {config.centre_ratio:g}"}


def _dumped(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


_HEAD = ("linear", "layer", "degrees", "validation")

TASKS: dict[str, Task] = {
    "linear": Task(frozen.linear_settings, frozen.linear, _HEAD, frozen.find_head_obstacle),
    "retrieval": Task(
        frozen.one_row,
        frozen.retrieve,
        ("retrieval", "layer"),
        frozen.find_retrieval_obstacle,
        _ALL,
        ("accuracy", "mAP"),
    ),
    "few_shot": Task(
        frozen.few_shot_settings,
        frozen.few_shots,
        ("few_shot", "layer"),
        frozen.find_few_shot_obstacle,
        _ALL,
        ("accuracy", "interval"),
    ),
    "occluded": Task(frozen.occluded_settings, frozen.occluded, ("occluded", *_HEAD), frozen.find_head_obstacle),
    "robustness": Task(
        frozen.robustness_settings, frozen.robustness, ("robustness", *_HEAD), frozen.find_head_obstacle
    ),
    "early": Task(frozen.early_settings, frozen.early, ("early", *_HEAD), frozen.find_head_obstacle),
    "finetune": Task(
        tuned.finetune_settings, tuned.tune, ("finetune", "degrees", "validation"), tuned.find_finetune_obstacle
    ),
    "semi": Task(
        tuned.semi_settings, tuned.semi, ("semi", "finetune", "degrees", "validation"), tuned.find_semi_obstacle
    ),
    "transfer": Task(
        tuned.transfer_settings,
        tuned.transfer,
        ("transfer", "finetune", "degrees"),
        tuned.find_transfer_obstacle,
        other=tuned.target_data,
    ),
    "detection": Task(
        detect.detection_settings,
        detect.detection,
        ("detection", "validation"),
        detect.find_detection_obstacle,
        shown=("mAP@0.1", "mAP@0.3", "mAP@0.5", "mAP_action@0.5", "best mAP@0.5", "chosen mAP@0.5"),
        other=detect.video_data,
    ),
    "fusion": Task(
        frozen.one_row,
        frozen.fusion,
        ("fusion", *_HEAD),
        frozen.find_fusion_obstacle,
        ("trained",),
        ("accuracy", "equal", "joint", "bone", "motion"),
        frozen.find_fusion_wait,
        frozen.fused_checkpoints,
    ),
}
