"""A benchmark carried out: what is missing and nothing else, one table, failed cells apart from the others."""

import csv
import json
import shutil
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from flows.benchmark import run as running
from flows.benchmark.config import BenchmarkConfig, read_benchmark
from flows.benchmark.run import BenchmarkResult, CellsFailedError, run_benchmark
from flows.cli.main import main
from flows.evaluate import find_finished_scores
from flows.options import EvaluateOptions
from flows.scores.regression import Change
from models.evaluation.results import write_results
from models.training.divergence import DivergenceError
from shards.errors import ConfigError
from tests.flows.benchmark.conftest import OTHER
from tests.flows.conftest import METHOD

Make = Callable[..., BenchmarkConfig]
pytestmark = pytest.mark.usefixtures("reports")


class Spoken(list[str]):
    def __call__(self, text: str) -> None:
        self.append(text)


def files(folder: Path) -> dict[str, bytes]:
    names = ("table.md", "table.csv", "table.tex", "rounds/once.json")
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def matrix(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of the runs of a benchmark of two methods and two seeds, carried out once; tests take copies."""
    return tmp_path_factory.mktemp("matrix") / "runs"


@pytest.fixture
def done(matrix: Path, benchmark: Make, tmp_path: Path, reports: list[list[str]]) -> BenchmarkResult:
    config = benchmark(runs=str(matrix), methods=[METHOD, OTHER], seeds=[0, 1], tasks=["linear", "retrieval"])
    return run_benchmark(config, say=Spoken())


def test_the_table_has_a_line_a_method_with_the_mean_of_its_seeds(done: BenchmarkResult) -> None:
    rows = list(csv.DictReader((done.folder / "table.csv").read_text().splitlines()))
    for method in (METHOD, OTHER):
        for task in ("linear", "retrieval"):
            scores = []
            for planned in done.plan.cells:
                if planned.cell.method == method:
                    tasks = (task,)
                    overrides = planned.cell.evaluate
                    found = find_finished_scores(
                        EvaluateOptions(run=planned.run, tasks=tasks, overrides=overrides, device="cpu")
                    )
                    assert found is not None
                    scores += [row.scores["accuracy"] for row in found if row.subject == "trained"]
            (line,) = [
                row
                for row in rows
                if (row["name"], row["task"], row["score"]) == (f"{method}, joint", task, "accuracy")
            ]
            assert line["count"] == "2"
            assert float(line["mean"]) == pytest.approx(100 * statistics.mean(scores), abs=1e-3)
            assert float(line["deviation"]) == pytest.approx(100 * statistics.stdev(scores), abs=1e-3)
    text = (done.folder / "table.md").read_text()
    assert text.startswith("**linear ntu60 xview**\n")
    assert f"| {METHOD}, joint |" in text
    assert f"| {METHOD}, joint: random encoder |" in text
    assert (done.folder / "table.tex").read_text().count("\\begin{tabular}") == 2


def test_a_complete_round_names_its_runs(done: BenchmarkResult, matrix: Path) -> None:
    record = json.loads((done.folder / "rounds" / "once.json").read_text())
    assert (record["round"], record["number"]) == ("once", 1)
    assert [(cell["method"], cell["seed"], cell["run"]) for cell in record["cells"]] == [
        (p.cell.method, p.cell.seed, p.run.name) for p in done.plan.cells
    ]
    assert {path.name for path in matrix.iterdir()} == {"benchmarks", *(p.run.name for p in done.plan.cells)}
    assert read_benchmark(done.folder / "benchmark.yaml") == done.plan.config


def test_a_second_time_everything_is_reused(
    done: BenchmarkResult, monkeypatch: pytest.MonkeyPatch, reports: list[list[str]]
) -> None:
    for name in ("pretrain", "evaluate", "preprocess"):
        monkeypatch.setattr(running, name, None)
    before, said = files(done.folder), Spoken()
    run_benchmark(done.plan.config, say=said)
    assert files(done.folder) == before
    assert sum("of training" in line for line in said) == sum("of scoring" in line for line in said) == 4
    assert len(reports[-1]) == 4


def test_rows_of_other_options_in_a_reused_run_are_not_in_the_table(benchmark: Make, own: Path, tmp_path: Path) -> None:
    result = run_benchmark(benchmark(evaluate={"retrieval.k": [1]}), say=Spoken())
    before = files(result.folder)
    assert {row.task for p in result.plan.cells for row in p.results} == {"retrieval"}
    run_benchmark(benchmark(name="other", tasks=["linear"]), say=Spoken())
    again = run_benchmark(benchmark(evaluate={"retrieval.k": [1]}), say=Spoken())
    assert files(again.folder) == before
    assert again.plan.cells[0].run == own


def test_a_failed_cell_does_not_stop_the_others_and_is_gone_on_with(
    benchmark: Make, done: BenchmarkResult, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And the table is in the end that of a benchmark without failures."""
    plain = running.pretrain

    def failing(options: Any, **named: Any) -> Any:
        if (options.method, options.overrides[-1]) == (OTHER, "train.seed=0"):
            raise DivergenceError("found a loss of NaN, expected a number")
        if (options.method, options.overrides[-1]) == (METHOD, "train.seed=1"):
            raise RuntimeError("CUDA out of memory")
        return plain(options, **named)

    config = benchmark(methods=[METHOD, OTHER], seeds=[0, 1], tasks=["linear", "retrieval"])
    monkeypatch.setattr(running, "pretrain", failing)
    said = Spoken()
    with pytest.raises(CellsFailedError) as error:
        run_benchmark(config, say=said)
    lines = str(error.value).splitlines()
    assert "2 of 4 cells failed; the same command goes on with them" in lines[0]
    assert lines[1:] == [
        f"  {OTHER} ntu60/xview joint seed 0: found a loss of NaN, expected a number",
        f"  {METHOD} ntu60/xview joint seed 1: RuntimeError('CUDA out of memory')",
    ]
    assert any("Traceback" in line for line in said)
    assert (
        f"not complete: {OTHER} ntu60/xview joint seed 0: found a loss of NaN"
        in (config.folder / "table.md").read_text()
    )
    assert not (config.folder / "rounds").exists()
    monkeypatch.setattr(running, "pretrain", plain)
    assert files(run_benchmark(config, say=Spoken()).folder) == files(done.folder)


def test_streams_are_fused_and_a_lost_stream_costs_the_fusion_alone(
    benchmark: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = running.pretrain

    def failing(options: Any, **named: Any) -> Any:
        if options.streams == ("motion",):
            raise ConfigError("no motion today")
        return plain(options, **named)

    config = benchmark(streams=["joint", "bone", "motion"], tasks=["linear", "fusion"], evaluate={
        "linear.epochs": 2, "linear.batch_size": 16, "linear.crop": "centre", "baselines": False,
    })  # fmt: skip
    monkeypatch.setattr(running, "pretrain", failing)
    with pytest.raises(
        CellsFailedError, match=r"(?s)2 of 3 .*joint seed 0: task fusion: .*motion seed 0, which failed"
    ):
        run_benchmark(config, say=Spoken())
    monkeypatch.setattr(running, "pretrain", plain)
    said = Spoken()
    result = run_benchmark(config, say=said)
    assert sum(line.startswith("trains in") for line in said) == 1
    (fused,) = [row for p in result.plan.cells for row in p.results if row.task == "fusion"]
    alone = {
        p.cell.stream: row.scores["accuracy"] for p in result.plan.cells for row in p.results if row.task == "linear"
    }
    assert {name: fused.scores[name] for name in alone} == alone
    assert run_benchmark(config, say=Spoken()).plan.complete


def test_stores_are_made_first_and_reused(benchmark: Make, raw: Path, store: Path, run: Path, tmp_path: Path) -> None:
    config = benchmark(data=str(tmp_path / "data"), preprocess=[{"source": "ntu", "raw": [str(raw)], "workers": 0}])
    shutil.copytree(run, tmp_path / "runs" / "my-own")  # trained on a store of the same fingerprint elsewhere
    said = Spoken()
    result = run_benchmark(config, say=said)
    made = tmp_path / "data" / store.name
    assert (made / "manifest.json").read_bytes() == (store / "manifest.json").read_bytes()
    assert result.plan.cells[0].run.name == "my-own"
    assert not any(line.startswith(f"reused {made}") for line in said)
    run_benchmark(config, say=said)
    assert any(line.startswith(f"reused {made}: saves converting") for line in said)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str, list[str]]]:
    """What is said of regressions: benchmark, round, the one before, and what is worse."""
    events: list[tuple[str, str, str, list[str]]] = []

    def regressed(name: str, round_: str, previous: str, changes: Sequence[Change]) -> bool:
        worse = [change.what.score for change in changes if change.status == "regressed"]
        events.append((name, round_, previous, worse))
        return True

    monkeypatch.setattr(running, "evaluation_regressed", regressed)
    return events


def test_a_round_that_is_worse_than_the_one_before_is_told_once(
    benchmark: Make, told: list[tuple[str, str, str, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = benchmark(round="date")
    first = run_benchmark(config, round_="2030-01-01", say=Spoken())
    assert (first.regressed, told) == ((), [])
    plain = running.evaluate

    def spoilt(options: EvaluateOptions, **named: Any) -> Any:
        """As by a revision with a mistake."""
        found = plain(options, **named)
        rows = [row.model_copy(update={"scores": dict.fromkeys(row.scores, 0.0)}) for row in found]
        write_results(options.run / "results" / "retrieval.json", rows)

    monkeypatch.setattr(running, "evaluate", spoilt)
    said = Spoken()
    second = run_benchmark(config, round_="2030-01-02", say=said)
    assert first.plan.cells[0].run != second.plan.cells[0].run
    assert len(second.regressed) >= 1
    assert any(
        line.startswith(f"worse than in round 2030-01-01: {METHOD} ntu60 xview joint: retrieval") for line in said
    )
    assert [event[:3] for event in told] == [("tiny", "2030-01-02", "2030-01-01")]
    assert "accuracy" in told[0][3]
    again = run_benchmark(config, round_="2030-01-02", say=Spoken())
    assert again.regressed == second.regressed
    assert len(told) == 1


def test_the_command_plans_runs_and_says_what_failed(
    benchmark: Make, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark()
    file = str(tmp_path / "tiny.yaml")
    assert main(["benchmark", file, "--plan"]) == 0
    assert "retrieval missing" in capsys.readouterr().out
    assert not (tmp_path / "runs" / "benchmarks").exists()
    assert main(["benchmark", file, "--plain"]) == 0
    out = capsys.readouterr().out
    assert f"reused {own}: saves 2 epochs" in out
    assert out.endswith((tmp_path / "runs" / "benchmarks" / "tiny" / "table.md").read_text())
    monkeypatch.setattr(running, "evaluate", lambda *_, **__: (_ for _ in ()).throw(ConfigError("no scores today")))
    benchmark(evaluate={"retrieval.metric": "euclidean"})
    assert main(["benchmark", file, "--plain"]) == 1
    assert capsys.readouterr().err.startswith("skelstream: error: tiny, round once: 1 of 1 cells failed")
