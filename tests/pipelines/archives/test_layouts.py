"""Whatever way the files are packed, nested and split: the same files, by name and by bytes."""

import logging
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.archives import Survey, find_files, inventory_digest, survey
from pipelines.archives.rawfiles import MAX_FILE_BYTES
from pipelines.parsers import pkummd
from shards.errors import RawInputError

SUFFIXES = (".skeleton",)
WAYS = ("folder", "zip", "zip in folder", "zip in zip", "single files")

names = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9 _.\-\u00e9]{0,12}", fullmatch=True).filter(lambda name: name[-1] != ".")
contents = st.dictionaries(names, st.binary(max_size=300), min_size=1, max_size=6)
folders = st.sampled_from(["", "a/", "nturgb+d_skeletons/", "a/b/c/", "é ü/", "x.zip.d/"])


@st.composite
def layouts(draw: st.DrawFn) -> list[tuple[str, str, str, int, dict[str, bytes]]]:
    """Parts (way, inner folder, suffix, zip method, content) that are each other's complement."""
    content = draw(contents)
    parts = draw(st.lists(st.sampled_from(range(3)), min_size=len(content), max_size=len(content)))
    suffix = st.sampled_from([".skeleton", ".SKELETON", ".Skeleton"])
    method = st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    return [
        (draw(st.sampled_from(WAYS)), draw(folders), draw(suffix), draw(method), chosen)
        for part in set(parts)
        if (chosen := {name: data for (name, data), p in zip(content.items(), parts, strict=True) if p == part})
    ]


def write_zip(path: Path, members: Iterable[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members:
            file.writestr(name, data)
    return path


def lay_out(root: Path, way: str, inner: str, suffix: str, method: int, content: dict[str, bytes]) -> list[Path]:
    members = [(f"{inner}{name}{suffix}", data) for name, data in content.items()]
    if way == "zip":
        return [write_zip(root / "a.zip", members, method)]
    if way == "zip in folder":
        write_zip(root / "deep/er/a.ZIP", members, method)
        return [root]
    if way == "zip in zip":
        packed = write_zip(root / "inner.zip", members, method).read_bytes()
        (root / "inner.zip").unlink()
        return [write_zip(root / "bundle.zip", [("read me.txt", b"!"), ("in/inner.zip", packed)], zipfile.ZIP_STORED)]
    for name, data in members:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return [root] if way == "folder" else [root / name for name, _ in members]


@settings(max_examples=40, deadline=None)
@given(layouts())
def test_every_layout_of_the_same_files_gives_the_same_names_bytes_and_digest(
    parts: list[tuple[str, str, str, int, dict[str, bytes]]],
) -> None:
    whole = {name: data for *_, content in parts for name, data in content.items()}
    with tempfile.TemporaryDirectory() as folder:
        plain = find_files(lay_out(Path(folder, "plain"), "folder", "", ".skeleton", 0, whole), SUFFIXES)
        raw = [path for n, part in enumerate(parts) for path in lay_out(Path(folder, str(n)), *part)]
        files = find_files(raw, SUFFIXES)
        assert {file.name: file.read() for file in files} == {file.name: file.read() for file in plain} == whole
    assert [(f.name, f.suffix, f.size, f.crc32) for f in files] == [(f.name, f.suffix, f.size, f.crc32) for f in plain]
    assert [f.crc32 for f in files] == [zlib.crc32(whole[f.name]) for f in files]
    assert inventory_digest(files) == inventory_digest(plain)


def test_a_survey_counts_what_is_no_raw_file_by_kind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.skeleton", "b.txt", "sub/c.TXT", "README", ".git/config", "sub/.DS_Store", "d.rar", "end."):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    write_zip(tmp_path / "z.zip", [("x/", b""), ("x/e.skeleton", b"2"), ("x/f.txt", b""), ("__MACOSX/._e.zip", b"")])
    found = survey([tmp_path], SUFFIXES)
    assert [file.name for file in found.files] == ["a", "e"]
    assert found.ignored == {".txt": 3, "hidden": 3, "no suffix": 2, ".rar": 1}
    assert found.ignored_text() == "3 .txt, 3 hidden, 2 no suffix, 1 .rar"
    with caplog.at_level(logging.INFO, "pipelines.archives"):
        assert find_files([tmp_path], SUFFIXES) == list(found.files)
    assert "(.skeleton): 3 .txt, 3 hidden" in caplog.text
    assert Survey((), {}).ignored_text() == ""


def test_a_place_may_be_named_by_text_path_or_file_url(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a b.zip", [("x.skeleton", b"1")])
    for named in (path, str(path), f"file://{path}", f"FILE://{path}"):
        [file] = find_files([named], SUFFIXES)
        assert (file.path, file.read()) == (path, b"1")


def test_a_relative_folder_shows_hidden_folders_below_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_zip(tmp_path / "sub/.cache/a.zip", [("x.skeleton", b"1")])
    write_zip(tmp_path / "sub/a.zip", [("y.skeleton", b"1")])
    monkeypatch.chdir(tmp_path / "sub")
    for named in (".", "../sub", tmp_path / "sub"):
        found = survey([named], SUFFIXES)
        assert ([file.name for file in found.files], found.ignored) == (["y"], {"hidden": 1})


def test_a_zip_inside_a_zip_names_both_in_what_its_files_say(tmp_path: Path) -> None:
    packed = write_zip(tmp_path / "in.zip", [("d/x.skeleton", b"123")]).read_bytes()
    bundle = write_zip(tmp_path / "bundle.zip", [("part/in.zip", packed)], zipfile.ZIP_STORED)
    [file] = find_files([bundle], SUFFIXES)
    assert (file.origin, file.path) == ("bundle.zip: part/in.zip: d/x.skeleton", bundle)
    assert (file.read(), file.head(2)) == (b"123", b"12")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_a_zip_that_cannot_be_read_through_is_refused_and_not_left_out(tmp_path: Path, method: int) -> None:
    packed = write_zip(tmp_path / "in.zip", [("x.skeleton", b"1")]).read_bytes()
    deeper = write_zip(tmp_path / "deeper.zip", [("in.zip", packed)], zipfile.ZIP_STORED).read_bytes()
    bundle = write_zip(tmp_path / "raw/bundle.zip", [("y.skeleton", b"2"), ("deeper.zip", deeper)], method)
    found = "compressed once more inside a zip" if method else "a zip inside a zip inside a zip"
    with pytest.raises(RawInputError, match=rf"bundle\.zip: deeper\.zip.*{found}, expected it unpacked") as caught:
        find_files([bundle.parent], SUFFIXES)
    assert str(bundle) in str(caught.value)


def test_a_broken_zip_inside_a_zip_is_refused_by_both_names(tmp_path: Path) -> None:
    bundle = write_zip(tmp_path / "bundle.zip", [("in.zip", b"no zip at all")], zipfile.ZIP_STORED)
    with pytest.raises(RawInputError, match=r"bundle\.zip: in\.zip: found no readable zip"):
        find_files([bundle], SUFFIXES)


SKELETON, LABELS = b"0 " * 149 + b"0\n", b"1,0,1,2\n"
SPLIT = b"Training videos:\n0002-L, \nValidataion videos:\n0003-M, "


def pku_members() -> dict[str, list[tuple[str, bytes]]]:
    return {
        "PKU_Skeleton_Renew": [(f"PKU_Skeleton_Renew/{name}.txt", SKELETON) for name in ("0002-L", "0003-M")],
        "Train_Label_PKU_final": [(f"Train_Label_PKU_final/{name}.txt", LABELS) for name in ("0002-L", "0003-M")],
        "Split": [("Split/cross-subject.txt", SPLIT), ("Split/cross-view.txt", SPLIT)],
    }


@pytest.mark.parametrize("packed", ["folders", "zips", "one zip", "bundle", "mixed"])
def test_pku_mmd_is_paired_in_any_layout(tmp_path: Path, packed: str) -> None:
    root = tmp_path / "pku"
    for number, (archive, members) in enumerate(pku_members().items()):
        if packed == "folders" or (packed == "mixed" and number % 2):
            for name, data in members:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(data)
        elif packed != "one zip":
            write_zip(root / f"{archive}.zip", members)
    if packed == "one zip":
        write_zip(root / "pku.zip", [member for members in pku_members().values() for member in members])
    if packed == "bundle":
        parts = [(path.name, path.read_bytes()) for path in sorted(root.iterdir())]
        root = write_zip(tmp_path / "bundle.zip", parts, zipfile.ZIP_STORED)
    files = find_files([root], (".txt",), allow_same_name=True)
    pairs = pkummd.pair_files(files)
    assert [(s.name, s.read(), label.read()) for s, label in pairs] == [
        (name, SKELETON, LABELS) for name in ("0002-L", "0003-M")
    ]
    assert sorted(file.name for file in pkummd.not_videos(files)) == ["cross-subject", "cross-view"]


def test_what_is_no_file_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    for name in ("x.skeleton", "x.zip"):
        root = tmp_path / name.replace(".", "")
        root.mkdir()
        os.mkfifo(root / name)
        for named in (root, root / name):
            with pytest.raises(RawInputError, match=f"{name}: found a pipe"):
                find_files([named], SUFFIXES)


def test_a_plain_file_too_large_for_a_recording_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "x.skeleton").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(RawInputError, match="a file of 268435457 bytes, expected at most 268435456"):
        find_files([tmp_path], SUFFIXES)


def test_a_name_that_is_no_text_has_a_digest(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.skeleton")).write_bytes(b"1")
    (tmp_path / "café.skeleton").write_bytes(b"1")
    first, second = find_files([tmp_path], SUFFIXES)
    assert inventory_digest([first]) != inventory_digest([second])


def test_one_file_named_twice_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", [("x.skeleton", b"1")])
    with pytest.raises(RawInputError, match="two files of this name"):
        find_files([path, tmp_path], SUFFIXES)


def test_a_plain_file_is_read_for_its_checksum_only_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.skeleton"
    path.write_bytes(b"1")
    [before] = find_files([tmp_path], SUFFIXES)
    with monkeypatch.context() as patch:
        patch.delattr("pipelines.archives.read_at")
        assert find_files([tmp_path], SUFFIXES) == [before]
    path.write_bytes(b"2")
    os.utime(path, ns=(1, 1))
    assert find_files([tmp_path], SUFFIXES)[0].crc32 == zlib.crc32(b"2")
