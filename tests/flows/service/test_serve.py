"""`skelstream serve`: it refuses what cannot work, fires on a schedule, shows what came out, and ends whole."""

import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.service.recovery import automations
from flows.service.serve import FLOWS, Scheduled
from flows.service.serve import serve as serve_here
from shards.errors import ConfigError
from tests.flows.conftest import METHOD
from tests.flows.serving import PATIENCE, SKELSTREAM, artifacts, client, ended, environment, serve, until
from tests.ports import free_port


def benchmark(folder: Path, store: Path, **changes: Any) -> Path:
    """A benchmark of one cell."""
    path = folder / "nightly.yaml"
    known = {
        "name": "nightly",
        "data": str(store),
        "runs": str(folder / "runs"),
        "methods": [METHOD],
        "datasets": ["ntu60/xview"],
        "tasks": ["retrieval"],
        "pretrain": {"train.epochs": 1},
        "device": "cpu",
    }
    path.write_text(yaml.safe_dump(known | changes))
    return path


def look_at_pages(opened: Callable[..., Any], screenshots: Path, server: str, run: str, report: str) -> None:
    """Prefect's pages of a finished run, and the report behind its link, in a browser."""
    page = opened(f"{server}/runs/flow-run/{run}", width=1400, height=1000)
    page.get_by_text("Completed").first.wait_for(timeout=1000 * PATIENCE)
    page.get_by_text("Artifacts", exact=True).last.click()
    page.get_by_text("nightly-table").first.wait_for(timeout=1000 * PATIENCE)
    page.screenshot(path=screenshots / "prefect-run.png")
    page.goto(f"{server}/deployments")
    page.get_by_text("nightly").first.wait_for(timeout=1000 * PATIENCE)
    page.screenshot(path=screenshots / "prefect-deployments.png")
    page = opened(report)
    page.get_by_role("heading", name="Benchmark").wait_for(timeout=1000 * PATIENCE)
    page.screenshot(path=screenshots / "prefect-report.png")


def test_a_port_that_is_in_use_and_two_benchmarks_of_one_name_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    nightly, other = (Scheduled(name, tmp_path, None, "UTC") for name in ("nightly", "benchmark"))
    with pytest.raises(ConfigError, match=r"nightly: found it twice .* expected a name of its own"):
        serve_here([nightly, nightly])
    with pytest.raises(ConfigError, match="benchmark: found it twice"):
        serve_here([other])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}: found another process listening on it"):
            serve_here(port=port)


def test_a_second_serve_is_refused_at_once_and_commands_are_recorded_by_the_first(
    store: Path, raw: Path, tmp_path: Path
) -> None:
    home = tmp_path / "prefect"
    with serve(tmp_path, free_port()) as served, client(served.url) as api:
        command = [sys.executable, "-c", SKELSTREAM, "serve", "--port", str(free_port())]
        second = subprocess.run(command, env=environment(home), capture_output=True, text=True, check=False)
        assert second.returncode == 1
        assert second.stderr.count("\n") == 1
        assert f"found another skelstream serve of this user ({served.url} in {tmp_path})" in second.stderr
        words = ["preprocess", "ntu", str(raw), "--out", str(tmp_path / "data"), "--workers", "0"]
        command = [sys.executable, "-c", SKELSTREAM, *words]
        first = subprocess.run(command, env=environment(home), capture_output=True, text=True, check=False)
        assert first.returncode == 0, first.stderr
        (run,) = api.read_flow_runs()
        assert (run.name, run.state_name) == ("ntu pcm3", "Completed")
    third = subprocess.run(command, env=environment(home), capture_output=True, text=True, check=False)
    assert third.returncode == 0, "the name of a serve that is gone is in nobody's way"


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({"PREFECT_HOME": "/proc/none"}, "cannot write its folder /proc/none"),
        ({"PREFECT_LOGGING_LEVEL": "LOUD"}, "cannot be read: ValidationError"),
        ({"PREFECT_API_URL": "http://127.0.0.1:9/api"}, "http://127.0.0.1:9/api does not answer: ConnectError"),
        ({"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "1"}, "does not answer after 1 s"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value),
)
def test_a_serve_that_cannot_have_its_server_says_why_in_one_line(
    env: dict[str, str], reason: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", SKELSTREAM, "serve", "--port", str(free_port())]
    done = subprocess.run(command, env=environment(tmp_path, **env), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = (line for line in done.stderr.splitlines() if not line.startswith("skelstream: waiting"))
    assert line.startswith("skelstream: error: ")
    assert reason in line


def test_the_automations_are_such_as_a_server_takes() -> None:
    dead, never_started, crashed = automations()
    assert dead.trigger.within.total_seconds() > 180, "shorter than Prefect's time between two signs of life"
    assert never_started.trigger.after == {"prefect.flow-run.Pending"}
    assert crashed.trigger.expect == {"prefect.flow-run.Crashed"}


def test_a_benchmark_fires_on_its_schedule_and_shows_up_with_what_it_made(
    store: Path, tmp_path: Path, opened: Callable[..., Any], screenshots: Path
) -> None:
    file = benchmark(tmp_path, store, schedule="* * * * *")
    with serve(tmp_path, free_port(), file) as served, client(served.url) as api:
        names = {deployment.name: deployment for deployment in api.read_deployments()}
        assert names.keys() == {*FLOWS, "nightly"}
        assert names["pretrain"].global_concurrency_limit.limit == 1
        assert "pcm3pp" in str(names["pretrain"].parameter_openapi_schema)
        page = urllib.request.urlopen(served.url.removesuffix("/api"), timeout=PATIENCE).read()
        assert b"<html" in page
        run = until(lambda: ended(api, "nightly"), served.log.read_text)
        assert (run.state_name, run.auto_scheduled) == ("Completed", True), served.log.read_text()
        assert "benchmark:nightly" in run.tags
        seen = artifacts(api, run.id)
        assert {"nightly-progress", "nightly-scores", "nightly-table", "nightly-report"} <= seen.keys()
        report = tmp_path / "runs" / "benchmarks" / "nightly" / "report.html"
        where = f"{served.url.removesuffix('/api')}/skelstream/runs/benchmarks/nightly/report.html"
        assert seen["nightly-report"].data == f"[{report}]({where})"
        look_at_pages(opened, screenshots, served.url.removesuffix("/api"), str(run.id), where)
        for outside in ("nightly.yaml", "%2e%2e/x.html", "none.html"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"{served.url.removesuffix('/api')}/skelstream/{outside}", timeout=PATIENCE)
        children = served.children()
        served.process.send_signal(signal.SIGTERM)
        served.process.wait(PATIENCE)
        assert served.process.returncode == 0
        assert not any(child.is_running() for child in children), "it left a child"
