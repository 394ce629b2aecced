"""Zips that lie: refused by name, in bounded memory, or read exactly as their checksums say."""

import random
import struct
import tracemalloc
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.archives import RawFile, find_files, zips
from shards.errors import RawInputError

SUFFIXES = (".skeleton",)


@dataclass(frozen=True)
class Forged:
    """A member as its directory entry shall declare it; None: what is true."""

    name: str
    data: bytes = b""
    method: int = zipfile.ZIP_DEFLATED
    size: int | None = None
    offset: int | None = None
    extra: bytes = b""
    quotes_next: bool = False


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def forge(path: Path, members: list[Forged], count: int | None = None, zip64: bool = False) -> Path:
    """Write a zip byte by byte, so that it can say anything."""
    body, directory = bytearray(), bytearray()
    for m in members:
        packed = deflated(m.data) if m.method else m.data
        name, crc = m.name.encode(), zlib.crc32(m.data)
        size = len(m.data) if m.size is None else m.size
        shown = len(packed) + (40 if m.quotes_next else 0)
        sizes = struct.pack("<3L2H", crc, shown, size, len(name), len(m.extra))
        offset = len(body) if m.offset is None else m.offset
        body += b"PK\3\4" + struct.pack("<3H2H", 20, 0, m.method, 0, 33) + sizes + name + m.extra + packed
        directory += b"PK\1\2" + struct.pack("<4H2H", 20, 20, 0, m.method, 0, 33)
        directory += struct.pack("<3L5H2L", crc, shown, size, len(name), 0, 0, 0, 0, 0, offset) + name
    total, at = len(members) if count is None else count, len(body)
    end = b""
    if zip64:
        end += b"PK\6\6" + struct.pack("<Q2H2L4Q", 44, 45, 45, 0, 0, total, total, len(directory), at)
        end += b"PK\6\7" + struct.pack("<LQL", 0, at + len(directory), 1)
        total = 0xFFFF
    total &= 0xFFFF
    end += b"PK\5\6" + struct.pack("<4H2LH", 0, 0, total, total, len(directory), at, 0)
    path.write_bytes(body + directory + end)
    return path


def refused(path: Path, found: str) -> None:
    with pytest.raises(RawInputError, match=found) as caught:
        find_files([path], SUFFIXES)
    assert path.name in str(caught.value)


def test_a_forged_zip_that_does_not_lie_is_read(tmp_path: Path) -> None:
    members = [Forged("a.skeleton", b"1" * 999), Forged("b/c.skeleton", b"2", 0, extra=b"\xca\xfe\0\0")]
    files = find_files([forge(tmp_path / "a.zip", members)], SUFFIXES)
    assert [file.read() for file in files] == [b"1" * 999, b"2"]


def test_a_local_header_longer_than_any_known_one_is_read(tmp_path: Path) -> None:
    data = random.Random(1).randbytes(5000)
    extra = struct.pack("<2H", 0xCAFE, 600) + bytes(600)
    path = forge(tmp_path / "a.zip", [Forged("x.skeleton", data, extra=extra)])
    [file] = find_files([path], SUFFIXES)
    assert (file.read(), file.head(7)) == (data, data[:7])


def test_a_member_larger_than_any_recording_is_refused(tmp_path: Path) -> None:
    noise = random.Random(1).randbytes(400_000)
    path = forge(tmp_path / "a.zip", [Forged("x.skeleton", noise, size=(256 << 20) + 1)])
    refused(path, r"a\.zip: x\.skeleton: found a file of 268435457 bytes, expected at most 268435456")


@pytest.mark.parametrize(("method", "ratio"), [(8, 1032), (0, 1)])
def test_a_member_that_declares_more_than_its_bytes_can_hold_is_refused(
    tmp_path: Path, method: int, ratio: int
) -> None:
    member = Forged("x.skeleton", b"0" * 1000, method)
    packed = len(deflated(member.data)) if method else 1000
    assert find_files([forge(tmp_path / "a.zip", [replace(member, size=ratio * packed)])], SUFFIXES)
    path = forge(tmp_path / "a.zip", [replace(member, size=ratio * packed + 1)])
    refused(path, rf"x\.skeleton: found {ratio * packed + 1} bytes declared for {packed} packed ones")


def test_a_bomb_that_declares_little_is_inflated_no_further_than_that(tmp_path: Path) -> None:
    [file] = find_files([forge(tmp_path / "a.zip", [Forged("x.skeleton", bytes(64 << 20), size=1000)])], SUFFIXES)
    tracemalloc.start()
    try:
        with pytest.raises(RawInputError, match="1001 or more bytes, expected the 1000 bytes that were listed"):
            file.read()
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_members_that_share_bytes_are_refused(tmp_path: Path) -> None:
    data = bytes(range(200))
    same = [Forged("a.skeleton", data, offset=0), Forged("b.skeleton", data, offset=0)]
    refused(forge(tmp_path / "a.zip", same), r"members that share bytes: a\.skeleton and b\.skeleton")
    quoting = [Forged("a.skeleton", data, 0, size=240, quotes_next=True), Forged("b.txt", data, 0)]
    refused(forge(tmp_path / "b.zip", quoting), r"members that share bytes: a\.skeleton and b\.txt")


@pytest.mark.parametrize("offset", [20, 1 << 20, 0xFFFFFFF0])
def test_a_member_that_lies_outside_the_zip_is_refused(tmp_path: Path, offset: int) -> None:
    path = forge(tmp_path / "a.zip", [Forged("x.skeleton", bytes(range(100)), offset=offset)])
    refused(path, r"a\.zip: x\.skeleton: found a member that lies outside the zip")


@pytest.mark.parametrize("same_name", [False, True])
@pytest.mark.parametrize("second", ["d/x.skeleton", "d\\x.skeleton"])
def test_two_members_of_one_path_are_refused_even_when_they_are_equal(
    tmp_path: Path, second: str, same_name: bool
) -> None:
    path = forge(tmp_path / "a.zip", [Forged("d/x.skeleton", b"1"), Forged(second, b"1")])
    with pytest.raises(RawInputError, match=r"a\.zip: d/x\.skeleton: found two members of this name"):
        find_files([path], SUFFIXES, allow_same_name=same_name)


def test_a_name_with_control_characters_is_refused_and_shown_in_one_line(tmp_path: Path) -> None:
    path = forge(tmp_path / "a.zip", [Forged("a\n1\tb.skeleton", b"1")])
    refused(path, "a control character")
    with pytest.raises(RawInputError) as caught:
        find_files([path], SUFFIXES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("zip64", [False, True])
@pytest.mark.parametrize("count", [0, 1, 3, 65535])
def test_a_directory_that_has_not_the_members_it_declares_is_refused(tmp_path: Path, count: int, zip64: bool) -> None:
    members = [Forged("a.skeleton", b"1"), Forged("b.skeleton", b"1")]
    assert len(find_files([forge(tmp_path / "a.zip", members, zip64=zip64)], SUFFIXES)) == 2
    refused(forge(tmp_path / "a.zip", members, count, zip64), f"2 members in a directory that declares {count}")


@pytest.mark.parametrize("zip64", [False, True])
def test_more_members_than_the_old_format_can_count_are_read(tmp_path: Path, zip64: bool) -> None:
    members = [Forged(f"{number}.txt", b"", 0) for number in range(65_540)]
    path = forge(tmp_path / "a.zip", [*members, Forged("x.skeleton", b"1")], zip64=zip64)
    assert [file.read() for file in find_files([path], SUFFIXES)] == [b"1"]


def test_a_directory_larger_than_any_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = forge(tmp_path / "a.zip", [Forged(f"{number}.skeleton") for number in range(100)])
    monkeypatch.setattr(zips, "_MAX_DIRECTORY_BYTES", 5000)
    refused(path, r"no readable zip \(BadZipFile: a directory of 5690 bytes")


def test_what_is_not_read_may_have_any_name_but_an_inner_zip_may_not(tmp_path: Path) -> None:
    path = forge(tmp_path / "a.zip", [Forged("../../x.txt", b"1"), Forged("x.skeleton", b"1")])
    assert len(find_files([path], SUFFIXES)) == 1
    inner = forge(tmp_path / "in.zip", [Forged("x.skeleton", b"1")]).read_bytes()
    refused(forge(tmp_path / "b.zip", [Forged("../in.zip", inner, 0)]), "points outside the zip")


def _outcome(file: RawFile) -> bytes | str:
    try:
        return file.read()
    except RawInputError as error:
        return str(error)


def _listed(path: Path) -> list[RawFile] | str:
    try:
        return find_files([path], SUFFIXES, allow_same_name=True)
    except RawInputError as error:
        return str(error)


_CHANGES = st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 255)), max_size=8)


@settings(max_examples=200, deadline=None)
@given(changes=_CHANGES, cut=st.none() | st.integers(0, 1 << 30), zip64=st.booleans(), nested=st.booleans())
def test_a_zip_with_any_bytes_changed_gives_listed_bytes_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory,
    changes: list[tuple[int, int]],
    cut: int | None,
    zip64: bool,
    nested: bool,
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.zip"
    members = [Forged("a/b.skeleton", bytes(range(100)) * 3), Forged("c.skeleton", b"12", 0), Forged("d.txt", b"3")]
    if nested:
        inner = forge(path, members, zip64=zip64).read_bytes()
        members = [Forged("in.zip", inner, 0)]
    data = bytearray(forge(path, members, zip64=zip64).read_bytes())
    for at, value in changes:
        data[at % len(data)] = value
    path.write_bytes(data if cut is None else data[: cut % len(data)])
    files = _listed(path)
    if isinstance(files, str):
        assert path.name in files
        return
    for file in files:
        outcome = _outcome(file)
        if isinstance(outcome, str):
            assert path.name in outcome
        else:
            assert (len(outcome), zlib.crc32(outcome)) == (file.size, file.crc32)
