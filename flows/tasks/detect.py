"""Detection of actions in untrimmed videos.

Ground truth may overlap: both evaluators take every labelled action as it stands. A frame trains one class alone; where
actions overlap it is that of the action whose row comes last in the label file (`pipelines.videos.labels`), and the
details of a result count the training frames so decided.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from flows.tasks.bench import Bench, Ids, Scored, Subject, repeats
from flows.tasks.config import DetectionTaskConfig, EvaluateConfig
from models.evaluation.detection.average_precision import ap_scores
from models.evaluation.detection.detector import Detector, frame_scores, train_detector
from models.evaluation.detection.events import Events, concatenate
from models.evaluation.detection.official import official_scores
from models.evaluation.detection.segments import PostProcessing, Probabilities, find_actions
from models.evaluation.results import Setting
from models.evaluation.subsets import split_by_subject
from pipelines.videos.sides import Videos, open_videos
from pipelines.videos.views import TrainWindows, WholeVideos, frame_windows, whole_video
from shards.batch import EpochViews, Views
from shards.errors import ConfigError, SkelstreamError
from shards.files import write_atomic
from shards.progress import Progress
from shards.schema import UNKNOWN

EVENTS = "detections"
"""Folder of the actions that were found, and of the true ones."""

FrameScores = Callable[[int], Probabilities]
"""Number of a video -> class probabilities of its frames, (T, C+1); column 0 is background."""


class Sides(NamedTuple):
    """The videos of a detection task.

    Attributes:
        train: those that train the layer.
        test: those that are scored.
        validation: those that choose an epoch; None where none do.
        validation_by: what `train` and `validation` do not share: "subject", or "recording" (all views of a
            performance) where names do not tell who acts, as in PKU-MMD I.
        unlabelled: keys of videos left out of either side because they have no labelled action.
        fingerprint: of their store.
    """

    train: Videos
    test: Videos
    validation: Videos | None
    validation_by: str | None
    unlabelled: tuple[str, ...]
    fingerprint: str


class ScoredEpoch(NamedTuple):
    """What was found after an epoch (from 0), and mAP at each tIoU asked for."""

    epoch: int
    found: Events
    mean_ap: tuple[float, ...]
    validation: tuple[float, ...] | None


def find_detection_obstacle(bench: Bench) -> str | None:
    """Why there is nothing to detect in, if so."""
    if bench.options.layer != "last":
        return f"the layer is {bench.options.layer}: detection reads the encoder's output"
    try:
        _check_encoder(bench)
        _check_frames(_sides(bench), bench.options.detection)
        _absent(_sides(bench))
    except SkelstreamError as error:
        return str(error)
    return None


def video_data(bench: Bench) -> dict[str, Any]:
    """Of which data the videos are."""
    return {"fingerprint": _sides(bench).fingerprint}


def detection_settings(options: EvaluateConfig) -> list[Setting]:
    return repeats(options.detection.seed, options)


def detection(bench: Bench, subject: Subject, setting: Setting) -> Scored:
    """Actions found in the test videos, scored by both published evaluators; last, best and chosen epoch."""
    seed = int(setting["seed"])
    options, sides = bench.options.detection.model_copy(update={"seed": seed}), _sides(bench)
    epochs: list[ScoredEpoch] = []

    def score(epoch: int, detector: Detector) -> None:
        def found_in(videos: Videos) -> Events:
            scores_of = _frame_scores(bench, detector, videos, options)
            return find_all(videos, scores_of, options.post, progress=bench.progress)

        found, validation = found_in(sides.test), None
        if sides.validation is not None:
            validation = _mean_ap(sides.validation, found_in(sides.validation), options.tious)
        epochs.append(ScoredEpoch(epoch, found, _mean_ap(sides.test, found, options.tious), validation))

    train_detector(
        bench.encoder(subject),
        _training_views(bench, sides.train, options),
        options,
        sides.train.num_classes,
        device=bench.device,
        progress=bench.progress,
        after_epoch=score,
    )
    folder, name = bench.source.results / EVENTS, f"{subject.replace(' ', '-')}-seed-{seed}"
    last, over_epochs = (
        write_detections(folder, name, sides.test, epochs[-1].found, options),
        of_epochs(epochs, options.tious),
    )
    details = {
        **video_data(bench),
        "dataset": options.dataset,
        "protocol": options.protocol,
        **_absent(sides),
        "unlabelled": list(sides.unlabelled),
        "training_overlaps": dict(vars(sides.train.overlaps)),
        "validation_by": sides.validation_by,
        "validation_videos": None if sides.validation is None else list(sides.validation.keys),
    }
    return Scored({**last.scores, **over_epochs.scores}, {**last.details, **over_epochs.details, **details})


def find_all(videos: Videos, scores_of: FrameScores, post: PostProcessing, *, progress: bool = False) -> Events:
    """The actions found in all videos, from class probabilities of their frames.

    Raises:
        ConfigError: see `find_actions`.
    """
    bar = Progress("videos", len(videos), "video", shown=progress, passing=True)
    return concatenate([find_actions(scores_of(number), number, post) for number in bar.over(range(len(videos)))])


def write_detections(folder: Path, name: str, videos: Videos, found: Events, options: DetectionTaskConfig) -> Scored:
    """The scores of what was found by both evaluators; truth and findings are written into `folder`.

    Args:
        folder: gets truth.csv and NAME.csv.
        name: of what was found.
        videos: the test videos.
        found: in them.
        options: the thresholds of tIoU are read.
    """
    truth = _truth(videos)
    _write_events(folder / "truth.csv", videos, truth)
    _write_events(folder / f"{name}.csv", videos, found)
    return _scores(videos, truth, found, options.tious)


def of_epochs(epochs: Sequence[ScoredEpoch], tious: Sequence[float]) -> Scored:
    """The best epoch, and the one that validation videos choose, by mAP at the largest tIoU asked for.

    So the reference chooses, at 0.5. The best one is chosen on the test videos, as published figures are, and so too
    high. Of equal epochs it is the first.
    """
    largest = tious.index(max(tious))
    curve = [epoch.mean_ap[largest] for epoch in epochs]
    best = curve.index(max(curve))
    scores: dict[str, float | int] = {f"best mAP@{tious[largest]:g}": curve[best]}
    details: dict[str, Any] = {
        "best_epoch": epochs[best].epoch,
        "chosen_epoch": None,
        "scored_epochs": [epoch.epoch for epoch in epochs],
        "curve": curve,
        "validation_curve": None,
    }
    validation = [epoch.validation[largest] for epoch in epochs if epoch.validation is not None]
    if validation:
        chosen = epochs[validation.index(max(validation))]
        scores |= {f"chosen mAP@{tiou:g}": value for tiou, value in zip(tious, chosen.mean_ap, strict=True)}
        details |= {"chosen_epoch": chosen.epoch, "validation_curve": validation}
    return Scored(scores, details)


def _sides(bench: Bench) -> Sides:
    return bench.once("videos", lambda: _open_sides(bench))


def _open_sides(bench: Bench) -> Sides:
    named = bench.options.detection
    other = bench.other(named.dataset, named.protocol, named.data)
    train = open_videos(other.folder, named.dataset, named.protocol, "train")
    test = open_videos(other.folder, named.dataset, named.protocol, "test")
    whole = Sides(train, test, None, None, train.unlabelled + test.unlabelled, other.manifest.fingerprint)
    if not bench.options.validation:
        return whole
    groups, by = _apart(train)
    numbers = split_by_subject(groups, np.arange(len(train)), bench.options.validation, seed=0)
    kept, held_out = (train.subset(part.tolist()) for part in numbers)
    return whole._replace(train=kept, validation=held_out, validation_by=by)


def _absent(sides: Sides) -> dict[str, list[int]]:
    """Classes (from 0) of which nothing trains or nothing is tested; ConfigError where none is on both sides."""
    chosen_by = sides.test if sides.validation is None else sides.validation
    trained, tested, chosen = (np.unique(videos.actions()[:, 1] - 1) for videos in (sides.train, sides.test, chosen_by))
    for what, other in (("test", tested), ("validation", chosen)):
        if not np.isin(other, trained).any():
            named = [", ".join(map(str, found.tolist())) for found in (trained, other)]
            raise ConfigError(
                f"{sides.train.store.path}: found training actions of the classes {named[0]} and {what} actions of"
                f" {named[1]}, expected a class on both sides"
            )
    missing, untested = (np.setdiff1d(np.arange(sides.train.num_classes), found) for found in (trained, tested))
    return {"missing_classes": missing.tolist(), "untested_classes": untested.tolist()}


def _check_encoder(bench: Bench) -> None:
    """Refuse a method, or windows of a length, that the encoder cannot take.

    Raises:
        ConfigError: what it takes.
    """
    options, frames = bench.options.detection, bench.benchmark.frames
    with torch.device("meta"):
        encoder = bench.config.objective.encoder.build()
    if options.method == "dense":
        if encoder.stride != 1:
            raise ConfigError("the encoder gives no feature of every frame, expected detection.method=window for it")
        return
    try:
        bench.config.objective.encoder.check(options.window)
    except ConfigError as error:
        raise ConfigError(f"detection.window is {options.window}, which the encoder does not take: {error}") from error
    if not encoder.any_length and options.window != frames:
        raise ConfigError(f"detection.window is {options.window}, expected {frames}, the only length the encoder takes")


def _check_frames(sides: Sides, options: DetectionTaskConfig) -> None:
    """Refuse videos that the options have no place for.

    Raises:
        ConfigError: a video to be scored is longer than `post.pad_to`, or one frame alone is to give the statistics of
            the input norm.
    """
    scored = [video for videos in (sides.test, sides.validation) if videos for video in videos.videos]
    longest, pad_to = max(map(len, scored)), options.post.pad_to
    if pad_to is not None and longest > pad_to:
        raise ConfigError(f"detection.post.pad_to is {pad_to}, expected at least {longest}, the frames of a test video")
    if options.input_norm == "reestimate" and sides.train.num_frames < 2:
        raise ConfigError("found a single training frame, expected at least 2 for the statistics of the input norm")


def _apart(videos: Videos) -> tuple[Ids, str]:
    """(N,) who acts; or, if a name does not tell, the number of the performance, whose views must not be parted."""
    subject = np.array([video.info.subject for video in videos.videos], np.int64)
    if not (subject == UNKNOWN).any():
        return subject, "subject"
    # 0002-L, 0002-M and 0002-R are one performance
    recordings = [key.rpartition("-")[0] or key for key in videos.keys]
    return np.unique(recordings, return_inverse=True)[1].astype(np.int64), "recording"


def _training_views(bench: Bench, videos: Videos, options: DetectionTaskConfig) -> EpochViews:
    stream = bench.benchmark.stream
    if options.method == "dense":
        return WholeVideos(videos, stream=stream, coordinates=options.coordinates)
    return TrainWindows(
        videos,
        stream=stream,
        coordinates=options.coordinates,
        frames=options.window,
        strides=options.train_strides,
        per_video=options.windows_per_video,
        batch_size=options.batch_size,
        seed=options.seed,
    )


def _frame_scores(bench: Bench, detector: Detector, videos: Videos, options: DetectionTaskConfig) -> FrameScores:
    return lambda number: frame_scores(
        detector, _test_views(bench, videos, number, options), device=bench.device
    ).numpy()


def _test_views(bench: Bench, videos: Videos, number: int, options: DetectionTaskConfig) -> Iterator[Views]:
    stream = bench.benchmark.stream
    if options.method == "dense":
        return iter([whole_video(videos, number, stream=stream, coordinates=options.coordinates)])
    return frame_windows(
        videos,
        number,
        stream=stream,
        coordinates=options.coordinates,
        frames=options.window,
        stride=options.test_stride,
        batch_size=bench.options.batch_size,
    )


def _truth(videos: Videos) -> Events:
    return Events.of(*videos.actions().T)


def _mean_ap(videos: Videos, found: Events, tious: Sequence[float]) -> tuple[float, ...]:
    rows = ap_scores(_truth(videos), found, np.arange(len(videos)), videos.num_classes, tious)
    return tuple(row.mean_ap for row in rows)


def _scores(videos: Videos, truth: Events, found: Events, tious: Sequence[float]) -> Scored:
    numbers = np.arange(len(videos))
    simple = ap_scores(truth, found, numbers, videos.num_classes, tious)
    official = official_scores(truth, found, numbers, videos.num_classes, tious)
    scores: dict[str, float | int] = {}
    for ours, theirs in zip(simple, official, strict=True):
        scores[f"mAP@{ours.tiou:g}"] = ours.mean_ap
        scores[f"mAP_action@{theirs.theta:g}"] = theirs.mean_ap_action
        scores[f"mAP_video@{theirs.theta:g}"] = theirs.mean_ap_video
        scores[f"F1@{theirs.theta:g}"] = theirs.f1
    scores["2DAP"] = official[0].ap_2d
    details = {
        "per_class": {f"{row.tiou:g}": list(row.per_class) for row in simple},
        "videos": len(videos),
        "actions": len(truth),
        "detections": len(found),
    }
    return Scored(scores, details)


def _write_events(path: Path, videos: Videos, found: Events) -> None:
    """Actions as text that any tool can read: video, class (from 1), first frame, stop frame, score."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = zip(found.video, found.label, found.start, found.end, found.score, strict=True)
    lines = [f"{videos.keys[video]},{label},{start},{end},{score:.6f}" for video, label, start, end, score in rows]
    write_atomic(path, "\n".join(["video,class,start,stop,score", *lines, ""]).encode())
