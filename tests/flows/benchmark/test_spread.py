"""Cells on workers: all at once but for what is fused, a failed one apart from the others, a crashed one waited for."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prefect.client.schemas.objects import State, StateType
from pydantic import BaseModel

from flows.benchmark import spread as spreading
from flows.benchmark.config import BenchmarkConfig
from flows.benchmark.plan import plan
from flows.benchmark.spread import SCORE, TRAIN, FlowRunError, spread
from flows.options import EvaluateOptions, PretrainOptions
from shards.errors import SkelstreamError
from tests.flows.benchmark.conftest import OTHER
from tests.flows.conftest import METHOD

Make = Callable[..., BenchmarkConfig]


class Workers:
    """That take any number of cells at a time and do nothing; `fails` names the tags of those that fail."""

    def __init__(self, *fails: str) -> None:
        self.fails = fails
        self.log: list[str] = []
        self.options: dict[str, BaseModel] = {}
        self.now = self.most = 0

    async def __call__(self, name: str, options: BaseModel, tag: str) -> None:
        self.log.append(f"begin {name} {tag}")
        self.options[f"{name} {tag}"] = options
        self.now += 1
        self.most = max(self.most, self.now)
        for _ in range(5):
            await asyncio.sleep(0)
        self.now -= 1
        self.log.append(f"end {name} {tag}")
        if any(part in tag for part in self.fails):
            raise FlowRunError(f"flow run of {tag}: found it Failed")


def silent(text: str) -> None:
    pass


def test_all_cells_are_under_way_at_once_and_each_is_scored_when_it_is_trained(benchmark: Make) -> None:
    found = plan(benchmark(methods=[METHOD, OTHER], seeds=[0, 1], spread=True), "once")
    workers = Workers()
    assert spread(found, silent, workers) == {}
    assert workers.most == 4
    for planned in found.cells:
        name = planned.run.name
        order = [f"begin {TRAIN} train:{name}", f"end {TRAIN} train:{name}", f"begin {SCORE} score:{name}"]
        assert [line for line in workers.log if line in order] == order


def test_workers_in_another_folder_find_the_data_and_the_runs(
    benchmark: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (planned,) = (found := plan(benchmark(runs="runs", spread=True, device="cuda"), "once")).cells
    workers = Workers()
    assert spread(found, silent, workers) == {}
    training, scoring = workers.options.values()
    assert isinstance(training, PretrainOptions)
    assert isinstance(scoring, EvaluateOptions)
    assert training.run == scoring.run == tmp_path / planned.run
    assert training.data == scoring.data == str(planned.store.absolute())
    assert (training.resume, training.device, scoring.tasks) == (True, "cuda", ("retrieval",))
    assert PretrainOptions.model_validate(training.model_dump(mode="json")) == training


def test_the_joint_stream_is_scored_after_the_streams_that_are_fused_with_it(benchmark: Make) -> None:
    found = plan(benchmark(streams=["joint", "bone", "motion"], tasks=["linear", "fusion"], spread=True), "once")
    workers = Workers()
    assert spread(found, silent, workers) == {}
    names = {planned.cell.stream: planned.run.name for planned in found.cells}
    begun = workers.log.index(f"begin {SCORE} score:{names['joint']}")
    assert all(workers.log.index(f"end {SCORE} score:{names[other]}") < begun for other in ("bone", "motion"))
    assert workers.most == 3  # it trains beside them


def test_a_failed_cell_is_told_and_costs_what_is_fused_with_it_alone(benchmark: Make) -> None:
    config = benchmark(streams=["joint", "bone", "motion"], tasks=["linear", "fusion"], spread=True)
    workers = Workers(f"train:{METHOD}-ntu60-xview-bone")
    failed = spread(plan(config, "once"), silent, workers)
    assert [(cell.stream, reason) for cell, reason in failed.items()] == [
        ("bone", f"flow run of train:{plan(config, 'once').cells[0].run.name}: found it Failed"),
        ("joint", f"task fusion: found no scores of {METHOD} ntu60/xview bone seed 0, which failed"),
    ]
    (joint,) = [o for o in workers.options.values() if isinstance(o, EvaluateOptions) and "joint" in o.run.name]
    assert joint.tasks == ("linear",)


def test_what_is_trained_and_scored_is_not_sent_to_a_worker(benchmark: Make, own: Path) -> None:
    workers = Workers()
    assert spread(plan(benchmark(spread=True), "once"), silent, workers) == {}
    assert [line.split()[1] for line in workers.log] == [SCORE, SCORE]


class Clock:
    """Time that passes by sleeping alone."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    ("states", "error"),
    [
        (["PENDING", "RUNNING", "COMPLETED"], None),
        (["RUNNING", "CRASHED", "CRASHED", "SCHEDULED", "RUNNING", "COMPLETED"], None),
        (["RUNNING", *["CRASHED"] * 60], "found it Crashed"),
        (["RUNNING", *["silence"] * 100, "RUNNING", *["silence"] * 100, "COMPLETED"], None),
        (["RUNNING", "FAILED"], "found it Failed"),
        (["CANCELLING", "CANCELLED"], "found it Cancelled"),
    ],
)
def test_a_flow_run_is_waited_for_even_when_it_crashes_and_is_picked_up(
    monkeypatch: pytest.MonkeyPatch, states: list[str], error: str | None
) -> None:
    clock = Clock()
    monkeypatch.setattr(spreading, "time", clock)
    monkeypatch.setattr(spreading, "asyncio", SimpleNamespace(sleep=clock.sleep))
    left = iter(states)

    async def read() -> Any:
        state = next(left)
        if state == "silence":
            raise httpx.ConnectError("the server is restarted")
        return SimpleNamespace(name="curious-cat", state=State(type=StateType(state)))

    said: list[str] = []
    if error is None:
        asyncio.run(spreading._completed(read, TRAIN, said.append))
        assert list(left) == []
    else:
        with pytest.raises(SkelstreamError, match=f"flow run curious-cat of {TRAIN}: {error}"):
            asyncio.run(spreading._completed(read, TRAIN, said.append))
    silent = f"{TRAIN}: the server does not answer (the server is restarted), asking for 15 minutes more"
    assert said == [silent] * (2 if "silence" in states else 0)


def test_a_server_that_is_gone_for_good_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(spreading, "time", clock)
    monkeypatch.setattr(spreading, "asyncio", SimpleNamespace(sleep=clock.sleep))

    async def read() -> Any:
        raise httpx.ConnectError("nobody listens")

    said: list[str] = []

    with pytest.raises(httpx.ConnectError, match="nobody listens"):
        asyncio.run(spreading._completed(read, TRAIN, said.append))
    assert len(said) == 1
    assert spreading.SILENCE <= clock.now <= spreading.SILENCE + 2 * spreading.EVERY
