"""An upload that is killed, refused or disturbed has no manifest in the bucket, and goes on to the right bytes."""

import http.client
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from upath import UPath

from pipelines.conversion import convert as convert_module
from pipelines.conversion.convert import convert
from pipelines.synthetic import synthesize
from shards.errors import StoreError
from shards.manifest import MANIFEST
from shards.places import Place, place

# Converts in forked children, each of which is killed some milliseconds after the n-th file began its way. After each
# child it says how it ended and waits for a line.
KILLED_AGAIN_AND_AGAIN = """
import os, random, signal, sys, threading, time
from pathlib import Path
from pipelines.conversion.convert import convert
from shards import upload

raw, data, scratch = sys.argv[1:]
send, lock, draw = upload._send, threading.Lock(), random.Random(0)
left = delay = 0

def counted(*arguments):
    global left
    with lock:
        left -= 1
        if left == 0:
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
    send(*arguments)

upload._send = counted
while True:
    left, delay = draw.randint(1, 14), draw.choice([0, 0, draw.uniform(0, 0.05)])
    child = os.fork()
    if child == 0:
        convert("ntu", [raw], data, workers=0, samples_per_shard=4, scratch=Path(scratch))
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(status, flush=True)
    sys.stdin.readline()
    if status == 0:
        break
"""


def contents(folder: Place) -> dict[str, bytes]:
    """Every file below a folder, local or remote."""
    if isinstance(folder, Path):
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    folder.fs.invalidate_cache()
    root = folder.path.rstrip("/") + "/"
    return {name.removeprefix(root): folder.fs.cat_file(name) for name in folder.fs.find(folder.path)}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own cache is not touched."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    return synthesize("ntu", folder / "raw", subjects=4, classes=3, samples=6, seed=5, zipped=True)


@pytest.fixture(scope="module")
def here(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a conversion to a disk makes."""
    folder = convert("ntu", [raw], tmp_path_factory.mktemp("data"), workers=0, samples_per_shard=4).folder
    assert isinstance(folder, Path)
    return folder


def test_killed_at_random_moments_of_the_upload_it_ends_with_the_same_bytes(
    s3: Any, raw: Path, here: Path, tmp_path: Path
) -> None:
    there, scratch, expected = place(f"{s3.url}/data/{here.name}"), tmp_path / "scratch", contents(here)
    command = [sys.executable, "-c", KILLED_AGAIN_AND_AGAIN, str(raw), f"{s3.url}/data", str(scratch)]
    environment = os.environ | s3.server.settings
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    ends = []
    with subprocess.Popen(command, env=environment, **pipes) as process:
        for line in process.stdout:
            ends.append(int(line))
            found = contents(there)
            assert all(found[name] == expected[name] for name in found)
            assert MANIFEST not in found or found == expected
            process.stdin.write("\n")
            process.stdin.flush()
    assert process.returncode == 0
    assert ends == [-9] * (len(ends) - 1) + [0]
    assert len(ends) >= 4
    assert contents(there) == expected
    sent = [key for method, key, _ in s3.requests() if method == "PUT" and key]
    assert sent[-1].endswith(MANIFEST)
    assert len(set(sent)) == len(expected)
    assert list(scratch.iterdir()) == []


class Gate:
    """A server before the S3 server that passes requests on, or answers some itself.

    Attributes:
        answer: what it answers to a method and a path instead, a status; 0 passes the request on.
    """

    def __init__(self, endpoint: str) -> None:
        self.answer: Callable[[str, str], int] = lambda method, path: 0
        gate, behind = self, urlsplit(endpoint).netloc

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, headers, data = gate.answer(self.command, self.path), [], b""
                if not status:
                    connection = http.client.HTTPConnection(behind)
                    connection.request(self.command, self.path, body, dict(self.headers))
                    with connection.getresponse() as response:
                        status, headers, data = response.status, response.getheaders(), response.read()
                    connection.close()
                self.send_response(status)
                for name, value in headers:
                    if name.lower() not in ("connection", "date", "server", "transfer-encoding"):
                        self.send_header(name, value)
                if not any(name.lower() == "content-length" for name, _ in headers):
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def log_message(self, *arguments: object) -> None:
                pass

        for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
            setattr(Handler, f"do_{method}", Handler.handle_any)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture
def gate(s3: Any) -> Iterator[Gate]:
    made = Gate(s3.server.endpoint)
    yield made
    made.server.shutdown()
    made.server.server_close()


def through(gate: Gate, url: str, attempts: int = 0) -> UPath:
    """A folder behind the gate; botocore tries each request so many times more."""
    return UPath(url, endpoint_url=gate.endpoint, config_kwargs={"retries": {"max_attempts": attempts}})


@pytest.mark.parametrize(("status", "said"), [(403, "Forbidden|Access"), (507, "507"), (503, "Unavailable")])
def test_a_server_that_refuses_half_way_is_one_clear_error_to_go_on_from(
    s3: Any,
    gate: Gate,
    raw: Path,
    here: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    said: str,
) -> None:
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    data, there = through(gate, f"{s3.url}/data"), place(f"{s3.url}/data/{here.name}")
    expected, puts = contents(here), [0]

    def refuse_from_the_ninth_on(method: str, path: str) -> int:
        puts[0] += method == "PUT"
        return status if method == "PUT" and puts[0] > 8 else 0

    gate.answer = refuse_from_the_ninth_on
    with pytest.raises(StoreError, match=rf"^{there}/.*: found no way to upload \(.*({said})"):
        convert("ntu", [raw], data, workers=0, samples_per_shard=4, scratch=tmp_path)
    found = contents(there)
    assert 0 < len(found) <= 8
    assert MANIFEST not in found
    gate.answer = lambda method, path: 0
    before = len(s3.requests())
    result = convert("ntu", [raw], data, workers=0, samples_per_shard=4, scratch=tmp_path)
    assert not result.reused
    assert contents(there) == expected
    sent = [key for method, key, _ in s3.requests()[before:] if method == "PUT"]
    assert len(sent) == len(expected) - len(found)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_too_busy_now_and_then_is_asked_again(
    s3: Any, gate: Gate, raw: Path, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(0)
    monkeypatch.setattr("botocore.retryhandler.delay_exponential", lambda *_, **__: 0.0)
    gate.answer = lambda method, path: draw.choice([0, 0, 0, 503])
    convert("ntu", [raw], through(gate, f"{s3.url}/data", 4), workers=0, samples_per_shard=4, scratch=tmp_path)
    assert contents(place(f"{s3.url}/data/{here.name}")) == contents(here)


@pytest.mark.parametrize("scratches", [1, 3])
def test_three_at_once_to_one_place_make_one_result(
    s3: Any, raw: Path, here: Path, tmp_path: Path, scratches: int
) -> None:
    def run(number: int) -> str:
        scratch = tmp_path / str(number % scratches)
        try:
            convert("ntu", [raw], f"{s3.url}/data", workers=0, samples_per_shard=4, scratch=scratch)
        except StoreError as error:
            return str(error)
        return "made"

    with ThreadPoolExecutor(3) as pool:
        ends = list(pool.map(run, range(3)))
    assert "made" in ends
    if scratches == 3:  # as on three hosts, which know nothing of each other
        assert ends == ["made"] * 3
    assert all(end == "made" or "found another process writing it" in end for end in ends)
    assert contents(place(f"{s3.url}/data/{here.name}")) == contents(here)
    assert [path for folder in tmp_path.iterdir() for path in folder.iterdir()] == []


@pytest.mark.parametrize("moment", ["before", "renamed", "elsewhere"])
def test_what_a_killed_process_left_of_an_uploaded_result_is_removed(
    s3: Any, raw: Path, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        if moment == "elsewhere":  # begun here, and made from another host
            patched.setattr(convert_module, "_publish", interrupt)
        elif moment == "before":
            patched.setattr(convert_module, "_tidy", interrupt)
        else:
            rename = Path.rename
            patched.setattr(Path, "rename", lambda a, b: (rename(a, b), str(b).endswith(".uploaded") and interrupt()))
        with pytest.raises(KeyboardInterrupt):
            convert("ntu", [raw], f"{s3.url}/data", workers=0, samples_per_shard=4, scratch=tmp_path / "scratch")
    assert any((tmp_path / "scratch").iterdir())
    if moment == "elsewhere":
        convert("ntu", [raw], f"{s3.url}/data", workers=0, samples_per_shard=4, scratch=tmp_path / "other")
    again = convert("ntu", [raw], f"{s3.url}/data", workers=0, samples_per_shard=4, scratch=tmp_path / "scratch")
    assert again.reused
    assert list((tmp_path / "scratch").iterdir()) == []
    assert contents(again.folder) == contents(here)


def test_a_local_file_that_is_torn_before_its_upload_is_not_sent(
    s3: Any, raw: Path, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tear(folder: Path, *arguments: Any, **options: Any) -> Any:
        path = next(folder.rglob("*.tar"))
        path.write_bytes(bytes(path.stat().st_size))
        return upload(folder, *arguments, **options)

    upload = convert_module.upload
    monkeypatch.setattr(convert_module, "upload", tear)
    with pytest.raises(StoreError, match=rf"^{tmp_path}/{here.name}/shards/.*\.tar: found other content, expected"):
        convert("ntu", [raw], f"{s3.url}/data", workers=0, samples_per_shard=4, scratch=tmp_path)
    assert MANIFEST not in contents(place(f"{s3.url}/data/{here.name}"))
