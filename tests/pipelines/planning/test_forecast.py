"""Plans: exact counts, honest estimates, everything that is wrong named at once, and nothing written."""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.archives import RawFile
from pipelines.conversion.convert import convert, find_existing
from pipelines.planning import forecast as plan_module
from pipelines.planning.forecast import plan
from pipelines.planning.inventory import take_inventory
from pipelines.planning.probing import PROBES, choose, ratio_estimate
from pipelines.planning.text import runs, show_plan
from pipelines.synthetic import SOURCES, synthesize
from shards.catalog import missing_samples
from shards.encoding import Storage
from shards.errors import ConfigError, RawInputError
from shards.manifest import Manifest

SAMPLES = {"ntu": 60, "pkummd1": 12, "pkummd2": 12}


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A zipped archive of each synthetic source."""
    folder = tmp_path_factory.mktemp("raw")
    return {
        source: synthesize(source, folder / source, subjects=4, classes=6, samples=count, seed=0, zipped=True)
        for source, count in SAMPLES.items()
    }


@pytest.fixture
def unpacked(archives: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A folder of plain files that a test may spoil."""

    def unpack(source: str) -> Path:
        folder = tmp_path / source
        for path in archives[source].glob("*.zip"):
            with zipfile.ZipFile(path) as archive:
                archive.extractall(folder / path.stem)
        return folder

    return unpack


class Entry(NamedTuple):
    size: int
    modified: int


def tree(folder: Path) -> dict[Path, Entry]:
    return {path: Entry(path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.mark.parametrize("source", SOURCES)
def test_a_plan_writes_nothing(source: str, unpacked: Callable[[str], Path], tmp_path: Path) -> None:
    raw, out = unpacked(source), tmp_path / "out"
    out.mkdir()
    before = tree(tmp_path)
    show_plan(source, [raw], out)
    show_plan(source, [raw], tmp_path / "absent" / "out", dtype="fixed")
    assert tree(tmp_path) == before


def bytes_of(manifest: Manifest, folder: str) -> int:
    return sum(file.bytes for file in manifest.files if file.path.startswith(folder))


@pytest.mark.parametrize(
    ("source", "recipe", "dtype"),
    [
        ("ntu", "pcm3", "float32"),
        ("ntu", "raw", "float16"),
        ("pkummd1", "pcm3", "fixed"),
        ("pkummd2", "raw", "float32"),
    ],
)
def test_a_forecast_comes_true(
    source: str, recipe: str, dtype: Storage, archives: dict[str, Path], tmp_path: Path
) -> None:
    raw = [archives[source]]
    forecast = plan(source, raw, tmp_path, recipe, dtype, samples_per_shard=16)
    done = convert(source, raw, tmp_path, recipe=recipe, dtype=dtype, workers=0, samples_per_shard=16).manifest
    inventory = forecast.inventory
    assert len(inventory.listed) == done.counts["sequences"]
    assert inventory.samples == done.counts["samples"]
    assert len(inventory.excused) == done.counts["dropped"]
    assert forecast.cells == len(done.cells)
    assert forecast.shards == len(done.shards)
    sides: dict[tuple[str, str], int] = {}
    for cell in done.cells.values():
        for name, side in cell.memberships.items():
            sides[name, side] = sides.get((name, side), 0) + cell.samples
    if source == "ntu":
        assert {(f"{s.dataset}/{s.protocol}", s.side): s.found for s in inventory.sides()} == sides
    for estimate, actual in (
        (forecast.frames, done.counts["frames"]),
        (forecast.clip_frames, sum(cell.frames for cell in done.cells.values())),
        (forecast.store_bytes, bytes_of(done, "store")),
        (forecast.shard_bytes, bytes_of(done, "shards")),
    ):
        assert estimate.value == pytest.approx(actual, rel=0.2)
        # three standard errors
        assert abs(estimate.value - actual) <= 3 * estimate.error + 1e-9 * actual
        assert estimate.error <= 0.1 * actual
    assert forecast.seconds.value > 0
    assert forecast.work_bytes.value >= forecast.store_bytes.value + forecast.shard_bytes.value


def test_the_same_input_gives_the_same_plan(archives: dict[str, Path]) -> None:
    first, second = (plan("ntu", [archives["ntu"]]) for _ in range(2))
    assert (first.frames, first.store_bytes, first.shard_bytes) == (
        second.frames,
        second.store_bytes,
        second.shard_bytes,
    )
    assert first.found == ""
    assert first.free_bytes is first.enough is None


def test_official_counts_and_the_missing_list_are_compared(archives: dict[str, Path]) -> None:
    text = show_plan("ntu", [archives["ntu"]])
    assert "60 recordings to convert, 60 samples" in text
    assert "ntu120/xsub train: 63,026 samples expected, 30 found" in text
    [missing] = take_inventory("ntu", [archives["ntu"]]).excused
    assert missing in missing_samples("ntu")
    assert f"left out, as the publishers say: 1: {missing}" in text


def test_classes_subjects_cameras_and_setups_are_counted(archives: dict[str, Path]) -> None:
    inventory = take_inventory("ntu", [archives["ntu"]])
    for field in ("label", "subject", "camera", "setup"):
        expected: dict[int, int] = {}
        for item in inventory.listed:
            number = getattr(item.info, field)
            expected[number] = expected.get(number, 0) + 1
        assert inventory.tally(field) == expected
    videos = take_inventory("pkummd1", [archives["pkummd1"]])
    assert sum(videos.tally("label").values()) == videos.samples > len(videos.listed)
    assert videos.tally("subject") == {}
    assert len(videos.absent) == 1076 - 12


def test_every_bad_name_and_every_double_is_named(unpacked: Callable[[str], Path]) -> None:
    raw = unpacked("ntu")
    first, second, *_ = sorted(raw.rglob("*.skeleton"))
    shutil.copy(first, raw / first.name)
    shutil.copy(second, raw / "S001C001P001R001A121.skeleton")
    shutil.copy(second, raw / "walking.skeleton")
    inventory = take_inventory("ntu", [raw])
    assert len(inventory.listed) == 60 - 1
    [double] = inventory.blocks
    assert double.startswith(f"{first.name}: found 2 files of this name: ")
    assert str(first) in double
    assert str(raw / first.name) in double
    assert [("action 121" in f, "'walking'" in f) for f in inventory.faults] == [(True, False), (False, True)]
    text = show_plan("ntu", [raw], raw.parent / "out")
    assert "stops any conversion: 1" in text
    assert "faulty: 2" in text
    assert "a conversion would stop at once" in text


def test_names_that_no_official_recording_bears_are_faulty(unpacked: Callable[[str], Path]) -> None:
    raw = unpacked("ntu")
    some = next(raw.rglob("*.skeleton"))
    impossible = {
        "S001C001P000R001A001": "performer 0",
        "S001C001P001R000A004": "replication 0",
        "S001C002P999R001A002": "performer 999",
        "S001C003P001R009A003": "replication 9",
        "S020C001P050R001A001": "action 1 in setup 20",
    }
    for name in impossible:
        shutil.copy(some, raw / f"{name}.skeleton")
    inventory = take_inventory("ntu", [raw])
    assert len(inventory.listed) == 60
    for fault, (name, found) in zip(inventory.faults, impossible.items(), strict=True):
        assert fault.startswith(f"{raw / name}.skeleton: {name}: name: found {found}, expected ")


def test_a_damaged_file_of_a_video_is_named_and_not_its_partner(unpacked: Callable[[str], Path]) -> None:
    raw = unpacked("pkummd1")
    skeleton = min(p for p in raw.rglob("*-?.txt") if "Label" not in str(p))
    label = max(p for p in raw.rglob("*-?.txt") if "Label" in str(p))
    skeleton.write_bytes(skeleton.read_bytes().replace(b" ", b","))
    label.write_bytes(b"")
    forecast = plan("pkummd1", [raw])
    assert forecast.inventory.blocks == ()
    [fault] = forecast.inventory.faults
    assert fault.startswith(f"{label}: line 1: found no row in 0 bytes")
    [cannot] = [probe.fault for probe in forecast.probes if probe.fault]
    assert cannot.startswith(f"{skeleton}: line 1: found fields divided by commas")


def test_videos_without_labels_and_labels_without_video_are_named(unpacked: Callable[[str], Path]) -> None:
    raw = unpacked("pkummd2")
    skeletons = sorted(p for p in raw.rglob("A*.txt") if "Label" not in str(p))
    labels = sorted(p for p in raw.rglob("A*.txt") if "Label" in str(p))
    skeletons[0].unlink()
    labels[1].unlink()
    labels[2].write_bytes(labels[2].read_bytes() + b"52,10,20,1\r\n7,20,10,1\r\n")
    inventory = take_inventory("pkummd2", [raw])
    assert len(inventory.listed) == 10
    first, second = inventory.blocks
    assert first.startswith(f"{labels[0].stem}: found no skeleton file beside {labels[0]}")
    assert second.startswith(f"{skeletons[1].stem}: found no label file beside {skeletons[1]}")
    class_fault, order_fault = inventory.faults
    assert "class 52" in class_fault
    assert "start 20 and end 10" in order_fault
    assert len(inventory.strays) == 1  # the split list


def test_a_video_that_no_official_list_knows_is_faulty(unpacked: Callable[[str], Path]) -> None:
    raw = unpacked("pkummd1")
    for path in list(raw.rglob("*-L.txt"))[:2]:
        shutil.copy(path, path.with_name("0001-L.txt"))
    for path in [p for p in raw.rglob("*-M.txt") if "Label" in str(p)][:1]:
        shutil.copy(path, path.with_name("0001-L.txt"))
    assert any("official list" in fault for fault in take_inventory("pkummd1", [raw]).faults)


def test_recordings_that_cannot_be_converted_are_told_of_when_they_are_tried(unpacked: Callable[[str], Path]) -> None:
    raw = unpacked("ntu")
    for path in raw.rglob("*.skeleton"):
        path.write_bytes(b"1\n0\n")
    text = show_plan("ntu", [raw])
    assert f"cannot be converted, of {PROBES} tried: {PROBES}" in text
    assert "time" not in text


def test_a_finished_conversion_is_found_and_a_begun_one_named(archives: dict[str, Path], tmp_path: Path) -> None:
    raw = [archives["pkummd1"]]
    (tmp_path / ".pkummd1-pcm3-0123456789ab.partial").mkdir()
    assert plan("pkummd1", raw, tmp_path).found == "conversions begun: .pkummd1-pcm3-0123456789ab.partial"
    convert("pkummd1", raw, tmp_path, workers=0)
    existing = find_existing("pkummd1", raw, tmp_path)
    assert existing is not None
    assert plan("pkummd1", raw, tmp_path).found == f"{existing.folder} holds this very conversion: nothing to do"
    assert "nothing to do" not in plan("pkummd1", raw, tmp_path, dtype="float16").found


def test_a_disk_that_is_too_small_is_said_to_be(
    archives: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, out = [archives["ntu"]], tmp_path / "not" / "there"
    assert plan("ntu", raw, out).free_bytes == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)
    monkeypatch.setattr(plan_module, "_free_bytes", lambda data: 1_000_000)
    assert plan("ntu", raw, out).enough is False
    assert "1 MB free: NOT ENOUGH" in show_plan("ntu", raw, out)
    monkeypatch.setattr(plan_module, "_free_bytes", lambda data: 10**12)
    assert plan("ntu", raw, out).enough is True


def test_of_many_files_only_a_few_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(3000):
            name = f"S{1 + number % 17:03d}C001P{1 + number // 17 % 100:03d}R001A{1 + number // 1700:03d}"
            archive.writestr(f"{name}.skeleton", b"0\n")
    read: list[str] = []

    def listened(file: RawFile) -> bytes:
        read.append(file.name)
        return b"0\n"

    monkeypatch.setattr(RawFile, "read", listened)
    forecast = plan("ntu", [tmp_path / "a.zip"])
    assert len(forecast.inventory.listed) + len(forecast.inventory.excused) == 3000
    assert len(read) == PROBES + 1  # one more to warm up


def test_options_and_paths_that_cannot_work_are_refused(archives: dict[str, Path], tmp_path: Path) -> None:
    raw = [archives["ntu"]]
    with pytest.raises(ConfigError, match="unknown source"):
        plan("nut", raw)
    with pytest.raises(ConfigError, match="unknown recipe"):
        plan("ntu", raw, recipe_name="pcm4")
    with pytest.raises(ConfigError, match="found dtype 'int8'"):
        plan("ntu", raw, dtype="int8")  # type: ignore[arg-type]  # a user's mistake
    with pytest.raises(ConfigError, match="found 0 samples per shard"):
        plan("ntu", raw, samples_per_shard=0)
    with pytest.raises(RawInputError, match="found nothing"):
        plan("ntu", [tmp_path / "absent"])


def test_probes_are_spread_over_all_sizes_and_always_the_same(archives: dict[str, Path]) -> None:
    listed = take_inventory("ntu", [archives["ntu"]]).listed
    chosen = choose(listed)
    assert chosen == choose(listed)
    assert len({item.recording.key for item in chosen}) == len(chosen) == PROBES
    sizes = [item.recording.skeleton.size for item in chosen]
    assert sizes == sorted(sizes)
    every = sorted(item.recording.skeleton.size for item in listed)
    assert sizes[0] <= every[2]
    assert sizes[-1] >= every[-3]


def test_an_estimate_from_all_is_exact_and_from_like_ones_certain() -> None:
    total = ratio_estimate([1, 2, 3], [5, 1, 7], 6, 3)
    assert total.value == pytest.approx(13)
    assert total.error == 0
    alike = ratio_estimate([1, 2, 3], [10, 20, 30], 100, 50)
    assert alike.value == pytest.approx(1000)
    assert alike.error == pytest.approx(0)
    assert np.isnan(ratio_estimate([1], [2], 10, 5).error)


def test_two_standard_errors_hold_in_nineteen_of_twenty_samples() -> None:
    random = np.random.default_rng(0)
    sizes = random.uniform(50, 400, 2000)
    frames = sizes * random.normal(0.3, 0.06, 2000)
    held = 0
    for _ in range(300):
        chosen = random.choice(2000, 32, replace=False)
        estimate = ratio_estimate(sizes[chosen].tolist(), frames[chosen].tolist(), sizes.sum(), 2000)
        held += abs(estimate.value - frames.sum()) <= 2 * estimate.error
    assert 0.9 <= held / 300 <= 0.99


@given(st.dictionaries(st.integers(0, 130), st.integers(1, 4)))
def test_runs_tell_every_count_once(counts: dict[int, int]) -> None:
    told: dict[int, int] = {}
    for text in runs(counts):
        numbers, count = text.split(": ")
        first, _, last = numbers.partition("-")
        for number in range(int(first), int(last or first) + 1):
            assert number not in told
            told[number] = int(count)
    assert told == counts
    assert len(runs(dict.fromkeys(counts, 1))) == sum(1 for n in counts if n - 1 not in counts)
