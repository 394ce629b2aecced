"""The recipes are the published settings, and their variants change what they say and nothing else."""

from itertools import pairwise
from typing import Any

import pytest

from flows.config import DataConfig, PretrainConfig, apply_overrides, change_values
from flows.recipes import METHODS, recipe
from flows.recipes.listing import describe_method, list_methods
from flows.recipes.method import TINY
from flows.recipes.pcm3 import PAPER_ROWS
from flows.tasks.config import EvaluateConfig
from models.objectives.pcm3pp import PCM3PPConfig
from models.training.optimizers import SGDConfig
from models.training.schedule import Stage
from shards.errors import ConfigError
from shards.trees import flatten

DATA = DataConfig(dataset="ntu60", protocol="xsub", streams=("bone",))

PUBLISHED = {
    "train.epochs": 451,
    "train.batch_size": 128,
    "train.lr": 0.02,
    "train.optimizer.kind": "sgd",
    "train.optimizer.momentum": 0.9,
    "train.optimizer.weight_decay": 1e-4,
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
    "objective.distillation_top_k": None,
    "objective.input_statistics": "all_views",
    "objective.clip_queue": False,
    "objective.encoder.prompt_place": "after_norm",
    "objective.prompts": True,
    "objective.guidance": True,
    "views.mix_scope": "batch",
    "views.mask_scope": "batch",
    "views.mask_granularity": "part",
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
    assert _values(recipe(method, DATA))[key] == PUBLISHED[key]


def test_pcm3pp_contrasts_five_pairs_and_pcm3_all_but_the_clip() -> None:
    assert _objective("pcm3pp").pairs == ("base", "masked", "predicted", "mix", "clip")
    assert _objective("pcm3").pairs == ("base", "masked", "predicted", "mix")


def _objective(method: str) -> PCM3PPConfig:
    objective = recipe(method, DATA).objective
    assert isinstance(objective, PCM3PPConfig)
    return objective


@pytest.mark.parametrize("method", METHODS)
def test_a_recipe_carries_its_name_and_the_data_it_is_given(method: str) -> None:
    config = recipe(method, DATA)
    assert (config.method, config.data) == (method, DATA)


def test_pcm3pp_ends_with_the_published_post_distillation_and_pcm3_has_none() -> None:
    assert recipe("pcm3pp", DATA).train.stages == (
        Stage(name="post", epochs=151, schedule="constant", lr=0.002, terms=("distill", "prediction"), fresh=True),
    )
    assert recipe("pcm3", DATA).train.stages == ()


def test_the_published_recipes_differ_in_pairs_post_distillation_and_name_only() -> None:
    assert _differing(recipe("pcm3pp", DATA), recipe("pcm3", DATA)) == {
        "method",
        "objective.pairs",
        "train.stages",
    }


def test_the_small_recipe_is_pcm3pp_but_for_size_and_pace() -> None:
    plus, small = recipe("pcm3pp", DATA).model_dump(), recipe("pcm3pp-small", DATA).model_dump()
    for method in (plus, small):
        method["objective"]["encoder"].pop("hidden")
        for name in ("queue_size", "momentum"):
            method["objective"].pop(name)
    assert small["objective"] == plus["objective"]
    assert _objective("pcm3pp-small").encoder.hidden == 128


@pytest.mark.parametrize("method", METHODS)
def test_a_recipe_is_a_valid_configuration(method: str) -> None:
    config = recipe(method, DATA)
    assert apply_overrides(config, []) == config


def test_an_unknown_method_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown method 'moco', expected one of .*pcm3, pcm3pp, pcm3pp-small"):
        recipe("moco", DATA)
    with pytest.raises(ConfigError, match="; nearest: pcm3pp, "):
        recipe("pcm3p", DATA)


CHANGES: dict[str, dict[str, Any]] = {
    "no-novel-positives": {"objective.pairs": ["base", "mix", "clip"]},
    "no-predicted": {"objective.pairs": ["base", "masked", "mix", "clip"]},
    "no-guidance": {"objective.guidance": False},
    "no-clip": {"objective.pairs": ["base", "masked", "predicted", "mix"]},
    "no-post": {"train.stages": []},
    "no-prompts": {"objective.prompts": False},
    "prompts-before-norm": {"objective.encoder.prompt_place": "before_norm"},
    "base-statistics": {"objective.input_statistics": "base_view"},
    "bidirectional": {"objective.encoder.direction": "bidirectional"},
    "released-streams": {
        "objective.prompts": False,
        "objective.guidance": False,
        "objective.distillation_weight": 0.0,
        "train.stages": [],
    },
    "clip-queue": {"objective.clip_queue": True},
    "top-k": {"objective.distillation_top_k": 8192},
    "mix-per-sample": {"views.mix_scope": "sample"},
    "mask-per-sample": {"views.mask_scope": "sample"},
    "mask-joints": {"views.mask_granularity": "joint"},
}


def _values(config: PretrainConfig) -> dict[str, Any]:
    return flatten(config.model_dump(mode="json"))


def _differing(a: PretrainConfig, b: PretrainConfig) -> set[str]:
    left, right = _values(a), _values(b)
    return {key for key in left if left[key] != right[key]}


@pytest.mark.parametrize("variant", CHANGES)
def test_a_variant_changes_what_it_says_and_nothing_else(variant: str) -> None:
    plain, config = recipe("pcm3pp", DATA), recipe(f"pcm3pp+{variant}", DATA)
    assert _differing(plain, config) == {"method", *CHANGES[variant]}
    assert {key: _values(config)[key] for key in CHANGES[variant]} == CHANGES[variant]
    assert (config.method, config.data) == (f"pcm3pp+{variant}", DATA)


@pytest.mark.parametrize("variant", CHANGES)
def test_a_variant_works_at_any_scale_and_gives_a_model(variant: str) -> None:
    config = recipe(f"pcm3pp-small+{variant}", DATA)
    assert _differing(recipe("pcm3pp-small", DATA), config) == {"method", *CHANGES[variant]}
    assert isinstance(config.objective, PCM3PPConfig)
    assert config.objective.distillation_top_k in (None, config.objective.queue_size // 2)
    change_values(config, {"objective.encoder.hidden": 8}).objective.build(DATA.streams)


def test_every_variant_of_pcm3pp_is_known_here() -> None:
    assert set(METHODS["pcm3pp"].variants) == {*CHANGES, TINY}


# what the predecessor lacks, a variant cannot change
REFUSED = {("pcm3", "no-clip"), ("pcm3", "no-post"), ("pcm3", "clip-queue")}
PAIRS = {(name, variant) for name, method in METHODS.items() for variant in method.variants if variant != TINY}


@pytest.mark.parametrize(("method", "variant"), sorted(PAIRS - REFUSED))
def test_each_variant_of_each_method_gives_views_and_a_model(method: str, variant: str) -> None:
    tiny, config = recipe(f"{method}+{TINY}", DATA), recipe(f"{method}+{TINY}+{variant}", DATA)
    assert METHODS[method].variants[variant].about
    assert config.views.spec(DATA.streams).frames == config.views.frames == tiny.views.frames
    assert config.train.total_epochs in (2, 3)
    objective = config.objective.build(DATA.streams, config.train.seed)
    assert list(objective.encoders) == ["bone"]
    assert sum(parameter.numel() for parameter in objective.parameters()) < 100_000


@pytest.mark.parametrize(("method", "variant"), sorted(REFUSED))
def test_a_variant_of_what_a_method_lacks_is_refused_at_any_size(method: str, variant: str) -> None:
    with pytest.raises(ConfigError, match=f"^method '{method}"):
        recipe(f"{method}+{TINY}+{variant}", DATA)


@pytest.mark.parametrize("method", METHODS)
def test_a_tiny_run_is_the_method_but_for_size_and_pace(method: str) -> None:
    full, tiny = _values(recipe(method, DATA)), _values(recipe(f"{method}+{TINY}", DATA))
    assert {key for key in full if key.endswith("kind")} == {key for key in tiny if key.endswith("kind")}
    assert all(tiny[key] == full[key] for key in full if key.endswith("kind"))
    assert tiny["train.optimizer.weight_decay"] == full["train.optimizer.weight_decay"]
    assert tiny["train.lr"] == full["train.lr"]


def test_variants_are_applied_one_after_the_other() -> None:
    method = "pcm3pp-small+no-clip+no-post+no-prompts"
    config, objective = recipe(method, DATA), _objective(method)
    assert objective.pairs == ("base", "masked", "predicted", "mix")
    assert (config.train.stages, objective.prompts) == ((), False)
    assert config.method == method


def test_the_predecessor_is_the_method_without_clip_and_post_distillation() -> None:
    assert _differing(recipe("pcm3", DATA), recipe("pcm3pp+no-clip+no-post", DATA)) == {"method"}


def test_an_unknown_variant_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'no-clips' of pcm3pp\+no-post, expected one of no-novel-pos"):
        recipe("pcm3pp+no-post+no-clips", DATA)
    with pytest.raises(ConfigError, match="unknown variant ''"):
        recipe("pcm3pp+", DATA)


@pytest.mark.parametrize(
    "method", ["pcm3+no-clip", "pcm3+no-post", "pcm3pp+no-clip+no-clip", "pcm3+released-streams+no-prompts"]
)
def test_a_variant_that_changes_nothing_is_refused(method: str) -> None:
    with pytest.raises(ConfigError, match=r"changes nothing of .*, expected a variant that does"):
        recipe(method, DATA)


def test_a_variant_that_does_not_fit_the_method_is_refused_by_its_name() -> None:
    with pytest.raises(
        ConfigError, match=r"^method 'pcm3\+clip-queue': clip_queue with pairs .*, expected 'clip' beside"
    ):
        recipe("pcm3+clip-queue", DATA)


@pytest.mark.parametrize(("row", "method", "figures"), PAPER_ROWS)
def test_each_row_of_the_papers_ablations_is_a_method(row: str, method: str, figures: str) -> None:
    assert recipe(method, DATA).method == method
    assert method in list_methods()
    assert f"{row}: {figures}" in list_methods()


def test_the_rows_of_the_paper_add_one_thing_each() -> None:
    rows = [recipe(method, DATA) for _, method, _ in PAPER_ROWS]
    steps = [_differing(before, after) - {"method"} for before, after in pairwise(rows)]
    novel, predicted, guidance, same, clip, post = steps
    assert novel == clip == {"objective.pairs"}
    assert predicted == {"objective.pairs", "objective.guidance"}
    assert (guidance, same, post) == ({"objective.guidance"}, set(), {"train.stages"})


def test_every_method_and_variant_has_a_line_in_the_list_of_methods() -> None:
    text = list_methods()
    for method in METHODS.values():
        assert method.name in text
        assert method.about in text
        assert all(name in describe_method(method.name) for name in method.variants)
    assert max(map(len, text.splitlines())) <= 120


def test_downstream_tasks_have_their_published_settings() -> None:
    config = EvaluateConfig()
    assert config.baselines
    assert config.retrieval.metric == "cosine"
    linear = config.linear
    assert (linear.epochs, linear.lr, linear.milestones, linear.gamma) == (100, 0.1, (20, 50, 80), 0.1)
    assert (linear.batch_size, linear.crop) == (1024, "random")
    assert linear.optimizer == SGDConfig(momentum=0.9, weight_decay=0.0)
