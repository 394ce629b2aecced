"""Every downstream task of one tiny run: rows and files, what resumes, what cannot be run, and what a task computes."""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import flows.evaluate
from flows.evaluate import evaluate, find_finished_scores, find_omitted_tasks, table
from flows.options import EvaluateOptions, PretrainOptions
from flows.pages.report import write_report
from flows.pages.report.runs import group_runs, read_runs
from flows.pages.report.score_figures import level_charts, reliability, timelines
from flows.pretrain import pretrain
from flows.tasks.registry import TASKS
from models.evaluation.class_scores import read_class_scores
from models.evaluation.results import TaskResult
from models.evaluation.subsets import SubsetLists
from pipelines.conversion.convert import convert
from pipelines.synthetic import synthesize
from shards.errors import ConfigError
from shards.manifest import read_manifest

SHORT = (
    "linear.epochs=2",
    "linear.batch_size=16",
    "linear.crop=centre",
    "finetune.epochs=1",
    "semi.fractions=[0.25]",
    "semi.draws=2",
    "few_shot.ways=2",
    "few_shot.queries=1",
    "few_shot.shots=[1,2]",
    "few_shot.episodes=5",
    "robustness.noise=[0.1]",
    "robustness.missing_joints=[3]",
    "robustness.shorter=[]",
    "robustness.rotated=[90]",
    "early.ratios=[0.5,1]",
    "detection.epochs=1",
    "detection.tious=[0.1,0.5]",
)


def ask(run: Path, *tasks: str, overrides: Sequence[str] = SHORT) -> EvaluateOptions:
    return EvaluateOptions(run=run, tasks=tasks or ("all",), overrides=tuple(overrides), device="cpu")


@pytest.fixture(scope="module")
def scored(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run with the results of all tasks."""
    copy = tmp_path_factory.mktemp("tasks") / "run"
    shutil.copytree(run, copy)
    evaluate(ask(copy))
    return copy


@pytest.fixture(scope="module")
def results(scored: Path) -> dict[str, list[TaskResult]]:
    found = find_finished_scores(ask(scored))
    assert found is not None
    return {name: [row for row in found if row.task == name] for name in TASKS}


def test_all_tasks_are_those_that_run_and_data_allow_and_the_others_are_told(scored: Path) -> None:
    reasons = find_omitted_tasks(ask(scored))
    assert set(reasons) == {"transfer", "detection", "fusion"}
    assert "expected a finished store of source pkummd2" in reasons["transfer"]
    assert "expected a finished store of source pkummd1" in reasons["detection"]
    assert reasons["fusion"].startswith("--set fusion.bone=RUN")
    assert {path.stem for path in (scored / "results").glob("*.json")} == {
        *(set(TASKS) - set(reasons)),
        "semi-subsets",
    }


def test_a_task_that_cannot_be_run_is_refused_when_it_is_named(scored: Path) -> None:
    with pytest.raises(ConfigError, match=r"--tasks fusion: --set fusion\.bone=RUN and fusion\.motion=RUN"):
        evaluate(ask(scored, "linear", "fusion"))


def test_every_row_is_there_for_every_subject(results: dict[str, list[TaskResult]]) -> None:
    rows = {name: [(row.subject, row.setting) for row in found] for name, found in results.items()}
    both = ("trained", "random encoder")
    assert rows["linear"] == [(subject, {"seed": 0}) for subject in both]
    assert rows["few_shot"] == [(s, {"shots": k}) for s in (*both, "coordinates") for k in (1, 2)]
    assert rows["semi"] == [
        (subject, {"sampling": sampling, "fraction": 0.25, "draw": draw})
        for subject in both
        for sampling in ("unstratified", "stratified")
        for draw in (0, 1)
    ]
    curves = [("clean", 0.0), ("noise", 0.1), ("missing_joints", 3), ("rotated", 90.0)]
    assert rows["robustness"] == [(s, {"curve": curve, "level": level}) for s in both for curve, level in curves]
    assert rows["occluded"] == [
        (s, {"occlusion": kind, "head": head})
        for s in both
        for kind in ("spatial", "temporal")
        for head in ("clean", "occluded")
    ]
    assert rows["early"] == [(s, {"seen": ratio}) for s in both for ratio in (0.5, 1.0)]


def test_class_scores_give_the_accuracy_that_is_stated(scored: Path, results: dict[str, list[TaskResult]]) -> None:
    for row in results["linear"]:
        scores = read_class_scores(
            scored / "results" / "class-scores" / f"linear-{row.subject.replace(' ', '-')}-seed-0.npz"
        )
        right = scores.values.argmax(dim=1) == scores.label
        assert float(right.float().mean()) == pytest.approx(row.scores["accuracy"])
        by_camera = row.details["by_camera"]
        assert isinstance(by_camera, dict)
        assert sum(group["samples"] for group in by_camera.values()) == len(right)  # type: ignore[index, misc]  # JSON


def test_clean_rows_of_robustness_and_occlusion_share_the_linear_head(results: dict[str, list[TaskResult]]) -> None:
    linear = {row.subject: row.scores["accuracy"] for row in results["linear"]}
    clean = {row.subject: row.scores["accuracy"] for row in results["robustness"] if row.setting["curve"] == "clean"}
    assert clean == linear


def test_what_was_drawn_is_written_out(scored: Path) -> None:
    folder = scored / "results"
    with np.load(folder / "episodes.npz") as episodes:
        assert {name: array.shape for name, array in episodes.items()} == {
            "classes": (5, 2),
            "support": (5, 2, 2),
            "query": (5, 2, 1),
        }
    lists = SubsetLists.model_validate_json((folder / "semi-subsets.json").read_bytes())
    assert (lists.dataset, lists.protocol, len(lists.subsets)) == ("ntu60", "xview", 4)
    assert {len(subset.sample_id) for subset in lists.subsets if not subset.stratified} == {8}
    with np.load(folder / "occlusion" / "test-spatial.npz") as masks:
        assert masks["visible"].shape == (16, 1, 1, 25)


def test_features_are_extracted_once_for_all_tasks(scored: Path) -> None:
    abouts = [json.loads(path.read_text())["about"] for path in (scored / "features").glob("*/about.json")]
    encoders = {json.dumps(about["encoder"]) for about in abouts}
    assert len(encoders) == 2
    assert sorted((json.dumps(about["encoder"]), about["side"]) for about in abouts) == sorted(
        (encoder, side) for encoder in encoders for side in ("train", "test")
    )


def test_an_evaluation_goes_on_after_the_last_row_that_was_scored(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    whole = flows.evaluate._run
    seen: list[str] = []

    def stopping(*arguments: object) -> TaskResult:
        if len(seen) == 4:
            raise KeyboardInterrupt
        row = whole(*arguments)  # type: ignore[arg-type]  # passed on as they came
        seen.append(row.time)
        return row

    monkeypatch.setattr(flows.evaluate, "_run", stopping)
    with pytest.raises(KeyboardInterrupt):
        evaluate(ask(copy, "linear", "robustness"))
    monkeypatch.setattr(flows.evaluate, "_run", whole)
    before = {p.name: p.read_bytes() for p in (copy / "results").glob("*.json")}
    rows = evaluate(ask(copy, "linear", "robustness"))
    assert len(rows) == 10
    assert (copy / "results" / "linear.json").read_bytes() == before["linear.json"]
    assert [row.time for row in rows[:4]] == seen
    assert (
        json.loads((copy / "results" / "robustness.json").read_text())["results"][:2]
        == json.loads(before["robustness.json"])["results"]
    )


def test_repeats_are_rows_of_their_own_and_the_table_shows_their_mean(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    rows = evaluate(ask(tmp_path / "run", "linear", overrides=(*SHORT, "repeats=2", "baselines=false")))
    assert [row.setting["seed"] for row in rows] == [0, 1]
    (line,) = table(rows).splitlines()[1:]
    mean = 50 * (rows[0].scores["accuracy"] + rows[1].scores["accuracy"])
    assert re.fullmatch(rf"linear +{mean:.1f} \+- \d+\.\d % \(2\), best .*", line)


def test_with_validation_subjects_an_epoch_is_chosen_without_the_test_side(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    overrides = (*SHORT, "validation=0.4", "baselines=false", 'semi.sampling=["stratified"]', "semi.draws=1")
    rows = evaluate(ask(tmp_path / "run", "linear", "finetune", "semi", overrides=overrides))
    for row in rows:
        validation, curve = row.details["validation_curve"], row.details["curve"]
        assert isinstance(validation, list)
        assert isinstance(curve, list)
        chosen = validation.index(max(validation))  # type: ignore[type-var]  # numbers
        assert row.scores["chosen"] == curve[chosen]
    text = (tmp_path / "run" / "results" / "semi-subsets.json").read_bytes()
    (subset,) = SubsetLists.model_validate_json(text).subsets
    assert subset.samples < 32


def test_three_streams_are_fused_from_the_class_scores_of_three_runs(
    options: Callable[..., PretrainOptions], scored: Path, tmp_path: Path
) -> None:
    runs = {}
    for stream in ("bone", "motion"):
        runs[stream] = tmp_path / stream
        pretrain(options(runs[stream], streams=(stream,)))
        evaluate(ask(runs[stream], "linear"))
    named = tuple(f"fusion.{stream}={folder}" for stream, folder in runs.items())
    shutil.copytree(scored, tmp_path / "joint")
    request = ask(tmp_path / "joint", "fusion", overrides=(*SHORT, *named))
    (row,) = evaluate(request)
    assert find_finished_scores(request) == [row]
    folders = {"joint": tmp_path / "joint", **runs}
    scores = {
        stream: read_class_scores(folder / "results" / "class-scores" / "linear-trained-seed-0.npz")
        for stream, folder in folders.items()
    }
    label = scores["joint"].label
    weighted = sum(w * scores[s].values.double() for s, w in {"joint": 0.6, "bone": 0.6, "motion": 0.4}.items())
    assert isinstance(weighted, torch.Tensor)
    assert row.scores["accuracy"] == pytest.approx(float((weighted.argmax(1) == label).float().mean()))
    assert row.scores["bone"] == pytest.approx(float((scores["bone"].values.argmax(1) == label).float().mean()))
    of_bone = runs["bone"] / "results" / "linear.json"
    of_bone.write_text(of_bone.read_text().replace(row.details["checkpoints"]["bone"], "0" * 64))
    assert find_finished_scores(request) is None
    with pytest.raises(ConfigError, match="found a run on ntu60 xview motion, expected ntu60 xview bone"):
        evaluate(
            ask(
                tmp_path / "joint",
                "fusion",
                overrides=(*SHORT, f"fusion.bone={runs['motion']}", f"fusion.motion={runs['motion']}"),
            )
        )


def test_the_figures_of_the_report_show_what_the_tasks_found(scored: Path) -> None:
    groups = group_runs(read_runs([scored]))
    figures = [*level_charts(groups), *reliability(groups)]
    titles = [
        "robustness: noise",
        "robustness: missing joints",
        "robustness: rotated",
        "early prediction",
        "fine-tuned with few labels, unstratified",
        "fine-tuned with few labels, stratified",
        "linear: reliability",
    ]
    assert len(figures) == len(titles)
    for figure, title in zip(figures, titles, strict=True):
        assert f"<figcaption>{title}" in figure


def test_a_report_with_all_tasks_is_one_page(scored: Path, tmp_path: Path) -> None:
    text = write_report([scored], tmp_path / "report.html").read_text(encoding="utf-8")
    for task in ("linear", "retrieval", "few_shot", "occluded", "robustness", "early", "finetune", "semi"):
        assert f'data-task="{task}"' in text
    assert "fine-tuned with few labels" in text


def test_detection_and_transfer_use_the_stores_beside_the_runs(run: Path, store: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(store, data / store.name)
    raw = synthesize("pkummd1", tmp_path / "raw", subjects=2, classes=3, samples=4, seed=0, zipped=False)
    convert("pkummd1", [raw], data, workers=0)
    shutil.copytree(run, tmp_path / "run")
    request = ask(
        tmp_path / "run",
        "detection",
        "transfer",
        overrides=(*SHORT, "transfer.dataset=pkummd1", "transfer.protocol=xsub"),
    ).model_copy(update={"data": str(data)})
    rows = evaluate(request)
    assert [(row.task, row.subject) for row in rows] == [
        (task, subject) for task in ("detection", "transfer") for subject in ("trained", "random encoder")
    ]
    assert set(rows[0].scores) >= {"mAP@0.1", "mAP@0.5", "mAP_action@0.1", "F1@0.5", "2DAP"}
    assert all(0 <= value <= 1 for row in rows for value in row.scores.values())
    assert rows[2].details["dataset"] == "pkummd1"
    assert find_finished_scores(request) == rows
    lines = (tmp_path / "run" / "results" / "detections" / "trained-seed-0.csv").read_text().splitlines()
    assert lines[0] == "video,class,start,stop,score"
    assert len(lines) == 1 + int(rows[0].details["detections"])  # type: ignore[arg-type]  # a count
    figures = timelines(group_runs(read_runs([tmp_path / "run"])))
    assert len(figures) == min(3, int(rows[0].details["videos"]))  # type: ignore[call-overload]  # a count
    assert all("pkummd1: " in figure and "truth" in figure for figure in figures)
    (folder,) = data.glob("pkummd1-*")
    for name in ("detection", "transfer"):
        assert find_finished_scores(request.model_copy(update={"tasks": (name,)})) is not None
        path = tmp_path / "run" / "results" / f"{name}.json"
        path.write_text(path.read_text().replace(read_manifest(folder).fingerprint, "0" * 12))
        assert find_finished_scores(request.model_copy(update={"tasks": (name,)})) is None
