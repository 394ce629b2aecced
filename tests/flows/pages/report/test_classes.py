"""Scores by class, and confusions against counts made by hand."""

import base64
from pathlib import Path

import numpy as np
import torch

from flows.pages.report.classes import class_tables, confusions
from flows.pages.report.runs import Group
from models.evaluation.class_scores import write_class_scores
from models.evaluation.features import Features
from tests.flows.pages.report import made
from tests.flows.records import result


def test_classes_are_the_mean_of_repetitions_and_say_where_no_sample_is() -> None:
    rows = [
        result("finetune", setting={"seed": seed}, details={"per_class": values})
        for seed, values in enumerate(([0.5, None, 1.0, None], [0.7, None, None, None]))
    ]
    rows.append(
        result("finetune", subject="random encoder", setting={"seed": 0}, details={"per_class": [0, 0.5, 0.25, None]})
    )
    (table,) = class_tables([made.group(results=rows)])
    assert (table.title, table.columns) == ("finetune, ntu60 xview", ("trained", "random encoder"))
    assert table.rows == {0: (0.6, 0.0), 1: (None, 0.5), 2: (1.0, 0.25)}
    assert table.absent == (3,)
    assert table.names[:2] == ("drink water", "eat meal or snack")


def test_groups_stand_side_by_side_without_what_is_untrained() -> None:
    details = {"per_class": [0.5, 1.0]}
    groups = [
        made.group(number, name, [result("retrieval", details=details), result("retrieval", subject="coordinates")])
        for number, name in enumerate("ab")
    ]
    (table,) = class_tables(groups)
    assert table.columns == ("a", "b")
    assert table.rows == {0: (0.5, 0.5), 1: (1.0, 1.0)}


def test_the_average_precision_of_a_class_stands_beside_those_of_other_overlaps() -> None:
    details = {"per_class": {"0.1": [0.9, None], "0.5": [0.4, 0.2]}}
    (table,) = class_tables([made.group(results=[result("fusion", setting={"seed": 0}, details=details)])])
    assert table.columns == ("trained, from an overlap of 0.1", "trained, from an overlap of 0.5")
    assert table.rows == {0: (0.9, 0.4), 1: (None, 0.2)}


def test_measurements_of_several_settings_have_no_table_by_class() -> None:
    rows = [result("few_shot", setting={"shots": shots}, details={"per_class": [0.5]}) for shots in (1, 5)]
    assert class_tables([made.group(results=rows)]) == []


def scored(folder: Path, name: str, labels: list[int], predicted: list[int]) -> Path:
    """Class scores of a run."""
    logits = torch.nn.functional.one_hot(torch.tensor(predicted), 3).float()
    ids = torch.arange(len(labels))
    path = folder / name / "results" / "class-scores" / "linear-trained-seed-0.npz"
    write_class_scores(path, Features(logits, torch.tensor(labels), ids))
    return folder


def test_confusions_are_counted_over_the_runs_of_a_group_and_the_worst_are_named(tmp_path: Path) -> None:
    scored(tmp_path, "a", [0, 0, 0, 1], [0, 0, 1, 1])
    scored(tmp_path, "b", [0, 0, 0, 1], [0, 1, 1, 0])
    runs = tuple(made.run(number, name, [result()], folder=tmp_path) for number, name in enumerate("ab"))
    (found,) = confusions([Group(0, "both", "both", runs)])
    assert (found.name, found.about) == ("both, ntu60 xview", "2 runs, 8 test samples")
    assert found.worst == [
        "drink water, taken for eat meal or snack: 50 % of 6",
        "eat meal or snack, taken for drink water: 50 % of 2",
    ]
    assert found.picture["names"] == ("drink water", "eat meal or snack", "brush teeth")
    shares = np.frombuffer(base64.b64decode(found.picture["shares"]), np.uint8).reshape(3, 3)
    assert shares.tolist() == [[50, 50, 0], [50, 50, 0], [0, 0, 0]]
    assert found.picture["samples"] == [6, 2, 0]


def test_what_is_there_is_never_drawn_as_nothing(tmp_path: Path) -> None:
    scored(tmp_path, "a", [0] * 500, [0] * 499 + [1])
    (found,) = confusions([made.group(0, "a", [result()], folder=tmp_path)])
    shares = np.frombuffer(base64.b64decode(found.picture["shares"]), np.uint8).reshape(3, 3)
    assert shares[0].tolist() == [100, 1, 0]


def test_runs_without_linear_results_have_no_confusions() -> None:
    assert confusions([made.group(results=[result("retrieval")])]) == []
