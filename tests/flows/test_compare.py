"""Results in one table: means over seeds, published figures beside them, and refusals where figures do not compare."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from flows.compare import compare, load, write
from flows.tasks.config import EvaluateConfig
from flows.tasks.registry import TASKS
from models.evaluation.results import TaskResult, write_results
from shards.errors import ConfigError


def result(task: str = "linear", **changes: Any) -> TaskResult:
    fields: dict[str, Any] = {
        "task": task,
        "subject": "trained",
        "setting": {"seed": 0},
        "options": TASKS[task].options(EvaluateConfig(), "trained"),
        "method": "pcm3pp",
        "checkpoint": "epoch_0451.pt",
        "checkpoint_sha256": "0" * 64,
        "fingerprint": "abc123",
        "recipe": "pcm3",
        "dataset": "ntu60",
        "protocol": "xview",
        "stream": "joint",
        "scores": {"accuracy": 0.9},
        "time": "2030-01-01T00:00:00+00:00",
        "seconds": 1.0,
        "hardware": "CPU",
        "versions": {},
    }
    return TaskResult(**(fields | changes))


def seeds(*accuracies: float) -> list[TaskResult]:
    return [
        result(
            setting={"seed": seed},
            options=TASKS["linear"].options(EvaluateConfig(), "trained") | {"seed": seed},
            scores={"accuracy": value},
        )
        for seed, value in enumerate(accuracies)
    ]


def test_seeds_become_one_cell_of_mean_and_deviation() -> None:
    table = compare({"runs/a": seeds(0.90, 0.92, 0.91), "runs/b": seeds(0.5)})
    assert table.header == ("", "linear ntu60 xview")
    assert table.rows[:2] == (
        ("runs/a (pcm3pp, joint)", "91.0 +- 1.0 (3)"),
        ("runs/b (pcm3pp, joint)", "50.0"),
    )


def test_published_figures_stand_beside_results_of_the_published_setting_with_their_source() -> None:
    table = compare({"runs/a": [result()]})
    assert ("PCM3++ (published)", "91.0") in table.rows
    assert ("PCM3 (published)", "90.4") in table.rows
    assert any("arXiv 2406.02978" in note for note in table.notes)


def test_published_figures_are_left_out_where_the_setting_is_another_and_the_note_says_why() -> None:
    options = TASKS["linear"].options(EvaluateConfig(), "trained") | {"crop": "centre"}
    table = compare({"runs/a": [result(options=options)]})
    assert len(table.rows) == 1
    assert table.notes == (
        "linear ntu60 xview: no published figures beside it, since crop is 'centre' and the published setting 'random'",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"crop": "centre"}}, "linear ntu60 xview: found batch_size None in runs/b and 1024 in runs/a"),
        ({"fingerprint": "fff"}, "found data fingerprint 'fff' in runs/b and 'abc123' in runs/a, expected equal ones"),
        ({"recipe": "raw"}, "found recipe 'raw' in runs/b and 'pcm3' in runs/a"),
    ],
)
def test_figures_of_different_conditions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compare({"runs/a": [result()], "runs/b": [result(**changes)]})


def test_other_protocols_tasks_and_settings_have_columns_of_their_own() -> None:
    few = [
        result("few_shot", setting={"shots": shots}, scores={"accuracy": 0.1 * shots, "interval": 0.01})
        for shots in (1, 5)
    ]
    table = compare({"runs/a": [result(), *few], "runs/b": [result(protocol="xsub", scores={"accuracy": 0.8})]})
    assert table.header == (
        "",
        "linear ntu60 xsub",
        "linear ntu60 xview",
        "few_shot ntu60 xview shots 1",
        "few_shot ntu60 xview shots 5",
        "few_shot ntu60 xview shots 1 interval",
        "few_shot ntu60 xview shots 5 interval",
    )
    assert table.rows[0] == ("runs/a (pcm3pp, joint)", "", "90.0", "10.0", "50.0", "1.0", "1.0")
    assert table.rows[1] == ("runs/b (pcm3pp, joint)", "80.0", "", "", "", "", "")


def test_baselines_are_shown_when_asked_for() -> None:
    rows = [result(), result(subject="random encoder", checkpoint=None, checkpoint_sha256=None)]
    assert len(compare({"runs/a": rows}).rows) == len(compare({"runs/a": rows}, baselines=True).rows) - 1


def test_tables_are_written_as_markdown_csv_and_latex() -> None:
    table = compare({"runs/a|b_c": [*seeds(0.90, 0.92)]})
    markdown = write(table, "markdown").splitlines()
    assert markdown[:3] == [
        "|  | linear ntu60 xview |",
        "| --- | --- |",
        "| runs/a/b_c (pcm3pp, joint) | 91.0 +- 1.4 (2) |",
    ]
    rows = list(csv.reader(io.StringIO(write(table, "csv"))))
    assert rows == [list(table.header), *map(list, table.rows)]
    latex = write(table, "latex").splitlines()
    assert latex[0] == "\\begin{tabular}{lr}"
    assert latex[3] == "runs/a|b\\_c (pcm3pp, joint) & 91.0 $\\pm$ 1.4 (2) \\\\"


def test_runs_and_single_files_are_loaded_and_others_refused(tmp_path: Path) -> None:
    (tmp_path / "run" / "results").mkdir(parents=True)
    write_results(tmp_path / "run" / "results" / "linear.json", [result()])
    (tmp_path / "run" / "results" / "semi-subsets.json").write_text("{}")
    name = str(tmp_path / "run")
    assert load([tmp_path / "run"]) == load([tmp_path / "run" / "results" / "linear.json"]) == {name: [result()]}
    with pytest.raises(ConfigError, match="found no results, expected a scored run"):
        load([tmp_path])
