"""Detection of actions in untrimmed videos."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from flows.tasks.bench import Bench, Scored, Subject, repeats
from flows.tasks.config import DetectionTaskConfig, EvaluateConfig
from models.evaluation.detection.average_precision import ap_scores
from models.evaluation.detection.detector import Detector, frame_scores, train_detector
from models.evaluation.detection.events import Events, concatenate
from models.evaluation.detection.official import official_scores
from models.evaluation.detection.segments import find_actions
from models.evaluation.results import Setting
from pipelines.videos.sides import Videos, open_videos
from pipelines.videos.views import TrainWindows, WholeVideos, frame_windows, whole_video
from shards.batch import EpochViews, Views
from shards.errors import SkelstreamError
from shards.manifest import write_atomic
from shards.places import Place

EVENTS = "detections"
"""Folder of the actions that were found, and of the true ones."""


def detection_lacks(bench: Bench) -> str | None:
    """Why there is nothing to detect in, if so."""
    if bench.options.layer != "last":
        return f"the layer is {bench.options.layer}: detection reads the encoder's output"
    try:
        _folder(bench)
    except SkelstreamError as error:
        return str(error)
    return None


def _folder(bench: Bench) -> Place:
    named = bench.options.detection
    return bench.once("videos", lambda: bench.other(named.dataset, named.protocol, named.data)).folder


def detection_settings(options: EvaluateConfig) -> list[Setting]:
    return repeats(options.detection.seed, options)


def detection(bench: Bench, subject: Subject, setting: Setting) -> Scored:
    """Actions found in the test videos, scored by both published evaluators."""
    seed = int(setting["seed"])
    options = bench.options.detection.model_copy(update={"seed": seed})
    folder = _folder(bench)
    train = open_videos(folder, options.dataset, options.protocol, "train")
    test = open_videos(folder, options.dataset, options.protocol, "test")
    detector = train_detector(
        bench.encoder(subject),
        _training_views(bench, train, options),
        options,
        train.num_classes,
        device=bench.device,
        progress=bench.progress,
    )
    found = concatenate([_find(bench, detector, test, number, options) for number in range(len(test))])
    truth = Events.of(*test.actions().T)
    folder_of_events = bench.source.results / EVENTS
    _write_events(folder_of_events / "truth.csv", test, truth)
    _write_events(folder_of_events / f"{subject.replace(' ', '-')}-seed-{seed}.csv", test, found)
    return _scores(test, truth, found, options)


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


def _find(bench: Bench, detector: Detector, videos: Videos, number: int, options: DetectionTaskConfig) -> Events:
    scores = frame_scores(detector, _test_views(bench, videos, number, options), device=bench.device)
    return find_actions(scores.numpy(), number, options.post)


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


def _scores(videos: Videos, truth: Events, found: Events, options: DetectionTaskConfig) -> Scored:
    numbers = np.arange(len(videos))
    simple = ap_scores(truth, found, numbers, videos.num_classes, options.tious)
    official = official_scores(truth, found, numbers, videos.num_classes, options.tious)
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
        "unlabelled": list(videos.unlabelled),
        "overlapping_frames": videos.overlaps.frames,
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
