"""The Zarr store: what is written is read back, by us and by plain zarr, and its bytes never vary."""

import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.encoding import STORAGES, Storage, encode_array, kept
from shards.errors import StoreError
from shards.files import sha256_file
from shards.schema import Quality, SampleInfo, Segment
from shards.store import FRAMES_PER_CHUNK, FRAMES_PER_SHARD, Store, create, frame_shard_file, open_store, write_frames

MakeFrames = Callable[[int, int], npt.NDArray[np.float32]]
TOTAL = FRAMES_PER_SHARD + 300
LENGTHS = (1, 2, 300, TOTAL - 303)
INFOS = tuple(SampleInfo(f"sample_{i}", i, i + 1, i + 2, i + 3, i + 4, i % 3) for i in range(4))
SEGMENTS = (Segment(0, 0, 0, 1, 3, 2), Segment(2, 1, 10, 200, 50, 0), Segment(2, 7, 0, 300, 0, 1))


@pytest.fixture(scope="module")
def frames() -> npt.NDArray[np.float32]:
    values = np.random.default_rng(0).normal(size=(TOTAL, 2, 25, 3)).astype(np.float32)
    values[:FRAMES_PER_CHUNK] = 0  # a chunk of fill values must be stored like any other
    return values


def write(path: Path, frames: npt.NDArray[np.float32], segments: tuple[Segment, ...] | None = None) -> Path:
    create(path, INFOS, LENGTHS, segments)
    for first in range(0, len(frames), FRAMES_PER_SHARD):
        write_frames(path, first, frames[first : first + FRAMES_PER_SHARD])
    return path


def hashes(path: Path) -> dict[str, str]:
    return {f.relative_to(path).as_posix(): sha256_file(f) for f in sorted(path.rglob("*")) if f.is_file()}


def test_what_is_written_is_read_back(tmp_path: Path, frames: npt.NDArray[np.float32]) -> None:
    store = open_store(write(tmp_path / "store.zarr", frames, SEGMENTS))
    assert store.infos == list(INFOS)
    assert store.segments == list(SEGMENTS)
    assert store.offsets.tolist() == [0, 1, 3, 303, TOTAL]
    assert store.offsets.dtype == np.int64
    assert (len(store), store.num_frames) == (4, TOTAL)
    assert np.array_equal(store.read(0, TOTAL), frames)
    for i in range(4):
        assert np.array_equal(store.sample(i), frames[store.offsets[i] : store.offsets[i + 1]])
    across = store.read(FRAMES_PER_SHARD - 2, FRAMES_PER_SHARD + 2)
    assert across.dtype == np.float32
    assert np.array_equal(across, frames[FRAMES_PER_SHARD - 2 : FRAMES_PER_SHARD + 2])


def test_the_bytes_are_the_same_when_written_again(tmp_path: Path, frames: npt.NDArray[np.float32]) -> None:
    first, second = (write(tmp_path / name, frames, SEGMENTS) for name in ("a", "b"))
    assert hashes(first) == hashes(second)


def test_shards_written_by_several_processes_make_the_same_bytes(
    tmp_path: Path, frames: npt.NDArray[np.float32]
) -> None:
    one = write(tmp_path / "one", frames)
    many = tmp_path / "many"
    create(many, INFOS, LENGTHS, None)
    jobs = [(many, first, frames[first : first + FRAMES_PER_SHARD]) for first in (FRAMES_PER_SHARD, 0)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.starmap(write_frames, jobs)
    assert hashes(one) == hashes(many)


def test_each_call_writes_one_file_and_no_other(tmp_path: Path, frames: npt.NDArray[np.float32]) -> None:
    path = tmp_path / "store.zarr"
    create(path, INFOS, LENGTHS, None)
    before = hashes(path)
    write_frames(path, FRAMES_PER_SHARD, frames[FRAMES_PER_SHARD:])
    assert hashes(path).keys() - before.keys() == {frame_shard_file(path, 1).relative_to(path).as_posix()}
    assert before.items() <= hashes(path).items()


def test_a_shard_of_zeros_has_a_file_too(tmp_path: Path) -> None:
    path = tmp_path / "store.zarr"
    create(path, INFOS[:1], [5], None)
    write_frames(path, 0, np.zeros((5, 2, 25, 3), np.float32))
    assert frame_shard_file(path, 0).is_file()
    assert not open_store(path).sample(0).any()


def test_plain_zarr_reads_it_as_specified(tmp_path: Path, frames: npt.NDArray[np.float32]) -> None:
    path = write(tmp_path / "store.zarr", frames, SEGMENTS)
    group = zarr.open_group(path, mode="r")
    assert group.metadata.zarr_format == 3
    array = group["frames"]
    assert isinstance(array, zarr.Array)
    assert array.shape == (TOTAL, 2, 25, 3)
    assert array.dtype == np.float32
    assert (array.chunks[0], array.shards and array.shards[0]) == (FRAMES_PER_CHUNK, FRAMES_PER_SHARD)
    assert np.array_equal(np.asarray(array[...]), frames)
    keys = [bytes(row).rstrip(b"\0").decode() for row in np.asarray(group["key"][...])]  # type: ignore[index]
    assert keys == [info.key for info in INFOS]
    for name in ("label", "subject", "camera", "setup", "replication", "bodies"):
        column = group[name]
        assert isinstance(column, zarr.Array)
        assert column.dtype == np.int32
        assert np.asarray(column[...]).tolist() == [getattr(info, name) for info in INFOS]
    for name in ("video", "row", "start", "end", "label", "confidence"):
        column = group[f"segments/{name}"]
        assert isinstance(column, zarr.Array)
        assert column.dtype == np.int64
        assert np.asarray(column[...]).tolist() == [getattr(segment, name) for segment in SEGMENTS]
    codecs = json.loads((path / "frames" / "zarr.json").read_text())["codecs"][0]["configuration"]["codecs"]
    assert [codec["name"] for codec in codecs] == ["transpose", "bytes", "blosc", "crc32c"]
    assert codecs[0]["configuration"]["order"] == [1, 2, 3, 0]
    assert codecs[2]["configuration"]["cname"] == "zstd"
    assert codecs[2]["configuration"]["shuffle"] == "shuffle"


@pytest.mark.parametrize(("dtype", "largest"), [("float32", 0.0), ("float16", 2e-3), ("fixed", 0.5e-4 + 3e-7)])
def test_a_store_gives_float32_within_the_error_that_writing_it_returned(
    tmp_path: Path, frames: npt.NDArray[np.float32], dtype: Storage, largest: float
) -> None:
    path = tmp_path / "store.zarr"
    create(path, INFOS, LENGTHS, SEGMENTS, dtype)
    errors = [write_frames(path, at, frames[at : at + FRAMES_PER_SHARD]) for at in range(0, TOTAL, FRAMES_PER_SHARD)]
    store = open_store(path)
    everything = store.read(0, TOTAL)
    assert store.dtype == dtype
    assert everything.dtype == np.float32
    assert np.array_equal(everything, kept(frames, dtype, ""))
    assert max(errors) == np.abs(everything.astype(np.float64) - frames).max() <= largest


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_random_read_of_fixed_equals_the_sequential_one(fixed_store: Store, data: st.DataObject) -> None:
    whole = fixed_store.read(0, TOTAL)
    first = data.draw(st.integers(0, TOTAL) | st.sampled_from([255, 256, 257, FRAMES_PER_SHARD - 1, FRAMES_PER_SHARD]))
    stop = data.draw(st.integers(first, min(TOTAL, first + 600)))
    assert np.array_equal(fixed_store.read(first, stop), whole[first:stop])


@pytest.fixture(scope="module")
def fixed_store(tmp_path_factory: pytest.TempPathFactory, frames: npt.NDArray[np.float32]) -> Store:
    path = tmp_path_factory.mktemp("fixed") / "store.zarr"
    create(path, INFOS, LENGTHS, None, "fixed")
    for first in range(0, TOTAL, FRAMES_PER_SHARD):
        write_frames(path, first, frames[first : first + FRAMES_PER_SHARD])
    return open_store(path)


def test_plain_zarr_and_a_sum_read_a_fixed_store_as_specified(
    fixed_store: Store, frames: npt.NDArray[np.float32]
) -> None:
    array = zarr.open_array(str(fixed_store.path / "frames"), mode="r")
    assert array.dtype == np.int32
    differences = np.asarray(array[...])
    for first in (0, 256, FRAMES_PER_SHARD - 256, FRAMES_PER_SHARD):
        units = differences[first : first + FRAMES_PER_CHUNK].cumsum(axis=0)
        assert np.array_equal(units, np.rint(frames[first : first + FRAMES_PER_CHUNK].astype(np.float64) * 1e4))
        assert np.array_equal(differences[first], units[0])


def test_differences_that_add_up_to_nonsense_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "store.zarr"
    create(path, INFOS[:1], [5], None, "fixed")
    write_frames(path, 0, np.zeros((5, 2, 25, 3), np.float32))
    zarr.open_array(path / "frames", mode="r+")[1] = 2**31 - 1
    with pytest.raises(StoreError, match="found differences that add up to 214748 m"):
        open_store(path).read(2, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, 2e5])
def test_a_coordinate_that_fixed_cannot_hold_is_refused(tmp_path: Path, value: float) -> None:
    create(tmp_path / "store.zarr", INFOS[:1], [5], None, "fixed")
    frames = np.zeros((5, 2, 25, 3), np.float32)
    frames[3, 1, 24, 2] = value
    with pytest.raises(StoreError, match=r"store\.zarr: frame 3: found a coordinate of"):
        write_frames(tmp_path / "store.zarr", 0, frames)


def test_the_quality_of_the_recordings_is_kept_where_it_is_known(tmp_path: Path) -> None:
    quality = [Quality(length, 1, 2, 3, 4, 5, 6, 7, 8 + i) for i, length in enumerate(LENGTHS)]
    create(tmp_path / "known", INFOS, LENGTHS, None, quality=quality)
    create(tmp_path / "unknown", INFOS, LENGTHS, None)
    assert open_store(tmp_path / "known").quality == quality
    assert open_store(tmp_path / "unknown").quality is None
    column = zarr.open_array(tmp_path / "known" / "quality" / "frames", mode="r")
    assert column.dtype == np.int32
    column = zarr.open_array(tmp_path / "known" / "quality" / "ids", mode="r+")
    column.resize((3,))
    with pytest.raises(StoreError, match="found 3 rows of quality/ids, expected 4"):
        open_store(tmp_path / "known")


@pytest.mark.parametrize("dtype", STORAGES)
@pytest.mark.parametrize("count", [1, 256, 257, 1000, FRAMES_PER_SHARD, FRAMES_PER_SHARD + 300])
def test_the_bytes_of_frames_are_those_that_zarr_writes(
    tmp_path: Path, frames: npt.NDArray[np.float32], dtype: Storage, count: int
) -> None:
    path = tmp_path / "store.zarr"
    create(path, INFOS[:1], [count], None, dtype)
    for first in range(0, count, FRAMES_PER_SHARD):
        write_frames(path, first, frames[first : min(count, first + FRAMES_PER_SHARD)])
    files = [frame_shard_file(path, number) for number in range(-(-count // FRAMES_PER_SHARD))]
    ours = [file.read_bytes() for file in files]
    stored, _ = encode_array(frames[:count], dtype, FRAMES_PER_CHUNK, "")
    array = zarr.open_array(path / "frames", mode="r+")
    array.with_config({"write_empty_chunks": True})[...] = stored
    assert [file.read_bytes() for file in files] == ours


def test_threads_write_shards_at_once_and_make_the_same_bytes(tmp_path: Path, frames: npt.NDArray[np.float32]) -> None:
    one, many = write(tmp_path / "one", frames), tmp_path / "many"
    create(many, INFOS, LENGTHS, None)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda at: write_frames(many, at, frames[at : at + FRAMES_PER_SHARD]), (FRAMES_PER_SHARD, 0)))
    assert hashes(one) == hashes(many)


def test_keys_of_any_length_survive(tmp_path: Path) -> None:
    infos = [SampleInfo(key, 0) for key in sorted(["a", "bb", "S001C001P001R001A001", "a_b-c"])]
    path = tmp_path / "store.zarr"
    create(path, infos, [1] * 4, None)
    assert open_store(path).infos == infos


def test_no_segment_at_all_is_still_an_untrimmed_source(tmp_path: Path) -> None:
    create(tmp_path / "untrimmed", INFOS, LENGTHS, [])
    create(tmp_path / "trimmed", INFOS, LENGTHS, None)
    assert open_store(tmp_path / "untrimmed").segments == []
    assert open_store(tmp_path / "trimmed").segments is None


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(1, 400), min_size=1, max_size=8), data=st.data())
def test_any_window_of_any_ragged_store_is_exact(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("ragged") / "store.zarr"
    total = sum(lengths)
    frames = np.arange(total * 150, dtype=np.float32).reshape(total, 2, 25, 3)
    create(path, [SampleInfo(f"k{i:02d}", 0) for i in range(len(lengths))], lengths, None)
    write_frames(path, 0, frames)
    first = data.draw(st.integers(0, total))
    stop = data.draw(st.integers(first, total))
    assert np.array_equal(open_store(path).read(first, stop), frames[first:stop])


def test_a_failed_creation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("shards.store._write_column", fail)
    with pytest.raises(OSError, match="disk full"):
        create(tmp_path / "store.zarr", INFOS, LENGTHS, None)
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_never_created_over_another(tmp_path: Path) -> None:
    create(tmp_path / "store.zarr", INFOS, LENGTHS, None)
    with pytest.raises(StoreError, match="found something there"):
        create(tmp_path / "store.zarr", INFOS, LENGTHS, None)


def test_nothing_to_store_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="found no sample"):
        create(tmp_path / "store.zarr", [], [], None)


def test_frames_that_are_no_whole_shard_are_refused(tmp_path: Path, frames: npt.NDArray[np.float32]) -> None:
    path = tmp_path / "store.zarr"
    create(path, INFOS, LENGTHS, None)
    with pytest.raises(AssertionError, match="no multiple"):
        write_frames(path, 1, frames[:10])
    with pytest.raises(AssertionError, match="no whole shard"):
        write_frames(path, 0, frames[:10])
    with pytest.raises(AssertionError, match="float64"):
        write_frames(path, 0, frames[:FRAMES_PER_SHARD].astype(np.float64))


def test_a_missing_frame_file_is_an_error_and_not_zeros(tmp_path: Path, frames: npt.NDArray[np.float32]) -> None:
    path = write(tmp_path / "store.zarr", frames)
    frame_shard_file(path, 1).unlink()
    store = open_store(path)
    assert store.read(0, FRAMES_PER_SHARD).shape == (FRAMES_PER_SHARD, 2, 25, 3)
    with pytest.raises(StoreError, match="found no file"):
        store.read(0, FRAMES_PER_SHARD + 1)


def test_a_truncated_frame_file_is_an_error(tmp_path: Path, frames: npt.NDArray[np.float32]) -> None:
    path = write(tmp_path / "store.zarr", frames)
    file = frame_shard_file(path, 0)
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(StoreError, match="unreadable frames"):
        open_store(path).read(0, 10)


@pytest.mark.parametrize("name", ["frames/c/0/0/0/0", "label/c/0", "key/c/0/0"])
def test_a_flipped_bit_is_an_error_and_never_data(tmp_path: Path, frames: npt.NDArray[np.float32], name: str) -> None:
    path = write(tmp_path / "store.zarr", frames)
    whole = (path / name).read_bytes()
    for position in range(0, len(whole), max(1, len(whole) // 20)):
        data = bytearray(whole)
        data[position] ^= 4
        (path / name).write_bytes(data)
        with pytest.raises(StoreError):
            open_store(path).read(0, FRAMES_PER_SHARD)


def test_a_path_without_store_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"found no zarr\.json"):
        open_store(tmp_path)


@pytest.mark.parametrize(
    "name", ["frames/zarr.json", "label/zarr.json", "label/c/0", "offsets/c/0", "segments/end/c/0"]
)
@pytest.mark.parametrize("damage", ["remove", "truncate", "garble"])
def test_a_damaged_table_is_an_error(tmp_path: Path, frames: npt.NDArray[np.float32], name: str, damage: str) -> None:
    path = write(tmp_path / "store.zarr", frames, SEGMENTS)
    data = (path / name).read_bytes()
    (path / name).unlink()
    if damage == "truncate":
        (path / name).write_bytes(data[:3])
    elif damage == "garble":
        (path / name).write_bytes(b"\xff" * len(data))
    with pytest.raises(StoreError, match=r"store\.zarr"):
        open_store(path)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("offsets", [0, 1, 1, 303, TOTAL], "offsets that do not rise"),
        ("offsets", [1, 2, 3, 303, TOTAL], "offsets that do not rise"),
        ("offsets", [0, 1, 3, 303, TOTAL - 1], "offsets that do not rise"),
    ],
)
def test_offsets_that_contradict_the_frames_are_an_error(
    tmp_path: Path, frames: npt.NDArray[np.float32], name: str, values: list[int], message: str
) -> None:
    path = write(tmp_path / "store.zarr", frames)
    zarr.open_array(path / name, mode="r+")[...] = np.array(values)
    with pytest.raises(StoreError, match=message):
        open_store(path)


def test_a_column_of_another_length_is_an_error(tmp_path: Path, frames: npt.NDArray[np.float32]) -> None:
    path = write(tmp_path / "store.zarr", frames)
    zarr.open_array(path / "label", mode="r+").resize((3,))
    with pytest.raises(StoreError, match="found 3 rows of label, expected 4"):
        open_store(path)
