"""Conversion from raw archives to a finished store folder: equal bytes by every way, one clear error for bad input."""

import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from distributed import LocalCluster

from pipelines.conversion import runners, stages
from pipelines.conversion.convert import MISSING, convert
from pipelines.preprocessing.recipes import recipe
from pipelines.synthetic import synthesize
from shards.errors import ConfigError, RawInputError, StoreError
from shards.manifest import Manifest, find_store
from shards.reader import read_shard
from shards.schema import segment_key
from shards.store import open_store
from shards.verify.store import verify

SOURCES = ("ntu", "pkummd1", "pkummd2")
GOOD = "S001C001P001R001A001"


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Path]:
    """(source, zipped) -> a small synthetic archive."""
    root = tmp_path_factory.mktemp("archives")
    sizes = {"ntu": 20, "pkummd1": 6, "pkummd2": 6}
    return {
        (source, zipped): synthesize(
            source, root / f"{source}-{zipped}", subjects=4, classes=3, samples=sizes[source], seed=3, zipped=zipped
        )
        for source in SOURCES
        for zipped in (True, False)
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def problems(folder: Path, manifest: Manifest) -> list[str]:
    return verify(folder, recipe(manifest.recipe, manifest.source).window)


# Ways to one result


@pytest.mark.parametrize(
    ("source", "name", "dtype"),
    [
        *((source, recipe, "float32") for source in SOURCES for recipe in ("pcm3", "ctrgcn")),
        *((source, "raw", dtype) for source in ("ntu", "pkummd1") for dtype in ("float16", "fixed")),
    ],
)
def test_a_conversion_is_verified_without_findings(
    archives: dict[tuple[str, bool], Path], tmp_path: Path, source: str, name: str, dtype: str
) -> None:
    result = convert(source, [archives[source, True]], tmp_path, recipe=name, dtype=dtype, workers=0)
    assert problems(result.folder, result.manifest) == []
    assert not result.reused
    assert find_store(tmp_path, {"ntu": "ntu120"}.get(source, source)) == result.folder
    assert [path.name for path in tmp_path.iterdir()] == [result.folder.name]


@pytest.mark.parametrize("source", ["ntu", "pkummd1"])
def test_a_zip_and_its_folder_and_parts_of_any_size_give_the_same_bytes(
    archives: dict[tuple[str, bool], Path], tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    zipped = convert(source, [archives[source, True]], tmp_path / "zip", workers=0, samples_per_shard=4)
    monkeypatch.setattr(stages, "FILES_PER_PART", 3)
    folder = convert(source, [archives[source, False]], tmp_path / "folder", workers=0, samples_per_shard=4)
    assert zipped.folder.name == folder.folder.name
    assert contents(zipped.folder) == contents(folder.folder)


def test_threads_give_the_same_bytes(
    archives: dict[tuple[str, bool], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = [archives["ntu", True]]
    inline = convert("ntu", raw, tmp_path / "inline", workers=0, samples_per_shard=4)
    monkeypatch.setattr(stages, "FILES_PER_PART", 3)
    threads = convert("ntu", raw, tmp_path / "threads", workers=3, samples_per_shard=4)
    assert contents(inline.folder) == contents(threads.folder)


@pytest.fixture
def scheduler() -> Iterator[str]:
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=None) as c:
        yield c.scheduler_address


def test_a_given_scheduler_does_the_work_and_hands_back_the_first_error_itself(
    archives: dict[tuple[str, bool], Path], tmp_path: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "FILES_PER_PART", 2)
    raw = tmp_path / "raw"
    shutil.copytree(archives["ntu", False], raw)
    files = sorted(raw.rglob("*.skeleton"))
    damaged = {files[5]: files[5].read_bytes(), files[-2]: files[-2].read_bytes()}
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(RawInputError, match=files[5].name):
        convert("ntu", [raw], tmp_path / "data", scheduler=scheduler)
    for path, data in damaged.items():
        path.write_bytes(data)
    whole = convert("ntu", [raw], tmp_path / "data", scheduler=scheduler)
    inline = convert("ntu", [archives["ntu", True]], tmp_path / "inline", workers=0)
    assert contents(whole.folder) == contents(inline.folder)


def test_running_again_does_nothing(archives: dict[tuple[str, bool], Path], tmp_path: Path) -> None:
    first = convert("ntu", [archives["ntu", True]], tmp_path, workers=0)
    before = {path: path.stat().st_mtime_ns for path in [tmp_path, *tmp_path.rglob("*")]}
    again = convert("ntu", [archives["ntu", False]], tmp_path, workers=0)
    assert again.reused
    assert (again.folder, again.manifest) == (first.folder, first.manifest)
    assert {path: path.stat().st_mtime_ns for path in [tmp_path, *tmp_path.rglob("*")]} == before


def test_everything_that_changes_the_bytes_changes_the_name(
    archives: dict[tuple[str, bool], Path], tmp_path: Path
) -> None:
    raw = archives["ntu", True]
    fewer = tmp_path / "fewer"
    shutil.copytree(archives["ntu", False], fewer)
    sorted(fewer.rglob("*.skeleton"))[0].unlink()
    data = tmp_path / "data"
    folders = [
        convert("ntu", [raw], data, workers=0),
        convert("ntu", [raw], data, workers=0, recipe="raw"),
        convert("ntu", [raw], data, workers=0, dtype="float16"),
        convert("ntu", [raw], data, workers=0, samples_per_shard=7),
        convert("ntu", [fewer], data, workers=0),
    ]
    assert len({result.folder for result in folders}) == 5
    assert not any(result.reused for result in folders)


def test_bars_are_shown_only_on_request(
    archives: dict[tuple[str, bool], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert("ntu", [archives["ntu", True]], tmp_path / "a", workers=0)
    assert capsys.readouterr() == ("", "")
    convert("ntu", [archives["ntu", True]], tmp_path / "b", workers=0, progress=True)
    shown = capsys.readouterr().err
    assert [name for name in ("parse", "write") if f"{name}: 100%" in shown] == ["parse", "write"]


# What is in the result


def test_trimmed_actions_are_windows_of_the_stored_video(
    archives: dict[tuple[str, bool], Path], tmp_path: Path
) -> None:
    result = convert("pkummd1", [archives["pkummd1", True]], tmp_path, workers=0)
    store, window = open_store(result.folder / "store.zarr"), recipe("pcm3", "pkummd1").window
    assert store.segments
    found = {key: array for shard in result.manifest.shards for key, array, _ in read_shard(result.folder / shard.path)}
    assert len(found) == len(store.segments) == result.manifest.counts["samples"]
    for s in store.segments:
        video = store.sample(s.video)
        clip = found[segment_key(store.infos[s.video].key, s.row)]
        np.testing.assert_array_equal(clip, window(video[s.start : s.end]))


def test_stored_videos_are_the_files_numbers(archives: dict[tuple[str, bool], Path], tmp_path: Path) -> None:
    result = convert("pkummd2", [archives["pkummd2", False]], tmp_path, workers=0)
    store = open_store(result.folder / "store.zarr")
    for row, info in enumerate(store.infos):
        [path] = (p for p in archives["pkummd2", False].rglob(f"{info.key}.txt") if "," not in p.read_text()[:2000])
        np.testing.assert_array_equal(store.sample(row).reshape(-1, 150), np.loadtxt(path).astype(np.float32))


def test_names_on_the_missing_list_are_dropped_and_reported(
    archives: dict[tuple[str, bool], Path], tmp_path: Path
) -> None:
    result = convert("ntu", [archives["ntu", True]], tmp_path, workers=0)
    [dropped] = result.manifest.dropped
    assert dropped.reason == MISSING
    assert result.manifest.counts["dropped"] == 1
    assert dropped.key not in {info.key for info in open_store(result.folder / "store.zarr").infos}


def test_the_real_nw_ucla_gives_its_official_counts(shared: Path, tmp_path: Path) -> None:
    archive = shared / "data" / "nw-ucla" / "all_sqe.zip"
    if not archive.exists():
        pytest.skip("no NW-UCLA archive beside the checkout")
    result = convert("nwucla", [archive], tmp_path, workers=0)
    assert result.manifest.counts["sequences"] == result.manifest.counts["samples"] == 1484
    assert {name: cell.samples for name, cell in result.manifest.cells.items()} == {
        "xview-train": 1020,
        "xview-test": 464,
    }
    assert result.manifest.dropped == []
    assert problems(result.folder, result.manifest) == []


# Bad input: samples


def skeleton(num_frames: int = 4, coordinate: str = "0.1", bodies: int = 1, joints: int = 25) -> str:
    """A `.skeleton` file whose joints differ; `coordinate` is the first one of all."""
    lines = [str(num_frames)]
    for frame in range(num_frames):
        lines.append(str(bodies))
        for _ in range(bodies):
            lines += ["72057594037944738 0 1 1 1 1 0 0.02 -0.1 2", str(joints)]
            for joint in range(joints):
                x = coordinate if frame == joint == 0 else f"{0.1 + 0.03 * joint}"
                lines.append(f"{x} {0.02 * joint * joint} {2 + 0.01 * frame} 250 200 900 500 0.1 0.2 0.3 0.9 2")
    return "\n".join(lines) + "\n"


BAD_SKELETONS = {
    "truncated": (GOOD, skeleton()[:-60], r"line 112: found 9 fields"),
    "no joint count": (GOOD, skeleton(joints=24), r"line 4.*found .*24.*expected .*25"),
    "not a number": (GOOD, skeleton(coordinate="0x5"), r"line 5: found the byte b'x' in '0x5 0.0 "),
    "decimal commas": (GOOD, skeleton(coordinate="0,5"), r"line 5: found decimal commas in '0,5 0.0 .*write points"),
    "a web page": (GOOD, "<!DOCTYPE html>\n<p>Sign in", r"line 1: found a web page, '<!DOCTYPE html>', expected plain"),
    "NaN": (GOOD, skeleton(coordinate="NaN"), r"nan.*finite"),
    "far away": (GOOD, skeleton(coordinate="1e9"), r"frame 1: found a coordinate of 1e\+09 m"),
    "no frame": (GOOD, skeleton(0), r"found 0 frames"),
    "nobody": (GOOD, skeleton(bodies=0), r"found no body in any of 4 frames"),
    "unknown class": ("S001C001P001R001A121", skeleton(), r"found action 121, expected an action from 1 to 120"),
    "unknown performer": (
        "S001C001P107R001A001",
        skeleton(),
        r"found performer 107, expected a performer from 1 to 106",
    ),
    "no such name": ("skeleton_12", skeleton(), r"found 'skeleton_12', expected the form SsssCcccPpppRrrrAaaa"),
}


@pytest.mark.parametrize("case", BAD_SKELETONS)
def test_a_bad_sample_stops_the_conversion_or_is_dropped_with_its_reason(tmp_path: Path, case: str) -> None:
    name, text, message = BAD_SKELETONS[case]
    raw, data = tmp_path / "raw", tmp_path / "data"
    raw.mkdir()
    (raw / f"{name}.skeleton").write_text(text)
    (raw / "S001C002P001R001A001.skeleton").write_text(skeleton())
    with pytest.raises(RawInputError, match=message) as stopped:
        convert("ntu", [raw], data, workers=0)
    assert str(raw / f"{name}.skeleton") in str(stopped.value)
    assert not any(path for path in data.iterdir() if not path.name.startswith("."))

    result = convert("ntu", [raw], data, workers=0, on_error="drop")
    assert [(outcome.key, outcome.reason) for outcome in result.manifest.dropped] == [(name, str(stopped.value))]
    assert result.manifest.counts["samples"] == 1
    assert problems(result.folder, result.manifest) == []
    assert [path.name for path in data.iterdir()] == [result.folder.name]


def test_a_damaged_zip_member_is_a_bad_sample(tmp_path: Path) -> None:
    archive = tmp_path / "raw.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        file.writestr(f"{GOOD}.skeleton", skeleton())
        file.writestr("S001C002P001R001A001.skeleton", skeleton())
    archive.write_bytes(archive.read_bytes().replace(b" 250 ", b" 251 ", 1))
    with pytest.raises(RawInputError, match=f"raw.zip: {GOOD}.skeleton: found CRC"):
        convert("ntu", [archive], tmp_path / "data", workers=0)
    assert convert("ntu", [archive], tmp_path / "data", workers=0, on_error="drop").manifest.counts["dropped"] == 1


def test_a_long_sample_is_cut_and_reported(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / f"{GOOD}.skeleton").write_text(skeleton(303))
    result = convert("ntu", [raw], tmp_path / "data", workers=0)
    assert [(r.key, r.reason) for r in result.manifest.repaired] == [(GOOD, "cut from 303 to 300 frames")]
    assert result.manifest.counts["frames"] == 300
    uncut = convert("ntu", [raw], tmp_path / "data", workers=0, recipe="raw")
    assert (uncut.manifest.counts["frames"], uncut.manifest.repaired) == (303, [])


def test_no_usable_sample_at_all_is_an_error_in_any_case(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / f"{GOOD}.skeleton").write_text(skeleton(0))
    with pytest.raises(RawInputError, match=r"found no sample that can be used.*found 0 frames"):
        convert("ntu", [raw], tmp_path / "data", workers=0, on_error="drop")
    (raw / f"{GOOD}.skeleton").rename(raw / "S001C002P005R002A008.skeleton")
    with pytest.raises(RawInputError, match="found 1 files, each on the publishers' list"):
        convert("ntu", [raw], tmp_path / "data", workers=0)


# Bad input: label rows


def video_files(folder: Path, key: str, frames: np.ndarray, labels: str) -> None:
    for kind in ("skeleton", "label"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    np.savetxt(folder / "skeleton" / f"{key}.txt", frames.reshape(len(frames), 150), fmt="%.6f")
    (folder / "label" / f"{key}.txt").write_text(labels)


@pytest.fixture
def video() -> np.ndarray:
    frames = np.zeros((60, 2, 25, 3))
    frames[:50, 0] = np.random.default_rng(0).normal(0, 1, (50, 25, 3))
    return frames


BAD_ROWS = {
    "start after end": ("5,30,20,2", r"row 2: found start 30 and end 20"),
    "start at end": ("5,30,30,2", r"row 2: found start 30 and end 30"),
    "beyond the video": ("5,50,61,2", r"row 2: found frames 50 to 61"),
    "unknown class": ("52,10,20,2", r"row 2: found class 52, expected a class from 1 to 51"),
    "no number": ("5,ten,20,2", r"row 2: found '5,ten,20,2'"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_label_row_stops_the_conversion_or_is_dropped_alone(tmp_path: Path, video: np.ndarray, case: str) -> None:
    row, message = BAD_ROWS[case]
    raw = tmp_path / "raw"
    video_files(raw, "0002-L", video, f"1,0,10,2\n{row}\n3,20,50,1\n")
    with pytest.raises(RawInputError, match=message):
        convert("pkummd1", [raw], tmp_path / "data", workers=0)
    result = convert("pkummd1", [raw], tmp_path / "data", workers=0, on_error="drop")
    assert [outcome.key for outcome in result.manifest.dropped] == ["0002-L_001"]
    store = open_store(result.folder / "store.zarr")
    assert [(s.row, s.label, s.start, s.end) for s in store.segments or []] == [(0, 0, 0, 10), (2, 2, 20, 50)]
    assert problems(result.folder, result.manifest) == []


def test_the_known_fault_of_the_official_labels_is_dropped_and_reported(tmp_path: Path, video: np.ndarray) -> None:
    rows = [f"{1 + i},{i},{i + 5},2" for i in range(20)]
    video_files(tmp_path / "raw", "0043-L", video, "\n".join([*rows, "1,4925,4036,2", "9,40,50,2"]))
    result = convert("pkummd1", [tmp_path / "raw"], tmp_path / "data", workers=0)
    [dropped] = result.manifest.dropped
    assert dropped.key == "0043-L_020"
    assert "starts after its end" in dropped.reason
    assert result.manifest.counts["samples"] == 21
    # The same row of a video that is not known to be wrong is an error.
    shutil.move(tmp_path / "raw" / "skeleton" / "0043-L.txt", tmp_path / "raw" / "skeleton" / "0044-L.txt")
    shutil.move(tmp_path / "raw" / "label" / "0043-L.txt", tmp_path / "raw" / "label" / "0044-L.txt")
    with pytest.raises(RawInputError, match="row 21: found start 4925 and end 4036"):
        convert("pkummd1", [tmp_path / "raw"], tmp_path / "data", workers=0)


def test_an_action_without_a_body_is_kept_and_reported_and_a_long_one_is_cut(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).normal(0, 1, (400, 2, 25, 3))
    frames[350:] = 0
    video_files(tmp_path / "raw", "0002-L", frames, "1,0,340,2\n2,360,380,2\n")
    result = convert("pkummd1", [tmp_path / "raw"], tmp_path / "data", workers=0)
    assert [(outcome.key, outcome.reason) for outcome in result.manifest.repaired] == [
        ("0002-L_000", "cut from 340 to 300 frames"),
        ("0002-L_001", "no body in frames 360 to 379: kept as zeros"),
    ]
    assert problems(result.folder, result.manifest) == []


def csv(path: Path) -> None:
    path.write_text(path.read_text().replace(" ", ","))


DAMAGED_VIDEOS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no labels": ("label", lambda path: path.write_text(""), "line 1: found no row in 0 bytes, expected rows label,"),
    "blank labels": ("label", lambda path: path.write_text("\n \r\n"), "line 1: found no row in 4 bytes"),
    "labels by blanks": (
        "label",
        lambda path: path.write_text("1 3 20 2\n"),
        "line 1: found no row of 4 fields in '1 3",
    ),
    "a page of labels": ("label", lambda path: path.write_text("<html>"), "line 1: found a web page, '<html>'"),
    "no skeleton": (
        "skeleton",
        lambda path: path.write_text(""),
        "line 1: found the end of the file, expected 150 num",
    ),
    "commas": (
        "skeleton",
        csv,
        "line 1: found fields divided by commas in '.*', expected 150 numbers divided by blank",
    ),
    "one body": (
        "skeleton",
        lambda path: path.write_text("0.5 " * 75),
        "line 1: found 75 fields in '0.5 .*expected 150",
    ),
}


@pytest.mark.parametrize("case", DAMAGED_VIDEOS)
def test_a_video_with_a_damaged_file_stops_the_conversion_or_is_dropped_alone(
    tmp_path: Path, video: np.ndarray, case: str
) -> None:
    kind, damage, message = DAMAGED_VIDEOS[case]
    raw = tmp_path / "raw"
    for key in ("0002-L", "0002-M"):
        video_files(raw, key, video, "1,0,10,2\n")
    bad = raw / kind / "0002-L.txt"
    damage(bad)
    with pytest.raises(RawInputError, match=f"^{bad}: {message}") as stopped:
        convert("pkummd1", [raw], tmp_path / "data", workers=0)
    result = convert("pkummd1", [raw], tmp_path / "data", workers=0, on_error="drop")
    assert [(outcome.key, outcome.reason) for outcome in result.manifest.dropped] == [("0002-L", str(stopped.value))]
    assert [info.key for info in open_store(result.folder / "store.zarr").infos] == ["0002-M"]


def test_blank_rows_of_labels_are_no_actions(tmp_path: Path, video: np.ndarray) -> None:
    video_files(tmp_path / "raw", "0002-L", video, "\n1,3,20,2\n\r\n9,22,38,1\n\n")
    result = convert("pkummd1", [tmp_path / "raw"], tmp_path / "data", workers=0)
    assert result.manifest.dropped == []
    segments = open_store(result.folder / "store.zarr").segments or []
    assert [(s.row, s.label, s.start, s.end) for s in segments] == [(0, 0, 3, 20), (1, 8, 22, 38)]
    assert problems(result.folder, result.manifest) == []


def test_a_video_that_no_official_list_knows_is_a_bad_sample(tmp_path: Path, video: np.ndarray) -> None:
    video_files(tmp_path / "raw", "0002-L", video, "1,0,10,2\n")
    video_files(tmp_path / "raw", "0001-L", video, "1,0,10,2\n")
    with pytest.raises(RawInputError, match="0001-L"):
        convert("pkummd1", [tmp_path / "raw"], tmp_path / "data", workers=0)
    result = convert("pkummd1", [tmp_path / "raw"], tmp_path / "data", workers=0, on_error="drop")
    assert [outcome.key for outcome in result.manifest.dropped] == ["0001-L"]


# Bad input: archives and options


def two_of_one_name(raw: Path) -> None:
    for place in ("a", "b"):
        (raw / place).mkdir()
        (raw / place / f"{GOOD}.skeleton").write_text(skeleton())


def empty_zip(raw: Path) -> None:
    zipfile.ZipFile(raw / "empty.zip", "w").close()


def nothing(raw: Path) -> None:
    (raw / "read.me").write_text("no skeleton")


@pytest.mark.parametrize(
    ("make", "message"),
    [(two_of_one_name, "two files of this name"), (empty_zip, "no raw file"), (nothing, "no raw file")],
)
@pytest.mark.parametrize("on_error", ["stop", "drop"])
def test_a_bad_archive_is_refused_before_anything_is_written(
    tmp_path: Path, make: Callable[[Path], None], message: str, on_error: str
) -> None:
    (tmp_path / "raw").mkdir()
    make(tmp_path / "raw")
    with pytest.raises(RawInputError, match=message):
        convert("ntu", [tmp_path / "raw"], tmp_path / "data", on_error=on_error, workers=0)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"source": "kinetics"}, "unknown source 'kinetics'"),
        ({"recipe": "ctr"}, "unknown recipe 'ctr'"),
        ({"dtype": "float64"}, "found dtype 'float64', expected float32, float16, fixed"),
        ({"on_error": "skip"}, "found on_error 'skip', expected stop, drop"),
        ({"workers": -1}, "found -1 workers"),
        ({"samples_per_shard": 0}, "found 0 samples per shard"),
        ({"scheduler": "nowhere://1"}, "found no dask scheduler with workers at nowhere://1"),
        ({"scheduler": "tcp://127.0.0.1:9"}, "found no dask scheduler with workers at tcp://127.0.0.1:9"),
    ],
)
def test_options_that_cannot_work_are_refused(
    archives: dict[tuple[str, bool], Path],
    tmp_path: Path,
    option: dict[str, object],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runners, "_CONNECT_SECONDS", 0.2)
    options = {"source": "ntu", "workers": 0} | option
    with pytest.raises(ConfigError, match=message):
        convert(options.pop("source"), [archives["ntu", True]], tmp_path / "data", **options)


def test_a_folder_that_is_no_folder_is_refused(archives: dict[tuple[str, bool], Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for data in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(StoreError, match="a place that cannot be written"):
            convert("ntu", [archives["ntu", True]], data, workers=0)


def test_a_folder_of_the_name_without_a_manifest_is_refused(
    archives: dict[tuple[str, bool], Path], tmp_path: Path
) -> None:
    result = convert("ntu", [archives["ntu", True]], tmp_path, workers=0)
    (result.folder / "manifest.json").unlink()
    with pytest.raises(StoreError, match=r"found no manifest.json in it, expected a finished store"):
        convert("ntu", [archives["ntu", True]], tmp_path, workers=0)
