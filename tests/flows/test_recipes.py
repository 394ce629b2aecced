"""The recipes are the published settings."""

import pytest

from flows.config import DataConfig, EvaluateConfig, apply_overrides, first_difference
from flows.recipes import METHODS, recipe
from shards.errors import ConfigError

DATA = DataConfig(dataset="ntu60", protocol="xsub", stream="bone")

PUBLISHED = {
    "train.epochs": 451,
    "train.batch_size": 128,
    "train.lr": 0.02,
    "train.momentum": 0.9,
    "train.weight_decay": 1e-4,
    "train.schedule": "step",
    "train.milestones": [351],
    "train.gamma": 0.1,
    "train.warmup_epochs": 0,
    "objective.encoder.hidden": 1024,
    "objective.encoder.layers": 3,
    "objective.encoder.direction": "parallel_forward",
    "objective.encoder.input_size": 150,
    "objective.feature_dim": 128,
    "objective.queue_size": 16384,
    "objective.momentum": 0.999,
    "objective.temperature": 0.07,
    "objective.teacher_temperature": 0.05,
    "objective.student_temperature": 0.1,
    "objective.contrast_weight": 1.0,
    "objective.distillation_weight": 1.0,
    "objective.prediction_weight": 40.0,
    "views.frames": 64,
    "views.min_ratio": 0.1,
    "views.max_ratio": 1.0,
    "views.corrupt_joints": 15,
    "views.mask_ratio": 0.6,
    "views.mask_segments": 8,
}


@pytest.mark.parametrize("method", ["pcm3pp", "pcm3"])
@pytest.mark.parametrize("key", PUBLISHED)
def test_a_method_has_its_published_settings(method: str, key: str) -> None:
    node = recipe(method, DATA).model_dump(mode="json")
    for name in key.split("."):
        node = node[name]
    assert node == PUBLISHED[key]


def test_pcm3pp_contrasts_five_pairs_and_pcm3_all_but_the_clip() -> None:
    assert recipe("pcm3pp", DATA).objective.pairs == ("base", "masked", "predicted", "mix", "clip")
    assert recipe("pcm3", DATA).objective.pairs == ("base", "masked", "predicted", "mix")


@pytest.mark.parametrize("method", METHODS)
def test_a_recipe_carries_its_name_and_the_data_it_is_given(method: str) -> None:
    config = recipe(method, DATA)
    assert (config.method, config.data) == (method, DATA)


def test_the_published_recipes_differ_in_pairs_and_name_only() -> None:
    plus, plain = recipe("pcm3pp", DATA), recipe("pcm3", DATA)
    objective = plain.objective.model_copy(update={"pairs": plus.objective.pairs})
    assert first_difference(plus, plain.model_copy(update={"method": "pcm3pp", "objective": objective})) is None


def test_the_small_recipe_is_pcm3pp_but_for_size_and_pace() -> None:
    plus, small = recipe("pcm3pp", DATA).model_dump(), recipe("pcm3pp-small", DATA).model_dump()
    for method in (plus, small):
        method["objective"]["encoder"].pop("hidden")
        for name in ("queue_size", "momentum"):
            method["objective"].pop(name)
    assert small["objective"] == plus["objective"]
    assert recipe("pcm3pp-small", DATA).objective.encoder.hidden == 128


@pytest.mark.parametrize("method", METHODS)
def test_a_recipe_is_a_valid_configuration(method: str) -> None:
    config = recipe(method, DATA)
    assert apply_overrides(config, []) == config


def test_an_unknown_method_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown method 'moco', expected one of pcm3pp, pcm3pp-small, pcm3"):
        recipe("moco", DATA)


def test_downstream_tasks_have_their_published_settings() -> None:
    config = EvaluateConfig()
    assert config.baselines
    assert config.retrieval.metric == "cosine"
    linear = config.linear
    assert (linear.epochs, linear.lr, linear.milestones, linear.gamma) == (100, 0.1, (20, 50, 80), 0.1)
    assert (linear.batch_size, linear.momentum, linear.weight_decay, linear.crop) == (1024, 0.9, 0.0, "random")
