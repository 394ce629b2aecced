import pickle
import stat
import zipfile
from pathlib import Path

import pytest

from pipelines.archives import RawFile, find_files, inventory_digest
from shards.errors import RawInputError

SUFFIXES = (".skeleton",)
CONTENT = {f"S001C001P00{i}R001A001": f"{i}\n".encode() * 1000 * i for i in range(1, 5)}


def folder(path: Path, content: dict[str, bytes] = CONTENT, inner: str = "nturgb+d_skeletons") -> Path:
    (path / inner).mkdir(parents=True)
    for name, data in content.items():
        (path / inner / f"{name}.skeleton").write_bytes(data)
    return path


def archive(
    path: Path, content: dict[str, bytes] = CONTENT, inner: str = "", method: int = zipfile.ZIP_DEFLATED
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in content.items():
            file.writestr(f"{inner}{name}.skeleton", data)
    return path


def contents(files: list[RawFile]) -> dict[str, bytes]:
    return {file.name: file.read() for file in files}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("inner", ["", "nturgb+d_skeletons/", "a/b/c/", "windows\\made\\"])
def test_a_zip_of_any_layout_equals_its_unpacked_folder(tmp_path: Path, method: int, inner: str) -> None:
    packed = find_files([archive(tmp_path / "a.zip", inner=inner, method=method)], SUFFIXES)
    plain = find_files([folder(tmp_path / "plain")], SUFFIXES)
    assert [file.name for file in packed] == [file.name for file in plain] == sorted(CONTENT)
    assert contents(packed) == contents(plain) == CONTENT
    assert [(f.size, f.crc32, f.suffix) for f in packed] == [(f.size, f.crc32, f.suffix) for f in plain]
    assert inventory_digest(packed) == inventory_digest(reversed(plain))


def test_the_digest_tells_other_content_and_other_names(tmp_path: Path) -> None:
    digests = {
        inventory_digest(find_files([folder(tmp_path / str(number), content)], SUFFIXES))
        for number, content in enumerate([{"a": b"1"}, {"a": b"2"}, {"b": b"1"}, {"a": b"1", "b": b"1"}])
    }
    assert len(digests) == 4


def test_the_origin_names_the_zip_and_the_member(tmp_path: Path) -> None:
    [file] = find_files([archive(tmp_path / "a.zip", {"x": b"1"}, "inner/")], SUFFIXES)
    assert file.origin == "a.zip: inner/x.skeleton"
    [file] = find_files([folder(tmp_path / "plain", {"x": b"1"}, "inner")], SUFFIXES)
    assert file.origin == str(tmp_path / "plain/inner/x.skeleton")


def test_folders_zips_zips_in_folders_and_single_files_mix(tmp_path: Path) -> None:
    mixed = folder(tmp_path / "mixed", {"c": b"c"})
    archive(mixed / "deep/er.zip", {"a": b"a"})
    single = folder(tmp_path / "single", {"b": b"b"}) / "nturgb+d_skeletons/b.skeleton"
    files = find_files([archive(tmp_path / "z.zip", {"d": b"d"}), mixed, single], SUFFIXES)
    assert contents(files) == {"a": b"a", "b": b"b", "c": b"c", "d": b"d"}


def test_hidden_files_and_other_suffixes_are_no_raw_files(tmp_path: Path) -> None:
    root = folder(tmp_path / "plain", {"a": b"a", ".hidden": b"h"})
    folder(root, {"a": b"resource fork"}, "__MACOSX")
    folder(root, {"b": b"b"}, ".cache")
    (root / "missing.txt").write_text("list")
    assert [file.name for file in find_files([root], SUFFIXES)] == ["a"]
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name in (
            "d/",
            "d/a.skeleton",
            "d/.b.skeleton",
            "__MACOSX/d/._a.skeleton",
            "__MACOSX/d/a.skeleton",
            "x.txt",
        ):
            file.writestr(name, b"")
    assert [file.name for file in find_files([path], SUFFIXES)] == ["a"]


def test_the_suffix_matches_in_any_case(tmp_path: Path) -> None:
    (tmp_path / "a.SKELETON").write_bytes(b"1")
    assert [(file.name, file.suffix) for file in find_files([tmp_path], SUFFIXES)] == [("a", ".skeleton")]


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    root = folder(tmp_path / "root", {"a": b"a"})
    (root / "link").symlink_to(folder(tmp_path / "elsewhere", {"b": b"b"}))
    (root / "link/loop").symlink_to(root)
    assert [file.name for file in find_files([root], SUFFIXES)] == ["a", "b"]


def test_a_file_reads_itself_after_pickling(tmp_path: Path) -> None:
    for path in (archive(tmp_path / "a.zip"), folder(tmp_path / "plain")):
        files = pickle.loads(pickle.dumps(find_files([path], SUFFIXES)))  # noqa: S301 (our own bytes)
        assert contents(files) == CONTENT


def test_a_zip_behind_foreign_bytes_is_read(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip")
    path.write_bytes(b"#!self-extracting\n" + path.read_bytes())
    assert contents(find_files([path], SUFFIXES)) == CONTENT


@pytest.mark.parametrize("limit", [1, 10, 10_000_000])
def test_the_head_is_read_without_the_rest(tmp_path: Path, limit: int) -> None:
    for path in (archive(tmp_path / "a.zip"), folder(tmp_path / "plain"), archive(tmp_path / "b.zip", method=0)):
        for file in find_files([path], SUFFIXES):
            assert file.head(limit) == CONTENT[file.name][:limit]


def test_two_files_of_one_name_are_refused_with_both_places(tmp_path: Path) -> None:
    first, second = archive(tmp_path / "1/a.zip", {"x": b"1"}, "in/"), folder(tmp_path / "plain", {"x": b"2"})
    with pytest.raises(RawInputError, match="two files of this name") as caught:
        find_files([first, second], SUFFIXES)
    assert str(first) in str(caught.value)
    assert str(second) in str(caught.value)
    assert len(find_files([first, second], SUFFIXES, allow_same_name=True)) == 2


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/x.skeleton", b"1")
        file.writestr("b/x.skeleton", b"1")
    with pytest.raises(RawInputError, match="two files of this name"):
        find_files([path], SUFFIXES)


def test_paths_without_raw_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("no zip")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    for name, found in {
        "absent": "nothing",
        "empty": "no raw file",
        "empty.zip": "no raw file",
        "text.txt": "no readable zip",
    }.items():
        with pytest.raises(RawInputError, match=f"{name}: found {found}"):
            find_files([folder(tmp_path / f"good {name}"), tmp_path / name], SUFFIXES)


def test_a_cut_zip_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip")
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:length])
        with pytest.raises(RawInputError, match="no readable zip"):
            find_files([path], SUFFIXES)


def member(name: str, **attributes: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize(
    ("info", "found"),
    [
        (member("x.skeleton", external_attr=(stat.S_IFLNK | 0o777) << 16), "a link"),
        (member("../x.skeleton"), "outside"),
        (member("a/../../x.skeleton"), "outside"),
        (member("..\\x.skeleton"), "outside"),
        (member("/etc/x.skeleton"), "outside"),
        (member("C:\\x.skeleton"), "outside"),
        (member("x.skeleton", compress_type=zipfile.ZIP_BZIP2), "compression method 12"),
    ],
)
def test_members_that_cannot_be_trusted_or_read_are_refused(tmp_path: Path, info: zipfile.ZipInfo, found: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(info, b"1")
    with pytest.raises(RawInputError, match=found):
        find_files([tmp_path / "a.zip"], SUFFIXES)


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"x": b"1"})
    data = bytearray(path.read_bytes())
    # Bit 0 of the general purpose flags, in the local header and in the directory.
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(RawInputError, match="encrypted"):
        find_files([path], SUFFIXES)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_any_changed_byte_of_a_member_is_noticed(tmp_path: Path, method: int) -> None:
    path = archive(tmp_path / "a.zip", {"x": bytes(range(200))}, method=method)
    [file] = find_files([path], SUFFIXES)
    whole, refusals = path.read_bytes(), 0
    for at in range(30 + len("x.skeleton"), whole.index(b"PK\x01\x02")):
        damaged = bytearray(whole)
        damaged[at] ^= 0x10
        path.write_bytes(damaged)
        try:
            outcome = file.read()
        except RawInputError:
            outcome = None
        # Some bits of a deflate stream mean nothing; changing one leaves the content whole.
        assert outcome in (None, bytes(range(200)))
        refusals += outcome is None
    assert refusals > 150
    path.write_bytes(whole[:35])
    with pytest.raises(RawInputError, match=r"a\.zip: x\.skeleton"):
        file.read()
    path.write_bytes(b"")
    with pytest.raises(RawInputError, match="no member header"):
        file.read()


def test_a_plain_file_that_changed_or_went_since_it_was_listed_is_refused(tmp_path: Path) -> None:
    [file] = find_files([folder(tmp_path, {"x": b"12345"})], SUFFIXES)
    for changed, found in {b"12346": "CRC", b"1234": "4 or more bytes", b"123456": "6 or more bytes"}.items():
        file.path.write_bytes(changed)
        with pytest.raises(RawInputError, match=found):
            file.read()
    file.path.unlink()
    with pytest.raises(RawInputError, match="unreadable"):
        file.read()


def test_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.skeleton").symlink_to(tmp_path / "absent")
    with pytest.raises(RawInputError, match="unreadable"):
        find_files([tmp_path], SUFFIXES)
