"""Whether the results of a round are worse than those of the round before, by more than noise.

The unit is a run: repetitions within one (seeds of a head, draws of a subset) are averaged first, because they say
nothing of how much another training would differ. Of one measurement with the values a of the n runs before and b of
the m runs now, the drop mean(a) - mean(b) counts as a regression when it exceeds

    t(1 - level, n+m-2) * s * sqrt(1/n + 1/m),    s^2 = (sum (a - mean a)^2 + sum (b - mean b)^2) / (n+m-2),

the one-sided bound of Student's test of two samples of equal variance. With one run each there is no such s. Then the
bound is that of the test side alone, z(1 - level) * sqrt(e^2 + e^2') with the binomial error e^2 = p (1-p) / N of N
test samples (an upper limit for a mean of anything between 0 and 1, such as an average precision), p the mean of both;
few-shot results bring their own error, a 95 % interval. In either case a drop of no more than one test sample is none.

Of a hundred measurements that nothing has changed, one is reported at level 0.01. Both samples are tested on the same
test side, which makes the binomial bound a cautious one.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

from flows.config import read_config
from flows.run_folder import read_run
from flows.scores.summary import REPEATED, conditions, tested_on
from flows.tasks.registry import TASKS
from models.evaluation.results import TaskResult
from shards.errors import StoreError
from shards.manifest import Manifest, read_manifest
from shards.places import place

LEVEL = 0.01
"""One-sided probability with which a measurement that has not changed is reported."""

Runs = Mapping[str, Sequence[TaskResult]]
"""Folder or name of a run -> its results."""

Status = Literal["regressed", "steady", "noise unknown", "other conditions", "missing", "new"]

_OF_WIDTH = ("interval",)  # scores of which a smaller one is no worse
_ROUNDING = 1e-9


@dataclass(frozen=True, order=True)
class Measurement:
    """What is measured: one score of one row of a task, of a method on a protocol; runs differ in their seed alone."""

    method: str
    stream: str
    dataset: str
    protocol: str
    task: str
    setting: str
    score: str

    @property
    def title(self) -> str:
        """All of it, for people to read."""
        benchmark = f"{self.method} {self.dataset} {self.protocol} {self.stream}"
        return " ".join(filter(None, (f"{benchmark}: {self.task}", self.setting, self.score)))


@dataclass(frozen=True)
class Change:
    """A measurement in two rounds.

    Attributes:
        before, now: mean of each run, in the order of the runs' names; shares of 1.
        bound: that the drop must exceed to count; None where it is not known.
        status: "regressed"; "steady", which may be better; "noise unknown": single runs and no count of test samples;
            "other conditions": options or data differ, so that the numbers do not compare; "missing": only before;
            "new": only now.
        why: of "other conditions", what differs.
    """

    what: Measurement
    before: tuple[float, ...]
    now: tuple[float, ...]
    bound: float | None
    status: Status
    why: str = ""

    @property
    def drop(self) -> float:
        """By how much the mean fell; below 0 where it rose. Needs both rounds."""
        return statistics.fmean(self.before) - statistics.fmean(self.now)

    def line(self) -> str:
        """For people to read, in per cent."""
        if not self.before or not self.now:
            return f"{self.what.title}: {self.status}"
        found = f"{_percent(self.before)} -> {_percent(self.now)}"
        bound = "" if self.bound is None else f", noise up to {100 * self.bound:.2f}"
        return f"{self.what.title}: {found}{bound}: {self.status}{self.why and f' ({self.why})'}"


def compare_rounds(
    before: Runs, now: Runs, tests: Mapping[tuple[str, str], int] | None = None, *, level: float = LEVEL
) -> list[Change]:
    """Every measurement of trained encoders in both rounds, sorted; what regressed has the status "regressed".

    Args:
        before, now: the rounds; runs that differ in anything but their seed differ in a field of `Measurement`.
        tests: (data set, protocol) -> test samples, see `samples_tested`; needed with one run on each side alone.
        level: one-sided probability of a false report of one measurement.
    """
    old, new = _measured(before), _measured(now)
    return [_change(what, old.get(what, {}), new.get(what, {}), tests or {}, level) for what in sorted({*old, *new})]


def noise(
    before: Sequence[float], now: Sequence[float], *, tests: int | None = None, error: float | None = None,
    level: float = LEVEL,
) -> float | None:  # fmt: skip
    """The bound that a drop of the mean has to exceed, see the top of this file; None where nothing tells it.

    Args:
        before, now: a value for each run, shares of 1.
        tests: samples of the test side.
        error: standard error of the difference of two single runs, where it is known otherwise.
        level: one-sided.
    """
    n, m = len(before), len(now)
    least = 1 / tests if tests else 0.0
    if n + m > 2:
        squares = sum((value - statistics.fmean(values)) ** 2 for values in (before, now) for value in values)
        deviation = math.sqrt(squares / (n + m - 2))
        return max(least, student_quantile(1 - level, n + m - 2) * deviation * math.sqrt(1 / n + 1 / m))
    if error is None and tests:
        share = min(1.0, max(0.0, (before[0] + now[0]) / 2))
        error = math.sqrt(2 * share * (1 - share) / tests)
    return None if error is None else max(least, NormalDist().inv_cdf(1 - level) * error)


def student_quantile(probability: float, freedom: int) -> float:
    """Of Student's t with whole degrees of freedom, for a probability above 0.5.

    Bisection on the closed form of the distribution (Abramowitz and Stegun, 26.7.3 and 26.7.4).
    """
    low, high = 0.0, math.pi / 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _student(middle, freedom) < probability else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _student(angle: float, freedom: int) -> float:
    """P(T < t) at t = sqrt(freedom) tan(angle)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for power in range(1 + odd, freedom, 2):
        total += term
        term *= cosine * cosine * power / (power + 1)
    within = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return (1 + within) / 2


def samples_tested(manifest: Manifest, dataset: str, protocol: str) -> int:
    """Samples of the test side of a protocol in a store."""
    key = f"{dataset}/{protocol}"
    return sum(cell.samples for cell in manifest.cells.values() if cell.memberships.get(key) == "test")


def tests_of(runs: Sequence[Path]) -> dict[tuple[str, str], int]:
    """(Data set, protocol) of each run -> its test samples; without those whose store is no longer where it was.

    Raises:
        ConfigError: a folder holds no run.
    """
    found = {}
    for run in runs:
        data = read_config(run / "config.json").data
        try:
            manifest = read_manifest(place(read_run(run).store))
        except StoreError:
            continue
        found[data.dataset, data.protocol] = samples_tested(manifest, data.dataset, data.protocol)
    return found


@dataclass(frozen=True)
class _Values:
    """Of one run: the mean of its repetitions, their conditions, and the standard error that they bring."""

    mean: float
    conditions: dict[str, Any]
    error: float | None


def _measured(runs: Runs) -> dict[Measurement, dict[str, _Values]]:
    rows: dict[Measurement, dict[str, list[TaskResult]]] = {}
    for name in sorted(runs):
        for result in runs[name]:
            if result.subject == "trained":
                for what in _measurements(result):
                    rows.setdefault(what, {}).setdefault(name, []).append(result)
    return {what: {name: _values(what, found) for name, found in by_run.items()} for what, by_run in rows.items()}


def _measurements(result: TaskResult) -> list[Measurement]:
    setting = ", ".join(f"{name} {value}" for name, value in sorted(result.setting.items()) if name not in REPEATED)
    known = TASKS[result.task].shown if result.task in TASKS else tuple(result.scores)
    names = [name for name in known if name in result.scores and name not in _OF_WIDTH]
    data = tested_on(result)
    return [Measurement(result.method, result.stream, *data, result.task, setting, name) for name in names]


def _values(what: Measurement, rows: Sequence[TaskResult]) -> _Values:
    intervals = [float(row.scores["interval"]) for row in rows if "interval" in row.scores]
    half = math.sqrt(sum(width * width for width in intervals)) / len(rows) if len(intervals) == len(rows) else None
    error = None if half is None else half / NormalDist().inv_cdf(0.975)
    return _Values(statistics.fmean(float(row.scores[what.score]) for row in rows), conditions(rows[0]), error)


def _change(
    what: Measurement,
    before: Mapping[str, _Values],
    now: Mapping[str, _Values],
    tests: Mapping[tuple[str, str], int],
    level: float,
) -> Change:
    old, new = tuple(v.mean for v in before.values()), tuple(v.mean for v in now.values())
    if not old or not new:
        return Change(what, old, new, None, "new" if new else "missing")
    first, *others = (*before.values(), *now.values())
    for other in others:
        different = _difference(first.conditions, other.conditions)
        if different:
            return Change(what, old, new, None, "other conditions", different)
    errors = [value.error for value in (first, *others)]
    error = None if None in errors else math.sqrt(sum(e * e for e in errors if e is not None))
    # detection is tested on videos of another data set, of which nobody counts the test samples
    samples = None if what.task == "detection" else tests.get((what.dataset, what.protocol))
    bound = noise(old, new, tests=samples, error=error, level=level)
    if bound is None:
        return Change(what, old, new, None, "noise unknown")
    drop = statistics.fmean(old) - statistics.fmean(new)
    return Change(what, old, new, bound, "regressed" if drop > bound + _ROUNDING else "steady")


def _difference(here: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    for key in sorted({*here, *there}):
        if here.get(key) != there.get(key):
            return f"{key} was {here.get(key)!r} and is {there.get(key)!r}"
    return ""


def _percent(values: Sequence[float]) -> str:
    mean = f"{100 * statistics.fmean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ({len(values)} runs)"
