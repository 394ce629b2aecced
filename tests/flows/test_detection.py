"""The detection task: an oracle, a model that has learned, best and chosen epochs, and videos that cannot be used."""

import csv
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flows.evaluate import evaluate, find_omitted_tasks
from flows.options import EvaluateOptions, PretrainOptions
from flows.pretrain import pretrain
from flows.tasks.config import DetectionTaskConfig
from flows.tasks.detect import FrameScores, ScoredEpoch, find_all, of_epochs, write_detections
from models.evaluation.detection.events import Events
from models.evaluation.detection.segments import PostProcessing
from models.evaluation.results import TaskResult
from pipelines.conversion.convert import convert
from pipelines.synthetic import synthesize
from pipelines.videos.labels import frame_labels
from pipelines.videos.sides import Videos, open_videos
from shards.catalog import info_from_name, read_list
from shards.errors import ConfigError
from shards.manifest import Manifest, counts, read_manifest, write_manifest
from shards.schema import FORMAT_VERSION, Segment
from shards.store import create, write_frames

CLASSES = 51
TRAIN, TEST = (sorted(read_list(f"pkummd1_xsub_{side}")) for side in ("train", "test"))
# frames of rest between two actions that the mean filter of the published setting bridges: with a half width of 10, 12
# frames of background leave 8 of 20 frames active, which is an activity of 0.4
BRIDGED = 12

QUICK = (
    "baselines=false",
    "detection.epochs=3",
    "detection.score_every=1",
    "detection.windows_per_video=64",
    "detection.lr=1",
    "detection.train_strides=[1,1]",
    "detection.test_stride=1",
)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of 48 synthetic videos of all 51 classes, 24 on either side."""
    folder = tmp_path_factory.mktemp("pku")
    raw = synthesize("pkummd1", folder / "raw", subjects=16, classes=CLASSES, samples=48, seed=0, zipped=False)
    return convert("pkummd1", [raw], folder / "data", workers=0).folder


@pytest.fixture(scope="module")
def test_videos(archive: Path) -> Videos:
    return open_videos(archive, "pkummd1", "xsub", "test")


def oracle(videos: Videos) -> FrameScores:
    """Certain of the true class of each frame."""
    return lambda number: np.eye(CLASSES + 1)[videos.videos[number].label]


def apart(videos: Videos) -> Videos:
    """The same videos with only those actions labelled that the mean filter can tell from the one before."""
    kept = []
    for video in videos.videos:
        actions: list[Segment] = []
        for action in sorted(video.actions, key=lambda action: action.start):
            if not actions or action.start - actions[-1].end > BRIDGED:
                actions.append(action)
        label, _ = frame_labels(len(video), actions)
        kept.append(replace(video, actions=tuple(actions), label=label))
    return replace(videos, videos=tuple(kept))


def test_an_oracle_reaches_1_by_both_evaluators_where_actions_are_apart(test_videos: Videos, tmp_path: Path) -> None:
    videos, options = apart(test_videos), DetectionTaskConfig()
    truth = videos.actions()
    # classes without ground truth count 0 in the mAP of PKU-MMD's own evaluator
    assert set(truth[:, 1]) == set(range(1, CLASSES + 1))
    found = find_all(videos, oracle(videos), options.post)
    scored = write_detections(tmp_path / "detections", "oracle", videos, found, options)
    measures = ("mAP", "mAP_action", "mAP_video", "F1")
    expected = {f"{name}@{tiou:g}": 1.0 for name in measures for tiou in (0.1, 0.2, 0.3, 0.4, 0.5)}
    assert scored.scores.keys() == {*expected, "2DAP"}
    assert {name: scored.scores[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert (scored.details["actions"], scored.details["detections"]) == (len(truth), len(truth))
    for name, events in (("truth", truth), ("oracle", np.array([found.video, found.label, found.start, found.end]).T)):
        with (tmp_path / "detections" / f"{name}.csv").open(newline="") as file:
            rows = [
                (row["video"], int(row["class"]), int(row["start"]), int(row["stop"])) for row in csv.DictReader(file)
            ]
        assert rows == [(videos.keys[row[0]], *row[1:4]) for row in events.tolist()]


def test_smoothing_grows_actions_and_joins_those_12_frames_apart_whatever_their_classes(test_videos: Videos) -> None:
    found = find_all(test_videos, oracle(test_videos), PostProcessing())
    joined = 0
    for number, video in enumerate(test_videos.videos):
        groups: list[list[Segment]] = []
        for action in sorted(video.actions, key=lambda action: action.start):
            if groups and action.start - groups[-1][-1].end <= BRIDGED:
                groups[-1].append(action)
            else:
                groups.append([action])
        own = found.take(found.video == number)
        assert own.start.tolist() == [group[0].start - 2 for group in groups]
        # fewer frames are left for the mean near the end of the video, where it reaches further
        assert own.end[:-1].tolist() == [group[-1].end + 3 for group in groups[:-1]]
        assert groups[-1][-1].end + 3 <= own.end[-1] <= len(video)
        for label, group in zip(own.label.tolist(), groups, strict=True):
            assert label - 1 in {action.label for action in group}
        joined += len(video.actions) - len(groups)
    assert joined > 0
    assert len(found) == len(test_videos.actions()) - joined


def test_an_encoder_that_has_learned_clearly_beats_the_same_one_before(archive: Path, tmp_path: Path) -> None:
    """100 steps of momentum contrast on the trimmed actions; tests/benchmarks/detection.py has more seeds and figures.

    mAP@0.5 of seeds 0, 1, 2: 0.45, 0.43, 0.42 against 0.20, 0.31, 0.21.
    """
    run = tmp_path / "run"
    small = (
        "objective.encoder.layers=1",
        "objective.encoder.hidden=32",
        'objective.pairs=["base"]',
        "objective.prediction_weight=0",
        "objective.queue_size=256",
        "views.frames=16",
        "views.clip_frames=4",
        "train.epochs=25",
        "train.stages.post.epochs=0",
    )
    known = {"data": str(archive), "dataset": "pkummd1", "protocol": "xsub", "device": "cpu"}
    pretrain(PretrainOptions(method="pcm3pp-small", run=run, overrides=small, **known))
    short = (
        "detection.coordinates=recipe",
        "detection.input_norm=frozen",
        "detection.train_strides=[2,2]",
        "detection.test_stride=2",
        "detection.windows_per_video=64",
        "detection.epochs=10",
        "detection.milestones=[8]",
        "detection.score_every=10",
        "detection.lr=1",
    )
    trained, random = evaluate(EvaluateOptions(run=run, tasks=("detection",), overrides=short, device="cpu"))
    assert (trained.subject, random.subject) == ("trained", "random encoder")
    for name in ("mAP@0.3", "mAP@0.5", "mAP_action@0.5"):
        assert trained.scores[name] > 0.3
        assert trained.scores[name] > random.scores[name] + 0.1


def ask(run: Path, tmp_path: Path, data: Path, *overrides: str) -> EvaluateOptions:
    """Detection with a copy of the run, in the videos of that store."""
    copy = tmp_path / "run"
    if not copy.exists():
        shutil.copytree(run, copy)
    named = (*QUICK, f"detection.data={data}", *overrides)
    return EvaluateOptions(run=copy, tasks=("detection",), overrides=named, device="cpu")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of 12 synthetic videos of 3 classes: two performances on either side, from three sides each."""
    folder = tmp_path_factory.mktemp("few")
    raw = synthesize("pkummd1", folder / "raw", subjects=2, classes=3, samples=12, seed=0, zipped=False)
    return convert("pkummd1", [raw], folder / "data", workers=0).folder


def test_last_and_best_epoch_are_both_stated(run: Path, few: Path, tmp_path: Path) -> None:
    (row,) = evaluate(ask(run, tmp_path, few, "detection.epochs=5", "detection.score_every=2"))
    curve = row.details["curve"]
    assert isinstance(curve, list)
    assert row.details["scored_epochs"] == [1, 3, 4]
    assert curve[-1] == row.scores["mAP@0.5"]
    assert row.scores["best mAP@0.5"] == max(curve)  # type: ignore[type-var]  # numbers
    assert row.details["best_epoch"] == [1, 3, 4][curve.index(row.scores["best mAP@0.5"])]
    assert "chosen mAP@0.5" not in row.scores
    # an epoch on the way is the last one of a shorter training; scores on the way leave training as it is
    (shorter,) = evaluate(ask(run, tmp_path, few, "detection.epochs=4", "detection.score_every=4"))
    assert (shorter.details["scored_epochs"], shorter.details["curve"]) == ([3], [curve[1]])
    assert len({*curve, 0.0}) > 2


def test_the_best_epoch_is_chosen_at_the_largest_overlap_and_the_first_of_equals() -> None:
    none = Events.of([], [], [], [])
    test = [(0.3, 0.9), (0.5, 0.2), (0.5, 0.3), (0.4, 0.8)]
    validation = [(0.1, 0.9), (0.2, 0.1), (0.6, 0.1), (0.6, 0.2)]
    epochs = [ScoredEpoch(5 * n + 4, none, a, b) for n, (a, b) in enumerate(zip(test, validation, strict=True))]
    scored = of_epochs(epochs, (0.5, 0.1))
    assert scored.scores == {"best mAP@0.5": 0.5, "chosen mAP@0.5": 0.5, "chosen mAP@0.1": 0.3}
    assert scored.details == {
        "best_epoch": 9,
        "chosen_epoch": 14,
        "scored_epochs": [4, 9, 14, 19],
        "curve": [0.3, 0.5, 0.5, 0.4],
        "validation_curve": [0.1, 0.2, 0.6, 0.6],
    }


def chosen_at(row: TaskResult) -> int:
    """Index of the epoch that the validation videos chose."""
    curve = row.details["validation_curve"]
    assert isinstance(curve, list)
    return curve.index(max(curve))  # type: ignore[type-var]  # numbers


def test_validation_videos_are_of_other_subjects_where_names_tell_them(run: Path, tmp_path: Path) -> None:
    raw = synthesize("pkummd2", tmp_path / "raw", subjects=4, classes=3, samples=12, seed=0, zipped=False)
    data = convert("pkummd2", [raw], tmp_path / "data", workers=0).folder
    (row,) = evaluate(ask(run, tmp_path, data, "detection.dataset=pkummd2", "validation=0.5"))
    train = open_videos(data, "pkummd2", "xsub", "train")
    held_out = row.details["validation_videos"]
    assert isinstance(held_out, list)
    sides: tuple[set[int], set[int]] = (set(), set())
    for video in train.videos:
        sides[video.key in held_out].add(video.info.subject)
    assert all(sides)
    assert not sides[0] & sides[1]
    assert row.details["validation_by"] == "subject"
    assert row.details["fingerprint"] == read_manifest(data).fingerprint
    curve = row.details["curve"]
    assert isinstance(curve, list)
    assert row.details["chosen_epoch"] == chosen_at(row)
    assert row.scores["chosen mAP@0.5"] == curve[chosen_at(row)]


def test_validation_videos_are_whole_recordings_where_names_do_not_tell_subjects(
    run: Path, few: Path, tmp_path: Path
) -> None:
    (row,) = evaluate(ask(run, tmp_path, few, "validation=0.2", "detection.epochs=1"))
    assert row.details["validation_by"] == "recording"
    keys = open_videos(few, "pkummd1", "xsub", "train").keys
    held_out = row.details["validation_videos"]
    assert held_out in [[key for key in keys if key.startswith(name)] for name in {key[:4] for key in keys}]


def test_one_recording_cannot_be_divided_for_validation(run: Path, tmp_path: Path) -> None:
    data = labelled_store(tmp_path / "data", {TRAIN[0]: [(0, 0, 5)], TEST[0]: [(0, 0, 5)]})
    with pytest.raises(ConfigError, match="--tasks detection: validation by subject: found 1 subject, expected at"):
        evaluate(ask(run, tmp_path, data, "validation=0.2"))


Actions = Sequence[tuple[int, int, int]]
"""Label from 0, first frame and stop frame, in the order of the label file."""


def labelled_store(folder: Path, videos: Mapping[str, Actions], length: int = 60) -> Path:
    """A finished store of noise with these labels, whatever they say."""
    keys = sorted(videos)
    frames = np.random.default_rng(0).normal(size=(length * len(keys), 2, 25, 3)).astype(np.float32)
    labelled = [
        Segment(number, row, start, stop, label, 2)
        for number, key in enumerate(keys)
        for row, (label, start, stop) in enumerate(videos[key])
    ]
    create(folder / "store.zarr", [info_from_name("pkummd1", key) for key in keys], [length] * len(keys), labelled)
    error = write_frames(folder / "store.zarr", 0, frames)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        source="pkummd1",
        recipe="raw",
        recipe_steps=[],
        inventory="0" * 64,
        fingerprint="0" * 12,
        counts=counts(sequences=len(keys), samples=len(labelled), frames=len(frames), dropped=0, repaired=0),
        dtype="float32",
        max_error=error,
        cells={},
        shards=[],
        files=[],
        dropped=[],
        repaired=[],
    )
    write_manifest(folder, manifest)
    return folder


def test_videos_without_a_label_are_left_out_and_listed(run: Path, tmp_path: Path) -> None:
    data = labelled_store(
        tmp_path / "data", {TRAIN[0]: [(3, 5, 40)], TRAIN[1]: [], TEST[0]: [(3, 5, 40)], TEST[1]: [], TEST[2]: []}
    )
    (row,) = evaluate(ask(run, tmp_path, data))
    assert row.details["unlabelled"] == [TRAIN[1], TEST[1], TEST[2]]
    assert (row.details["videos"], row.details["actions"]) == (1, 1)


def test_classes_that_only_one_side_has_are_listed(run: Path, tmp_path: Path) -> None:
    data = labelled_store(tmp_path / "data", {TRAIN[0]: [(3, 5, 40), (4, 45, 50)], TEST[0]: [(3, 5, 40), (9, 45, 50)]})
    (row,) = evaluate(ask(run, tmp_path, data))
    assert row.details["missing_classes"] == sorted(set(range(CLASSES)) - {3, 4})
    assert row.details["untested_classes"] == sorted(set(range(CLASSES)) - {3, 9})


def test_overlapping_labels_are_all_scored_and_train_the_last_row(run: Path, tmp_path: Path) -> None:
    twice = [(3, 5, 40), (4, 30, 50), (5, 31, 33)]
    data = labelled_store(tmp_path / "data", {TRAIN[0]: twice, TEST[0]: twice[:2]})
    (row,) = evaluate(ask(run, tmp_path, data))
    assert row.details["training_overlaps"] == {"frames": 10, "actions": 3, "hidden": 0}
    assert row.details["actions"] == 2
    assert len((tmp_path / "run" / "results" / "detections" / "truth.csv").read_text().splitlines()) == 3
    label = open_videos(data, "pkummd1", "xsub", "train").videos[0].label.tolist()
    assert label == [0] * 5 + [4] * 25 + [5] + [6] * 2 + [5] * 17 + [0] * 10


GOOD: Actions = [(3, 5, 40)]
BAD: dict[str, tuple[dict[str, Actions], str]] = {
    "a label outside the catalogue": (
        {TRAIN[0]: GOOD, TEST[0]: [*GOOD, (51, 45, 50)]},
        f"video {TEST[0]}, row 2 of its labels: found label 51, expected 0 to 50",
    ),
    "frames outside the video": (
        {TRAIN[0]: [(3, 5, 61)], TEST[0]: GOOD},
        f"video {TRAIN[0]}, row 1 of its labels: found frames 5 to 61, expected some within 0 to 60",
    ),
    "no labelled test video": (
        {TRAIN[0]: GOOD, TEST[0]: []},
        "pkummd1 xsub test: found no labelled action in 1 videos, expected at least one",
    ),
    "no class on both sides": (
        {TRAIN[0]: GOOD, TEST[0]: [(4, 5, 40)]},
        "found training actions of the classes 3 and test actions of 4, expected a class on both sides",
    ),
    "no training video": ({TEST[0]: GOOD}, "pkummd1 xsub train: found no video, expected at least one"),
}


@pytest.mark.parametrize(("videos", "message"), BAD.values(), ids=BAD)
def test_labels_that_cannot_be_are_refused_before_any_work_and_left_out_of_all(
    run: Path, tmp_path: Path, videos: Mapping[str, Actions], message: str
) -> None:
    request = ask(run, tmp_path, labelled_store(tmp_path / "data", videos))
    with pytest.raises(ConfigError, match=f"--tasks detection: .*{message}"):
        evaluate(request)
    assert message in find_omitted_tasks(request.model_copy(update={"tasks": ("all",)}))["detection"]
    assert not list((tmp_path / "run").rglob("detection*"))


def test_validation_videos_of_which_no_class_trains_are_refused(run: Path, tmp_path: Path) -> None:
    videos = {TRAIN[0]: GOOD, TRAIN[3]: [(4, 5, 40)], TEST[0]: [*GOOD, (4, 41, 50)]}
    data = labelled_store(tmp_path / "data", videos)
    message = r"--tasks detection: .*found training actions of the classes (3|4) and validation actions of (3|4), expec"
    with pytest.raises(ConfigError, match=message):
        evaluate(ask(run, tmp_path, data, "validation=0.5"))
    assert not list((tmp_path / "run").rglob("detection*"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("detection.dataset=pkummd2", "expected a finished store of source pkummd2"),
        ("detection.protocol=xset", "unknown protocol 'xset' of pkummd1"),
        ("layer=mean", "the layer is mean: detection reads the encoder's output"),
        ("layer=layer1", "the layer is layer1: detection reads the encoder's output"),
        ("detection.post.pad_to=59", "detection.post.pad_to is 59, expected at least 60, the frames of a test video"),
    ],
)
def test_what_the_task_cannot_use_is_told(run: Path, tmp_path: Path, override: str, message: str) -> None:
    data = labelled_store(tmp_path / "data", {TRAIN[0]: GOOD, TEST[0]: GOOD})
    with pytest.raises(ConfigError, match=f"--tasks detection: .*{message}"):
        evaluate(ask(run, tmp_path, data, override))


def test_trimmed_data_have_no_videos_to_detect_in(run: Path, store: Path, tmp_path: Path) -> None:
    options = "detection.dataset=ntu60", "detection.protocol=xview"
    with pytest.raises(ConfigError, match="found trimmed samples of ntu60, expected untrimmed videos"):
        evaluate(ask(run, tmp_path, store, *options))


def test_a_store_that_is_missing_is_told_with_its_place(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--tasks detection: .*nowhere: found no such folder, expected one"):
        evaluate(ask(run, tmp_path, tmp_path / "nowhere"))
