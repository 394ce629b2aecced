"""Results in one table: means over seeds, published figures beside them, and refusals where figures do not compare."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from flows.options import PretrainOptions
from flows.pretrain import resolve
from flows.scores.compare import Comparison, compare, compare_apart, load, pool_seeds, seed_groups, write
from flows.scores.published import PUBLISHED
from flows.tasks.config import EvaluateConfig
from flows.tasks.official import official
from flows.tasks.registry import TASKS
from models.evaluation.results import TaskResult, write_results
from shards.errors import ConfigError
from tests.flows.records import result


def cells(found: Comparison, table: str = "linear ntu60 xview") -> list[list[str]]:
    """The cells of one Markdown table."""
    lines = write(found, "markdown").splitlines()
    rows = lines[lines.index(f"**{table}**") + 2 :]
    rows = rows[: rows.index("")]
    return [[cell.strip() for cell in row[1:-1].split("|")] for row in rows if not row.startswith("| ---")]


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
    found = compare({"runs/a": seeds(0.90, 0.92, 0.91), "runs/b": seeds(0.5)})
    assert [(column.table, column.title) for column in found.columns] == [("linear ntu60 xview", "accuracy")]
    assert cells(found)[:3] == [
        ["", "accuracy"],
        ["runs/a (pcm3pp, joint)", "91.0 +- 1.0 (3)"],
        ["runs/b (pcm3pp, joint)", "50.0"],
    ]


def test_runs_that_differ_in_the_seed_alone_can_be_pooled(tmp_path: Path) -> None:
    changes = {"a": ("train.seed=0",), "b": ("train.seed=7",), "c": ("train.seed=0", "train.lr=0.5")}
    for name, overrides in changes.items():
        options = PretrainOptions(
            method="pcm3pp-small",
            data="data",
            dataset="nwucla",
            protocol="xview",
            run=tmp_path / name,
            overrides=overrides,
        )
        options.run.mkdir()
        (options.run / "config.json").write_text(resolve(options).model_dump_json())
    runs = {str(tmp_path / name): seeds(value) for name, value in (("a", 0.5), ("b", 0.7), ("c", 0.9))}
    pooled = pool_seeds(runs)
    assert {name: [row.scores["accuracy"] for row in rows] for name, rows in pooled.items()} == {
        f"{tmp_path / 'a'} and 1 more": [0.5, 0.7],
        str(tmp_path / "c"): [0.9],
    }
    assert seed_groups(list(runs)) == [[str(tmp_path / "a"), str(tmp_path / "b")], [str(tmp_path / "c")]]
    with pytest.raises(ConfigError, match=r"config\.json"):
        pool_seeds({str(tmp_path / "none"): seeds(0.5)})


def test_no_published_figure_is_stated_twice() -> None:
    places = [(f.method, f.task, f.dataset, f.protocol, str(f.setting), f.score) for f in PUBLISHED]
    assert len(set(places)) == len(places)


def test_published_figures_stand_beside_results_of_the_published_setting_with_their_source() -> None:
    found = compare({"runs/a": [result()]})
    assert ["PCM3++ (published)", "91.0"] in cells(found)
    assert ["PCM3 (published)", "90.4"] in cells(found)
    assert any("arXiv 2406.02978" in note for note in found.notes)


@pytest.mark.parametrize(
    ("details", "why"),
    [
        ({"missing_classes": [3, 4], "untested_classes": [4]}, "2 classes have no samples here"),
        (
            {"by_camera": {"1": {"accuracy": 0.9, "samples": 180}}},
            "180 samples were tested, and of the official data 18,932",
        ),
        ({"missing_classes": [], "by_camera": {"1": {"accuracy": 0.9, "samples": 18_900}}}, None),
    ],
)
def test_published_figures_stand_beside_results_on_the_official_data_alone(
    details: dict[str, Any], why: str | None
) -> None:
    found = compare({"run": [result(details=details)]})
    assert any("(published)" in name for name in found.names) is (why is None)
    assert why is None or why in found.notes[0]


def test_published_figures_are_left_out_where_the_setting_is_another_and_the_note_says_why() -> None:
    options = TASKS["linear"].options(EvaluateConfig(), "trained") | {"crop": "centre"}
    found = compare({"runs/a": [result(options=options)]})
    assert len(found.names) == 1
    assert found.notes == (
        "linear ntu60 xview accuracy: no published figures beside it, since crop is 'centre' and the published setting"
        " 'random'",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"options": {"crop": "centre"}},
            "xview accuracy: found batch_norm None in runs/b and False in runs/a",
        ),
        ({"fingerprint": "fff"}, "found data fingerprint 'fff' in runs/b and 'abc123' in runs/a, expected equal ones"),
        ({"recipe": "raw"}, "found recipe 'raw' in runs/b and 'pcm3' in runs/a"),
    ],
)
def test_figures_of_different_conditions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compare({"runs/a": [result()], "runs/b": [result(**changes)]})


def scored_as_gcn(**changes: Any) -> TaskResult:
    options = TASKS["linear"].options(official("gcn"), "trained") | changes
    return result(family="gcn", options=options, method="skeletonclr", scores={"accuracy": 0.7})


def test_official_settings_of_two_families_compare_and_a_note_says_so() -> None:
    found = compare({"runs/a": [result()], "runs/b": [scored_as_gcn()]})
    assert [name for name in found.names if "published" not in name] == [
        "runs/a (pcm3pp, joint)",
        "runs/b (skeletonclr, joint)",
    ]
    assert found.notes[0] == "official settings of each encoder's family: gcn, gru"
    with pytest.raises(ConfigError, match=r"found batch_size 128 in runs/b and 1024 in runs/a"):
        compare({"runs/a": [result()], "runs/b": [scored_as_gcn(lr=0.1)]})
    with pytest.raises(ConfigError, match=r"found data fingerprint"):
        compare({"runs/a": [result(fingerprint="fff")], "runs/b": [scored_as_gcn()]})


def test_figures_that_do_not_compare_can_be_told_apart_in_tables_of_their_own() -> None:
    centre = [result(options={"crop": "centre"}), result("retrieval")]
    runs = {"runs/a": [result()], "runs/b": centre, "runs/c": [result(scores={"accuracy": 0.5})]}
    found = compare_apart(runs)
    tables = [(made.columns[0].table, [name for name in made.names if "published" not in name]) for made in found]
    assert tables == [
        ("linear ntu60 xview", ["runs/a (pcm3pp, joint)", "runs/c (pcm3pp, joint)"]),
        ("linear ntu60 xview", ["runs/b (pcm3pp, joint)"]),
        ("retrieval ntu60 xview", ["runs/b (pcm3pp, joint)"]),
    ]
    assert "found batch_norm None in runs/b and False in runs/a, expected equal ones" in found[1].notes[0]
    assert not any("table of its own" in note for made in (found[0], found[2]) for note in made.notes)


def test_runs_that_compare_are_the_same_apart_and_together() -> None:
    runs = {"runs/a": seeds(0.9, 0.8), "runs/b": seeds(0.7)}
    assert compare_apart(runs) == [compare(runs, baselines=True)]
    (short,) = compare_apart(runs, called=lambda run, row: run[-1])
    assert short.names[:2] == ("a", "b")


def test_other_protocols_tasks_and_settings_are_measurements_of_their_own() -> None:
    few = [
        result("few_shot", setting={"shots": shots}, scores={"accuracy": 0.1 * shots, "interval": 0.01})
        for shots in (1, 5)
    ]
    found = compare({"runs/a": [result(), *few], "runs/b": [result(protocol="xsub", scores={"accuracy": 0.8})]})
    assert [(column.table, column.title) for column in found.columns] == [
        ("linear ntu60 xsub", "accuracy"),
        ("linear ntu60 xview", "accuracy"),
        ("few_shot ntu60 xview", "shots 1"),
        ("few_shot ntu60 xview", "shots 5"),
        ("few_shot ntu60 xview", "shots 1 interval"),
        ("few_shot ntu60 xview", "shots 5 interval"),
    ]
    # higher than wide: a line a measurement
    assert cells(found, "few_shot ntu60 xview") == [
        ["", "runs/a (pcm3pp, joint)"],
        ["shots 1", "10.0"],
        ["shots 5", "50.0"],
        ["shots 1 interval", "1.0"],
        ["shots 5 interval", "1.0"],
    ]
    assert ["runs/b (pcm3pp, joint)", "80.0"] in cells(found, "linear ntu60 xsub")
    assert all("runs/a" not in line[0] for line in cells(found, "linear ntu60 xsub"))


def test_baselines_are_shown_when_asked_for() -> None:
    rows = [result(), result(subject="random encoder", checkpoint=None, checkpoint_sha256=None)]
    assert len(compare({"runs/a": rows}).names) == len(compare({"runs/a": rows}, baselines=True).names) - 1


def test_tables_are_written_as_markdown_csv_and_latex() -> None:
    found = compare({"runs/a|b_c": [*seeds(0.90, 0.92)]})
    markdown = write(found, "markdown").splitlines()
    assert markdown[:5] == [
        "**linear ntu60 xview**",
        "",
        "|  | accuracy |",
        "| --- | ---: |",
        "| runs/a/b_c (pcm3pp, joint) | 91.0 +- 1.4 (2) |",
    ]
    lines = list(csv.DictReader(io.StringIO(write(found, "csv"))))
    assert lines[0] == {
        "task": "linear", "dataset": "ntu60", "protocol": "xview", "setting": "", "score": "accuracy",
        "name": "runs/a|b_c (pcm3pp, joint)", "mean": "91.000", "deviation": "1.414", "count": "2",
    }  # fmt: skip
    assert {"PCM3++ (published)": ("91.000", "", "1")}.items() <= {
        line["name"]: (line["mean"], line["deviation"], line["count"]) for line in lines
    }.items()
    latex = write(found, "latex").splitlines()
    assert latex[:2] == ["% linear ntu60 xview", "\\begin{tabular}{lr}"]
    assert latex[4] == "runs/a|b\\_c (pcm3pp, joint) & 91.0 $\\pm$ 1.4 (2) \\\\"
    assert all(line.startswith("% ") for line in latex[-len(found.notes) :])


def test_runs_and_single_files_are_loaded_and_others_refused(tmp_path: Path) -> None:
    (tmp_path / "run" / "results").mkdir(parents=True)
    write_results(tmp_path / "run" / "results" / "linear.json", [result()])
    (tmp_path / "run" / "results" / "semi-subsets.json").write_text("{}")
    name = str(tmp_path / "run")
    assert load([tmp_path / "run"]) == load([tmp_path / "run" / "results" / "linear.json"]) == {name: [result()]}
    with pytest.raises(ConfigError, match="found no results, expected a scored run"):
        load([tmp_path])
