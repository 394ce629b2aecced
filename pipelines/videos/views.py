"""What detection shows an encoder of videos: windows drawn for training, one window a frame, or whole videos.

Everything is the view "x" of `shards.batch.Views`; `sample_id` is the number of a frame in the store. Training windows
come from one flat buffer of the side's frames: an epoch takes 16 windows of 16 frames of each video, at random, and the
store decodes 256 frames at a time. PKU-MMD I cross-subject, 944 videos, takes 2.8 GB, or half of it from a store in
float16. Everything else is read video by video.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from pipelines.augmentations.draws import choose, uniform
from pipelines.loaders.order import permutation
from pipelines.videos.sides import Videos
from pipelines.videos.windows import Coordinates, prepare_video, prepare_windows, window_frames
from shards.batch import Views
from shards.encoding import FRAME_SHAPE
from shards.errors import ConfigError
from shards.skeleton import Stream

FRAMES = 16
STRIDES = (3, 5)
STRIDE = 4
PER_VIDEO = 16
BATCH_SIZE = 64
"""The published setting of JHang2020/Simple-Skeleton-Detection: frames of a window, strides in training (first and last
of those drawn) and test, windows of a video in an epoch, and of a batch."""

LABELS = "x/action"
"""Name of the classes of single frames, (1, T), among the targets of a whole video."""


class TrainWindows:
    """`shards.batch.EpochViews` of random windows, each with the label of its middle frame.

    Each epoch draws `per_video` windows of every video, long or short: the centre from all its frames alike and the
    stride from `strides`. So background has the share that it has in the videos. All windows are shuffled; a last batch
    that is not full is left out, as in the reference, but for an epoch that has no full one.

    Args:
        videos: read here, whole.
        stream: what the encoder was trained on.
        coordinates: "raw" as in the reference.
        frames: of a window.
        strides: smallest and largest.
        per_video: windows in an epoch.
        batch_size: windows in a step.
        seed: what is drawn depends on it, the epoch, and the video's row in the store.

    Raises:
        ConfigError: there is no room for the frames, or an argument is below 1.
        StoreError: the frames cannot be read.
    """

    def __init__(
        self,
        videos: Videos,
        *,
        stream: Stream = "joint",
        coordinates: Coordinates = "raw",
        frames: int = FRAMES,
        strides: tuple[int, int] = STRIDES,
        per_video: int = PER_VIDEO,
        batch_size: int = BATCH_SIZE,
        seed: int = 0,
    ) -> None:
        _check_window(frames, *strides)
        if not strides[0] <= strides[1] or per_video < 1 or batch_size < 1:
            raise ConfigError(
                f"found strides {strides}, {per_video} windows a video and batch size {batch_size}, expected"
                " rising strides and at least one window"
            )
        self._videos, self._stream, self._coordinates = videos, stream, coordinates
        self._window, self._strides, self._per_video = frames, strides, per_video
        self._batch_size, self._seed = batch_size, seed
        self._length = torch.tensor([len(video) for video in videos.videos])
        self._start = self._length.cumsum(0) - self._length
        self._row = torch.tensor([video.row for video in videos.videos])
        self._offset = torch.from_numpy(videos.store.offsets)[self._row]
        self._label = torch.cat([torch.from_numpy(video.label) for video in videos.videos])
        self._frames = _held(videos, self._start.tolist())

    @property
    def windows(self) -> int:
        """Windows that an epoch draws."""
        return len(self._videos) * self._per_video

    def __len__(self) -> int:
        """Steps in an epoch."""
        return max(1, self.windows // self._batch_size)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Views]:
        """The batches of an epoch, beginning with `first_step`; a pure function of (seed, epoch)."""
        video = torch.arange(len(self._videos)).repeat_interleave(self._per_video)
        ids = self._row[video] * self._per_video + torch.arange(self._per_video).repeat(len(self._videos))
        draws = uniform(self._seed, epoch, ids, "detection", "window", 2)
        centre = choose(draws[:, 0], 0, self._length[video] - 1)
        stride = choose(draws[:, 1], *self._strides)
        order = torch.from_numpy(permutation(self.windows, seed=self._seed, epoch=epoch, name="detection windows"))
        for step in range(first_step, len(self)):
            rows = order[step * self._batch_size : (step + 1) * self._batch_size]
            yield self._views(video[rows], centre[rows], stride[rows])

    def _views(self, video: Tensor, centre: Tensor, stride: Tensor) -> Views:
        taken, middle = window_frames(centre, stride, self._length[video], self._window)
        start = self._start[video]
        windows = self._frames[start[:, None] + taken].float()
        x = prepare_windows(windows, self._videos.recipe, self._coordinates, self._stream)
        return Views({"x": x}, self._label[start + middle], self._offset[video] + middle)


def _held(videos: Videos, starts: list[int]) -> Tensor:
    """The frames of all videos end to end, (F, M, V, C); float16 where the store holds no more than that."""
    dtype = torch.float16 if videos.store.dtype == "float16" else torch.float32
    shape = (videos.num_frames, *FRAME_SHAPE)
    try:
        buffer = torch.empty(shape, dtype=dtype)
    except RuntimeError as error:
        size = torch.Size(shape).numel() * dtype.itemsize / 1e9
        raise ConfigError(
            f"found no room for {videos.num_frames} frames ({size:.3g} GB), expected memory for all training videos"
            " (a store in float16 takes half)"
        ) from error
    for number, start in enumerate(starts):
        frames = torch.from_numpy(videos.frames(number))
        buffer[start : start + len(frames)] = frames
    return buffer


def frame_windows(
    videos: Videos,
    number: int,
    *,
    stream: Stream = "joint",
    coordinates: Coordinates = "raw",
    frames: int = FRAMES,
    stride: int = STRIDE,
    batch_size: int = 1024,
) -> Iterator[Views]:
    """One window centred on every frame of video `number`, in the order of the frames, batch by batch.

    Views are (N, frames, V*C*M); `label` is that of the frame itself, also where its window was moved.

    Raises:
        ConfigError: `frames` or `stride` below 1.
        StoreError: the video cannot be read.
    """
    _check_window(frames, stride)
    video = videos.videos[number]
    held, label = torch.from_numpy(videos.frames(number)), torch.from_numpy(video.label)
    for centre in torch.split(torch.arange(len(video)), batch_size):
        taken, _ = window_frames(centre, torch.full_like(centre, stride), torch.full_like(centre, len(video)), frames)
        x = prepare_windows(held[taken], videos.recipe, coordinates, stream)
        yield Views({"x": x}, label[centre], int(videos.store.offsets[video.row]) + centre)


def whole_video(videos: Videos, number: int, *, stream: Stream = "joint", coordinates: Coordinates = "raw") -> Views:
    """Video `number` as one sequence, (1, T, V*C*M), with the classes of its frames as the target `LABELS`.

    `label`, that of a sample, is background; `sample_id` is the number of the first frame.

    Raises:
        StoreError: the video cannot be read.
    """
    video = videos.videos[number]
    x = prepare_video(videos.frames(number), videos.recipe, coordinates, stream)
    first = torch.tensor([int(videos.store.offsets[video.row])])
    return Views(
        {"x": x}, torch.zeros(1, dtype=torch.int64), first, targets={LABELS: torch.from_numpy(video.label)[None]}
    )


class WholeVideos:
    """`shards.batch.EpochViews` of `whole_video`, one a step in the order of the side; nothing is drawn."""

    def __init__(self, videos: Videos, *, stream: Stream = "joint", coordinates: Coordinates = "raw") -> None:
        self._videos, self._stream, self._coordinates = videos, stream, coordinates

    def __len__(self) -> int:
        """Steps in an epoch: videos."""
        return len(self._videos)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Views]:
        """Every video; the same in each epoch."""
        for number in range(first_step, len(self)):
            yield whole_video(self._videos, number, stream=self._stream, coordinates=self._coordinates)


def _check_window(frames: int, *strides: int) -> None:
    if frames < 1 or min(strides) < 1:
        raise ConfigError(f"found windows of {frames} frames at stride {min(strides)}, expected at least 1 and 1")
