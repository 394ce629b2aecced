"""Downstream settings by the family of the encoder: their values, overrides on top, and results that name them."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from flows.config import read_config
from flows.evaluate import evaluate, find_finished_scores, find_omitted_tasks, resolve
from flows.options import EvaluateOptions, PretrainOptions
from flows.pretrain import pretrain
from flows.scores.summary import changes, options_text
from flows.tasks.config import EvaluateConfig
from flows.tasks.official import official
from flows.tasks.registry import TASKS
from flows.tasks.tuned import _Repeated
from models.encoders.encoder import ENCODERS, Family
from models.evaluation.class_scores import read_class_scores
from models.evaluation.results import TaskResult, read_results
from pipelines.conversion.convert import convert
from pipelines.synthetic import synthesize
from shards.batch import Views
from shards.errors import ConfigError
from shards.trees import flatten

FAMILIES = {"pcm3pp+tiny+no-post": "gru", "skeletonclr+tiny": "gcn", "mamp+tiny": "transformer"}

SGD = {"kind": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 0.0}
RAW = {"detection.coordinates": "raw", "detection.input_norm": "reestimate"}
PREPARED = {"detection.coordinates": "recipe", "detection.input_norm": "frozen"}
SETTINGS: dict[str, dict[str, Any]] = {
    "gru": {
        "linear.epochs": 100,
        "linear.batch_size": 1024,
        "linear.lr": 0.1,
        "linear.milestones": [20, 50, 80],
        "linear.crop": "random",
        **{f"linear.optimizer.{name}": value for name, value in SGD.items()},
        "finetune.epochs": 80,
        "finetune.batch_size": 64,
        "finetune.lr": 0.01,
        "finetune.milestones": [50, 70],
        "finetune.crop": "random",
        "finetune.head": "linear",
        **{f"finetune.optimizer.{name}": value for name, value in SGD.items()},
        "semi.sampling": ["unstratified", "stratified"],
        "semi.epoch": "labelled",
        "retrieval.metric": "cosine",
        **RAW,
        "centre_ratio": 0.95,
        "degrees": 0.0,
    },
    "gcn": {
        "linear.epochs": 100,
        "linear.batch_size": 128,
        "linear.lr": 3.0,
        "linear.milestones": [80],
        "linear.crop": "centre",
        "linear.init_std": 0.02,
        "linear.batch_norm": False,
        "linear.score_every": 5,
        **{f"linear.optimizer.{name}": value for name, value in SGD.items()},
        "finetune.epochs": 70,
        "finetune.batch_size": 64,
        "finetune.lr": 0.1,
        "finetune.milestones": [29, 54],
        "finetune.warmup_epochs": 4,
        "finetune.crop": "centre",
        **{f"finetune.optimizer.{n}": v for n, v in {**SGD, "nesterov": True, "weight_decay": 1e-4}.items()},
        "semi.sampling": ["stratified"],
        "semi.epoch": "all",
        "retrieval.metric": "cosine",
        **PREPARED,
        "centre_ratio": 1.0,
        "degrees": 0.0,
    },
    "transformer": {
        "linear.epochs": 100,
        "linear.batch_size": 256,
        "linear.lr": 0.1,
        "linear.min_lr": 0.0,
        "linear.schedule": "cosine",
        "linear.warmup_epochs": 0,
        "linear.crop": "random",
        "linear.init_std": 0.01,
        "linear.batch_norm": True,
        "linear.score_every": 1,
        **{f"linear.optimizer.{name}": value for name, value in SGD.items()},
        "finetune.epochs": 100,
        "finetune.batch_size": 48,
        "finetune.lr": 3e-4,
        "finetune.min_lr": 1e-5,
        "finetune.schedule": "cosine",
        "finetune.warmup_epochs": 5,
        "finetune.label_smoothing": 0.1,
        "finetune.head": "mlp",
        "finetune.dropout": 0.3,
        "finetune.drop_path": 0.3,
        "finetune.score_every": 1,
        "finetune.optimizer.kind": "adamw",
        "finetune.optimizer.betas": [0.9, 0.999],
        "finetune.optimizer.weight_decay": 0.05,
        "finetune.optimizer.layer_decay": 0.8,
        "semi.sampling": ["unstratified"],
        "semi.epoch": "labelled",
        "retrieval.metric": "cosine",
        **PREPARED,
        "centre_ratio": 0.95,
        "degrees": math.degrees(0.3),
    },
}


@pytest.mark.parametrize("family", SETTINGS)
def test_a_family_has_its_published_settings(family: Family) -> None:
    found = flatten(official(family).model_dump(mode="json"))
    assert {name: found[name] for name in SETTINGS[family]} == SETTINGS[family]


def test_the_defaults_are_those_of_the_gru_and_so_is_what_is_not_known_of_a_family() -> None:
    assert official("gru") == EvaluateConfig()
    for family in set(get_args(Family)) - SETTINGS.keys():
        found, gru = (flatten(official(each).model_dump(mode="json")) for each in (family, "gru"))
        assert {name: value for name, value in found.items() if value != gru[name]} == PREPARED


def test_the_options_of_an_encoder_tell_its_family() -> None:
    families = {}
    for kind in ENCODERS.names():
        config = ENCODERS.find(kind)
        with torch.device("meta"):
            assert config().build().family == config.family
        families[kind] = config.family
    assert {kind: families[kind] for kind in ("gru", "stgcn", "transformer")} == {
        "gru": "gru",
        "stgcn": "gcn",
        "transformer": "transformer",
    }


@pytest.fixture(scope="module")
def runs(options: Callable[..., PretrainOptions], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of each family, in the folder `store`'s data lie in."""
    folder = tmp_path_factory.mktemp("families")
    for method, family in FAMILIES.items():
        pretrain(options(folder / family, method=method))
    return {family: folder / family for family in FAMILIES.values()}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of four untrimmed videos of three classes."""
    folder = tmp_path_factory.mktemp("videos")
    raw = synthesize("pkummd1", folder / "raw", subjects=2, classes=3, samples=4, seed=0, zipped=False)
    return convert("pkummd1", [raw], folder / "data", workers=0).folder


def ask(run: Path, *tasks: str, overrides: tuple[str, ...] = ()) -> EvaluateOptions:
    return EvaluateOptions(run=run, tasks=tasks or ("linear",), overrides=overrides, device="cpu")


@pytest.mark.parametrize("family", SETTINGS)
def test_an_evaluation_starts_from_the_settings_of_the_run_with_overrides_on_top(
    runs: dict[str, Path], family: Family
) -> None:
    assert resolve(ask(runs[family])) == official(family)
    found = resolve(ask(runs[family], overrides=("linear.epochs=7", "finetune.optimizer.kind=adam")))
    expected = official(family)
    assert found.linear == expected.linear.model_copy(update={"epochs": 7})
    assert found.finetune.optimizer.kind == "adam"
    assert found.finetune.lr == expected.finetune.lr
    config = read_config(runs["gcn"] / "config.json")
    assert resolve(ask(Path("nowhere")), config) == official("gcn")


SHORT = (
    "linear.epochs=2",
    "finetune.epochs=1",
    "finetune.batch_size=31",  # of 32 samples: the last batch is a single one
    "detection.epochs=1",
    "detection.tious=[0.5]",
    "baselines=false",
)


@pytest.mark.parametrize("family", ["gcn", "transformer"])
def test_every_kind_of_task_scores_a_run_of_another_family_and_says_by_which_settings(
    runs: dict[str, Path], videos: Path, tmp_path: Path, family: Family
) -> None:
    shutil.copytree(runs[family], tmp_path / "run")
    tasks = ("linear", "retrieval", "finetune", "detection")
    request = ask(tmp_path / "run", *tasks, overrides=(*SHORT, f"detection.data={videos}"))
    rows = {row.task: row for row in evaluate(request)}
    assert tuple(rows) == tasks
    assert {row.family for row in rows.values()} == {family}
    assert {name: row.official for name, row in rows.items()} == {name: name == "retrieval" for name in tasks}
    assert rows["retrieval"].options["test_crop"] == f"centre {official(family).centre_ratio:g}"
    assert options_text(rows["retrieval"]) == f"official {family}"
    assert options_text(rows["linear"]) == f"official {family}, epochs 2"
    assert changes(rows["finetune"]).keys() == {"batch_size", "epochs"}
    assert all(0 <= value <= 1 for row in rows.values() for value in row.scores.values())
    assert find_finished_scores(request) == list(rows.values())
    stored = read_results(tmp_path / "run" / "results" / "linear.json")
    assert [(row.family, row.official) for row in stored] == [(family, False)]


def test_the_untouched_setting_of_a_family_is_official(runs: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(runs["gcn"], tmp_path / "run")
    (row,) = evaluate(ask(tmp_path / "run", "linear", overrides=("baselines=false", "linear.seed=3")))
    assert (row.family, row.official, changes(row)) == ("gcn", True, {})
    assert row.details["scored_epochs"] == list(range(4, 100, 5))
    curve = row.details["curve"]
    assert isinstance(curve, list)
    assert len(curve) == 20


def test_rows_of_another_setting_are_scored_anew_and_rows_of_the_same_are_not(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(runs["transformer"], tmp_path / "run")
    short = ("linear.epochs=1", "baselines=false")
    (first,) = evaluate(ask(tmp_path / "run", overrides=short))
    assert evaluate(ask(tmp_path / "run", overrides=short)) == [first]
    for override in ("degrees=0", "centre_ratio=1", "linear.batch_norm=false", "linear.schedule=step"):
        assert find_finished_scores(ask(tmp_path / "run", overrides=(*short, override))) is None


def test_training_views_are_turned_where_the_setting_says_so_and_those_of_the_test_split_are_not(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    kept, logits = [], []
    for degrees in (0, 90):
        run = tmp_path / str(degrees)
        shutil.copytree(runs["transformer"], run)
        evaluate(ask(run, overrides=("linear.epochs=1", "baselines=false", f"degrees={degrees}")))
        kept.append({path.parent.name for path in run.glob("features/*/about.json")})
        logits.append(read_class_scores(run / "results" / "class-scores" / "linear-trained-seed-0.npz").values)
    assert kept[0] == kept[1] != set()  # features of centre views, named by all that they depend on
    assert not torch.equal(*logits)


def test_what_an_encoder_cannot_do_is_left_out_with_the_reason(runs: dict[str, Path], videos: Path) -> None:
    asked = ("finetune.head=mlp", f"detection.data={videos}", "detection.method=dense")
    reasons = find_omitted_tasks(ask(runs["gcn"], "all", overrides=asked))
    for task in ("finetune", "semi"):
        assert (
            reasons[task]
            == 'found finetune.head "mlp" for an encoder (gcn) without tokens of joints, expected "linear"'
        )
    assert "expected detection.method=window" in reasons["detection"]
    short = ("detection.window=15", f"detection.data={videos}")
    with pytest.raises(ConfigError, match=r"detection\.window is 15, which the encoder does not take"):
        evaluate(ask(runs["transformer"], "detection", overrides=short))
    with pytest.raises(ConfigError, match=r"found drop path 0\.3 for an encoder"):
        evaluate(ask(runs["gru"], "finetune", overrides=("finetune.drop_path=0.3",)))


def test_few_labels_are_trained_on_for_as_many_steps_as_all_where_an_epoch_is_one_of_all(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    whole = _Repeated.epoch
    monkeypatch.setattr(_Repeated, "epoch", lambda self, *a: asked.append(len(self)) or whole(self, *a))
    shutil.copytree(runs["gcn"], tmp_path / "run")
    short = ("finetune.epochs=2", "finetune.batch_size=8", "semi.fractions=[0.25]", "semi.draws=1", "baselines=false")
    evaluate(ask(tmp_path / "run", "semi", overrides=short))
    evaluate(ask(tmp_path / "run", "semi", overrides=(*short, "semi.epoch=labelled")))
    assert asked == [4, 4, 1, 1]


class Numbered:
    """Two views an epoch, each a number of its own."""

    def __len__(self) -> int:
        return 2

    def epoch(self, epoch: int, first_step: int = 0) -> Any:
        for step in range(first_step, 2):
            number = torch.tensor([10 * epoch + step])
            yield Views({}, number, number)


def test_an_epoch_of_several_passes_draws_each_anew() -> None:
    views = _Repeated(Numbered(), 3)
    assert len(views) == 6
    assert [int(each.label) for each in views.epoch(1)] == [30, 31, 40, 41, 50, 51]
    assert [int(each.label) for each in views.epoch(1, 3)] == [41, 50, 51]


def test_a_result_of_before_there_were_families_is_one_of_the_gru() -> None:
    row = {
        "task": "retrieval",
        "subject": "trained",
        "options": TASKS["retrieval"].options(EvaluateConfig(), "trained"),
    }
    rest = ("method", "fingerprint", "recipe", "dataset", "protocol", "stream", "time", "hardware")
    found = TaskResult.model_validate(
        {**row, **dict.fromkeys(rest, "x"), "checkpoint": None, "scores": {}, "seconds": 1, "versions": {}}
    )
    assert options_text(found) == "official gru"
