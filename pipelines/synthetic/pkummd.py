"""Synthetic PKU-MMD videos: untrimmed, filmed from three sides, with label files; both phases."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, zip_longest

import numpy as np

from pipelines.synthetic import motion
from pipelines.synthetic.archive import Entry, spread
from pipelines.synthetic.motion import Array
from shards.catalog import read_list
from shards.errors import ConfigError
from shards.skeleton import NUM_COORDINATES, NUM_JOINTS, NUM_PERSONS

NUM_CLASSES = 51
# Giving, shaking hands, hugging, kicking, patting, pointing, punching and pushing another person.
TWO_PERSON = frozenset(number - 1 for number in (12, 14, 16, 18, 21, 24, 26, 27))
_SUBJECT_LIMITS = {"pkummd1": 66, "pkummd2": 13}

_VIEWS = {"L": -np.pi / 4, "M": 0.0, "R": np.pi / 4}
_VIDEO_STREAM, _CAMERA_STREAM = 4, 5
_MIN_SEGMENTS, _MAX_SEGMENTS = 6, 20
_SHORT_SEGMENT = 6
_LINE = " ".join(["%.6f"] * NUM_PERSONS * NUM_JOINTS * NUM_COORDINATES)


@dataclass(frozen=True)
class _Side:
    """Training or test videos. `numbers` maps an id such as 0002 or A01N02 to its performer."""

    videos: list[str]
    numbers: dict[str, int]


def entries(source: str, subjects: int, classes: int, samples: int, seed: int) -> Iterator[Entry]:
    """`samples` videos, each with its label file, and the split list that lies beside them.

    Training and test videos of the official cross-subject lists alternate, as do the views.

    Raises:
        ConfigError: more subjects, classes or samples than there are.
    """
    if not 2 <= classes <= NUM_CLASSES:
        raise ConfigError(f"found {classes} classes, expected 2 to {NUM_CLASSES} for {source}")
    if not 2 <= subjects <= _SUBJECT_LIMITS[source]:
        raise ConfigError(f"found {subjects} subjects, expected 2 to {_SUBJECT_LIMITS[source]} for {source}")
    actions = spread(NUM_CLASSES, classes, TWO_PERSON)
    sides = [_side(source, "train", -(-subjects // 2)), _side(source, "test", subjects // 2)]
    in_turn = list(chain.from_iterable(zip_longest(*(side.videos for side in sides))))
    videos = [video for video in in_turn if video is not None]
    if len(videos) < samples:
        raise ConfigError(f"found {samples} samples, expected at most {len(videos)} for these subjects of {source}")
    chosen = set(videos[:samples])
    for side in sides:
        yield from _side_entries(side, chosen, actions, seed)
    yield Entry("Label_PKUMMD", "Split/cross-subject.txt", _split_list(sides, chosen))


def _side(source: str, part: str, subjects: int) -> _Side:
    names = frozenset(read_list(f"{source}_xsub_{part}"))
    ids = sorted({name[:-2] for name in names})
    ids = [i for i in ids if all(f"{i}-{view}" in names for view in _VIEWS)]
    if source == "pkummd1":  # names of Phase I do not tell who performs: subjects take turns
        first = 0 if part == "train" else 1
        numbers = {i: first + 2 * (place % subjects) for place, i in enumerate(ids)}
    else:
        performers = sorted({int(i[4:6]) for i in ids})[:subjects]
        numbers = {i: int(i[4:6]) for i in ids if int(i[4:6]) in performers}
    # The first video of either side stands on the same side of cross-view: M trains, L tests.
    views = "MLR" if part == "train" else "LMR"
    return _Side([f"{i}-{view}" for i in numbers for view in views], numbers)


def _side_entries(side: _Side, chosen: set[str], actions: list[int], seed: int) -> Iterator[Entry]:
    ids = sorted({video[:-2] for video in side.videos if video in chosen})
    segments = int(np.clip(-(-2 * len(actions) // max(1, len(ids))), _MIN_SEGMENTS, _MAX_SEGMENTS))
    for place, video in enumerate(ids):
        views = [view for view in _VIEWS if f"{video}-{view}" in chosen]
        played = [actions[(place * segments + i) % len(actions)] for i in range(segments)]
        yield from _video(video, views, place, played, side.numbers[video], seed)


def _video(video: str, views: list[str], place: int, played: list[int], who: int, seed: int) -> Iterator[Entry]:
    """One performance, filmed from several sides at once; its oddities go by `place` among the videos."""
    rng = np.random.default_rng([_VIDEO_STREAM, seed, *video.encode("ascii")])
    bodies, rows = _performance(played, who, place, seed, rng)
    labels = "".join(f"{','.join(map(str, row))}\r\n" for row in rows).encode("ascii")
    for view in views:
        camera = np.random.default_rng([_CAMERA_STREAM, seed, *video.encode("ascii"), ord(view)])
        filmed = motion.film(bodies, _VIEWS[view], camera)
        filmed[~bodies.any(axis=(2, 3))] = 0
        yield Entry("PKU_Skeleton_Renew", f"{video}-{view}.txt", _text(filmed, "\r\n" if place % 3 == 2 else "\n"))
        yield Entry("Label_PKUMMD", f"Train_Label_PKU_final/{video}-{view}.txt", labels)


def _performance(
    played: list[int], who: int, place: int, seed: int, rng: np.random.Generator
) -> tuple[Array, list[tuple[int, int, int, int]]]:
    """Joints (T, 2, 25, 3) in the room, zeros where nobody is, and rows label, start, end, confidence."""
    pieces = [_take(None, who, int(rng.integers(15, 40)), seed, rng)]
    rows: list[tuple[int, int, int, int]] = []
    for number, action in enumerate(played):
        start = sum(map(len, pieces))
        pieces.append(_take(action, who, int(rng.integers(40, 81)), seed, rng))
        rows.append((action + 1, start, start + len(pieces[-1]), (2, 2, 1, 0)[number % 4]))
        pieces.append(_take(None, who, int(rng.integers(10, 40)), seed, rng))
    if place % 5 == 4:
        rows.append((played[0] + 1, rows[-1][2], rows[-1][2] + _SHORT_SEGMENT, 1))
    if place % 3 == 1:  # official files too have rows out of order
        rows[-2:] = rows[:-3:-1]
    bodies = np.concatenate(pieces)
    bodies[:2] = 0  # nobody is seen yet
    return bodies, rows


def _take(action: int | None, who: int, num_frames: int, seed: int, rng: np.random.Generator) -> Array:
    """Joints (T, 2, 25, 3) of one action or, for None, of standing."""
    bodies = np.zeros((num_frames, NUM_PERSONS, NUM_JOINTS, NUM_COORDINATES))
    pair = action in TWO_PERSON
    for person in range(2 if pair else 1):
        part = motion.stillness() if action is None else motion.class_motion(action, person)
        joints, _ = motion.perform(part, motion.subject(who + 100 * person, seed), num_frames, rng)
        heading, x = ((-np.pi / 2, -0.45), (np.pi / 2, 0.45))[person] if pair else (0.0, 0.0)
        bodies[:, person] = motion.place(joints, heading, x)
    return bodies


def _text(frames: Array, newline: str) -> bytes:
    """One line a frame; every line but the first begins with a blank, as in the official files."""
    text = f"{newline} ".join([_LINE] * len(frames)) % tuple(frames.ravel().tolist())
    return f"{text}{newline}".encode("ascii")


def _split_list(sides: list[_Side], chosen: set[str]) -> bytes:
    train, test = (", ".join(video for video in sorted(side.videos) if video in chosen) for side in sides)
    return f"Training videos:\n{train},\nValidataion videos:\n{test},".encode("ascii")
