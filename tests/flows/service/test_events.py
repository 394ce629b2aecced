"""What an automation hears of evaluations, on a real server that turns it into a call."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import Queue
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest
import yaml
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.scores.regression import Change, compare_rounds
from flows.service import events
from flows.service.events import evaluation_failed, evaluation_regressed, report_failure
from shards.errors import ConfigError
from tests.flows.records import result
from tests.patience import PATIENCE
from tests.ports import free_port

EXAMPLE = Path(events.__file__).parent / "automations" / "evaluation.yaml"
PLACEHOLDER = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """Events that would go to a server."""
    found: list[dict[str, Any]] = []

    def emit(event: str, **fields: Any) -> object:
        found.append({"event": event, **fields})
        return found

    monkeypatch.setattr("prefect.events.emit_event", emit)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        yield found


def changes(before: float, now: float) -> list[Change]:
    old, new = ({"a": [result(scores={"accuracy": value})]} for value in (before, now))
    return compare_rounds(old, new, {("ntu60", "xview"): 400})


def test_a_failed_evaluation_is_told_with_its_error(emitted: list[dict[str, Any]], tmp_path: Path) -> None:
    run = tmp_path / "runs" / "a"
    with pytest.raises(ConfigError, match="no such"), report_failure(run, ["linear", "retrieval"]):
        raise ConfigError("found no such thing")
    (event,) = emitted
    assert event["event"] == "skelstream.evaluation.failed"
    assert event["resource"] == {"prefect.resource.id": "skelstream.run.a", "prefect.resource.name": "a"}
    assert event["payload"] == {
        "run": str(run),
        "tasks": ["linear", "retrieval"],
        "kind": "ConfigError",
        "message": "found no such thing",
        "text": f"evaluation of {run} failed (linear, retrieval): found no such thing",
    }


def test_an_evaluation_that_is_cancelled_has_not_failed(emitted: list[dict[str, Any]]) -> None:
    with pytest.raises(KeyboardInterrupt), report_failure(Path("a"), ["linear"]):
        raise KeyboardInterrupt
    assert emitted == []


def test_one_event_tells_all_that_regressed(emitted: list[dict[str, Any]]) -> None:
    found = [*changes(0.8, 0.7), *changes(0.8, 0.79), *changes(0.6, 0.4)]
    assert evaluation_regressed("nightly", "2030-01-02", "2030-01-01", found)
    (event,) = emitted
    assert event["resource"]["prefect.resource.id"] == "skelstream.benchmark.nightly"
    worse = event["payload"]["regressed"]
    assert [(row["task"], row["before"], row["now"]) for row in worse] == [
        ("linear", [0.8], [0.7]),
        ("linear", [0.6], [0.4]),
    ]
    assert json.loads(json.dumps(event["payload"])) == event["payload"]
    assert event["payload"]["text"].splitlines()[0] == "nightly, round 2030-01-02 against 2030-01-01: 2 regressed"


def test_a_round_that_is_no_worse_tells_nothing(emitted: list[dict[str, Any]]) -> None:
    assert not evaluation_regressed("nightly", "b", "a", changes(0.8, 0.8))
    assert emitted == []


def test_without_a_server_nobody_is_told(emitted: list[dict[str, Any]]) -> None:
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert not evaluation_failed(Path("a"), ["linear"], ConfigError("x"))
    assert emitted == []


def ask(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data=data, headers={"Content-Type": "application/json"})
    with urlopen(request, timeout=PATIENCE) as answer:
        return json.loads(answer.read())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Environment of those who talk to a Prefect server of this test alone."""
    port = free_port()
    environment = os.environ | {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_UI_ENABLED": "false",
        "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
        "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(round(10 * PATIENCE)):
            try:
                ask(f"{environment['PREFECT_API_URL']}/ready")
                break
            except (URLError, ConnectionError):
                assert process.poll() is None, (tmp_path / "server.log").read_text()
                time.sleep(0.1)
        yield environment
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(PATIENCE)


@pytest.fixture
def calls() -> Iterator[tuple[str, "Queue[Any]"]]:
    """Address of a webhook, and what it was called with."""
    found: Queue[Any] = Queue()

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    hook = HTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=hook.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{hook.server_port}/", found
    hook.shutdown()
    thread.join()
    hook.server_close()


# what a user does, in one process, because each takes seconds to begin: the webhook, the automation, the events
SCRIPT = """
import sys
from pathlib import Path
from prefect.blocks.webhook import Webhook
from prefect.cli import app
url, template, example = sys.argv[1:]
number = str(Webhook(url=url).save("skelstream"))
Path(example).write_text(Path(template).read_text().replace("00000000-0000-0000-0000-000000000000", number))
sys.argv[1:] = ["automation", "create", "--from-file", example]
try:
    app()
except SystemExit as end:
    assert not end.code, end
from flows.service.events import evaluation_failed, evaluation_regressed
from flows.scores.regression import Change, Measurement
what = Measurement("pcm3pp", "joint", "ntu60", "xview", "linear", "", "accuracy")
assert evaluation_failed(Path("runs/a"), ["linear"], ValueError('a "quoted" reason'))
assert evaluation_regressed("nightly", "b", "a", [Change(what, (0.8,), (0.7,), 0.05, "regressed")])
"""


def test_the_example_automation_calls_a_webhook_for_both_events(
    server: dict[str, str], calls: tuple[str, "Queue[Any]"], tmp_path: Path
) -> None:
    url, found = calls
    command = [sys.executable, "-c", SCRIPT, url, str(EXAMPLE), str(tmp_path / "evaluation.yaml")]
    done = subprocess.run(command, env=server, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    texts = sorted(found.get(timeout=PATIENCE)["text"] for _ in range(2))
    assert texts == [
        'evaluation of runs/a failed (linear): a "quoted" reason',
        "nightly, round b against a: 1 regressed\n"
        "pcm3pp ntu60 xview joint: linear accuracy: 80.00 -> 70.00, noise up to 5.00: regressed",
    ]


def test_the_example_listens_to_the_events_that_are_emitted() -> None:
    automations = yaml.safe_load(EXAMPLE.read_text())["automations"]
    assert EXAMPLE.read_text().count(PLACEHOLDER) == 2
    assert [automation["trigger"]["expect"] for automation in automations] == [[events.FAILED], [events.REGRESSED]]
