"""Remotes that stall, break off or answer 5xx, and processes that are killed or share a cache."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from upath import UPath

from pipelines.conversion.convert import convert
from pipelines.loaders.cache.files import Cache
from pipelines.loaders.cache.index import RECORD
from pipelines.loaders.split import Split, open_split
from pipelines.loaders.stream import Stream
from pipelines.synthetic import synthesize
from shards import remote
from shards.errors import StoreError
from shards.places import place
from shards.remote import ATTEMPTS, Stopped, fetch, read_ranges
from tests.patience import PATIENCE


@dataclass
class Remote:
    """A web server on loopback that serves a folder by ranges, and behaves as it is told.

    Attributes:
        url: of the folder.
        behave: (name of the file, number of the request for it from 1) -> "", a status, "stall", "cut" or "drip".
        asked: requests of each file.
    """

    url: str
    behave: Callable[[str, int], str] = lambda name, number: ""
    asked: Counter[str] = field(default_factory=Counter)
    release: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def serve() -> Iterator[Callable[[Path], Remote]]:
    """serve(folder) -> the server of that folder."""
    servers: list[tuple[ThreadingHTTPServer, Remote]] = []

    def start(folder: Path) -> Remote:
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = Path(self.path).name
                with lock:
                    found.asked[name] += 1
                    what = found.behave(name, found.asked[name])
                path = folder / self.path.lstrip("/")
                if what.isdigit() or not path.is_file():
                    self.send_error(int(what or 404))
                    return
                data = path.read_bytes()
                first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
                if int(first) >= len(data):
                    self.send_error(416)
                    return
                part = data[int(first) : int(last or len(data)) + 1]
                self.send_response(206)
                self.send_header("Content-Length", str(len(part)))
                self.end_headers()
                if what == "stall":
                    self.wfile.write(part[: len(part) // 2])
                    found.release.wait(PATIENCE)
                elif what == "cut":
                    self.wfile.write(part[: len(part) // 2])
                elif what == "drip":
                    for byte in range(10):
                        self.wfile.write(part[byte * len(part) // 10 : (byte + 1) * len(part) // 10])
                        self.wfile.flush()
                        time.sleep(0.06)
                else:
                    self.wfile.write(part)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        found = Remote(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append((server, found))
        return found

    yield start
    for server, found in servers:
        found.release.set()
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store of 24 samples in shards of two."""
    root = tmp_path_factory.mktemp("store")
    raw = synthesize("ntu", root / "raw", subjects=4, classes=3, samples=24, seed=5, zipped=True)
    folder = convert("ntu", [raw], root / "data", workers=0, samples_per_shard=2).folder
    assert isinstance(folder, Path)
    return folder


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BACKOFF", 0.01)


def url_place(url: str) -> UPath:
    found = place(url)
    assert isinstance(found, UPath)
    return found


@pytest.fixture
def file(
    tmp_path: Path, serve: Callable[[Path], Remote], monkeypatch: pytest.MonkeyPatch
) -> tuple[Remote, UPath, bytes]:
    """A server, and a file of ten parts on it."""
    monkeypatch.setattr(remote, "PART", 1000)
    data = random.Random(0).randbytes(9_500)
    (tmp_path / "a.tar").write_bytes(data)
    server = serve(tmp_path)
    return server, url_place(f"{server.url}/a.tar"), data


def test_a_file_is_fetched_in_parts(file: tuple[Remote, UPath, bytes]) -> None:
    server, url, data = file
    into = BytesIO()
    fetch(url, into, len(data))
    assert into.getvalue() == data
    assert server.asked == {"a.tar": 10}


@pytest.mark.parametrize("trouble", ["500", "503", "429", "cut", "stall"])
def test_what_fails_for_a_while_is_tried_again(file: tuple[Remote, UPath, bytes], trouble: str) -> None:
    server, url, data = file
    server.behave = lambda name, number: trouble if number <= 6 else ""
    into = BytesIO()
    fetch(url, into, len(data), stall=0.2)
    assert into.getvalue() == data
    assert server.asked == {"a.tar": 16}  # what had arrived is not asked for again


@pytest.mark.parametrize(
    ("trouble", "reason"), [("500", "500"), ("503", "503"), ("cut", "payload|closed"), ("stall", "[Tt]imeout")]
)
def test_what_fails_for_good_is_one_error_with_attempts_and_reason(
    file: tuple[Remote, UPath, bytes], trouble: str, reason: str
) -> None:
    server, url, data = file
    server.behave = lambda name, number: trouble
    with pytest.raises(
        StoreError, match=rf"^{url}: found no way to read it at attempt 5 of 5 \(.*{reason}.*\), expected 9500 bytes$"
    ):
        fetch(url, BytesIO(), len(data), stall=0.1)
    assert server.asked == {"a.tar": 4 * ATTEMPTS}


@pytest.mark.parametrize("status", ["403", "404"])
def test_what_is_not_there_or_not_for_us_is_not_tried_again(file: tuple[Remote, UPath, bytes], status: str) -> None:
    server, url, data = file
    server.behave = lambda name, number: status
    with pytest.raises(StoreError, match=rf"^{url}: found no way to read it \(.*\), expected 9500 bytes$"):
        fetch(url, BytesIO(), len(data))
    assert server.asked == {"a.tar": 4}


def test_a_slow_answer_is_no_stall(file: tuple[Remote, UPath, bytes]) -> None:
    server, url, data = file
    server.behave = lambda name, number: "drip" if number == 1 else ""
    into = BytesIO()
    fetch(url, into, len(data), stall=0.5)
    assert into.getvalue() == data
    assert server.asked == {"a.tar": 10}


def test_a_file_that_is_too_short_is_one_error(file: tuple[Remote, UPath, bytes]) -> None:
    _, url, data = file
    with pytest.raises(StoreError, match=rf"^{url}: .*attempt 5 of 5 \(500 bytes from byte 9000 on instead of 1000\)"):
        fetch(url, BytesIO(), len(data) + 500)
    with pytest.raises(StoreError, match=rf"^{url}: found no way to read it \(416"):
        fetch(url, BytesIO(), len(data) + 5000)


def test_a_server_that_is_gone_is_one_error() -> None:
    url = url_place("http://127.0.0.1:9/a.tar")
    with pytest.raises(StoreError, match=rf"^{url}: found no way to read it at attempt 5 of 5 \(.*[Cc]onnect"):
        fetch(url, BytesIO(), 100)


def test_a_fetch_that_is_not_wanted_any_more_ends_at_once_though_nothing_arrives(
    file: tuple[Remote, UPath, bytes],
) -> None:
    server, url, data = file
    server.behave = lambda name, number: "stall"
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    before = time.monotonic()
    with pytest.raises(Stopped):
        fetch(url, BytesIO(), len(data), stop=stop)
    assert time.monotonic() - before < PATIENCE / 2


def test_ranges_are_tried_again_too(file: tuple[Remote, UPath, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    server, url, data = file
    monkeypatch.setattr(remote, "MAX_GAP", 0)
    server.behave = lambda name, number: "503" if number <= 3 else ""
    assert [bytes(part) for part in read_ranges(url, [(700, 900), (5, 20)])] == [data[700:900], data[5:20]]
    server.behave = lambda name, number: "503"
    with pytest.raises(OSError, match="at attempt 5 of 5"):
        read_ranges(url, [(5, 20)])


def at(split: Split, url: str) -> Split:
    return replace(split, shards=tuple(replace(shard, folder=url_place(url)) for shard in split.shards))


def ids(stream: Stream, split: Split, size: int = 4) -> list[int]:
    places = split.order(seed=0).epoch(0)[np.arange(split.num_samples)]
    stream.announce(places)
    starts = range(0, len(places), size)
    return [i for n in starts for i in stream.batch(places[n : n + size]).sample_id.tolist()]


def test_an_epoch_survives_a_remote_that_fails_every_other_time(
    store: Path, serve: Callable[[Path], Remote], tmp_path: Path
) -> None:
    server, split = serve(store), open_split(store, "ntu60", "xsub", "train")
    server.behave = lambda name, number: random.Random(number).choice(["", "503", "cut"])
    stream = Stream(at(split, server.url), "cpu", cache=tmp_path)
    assert ids(stream, split) == ids(Stream(split, "cpu"), split)
    stream.close()


def test_a_remote_that_fails_for_good_is_one_error_that_names_the_shard(
    store: Path, serve: Callable[[Path], Remote], tmp_path: Path
) -> None:
    server, split = serve(store), open_split(store, "ntu60", "xsub", "train")
    broken = split.shards[1].path
    server.behave = lambda name, number: "503" if name == broken.name else ""
    stream = Stream(at(split, server.url), "cpu", cache=tmp_path)
    with pytest.raises(StoreError, match=rf"{server.url}/.*{broken.name}: found no way to read it at attempt 5 of 5"):
        ids(stream, split)
    stream.close()
    assert not list(tmp_path.glob("*.part"))


def test_closing_does_not_wait_for_a_remote_that_stalls(
    store: Path, serve: Callable[[Path], Remote], tmp_path: Path
) -> None:
    server, split = serve(store), open_split(store, "ntu60", "xsub", "train")
    server.behave = lambda name, number: "stall"
    stream = Stream(at(split, server.url), "cpu", cache=tmp_path)
    stream.announce(split.order(seed=0).epoch(0)[np.arange(4)])
    time.sleep(0.2)
    before = time.monotonic()
    stream.close()
    assert time.monotonic() - before < PATIENCE / 2
    assert not list(tmp_path.glob("*.part"))


# Fetches shards in a random order for ever, and says so when a copy is not the shard.
FETCHES = """
import random, sys
from dataclasses import replace
from pathlib import Path
from pipelines.loaders.cache.files import Cache
from pipelines.loaders.split import open_split
from shards.places import place

store, url, folder, limit, seed, rounds = sys.argv[1:]
shards = open_split(Path(store), "ntu60", "xsub", "train").shards
cache, draw = Cache(Path(folder), int(limit) or None), random.Random(int(seed))
print("begun", flush=True)
for _ in range(int(rounds)):
    shard = draw.choice(shards)
    with cache.hold(replace(shard, folder=place(url))) as path:
        assert path.read_bytes() == shard.path.read_bytes()
        assert path.with_suffix(".idx").read_bytes() == (shard.folder / shard.entry.index).read_bytes()
"""


def start(store: Path, url: str, folder: Path, limit: int, seed: int, rounds: int) -> "subprocess.Popen[str]":
    root = Path(__file__).resolve().parents[2]
    words = [sys.executable, "-c", FETCHES, *map(str, (store, url, folder, limit, seed, rounds))]
    environment = os.environ | {"PYTHONPATH": str(root)}
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)


def user_files(folder: Path) -> dict[Path, bytes]:
    folder.mkdir()
    names = ["0000000000000000-0000000000000000.tar", ".x.tar.part", "notes.txt", "skelstream-cache.sqlite.old"]
    files = {folder / name: name.encode() for name in names}
    for path, data in files.items():
        path.write_bytes(data)
    return files


def test_processes_killed_while_they_fetch_leave_a_cache_that_works(
    store: Path, serve: Callable[[Path], Remote], tmp_path: Path
) -> None:
    server, split = serve(store), open_split(store, "ntu60", "xsub", "train")
    server.behave = lambda name, number: "drip" if name.endswith(".tar") else ""
    folder, draw, halves = tmp_path / "cache", random.Random(0), 0
    files = user_files(folder)
    limit = 3 * max(shard.file.bytes + shard.index_file.bytes for shard in split.shards)
    for number in range(3):
        process = start(store, server.url, folder, limit, number, 1000)
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(draw.uniform(0.1, 0.9))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        halves += len([path for path in folder.glob(".*.part") if path not in files])
    server.behave = lambda name, number: ""
    assert halves > 0
    cache = Cache(folder, limit)
    assert not [path for path in folder.glob(".*.part") if path not in files]
    for shard in split.shards:
        with cache.hold(replace(shard, folder=url_place(server.url))) as path:
            assert path.read_bytes() == shard.path.read_bytes()
    for shard in split.shards:
        cache.discard(shard)
    assert {path: path.read_bytes() for path in files} == files
    assert set(folder.iterdir()) == {*files, folder / RECORD}


def test_two_processes_share_a_bounded_cache(store: Path, serve: Callable[[Path], Remote], tmp_path: Path) -> None:
    server, split = serve(store), open_split(store, "ntu60", "xsub", "train")
    files = user_files(tmp_path / "cache")
    limit = 3 * max(shard.file.bytes + shard.index_file.bytes for shard in split.shards)
    processes = [start(store, server.url, tmp_path / "cache", limit, seed, 60) for seed in (1, 2)]
    assert [process.wait(timeout=PATIENCE) for process in processes] == [0, 0]
    for process in processes:
        assert process.stdout is not None
        process.stdout.close()
    copies = [
        path for path in (tmp_path / "cache").glob("*-*") if path not in files and path.suffix in (".tar", ".idx")
    ]
    assert 0 < sum(path.stat().st_size for path in copies) <= limit
    assert {path: path.read_bytes() for path in files} == files


def test_two_processes_fetch_a_shard_once(store: Path, serve: Callable[[Path], Remote], tmp_path: Path) -> None:
    server, split = serve(store), open_split(store, "ntu60", "xsub", "train")
    server.behave = lambda name, number: "drip" if name.endswith(".tar") else ""
    processes = [start(store, server.url, tmp_path / "cache", 0, 7, len(split.shards)) for _ in range(2)]
    assert [process.wait(timeout=PATIENCE) for process in processes] == [0, 0]
    for process in processes:
        assert process.stdout is not None
        process.stdout.close()
    assert len(list((tmp_path / "cache").glob("*.tar"))) == sum(server.asked.values()) // 2
