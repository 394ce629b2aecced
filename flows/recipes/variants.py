"""Variants of a method: what each changes of a configuration, at any scale; `listing` has a line about each."""

from collections.abc import Callable
from typing import Any

from flows.config import PretrainConfig

Changes = dict[str, Any]


def _without(config: PretrainConfig, *pairs: str) -> Changes:
    return {"objective.pairs": tuple(pair for pair in config.objective.pairs if pair not in pairs)}


VARIANTS: dict[str, Callable[[PretrainConfig], Changes]] = {
    "no-novel-positives": lambda config: _without(config, "masked", "predicted"),
    "no-predicted": lambda config: _without(config, "predicted"),
    "no-guidance": lambda _: {"objective.guidance": False},
    "no-clip": lambda config: _without(config, "clip"),
    "no-post": lambda _: {"train.post.epochs": 0},
    "no-prompts": lambda _: {"objective.prompts": False},
    "prompts-before-norm": lambda _: {"objective.encoder.prompt_place": "before_norm"},
    "base-statistics": lambda _: {"objective.input_statistics": "base_view"},
    "bidirectional": lambda _: {"objective.encoder.direction": "bidirectional"},
    "released-streams": lambda _: {
        "objective.prompts": False,
        "objective.guidance": False,
        "objective.distillation_weight": 0.0,
        "train.post.epochs": 0,
    },
    "clip-queue": lambda _: {"objective.clip_queue": True},
    "top-k": lambda config: {"objective.distillation_top_k": config.objective.queue_size // 2},
    "mix-per-sample": lambda _: {"views.mix_scope": "sample"},
    "mask-per-sample": lambda _: {"views.mask_scope": "sample"},
    "mask-joints": lambda _: {"views.mask_granularity": "joint"},
}
