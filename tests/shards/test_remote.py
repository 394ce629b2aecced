"""A store on an object store: read as if it were local, and uploaded so that a manifest means completeness."""

import base64
import hashlib
import threading
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from upath import UPath

from pipelines.loaders.resident import Resident
from pipelines.loaders.split import open_split
from pipelines.loaders.stream import Stream
from shards import remote
from shards.encoding import STORAGES, Storage
from shards.errors import StoreError
from shards.files import sha256_file, write_atomic
from shards.manifest import MANIFEST, file_entry, find_store, read_manifest
from shards.places import place
from shards.reader import read_index, read_samples, read_shard
from shards.remote import ATTEMPTS, MAX_GAP, MAX_REQUEST, failures, fetch, merge_ranges
from shards.store import open_store
from shards.upload import Uploaded, _stated_md5, upload

Make = Callable[..., Path]


def remote_place(url: str) -> UPath:
    found = place(url)
    assert isinstance(found, UPath)
    return found


def remove(url: UPath) -> None:
    url.fs.rm_file(url.path)


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


# an upload of 50 files takes the server on loopback a second: tests that only read share one
_stores: dict[tuple[str, Storage], tuple[Path, UPath]] = {}


@pytest.fixture
def store(make_folder: Make, s3: Any) -> Callable[..., tuple[Path, UPath]]:
    """store(source="ntu", dtype="float32") -> a finished folder and its like in a bucket; both only to read."""

    def made(source: str = "ntu", dtype: Storage = "float32") -> tuple[Path, UPath]:
        if (source, dtype) not in _stores:
            folder = make_folder(source=source, dtype=dtype, samples_per_shard=100)
            target = remote_place(f"{s3.url}/data/{folder.name}")
            manifest = read_manifest(folder)
            assert upload(folder, target, manifest.files) == Uploaded(len(manifest.files) + 1, size_of(folder), 0)
            _stores[source, dtype] = folder, target
        return _stores[source, dtype]

    return made


@pytest.mark.parametrize("storage", STORAGES)
def test_everything_is_read_as_from_the_local_folder(store: Callable[..., Any], storage: Storage) -> None:
    folder, target = store(dtype=storage)
    assert find_store(target.parent, "ntu60") == find_store(target, "ntu120") == target
    manifest = read_manifest(target)
    assert manifest == read_manifest(folder)
    here, there = open_store(folder / "store.zarr"), open_store(target / "store.zarr")
    assert (there.dtype, there.infos, there.segments, there.quality) == (storage, here.infos, None, here.quality)
    assert there.offsets.tolist() == here.offsets.tolist()
    for number in (0, 7, len(here) - 1):
        assert np.array_equal(there.sample(number), here.sample(number))
    for entry in manifest.shards[:3]:
        local, far = folder / entry.path, target / entry.path
        assert sha256_file(far) == sha256_file(local)
        order = [entry.samples - 1, 0, 0]
        for ours, theirs in (
            (read_shard(local), read_shard(far)),
            (read_samples(local, order), read_samples(far, order, read_index(far))),
        ):
            for (key, frames, record), (far_key, far_frames, far_record) in zip(ours, theirs, strict=True):
                assert (key, record) == (far_key, far_record)
                assert frames.dtype == far_frames.dtype
                assert np.array_equal(frames, far_frames)


def test_the_actions_of_a_remote_untrimmed_source_are_read(store: Callable[..., Any]) -> None:
    folder, target = store(source="pkummd1")
    assert open_store(target / "store.zarr").segments == open_store(folder / "store.zarr").segments != []


def test_remote_samples_may_be_written_to_and_share_nothing(store: Callable[..., Any]) -> None:
    folder, target = store()
    path = target / read_manifest(folder).shards[0].path
    first, again = read_samples(path, [0, 0])
    first[1][...] = 7
    assert not (again[1] == 7).any()
    assert read_samples(path, []) == []


def test_neighbours_come_by_one_request_and_far_samples_by_one_each(
    store: Callable[..., Any], s3_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, target = store()
    entry = max(read_manifest(folder).shards, key=lambda shard: shard.samples)
    path, order = target / entry.path, list(range(entry.samples))
    index = read_index(path)

    def requests() -> int:
        before = len(s3_server.requests)
        read_samples(path, order, index)
        return len(s3_server.requests) - before

    assert requests() == 1
    monkeypatch.setattr(remote, "MAX_GAP", -1)
    assert requests() == entry.samples >= 3


def test_a_file_of_frames_is_asked_for_once(store: Callable[..., Any], s3_server: Any) -> None:
    _, target = store()
    opened = open_store(target / "store.zarr")
    before = len(s3_server.requests)
    for number in range(6):
        opened.sample(number)
    assert [method for method, _, _ in s3_server.requests[before:]].count("HEAD") == 1


@given(ranges=st.lists(st.tuples(st.integers(0, 10**8), st.integers(0, 10**7)).map(lambda r: (r[0], sum(r)))))
def test_merged_ranges_cover_all_and_waste_little(ranges: list[tuple[int, int]]) -> None:
    merged = merge_ranges(ranges)
    assert merged == sorted(merged)
    for start, stop in ranges:
        assert any(first <= start and stop <= last for first, last in merged)
    longest = max((stop - start for start, stop in ranges), default=0)
    assert all(last - first <= max(MAX_REQUEST, longest) for first, last in merged)
    asked = sum(last - first for first, last in merged)
    assert asked <= sum(stop - start for start, stop in ranges) + MAX_GAP * len(ranges)


@pytest.mark.parametrize("kind", [Resident, Stream])
@pytest.mark.parametrize("storage", STORAGES)
def test_both_engines_read_a_remote_store(
    store: Callable[..., Any], kind: Callable[..., Any], storage: Storage
) -> None:
    found = []
    for folder in store(dtype=storage):
        split = open_split(folder, "ntu60", "xsub", "train")
        places, engine = split.order(seed=1).epoch(0)[slice(None)], kind(split, "cpu")
        engine.announce(places)
        batches = [engine.batch(places[n : n + 2]) for n in range(0, len(places), 2)]
        found.append([(b.sample_id.tolist(), b.frames.dtype, b.frames.sum().item()) for b in batches])
        engine.close()
    assert found[0] == found[1] != []


def test_an_epoch_asks_for_each_shard_and_each_index_once(
    store: Callable[..., Any], s3_server: Any, tmp_path: Path
) -> None:
    _, target = store()
    split = open_split(target, "ntu60", "xsub", "train")
    stream, before = Stream(split, "cpu", cache=tmp_path), len(s3_server.requests)
    for epoch in (0, 1):
        places = split.order(seed=1).epoch(epoch)[slice(None)]
        stream.announce(places)
        for n in range(0, len(places), 2):
            stream.batch(places[n : n + 2])
    stream.close()
    asked = [(method, path.rsplit(".")[-1]) for method, path, _ in s3_server.requests[before:]]
    assert sorted(asked) == sorted([("GET", "tar"), ("GET", "idx")] * len(split.shards))


def test_a_remote_file_is_fetched_whole_in_parts(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PART", 1000)
    data = np.random.default_rng(0).bytes(9_500)
    url, into = remote_place(s3.upload(data, "a.tar")), BytesIO()
    assert fetch(url, into, len(data)) == hashlib.sha256(data).hexdigest()
    assert into.getvalue() == data
    spans = [span for method, key, span in s3.requests() if (method, key) == ("GET", "a.tar")]
    assert sorted(spans) == sorted(f"bytes={n}-{min(n + 1000, 9500) - 1}" for n in range(0, 9500, 1000))
    assert fetch(url, BytesIO(), 0) == hashlib.sha256().hexdigest()


def test_what_is_not_in_the_bucket_or_shorter_is_asked_for_once(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BACKOFF", 0.001)
    with pytest.raises(StoreError, match=rf"^{s3.url}/gone\.tar: found no way to read it \(.*\), expected 10 bytes$"):
        fetch(remote_place(f"{s3.url}/gone.tar"), BytesIO(), 10)
    short = remote_place(s3.upload(b"short", "short.tar"))
    with pytest.raises(StoreError, match=rf"^{short}: .*at attempt 5 of 5 \(5 bytes from byte 0 on instead of 10\)"):
        fetch(short, BytesIO(), 10)
    assert [key for method, key, _ in s3.requests() if method == "GET" and key] == ["gone.tar"] + ["short.tar"] * 5


def test_requests_to_s3_are_not_tried_again_by_each_layer(
    s3_server: Any, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "BACKOFF", 0.001)
    asked: list[str] = []

    def busy(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        asked.append(environ["PATH_INFO"])
        start_response("503 Slow Down", [("Content-Type", "text/plain")])
        return [b"busy"]

    with make_server("127.0.0.1", 0, busy, handler_class=QuietHandler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = UPath(f"{s3.url}/a.tar", endpoint_url=f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(StoreError, match=r"a\.tar: found no way to read it at attempt 5 of 5 \(.*Service Unav"):
            fetch(url, BytesIO(), 10)
        server.shutdown()
    assert len(asked) == ATTEMPTS


class QuietHandler(WSGIRequestHandler):
    """Writes nothing to the terminal."""

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class Uploads:
    """A small folder with a manifest, and its place in a bucket."""

    def __init__(self, folder: Path, bucket: Any) -> None:
        self.folder, self.bucket = folder, bucket
        self.target = remote_place(f"{bucket.url}/data/a")
        random = np.random.default_rng(0)
        for number in range(8):
            write_atomic(folder / f"{'ab'[number % 2]}/{number}.tar", random.bytes(1000 + number))
        self.files = [file_entry(folder, path) for path in sorted(folder.rglob("*.tar"))]
        write_atomic(folder / MANIFEST, b"{}")

    def upload(self, **options: int) -> Uploaded:
        return upload(self.folder, self.target, self.files, **options)

    def put(self) -> list[str]:
        """Files that reached the server so far, in order."""
        return [key.removeprefix("data/a/") for method, key, _ in self.bucket.requests() if method == "PUT" and key]

    def is_complete(self) -> bool:
        there = {path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file()}
        return all((self.target / p.as_posix()).read_bytes() == (self.folder / p).read_bytes() for p in there)


@pytest.fixture
def uploads(tmp_path: Path, s3: Any) -> Uploads:
    return Uploads(tmp_path / "a", s3)


@pytest.fixture
def sending(uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str], str]], None]:
    """sending(change): every file is sent from the path that `change` makes of its own."""
    fs = uploads.target.fs
    put = fs.put_file

    def install(change: Callable[[str], str]) -> None:
        # the methods are the file system object's own
        monkeypatch.setattr(fs, "put_file", lambda local, url: put(change(local), url))

    return install


def test_the_manifest_is_written_last_and_nothing_is_sent_twice(uploads: Uploads) -> None:
    assert uploads.upload(workers=4) == Uploaded(9, size_of(uploads.folder), 0)
    assert uploads.put()[-1] == MANIFEST
    assert sorted(uploads.put()) == sorted([entry.path for entry in uploads.files] + [MANIFEST])
    assert uploads.upload() == Uploaded(0, 0, 9)
    assert len(uploads.put()) == 9
    assert uploads.is_complete()


def test_an_interrupted_upload_has_no_manifest_and_goes_on(
    uploads: Uploads, sending: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []

    def cut(local: str) -> str:
        sent.append(local)
        if len(sent) > 5:
            raise ConnectionResetError("the line is cut")
        return local

    sending(cut)
    with pytest.raises(StoreError, match=rf"{uploads.target}/.*: found no way to upload \(the line is cut\)"):
        uploads.upload(workers=2)
    monkeypatch.undo()
    with pytest.raises(StoreError, match=r"no manifest\.json"):
        read_manifest(uploads.target)
    assert len(set(uploads.put())) == 5
    there = sum(Path(path).stat().st_size for path in sent[:5])
    assert uploads.upload() == Uploaded(4, size_of(uploads.folder) - there, 5)
    assert uploads.is_complete()


@pytest.mark.parametrize("damage", [b"", b"x" * 99, b"x" * 1000])
def test_a_damaged_remote_file_is_sent_again_while_no_manifest_is_there(
    uploads: Uploads, sending: Callable[..., None], damage: bytes
) -> None:
    uploads.upload()
    uploads.bucket.upload(damage, f"data/a/{uploads.files[0].path}")
    seen = []

    def watched(local: str) -> str:
        uploads.target.fs.invalidate_cache()
        seen.append((Path(local).name, (uploads.target / MANIFEST).exists()))
        return local

    sending(watched)
    assert uploads.upload().sent == 2
    assert seen == [("0.tar", False), (MANIFEST, False)]
    assert uploads.is_complete()


def test_a_manifest_that_differs_is_replaced(uploads: Uploads) -> None:
    uploads.upload()
    (uploads.folder / MANIFEST).write_bytes(b"[]")
    assert uploads.upload() == Uploaded(1, 2, 8)
    assert uploads.is_complete()


def test_a_file_that_arrives_garbled_is_an_error_and_no_manifest_follows(
    uploads: Uploads, sending: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "garbled").write_bytes(bytes(1003))
    sending(lambda local: str(tmp_path / "garbled") if local.endswith("3.tar") else local)
    with pytest.raises(StoreError, match=rf"{uploads.target}/b/3.tar: found other content"):
        uploads.upload()
    assert MANIFEST not in uploads.put()


def test_what_an_object_store_without_md5_holds_is_read_back(
    uploads: Uploads, sending: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.upload._stated_md5", lambda _: None)
    assert uploads.upload().sent == uploads.upload().sent == 9
    assert uploads.is_complete()
    (tmp_path / "garbled").write_bytes(bytes(1003))
    sending(lambda local: str(tmp_path / "garbled") if local.endswith("3.tar") else local)
    with pytest.raises(StoreError, match=rf"{uploads.target}/b/3.tar: found other content"):
        uploads.upload()
    uploads.target.fs.invalidate_cache()
    assert not (uploads.target / MANIFEST).exists()


def test_the_md5_is_read_from_the_facts_of_s3_and_google() -> None:
    digest = hashlib.md5(b"x", usedforsecurity=False)
    encoded = base64.b64encode(digest.digest()).decode()
    assert _stated_md5({"md5Hash": encoded}) == digest.hexdigest()
    assert _stated_md5({"ETag": f'"{digest.hexdigest()}"'}) == digest.hexdigest()
    assert _stated_md5({"ETag": f'"{digest.hexdigest()}-7"'}) is None
    assert _stated_md5({}) is None


def test_a_local_file_that_is_not_the_manifests_is_never_sent(uploads: Uploads) -> None:
    path = uploads.files[3].path
    file = uploads.folder / path
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(StoreError, match=rf"{path}: found other content, expected SHA-256"):
        uploads.upload()
    file.unlink()
    with pytest.raises(StoreError, match=rf"{path}: found no readable file"):
        uploads.upload()
    assert path not in uploads.put()
    assert MANIFEST not in uploads.put()


def test_a_bucket_that_does_not_exist_is_an_error(uploads: Uploads) -> None:
    with pytest.raises(StoreError, match="s3://no-such-bucket/data"):
        upload(uploads.folder, remote_place("s3://no-such-bucket/data"), uploads.files)


def partial(store: Callable[..., Any], s3: Any, *names: str) -> UPath:
    """A store with only these files of frames and tables."""
    folder, _ = store()
    for name in names:
        s3.upload(folder / name, f"part/{name}")
    return remote_place(f"{s3.url}/part")


TABLES = "store.zarr"
FRAMES = "store.zarr/frames/c/0/0/0/0"


def test_missing_and_damaged_frames_are_an_error_and_not_zeros(store: Callable[..., Any], s3: Any) -> None:
    target = partial(store, s3, TABLES)
    data = bytearray((target / FRAMES).read_bytes())
    data[len(data) // 3] ^= 1
    s3.upload(bytes(data), f"part/{FRAMES}")
    opened = open_store(target / "store.zarr")
    with pytest.raises(StoreError, match="unreadable frames"):
        opened.read(0, opened.num_frames)
    remove(target / FRAMES)
    with pytest.raises(StoreError, match=r"s3://.*/frames/c/0/0/0/0: found no file"):
        open_store(target / "store.zarr").sample(0)
    remove(target / "store.zarr/label/c/0")
    with pytest.raises(StoreError, match=r"s3://.*: found no data of label"):
        open_store(target / "store.zarr")


def test_what_is_absent_is_an_error_that_names_the_url(s3: Any) -> None:
    empty = remote_place(f"{s3.url}/nothing")
    with pytest.raises(StoreError, match=f"{s3.url}/nothing: found no such folder"):
        find_store(empty, "ntu60")
    with pytest.raises(StoreError, match=f"{s3.url}/nothing: found no manifest"):
        read_manifest(empty)
    with pytest.raises(StoreError, match=rf"{s3.url}/nothing: found no zarr\.json"):
        open_store(empty)
    with pytest.raises(StoreError, match=rf"{s3.url}/nothing/0\.tar: found an unreadable shard"):
        list(read_shard(empty / "0.tar"))
    with pytest.raises(StoreError, match=rf"{s3.url}/nothing/0\.idx: found no readable index"):
        read_samples(empty / "0.tar", [0])


def test_a_remote_shard_that_is_cut_or_gone_is_an_error(store: Callable[..., Any], s3: Any) -> None:
    folder, target = store()
    entry = read_manifest(folder).shards[0]
    index = read_index(target / entry.path)
    url = s3.upload((folder / entry.path).read_bytes()[:1500], "cut/000000.tar")
    with pytest.raises(StoreError, match="found the end of the file"):
        read_samples(remote_place(url), [0], index)
    with pytest.raises(StoreError, match="whole tar file"):
        list(read_shard(remote_place(url)))
    remove(remote_place(url))
    with pytest.raises(StoreError, match="no readable shard"):
        read_samples(remote_place(url), [0], index)


def test_two_remote_stores_of_one_source_are_named(make_folder: Make, s3: Any) -> None:
    one, two = (make_folder(recipe=recipe) for recipe in ("raw", "pcm3"))
    data = remote_place(f"{s3.url}/data")
    s3.upload(one / MANIFEST, f"data/{one.name}/{MANIFEST}")
    assert find_store(data, "ntu60") == data / one.name
    s3.upload(two / MANIFEST, f"data/{two.name}/{MANIFEST}")
    with pytest.raises(StoreError, match=rf"{data}: found 2 stores \({two.name}, {one.name}\)"):
        find_store(data, "ntu60")
    assert find_store(data, "ntu60", "raw") == data / one.name
    s3.upload(b"", f"data/{two.name}/store.zarr/zarr.json")
    remove(data / two.name / MANIFEST)
    with pytest.raises(StoreError, match=rf"{two.name} \(unfinished\)"):
        find_store(data, "nwucla")


def test_a_store_is_read_where_the_file_system_is_not_asynchronous(make_folder: Make) -> None:
    folder, target = make_folder(dtype="fixed"), remote_place("memory://remote-test/store")
    manifest = read_manifest(folder)
    assert upload(folder, target, manifest.files).sent == len(manifest.files) + 1
    here, there = open_store(folder / "store.zarr"), open_store(target / "store.zarr")
    assert np.array_equal(there.sample(3), here.sample(3))
    path = manifest.shards[0].path
    assert [key for key, _, _ in read_shard(target / path)] == [key for key, _, _ in read_shard(folder / path)]
    assert read_samples(target / path, [0])[0][0] == read_samples(folder / path, [0])[0][0]
    target.fs.rm("/remote-test", recursive=True)


def test_local_failures_are_named_and_remote_ones_are_all() -> None:
    assert failures(Path("a"), (KeyError,)) == (KeyError,)
    assert failures(remote_place("memory://a"), (KeyError,)) == (Exception,)
