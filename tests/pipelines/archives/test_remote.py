"""Raw input in an object store, by the S3 protocol itself: the same files as on a disk, for few requests."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from upath import UPath

from pipelines.archives import RawFile, find_files, inventory_digest, survey
from shards.errors import ConfigError, RawInputError
from shards.places import place

if TYPE_CHECKING:
    from tests.conftest import Bucket, S3Server

SUFFIXES = (".skeleton",)
CONTENT = {
    f"S001C001P00{i}R001A001": " ".join(str(random.Random(i * n).random()) for n in range(500 * i)).encode()
    for i in range(1, 8)
}


def folder(path: Path) -> Path:
    (path / "nested").mkdir(parents=True)
    for name, data in CONTENT.items():
        (path / "nested" / f"{name}.skeleton").write_bytes(data)
    (path / "list.txt").write_text("1")
    return path


def archive(path: Path, method: int = zipfile.ZIP_DEFLATED, extra: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in CONTENT.items():
            file.writestr(f"nturgb+d_skeletons/{name}.skeleton", data)
        for number in range(extra):
            file.writestr(f"x/{number}.txt", b"")
    return path


def facts(files: list[RawFile]) -> list[tuple[str, str, int, int]]:
    return [(file.name, file.suffix, file.size, file.crc32) for file in files]


def same(found: list[RawFile], local: list[RawFile]) -> None:
    assert facts(found) == facts(local)
    assert inventory_digest(found) == inventory_digest(local)
    assert {file.name: file.read() for file in found} == CONTENT
    assert all(file.head(99) == CONTENT[file.name][:99] for file in found)


def test_a_remote_folder_a_zip_a_zip_in_a_folder_and_a_bundle_equal_the_local_folder(
    s3: Bucket, tmp_path: Path
) -> None:
    local = find_files([folder(tmp_path / "plain")], SUFFIXES)
    packed = archive(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "bundle.zip", "w") as file:
        file.write(packed, "inner/a.zip")
    for url in (
        s3.upload(tmp_path / "plain", "as folder"),
        s3.upload(packed, "packed/b/ä +#&?.zip"),
        f"{s3.url}/packed",
        f"{s3.url}/packed/",
        s3.upload(archive(tmp_path / "stored.zip", zipfile.ZIP_STORED), "stored.zip"),
        s3.upload(tmp_path / "bundle.zip", "bundle.zip"),
    ):
        same(find_files([url], SUFFIXES), local)
        same(find_files([place(url)], SUFFIXES), local)


def test_remote_and_local_places_and_single_files_mix(s3: Bucket, tmp_path: Path) -> None:
    plain = folder(tmp_path / "plain")
    names = sorted(CONTENT)
    single = plain / "nested" / f"{names[0]}.skeleton"
    url = s3.upload(single, f"one/{names[0]}.SKELETON")
    single.unlink()
    found = survey([plain, url], SUFFIXES)
    same(list(found.files), find_files([archive(tmp_path / "a.zip")], SUFFIXES))
    assert found.files[0].origin == url
    assert found.ignored == {".txt": 1}


def test_listing_a_remote_zip_takes_few_requests_and_reading_a_member_one(s3: Bucket, tmp_path: Path) -> None:
    url = s3.upload(archive(tmp_path / "a.zip"), "a.zip")
    before = len(s3.requests())
    files = find_files([url], SUFFIXES)
    listed = s3.requests()[before:]
    assert [method for method, *_ in listed] == ["HEAD", "GET"]
    assert (tmp_path / "a.zip").stat().st_size < 1 << 17  # so that the end that was fetched is the whole
    for file in files:
        before = len(s3.requests())
        file.read()
        [(method, key, span)] = s3.requests()[before:]
        first, last = map(int, span.removeprefix("bytes=").split("-"))
        assert file.member is not None
        assert (method, key, first) == ("GET", "a.zip", file.member.header_offset)
        assert file.member.compressed_size < last - first + 1 <= file.member.compressed_size + 256


def test_listing_a_large_remote_zip_fetches_its_directory_and_no_more(s3: Bucket, tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", extra=2000)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as file:
        file.writestr("large.skeleton", random.Random(1).randbytes(1 << 20))
    url = s3.upload(path, "a.zip")
    before = len(s3.requests())
    files = find_files([url], SUFFIXES)
    spans = [span.removeprefix("bytes=").split("-") for method, _, span in s3.requests()[before:] if method == "GET"]
    assert len(spans) <= 2
    assert sum(int(last) - int(first) + 1 for first, last in spans) < 1 << 18 < path.stat().st_size
    [large] = [file for file in files if file.name == "large"]
    before = len(s3.requests())
    assert len(large.head(8192)) == 8192
    [(_, _, span)] = s3.requests()[before:]
    first, last = map(int, span.removeprefix("bytes=").split("-"))
    assert last - first < 8192 + 4096 + 256


def test_a_remote_folder_is_listed_by_pages_and_each_file_read_once(s3: Bucket, tmp_path: Path) -> None:
    url = s3.upload(folder(tmp_path / "plain"), "plain")
    before = len(s3.requests())
    first = find_files([url], SUFFIXES)
    assert find_files([url], SUFFIXES) == first
    asked = s3.requests()[before:]
    assert sorted(key for method, key, span in asked if span) == sorted(f"plain/nested/{n}.skeleton" for n in CONTENT)
    assert len(asked) == len(CONTENT) + 2 * 3  # twice: is it an object, is it a folder, what is below it


def test_an_object_that_changed_is_noticed_and_listed_anew(s3: Bucket, tmp_path: Path) -> None:
    url = s3.upload(folder(tmp_path / "plain"), "plain")
    before = find_files([url], SUFFIXES)
    s3.upload(b"other", f"plain/nested/{before[0].name}.skeleton")
    s3.upload(b"new", "plain/nested/new.skeleton")
    with pytest.raises(RawInputError, match=rf"{url}/nested/{before[0].name}\.skeleton: found 5 or more bytes"):
        before[0].read()
    after = find_files([url], SUFFIXES)
    assert len(after) == len(before) + 1
    assert after[0].read() == b"other"


def test_a_remote_zip_that_changed_or_went_is_noticed(s3: Bucket, tmp_path: Path) -> None:
    url = s3.upload(archive(tmp_path / "a.zip"), "a.zip")
    file = find_files([url], SUFFIXES)[-1]
    s3.upload(b"short", "a.zip")
    with pytest.raises(RawInputError, match=rf"a\.zip: nturgb\+d_skeletons/{file.name}\.skeleton: found"):
        file.read()
    place(url).unlink()
    with pytest.raises(RawInputError, match="an unreadable file"):
        file.read()


def test_empty_objects_and_those_that_stand_for_folders(s3: Bucket) -> None:
    s3.upload(b"", "x/")
    s3.upload(b"", "x/a.skeleton")
    s3.upload(b"1", "x/.hidden/b.skeleton")
    found = survey([f"{s3.url}/x"], SUFFIXES)
    assert [(file.name, file.size, file.read(), file.head(9)) for file in found.files] == [("a", 0, b"", b"")]
    assert found.ignored == {"hidden": 1}


@pytest.mark.parametrize(
    ("below", "found"),
    [
        ("/absent", "found nothing"),
        ("/absent.zip", "found nothing"),
        ("-none", "found nothing"),
        ("-none/a.zip", "found nothing"),
        ("/text.txt", "found no readable zip"),
        ("/texts", "found no raw file"),
    ],
)
def test_places_without_raw_files_are_refused_by_their_url(s3: Bucket, below: str, found: str) -> None:
    s3.upload(b"no zip", "text.txt")
    s3.upload(b"no zip", "texts/text.txt")
    with pytest.raises(RawInputError, match=f"^{s3.url}{below}/?: {found}"):
        find_files([f"{s3.url}{below}"], SUFFIXES)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"endpoint_url": "http://127.0.0.1:9"}, "EndpointConnectionError"),
        ({"anon": False, "profile": "absent"}, "ProfileNotFound"),
    ],
)
def test_what_hinders_reading_is_one_error_that_names_the_url(
    s3: Bucket, monkeypatch: pytest.MonkeyPatch, options: dict[str, object], found: str
) -> None:
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    where = UPath(f"{s3.url}/a.zip", **options, config_kwargs={"retries": {"max_attempts": 0}})
    with pytest.raises(RawInputError, match=rf"^{s3.url}/a\.zip: found an unreadable place \({found}"):
        find_files([where], SUFFIXES)


def test_absent_credentials_are_one_error(s3: Bucket) -> None:
    environment = os.environ | s3.server.settings
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        environment.pop(name, None)
    script = "import sys; from pipelines.archives import find_files; find_files([sys.argv[1]], ('.skeleton',))"
    command = [sys.executable, "-c", script, f"{s3.url}/a.zip"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"shards.errors.RawInputError: {s3.url}/a.zip: found an unreadable place (")
    assert "redentials" in last


def test_files_are_read_on_many_threads_and_in_another_process(s3: Bucket, tmp_path: Path) -> None:
    zipped = find_files([s3.upload(archive(tmp_path / "a.zip"), "a.zip")], SUFFIXES)
    plain = find_files([s3.upload(folder(tmp_path / "plain"), "plain")], SUFFIXES)
    for files in (zipped, plain):
        pickled = pickle.dumps(files)
        assert len(pickled) < 500 * len(files)
        again = pickle.loads(pickled)  # noqa: S301 (our own bytes)
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(RawFile.read, again * 4)) == list(CONTENT.values()) * 4
        script = "import pickle, sys; print(sum(len(f.read()) for f in pickle.load(sys.stdin.buffer)))"
        command = [sys.executable, "-c", script]
        done = subprocess.run(
            command, input=pickled, env=os.environ | s3.server.settings, capture_output=True, check=True
        )
        assert int(done.stdout) == sum(map(len, CONTENT.values()))


def test_hostile_remote_zips_are_refused_as_local_ones(s3: Bucket, tmp_path: Path) -> None:
    whole = archive(tmp_path / "a.zip").read_bytes()
    for cut in (1, len(whole) // 2, len(whole) - 30):
        with pytest.raises(RawInputError, match="no readable zip"):
            find_files([s3.upload(whole[:cut], "cut.zip")], SUFFIXES)


@pytest.mark.parametrize(
    "url",
    ["s3://", "s3:///", "nosuch://b/x", "zip://a::s3://b/x.zip", "file://host/x", "file://x", "s3://b::x", "://b"],
)
def test_urls_that_name_no_place_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="found no file system for this URL"):
        place(url)


def test_a_place_is_a_path_when_it_is_local(s3_server: S3Server) -> None:
    assert place("a/b") == Path("a/b")
    assert place(Path("a")) == Path("a")
    assert place("file:///data/a b") == place(place("FILE:///data/a b")) == Path("/data/a b")
    assert str(place("S3://Bucket/X")) == "s3://Bucket/X"
    assert place(place("s3://b/x")) == place("s3://b/x")
