"""The manifest: identity, atomic files, and which store serves a data set."""

import errno
import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shards.errors import ConfigError, DiskError, SkelstreamError, StoreError
from shards.files import atomic_path, sha256_file, write_atomic
from shards.manifest import find_store, fingerprint, folder_name, read_manifest, write_manifest

Make = Callable[..., Path]


def test_a_manifest_is_read_back_as_it_was_written(make_folder: Make) -> None:
    folder = make_folder()
    before = (folder / "manifest.json").read_bytes()
    manifest = read_manifest(folder)
    write_manifest(folder, manifest)
    assert read_manifest(folder) == manifest
    assert (folder / "manifest.json").read_bytes() == before


def test_the_fingerprint_hangs_on_each_thing_that_determines_the_bytes() -> None:
    base: dict[str, Any] = {
        "source": "ntu",
        "inventory": "a",
        "recipe_steps": [{"name": "x", "by": 1}],
        "dtype": "float32",
    }
    others: list[dict[str, Any]] = [
        {"source": "nwucla"},
        {"inventory": "b"},
        {"recipe_steps": [{"name": "x", "by": 2}]},
        {"dtype": "float16"},
        {"dtype": "fixed"},
    ]
    names = {fingerprint(**base), *(fingerprint(**(base | other)) for other in others)}
    assert len(names) == 6
    assert fingerprint(**(base | {"recipe_steps": [{"by": 1, "name": "x"}]})) == fingerprint(**base)
    canonical = (
        b'{"dtype":"float32","format_version":2,"inventory":"a","recipe_steps":[{"by":1,"name":"x"}],"source":"ntu"}'
    )
    assert fingerprint(**base) == hashlib.sha256(canonical).hexdigest()[:12]


def test_the_format_version_is_part_of_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint("ntu", "a", [], "float32")
    monkeypatch.setattr("shards.manifest.FORMAT_VERSION", 3)
    assert fingerprint("ntu", "a", [], "float32") != before


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "there.txt"
    write_atomic(path, b"old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


REFUSALS = {
    errno.ENOSPC: "found no space left (No space left on device), expected room",
    errno.EDQUOT: "found no space left (Disk quota exceeded), expected room",
    errno.EFBIG: "found no space left (File too large), expected room",
    errno.EACCES: "found a place that cannot be written (Permission denied), expected a writable one",
    errno.EROFS: "found a place that cannot be written (Read-only file system), expected a writable one",
    errno.EIO: "found an error of the disk (Input/output error), expected a sound one",
}


@pytest.mark.parametrize("call", ["mkdir", "write_bytes", "replace", "fsync"])
@pytest.mark.parametrize("number", REFUSALS)
def test_a_disk_that_refuses_is_named_and_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    path = tmp_path / "there.txt"
    write_atomic(path, b"old")

    def refuse(place: Any, *arguments: Any, **options: Any) -> None:
        # writing and syncing tell no name, as the kernel does not know it
        raise OSError(number, os.strerror(number), *([str(place)] if call in ("mkdir", "replace") else []))

    monkeypatch.setattr(os if call == "fsync" else Path, call, refuse)
    with pytest.raises(DiskError) as caught:
        write_atomic(path, b"new")
    monkeypatch.undo()
    assert str(caught.value) == f"{path}: {REFUSALS[number]} for its 3 bytes"
    assert isinstance(caught.value, SkelstreamError)
    assert (caught.value.errno, caught.value.filename) == (number, str(path))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_about_the_disk_survives_the_way_between_processes() -> None:
    error = DiskError(errno.ENOSPC, "there.txt: found no space left, expected room", "there.txt")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes
    assert (type(again), str(again), again.errno, again.filename) == (
        DiskError, "there.txt: found no space left, expected room", errno.ENOSPC, "there.txt"
    )  # fmt: skip


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/another/file"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        TimeoutError(errno.ETIMEDOUT, "Connection timed out"),
        OSError("an error of a library"),
    ],
)
def test_what_fails_beside_the_writing_is_not_put_on_the_file(tmp_path: Path, error: OSError) -> None:
    def fail() -> None:
        with atomic_path(tmp_path / "file"):
            raise error

    with pytest.raises(OSError) as caught:  # noqa: PT011  # it is compared as a whole
        fail()
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


def test_until_it_is_whole_a_file_has_another_name(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"x")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_bytes() == b"x"
    assert sha256_file(path) == hashlib.sha256(b"x").hexdigest()


def test_a_folder_without_manifest_is_unfinished(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"found no manifest\.json, expected a finished store"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 1}, "found format version 1, expected 2"),
        ({"inventory": "xyz"}, "bad field inventory"),
        ({"extra": 1}, "bad field extra"),
        ({"dtype": "float64"}, "bad field dtype"),
        ({"max_error": -1.0}, "bad field max_error"),
        ({"max_error": 1e999}, "bad field max_error"),
        ({"max_error": 1e-4}, "found a max_error of 0.0001 m, expected 0 for float32"),
        ({"counts": {"samples": -1}}, "bad field counts.samples"),
        ({"files": [{"path": "../../etc/passwd", "bytes": 1, "sha256": "0" * 64}]}, "bad field files.0.path"),
        ({"files": [{"path": "/etc/passwd", "bytes": 1, "sha256": "0" * 64}]}, "bad field files.0.path"),
        ({"files": [{"path": "a//b", "bytes": 1, "sha256": "0" * 64}]}, "bad field files.0.path"),
    ],
)
def test_a_manifest_with_a_bad_field_is_refused_and_the_field_named(
    make_folder: Make, change: dict[str, Any], message: str
) -> None:
    path = make_folder() / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(StoreError, match=message) as error:
        read_manifest(path.parent)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"format_version"'])
def test_a_garbled_manifest_is_refused(make_folder: Make, text: str) -> None:
    folder = make_folder()
    (folder / "manifest.json").write_text(text)
    with pytest.raises(StoreError, match=r"manifest\.json"):
        read_manifest(folder)


def test_a_store_is_found_by_its_data_set_in_the_root_or_by_itself(make_folder: Make, tmp_path: Path) -> None:
    ntu, pku = make_folder(source="ntu"), make_folder(source="pkummd1")
    assert find_store(tmp_path, "ntu60") == find_store(tmp_path, "ntu120") == find_store(ntu, "ntu60") == ntu
    assert find_store(tmp_path, "pkummd1", recipe="raw") == pku


def test_a_recipe_tells_two_stores_of_one_source_apart(make_folder: Make, tmp_path: Path) -> None:
    raw, other = make_folder(recipe="raw"), make_folder(recipe="pcm3")
    with pytest.raises(StoreError) as error:
        find_store(tmp_path, "ntu60")
    assert raw.name in str(error.value)
    assert other.name in str(error.value)
    assert find_store(tmp_path, "ntu60", recipe="pcm3") == other


def test_when_no_store_serves_the_error_says_what_is_there(make_folder: Make, tmp_path: Path) -> None:
    ntu = make_folder()
    (tmp_path / "nwucla-raw-000000000000").mkdir()
    with pytest.raises(StoreError, match=rf"found {ntu.name}, nwucla-raw-0+ \(unfinished\), expected .*source nwucla"):
        find_store(tmp_path, "nwucla")
    with pytest.raises(StoreError, match="expected a finished store of source nwucla"):
        find_store(ntu, "nwucla")
    with pytest.raises(StoreError, match="by recipe pcm3"):
        find_store(tmp_path, "ntu60", recipe="pcm3")
    with pytest.raises(StoreError, match="found no such folder"):
        find_store(tmp_path / "absent", "ntu60")
    with pytest.raises(ConfigError, match="unknown data set"):
        find_store(tmp_path, "ntu")


def test_a_folder_is_named_by_source_recipe_and_fingerprint() -> None:
    assert folder_name("ntu", "pcm3", "0123456789ab") == "ntu-pcm3-0123456789ab"


def test_a_conversion_at_work_is_no_store_though_it_has_its_manifest(make_folder: Make, tmp_path: Path) -> None:
    folder = make_folder("ntu")
    folder.rename(tmp_path / f".{folder.name}.partial")
    with pytest.raises(StoreError, match="found nothing"):
        find_store(tmp_path, "ntu60")


@pytest.mark.parametrize(
    ("dtype", "least", "most"), [("float32", 0, 0), ("float16", 1e-5, 2e-3), ("fixed", 4e-5, 5.1e-5)]
)
def test_the_manifest_states_the_largest_error_of_its_storage(
    make_folder: Make, dtype: str, least: float, most: float
) -> None:
    manifest = read_manifest(make_folder(dtype=dtype))
    assert manifest.dtype == dtype
    assert least <= manifest.max_error <= most
