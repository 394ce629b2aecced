"""Evaluation as a flow runs it: every row with what changes its number, stored once, and computed anew when it must."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from flows.build import build_encoder, open_views
from flows.config import read_config
from flows.evaluate import evaluate, find_finished_scores, table
from flows.options import EvaluateOptions, LoaderOptions, PretrainOptions
from flows.pretrain import pretrain
from models.evaluation.features import Features, coordinate_features, extract_features
from models.evaluation.results import TaskResult, read_results, write_results
from models.training.checkpoint import encoder_state, latest_checkpoint, load_checkpoint
from pipelines.loaders.split import open_split
from pipelines.views.downstream import evaluation_spec
from shards.errors import CheckpointError, ConfigError, SkelstreamError, StoreError
from shards.files import sha256_file
from shards.manifest import read_manifest

SHORT = ("linear.epochs=2", "linear.batch_size=16")


def ask(run: Path, *tasks: str, overrides: tuple[str, ...] = SHORT, data: Path | None = None) -> EvaluateOptions:
    return EvaluateOptions(
        run=run, tasks=tasks or ("linear", "retrieval"), overrides=overrides, data=data, device="cpu"
    )


def files(run: Path) -> dict[str, tuple[bytes, int]]:
    found = sorted((run / "results").glob("*.json"))
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


@pytest.fixture(scope="module")
def scored(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run with its results."""
    copy = tmp_path_factory.mktemp("scored") / "run"
    shutil.copytree(run, copy)
    evaluate(ask(copy))
    return copy


@pytest.fixture
def copy(scored: Path, tmp_path: Path) -> Path:
    """A copy of `scored` that a test may change."""
    shutil.copytree(scored, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def results(scored: Path) -> list[TaskResult]:
    found = find_finished_scores(ask(scored))
    assert found is not None
    return found


def test_every_task_scores_the_trained_the_random_and_what_else_it_can(results: list[TaskResult]) -> None:
    assert [(result.task, result.subject) for result in results] == [
        ("linear", "trained"),
        ("linear", "random encoder"),
        ("retrieval", "trained"),
        ("retrieval", "random encoder"),
        ("retrieval", "coordinates"),
    ]
    assert all(0 <= result.scores["accuracy"] <= 1 for result in results)  # type: ignore[operator]


def test_every_row_records_what_changes_its_number(results: list[TaskResult], scored: Path, store: Path) -> None:
    path = scored / "checkpoints" / "epoch_0002.pt"
    for result in results:
        trained = result.subject == "trained"
        assert result.checkpoint == ("epoch_0002.pt" if trained else None)
        assert result.checkpoint_sha256 == (sha256_file(path) if trained else None)
        assert (result.dataset, result.protocol, result.stream) == ("ntu60", "xview", "joint")
        assert (result.fingerprint, result.recipe) == (read_manifest(store).fingerprint, "pcm3")
        assert result.options["test_crop"] == "centre 0.95"
        assert result.versions["torch"] == torch.__version__
        assert result.seconds > 0
    by_row = {(result.task, result.subject): result.options for result in results}
    linear = by_row["linear", "trained"]
    assert (linear["epochs"], linear["batch_size"], linear["lr"], linear["crop"]) == (2, 16, 0.1, "random")
    assert linear == by_row["linear", "random encoder"]
    assert by_row["retrieval", "trained"]["metric"] == "cosine"
    assert by_row["retrieval", "coordinates"]["metric"] == "euclidean"


def test_linear_scores_have_a_curve_and_every_class(results: list[TaskResult]) -> None:
    scores, details = results[0].scores, results[0].details
    curve, per_class = details["curve"], details["per_class"]
    assert isinstance(curve, list)
    assert len(curve) == 2
    assert (curve[-1], max(curve)) == (scores["accuracy"], scores["best"])  # type: ignore[type-var]  # all floats
    assert isinstance(per_class, list)
    assert len(per_class) == 60
    assert sum(value is not None for value in per_class) == 4


def sides(run: Path, store: Path, subject: str) -> tuple[Features, Features]:
    """Train and test features, made without the flow under test."""
    config = read_config(run / "config.json")
    path = latest_checkpoint(run)
    assert path is not None
    state = encoder_state(load_checkpoint(path), "joint") if subject == "trained" else None
    device, found = torch.device("cpu"), []
    for split in ("train", "test"):
        views = open_views(
            open_split(store, config.data.dataset, config.data.protocol, split),
            evaluation_spec("centre", "joint", config.views.frames),
            LoaderOptions(),
            window=1,
            batch_size=7,
            seed=3,
            device=device,
            shuffle=False,
            drop_last=False,
        ).epoch(0)
        if subject == "coordinates":
            found.append(coordinate_features(views))
        else:
            found.append(extract_features(build_encoder(config, state, "joint"), views))
    return found[0], found[1]


@pytest.mark.parametrize("subject", ["trained", "random encoder", "coordinates"])
def test_retrieval_is_the_nearest_neighbour_of_scikit_learn(
    results: list[TaskResult], scored: Path, store: Path, subject: str
) -> None:
    train, test = sides(scored, store, subject)
    assert (len(train), len(test)) == (32, 16)
    metric = "euclidean" if subject == "coordinates" else "cosine"
    judge = KNeighborsClassifier(1, metric=metric, algorithm="brute")
    judge.fit(train.values.double().numpy(), train.label.numpy())
    expected = judge.score(test.values.double().numpy(), test.label.numpy())
    (result,) = (result for result in results if (result.task, result.subject) == ("retrieval", subject))
    assert result.scores["accuracy"] == pytest.approx(expected)


def test_the_random_encoder_is_the_one_that_the_run_began_with(scored: Path, store: Path) -> None:
    config = read_config(scored / "config.json")
    path = latest_checkpoint(scored)
    assert path is not None
    trained = encoder_state(load_checkpoint(path), "joint")
    first, again = (build_encoder(config, None, "joint") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.state_dict()["layers.0.first.weight_ih_l0"], trained["layers.0.first.weight_ih_l0"])


def test_stored_results_are_found_and_left_as_they_are(scored: Path, results: list[TaskResult]) -> None:
    before = files(scored)
    assert set(before) == {"linear.json", "retrieval.json"}
    assert evaluate(ask(scored)) == results
    assert evaluate(ask(scored, "retrieval", "linear")) == [*results[2:], *results[:2]]
    assert evaluate(ask(scored, "retrieval")) == results[2:]
    assert files(scored) == before


def test_only_the_task_that_is_missing_is_run(copy: Path) -> None:
    before = files(copy)
    (copy / "results" / "retrieval.json").unlink()
    assert find_finished_scores(ask(copy)) is None
    assert find_finished_scores(ask(copy, "linear")) is not None
    evaluate(ask(copy))
    assert files(copy)["linear.json"] == before["linear.json"]
    assert scores(copy / "results" / "retrieval.json") == json_scores(before["retrieval.json"][0])


def scores(path: Path) -> list[object]:
    return json_scores(path.read_bytes())


def json_scores(text: bytes) -> list[object]:
    return [row["scores"] for row in json.loads(text)["results"]]


@pytest.mark.parametrize(
    "overrides",
    [("linear.epochs=3", "linear.batch_size=16"), (*SHORT, "linear.crop=centre")],
)
def test_other_options_are_computed_anew(copy: Path, overrides: tuple[str, ...]) -> None:
    before = files(copy)
    assert find_finished_scores(ask(copy, "linear", overrides=overrides)) is None
    anew = evaluate(ask(copy, "linear", overrides=overrides))
    assert find_finished_scores(ask(copy, "linear", overrides=overrides)) == anew
    assert find_finished_scores(ask(copy, "linear")) is None
    assert files(copy)["retrieval.json"] == before["retrieval.json"]


def test_results_without_baselines_are_part_of_those_with(copy: Path, results: list[TaskResult]) -> None:
    before = files(copy)
    assert evaluate(ask(copy, "retrieval", overrides=("baselines=false",))) == results[2:3]
    assert files(copy) == before
    (copy / "results" / "retrieval.json").unlink()
    (alone,) = evaluate(ask(copy, "retrieval", overrides=("baselines=false",)))
    assert (alone.subject, alone.scores) == ("trained", results[2].scores)
    assert find_finished_scores(ask(copy, "retrieval")) is None
    first, *others = evaluate(ask(copy, "retrieval"))
    assert first == alone
    assert [(row.subject, row.scores) for row in others] == [(row.subject, row.scores) for row in results[3:]]


def test_options_that_do_not_touch_a_score_do_not_run_it_again(copy: Path) -> None:
    before = files(copy)
    evaluate(ask(copy, overrides=(*SHORT, "batch_size=5")))
    assert files(copy) == before


def test_another_checkpoint_is_scored_anew(copy: Path) -> None:
    (copy / "checkpoints" / "epoch_0002.pt").unlink()
    assert find_finished_scores(ask(copy)) is None
    assert {result.checkpoint for result in evaluate(ask(copy))} == {"epoch_0001.pt", None}


def test_a_named_checkpoint_has_results_of_its_own(copy: Path, results: list[TaskResult]) -> None:
    before = files(copy)
    early = ask(copy, "retrieval").model_copy(update={"checkpoint": "epoch_0001.pt"})
    assert find_finished_scores(early) is None
    rows = evaluate(early)
    assert [row.checkpoint for row in rows] == ["epoch_0001.pt", None, None]
    assert rows[0].checkpoint_sha256 == sha256_file(copy / "checkpoints" / "epoch_0001.pt")
    assert read_results(copy / "results" / "epoch_0001" / "retrieval.json") == rows == find_finished_scores(early)
    assert files(copy) == before
    last = ask(copy, "retrieval").model_copy(update={"checkpoint": "epoch_0002.pt"})
    assert find_finished_scores(last) == results[2:]


def test_a_checkpoint_that_is_not_there_is_refused_with_those_that_are(copy: Path) -> None:
    for name in ("epoch_0451.pt", "../checkpoints/epoch_0001.pt", ""):
        with pytest.raises(CheckpointError, match=r"expected one of epoch_0001\.pt, epoch_0002\.pt$"):
            evaluate(ask(copy).model_copy(update={"checkpoint": name}))


def test_rows_of_other_data_or_cut_short_are_not_taken_for_results(copy: Path) -> None:
    path = copy / "results" / "retrieval.json"
    rows = read_results(path)
    for changed in (
        rows[:1],
        [row.model_copy(update={"fingerprint": "0" * 12}) for row in rows],
        [rows[0], rows[1].model_copy(update={"options": {}}), rows[2]],
        [rows[0].model_copy(update={"checkpoint_sha256": "0" * 64}), *rows[1:]],
    ):
        write_results(path, changed)
        assert find_finished_scores(ask(copy, "retrieval")) is None
    write_results(path, rows)
    assert find_finished_scores(ask(copy, "retrieval")) == rows


def test_garbled_results_are_refused_by_name(copy: Path) -> None:
    (copy / "results" / "linear.json").write_text("{")
    with pytest.raises(SkelstreamError, match=r"linear\.json: found no results"):
        evaluate(ask(copy))


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (("linear", "detecton"), "--tasks: found detecton, expected all or some of linear, retrieval"),
        ((), "found none"),
    ],
)
def test_unknown_tasks_are_refused(scored: Path, tasks: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(EvaluateOptions(run=scored, tasks=tasks))


def test_an_unknown_option_is_refused(scored: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'linear\.epoch'; nearest: linear\.epochs"):
        evaluate(ask(scored, overrides=("linear.epoch=3",)))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"found no readable run\.json"):
        evaluate(ask(tmp_path))


def test_a_run_without_a_checkpoint_is_refused(copy: Path) -> None:
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(CheckpointError, match="found no checkpoint, expected a run that has saved one"):
        evaluate(ask(copy))


def test_a_moved_store_is_found_by_data(
    options: Callable[..., PretrainOptions], store: Path, tmp_path: Path, results: list[TaskResult]
) -> None:
    shutil.copytree(store, tmp_path / "old" / store.name)
    run = tmp_path / "run"
    pretrain(options(run, data=tmp_path / "old"))
    (tmp_path / "old").rename(tmp_path / "new")
    with pytest.raises(StoreError, match="no such folder"):
        evaluate(ask(run, "retrieval"))
    found = evaluate(ask(run, "retrieval", data=tmp_path / "new"))
    assert [result.scores for result in found] == [result.scores for result in results[2:]]
    assert find_finished_scores(ask(run, "retrieval", data=tmp_path / "new")) == found


def test_data_of_another_fingerprint_is_refused_even_where_results_are(scored: Path, other_store: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        evaluate(ask(scored, data=other_store))
    assert read_manifest(other_store).fingerprint in str(caught.value)


def test_the_table_shows_every_score_in_per_cent(results: list[TaskResult]) -> None:
    lines = table(results).splitlines()
    assert lines[0].split("  ")[0].strip() == "task"
    assert len(lines) == 3
    assert all(name in lines[0] for name in ("trained", "random encoder", "coordinates"))
    for line, task in zip(lines[1:], ("linear", "retrieval"), strict=True):
        assert line.startswith(task)
        for result in results:
            if result.task == task:
                assert f"{100 * result.scores['accuracy']:.1f} %" in line
    assert all(line == line.rstrip() for line in lines)
