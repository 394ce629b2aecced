"""The data quality page: one file that needs nothing else, every outlier's frames in it, and no name out of place."""

import base64
import json
import re
import shutil
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from flows.pages.charts import count_bars, histogram_bars, pose
from flows.pages.quality import CLIP_FRAMES, Clip, choose_clips, encode_clip, page, stats, upwards_in_store
from flows.pages.web import assets
from pipelines.conversion.convert import convert
from pipelines.quality.statistics import Histogram, Statistics
from pipelines.quality.summary import statistics
from pipelines.synthetic import synthesize
from shards.errors import StoreError
from shards.manifest import Outcome, read_manifest, write_manifest
from shards.store import open_store
from tests.flows.reading import Page

HOSTILE = "</script><script>alert('x')</script>&\"<!--"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted store of two persons in some samples."""
    root = tmp_path_factory.mktemp("stats")
    raw = synthesize("ntu", root / "raw", subjects=4, classes=6, samples=36, seed=0, zipped=False)
    made = convert("ntu", [raw], root / "data", recipe="raw", workers=0).folder
    assert isinstance(made, Path)
    return made


@pytest.fixture(scope="module")
def found(folder: Path) -> Statistics:
    return statistics(folder)


@pytest.fixture(scope="module")
def text(folder: Path, found: Statistics) -> str:
    return page([(folder, found)])


def test_the_page_asks_for_nothing_from_elsewhere(text: str) -> None:
    without_clips = re.sub(r'"data": "[A-Za-z0-9+/=]*"', "", text.replace(assets().scripts[0], ""))
    assert len(without_clips) < len(text) / 2
    assert not re.search(r"https?:|//[a-z]|@import|url\(", without_clips)
    assert all(link.startswith("#") for link in Page(text).links)
    assert "default-src 'none'" in text


def test_every_outlier_is_a_button_whose_clip_holds_its_worst_frame(text: str, found: Statistics, folder: Path) -> None:
    parsed, store = Page(text), open_store(folder / "store.zarr")
    outliers = [(outliers, sample) for outliers in found.outliers for sample in outliers.samples]
    assert len(parsed.shown) == len(outliers) > 90
    for button, (of, sample) in zip(parsed.shown, outliers, strict=True):
        clip = parsed.viewer["stores"][int(button["data-store"])]["clips"][int(button["data-clip"])]
        place = int(button["data-frame"]) - clip["first"]
        assert (button["data-key"], int(button["data-frame"])) == (sample.key, sample.frame)
        assert 0 <= place < clip["count"] <= CLIP_FRAMES
        frames = np.frombuffer(base64.b64decode(clip["data"]), "<i2").reshape(clip["count"], clip["persons"], 25, 3)
        stored = store.sample(sample.number)[sample.frame, : clip["persons"]]
        there = stored.any(axis=(1, 2))
        np.testing.assert_array_equal(frames[place][there], np.rint(stored[there] * 1000))
        assert not frames[place][~there].any()
        if sample.joint is not None:
            assert (int(button["data-person"]), int(button["data-joint"])) == (sample.person, sample.joint)
            assert button["data-bone"] == str(int(of.name.startswith("bone")))
        assert of.name in button["data-note"]


def test_the_script_names_only_elements_that_are_there(text: str) -> None:
    parsed = Page(text)
    script = parsed.scripts[-1]
    named = set(re.findall(r'(?:find|press|getElementById)\("([\w-]+)"', script))
    assert named <= set(parsed.ids)
    assert len(parsed.ids) == len(set(parsed.ids))
    used = set(re.findall(r"(?:told|dataset)\.(\w+)", script))
    given = {name.removeprefix("data-") for button in parsed.shown for name in button if name.startswith("data-")}
    assert used == given


def test_the_same_store_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        stats(folder, tmp_path / f"{name}.html", tmp_path / f"{name}.json")
    for suffix in ("html", "json"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_hostile_names_and_reasons_stay_text(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    outcomes = [Outcome(key=HOSTILE, reason=f"found {HOSTILE}")]
    write_manifest(copy, read_manifest(copy).model_copy(update={"dropped": outcomes, "repaired": outcomes}))
    hostile = statistics(copy)
    sample = hostile.outliers[0].samples[0].model_copy(update={"key": HOSTILE})
    first = hostile.outliers[0].model_copy(update={"samples": [sample, *hostile.outliers[0].samples[1:]]})
    text = page([(copy, hostile.model_copy(update={"outliers": [first, *hostile.outliers[1:]], "store": HOSTILE}))])
    parsed = Page(text)
    assert len(parsed.scripts) == len(assets().scripts) + 2
    assert parsed.shown[0]["data-key"] == HOSTILE
    assert parsed.text.count(HOSTILE) >= 5
    assert "alert('x')" not in text


def test_the_summary_tells_the_worst_of_each_list(folder: Path, found: Statistics, tmp_path: Path) -> None:
    told = stats(folder, json=tmp_path / "out.json")
    assert told.splitlines()[0] == folder.name
    assert told.splitlines()[-1] == f"wrote {tmp_path / 'out.json'}"
    for outliers in found.outliers:
        assert f"worst {outliers.name}" in told
        assert outliers.samples[0].key in told
    assert "36 samples" in told
    assert "tracking switches" in told
    assert Statistics.model_validate(json.loads((tmp_path / "out.json").read_text())["stores"][0]) == found


def test_several_stores_are_sections_of_one_page(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(folder, data / folder.name)
    raw = synthesize("pkummd1", tmp_path / "raw", subjects=2, classes=3, samples=2, seed=0, zipped=False)
    convert("pkummd1", [raw], data, recipe="raw", workers=0)
    told = stats(data, tmp_path / "page.html")
    parsed = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    names = sorted(path.name for path in data.iterdir())
    assert [line for line in told.splitlines() if not line.startswith(" ")][:2] == names
    assert parsed.links == ["#store-0", "#store-1"]
    assert set(parsed.links) <= {f"#{name}" for name in parsed.ids}
    assert len(parsed.viewer["stores"]) == 2
    assert "length of actions" in parsed.text
    assert "videos" in parsed.text


def test_a_folder_without_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="found no store"):
        stats(tmp_path)


def test_a_store_of_unknown_quality_says_so(folder: Path, found: Statistics) -> None:
    assert "does not tell what its raw recordings were like" in page([(folder, found.model_copy(update={"raw": None}))])


def test_clips_lie_around_the_worst_frame_and_inside_the_sample(found: Statistics) -> None:
    lengths = np.full(found.counts["samples"], 1000)
    sample = found.outliers[0].samples[0]
    for frame, first in ((0, 0), (500, 440), (999, 880)):
        moved = found.outliers[0].model_copy(update={"samples": [sample.model_copy(update={"frame": frame})]})
        clips = choose_clips(found.model_copy(update={"outliers": [moved]}), lengths, 10**6)
        assert list(clips.values()) == [Clip(sample.number, first, first + CLIP_FRAMES)]


def test_many_long_outliers_share_the_budget(found: Statistics) -> None:
    clips = set(choose_clips(found, np.full(found.counts["samples"], 1000), 500_000).values())
    frames = {clip.stop - clip.first for clip in clips}
    assert len(frames) == 1
    assert 5 < frames.pop() < CLIP_FRAMES
    assert sum(400 * (clip.stop - clip.first) for clip in clips) <= 500_000


def test_a_page_of_a_store_stays_below_five_megabytes(text: str) -> None:
    assert len(text) < 5_000_000


def test_a_clip_is_millimetres_and_zero_where_nobody_is() -> None:
    frames = np.zeros((3, 2, 25, 3), np.float32)
    frames[1:, 0] = 1.2344
    frames[2, 0, 5] = (-99, 99, 0.0006)
    clip = encode_clip(frames)
    values = np.frombuffer(base64.b64decode(clip["data"]), "<i2").reshape(3, 1, 25, 3)
    assert (clip["count"], clip["persons"]) == (3, 1)
    assert not values[0].any()
    assert (values[1] == 1234).all()
    assert values[2, 0, 5].tolist() == [-32767, 32767, 1]
    assert encode_clip(np.zeros((2, 2, 25, 3), np.float32))["persons"] == 1


def test_upwards_is_z_only_where_the_stored_frames_were_turned(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert upwards_in_store(manifest) == 1
    turned = manifest.model_copy(
        update={"recipe_steps": [{"name": "align", "axis": "x"}, {"name": "align", "axis": "z"}]}
    )
    assert upwards_in_store(turned) == 2
    assert upwards_in_store(turned.model_copy(update={"source": "pkummd1"})) == 1, (
        "the store holds whole videos, as they are"
    )


def test_charts_say_what_they_show_and_escape_it() -> None:
    svg = count_bars("<b>", {"<i>": 3, "2": 1}, "samples")
    assert "<b>" not in svg
    assert "<i>" not in svg
    assert 'role="img"' in svg
    assert unescape(svg).count("<i>: 3 samples") == 1
    svg = histogram_bars("t", Histogram(edges=[0, 1, 2], counts=[5, 0], beyond=2), "cm", "samples", 0)
    assert svg.count("<rect") == 3
    assert "above 2 cm: 2 samples" in svg


def test_a_chart_of_many_bars_labels_some_of_them() -> None:
    svg = count_bars("classes", {str(label): 7 for label in range(120)}, "samples")
    assert svg.count("<rect") == 120
    assert 5 < svg.count('text-anchor="middle"') < 20
    assert ">119</text>" in svg
    assert count_bars("nothing", {}, "samples").count("<rect") == 0


def test_a_pose_is_seen_face_to_face() -> None:
    bodies = np.zeros((2, 25, 3), np.float32)
    bodies[0, :, 0] = np.linspace(-1, 1, 25)
    marks = [float(re.findall(r'cx="(.*?)"', pose(bodies, 1, 0, joint))[0]) for joint in (0, 24)]
    assert marks == [40, 4], "where x is small lies to the right"


def test_a_pose_fits_its_square_and_leaves_out_who_is_absent() -> None:
    bodies = np.zeros((2, 25, 3), np.float32)
    bodies[1] = np.random.default_rng(0).normal(size=(25, 3)) * 30 + 100
    svg = pose(bodies, 1, 1, 3)
    assert "person-0" not in svg
    numbers = [float(n) for n in re.findall(r"-?\d+\.\d", re.findall(r' d="(.*?)"', svg)[0])]
    assert 4 <= min(numbers) < max(numbers) <= 40
    assert "wrong" in svg
    assert "<path" not in pose(np.zeros((2, 25, 3), np.float32), 1, None, None)
