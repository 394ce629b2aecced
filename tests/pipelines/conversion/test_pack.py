"""Packing: which sample goes into which shard, and what a shard says of it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.conversion.pack import ShardUnit, plan_packing
from pipelines.preprocessing.recipes import recipe
from shards.catalog import info_from_name
from shards.cells import cell_name
from shards.manifest import STORE
from shards.reader import read_shard
from shards.schema import Segment
from shards.store import FRAMES_AHEAD, create, write_frames

NTU_NAMES = st.builds(
    lambda s, c, p, a: f"S{s:03d}C{c:03d}P{p:03d}R001A{a + 60 * (s > 17):03d}",
    st.integers(1, 32), st.integers(1, 3), st.integers(1, 106), st.integers(1, 60),
)  # fmt: skip


@given(st.sets(NTU_NAMES, min_size=1, max_size=40), st.integers(1, 7))
def test_every_sample_is_in_one_shard_of_its_cell_in_order(names: set[str], samples_per_shard: int) -> None:
    infos = [info_from_name("ntu", name) for name in sorted(names)]
    lengths = [3 + i for i in range(len(infos))]
    packing = plan_packing("ntu", infos, lengths, None, samples_per_shard)
    assert sorted(i for shard in packing.shards for i in shard.ids) == list(range(len(infos)))
    for name, cell in packing.cells.items():
        shards = [shard for shard in packing.shards if shard.cell == name]
        ids = [i for shard in shards for i in shard.ids]
        assert [shard.number for shard in shards] == list(range(len(shards)))
        assert [len(shard.ids) for shard in shards[:-1]] == [samples_per_shard] * (len(shards) - 1)
        assert ids == sorted(ids)
        assert {cell_name("ntu", infos[i]) for i in ids} == {name}
        assert (cell.samples, cell.frames) == (len(ids), sum(lengths[i] for i in ids))
        assert [shard.frames for shard in shards] == [sum(lengths[i] for i in shard.ids) for shard in shards]
    assert list(packing.cells) == sorted(packing.cells)


def moving(frames: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(frames, 2, 25, 3)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_trimmed_shard_holds_the_store_as_it_is(tmp_path: Path, dtype: str) -> None:
    names = [f"a01_s0{i}_e00_v01" for i in range(1, 6)]
    infos = [info_from_name("nwucla", name) for name in names]
    frames = [moving(length, length) for length in (5, 1, 9, 4, FRAMES_AHEAD + 3)]
    create(tmp_path / STORE, infos, [len(f) for f in frames], None)
    write_frames(tmp_path / STORE, 0, np.concatenate(frames))
    packing = plan_packing("nwucla", infos, [len(f) for f in frames], None, 3)
    found = {}
    for shard in packing.shards:
        unit = ShardUnit(tmp_path, shard, "nwucla", "pcm3", "0" * 12, dtype)
        assert not unit.is_done()
        unit()
        assert unit.is_done()
        found |= {key: (array, record) for key, array, record in read_shard(tmp_path / shard.path)}
    assert list(found) == names
    for number, name in enumerate(names):
        array, record = found[name]
        np.testing.assert_array_equal(array, frames[number].astype(dtype))
        assert array.dtype == dtype
        assert (record["index"], record["frames"], record["fingerprint"]) == (number, len(frames[number]), "0" * 12)


def test_an_untrimmed_shard_holds_the_window_of_each_action(tmp_path: Path) -> None:
    infos = [info_from_name("pkummd1", name) for name in ("0002-L", "0002-M", "0003-L")]
    frames = [moving(length, length) for length in (40, 30, 400)]
    # out of order, overlapping, longer than a clip may be
    segments = [Segment(0, 0, 20, 31, 4, 2), Segment(0, 1, 5, 25, 6, 1), Segment(2, 0, 10, 390, 50, 0)]
    create(tmp_path / STORE, infos, [40, 30, 400], segments)
    write_frames(tmp_path / STORE, 0, np.concatenate(frames))
    made = recipe("pcm3", "pkummd1")
    lengths = [made.clip_length(s.end - s.start) for s in segments]
    packing = plan_packing("pkummd1", infos, lengths, segments, 1024)
    samples = []
    for shard in packing.shards:
        ShardUnit(tmp_path, shard, "pkummd1", "pcm3", "0" * 12, "float32")()
        samples += list(read_shard(tmp_path / shard.path))
    assert sorted(key for key, _, _ in samples) == ["0002-L_000", "0002-L_001", "0003-L_000"]
    for _, array, record in samples:
        s = segments[record["index"]]
        np.testing.assert_array_equal(array, made.window(frames[s.video][s.start : s.end]))
        expected = {"video": infos[s.video].key, "row": s.row, "start": s.start, "end": s.end, "label": s.label}
        assert record.items() >= expected.items()
        assert record["confidence"] == s.confidence
    assert sum(len(array) for _, array, _ in samples) == sum(cell.frames for cell in packing.cells.values()) == 331


def test_a_shard_of_another_size_than_its_marker_says_is_not_done(tmp_path: Path) -> None:
    info = info_from_name("nwucla", "a01_s01_e00_v01")
    create(tmp_path / STORE, [info], [4], None)
    write_frames(tmp_path / STORE, 0, moving(4, 0))
    [shard] = plan_packing("nwucla", [info], [4], None, 8).shards
    unit = ShardUnit(tmp_path, shard, "nwucla", "raw", "0" * 12, "float32")
    unit()
    whole = (tmp_path / shard.path).read_bytes()
    (tmp_path / shard.path).write_bytes(whole[:-1])
    assert not unit.is_done()
    unit()
    assert (tmp_path / shard.path).read_bytes() == whole
