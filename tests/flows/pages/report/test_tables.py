"""The benchmark of a report: who stands in which table with which figure, and the headline."""

from flows.pages.report.runs import Group
from flows.pages.report.tables import Cell, benchmarks, tiles
from flows.tasks.config import EvaluateConfig
from flows.tasks.registry import TASKS
from models.evaluation.results import TaskResult
from tests.flows.pages.report import made
from tests.flows.records import result


def pair() -> list[Group]:
    """Two groups; the first of two seeds and with a baseline."""
    seeds = [made.run(0, "a", [result(scores={"accuracy": 0.80}), untrained(0.4)])]
    seeds.append(made.run(1, "a2", [result(scores={"accuracy": 0.82}), untrained(0.5)]))
    return [Group(0, "a", "a", tuple(seeds)), made.group(2, "b", [result(scores={"accuracy": 0.7})])]


def untrained(accuracy: float) -> TaskResult:
    return result(subject="random encoder", checkpoint=None, checkpoint_sha256=None, scores={"accuracy": accuracy})


def test_seeds_are_one_line_with_their_deviation_and_the_best_is_marked() -> None:
    (table,) = benchmarks(pair())
    assert (table.task, table.data, table.columns) == ("linear", "ntu60 xview", ("accuracy",))
    a, b, baseline = table.rows[:3]
    assert (a.name, a.kind, a.run, a.runs) == ("a", "trained", 0, 2)
    (cell,) = a.cells
    assert cell is not None
    assert (round(cell.mean, 6), round(cell.deviation or 0, 3), cell.count, cell.best) == (81.0, 1.414, 2, True)
    assert (b.name, b.run, b.cells) == ("b", 2, (Cell(70.0, None, 1, False),))
    assert (baseline.name, baseline.kind, baseline.run) == ("a: random encoder", "baseline", None)


def test_published_figures_stand_last_with_their_source() -> None:
    (table,) = benchmarks(pair())
    published = {row.name: row.cells for row in table.rows if row.kind == "published"}
    assert published["PCM3++"] == (Cell(91.0, None, 1, False),)
    assert [row.kind for row in table.rows] == ["trained"] * 2 + ["baseline"] + ["published"] * len(published)
    assert table.notes == ("Published figures as stated in A Benchmark and Beyond (arXiv 2406.02978).",)


def test_figures_that_do_not_compare_stand_in_a_table_of_their_own_that_says_why() -> None:
    other = TASKS["linear"].options(EvaluateConfig(), "trained") | {"crop": "centre"}
    groups = [*pair(), made.group(3, "c", [result(options=other)])]
    first, second = benchmarks(groups)
    assert [row.name for row in first.rows if row.kind == "trained"] == ["a", "b"]
    assert [row.name for row in second.rows] == ["c"]
    assert "found crop 'centre' in c and 'random' in a, expected equal ones" in second.notes[0]


def test_the_headline_is_the_best_of_each_task_and_what_it_stands_beside() -> None:
    (tile,) = tiles(benchmarks(pair()))
    assert (tile.title, tile.value, tile.deviation) == ("linear · ntu60 xview", "81.0", "1.4")
    assert tile.notes == ("a, 2 seeds", "best without training: random encoder 45.0")
    (tile,) = tiles(benchmarks([made.group(0, "a", [result(), untrained(0.4)])]))
    assert (tile.value, tile.deviation, tile.notes) == ("90.0", "", ("random encoder 40.0",))


def test_no_results_make_no_tables() -> None:
    assert benchmarks([made.group()]) == []
    assert tiles([]) == []
