"""Fixtures for all tests."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# a deadline measures the machine: a test of 2 ms was seen to take 252 on a busy one
settings.register_profile("skelstream", deadline=None)
settings.load_profile("skelstream")

SHARED = Path(__file__).resolve().parents[1].parent / "shared"

_Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Material beside the checkout (golden numbers, a real data set); a user's clone has none of it."""
    if not (SHARED / "golden").is_dir():
        pytest.skip("no ../shared beside the checkout: golden numbers and real data are not there")
    return SHARED


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    """Numbers computed by the reference implementations; `SKELSTREAM_GOLDEN` names another set of them."""
    return Path(os.environ.get("SKELSTREAM_GOLDEN") or shared / "golden")


@dataclass(frozen=True)
class S3Server:
    """A server of the S3 protocol on loopback.

    Attributes:
        endpoint: its address.
        requests: what it was asked so far: method, "/bucket/key" and the range of bytes or "".
        settings: environment variables by which any S3 client, in this process or another one, talks to it alone.
    """

    endpoint: str
    requests: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "loopback",
            "AWS_SECRET_ACCESS_KEY": "loopback",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
        }


@dataclass(frozen=True)
class Bucket:
    """An S3 bucket of one test."""

    name: str
    server: S3Server

    @property
    def url(self) -> str:
        return f"s3://{self.name}"

    def upload(self, source: Path | bytes, key: str) -> str:
        """Put bytes, a file or a folder with all below it at `key`; its URL."""
        fs = _s3_file_system()
        if isinstance(source, bytes):
            fs.pipe_file(f"{self.name}/{key}", source)
        else:
            for path in sorted(source.rglob("*")) if source.is_dir() else [source]:
                if path.is_file():
                    inner = f"{key}/{path.relative_to(source).as_posix()}" if source.is_dir() else key
                    fs.pipe_file(f"{self.name}/{inner}", path.read_bytes())
        return f"{self.url}/{key}"

    def requests(self) -> list[tuple[str, str, str]]:
        """What the server was asked for in this bucket: method, key and range of bytes or ""."""
        split = [(method, *path[1:].partition("/"), span) for method, path, span in self.server.requests]
        return [(method, key, span) for method, bucket, _, key, span in split if bucket == self.name]


def _s3_file_system() -> Any:
    import fsspec

    return fsspec.filesystem("s3")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """The one S3 server of a test run; the environment points to it."""
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    server = S3Server("http://{}:{}".format(*moto.get_host_and_port()))
    moto._server.app = _recording(moto._server.app, server.requests)  # moto has no hook for requests
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION"):
            patch.delenv(name, raising=False)
        for name, value in server.settings.items():
            patch.setenv(name, value)
        yield server
        _forget_file_systems()
    moto.stop()
    moto._server.server_close()


def _recording(app: _Wsgi, requests: list[tuple[str, str, str]]) -> _Wsgi:
    lock = threading.Lock()

    def recorded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with lock:
            requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("HTTP_RANGE", "")))
        return app(environ, start_response)

    return recorded


def _forget_file_systems() -> None:
    """Close the connections of all S3 file systems, which fsspec keeps for the next user of the same settings."""
    from s3fs import S3FileSystem

    for fs in list(S3FileSystem._cache.values()):
        if fs._s3 is not None:
            S3FileSystem.close_session(fs.loop, fs._s3)
    S3FileSystem.clear_instance_cache()


_bucket_numbers = count(1)


@pytest.fixture
def s3(s3_server: S3Server) -> Bucket:
    """A new, empty bucket. Product code reaches it by its URL, with no other settings than the environment's."""
    bucket = Bucket(f"bucket-{next(_bucket_numbers)}", s3_server)
    _s3_file_system().mkdir(bucket.name)
    return bucket
