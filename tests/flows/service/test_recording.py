"""Commands typed by hand do their work whether or not Prefect records it, and say in one line when it does not."""

import re
import sqlite3
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient

from flows.machine.packages import HOME
from flows.options import PretrainOptions
from flows.service import recording, server
from flows.service.client import check_server, find_named_url
from flows.service.recording import record
from flows.service.server import Server, ServerError
from models.training.runlog import read_log
from shards.manifest import find_store
from tests.flows.serving import PATIENCE, environment, until
from tests.ports import free_port

COMMAND = [sys.executable, str(HOME / "skelstream.py")]


def preprocess(raw: Path, out: Path, home: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    """`skelstream preprocess` on a Prefect of its own; it has to do its work and say no more than a few lines."""
    command = [*COMMAND, "preprocess", "ntu", str(raw), "--out", str(out), "--workers", "0"]
    done = subprocess.run(command, env=environment(home, **env), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("wrote ")
    assert find_store(out, "ntu60").is_dir()
    assert "Traceback" not in done.stderr
    return done


def refusals(done: "subprocess.CompletedProcess[str]") -> list[str]:
    """The lines that say that nothing is recorded."""
    return [line for line in done.stderr.splitlines() if "without a record" in line]


def flow_runs(home: Path) -> list[tuple[str, str]]:
    """Name and state of all that a database of Prefect's has recorded."""
    with sqlite3.connect(home / "prefect.db") as database:
        return list(database.execute("select name, state_name from flow_run"))


def test_a_command_is_recorded_by_a_server_that_ends_with_it_and_asks_no_proxy_for_it(
    raw: Path, tmp_path: Path
) -> None:
    proxies = {"HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "socks5://127.0.0.1:9", "NO_PROXY": "example.org"}
    assert refusals(preprocess(raw, tmp_path / "data", tmp_path / "home", **proxies)) == []
    assert flow_runs(tmp_path / "home") == [("ntu pcm3", "Completed")]


def test_two_first_commands_at_once_are_both_recorded(raw: Path, tmp_path: Path) -> None:
    commands = [
        subprocess.Popen(
            [*COMMAND, "preprocess", "ntu", str(raw), "--out", str(tmp_path / name), "--workers", "0"],
            env=environment(tmp_path / "home"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for name in ("a", "b")
    ]  # fmt: skip
    ends = [command.communicate() for command in commands]
    assert [command.returncode for command in commands] == [0, 0], ends
    assert not [err for _, err in ends if "without a record" in err or "Traceback" in err], ends
    assert flow_runs(tmp_path / "home") == 2 * [("ntu pcm3", "Completed")]


def corrupt(home: Path) -> None:
    (home / "prefect.db").write_bytes(bytes(20_000))


def no_profiles(home: Path) -> None:
    (home / "profiles.toml").write_text("broken")


def of_a_newer_prefect(home: Path) -> None:
    with sqlite3.connect(home / "prefect.db") as database:
        database.execute("create table alembic_version (version_num varchar(32) not null)")
        database.execute("insert into alembic_version values ('ffffffffffff')")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (corrupt, r"file is not a database \(its database: {home}\)"),
        (no_profiles, r"settings \({home}/profiles.toml, PREFECT_...\) cannot be read: TOMLDecodeError"),
        (of_a_newer_prefect, r"a newer version of Prefect made it \(its database: {home}\)"),
    ],
)
def test_a_damaged_home_of_prefect_is_told_in_one_line(
    damage: Callable[[Path], None], reason: str, raw: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    damage(home)
    (line,) = refusals(preprocess(raw, tmp_path / "data", home))
    assert re.search(reason.format(home=re.escape(str(home))), line), line


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({"PREFECT_HOME": "/proc/none"}, "cannot write its folder /proc/none"),
        ({"PREFECT_HOME": "", "HOME": "/proc/none"}, "cannot write its folder /proc/none/.prefect"),
        ({"PREFECT_LOGGING_LEVEL": "LOUD"}, "cannot be read: ValidationError"),
        ({"PREFECT_API_URL": "http://127.0.0.1:9/api"}, "http://127.0.0.1:9/api does not answer: ConnectError"),
        ({"PREFECT_API_URL": "nonsense"}, "nonsense does not answer"),
        ({"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "1"}, "does not answer after 1 s"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value),
)
def test_a_prefect_that_is_not_there_is_told_in_one_line(
    env: dict[str, str], reason: str, raw: Path, tmp_path: Path
) -> None:
    (line,) = refusals(preprocess(raw, tmp_path / "data", tmp_path / "home", **env))
    assert reason in line, line


def test_a_server_that_dies_during_a_training_costs_neither_the_training_nor_its_status(
    options: Callable[..., PretrainOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    mortal = Server(pages=False)
    mortal.wait()
    request = options(tmp_path / "run", "train.epochs=30", "train.checkpoint_every=30")
    sets = [word for override in request.overrides for word in ("--set", override)]
    named = [f"--{name}={getattr(request, name)}" for name in ("data", "dataset", "protocol", "run", "device")]
    with (tmp_path / "said").open("w") as said:
        training = subprocess.Popen(
            [*COMMAND, "pretrain", request.method, *named, *sets],
            env=environment(tmp_path / "home", PREFECT_API_URL=mortal.url), stdout=said, stderr=said,
        )  # fmt: skip
        until(lambda: len(read_log(tmp_path / "run")) > 1 or training.poll() is not None, (tmp_path / "said").read_text)
        mortal._process.kill()
        assert training.wait(PATIENCE) == 0, (tmp_path / "said").read_text()
    text = (tmp_path / "said").read_text()
    assert text.count(f"{tmp_path}/run/checkpoints/epoch_0030.pt: 30 epochs") == 1
    assert text.count("Prefect stopped answering") == 1
    assert "the work is done" in text
    assert "Traceback" not in text
    assert not mortal.is_running()


def test_what_needs_a_server_is_refused_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "find_named_url", lambda: f"http://127.0.0.1:{free_port()}/api")
    with pytest.raises(ServerError, match="does not answer: ConnectError"):
        record("flows.deployments.preprocess.preprocess_flow", None, None)


def test_a_plain_command_asks_nothing_of_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(recording, "_run", refuse)
    begun: list[bool] = []
    record("flows.deployments.preprocess.preprocess_flow", None, begun.append, plain=True)
    assert begun == [False]


def test_an_error_is_prefects_if_its_innermost_frame_but_for_other_libraries_is() -> None:
    def refused_connection() -> None:
        httpx.get("http://127.0.0.1:9")

    with pytest.raises(httpx.ConnectError) as caught:  # through Prefect's client
        SyncPrefectClient("http://127.0.0.1:9/api").hello()
    assert recording._is_prefects(caught.value)
    for flow, error in ((Flow(refused_connection), httpx.ConnectError), (Flow(find_store), TypeError)):
        with pytest.raises(error) as caught:
            flow.fn()
        assert not recording._is_prefects(caught.value)


def test_the_user_may_have_named_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert find_named_url() is None


def test_a_server_says_when_another_command_takes_long_to_start_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setattr(server, "NOTICE", 0.0)
    monkeypatch.setattr(server, "START", 0.3)
    held = server._Waiting(tmp_path).lock()
    with pytest.raises(ServerError, match="is being started by another command, and does not answer after 0 s"):
        Server(pages=False)
    assert capsys.readouterr().err == "skelstream: waiting for Prefect's server, at most 0 s\n"
    held.close()


def test_a_password_in_an_address_is_not_told() -> None:
    with pytest.raises(ServerError, match=r"at http://127\.0\.0\.1:9/api does not") as caught:
        check_server("http://ada:secret@127.0.0.1:9/api")
    assert "secret" not in "".join(traceback.format_exception_only(caught.value))
