import shutil
from itertools import count
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pipelines.conversion.convert import convert
from pipelines.synthetic import synthesize
from pipelines.videos.labels import Overlaps
from pipelines.videos.sides import open_videos
from shards.catalog import read_list
from shards.errors import ConfigError, StoreError
from shards.places import Place, place
from shards.protocols import split

TRAIN, TEST = (sorted(read_list(f"pkummd1_xsub_{side}")) for side in ("train", "test"))
Source = dict[str, tuple[npt.NDArray[np.float32], list[tuple[int, int, int]]]]
_numbers = count()


def zeros(length: int = 20) -> npt.NDArray[np.float32]:
    return np.zeros((length, 2, 25, 3), np.float32)


def remote(folder: Path) -> Place:
    there = place(f"memory://videos-{next(_numbers)}/store")
    for path in folder.rglob("*"):
        if path.is_file():
            target = there / path.relative_to(folder).as_posix()
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return there


@pytest.mark.parametrize("where", [lambda folder: folder, remote])
def test_a_side_holds_the_videos_of_its_protocol_with_frames_and_actions(where, folder: Path, source: Source) -> None:
    for side, keys in (("train", TRAIN[:5]), ("test", TEST[:1])):
        videos = open_videos(where(folder), "pkummd1", "xsub", side)
        assert videos.keys == tuple(keys)
        assert [len(video) for video in videos.videos] == [len(source[key][0]) for key in keys]
        assert videos.num_frames == sum(len(source[key][0]) for key in keys)
        assert videos.num_classes == 51
        for number, key in enumerate(keys):
            np.testing.assert_array_equal(videos.frames(number), source[key][0])
        rows = [[n, label + 1, a, b, 2] for n, key in enumerate(keys) for label, a, b in source[key][1]]
        assert videos.actions().tolist() == rows


def test_a_subset_keeps_only_the_videos_asked_for(folder: Path) -> None:
    videos = open_videos(folder, "pkummd1", "xsub", "train")
    some = videos.subset([3, 1])
    assert some.keys == (TRAIN[3], TRAIN[1])
    np.testing.assert_array_equal(some.frames(0), videos.frames(3))


def test_overlaps_are_counted_over_the_whole_side(make_store, tmp_path: Path) -> None:
    actions = [(3, 0, 10), (4, 8, 12)]
    folder = make_store(tmp_path / "s", {TRAIN[0]: (zeros(), actions), TRAIN[1]: (zeros(), actions)})
    videos = open_videos(folder, "pkummd1", "xsub", "train")
    assert videos.videos[1].label.tolist() == [4] * 8 + [5] * 4 + [0] * 8
    assert videos.overlaps == Overlaps(frames=4, actions=4, hidden=0)


def test_a_video_without_a_labelled_action_is_left_out_by_name(
    make_store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_store(tmp_path / "s", {TRAIN[0]: (zeros(), [(3, 0, 5)]), TRAIN[1]: (zeros(), [])})
    videos = open_videos(folder, "pkummd1", "xsub", "train")
    assert videos.keys == (TRAIN[0],)
    assert videos.unlabelled == (TRAIN[1],)
    assert TRAIN[1] in caplog.text


def test_a_side_of_which_no_video_is_labelled_is_refused(make_store, tmp_path: Path) -> None:
    folder = make_store(tmp_path / "s", {TRAIN[0]: (zeros(), []), TEST[0]: (zeros(), [(3, 0, 5)])})
    with pytest.raises(StoreError, match="pkummd1 xsub train: found no labelled action in 1 videos"):
        open_videos(folder, "pkummd1", "xsub", "train")


def test_a_side_without_a_video_is_refused(make_store, tmp_path: Path) -> None:
    folder = make_store(tmp_path / "s", {TRAIN[0]: (zeros(), [(3, 0, 5)])})
    with pytest.raises(StoreError, match="pkummd1 xsub test: found no video"):
        open_videos(folder, "pkummd1", "xsub", "test")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((51, 0, 5), "found label 51, expected 0 to 50"),
        ((-1, 0, 5), "found label -1, expected 0 to 50"),
        ((1, 5, 21), "found frames 5 to 21, expected some within 0 to 20"),
        ((1, 5, 5), "found frames 5 to 5"),
        ((1, -1, 5), "found frames -1 to 5"),
    ],
)
def test_an_action_that_cannot_be_is_refused_by_video_and_row(
    make_store, tmp_path: Path, row: tuple[int, int, int], message: str
) -> None:
    folder = make_store(tmp_path / "s", {TRAIN[0]: (zeros(), [(3, 0, 5), row])})
    with pytest.raises(StoreError, match=f"video {TRAIN[0]}, row 2 of its labels: {message}"):
        open_videos(folder, "pkummd1", "xsub", "train")


def test_a_trimmed_source_has_no_videos_to_detect_in(make_store, tmp_path: Path) -> None:
    folder = make_store(tmp_path / "s", {"S001C001P001R001A001": (zeros(), None)}, source="ntu")
    with pytest.raises(ConfigError, match="found trimmed samples of ntu60, expected untrimmed videos"):
        open_videos(folder, "ntu60", "xsub", "train")


def test_a_store_of_another_source_is_refused(folder: Path) -> None:
    with pytest.raises(StoreError, match="found a store of pkummd1, expected one of pkummd2"):
        open_videos(folder, "pkummd2", "xsub", "train")


def test_an_unknown_protocol_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="unknown protocol 'xset'"):
        open_videos(folder, "pkummd1", "xset", "train")


def test_frames_whose_file_is_gone_are_refused_not_zeros(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    videos = open_videos(copy, "pkummd1", "xsub", "train")
    (copy / "store.zarr/frames/c/0/0/0/0").unlink()
    with pytest.raises(StoreError, match="found no file"):
        videos.frames(0)


def test_videos_of_a_converted_archive_have_the_labels_of_its_files(tmp_path: Path) -> None:
    raw = synthesize("pkummd1", tmp_path / "raw", subjects=2, classes=3, samples=4, seed=1, zipped=False)
    folder = convert("pkummd1", [raw], tmp_path / "data", recipe="pcm3", workers=0).folder
    for side in ("train", "test"):
        videos = open_videos(folder, "pkummd1", "xsub", side)
        assert len(videos) == 2
        for number, video in enumerate(videos.videos):
            assert split("pkummd1", "xsub", video.info) == side
            file = next(raw.rglob(f"Train_Label_PKU_final/{video.key}.txt"))
            rows = np.loadtxt(file, delimiter=",", dtype=int, ndmin=2)
            label = np.zeros(len(video), int)
            for name, start, stop, _ in rows:
                label[start:stop] = name
            np.testing.assert_array_equal(video.label, label)
            numbers = np.loadtxt(next(raw.rglob(f"PKU_Skeleton_Renew/{video.key}.txt")))
            np.testing.assert_allclose(videos.frames(number).reshape(len(video), -1), numbers, atol=1e-6)
            own = videos.actions()[videos.actions()[:, 0] == number]
            np.testing.assert_array_equal(own[:, 1:], rows)
