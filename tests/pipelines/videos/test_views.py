from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.augmentations.draws import uniform
from pipelines.augmentations.streams import apply_stream
from pipelines.loaders.order import permutation
from pipelines.videos import views
from pipelines.videos.sides import Videos, open_videos
from pipelines.videos.views import TrainWindows, WholeVideos, frame_windows, whole_video
from shards.batch import EpochViews, Views, flatten
from shards.errors import ConfigError


def joined(batches: list[Views]) -> Views:
    x = torch.cat([batch.views["x"] for batch in batches])
    return Views({"x": x}, torch.cat([b.label for b in batches]), torch.cat([b.sample_id for b in batches]))


def taken(videos: Videos, number: int, frames: list[int]) -> Tensor:
    """A window in the layout of the encoders, (16, 150)."""
    return flatten(torch.from_numpy(videos.frames(number)[frames])[None])[0]


def clipped(centre: int, stride: int, length: int, frames: int = 16) -> tuple[list[int], int]:
    start = max(0, min(centre - frames * stride // 2, length - frames * stride))
    last = length - 1
    return [min(start + i * stride, last) for i in range(frames)], min(start + frames * stride // 2, last)


def test_training_windows_equal_a_loop_over_videos(train: Videos) -> None:
    windows = TrainWindows(train, seed=7)
    assert len(windows) == 1  # 80 windows, of which 16 make no whole batch
    for epoch in range(2):
        found = joined(list(windows.epoch(epoch)))
        expected = []
        for number, video in enumerate(train.videos):
            for k in range(16):
                u = uniform(7, epoch, torch.tensor([video.row * 16 + k]), "detection", "window", 2)[0].tolist()
                frames, middle = clipped(int(u[0] * len(video)), 3 + int(u[1] * 3), len(video))
                expected.append((taken(train, number, frames), video.label[middle], video.row, middle))
        order = permutation(80, seed=7, epoch=epoch, name="detection windows")[:64]
        assert len(found) == 64
        for i, n in enumerate(order):
            x, label, row, middle = expected[n]
            assert torch.equal(found.views["x"][i], x)
            assert found.label[i] == label
            assert found.sample_id[i] == train.store.offsets[row] + middle


def test_strides_and_centres_of_training_windows_come_from_their_whole_range(folder: Path) -> None:
    video = open_videos(folder, "pkummd1", "xsub", "train").subset([0])
    windows = TrainWindows(video, per_video=2000, batch_size=2000)
    batch = next(windows.epoch(0))
    frames = torch.from_numpy(video.frames(0)).float()
    # frame numbers from their coordinates: these are all different
    place = {float(frame[0, 0, 0]): t for t, frame in enumerate(frames)}
    first, second = (torch.tensor([place[float(x)] for x in batch.views["x"][:, i, 0]]) for i in (0, 1))
    stride = second - first
    assert np.unique(stride, return_counts=True)[0].tolist() == [3, 4, 5]
    assert min(np.unique(stride, return_counts=True)[1]) > 550
    middle = batch.sample_id
    assert middle.min() == 24  # stride 3 at the very beginning
    assert middle.max() == 150 - 24
    # as many windows are moved inside as there are centres near the ends
    inside = (stride == 4) & (middle > 32) & (middle < 150 - 32)
    assert int(inside.sum()) / int((stride == 4).sum()) == pytest.approx(85 / 150, abs=0.07)


def test_an_epoch_is_a_function_of_seed_and_epoch_and_can_be_entered_anywhere(train: Videos) -> None:
    windows: EpochViews = TrainWindows(train, batch_size=16, seed=1)
    assert len(windows) == 5
    whole = list(windows.epoch(3))
    for other in (windows.epoch(3), TrainWindows(train, batch_size=16, seed=1).epoch(3)):
        assert all(torch.equal(a.views["x"], b.views["x"]) for a, b in zip(whole, other, strict=True))
    late = list(windows.epoch(3, first_step=3))
    assert [b.sample_id.tolist() for b in late] == [b.sample_id.tolist() for b in whole[3:]]
    ids = [b.sample_id.tolist() for b in whole]
    assert ids != [b.sample_id.tolist() for b in windows.epoch(4)]
    assert ids != [b.sample_id.tolist() for b in TrainWindows(train, batch_size=16, seed=2).epoch(3)]


def test_the_windows_of_a_video_do_not_depend_on_the_other_videos(train: Videos) -> None:
    def drawn(videos: Videos) -> list[int]:
        ids = next(TrainWindows(videos, batch_size=16 * len(videos)).epoch(0)).sample_id
        first = int(train.store.offsets[train.videos[2].row])
        return sorted(ids[(ids >= first) & (ids < first + len(train.videos[2]))].tolist())

    assert drawn(train.subset([2])) == drawn(train)
    assert len(drawn(train)) == 16


def test_fewer_windows_than_a_batch_are_one_batch(train: Videos) -> None:
    windows = TrainWindows(train.subset([0, 1]))
    assert windows.windows == 32
    assert [len(batch) for batch in windows.epoch(0)] == [32]


def test_windows_can_be_another_stream_by_the_recipe(make_store, source, tmp_path: Path) -> None:
    train = open_videos(make_store(tmp_path / "s", source, recipe="pcm3"), "pkummd1", "xsub", "train")
    plain = next(TrainWindows(train).epoch(0))
    other = next(TrainWindows(train, stream="bone", coordinates="recipe").epoch(0))
    assert torch.equal(plain.sample_id, other.sample_id)
    for i in range(4):
        rows = plain.views["x"][i].view(16, 25, 3, 2).permute(0, 3, 1, 2)
        clip = train.recipe.window(rows.contiguous().numpy())
        assert torch.equal(other.views["x"][i], flatten(apply_stream(torch.from_numpy(clip)[None], "bone"))[0])


def test_a_store_in_float16_gives_the_same_windows_from_half_the_memory(make_store, source, tmp_path: Path) -> None:
    train = open_videos(make_store(tmp_path / "s", source, dtype="float16"), "pkummd1", "xsub", "train")
    windows = TrainWindows(train)
    assert windows._frames.dtype == torch.float16
    batch = next(windows.epoch(0))
    assert batch.views["x"].dtype == torch.float32
    everything = {float(x) for number in range(5) for x in train.frames(number).ravel()}
    assert {float(x) for x in batch.views["x"][0].ravel()} <= everything


def test_one_window_is_centred_on_every_frame_of_a_video_in_order(train: Videos) -> None:
    for number in (0, 3):  # the second is shorter than a window
        length = len(train.videos[number])
        batches = list(frame_windows(train, number, batch_size=32))
        assert [len(batch) for batch in batches] == [32] * (length // 32) + ([length % 32] if length % 32 else [])
        found = joined(batches)
        assert found.label.tolist() == train.videos[number].label.tolist()
        first = int(train.store.offsets[train.videos[number].row])
        assert found.sample_id.tolist() == list(range(first, first + length))
        for t in range(length):
            assert torch.equal(found.views["x"][t], taken(train, number, clipped(t, 4, length)[0]))


def test_a_whole_video_is_one_sequence_with_the_classes_of_its_frames(train: Videos) -> None:
    every: EpochViews = WholeVideos(train)
    assert len(every) == 5
    for epoch in (0, 1):
        for number, batch in enumerate(every.epoch(epoch)):
            length = len(train.videos[number])
            assert torch.equal(batch.views["x"][0], taken(train, number, list(range(length))))
            assert batch.targets["x/action"].tolist() == [train.videos[number].label.tolist()]
            assert batch.sample_id.tolist() == [train.store.offsets[train.videos[number].row]]
            assert torch.equal(whole_video(train, number).views["x"], batch.views["x"])
    assert len(list(every.epoch(0, first_step=3))) == 2


def test_frames_that_fit_in_no_memory_are_refused_with_their_size(
    train: Videos, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object, **__: object) -> Tensor:
        raise RuntimeError("not enough memory")

    monkeypatch.setattr(views.torch, "empty", no_room)
    with pytest.raises(ConfigError, match=r"found no room for 484 frames \(0.00029 GB\)"):
        TrainWindows(train)


@pytest.mark.parametrize(
    "options", [{"frames": 0}, {"strides": (0, 2)}, {"strides": (5, 3)}, {"per_video": 0}, {"batch_size": 0}]
)
def test_windows_that_cannot_be_are_refused(train: Videos, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        TrainWindows(train, **options)
    if "frames" in options:
        with pytest.raises(ConfigError, match="expected at least 1"):
            next(frame_windows(train, 0, frames=0))
