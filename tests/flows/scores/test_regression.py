"""What counts as worse than the round before."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from flows.scores import regression
from flows.scores.regression import Change, compare_rounds, noise, samples_tested, student_quantile
from models.evaluation.results import TaskResult
from pipelines.loaders.split import open_split
from shards.manifest import read_manifest
from tests.flows.records import result

KEY = ("ntu60", "xview")


def rows(values: Sequence[float], **changes: Any) -> dict[str, list[TaskResult]]:
    """A run for each value."""
    return {f"run{number}": [result(scores={"accuracy": value}, **changes)] for number, value in enumerate(values)}


def only(changes: list[Change]) -> Change:
    (change,) = changes
    return change


def test_the_quantile_is_that_of_scipy() -> None:
    for freedom in range(1, 40):
        for probability in (0.6, 0.9, 0.95, 0.99, 0.999):
            expected = stats.t.ppf(probability, freedom)
            assert student_quantile(probability, freedom) == pytest.approx(expected, rel=1e-9)


def test_with_seeds_it_is_the_one_sided_test_of_two_samples() -> None:
    draws = random.Random(0)
    found = []
    for _ in range(300):
        n, m = draws.choice([(2, 2), (3, 3), (5, 2), (1, 4)])
        before = [draws.gauss(0.8, 0.01) for _ in range(n)]
        now = [draws.gauss(0.78, 0.01) for _ in range(m)]
        p = stats.ttest_ind(before, now, alternative="greater").pvalue
        found.append(only(compare_rounds(rows(before), rows(now), level=0.05)).status == "regressed")
        assert found[-1] == (p < 0.05)
    assert 30 < sum(found) < 270


def test_of_single_runs_the_bound_is_the_binomial_error_of_the_test_side() -> None:
    bound = noise([0.8], [0.7], tests=400)
    p = 0.75
    assert bound == pytest.approx(stats.norm.ppf(0.99) * (2 * p * (1 - p) / 400) ** 0.5)
    assert only(compare_rounds(rows([0.80]), rows([0.72]), {KEY: 400})).status == "regressed"
    assert only(compare_rounds(rows([0.80]), rows([0.74]), {KEY: 400})).status == "steady"
    assert only(compare_rounds(rows([0.80]), rows([0.74]), {KEY: 4000})).status == "regressed"


def test_of_single_runs_on_an_unknown_number_of_test_samples_nothing_is_claimed() -> None:
    change = only(compare_rounds(rows([0.8]), rows([0.1])))
    assert (change.status, change.bound) == ("noise unknown", None)


def test_one_test_sample_is_no_regression_however_equal_the_seeds() -> None:
    before, tests = [0.75, 0.75], {KEY: 200}
    assert only(compare_rounds(rows(before), rows([0.745, 0.745]), tests)).status == "steady"
    assert only(compare_rounds(rows(before), rows([0.740, 0.740]), tests)).status == "regressed"


def test_what_rises_is_steady() -> None:
    assert only(compare_rounds(rows([0.7, 0.71]), rows([0.9, 0.91]))).status == "steady"


def test_repetitions_within_a_run_count_as_one_value() -> None:
    def run(*values: float) -> list[TaskResult]:
        return [result(setting={"seed": n}, scores={"accuracy": value}) for n, value in enumerate(values)]

    change = only(compare_rounds({"a": run(0.8, 0.9), "b": run(0.7, 0.7)}, {"a": run(0.5, 0.5), "b": run(0.5, 0.5)}))
    assert change.before == pytest.approx((0.85, 0.7))
    assert change.drop == pytest.approx(0.275)


def test_few_shot_results_bring_their_own_error() -> None:
    def run(accuracy: float) -> dict[str, list[TaskResult]]:
        scores = {"accuracy": accuracy, "interval": 0.004}
        return {"a": [result("few_shot", setting={"shots": 1}, scores=scores)]}

    bound = stats.norm.ppf(0.99) * 2**0.5 * 0.004 / stats.norm.ppf(0.975)
    change = only(compare_rounds(run(0.60), run(0.59)))
    assert change.bound == pytest.approx(bound)
    assert change.status == "regressed"
    assert only(compare_rounds(run(0.60), run(0.594))).status == "steady"


def test_only_equal_conditions_compare() -> None:
    change = only(compare_rounds(rows([0.9, 0.9]), rows([0.1, 0.1], fingerprint="other")))
    assert change.status == "other conditions"
    assert change.why == "data fingerprint was 'abc123' and is 'other'"


def test_what_is_there_in_one_round_alone_is_said() -> None:
    before, now = rows([0.9, 0.9]), rows([0.9, 0.9], method="pcm3")
    found = {change.what.method: change.status for change in compare_rounds(before, now)}
    assert found == {"pcm3pp": "missing", "pcm3": "new"}


def test_encoders_before_training_are_no_matter() -> None:
    assert compare_rounds(rows([0.9], subject="random encoder"), rows([0.1], subject="random encoder")) == []


def test_a_change_is_told_in_per_cent() -> None:
    change = only(compare_rounds(rows([0.80]), rows([0.72]), {KEY: 400}))
    assert change.line() == ("pcm3pp ntu60 xview joint: linear accuracy: 80.00 -> 72.00, noise up to 7.03: regressed")


def test_test_samples_are_those_of_the_split(store: Path, run: Path) -> None:
    expected = open_split(store, *KEY, "test").num_samples
    assert samples_tested(read_manifest(store), *KEY) == expected
    assert regression.tests_of([run]) == {KEY: expected}


def test_a_store_that_has_moved_tells_nothing(run: Path, tmp_path: Path) -> None:
    record = (run / "run.json").read_text()
    for name in ("config.json", "run.json"):
        (tmp_path / name).write_text((run / name).read_text())
    store = regression.tests_of([tmp_path])
    assert store
    (tmp_path / "run.json").write_text(record.replace("ntu-pcm3", "moved"))
    assert regression.tests_of([tmp_path]) == {}
