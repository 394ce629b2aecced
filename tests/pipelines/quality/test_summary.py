"""The statistics of a store: what is there is counted, and planted faults are at the top of their lists."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.conversion.convert import convert
from pipelines.quality import measures as measures_module
from pipelines.quality.measures import measure_store
from pipelines.quality.statistics import Outlier, Statistics
from pipelines.quality.summary import histogram, reasons, statistics
from pipelines.synthetic import synthesize
from shards.catalog import info_from_name
from shards.errors import StoreError
from shards.manifest import CellEntry, Manifest, Outcome, counts, read_manifest, write_manifest
from shards.schema import FORMAT_VERSION, Quality
from shards.store import create, open_store, write_frames

Frames = npt.NDArray[np.float32]

NAMES = tuple(f"S001C{1 + i % 3:03d}P{1 + i % 4:03d}R{1 + i // 12:03d}A{1 + i % 6:03d}" for i in range(12))
HEAD, LEFT_WRIST, LEFT_HAND = 3, 6, 7
JUMPS, STRETCHES, EMPTIES, SHORT = 2, 4, 6, 8
LIST_NAMES = ["bone variation", "bone length", "speed", "emptiness", "duration"]


def body(frames: int, seed: int) -> Frames:
    """One person who sways by millimetres: (frames, 2, 25, 3) float32, the second person absent."""
    # unequal bones, the same for everybody
    pose = np.random.default_rng(99).normal(size=(25, 3)) * 0.3
    draw = np.random.default_rng(seed)
    path = np.cumsum(draw.normal(size=(frames, 1, 3)) * 0.002, axis=0) + np.array([0.0, 0.2, 3.0])
    array = np.zeros((frames, 2, 25, 3), np.float32)
    array[:, 0] = pose + path + draw.normal(size=(frames, 25, 3)) * 0.001
    return array


def write_store(folder: Path, samples: list[Frames], quality: list[Quality] | None = None) -> Path:
    """A finished folder without shards."""
    infos = [info_from_name("ntu", name) for name in sorted(NAMES[: len(samples)])]
    flat = np.concatenate(samples)
    create(folder / "store.zarr", infos, [len(frames) for frames in samples], None, quality=quality)
    write_frames(folder / "store.zarr", 0, flat)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        source="ntu",
        recipe="raw",
        recipe_steps=[],
        inventory="0" * 64,
        fingerprint="0" * 12,
        counts=counts(sequences=len(infos), samples=len(infos), frames=len(flat), dropped=0, repaired=0),
        dtype="float32",
        max_error=0.0,
        cells={
            "a": CellEntry(memberships={"ntu60/xsub": "train"}, samples=len(infos) - 1, frames=1),
            "b": CellEntry(memberships={"ntu60/xsub": "test"}, samples=1, frames=1),
        },
        shards=[],
        files=[],
        dropped=[],
        repaired=[],
    )
    write_manifest(folder, manifest)
    return folder


def planted_samples() -> list[Frames]:
    samples = [body(40, seed) for seed in range(len(NAMES))]
    samples[JUMPS][17, 0, HEAD] += (0, 2, 0)
    hand = samples[STRETCHES][:, 0, LEFT_HAND] - samples[STRETCHES][:, 0, LEFT_WRIST]
    # the whole hand moves out, so that one bone alone is longer
    samples[STRETCHES][:, 0, [LEFT_HAND, 21, 22]] += 2 * hand[:, None]
    samples[STRETCHES][23, 0, [LEFT_HAND, 21, 22]] += 0.1 * hand[23]
    samples[EMPTIES][5:7] = 0
    samples[EMPTIES][20:39] = 0
    samples[SHORT] = body(5, 77)
    return samples


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Statistics:
    return statistics(write_store(tmp_path_factory.mktemp("planted") / "ntu-raw-000000000000", planted_samples()))


def top(found: Statistics, name: str) -> Outlier:
    return next(outliers.samples[0] for outliers in found.outliers if outliers.name == name)


def test_a_joint_that_jumps_leads_speed_and_bone_variation_with_its_frame(planted: Statistics) -> None:
    for name in ("speed", "bone variation"):
        worst = top(planted, name)
        assert (worst.number, worst.frame, worst.person, worst.joint) == (JUMPS, 17, 0, HEAD)
        assert worst.key == sorted(NAMES)[JUMPS]
    assert top(planted, "speed").found == pytest.approx(2, abs=0.02)
    assert top(planted, "speed").usual < 0.02


def test_a_stretched_arm_leads_bone_length_with_its_longest_frame(planted: Statistics) -> None:
    worst = top(planted, "bone length")
    assert (worst.number, worst.frame, worst.person, worst.joint) == (STRETCHES, 23, 0, LEFT_HAND)
    assert worst.found == pytest.approx(3 * worst.usual, rel=0.02)
    bone = next(bone for bone in planted.bones if bone.joint == LEFT_HAND)
    assert (bone.name, bone.length) == ("left wrist to left hand", pytest.approx(worst.usual))


def test_a_half_empty_sample_leads_emptiness_where_its_longest_gap_begins(planted: Statistics) -> None:
    worst = top(planted, "emptiness")
    assert (worst.number, worst.frame, worst.person, worst.joint) == (EMPTIES, 20, None, None)
    assert worst.found == 21 / 40
    assert planted.empty_frames == 21
    assert [sample.number for sample in planted.outliers[3].samples] == [EMPTIES], "the others have nothing to say"


def test_a_sample_of_another_length_leads_duration(planted: Statistics) -> None:
    worst = top(planted, "duration")
    assert (worst.number, worst.frame, worst.found, worst.usual, worst.score) == (SHORT, 0, 5, 40, 8)
    assert len(planted.outliers[4].samples) == 1, "samples of the usual length are not outliers"


def test_counts_go_by_class_subject_camera_setup_and_side(planted: Statistics) -> None:
    assert planted.classes == {str(label): 2 for label in range(6)}
    assert planted.subjects == {str(subject): 3 for subject in range(1, 5)}
    assert planted.cameras == {"1": 4, "2": 4, "3": 4}
    assert planted.setups == {"1": 12}
    assert planted.sides == {"ntu60/xsub": {"train": 11, "test": 1}}
    assert list(planted.sides["ntu60/xsub"]) == ["train", "test"]
    assert (planted.lengths.lowest, planted.lengths.highest, planted.actions) == (5, 40, None)
    assert [outliers.name for outliers in planted.outliers] == LIST_NAMES


def test_statistics_are_json_and_the_same_each_time(planted: Statistics, tmp_path: Path) -> None:
    again = statistics(write_store(tmp_path / "ntu-raw-000000000000", planted_samples()))
    assert again.model_dump_json() == planted.model_dump_json()
    assert Statistics.model_validate(json.loads(planted.model_dump_json())) == planted
    assert "NaN" not in planted.model_dump_json()


def test_blocks_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(write_store(tmp_path / "ntu-raw-0", planted_samples()) / "store.zarr")
    whole = measure_store(store)
    monkeypatch.setattr(measures_module, "BLOCK_FRAMES", 90)
    for name, values in vars(measure_store(store)).items():
        np.testing.assert_array_equal(values, getattr(whole, name), err_msg=name)


def test_recordings_are_summed_up_and_their_emptiness_counts(tmp_path: Path) -> None:
    samples = [body(10, seed) for seed in range(3)]
    quality = [Quality(10), Quality(40, empty_frames=30, bodies=3, ids=2, switches=4, dropped_by_rank=1), Quality(10)]
    found = statistics(write_store(tmp_path / "ntu-raw-0", samples, quality))
    assert found.raw is not None
    assert found.raw.totals["frames"] == 60
    assert (found.raw.totals["switches"], found.raw.recordings["switches"]) == (4, 1)
    assert (found.raw.totals["dropped_by_rank"], found.raw.recordings["dropped_by_spread"]) == (1, 0)
    assert (found.raw.bodies, found.raw.ids) == ({"1": 2, "3": 1}, {"0": 2, "2": 1})
    assert (top(found, "emptiness").number, top(found, "emptiness").found) == (1, 0.75)


def test_without_the_group_quality_nothing_is_said_of_recordings(planted: Statistics) -> None:
    assert planted.raw is None


def test_a_store_of_nobody_has_statistics(tmp_path: Path) -> None:
    found = statistics(write_store(tmp_path / "ntu-raw-0", [np.zeros((4, 2, 25, 3), np.float32)] * 2))
    assert (found.empty_frames, found.pairs, found.lowest) == (8, 0, [0, 0, 0])
    assert [len(outliers.samples) for outliers in found.outliers] == [0, 0, 0, 2, 0]
    assert all(bone.length == 0 for bone in found.bones)


def test_reasons_are_grouped_without_files_and_numbers() -> None:
    outcomes = [
        Outcome(key="a", reason="cut from 512 to 300 frames"),
        Outcome(key="b", reason="/raw/one.zip/b: line 12: found '0.5', expected 25 joints"),
        Outcome(key="c", reason="cut from 301 to 300 frames"),
        Outcome(key="d", reason="/raw/two.zip/d: line 9: found '1.5', expected 25 joints"),
        Outcome(key="e", reason="cut from 999 to 300 frames"),
    ]
    assert [(r.reason, r.samples, r.key) for r in reasons(outcomes)] == [
        ("cut from … to … frames", 3, "a"),
        ("found '…', expected … joints", 2, "b"),
    ]


def test_a_histogram_holds_every_value() -> None:
    values = np.concatenate([np.arange(1000.0), [1e6, 2e6]])
    found = histogram(values)
    assert sum(found.counts) + found.beyond == len(values)
    assert found.edges[-1] < 1100
    assert histogram(np.full(7, 3.0)).counts == [7]
    assert sum(histogram(values + 0.5).counts) + histogram(values + 0.5).beyond == len(values)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=60), st.integers(1, 5))
def test_equally_many_of_each_whole_number_make_a_level_histogram(values: list[int], times: int) -> None:
    low, high = min(values), max(values)
    found = histogram(np.repeat(np.arange(low, high + 1.0), times))
    assert sum(found.counts) + found.beyond == (high - low + 1) * times
    assert len({*found.counts[:-1]}) <= 1  # the last bin may hold fewer


def test_an_untrimmed_source_counts_its_actions(tmp_path: Path) -> None:
    raw = synthesize("pkummd1", tmp_path / "raw", subjects=2, classes=3, samples=2, seed=0, zipped=False)
    folder = convert("pkummd1", [raw], tmp_path / "data", recipe="pcm3", workers=0).folder
    found, store = statistics(folder), open_store(folder / "store.zarr")
    assert found.actions is not None
    assert store.segments is not None
    lengths = [segment.end - segment.start for segment in store.segments]
    assert sum(found.classes.values()) == len(lengths) == found.counts["samples"]
    assert (found.actions.lowest, found.actions.highest) == (min(lengths), max(lengths))
    assert sum(found.bodies.values()) == len(store) == 2
    assert found.raw is not None
    assert found.raw.totals["frames"] == found.counts["frames"], "nothing is cut from a video"


@pytest.mark.parametrize("recipe", ["raw", "pcm3", "ctrgcn"])
def test_a_jump_is_found_whatever_the_recipe(recipe: str, tmp_path: Path) -> None:
    raw = synthesize("ntu", tmp_path / "raw", subjects=4, classes=2, samples=8, seed=0, zipped=False)
    folder = convert("ntu", [raw], tmp_path / "data", recipe=recipe, workers=0).folder
    store = open_store(folder / "store.zarr")
    frames = store.read(0, store.num_frames)
    begin = int(store.offsets[3])
    frames[begin + 20, 0, HEAD] += 5
    write_frames(folder / "store.zarr", 0, frames)
    found = statistics(folder)
    assert [(top(found, name).number, top(found, name).frame, top(found, name).joint) for name in LIST_NAMES[:3:2]] == [
        (3, 20, HEAD)
    ] * 2


def test_an_unfinished_folder_is_refused(tmp_path: Path) -> None:
    folder = write_store(tmp_path / "ntu-raw-0", [body(4, 0)])
    (folder / "manifest.json").unlink()
    with pytest.raises(StoreError, match="found no manifest"):
        statistics(folder)


def test_unknown_facts_are_named_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "ntu-raw-0"
    write_store(folder, [body(4, 0)])
    store = open_store(folder / "store.zarr")
    monkeypatch.setattr(type(store), "infos", [replace(info, subject=-1, setup=-1) for info in store.infos])
    found = statistics(folder)
    assert (found.subjects, found.setups) == ({"unknown": 1}, {"unknown": 1})
    assert read_manifest(folder).source == found.source
