"""Few-shot classification of NTU 120 by the official list of novel classes, from raw files to the score."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.svm import LinearSVC

from flows.evaluate import evaluate
from flows.options import EvaluateOptions, PretrainOptions
from flows.pretrain import pretrain
from models.evaluation.results import TaskResult
from pipelines.conversion.convert import convert
from pipelines.synthetic import ntu, synthesize
from tests.flows.conftest import METHOD

# PCM3++ (arXiv 2406.02978), from 0; its text says 20, its list has 23
NOVEL = [60, 61, 66, 69, 72, 78, 79, 80, 84, 90, 91, 95, 96, 98, 99, 100, 102, 106, 108, 111, 113, 114, 115]
OTHERS = [0, 62, 119]
EPISODES = 40


def ask(run: Path, checkpoint: str | None = None) -> list[TaskResult]:
    """Ways, shots and classes as published; with six samples a class there is one to ask for."""
    overrides = ("few_shot.queries=1", f"few_shot.episodes={EPISODES}")
    return evaluate(
        EvaluateOptions(run=run, checkpoint=checkpoint, tasks=("few_shot",), overrides=overrides, device="cpu")
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pre-trained for an instant on the novel classes and others: twelve recordings of each, half of them to test."""
    folder = tmp_path_factory.mktemp("ntu120")
    actions = sorted([*OTHERS, *NOVEL])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ntu, "choose_actions", lambda classes: actions)
        raw = synthesize("ntu", folder / "raw", subjects=4, classes=26, samples=12 * 26, seed=0, zipped=False)
    store = convert("ntu", [raw], folder / "data", workers=0).folder
    known: dict[str, Any] = {"data": store, "dataset": "ntu120", "protocol": "xset", "device": "cpu"}
    short = ("train.batch_size=16", "train.checkpoint_every=1")
    pretrain(PretrainOptions(method=METHOD, run=folder / "run", overrides=short, **known))
    return folder / "run"


@pytest.fixture(scope="module")
def rows(run: Path) -> list[TaskResult]:
    return ask(run)


Arrays = dict[str, npt.NDArray[Any]]


@pytest.fixture(scope="module")
def episodes(run: Path, rows: list[TaskResult]) -> Arrays:
    with np.load(run / "results" / "episodes.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def features(run: Path, rows: list[TaskResult]) -> dict[str, Arrays]:
    """Stored features of the test side: of the trained and of the random encoder."""
    found = {}
    for path in (run / "features").glob("*/about.json"):
        about = json.loads(path.read_text())["about"]
        assert (about["dataset"], about["protocol"], about["side"]) == ("ntu120", "xset", "test")
        subject = "random encoder" if "random" in about["encoder"] else "trained"
        found[subject] = {name: np.load(path.parent / f"{name}.npy") for name in ("values", "label", "sample_id")}
    return found


def test_episodes_are_of_the_official_classes_and_of_no_other(
    episodes: Arrays, features: dict[str, Arrays], rows: list[TaskResult]
) -> None:
    assert [(row.subject, row.setting) for row in rows] == [
        (subject, {"shots": shots}) for subject in ("trained", "random encoder", "coordinates") for shots in (1, 5)
    ]
    assert {name: array.shape for name, array in episodes.items()} == {
        "classes": (EPISODES, 5),
        "support": (EPISODES, 5, 5),
        "query": (EPISODES, 5, 1),
    }
    assert np.unique(episodes["classes"]).tolist() == NOVEL
    test = features["trained"]
    assert np.unique(test["label"]).tolist() == sorted([*OTHERS, *NOVEL])
    label = dict(zip(test["sample_id"].tolist(), test["label"].tolist(), strict=True))
    for name in ("support", "query"):
        labels = np.vectorize(label.__getitem__)(episodes[name])
        assert np.array_equal(labels, np.broadcast_to(episodes["classes"][..., None], labels.shape))
    for support, query in zip(episodes["support"], episodes["query"], strict=True):
        assert len({*support.ravel(), *query.ravel()}) == 5 * (5 + 1), "a sample twice in an episode"


def test_accuracies_are_those_of_scikit_learn_on_the_stored_features_and_episodes(
    episodes: Arrays, features: dict[str, Arrays], rows: list[TaskResult]
) -> None:
    for row in rows[:4]:
        stored, shots = features[row.subject], int(row.setting["shots"])
        order = np.argsort(stored["sample_id"])
        values = stored["values"] / np.linalg.norm(stored["values"], axis=1, keepdims=True)
        expected = []
        for classes, support, query in zip(*episodes.values(), strict=True):
            learn, ask_for = (
                values[order[np.searchsorted(stored["sample_id"], ids, sorter=order)]].astype(np.float64)
                for ids in (support[:, :shots].ravel(), query.ravel())
            )
            model = LinearSVC(C=1.0, random_state=0).fit(learn, np.repeat(classes, shots))
            expected.append(float((model.predict(ask_for) == classes).mean()))
        found = row.details["per_episode"]
        assert isinstance(found, list)
        # a query on the border may fall to either side
        assert sum(a != pytest.approx(b) for a, b in zip(found, expected, strict=True)) <= 1
        assert row.scores["accuracy"] == pytest.approx(np.mean(expected), abs=0.01)
        assert row.scores["interval"] == pytest.approx(1.96 * np.std(found) / math.sqrt(EPISODES))


def test_another_checkpoint_is_scored_on_the_same_episodes(run: Path, rows: list[TaskResult]) -> None:
    again = ask(run, "epoch_0001.pt")
    first, second = (run / "results" / name / "episodes.npz" for name in ("", "epoch_0001"))
    assert first.read_bytes() == second.read_bytes()
    assert again[0].details != rows[0].details
    assert [row.details for row in again[2:]] == [row.details for row in rows[2:]], "what no training has changed"
