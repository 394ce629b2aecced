"""The tar reader: in order and at random, and no garbled byte passes for data."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.encoding import STORAGES, encode_npy, kept, member_dtype
from shards.errors import StoreError
from shards.reader import read_index, read_samples, read_shard
from shards.writer import encode_record, write_shard

MakeFrames = Callable[[int, int], npt.NDArray[np.float32]]
Sample = tuple[str, npt.NDArray[Any], dict[str, Any]]


@pytest.fixture
def samples(make_frames: MakeFrames) -> list[Sample]:
    return [(f"k{i}", make_frames(1 + i % 4, i), {"index": i, "frames": 1 + i % 4}) for i in range(9)]


@pytest.fixture(params=STORAGES)
def shards(request: pytest.FixtureRequest, tmp_path: Path, samples: list[Sample]) -> tuple[Path, list[Sample]]:
    """A shard of each storage, and what it must give."""
    path, storage = tmp_path / request.param / "000000.tar", request.param
    write_shard(path, samples, storage)
    return path, [(k, kept(f, storage, k).astype(member_dtype(storage)), r) for k, f, r in samples]


@pytest.fixture
def shard(tmp_path: Path, samples: list[Sample]) -> Path:
    path = tmp_path / "000000.tar"
    write_shard(path, samples)
    return path


def equal(a: Sample, b: Sample) -> bool:
    return a[0] == b[0] and a[1].dtype == b[1].dtype and np.array_equal(a[1], b[1]) and a[2] == b[2]


def test_in_order_every_sample_comes_once_as_it_was_written(shards: tuple[Path, list[Sample]]) -> None:
    shard, samples = shards
    read = list(read_shard(shard))
    assert len(read) == len(samples)
    assert all(map(equal, read, samples))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(numbers=st.lists(st.integers(0, 8), max_size=20))
def test_at_random_the_samples_come_in_the_order_asked_for(
    shards: tuple[Path, list[Sample]], numbers: list[int]
) -> None:
    shard, samples = shards
    index = read_index(shard)
    for read in (read_samples(shard, numbers), read_samples(shard, numbers, index)):
        assert len(read) == len(numbers)
        assert all(equal(got, samples[number]) for got, number in zip(read, numbers, strict=True))


def test_the_index_names_the_keys_in_order(shard: Path, samples: list[Sample]) -> None:
    index = read_index(shard)
    assert index.keys == tuple(key for key, _, _ in samples)
    assert len(index) == len(samples)
    assert index.path == shard


def test_what_was_kept_once_is_kept_exactly(tmp_path: Path, make_frames: MakeFrames) -> None:
    for storage in STORAGES:
        frames = kept(make_frames(5, 0), storage, "")
        write_shard(tmp_path / "a.tar", [("k", frames, {"frames": 5})], storage)
        for _, array, _ in [*read_shard(tmp_path / "a.tar"), *read_samples(tmp_path / "a.tar", [0])]:
            assert array.dtype == (np.float16 if storage == "float16" else np.float32)
            assert np.array_equal(array, frames)


def test_an_index_with_members_of_two_kinds_is_refused(shard: Path) -> None:
    index = shard.with_suffix(".idx")
    head, first, *lines = index.read_text().splitlines()
    index.write_text("\n".join([head, first.replace("frames.npy", "frames.blosc"), *lines]))
    with pytest.raises(StoreError, match=r"found members frames\.blosc and frames\.npy, expected one kind"):
        read_index(shard)


def test_arrays_may_be_written_to_and_share_nothing(shards: tuple[Path, list[Sample]]) -> None:
    shard, _ = shards
    for first, again in ((list(read_shard(shard)), list(read_shard(shard))), (read_samples(shard, [0, 0]),) * 2):
        first[0][1][...] = 7
        assert not (again[-1][1] == 7).any()


def repacked(path: Path, members: list[tuple[str, bytes]]) -> Path:
    """A tar of the given members, without an index."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def npy(array: npt.NDArray[Any], pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=pickle)
    return buffer.getvalue()


GOOD = encode_npy(np.zeros((4, 2, 25, 3), np.float32))
JSON = encode_record({})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "found no frames"),
        (b"not an array at all", "found no frames"),
        (GOOD[:40], "found no frames"),
        (GOOD[:-1], "found 2399 bytes of frames"),
        (GOOD + b"\0", "found 2401 bytes of frames"),
        (GOOD.replace(b"<f4", b"<f8"), "float64, expected"),
        (GOOD.replace(b"<f4", b">f4"), "expected (T, 2, 25, 3) float32 or float16"),
        (GOOD.replace(b"False", b"True "), "Fortran order"),
        (GOOD.replace(b"(4, 2, 25, 3)", b"(4, 25, 2, 3)"), "found frames (4, 25, 2, 3)"),
        (npy(np.zeros((4, 150), np.float32)), "found frames (4, 150)"),
        (npy(np.array([{"a": 1}], dtype=object), pickle=True), "expected (T, 2, 25, 3)"),
        (GOOD.replace(b"{'descr'", b"[__import"), "found no frames"),
    ],
)
def test_garbled_frames_are_refused_and_shard_and_key_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = repacked(tmp_path / "000007.tar", [("kk.frames.npy", data), ("kk.json", JSON)])
    with pytest.raises(StoreError) as error:
        list(read_shard(path))
    assert str(error.value).startswith(f"{path}: kk: ")
    assert message in str(error.value)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b"1"])
def test_a_garbled_record_is_refused_and_shard_and_key_named(tmp_path: Path, data: bytes) -> None:
    path = repacked(tmp_path / "000007.tar", [("kk.frames.npy", GOOD), ("kk.json", data)])
    with pytest.raises(StoreError, match=r"000007\.tar: kk: .*expected a JSON object"):
        list(read_shard(path))


@pytest.mark.parametrize(
    "members",
    [
        [("a.frames.npy", GOOD)],
        [("a.json", JSON)],
        [("a.frames.npy", GOOD), ("a.json", JSON), ("a.png", b"")],
        [("a.frames.npy", GOOD), ("b.frames.npy", GOOD), ("a.json", JSON), ("b.json", JSON)],
    ],
)
def test_members_that_do_not_lie_in_pairs_are_refused(tmp_path: Path, members: list[tuple[str, bytes]]) -> None:
    with pytest.raises(StoreError, match="side by side"):
        list(read_shard(repacked(tmp_path / "a.tar", members)))


def test_a_member_twice_is_refused(tmp_path: Path) -> None:
    path = repacked(tmp_path / "a.tar", [("a.frames.npy", GOOD), ("a.json", JSON), ("a.json", JSON)])
    with pytest.raises(StoreError, match="duplicate"):
        list(read_shard(path))


@pytest.mark.parametrize("keep", [0, 100, 512, 700, 2560, 3000, 5120, 10240])
def test_a_truncated_shard_is_refused_both_ways(shard: Path, keep: int) -> None:
    whole = shard.read_bytes()
    assert keep < len(whole)
    shard.write_bytes(whole[:keep])
    with pytest.raises(StoreError, match=str(shard)):
        list(read_shard(shard))
    with pytest.raises(StoreError, match="found the end of the file"):
        read_samples(shard, [8])


def test_an_absent_shard_is_refused_both_ways(shard: Path) -> None:
    shard.unlink()
    with pytest.raises(StoreError, match="unreadable shard"):
        list(read_shard(shard))
    with pytest.raises(StoreError, match="no readable shard"):
        read_samples(shard, [0])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("v1.2 9", "v1.1 9", "line 1: found 'v1.1 9', expected 'v1.2 9'"),
        ("v1.2 9", "v1.2 8", "line 1"),
        (" k3.json", " k4.json", "line 5"),
        ("frames.npy 512 ", "frames.npy -12 ", "line 2"),
        ("frames.npy 512 ", "frames.npy 1.5 ", "line 2"),
        ("frames.npy 512 ", "frames.npy 99999 ", "line 2"),
    ],
)
def test_a_garbled_index_is_refused_and_its_line_named(shard: Path, old: str, new: str, message: str) -> None:
    index = shard.with_suffix(".idx")
    text = index.read_text()
    assert old in text
    index.write_text(text.replace(old, new, 1))
    with pytest.raises(StoreError) as error:
        read_index(shard)
    assert str(error.value).startswith(f"{index}: ")
    assert message in str(error.value)


@pytest.mark.parametrize("content", [None, b"", b"\xff"])
def test_an_index_that_is_absent_or_no_text_is_refused(shard: Path, content: bytes | None) -> None:
    shard.with_suffix(".idx").unlink()
    if content is not None:
        shard.with_suffix(".idx").write_bytes(content)
    with pytest.raises(StoreError, match=r"000000\.idx: found no readable index"):
        read_index(shard)


def test_an_index_that_points_beyond_its_shard_is_refused(shard: Path) -> None:
    index = shard.with_suffix(".idx")
    head, *lines = index.read_text().splitlines()
    size = lines[-1].split()[6]
    index.write_text("\n".join([head, *lines[:-1], lines[-1].replace(f" {size} ", f" {10**17} ")]))
    with pytest.raises(StoreError, match="found the end of the file"):
        read_samples(shard, [0])


def test_an_index_that_points_elsewhere_yields_an_error_and_no_data(shard: Path) -> None:
    index = shard.with_suffix(".idx")
    index.write_text(index.read_text().replace("frames.npy 512 ", "frames.npy 513 "))
    with pytest.raises(StoreError, match="k0: "):
        read_samples(shard, [0])


@pytest.mark.parametrize("number", [-1, 9])
def test_a_number_beyond_the_shard_is_refused(shard: Path, number: int) -> None:
    with pytest.raises(StoreError, match=f"sample {number}, expected 0 to 8"):
        read_samples(shard, [number])
