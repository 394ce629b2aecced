"""The flows of whole experiments through Prefect, on a server of their own."""

import asyncio
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect import flow, tags
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import Artifact, FlowRun
from prefect.testing.utilities import prefect_test_harness

from flows.benchmark import run as running
from flows.benchmark.config import BenchmarkConfig
from flows.benchmark.run import CellsFailedError
from flows.benchmark.spread import _deployed
from flows.deployments.benchmark import benchmark_flow
from flows.deployments.distill import distill_flow
from flows.deployments.export import export_flow
from flows.exchange.export import export
from flows.options import BenchmarkOptions, DistillOptions, ExportOptions, PretrainOptions
from shards.errors import ConfigError
from tests.flows.benchmark.conftest import OTHER
from tests.flows.conftest import METHOD
from tests.patience import PATIENCE

Make = Callable[..., BenchmarkConfig]


@pytest.fixture(scope="module", autouse=True)
def _server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=round(PATIENCE)):
        yield


def last_run() -> tuple[FlowRun, dict[str, Artifact]]:
    """The flow run that began last, with its artefacts by key."""
    with get_client(sync_client=True) as client:
        run = max(client.read_flow_runs(), key=lambda found: found.created or 0)
    return run, {str(found.key): found for found in asyncio.run(_artifacts()) if found.flow_run_id == run.id}


async def _artifacts() -> list[Artifact]:
    async with get_client() as client:
        return await client.read_artifacts()


def test_a_benchmark_shows_its_cells_its_table_and_what_it_reused(benchmark: Make, own: Path, tmp_path: Path) -> None:
    config = benchmark(methods=[METHOD, OTHER])
    assert benchmark_flow(BenchmarkOptions(file=tmp_path / "tiny.yaml"), progress=False) == str(config.folder)
    run, artifacts = last_run()
    assert run.name == "tiny once"
    assert {"benchmark:tiny", "round:once"} <= set(run.tags)
    assert run.state is not None
    assert run.state.is_completed()
    assert artifacts["tiny-progress"].data == 100.0
    assert artifacts["tiny-table"].data == (config.folder / "table.md").read_text()
    assert f"reused {own}: saves 2 epochs" in str(artifacts["tiny-reused"].data)
    assert "retrieval missing" in str(artifacts["tiny-plan"].data)
    assert f"{METHOD} ntu60/xview joint seed 0" in str(artifacts["tiny-scores"].data)
    assert "report.html" in str(artifacts["tiny-report"].data)
    assert "<title>tiny" in (config.folder / "report.html").read_text()


@pytest.mark.usefixtures("reports")
def test_a_failed_cell_fails_the_flow_when_the_others_are_done(
    benchmark: Make, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(options: PretrainOptions, **_: object) -> None:
        raise ConfigError("not this one")

    monkeypatch.setattr(running, "pretrain", failing)
    benchmark(seeds=[1, 0])
    with pytest.raises(CellsFailedError, match=r"(?s)1 of 2 cells.*seed 1: not this one"):
        benchmark_flow(BenchmarkOptions(file=tmp_path / "tiny.yaml"), progress=False)
    assert (own / "results" / "retrieval.json").is_file()
    run, _ = last_run()
    assert run.state is not None
    assert run.state.is_failed()


def test_distillation_and_export_do_what_the_plain_functions_do(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    found = distill_flow(DistillOptions(run=copy, epochs=1, lr=0.01, device="cpu"), progress=False)
    assert found == str(copy / "checkpoints" / "epoch_0003.pt")
    assert last_run()[0].name == "distill copy"
    assert export_flow(ExportOptions(run=copy)) == str(copy / "export")
    assert last_run()[0].name == "export copy"
    export(copy, None, tmp_path / "plain")
    for path in (tmp_path / "plain").iterdir():
        assert (copy / "export" / path.name).read_bytes() == path.read_bytes()


def test_a_cell_without_a_deployment_is_refused_and_one_under_way_is_waited_for(tmp_path: Path) -> None:
    options = ExportOptions(run=tmp_path)
    with pytest.raises(ConfigError, match="found no deployment export/absent on this server"):
        asyncio.run(_deployed("export/absent", options, "train:a", say=print))
    said: list[str] = []

    @flow(name="short")
    def short() -> None:
        """As if a worker carried it out."""
        asyncio.run(_looked())

    async def _looked() -> None:
        waiting = asyncio.create_task(_deployed("export/absent", options, "train:b", say=said.append))
        await asyncio.sleep(3)  # found under way: else the absent deployment is an error
        assert not waiting.done()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    with tags("train:b"):
        short.with_options(flow_run_name="cat")()
    assert said == ["train:b: flow run cat of export/absent goes on"]
