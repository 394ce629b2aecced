"""Two stores beside each other, against a slow comparison of single samples."""

import csv
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.conversion.convert import convert
from pipelines.preprocessing.recipes import recipe
from pipelines.quality import differences as differences_module
from pipelines.quality.differences import CSV_COLUMNS, compare_clips, differences
from pipelines.quality.text import diff_recipes, pair_steps
from pipelines.synthetic import synthesize
from shards.errors import ConfigError, DiskError, StoreError
from shards.store import open_store

SHORT = "S001C001P001R001A005"


def skeleton(num_frames: int, *ids: int) -> bytes:
    """An NTU file in which bodies of these ids stand still in every frame."""
    rng = np.random.default_rng(3)
    lines = [str(num_frames)]
    bodies = {one: rng.normal(0, 1, (25, 3)).round(5) for one in ids}
    for _ in range(num_frames):
        lines.append(str(len(ids)))
        for one, joints in bodies.items():
            lines += [f"{one} 0 1 1 1 1 0 0.1 0.1 2", "25"]
            lines += [" ".join(map(str, joint)) + " 1 1 1 1 0 0 0 0 2" for joint in joints]
    return ("\n".join(lines) + "\n").encode()


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders by "source-recipe"; one recording of NTU has two bodies that are too short for ctrgcn."""
    folder = tmp_path_factory.mktemp("differences")
    ntu = synthesize("ntu", folder / "ntu", subjects=3, classes=3, samples=24, seed=1, zipped=False)
    (ntu / f"{SHORT}.skeleton").write_bytes(skeleton(9, 72057594037958936, 72057594037958937))
    pku = synthesize("pkummd1", folder / "pkummd1", subjects=2, classes=3, samples=2, seed=0, zipped=False)
    return {
        f"{source}-{name}": convert(source, [raw], folder, recipe=name, workers=0, on_error="drop").folder
        for source, raw in (("ntu", ntu), ("pkummd1", pku))
        for name in ("pcm3", "ctrgcn", "raw")
    }


def slow_mean_and_largest(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    distances = [
        np.linalg.norm(a[t, m, v].astype(float) - b[t, m, v])
        for t, m, v in np.ndindex(min(len(a), len(b)), 2, 25)
        if a[t, m].sum() != 0 and b[t, m].sum() != 0
    ]
    return (np.mean(distances), np.max(distances)) if distances else (np.nan, np.nan)


@pytest.mark.parametrize("b", ["ctrgcn", "raw"])
def test_every_sample_is_compared_as_a_slow_comparison_does(stores: dict[str, Path], b: str) -> None:
    folders = stores["ntu-pcm3"], stores[f"ntu-{b}"]
    found = differences(*folders).compared
    left, right = (open_store(folder / "store.zarr") for folder in folders)
    rows = [{info.key: row for row, info in enumerate(store.infos)} for store in (left, right)]
    assert found.keys.tolist() == [info.key for info in left.infos if info.key in rows[1]]
    for i, key in enumerate(found.keys):
        one, other = left.sample(rows[0][key]), right.sample(rows[1][key])
        assert found.frames[i].tolist() == [len(one), len(other)]
        bodies = [int((clip.sum(axis=(2, 3)) != 0).any(axis=0).sum()) for clip in (one, other)]
        assert found.bodies[i].tolist() == bodies
        np.testing.assert_allclose([found.mean[i], found.largest[i]], slow_mean_and_largest(one, other), rtol=1e-6)


def test_blocks_do_not_show(stores: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = differences(stores["ntu-pcm3"], stores["ntu-ctrgcn"])
    monkeypatch.setattr(differences_module, "FRAMES_AT_ONCE", 50)
    pieces = differences(stores["ntu-pcm3"], stores["ntu-ctrgcn"])
    for name in ("keys", "frames", "bodies", "swapped"):
        np.testing.assert_array_equal(getattr(whole.compared, name), getattr(pieces.compared, name))
    for name in ("mean", "largest", "shape"):
        np.testing.assert_allclose(getattr(whole.compared, name), getattr(pieces.compared, name), atol=1e-7)


def test_a_sample_of_one_store_only_is_named_with_the_reason(stores: dict[str, Path], tmp_path: Path) -> None:
    found = differences(stores["ntu-raw"], stores["ntu-ctrgcn"])
    assert [outcome.key for outcome in found.only_a] == [SHORT]
    assert "found 2 bodies of at most 9 frames, expected one of more than 11" in found.only_a[0].reason
    assert found.only_b == []
    assert differences(stores["ntu-ctrgcn"], stores["ntu-raw"]).only_b == found.only_a
    found.write_csv(tmp_path / "all.csv")
    with (tmp_path / "all.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [row["key"] for row in rows] == sorted([*found.compared.keys, SHORT])
    by_key = {row["key"]: row for row in rows}
    assert (by_key[SHORT]["in"], by_key[SHORT]["frames_a"]) == ("a", "")
    assert by_key[SHORT]["reason"] == found.only_a[0].reason
    first = by_key[found.compared.keys[0]]
    assert first["in"] == "both"
    assert float(first["mean_m"]) == pytest.approx(found.compared.mean[0], abs=1e-6)


def test_actions_of_videos_are_compared_as_clips(stores: dict[str, Path]) -> None:
    alike = differences(stores["pkummd1-raw"], stores["pkummd1-ctrgcn"])
    assert len(alike.compared.keys) == alike.a.counts["samples"]
    assert alike.compared.largest.max() == 0
    assert alike.most_different() == []
    posed = differences(stores["pkummd1-pcm3"], stores["pkummd1-raw"])
    assert posed.compared.mean.min() > 1
    store, window = open_store(stores["pkummd1-raw"] / "store.zarr"), recipe("pcm3", "pkummd1").window
    assert store.segments is not None
    s = store.segments[0]
    clip = store.sample(s.video)[s.start : s.end]
    expected = slow_mean_and_largest(window(clip), clip)
    np.testing.assert_allclose([posed.compared.mean[0], posed.compared.largest[0]], expected, rtol=1e-6)


def test_the_same_store_twice_differs_nowhere(stores: dict[str, Path]) -> None:
    text = diff_recipes(stores["ntu-pcm3"], stores["ntu-pcm3"])
    assert "raw files: the same" in text
    assert re.search(r"of those in both: (\d+) equal, 0 of other length", text)
    assert "\n* " not in text
    assert "most different" not in text


def test_the_summary_shows_steps_sums_and_the_worst(stores: dict[str, Path], tmp_path: Path) -> None:
    text = diff_recipes(stores["ntu-pcm3"], stores["ntu-ctrgcn"], tmp_path / "all.csv")
    assert "* cut                     frames 300 | frames none" in text
    assert "* drop short bodies       only B: frames 11" in text
    assert f"only in A: {SHORT}: " in text
    assert "joints apart, mean (m)" in text
    assert text.endswith(f"every sample: {tmp_path / 'all.csv'}")
    worst = text.split("most different by shape")[1].splitlines()
    assert len([line for line in worst if line.startswith("  S")]) == 10


def test_stores_of_two_sources_and_unfinished_ones_are_refused(stores: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found stores of ntu and pkummd1, expected two of one source"):
        differences(stores["ntu-pcm3"], stores["pkummd1-pcm3"])
    unfinished = tmp_path / stores["ntu-raw"].name
    shutil.copytree(stores["ntu-raw"], unfinished)
    (unfinished / "manifest.json").unlink()
    with pytest.raises(StoreError, match=r"found no manifest.json, expected a finished store"):
        differences(stores["ntu-pcm3"], unfinished)


def test_a_csv_that_cannot_be_written_is_one_clear_error(stores: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    expected = r"/file/all\.csv: found a place that cannot be written \(a file lies where a folder should\)"
    with pytest.raises(DiskError, match=expected):
        diff_recipes(stores["ntu-raw"], stores["ntu-raw"], tmp_path / "file" / "all.csv")


def test_steps_of_one_name_stand_beside_each_other_in_their_order() -> None:
    a = [{"name": "cut", "frames": 300}, {"name": "align", "axis": "z"}, {"name": "align", "axis": "x"}]
    b = [{"name": "translate"}, {"name": "cut", "frames": None}, {"name": "align", "axis": "z"}]
    assert pair_steps(a, b) == [(None, b[0]), (a[0], b[1]), (a[1], b[2]), (a[2], None)]
    assert pair_steps([], []) == []


def rotation(seed: int) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(0, 1, (3, 3)))
    return q * np.sign(np.linalg.det(q))


def clip(num_frames: int, persons: int = 2, seed: int = 0) -> np.ndarray:
    frames = np.random.default_rng(seed).normal(0, 0.5, (num_frames, 2, 25, 3)).astype(np.float32)
    frames[:, persons:] = 0
    return frames


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_another_pose_has_the_same_shape(num_frames: int, seed: int) -> None:
    a, walk = clip(num_frames, 1, seed), np.random.default_rng(seed).normal(0, 3, (num_frames, 1, 1, 3))
    b = a.copy()
    b[:, :1] = a[:, :1] @ rotation(seed) + walk
    found = compare_clips(["k"], [(a, b)])
    assert found.shape[0] < 1e-5
    np.testing.assert_allclose([found.mean[0], found.largest[0]], slow_mean_and_largest(a, b), rtol=1e-5)


def test_a_mirror_image_and_other_movements_have_another_shape() -> None:
    a = clip(6)
    found = compare_clips(["k", "l"], [(a, a * np.float32([-1, 1, 1])), (a, clip(6, seed=1))])
    assert found.shape.min() > 0.1


def test_exchanged_persons_are_seen() -> None:
    a = clip(6)
    found = compare_clips(["k", "l"], [(a, a[:, ::-1]), (a, a)])
    assert found.swapped.tolist() == [True, False]
    np.testing.assert_allclose(found.shape, 0, atol=1e-6)
    assert found.mean[0] > 0.1
    assert found.mean[1] == 0


def test_clips_without_a_common_person_have_no_distance() -> None:
    a, b = clip(3), clip(4)
    a[:, 1], b[:, 0] = 0, 0
    found = compare_clips(["k", "l"], [(a, b), (clip(2), clip(2))])
    assert np.isnan([found.mean[0], found.largest[0]]).all()
    assert found.bodies.tolist() == [[1, 1], [2, 2]]
    assert found.frames.tolist() == [[3, 4], [2, 2]]
    assert found.swapped.tolist() == [True, False]
    assert (found.mean[1], found.largest[1]) == (0, 0)


def test_an_action_without_a_body_is_only_in_the_store_that_keeps_such(tmp_path: Path) -> None:
    video = np.random.default_rng(0).normal(0, 1, (20, 150)).round(4)
    video[4:10], video[:, 75:] = 0, 0
    for folder, text in (
        ("data", "\n".join(" ".join(map(str, row)) for row in video)),
        ("label", "3,0,4,2\n5,4,10,2\n"),
    ):
        (tmp_path / "raw" / folder).mkdir(parents=True)
        (tmp_path / "raw" / folder / "0002-L.txt").write_text(text)
    folders = [
        convert("pkummd1", [tmp_path / "raw"], tmp_path, recipe=name, workers=0).folder for name in ("raw", "ctrgcn")
    ]
    found = differences(*folders)
    assert found.compared.keys.tolist() == ["0002-L_000"]
    reason = "no body in any of its 6 frames: the recipe leaves such clips out"
    assert [(outcome.key, outcome.reason) for outcome in found.only_a] == [("0002-L_001", reason)]
    assert found.only_b == []
