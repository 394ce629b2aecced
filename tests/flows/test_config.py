"""Overrides and configurations: typed, nested, refused with what was meant."""

import json
import re
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.config import (
    DataConfig,
    PretrainConfig,
    apply_overrides,
    change_values,
    first_difference,
    leaf_keys,
    read_config,
)
from flows.recipes import recipe
from flows.recipes.skeletonclr import SkeletonCLRViewsConfig
from flows.tasks.config import EvaluateConfig
from models.encoders.gru import GRUConfig
from models.encoders.stgcn import STGCNConfig
from models.encoders.transformer import TransformerConfig
from models.objectives.skeletonclr import SkeletonCLRConfig
from models.training.optimizers import AdamWConfig, SGDConfig
from models.training.schedule import Stage
from shards.errors import ConfigError
from shards.trees import flatten

BASE = recipe("pcm3pp", DataConfig(dataset="ntu60", protocol="xview"))


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.epochs=3", 3),
        ("train.lr=1", 1.0),
        ("train.lr=5e-3", 0.005),
        ("train.milestones=[4, 8]", (4, 8)),
        ("train.milestones=[]", ()),
        ("train.schedule=cosine", "cosine"),
        ('train.schedule="cosine"', "cosine"),
        ("objective.encoder.hidden=64", 64),
        ("objective.prompts=false", False),
        ("objective.prompt_width=null", None),
        ('objective.pairs=["base","mix"]', ("base", "mix")),
        ("data.window=3", 3),
        ("views.clip_frames=8", 8),
    ],
)
def test_an_override_sets_one_value_and_nothing_else(override: str, value: Any) -> None:
    config = apply_overrides(BASE, [override])
    node: Any = config
    for name in override.partition("=")[0].split("."):
        node = getattr(node, name)
    assert node == value
    assert type(node) is type(value)
    difference = first_difference(config, BASE)
    if difference is not None:
        assert difference.startswith(override.partition("=")[0])
    leaves = flatten(BASE.model_dump(mode="json"))
    assert [*leaves] == [*leaf_keys(BASE)]
    restored = apply_overrides(config, [f"{key}={json.dumps(value)}" for key, value in leaves.items()])
    assert restored == BASE


def test_the_last_of_two_overrides_of_one_key_counts() -> None:
    assert apply_overrides(BASE, ["train.epochs=3", "train.epochs=4"]).train.epochs == 4


def test_a_value_may_contain_an_equals_sign() -> None:
    with pytest.raises(ConfigError, match=r"train\.schedule: found 'a=b'"):
        apply_overrides(BASE, ["train.schedule=a=b"])


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("train.epoch", "train.epochs"),
        ("hidden", "objective.encoder.hidden"),
        ("objective.encoder.hiden", "objective.encoder.hidden"),
        ("train.learning_rate", "train.l"),
        ("train", "train."),
    ],
)
def test_an_unknown_key_names_the_nearest(key: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown key '{key}'") as caught:
        apply_overrides(BASE, [f"{key}=1"])
    assert meant in str(caught.value).partition("unknown key")[2].partition(";")[2]


def test_a_key_like_no_other_lists_all_keys() -> None:
    with pytest.raises(ConfigError, match="the keys are") as caught:
        apply_overrides(BASE, ["zzzzzzzz=1"])
    assert all(key in str(caught.value) for key in leaf_keys(BASE))


def test_an_override_without_an_equals_sign_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'train\.epochs': found no '=', expected key=value"):
        apply_overrides(BASE, ["train.epochs"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs=0", r"train\.epochs: found 0: .*greater than or equal to 1"),
        ("train.epochs=2.5", r"train\.epochs: found 2\.5: .*valid integer"),
        ("train.epochs=true", r"train\.epochs: found True: .*valid integer"),
        ('train.epochs="3"', r"train\.epochs: found '3': .*valid integer"),
        ("train.epochs=", r"train\.epochs: found '': .*valid integer"),
        ("train.lr=fast", r"train\.lr: found 'fast': .*valid number"),
        ("train.lr=NaN", "found NaN or infinity, expected finite numbers"),
        ("train.lr=1e999", "found NaN or infinity, expected finite numbers"),
        ("train.lr=inf", r"train\.lr: found 'inf': .*valid number"),
        ("train.schedule=linear", r"train\.schedule: found 'linear': .*'step', 'cosine' or 'plateau'"),
        ("train.milestones=[1,-2]", r"train\.milestones\.1: found -2"),
        ("objective.prompts=yes", r"objective\.prompts: found 'yes': .*valid boolean"),
        ("objective.pairs=[1]", r"objective\.pairs\.0: found 1"),
        ("views.frames=33", r"views: frames=33, expected a multiple of 16"),
        ("objective.queue_size=128", r"objective\.queue_size is 128, expected more than train\.batch_size 128"),
        ("train.batch_size=48", r"objective\.queue_size is 16384, expected a multiple of train\.batch_size 48"),
        ("objective.queue_size=200", r"objective\.queue_size is 200, expected a multiple of train\.batch_size 128"),
        ('objective.pairs=["crop"]', r"objective\.pairs\.0: found 'crop': .*'base', 'masked', 'predicted', 'mix'"),
        ("objective.input_statistics=each", r"objective\.input_statistics: found 'each': .*'all_views' or 'base_view'"),
        ("objective.distillation_top_k=1", r"objective\.distillation_top_k: found 1: .*greater than or equal to 2"),
        ("objective.pairs=[]", r"pairs \(\) found, expected at least one of"),
        ("objective.prompt_width=1025", r"prompt_width 1025 found, expected at most encoder\.hidden 1024"),
        ("objective.distillation_top_k=16385", r"distillation_top_k 16385 found, expected at most queue_size 16384"),
        ("objective.encoder.input_size=75", r"objective\.encoder\.input_size is 75, expected 150"),
        ("train.batch_size=2", r"train\.batch_size is 2, expected at least 3: each sample is mixed with another one"),
        ("train.batch_size=1", r"train\.batch_size is 1, expected at least 3"),
        ("train.optimizer.weight_decay=50", r"train: lr 0\.02 times weight_decay 50 is 1, expected less than 1"),
    ],
)
def test_a_value_of_the_wrong_type_or_range_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^--set: {message}") as caught:
        apply_overrides(BASE, [override])
    assert "\n" not in str(caught.value)


# what would end in an overflow, a memory that no machine has, or NaN, before the second step or in it
TOO_MUCH = {
    "data.weight": 1e30,
    "data.samples": 10**30,
    "views.frames": 1 << 40,
    "views.min_frames": 1 << 64,
    "objective.encoder.hidden": 10**9,
    "objective.encoder.layers": 10**9,
    "objective.feature_dim": 10**18,
    "objective.queue_size": 10**18,
    "objective.decoder_width": 10**18,
    "objective.prompt_width": 10**18,
    "objective.contrast_weight": 1e30,
    "objective.distillation_weight": 1e30,
    "objective.prediction_weight": 1e9,
    "objective.temperature": 1e30,
    "objective.teacher_temperature": 1e30,
    "objective.student_temperature": 1e30,
    "train.epochs": 10**9,
    "train.stages.post.epochs": 10**9,
    "train.lr": 1e9,
    "train.stages.post.lr": 1e9,
    "train.gamma": 1e9,
    "train.seed": 1 << 64,
}


@pytest.mark.parametrize(("key", "value"), TOO_MUCH.items(), ids=TOO_MUCH)
def test_a_value_that_no_training_bears_is_refused(key: str, value: float) -> None:
    place = key.replace("stages.post", "stages.0")  # a list's parts are numbered where its values are checked
    found = rf"^--set: {place}: found {re.escape(repr(value))}: Input should be less than"
    with pytest.raises(ConfigError, match=found):
        apply_overrides(BASE, [f"{key}={value}"])


@pytest.mark.parametrize("kind", ["temperature", "teacher_temperature", "student_temperature"])
def test_a_temperature_whose_gradient_overflows_is_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match=rf"objective\.{kind}: found 1e-30: Input should be greater than or equal to"):
        apply_overrides(BASE, [f"objective.{kind}=1e-30"])


def test_the_decay_of_the_second_stage_counts_where_there_is_one() -> None:
    overrides = ["train.optimizer.weight_decay=10", "train.stages.post.lr=0.1"]
    config = apply_overrides(BASE, [*overrides, "train.stages.post.epochs=0"])
    assert config.train.optimizer.weight_decay == 10
    with pytest.raises(ConfigError, match=r"train: lr 0\.1 times weight_decay 10 is 1, expected less than 1"):
        apply_overrides(BASE, [*overrides, "train.stages.post.epochs=1"])


CONTRAST = recipe("skeletonclr", DataConfig(dataset="ntu60", protocol="xview"))

KINDS: list[tuple[PretrainConfig, tuple[str, ...], dict[str, Any]]] = [
    (BASE, ("train.optimizer.kind=adamw",), {"train.optimizer": AdamWConfig()}),
    (
        BASE,
        ("train.optimizer.kind=adamw", "train.optimizer.layer_decay=0.5", "train.optimizer.weight_decay=0.1"),
        {"train.optimizer": AdamWConfig(layer_decay=0.5, weight_decay=0.1)},
    ),
    (BASE, ("train.optimizer.kind=sgd", "train.optimizer.momentum=0.5"), {"train.optimizer": SGDConfig(momentum=0.5)}),
    (
        CONTRAST,
        ("objective.encoder.kind=gru", "objective.encoder.hidden=64"),
        {"objective.encoder": GRUConfig(hidden=64)},
    ),
    # neither fits without the other
    (
        CONTRAST,
        ("objective.encoder.kind=transformer", "views.frames=64"),
        {"objective.encoder": TransformerConfig(), "views.frames": 64},
    ),
    # an encoder that the objective takes only once it is another one itself
    (
        BASE,
        (
            *("objective.kind=skeletonclr", "objective.encoder.kind=stgcn", "objective.encoder.width=4"),
            *("views.kind=skeletonclr", "views.shift=0.25", "train.stages=[]"),
        ),
        {
            "objective": SkeletonCLRConfig(encoder=STGCNConfig(width=4)),
            "views": SkeletonCLRViewsConfig(shift=0.25),
            "train.stages": (),
        },
    ),
]


@pytest.mark.parametrize(("config", "overrides", "changes"), KINDS, ids=[kind[1][0] for kind in KINDS])
def test_another_kind_takes_its_own_defaults_whatever_the_order_of_the_overrides(
    config: PretrainConfig, overrides: tuple[str, ...], changes: dict[str, Any]
) -> None:
    for order in permutations(overrides):
        assert apply_overrides(config, order) == change_values(config, changes)


@pytest.mark.parametrize(
    ("config", "overrides", "nearest"),
    [
        (
            BASE,
            ("train.optimizer.kind=adamw", "train.optimizer.momentum=0.5"),
            "train.optimizer.betas, train.optimizer.eps, train.optimizer.kind",
        ),
        (
            CONTRAST,
            ("objective.encoder.kind=gru", "objective.encoder.width=4"),
            "objective.encoder.kind, objective.encoder.hidden, objective.encoder.direction",
        ),
        (CONTRAST, ("views.min_frames=8",), "views.frames, views.kind, views.shift"),
        (BASE, ("train.stages.main.epochs=8",), "train.stages.post.epochs, train.stages.post.lr"),
    ],
)
def test_an_option_of_another_kind_is_refused_with_the_nearest_names(
    config: PretrainConfig, overrides: tuple[str, ...], nearest: str
) -> None:
    for order in permutations(overrides):
        with pytest.raises(
            ConfigError, match=rf"^--set '{re.escape(overrides[-1])}': unknown key .*; nearest: "
        ) as caught:
            apply_overrides(config, order)
        assert str(caught.value).partition("; nearest: ")[2].startswith(nearest)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.optimizer.kind=lion", "train.optimizer: .*'lion'.*expected tags: 'sgd', 'adam', 'adamw'"),
        (
            "objective.kind=moco",
            "objective: objective 'moco': found no such kind, expected one of .*pcm3pp, .*skeletonclr",
        ),
        ("objective.kind=skeletonlcr", "objective: .*; nearest: skeletonclr"),
        (
            "views.kind=[1]",
            r"views: views \[1\]: found no such kind, expected one of aimclr, .*pcm3pp, .*skeletonclr",
        ),
        ("objective.encoder.kind=stgcn", "objective.encoder.kind: found 'stgcn': Input should be 'gru'"),
    ],
)
def test_a_kind_that_there_is_not_is_refused_with_those_there_are(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^--set: {message}") as caught:
        apply_overrides(BASE, [override])
    assert "\n" not in str(caught.value)


def test_options_of_a_stage_are_set_by_its_name() -> None:
    config = apply_overrides(BASE, ["train.stages.post.epochs=7", "train.stages.post.schedule=cosine"])
    (before,), (stage,) = BASE.train.stages, config.train.stages
    assert stage == before.model_copy(update={"epochs": 7, "schedule": "cosine"})
    assert (config.train.ends, BASE.train.ends) == ((451, 458), (451, 602))
    more = apply_overrides(BASE, ['train.stages=[{"name": "post", "epochs": 1}]', "train.stages.post.lr=0.5"])
    assert more.train.stages == (Stage(name="post", epochs=1, lr=0.5),)


@pytest.mark.parametrize("stages", ["[]", "3", "null", '["post"]', '[{"name": [1]}]'])
def test_an_option_of_a_stage_that_another_override_took_away_is_refused(stages: str) -> None:
    with pytest.raises(ConfigError, match=r"^--set 'train\.stages\.post\.lr=0\.5': found no train\.stages\.post\.lr"):
        apply_overrides(BASE, [f"train.stages={stages}", "train.stages.post.lr=0.5"])


@pytest.mark.parametrize("task", ["linear", "finetune", "detection"])
def test_a_layer_is_trained_by_a_rate_and_a_decay_that_it_bears(task: str) -> None:
    decay = f"{task}.weight_decay" if task == "detection" else f"{task}.optimizer.weight_decay"
    for override, message in (
        (f"{task}.lr=1e9", rf"{task}\.lr: found 1000000000\.0: Input should be less than or equal to 100"),
        (f"{task}.gamma=2", rf"{task}\.gamma: found 2: Input should be less than or equal to 1"),
        (f"{decay}=1000", rf"{task}: lr 0\.?\d* times weight_decay 1000 is \d+, expected less than 1"),
        (f"{task}.seed={1 << 31}", rf"{task}\.seed: found {1 << 31}: Input should be less than {1 << 31}"),
    ):
        with pytest.raises(ConfigError, match=f"^--set: {message}"):
            apply_overrides(EvaluateConfig(), [override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("detection.train_strides=[5,3]", "expected the smallest and the largest stride, in this order"),
        ("detection.train_strides=[1,1000000000]", "less than or equal to 1000000"),
        ("detection.window=1000000000", "less than or equal to 4096"),
        ("detection.look_ahead=1e9", "valid integer"),
        ("detection.post.half_width=100000000000000000000", "less than or equal to 1000000"),
        ("few_shot.episodes=1000000000", "less than or equal to 1000000"),
        ("occluded.kinds=[]", "at least 1 item"),
        ("semi.draws=1000000", "less than or equal to 1000"),
        ("repeats=1000000", "less than or equal to 1000"),
    ],
)
def test_an_option_of_a_task_that_could_only_fail_late_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^--set: {override.partition('=')[0]}.*: .*{message}"):
        apply_overrides(EvaluateConfig(), [override])


def test_a_stage_of_terms_that_the_objective_does_not_have_is_refused() -> None:
    none, post = "train.stages.post.epochs=0", "train.stages.post.epochs=2"
    (left_out,) = apply_overrides(BASE, [none, "objective.distillation_weight=0"]).train.stages
    assert left_out.epochs == 0
    message = (
        r"train\.stages\.post\.terms is \('distill', 'prediction'\), expected some of .*\('base', .*, 'prediction'\)"
    )
    with pytest.raises(ConfigError, match=message):
        apply_overrides(BASE, [post, "objective.distillation_weight=0"])
    with pytest.raises(ConfigError, match="'prediction'"):
        apply_overrides(BASE, [post, "objective.prediction_weight=0"])
    with pytest.raises(ConfigError, match=r"train\.stages\.post\.terms is \('distill/joint',\), expected some of"):
        apply_overrides(BASE, [post, 'train.stages.post.terms=["distill/joint"]'])  # a term of several streams
    terms = 'train.stages.post.terms=["distill"]'
    (alone,) = apply_overrides(BASE, [post, "objective.prediction_weight=0", terms]).train.stages
    assert alone.terms == ("distill",)


def test_recipes_change_values_by_their_dotted_names_and_leave_the_original() -> None:
    config = change_values(BASE, {"train.epochs": 3, "objective.encoder.hidden": 8, "method": "pcm3"})
    assert (config.train.epochs, config.objective.encoder.hidden, config.method) == (3, 8, "pcm3")
    restored = change_values(config, {"train.epochs": 451, "objective.encoder.hidden": 1024, "method": "pcm3pp"})
    assert restored == BASE != config
    with pytest.raises(AssertionError, match="TrainConfig has no epoch"):
        change_values(BASE, {"train.epoch": 3})


def test_all_wrong_values_are_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"train\.epochs.*; train\.lr"):
        apply_overrides(BASE, ["train.epochs=0", "train.lr=0"])


def test_evaluation_options_are_set_the_same_way() -> None:
    config = apply_overrides(EvaluateConfig(), ["linear.epochs=3", "baselines=false", "retrieval.metric=euclidean"])
    assert (config.linear.epochs, config.baselines, config.retrieval.metric) == (3, False, "euclidean")
    with pytest.raises(ConfigError, match="batch_size: found 0"):
        apply_overrides(EvaluateConfig(), ["batch_size=0"])


@given(
    epochs=st.integers(1, 10**6),
    lr=st.floats(0, 100, exclude_min=True),
    milestones=st.lists(st.integers(0, 10**6), max_size=5),
    hidden=st.integers(64, 4096),
    window=st.integers(0, 1000),
    prompts=st.booleans(),
    width=st.none() | st.integers(1, 64),
)
def test_any_values_survive_override_file_and_reading(
    tmp_path_factory: pytest.TempPathFactory,
    epochs: int,
    lr: float,
    milestones: list[int],
    hidden: int,
    window: int,
    prompts: bool,
    width: int | None,
) -> None:
    config = apply_overrides(
        BASE,
        [
            f"train.epochs={epochs}",
            f"train.lr={lr!r}",
            f"train.milestones={milestones}",
            f"objective.encoder.hidden={hidden}",
            f"data.window={window}",
            f"objective.prompts={json.dumps(prompts)}",
            f"objective.prompt_width={json.dumps(width)}",
        ],
    )
    assert (config.train.epochs, config.train.lr, config.train.milestones) == (epochs, lr, tuple(milestones))
    assert (config.objective.encoder.hidden, config.data.window) == (hidden, window)
    assert (config.objective.prompts, config.objective.prompt_width) == (prompts, width)
    path = tmp_path_factory.getbasetemp() / "config.json"
    path.write_text(json.dumps(config.model_dump(mode="json")))
    assert read_config(path) == config
    assert first_difference(read_config(path), config) is None


@given(st.text(max_size=30))
def test_any_text_is_an_override_or_one_clear_error(text: str) -> None:
    for override in (text, f"train.epochs={text}", f"{text}=1"):
        said = refusal(override)
        assert said is None or said.startswith("--set")


def refusal(override: str) -> str | None:
    try:
        apply_overrides(BASE, [override])
    except ConfigError as error:
        return str(error)
    return None


def test_the_first_differing_key_is_named_with_both_values() -> None:
    other = apply_overrides(BASE, ["views.clip_frames=8", "train.epochs=3"])
    assert first_difference(BASE, BASE) is None
    assert first_difference(BASE, other) == "train.epochs is 451 there and 3 here"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "found no readable configuration"),
        (b"{", "found no readable configuration"),
        (b"\xff\xfe\x00", "found no readable configuration"),
        (b"[1]", "found a JSON list"),
        (b"{}", "method"),
        (b'{"objective": {"encoder": {"hidden": 8}}}', "run of an older version of skelstream, expected one of this"),
        (b'{"method": "pcm3pp", "data": {"dataset": "ntu60", "protocol": "xview"}, "size": 3}', "size: found 3"),
    ],
)
def test_a_file_that_holds_no_configuration_is_refused_by_name(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_config(path)
    assert str(path) in str(caught.value)
