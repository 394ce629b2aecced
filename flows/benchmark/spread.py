"""The cells of a benchmark as flow runs on workers: as many at a time as the workers take."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, StateType
from prefect.deployments import arun_deployment
from prefect.exceptions import ObjectNotFound
from pydantic import BaseModel

from flows.benchmark.cells import Cell, evaluate_options, pretrain_options
from flows.benchmark.config import BenchmarkConfig
from flows.benchmark.plan import Plan, PlannedCell
from flows.storage.identity import about_results, about_run
from shards.errors import ConfigError, SkelstreamError
from shards.places import Place

TRAIN, SCORE = "pretrain/pretrain", "evaluate/evaluate"
"""The deployments."""

EVERY = 5.0
"""Seconds between two looks at a flow run."""

GRACE = 120.0
"""Seconds in which a crashed flow run may be scheduled again (`flows.service.recovery`) before it counts as failed."""

SILENCE = 900.0
"""Seconds for which the server may not answer; it may be restarted meanwhile, and the workers go on without it."""

Deploy = Callable[[str, BaseModel, str], Awaitable[None]]
"""Carries a deployment out: its name, its options, and a tag by which this very work is found again."""


class FlowRunError(SkelstreamError):
    """A flow run on a worker did not complete."""


def spread(planned: Plan, say: Callable[[str], None], deploy: Deploy | None = None) -> dict[Cell, str]:
    """Have workers train and score the cells, all at once but for those that are fused; those that failed, and why."""
    return asyncio.run(_all(planned, say, deploy or partial(_deployed, say=say)))


async def _all(planned: Plan, say: Callable[[str], None], deploy: Deploy) -> dict[Cell, str]:
    failed: dict[Cell, str] = {}
    jobs: dict[Cell, asyncio.Task[None]] = {}
    for cell in planned.cells:
        # those before it of the same seed: its bones and motions are among them
        before = [job for other, job in jobs.items() if "fusion" in cell.tasks and other.seed == cell.cell.seed]
        work = _carry_out(planned.config, cell, before, failed, say, deploy)
        jobs[cell.cell] = asyncio.create_task(_guarded(cell.cell, work, failed, say))
    await asyncio.gather(*jobs.values())
    return {cell: failed[cell] for cell in jobs if cell in failed}


async def _guarded(
    cell: Cell, work: Coroutine[Any, Any, None], failed: dict[Cell, str], say: Callable[[str], None]
) -> None:
    try:
        await work
    except Exception as error:  # noqa: BLE001 - the others go on
        failed[cell] = f"{error}" if isinstance(error, SkelstreamError) else repr(error)
        say(f"{cell.label}: failed: {failed[cell]}")


async def _carry_out(
    config: BenchmarkConfig,
    planned: PlannedCell,
    before: list[asyncio.Task[None]],
    failed: dict[Cell, str],
    say: Callable[[str], None],
    deploy: Deploy,
) -> None:
    """Train and score one cell."""
    cell, run, data = planned.cell, planned.run.absolute(), _absolute(planned.store)
    if planned.trained:
        say(f"{cell.label}: {about_run(planned.run)}")
    else:
        await deploy(TRAIN, pretrain_options(config, cell, data, run), f"train:{run.name}")
    if planned.results:
        say(f"{cell.label}: {about_results(planned.results)}")
    await asyncio.gather(*before)
    with planned.scorable(failed) as tasks:
        if planned.missing:
            await deploy(SCORE, evaluate_options(config, cell, data, run, tasks, planned.streams), f"score:{run.name}")
    say(f"{cell.label}: done")


def _absolute(where: Place) -> str:
    return str(where.absolute() if isinstance(where, Path) else where)


async def _deployed(name: str, options: BaseModel, tag: str, *, say: Callable[[str], None]) -> None:
    """Wait for the flow run of this work: one that is under way since an interrupted benchmark, else a new one."""
    async with get_client() as client:
        wanted = FlowRunFilter(
            tags=FlowRunFilterTags(all_=[tag]),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=sorted({*StateType} - TERMINAL_STATES))),
        )
        found = await client.read_flow_runs(flow_run_filter=wanted)
        if found:
            run, word = found[0], "goes on"
        else:
            parameters: dict[str, Any] = {"options": options.model_dump(mode="json"), "progress": False}
            try:
                run = await arun_deployment(name, client, parameters=parameters, tags=[tag], timeout=0)
                word = "is scheduled"
            except ObjectNotFound:
                raise ConfigError(
                    f"spread: found no deployment {name} on this server, expected those of prefect.yaml"
                ) from None
        say(f"{tag}: flow run {run.name} of {name} {word}")
        await _completed(partial(client.read_flow_run, run.id), name, say)


async def _completed(read: Callable[[], Awaitable[FlowRun]], name: str, say: Callable[[str], None]) -> None:
    """Return when the flow run has completed, however long it takes; FlowRunError when it ends otherwise."""
    crashed: float | None = None
    heard, silent = time.monotonic(), False
    while True:
        try:
            run = await read()
        except httpx.TransportError as error:
            if time.monotonic() > heard + SILENCE:
                raise
            if not silent:
                say(f"{name}: the server does not answer ({error}), asking for {SILENCE / 60:.0f} minutes more")
            silent = True
            await asyncio.sleep(EVERY)
            continue
        heard, silent, state = time.monotonic(), False, run.state
        if state is not None and state.is_completed():
            return
        if state is None or not state.is_crashed():
            crashed = None
        elif crashed is None:
            crashed = heard
        if state is not None and state.is_final() and (crashed is None or heard > crashed + GRACE):
            raise FlowRunError(f"flow run {run.name} of {name}: found it {state.name} ({state.message}), expected done")
        await asyncio.sleep(EVERY)
