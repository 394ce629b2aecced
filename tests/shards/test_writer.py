"""The tar writer: deterministic, plain, and indexed for DALI."""

import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import numpy.typing as npt
import pytest
from webdataset import TarWriter

from shards.encoding import STORAGES, Storage, encode_npy
from shards.errors import StoreError
from shards.schema import SampleInfo, Segment
from shards.writer import encode_record, sample_record, write_shard

MakeFrames = Callable[[int, int], npt.NDArray[np.float32]]
Sample = tuple[str, npt.NDArray[Any], dict[str, Any]]


@pytest.fixture(params=["float32", "float16"])
def dtype(request: pytest.FixtureRequest) -> Storage:
    storage: Storage = request.param
    return storage


@pytest.fixture
def samples(make_frames: MakeFrames) -> list[Sample]:
    lengths = [(i, 1 + 7 * i) for i in range(12)]
    return [(f"key_{i:02d}-L", make_frames(n, i), {"b": i, "a": "x", "frames": n}) for i, n in lengths]


@pytest.mark.parametrize("storage", STORAGES)
def test_the_bytes_are_the_same_when_written_again(tmp_path: Path, samples: list[Sample], storage: Storage) -> None:
    for name in ("a", "b"):
        assert write_shard(tmp_path / name / "000000.tar", samples, storage) == 12
    for file in ("000000.tar", "000000.idx"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["000000.idx", "000000.tar"]


def test_the_tar_is_what_webdatasets_own_writer_makes_of_the_same_members(
    tmp_path: Path, samples: list[Sample]
) -> None:
    write_shard(tmp_path / "000000.tar", samples)
    owner = {"user": "skelstream", "group": "skelstream", "mode": 0o644, "mtime": 0}
    with TarWriter(str(tmp_path / "theirs.tar"), **owner, encoder=False) as tar:
        for key, frames, record in samples:
            tar.write({"__key__": key, "frames.npy": encode_npy(frames), "json": encode_record(record)})
    assert (tmp_path / "000000.tar").read_bytes() == (tmp_path / "theirs.tar").read_bytes()


def test_plain_tarfile_and_numpy_read_it_as_specified(tmp_path: Path, samples: list[Sample], dtype: Storage) -> None:
    write_shard(tmp_path / "000000.tar", iter(samples), dtype)
    with tarfile.open(tmp_path / "000000.tar") as tar:
        members = tar.getmembers()
        contents = [tar.extractfile(member).read() for member in members]  # type: ignore[union-attr]
    assert [m.name for m in members] == [f"{key}.{end}" for key, _, _ in samples for end in ("frames.npy", "json")]
    assert {(m.mtime, m.mode, m.uid, m.gid, m.uname, m.gname, m.isreg()) for m in members} == {
        (0, 0o644, 0, 0, "skelstream", "skelstream", True)
    }
    for (_, frames, record), npy, text in zip(samples, contents[::2], contents[1::2], strict=True):
        array = np.load(io.BytesIO(npy), allow_pickle=False)
        assert array.dtype == np.dtype(dtype)
        assert np.array_equal(array, frames.astype(dtype))
        assert json.loads(text) == record
    assert contents[1] == b'{"a":"x","b":0,"frames":1}'


def test_fixed_frames_are_a_blosc_frame_of_differences_along_time(tmp_path: Path, samples: list[Sample]) -> None:
    write_shard(tmp_path / "000000.tar", samples, "fixed")
    with tarfile.open(tmp_path / "000000.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert list(members) == [f"{key}.{end}" for key, _, _ in samples for end in ("frames.blosc", "json")]
    for key, frames, record in samples:
        raw = numcodecs.Blosc().decode(members[f"{key}.frames.blosc"])
        planes = np.frombuffer(raw, "<i4")[: frames.size].reshape(2, 25, 3, record["frames"])
        units = np.moveaxis(planes.cumsum(axis=-1), -1, 0)
        assert np.array_equal(units, np.rint(frames.astype(np.float64) * 1e4))


def test_a_coordinate_that_the_storage_cannot_hold_is_refused_by_name(tmp_path: Path, make_frames: MakeFrames) -> None:
    frames = make_frames(4, 0)
    frames[2, 0, 0, 0] = 1e6
    for storage, limit in (("float16", "65504"), ("fixed", "100000")):
        with pytest.raises(StoreError, match=f"k: frame 2: found a coordinate of 1e.06 m, expected at most {limit} m"):
            write_shard(tmp_path / "000000.tar", [("k", frames, {"frames": 4})], storage)
    assert list(tmp_path.iterdir()) == []


def test_frames_of_any_memory_layout_are_stored_in_c_order(tmp_path: Path, make_frames: MakeFrames) -> None:
    frames = make_frames(9, 0)
    write_shard(tmp_path / "a.tar", [("k", frames[::-2], {})])
    write_shard(tmp_path / "b.tar", [("k", np.asfortranarray(frames[::-2]), {})])
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


@pytest.mark.parametrize("storage", STORAGES)
def test_the_index_is_the_one_dalis_own_tool_makes(tmp_path: Path, samples: list[Sample], storage: Storage) -> None:
    wds2idx = pytest.importorskip("wds2idx")
    if shutil.which("tar") is None:
        pytest.skip("wds2idx calls tar, which is not installed")
    write_shard(tmp_path / "000000.tar", samples, storage)
    with wds2idx.IndexCreator(str(tmp_path / "000000.tar"), str(tmp_path / "theirs"), verbose=False) as creator:
        creator.create_index()
    assert (tmp_path / "000000.idx").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.parametrize("storage", STORAGES)
def test_the_index_points_at_every_member(tmp_path: Path, samples: list[Sample], storage: Storage) -> None:
    write_shard(tmp_path / "000000.tar", samples, storage)
    head, *lines = (tmp_path / "000000.idx").read_text().splitlines()
    listed = [tuple(line.split()[i : i + 4]) for line in lines for i in (0, 4)]
    with tarfile.open(tmp_path / "000000.tar") as tar:
        there = [(m.name.split(".", 1)[1], str(m.offset_data), str(m.size), m.name) for m in tar]
    assert head == "v1.2 12"
    assert listed == there


def test_dali_reads_the_shard_by_its_index(tmp_path: Path, samples: list[Sample], dtype: Storage) -> None:
    dali: Any = pytest.importorskip("nvidia.dali")
    fn: Any = pytest.importorskip("nvidia.dali.fn")
    write_shard(tmp_path / "000000.tar", samples, dtype)

    @dali.pipeline_def(batch_size=len(samples), num_threads=1, device_id=None)  # type: ignore[untyped-decorator]
    def pipeline() -> Any:
        npy, record = fn.readers.webdataset(
            paths=[str(tmp_path / "000000.tar")],
            index_paths=[str(tmp_path / "000000.idx")],
            ext=["frames.npy", "json"],
            missing_component_behavior="error",
        )
        return fn.decoders.numpy(npy, dtype=dali.types.FLOAT), record

    pipe = pipeline()
    pipe.build()
    frames, records = pipe.run()
    for i, (_, expected, record) in enumerate(samples):
        assert np.array_equal(np.asarray(frames.at(i)), expected.astype(dtype).astype(np.float32))
        assert json.loads(bytes(np.asarray(records.at(i)))) == record


def test_gnu_tar_lists_it(tmp_path: Path, samples: list[Sample]) -> None:
    if shutil.which("tar") is None:
        pytest.skip("tar is not installed")
    write_shard(tmp_path / "000000.tar", samples)
    listed = subprocess.run(["tar", "-tf", tmp_path / "000000.tar"], check=True, capture_output=True, text=True)
    assert len(listed.stdout.splitlines()) == 2 * len(samples)


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "../a", "é", "a b", "x" * 81])
def test_a_key_that_cannot_name_a_member_is_refused(tmp_path: Path, make_frames: MakeFrames, key: str) -> None:
    with pytest.raises(StoreError, match="found key"):
        write_shard(tmp_path / "000000.tar", [(key, make_frames(3, 0), {})])
    assert list(tmp_path.iterdir()) == []


def test_a_repeated_key_is_refused(tmp_path: Path, make_frames: MakeFrames) -> None:
    with pytest.raises(StoreError, match="found key k twice"):
        write_shard(tmp_path / "000000.tar", [("k", make_frames(3, 0), {}), ("k", make_frames(4, 0), {})])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "frames", [np.zeros((3, 2, 25, 3)), np.zeros((3, 75), np.float32), np.zeros((0, 2, 25, 3), np.float32)]
)
def test_frames_of_another_type_or_shape_are_refused(tmp_path: Path, frames: npt.NDArray[Any]) -> None:
    with pytest.raises(StoreError, match="k: found frames"):
        write_shard(tmp_path / "000000.tar", [("k", frames, {})])


def test_an_empty_shard_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="found no sample"):
        write_shard(tmp_path / "000000.tar", [])


def test_a_number_that_json_cannot_hold_is_refused_and_nothing_is_left(tmp_path: Path, make_frames: MakeFrames) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_shard(tmp_path / "000000.tar", [("k", make_frames(3, 0), {"x": float("nan")})])
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_fails_midway_leaves_nothing(tmp_path: Path, make_frames: MakeFrames) -> None:
    def broken() -> Iterator[Sample]:
        yield "a", make_frames(3, 0), {}
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_shard(tmp_path / "000000.tar", broken())
    assert list(tmp_path.iterdir()) == []


def test_samples_longer_than_a_tar_record_keep_their_place(tmp_path: Path, make_frames: MakeFrames) -> None:
    pairs = [("long", make_frames(3000, 0), {"n": 0}), ("short", make_frames(1, 1), {"n": 1})]
    write_shard(tmp_path / "000000.tar", pairs)
    with tarfile.open(tmp_path / "000000.tar") as tar:
        offsets = [str(member.offset_data) for member in tar]
    fields = (tmp_path / "000000.idx").read_text().split()[2:]
    assert fields[1::4] == offsets


def test_a_record_states_the_sample_and_its_place_in_the_video() -> None:
    info = SampleInfo("0002-L_003", 5, camera=1)
    identity: dict[str, Any] = {"source": "pkummd1", "recipe": "pcm3", "fingerprint": "f" * 12}
    trimmed = sample_record(info, index=8, frames=90, **identity, segment=Segment(0, 3, 10, 100, 5, 2), video="0002-L")
    plain = sample_record(info, index=8, frames=90, **identity)
    assert plain == info.to_json() | identity | {"index": 8, "frames": 90}
    assert trimmed == plain | {"video": "0002-L", "row": 3, "start": 10, "end": 100, "confidence": 2}
