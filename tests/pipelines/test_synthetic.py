import errno
import os
import re
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.archives import RawFile, find_files, inventory_digest
from pipelines.parsers import SUFFIXES, parse
from pipelines.parsers.pkummd import not_videos, pair_files, parse_labels
from pipelines.synthetic import ntu, pkummd, synthesize
from shards.catalog import info_from_name, missing_samples
from shards.errors import ConfigError, DiskError
from shards.protocols import split

CLASSES, SAMPLES = 8, 160


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[RawFile]:
    out = tmp_path_factory.mktemp("ntu") / "raw"
    assert synthesize("ntu", out, subjects=8, classes=CLASSES, samples=SAMPLES, seed=3, zipped=True) == out
    return find_files([out], SUFFIXES["ntu"])


def present(files: list[RawFile]) -> list[RawFile]:
    return [file for file in files if file.name not in missing_samples("ntu")]


def test_one_recording_of_the_missing_list_lies_beside_the_samples(recordings: list[RawFile]) -> None:
    [missing] = [file for file in recordings if file.name in missing_samples("ntu")]
    sequence = parse("ntu", missing.read(), missing.name, missing.origin)
    assert len(sequence.frames) == 40
    assert not sequence.num_bodies.any()
    assert len(recordings) == SAMPLES + 1


@pytest.mark.parametrize(("dataset", "protocol"), [("ntu60", "xsub"), ("ntu60", "xview"), ("ntu120", "xset")])
@pytest.mark.parametrize("each", [2, 20])
def test_every_protocol_trains_and_tests_every_class(dataset: str, protocol: str, each: int) -> None:
    infos = [info_from_name("ntu", name) for name in ntu.choose_names(6, CLASSES, CLASSES * each)]
    labels = defaultdict(set)
    for info in infos:
        labels[split(dataset, protocol, info)].add(info.label)
    assert labels["train"] == labels["test"] != set()
    assert labels.pop(None, set()).isdisjoint(labels["train"])
    assert len({info.key for info in infos}) == CLASSES * each
    assert missing_samples("ntu").isdisjoint(info.key for info in infos)


def test_the_sides_of_two_protocols_are_not_tied(recordings: list[RawFile]) -> None:
    infos = [info_from_name("ntu", file.name) for file in present(recordings)]
    sides = {
        (split("ntu60", "xsub", info), split("ntu60", "xview", info), split("ntu120", "xset", info))
        for info in infos
        if info.setup <= 17
    }
    assert len(sides) == 8


@pytest.mark.parametrize("classes", [2, 7, 8, 60, 61, 120])
def test_actions_include_two_persons_and_mostly_the_first_half(classes: int) -> None:
    actions = ntu.choose_actions(classes)
    assert len(set(actions)) == classes
    assert 0 <= min(actions) <= max(actions) < 120
    assert ntu.TWO_PERSON & set(actions)
    assert sum(action < 60 for action in actions) >= min(60, classes * 7 / 8)


def test_recordings_have_the_oddities_of_real_ones(recordings: list[RawFile]) -> None:
    seen = defaultdict(int)
    for file in present(recordings):
        data = file.read()
        sequence = parse("ntu", data, file.name, file.origin)
        ids = {int(i) for i in sequence.body_ids.ravel() if i}
        assert 40 <= len(sequence.frames) <= 80
        assert min(ids) > 2**53
        mantissas = {token.split(b"E")[0] for token in data.split() if b"." in token}
        assert max(len(re.sub(rb"[-.]", b"", mantissa).lstrip(b"0")) for mantissa in mantissas) <= 7
        two_persons = info_from_name("ntu", file.name).label in ntu.TWO_PERSON
        seen["second person"] += two_persons and (sequence.num_bodies >= 2).mean() > 0.5
        seen["another id"] += two_persons and len(ids) > 2
        seen["phantom"] += not two_persons and 1 <= (sequence.num_bodies == 2).sum() <= 10
        seen["six bodies"] += sequence.num_bodies.max() == 6
        seen["empty at the start"] += sequence.num_bodies[0] == 0
        seen["empty inside"] += bool((sequence.num_bodies[10:-10] == 0).any())
        seen["CRLF"] += b"\r\n" in data
        seen["LF"] += b"\r\n" not in data
        seen["no final newline"] += not data.endswith(b"\n")
        seen["exponent"] += re.search(rb"\dE-0\d", data) is not None
        seen["tip"] += b" 0 0 0 0 2" in data
    assert all(seen.values()), seen
    assert len(seen) == 11


def test_zips_have_an_inner_folder_in_the_first_archive_only(recordings: list[RawFile]) -> None:
    names = defaultdict(list)
    for path in sorted({file.path for file in recordings}):
        with zipfile.ZipFile(path) as archive:
            names[path.name] += archive.namelist()
    first, second = names.values()
    assert all(name.startswith("nturgb+d_skeletons/S0") for name in first)
    assert all(re.match(r"S0(1[89]|2|3)", name) for name in second)


def features(files: list[RawFile]) -> np.ndarray:
    """Person 1's joints about its hip in the first frame, at 32 instants."""
    rows = []
    for file in files:
        sequence = parse("ntu", file.read(), file.name, file.origin)
        frames = sequence.frames[sequence.num_bodies > 0, 0]
        instants = np.linspace(0, len(frames) - 1, 32).round().astype(int)
        rows.append((frames[instants] - frames[0, 0]).ravel())
    return np.array(rows)


def test_a_nearest_neighbour_knows_the_class_of_people_it_never_saw(recordings: list[RawFile]) -> None:
    files = present(recordings)
    infos = [info_from_name("ntu", file.name) for file in files]
    x, y = features(files), np.array([info.label for info in infos])
    train = np.array([split("ntu120", "xsub", info) == "train" for info in infos])
    distance = np.linalg.norm(x[~train][:, None] - x[train][None], axis=-1)
    accuracy = (y[train][distance.argmin(1)] == y[~train]).mean()
    assert accuracy > 4 / CLASSES
    assert accuracy < 1


@pytest.mark.parametrize(("source", "subjects", "samples"), [("ntu", 4, 12), ("pkummd1", 4, 3), ("pkummd2", 4, 3)])
def test_equal_arguments_give_equal_bytes_and_zips_hold_what_folders_hold(
    tmp_path: Path, source: str, subjects: int, samples: int
) -> None:
    digests, written = [], []
    for name, zipped, seed in (("a", True, 1), ("b", True, 1), ("c", False, 1), ("d", True, 2)):
        out = synthesize(
            source, tmp_path / name, subjects=subjects, classes=3, samples=samples, seed=seed, zipped=zipped
        )
        digests.append(inventory_digest(find_files([out], SUFFIXES[source], allow_same_name=True)))
        written.append({path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()})
    assert written[0] == written[1]
    assert digests[0] == digests[1] == digests[2] != digests[3]


@pytest.mark.parametrize("source", ["pkummd1", "pkummd2"])
def test_videos_are_labelled_and_both_sides_hold_every_class(tmp_path: Path, source: str) -> None:
    out = synthesize(source, tmp_path / "raw", subjects=4, classes=6, samples=30, seed=0, zipped=True)
    files = find_files([out], SUFFIXES[source], allow_same_name=True)
    pairs = pair_files(files)
    assert len(pairs) == 30
    assert [file.name for file in not_videos(files)] == ["cross-subject"]
    labels: dict[tuple[str, str | None], set[int]] = defaultdict(set)
    out_of_order = two_bodies = short = 0
    for skeleton, label_file in pairs:
        sequence = parse(source, skeleton.read(), skeleton.name, skeleton.origin)
        rows, problems = parse_labels(label_file.read(), label_file.origin, len(sequence.frames), pkummd.NUM_CLASSES)
        assert not problems
        assert len(rows) >= 6
        for protocol in ("xsub", "xview"):
            labels[protocol, split(source, protocol, info_from_name(source, skeleton.name))] |= {r.label for r in rows}
        starts = [row.start for row in rows]
        out_of_order += starts != sorted(starts)
        short += any(row.end - row.start < 10 for row in rows)
        for row in rows:
            bodies = sequence.num_bodies[row.start : row.end]
            assert bodies.min() >= 1
            if row.label in pkummd.TWO_PERSON:
                two_bodies += bodies.max() == 2
    assert len(set(map(frozenset, labels.values()))) == 1
    assert len(labels) == 4
    assert len(labels["xsub", "train"]) == 6
    assert out_of_order
    assert two_bodies
    assert short


def test_views_of_a_video_share_the_performance_and_not_the_camera(tmp_path: Path) -> None:
    out = synthesize("pkummd1", tmp_path / "raw", subjects=2, classes=2, samples=6, seed=0, zipped=False)
    left, middle, right = (out / f"Label_PKUMMD/Train_Label_PKU_final/0002-{view}.txt" for view in "LMR")
    assert left.read_bytes() == middle.read_bytes() == right.read_bytes()
    frames = [
        parse("pkummd1", (out / f"PKU_Skeleton_Renew/0002-{view}.txt").read_bytes(), view, view).frames
        for view in "LMR"
    ]
    heights = [f[50, 0, :, 1] for f in frames]
    assert np.allclose(heights[0], heights[1], atol=0.05)
    assert np.allclose(heights[0], heights[2], atol=0.05)
    assert np.abs(frames[0][50, 0, :, 2] - frames[2][50, 0, :, 2]).max() > 0.1


GOOD = {"source": "ntu", "subjects": 4, "classes": 3, "samples": 6, "seed": 0}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"source": "nwucla"}, "nwucla"),
        ({"samples": 0}, "0 samples"),
        ({"seed": -1}, "seed -1"),
        ({"subjects": 1}, "1 subjects"),
        ({"subjects": 41}, "41 subjects"),
        ({"classes": 1}, "1 classes"),
        ({"classes": 121}, "121 classes"),
        ({"samples": 10_000}, "10000 samples"),
        ({"source": "pkummd1", "classes": 52}, "52 classes"),
        ({"source": "pkummd2", "subjects": 14}, "14 subjects"),
        ({"source": "pkummd2", "samples": 2_000}, "2000 samples"),
    ],
)
def test_impossible_numbers_are_refused_and_leave_nothing(
    tmp_path: Path, changes: dict[str, object], found: str
) -> None:
    with pytest.raises(ConfigError, match=found):
        synthesize(out=tmp_path / "raw", zipped=True, **{**GOOD, **changes})  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(ConfigError, match="not empty"):
            synthesize(out=out, zipped=False, **GOOD)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_and_what_a_killed_run_left_are_taken_over(tmp_path: Path) -> None:
    out = tmp_path / "raw"
    out.mkdir()
    (tmp_path / ".raw.tmp").mkdir()
    (tmp_path / ".raw.tmp/rest").write_text("half")
    synthesize(out=out, zipped=False, **GOOD)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]
    assert len(find_files([out], SUFFIXES["ntu"])) == GOOD["samples"] + 1


def test_a_failure_in_the_middle_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = ntu._recording, []

    def failing(name: str, number: int, seed: int, lengths: tuple[int, int]) -> bytes:
        calls.append(name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(name, number, seed, lengths)

    monkeypatch.setattr(ntu, "_recording", failing)
    with pytest.raises(KeyboardInterrupt):
        synthesize(out=tmp_path / "raw", zipped=True, **GOOD)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("call", ["zipfile.ZipFile.writestr", "pathlib.Path.write_bytes", "pathlib.Path.mkdir"])
def test_a_disk_that_refuses_an_archive_is_named_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(call, refuse)
    with pytest.raises(
        DiskError, match=rf"^{tmp_path / 'raw'}: found .* \({os.strerror(number)}\), .* for the archive$"
    ):
        synthesize(out=tmp_path / "raw", zipped="zip" in call, **GOOD)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
