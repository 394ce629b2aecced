"""Synthetic NTU RGB+D recordings in the text of the official files, with their oddities."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, count, islice, zip_longest

import numpy as np

from pipelines.synthetic import motion
from pipelines.synthetic.archive import Entry, spread
from pipelines.synthetic.motion import Array
from shards.catalog import info_from_name, missing_samples
from shards.errors import ConfigError
from shards.protocols import split
from shards.schema import SampleInfo
from shards.skeleton import NUM_JOINTS

# The first archive has an inner folder, the second is flat, as users get them.
_ARCHIVES = (("nturgbd_skeletons_s001_to_s017", "nturgb+d_skeletons/"), ("nturgbd_skeletons_s018_to_s032", ""))
NTU60_SETUPS, NTU60_CLASSES = 17, 60
TWO_PERSON = frozenset([*range(49, 60), *range(105, 120)])
MAX_SUBJECTS = 40

_CAMERAS = (2, 1, 3)
_YAW = {1: np.pi / 4, 2: 0.0, 3: -np.pi / 4}
_FIRST_BODY_ID = 72_057_594_037_944_738
_TIPS = (3, 15, 19, 21, 22, 23, 24)
_RECORDING_STREAM = 3

_JOINT_LINE = " ".join(["%.7G"] * 12)


def entries(
    subjects: int, classes: int, samples: int, seed: int, lengths: tuple[int, int] = (40, 80)
) -> Iterator[Entry]:
    """`samples` recordings, and one of the publishers' missing list, which has no body in any frame.

    Args:
        subjects, classes, samples, seed: as in `synthesize`.
        lengths: frames of the shortest recording (40 at least) and of the longest.

    Raises:
        ConfigError: more subjects, classes or samples than names allow.
    """
    names = choose_names(subjects, classes, samples)
    yield from (_entry(name, _recording(name, number, seed, lengths)) for number, name in enumerate(names))
    yield _missing(choose_actions(classes))


def choose_names(subjects: int, classes: int, samples: int) -> list[str]:
    """Official names, sorted; the classes take turns until there are enough."""
    if not 2 <= subjects <= MAX_SUBJECTS:
        raise ConfigError(f"found {subjects} subjects, expected 2 to {MAX_SUBJECTS} for ntu")
    actions = choose_actions(classes)
    in_turn = chain.from_iterable(zip_longest(*(_names(action, subjects) for action in actions)))
    names = sorted(islice((name for name in in_turn if name is not None), samples))
    if len(names) < samples:
        raise ConfigError(f"found {samples} samples, expected at most {len(names)} for these subjects and classes")
    return names


def choose_actions(classes: int) -> list[int]:
    """Actions (from 0) over all of NTU RGB+D 60 and, from 8 classes on, an eighth from the other half of 120.

    Two-person actions are among them.
    """
    if not 2 <= classes <= 120:
        raise ConfigError(f"found {classes} classes, expected 2 to 120 for ntu")
    later = max(classes - NTU60_CLASSES, classes // 8)
    early = spread(NTU60_CLASSES, classes - later, TWO_PERSON)
    return early + [NTU60_CLASSES + action for action in spread(NTU60_CLASSES, later, frozenset(range(45, 60)))]


def _subjects(number: int) -> list[int]:
    """Official performers, training and test ones in turn."""
    sides: dict[str | None, list[int]] = {"train": [], "test": []}
    for performer in range(1, MAX_SUBJECTS + 1):
        sides[split("ntu60", "xsub", SampleInfo("", 0, performer, 1, 1))].append(performer)
    turns = [performer for pair in zip(sides["train"], sides["test"], strict=True) for performer in pair]
    return turns[:number]


def _names(action: int, subjects: int) -> Iterator[str]:
    """Different official names; the first ones of every action cover both sides of every protocol.

    Subject, camera and parity of the setup turn at different rates, so that no side of one protocol is tied to
    another's.
    """
    performers = _subjects(subjects)
    first_setup, pairs = (1, 8) if action < NTU60_CLASSES else (18, 7)
    for number in count():
        turn, s = divmod(number, subjects)
        if turn >= pairs * 6:
            return
        setup = first_setup + 2 * (turn // 6) + (s + s // 2 + turn + first_setup) % 2
        camera, replication = _CAMERAS[(s + turn) % 3], 1 + (turn // 3) % 2
        name = f"S{setup:03d}C{camera:03d}P{performers[s]:03d}R{replication:03d}A{action + 1:03d}"
        if name not in missing_samples("ntu"):
            yield name


def _entry(name: str, data: bytes) -> Entry:
    archive, inner = _ARCHIVES[int(name[1:4]) > NTU60_SETUPS]
    return Entry(archive, f"{inner}{name}.skeleton", data)


def _missing(actions: list[int]) -> Entry:
    missing = sorted(missing_samples("ntu"))
    name = next((name for name in missing if info_from_name("ntu", name).label in actions), missing[0])
    return _entry(name, _text([[]] * 40, "\r\n").encode("ascii"))


@dataclass(frozen=True)
class _Body:
    """One listed body: `values` (T, 2 + 25 * 12) as its lines write them, and the frames it is listed in."""

    body_id: int
    values: Array
    frames: range | tuple[int, ...] = field(default=())


def _recording(name: str, number: int, seed: int, lengths: tuple[int, int]) -> bytes:
    """The file of a recording; its oddities go by `number`, so that even a small archive has each of them."""
    info = info_from_name("ntu", name)
    digits = [info.label, info.subject, info.camera, info.setup, info.replication]
    rng = np.random.default_rng([_RECORDING_STREAM, seed, *digits])
    num_frames = int(rng.integers(lengths[0], lengths[1] + 1))
    bodies = _people(info, num_frames, seed, rng)
    if number % 7 == 3:
        start = int(rng.integers(5, 20))
        bodies.append(_furniture(rng, 1, num_frames, range(start, start + 7)))
    if number % 11 == 4:
        bodies += [_furniture(rng, 2 + i, num_frames, range(30, 33)) for i in range(6 - len(bodies))]
    empty = {0, 1, 20, 21} if number % 5 == 1 else set()
    listed = [[] if t in empty else [body for body in bodies if t in body.frames] for t in range(num_frames)]
    if number % 9 == 2:  # Kinect now and then lists the same bodies in another order
        listed[10] = listed[10][::-1]
    text = _text([[(body, t) for body in frame] for t, frame in enumerate(listed)], "\n" if number % 6 == 5 else "\r\n")
    return (text.rstrip() if number % 13 == 6 else text).encode("ascii")


def _people(info: SampleInfo, num_frames: int, seed: int, rng: np.random.Generator) -> list[_Body]:
    pair = info.label in TWO_PERSON
    numbers = (info.subject, info.subject % MAX_SUBJECTS + 1) if pair else (info.subject,)
    bodies = []
    for person, number in enumerate(numbers):
        who = motion.subject(number, seed)
        joints, quaternions = motion.perform(motion.class_motion(info.label, person), who, num_frames, rng)
        heading, x = ((-np.pi / 2, -0.45), (np.pi / 2, 0.45))[person] if pair else (0.0, 0.0)
        joints = motion.place(joints, heading + rng.normal(0, 0.25), x)
        values = _values(motion.film(joints, _YAW[info.camera], rng), quaternions, rng)
        bodies.append(_Body(_FIRST_BODY_ID + person + 2 * info.replication, values, range(num_frames)))
    if pair:
        bodies[1:] = _come_and_go(bodies[1], num_frames, info.subject)
    return bodies


def _come_and_go(second: _Body, num_frames: int, subject: int) -> list[_Body]:
    """The second person enters late and leaves early, or is lost and found again under another id."""
    if subject % 2:
        return [replace(second, frames=range(3, num_frames - 3))]
    lost = num_frames // 2
    again = replace(second, body_id=second.body_id + 100, frames=range(lost + 3, num_frames))
    return [replace(second, frames=range(lost)), again]


def _furniture(rng: np.random.Generator, number: int, num_frames: int, frames: range) -> _Body:
    """A phantom: still, wider than tall."""
    corner = np.array([rng.uniform(-0.8, 0.8), -0.5, 3.5])
    joints = corner + rng.uniform(-0.5, 0.5, (NUM_JOINTS, 3)) * np.array([1.2, 0.3, 0.3])
    filmed = joints + rng.normal(0, 0.004, (num_frames, NUM_JOINTS, 3))
    values = _values(filmed, np.zeros((num_frames, NUM_JOINTS, 4)), rng)
    return _Body(_FIRST_BODY_ID + 1000 + number, values, frames)


def _values(xyz: Array, quaternions: Array, rng: np.random.Generator) -> Array:
    """The numbers of a body's lines (T, 2 + 25 * 12): lean x and y, then 12 fields a joint."""
    x, y, z = np.moveaxis(xyz, -1, 0)
    depth = np.stack([256 + 365 * x / z, 212 - 365 * y / z], axis=-1)
    colour = np.stack([960 + 1060 * x / z, 540 - 1060 * y / z], axis=-1)
    quaternions = quaternions.copy()
    quaternions[:, _TIPS] = 0
    state = np.where(rng.random(z.shape) < 0.05, 1.0, 2.0)[..., None]
    joints = np.concatenate([xyz, depth, colour, quaternions, state], axis=-1)
    # Leans this small are written with an exponent.
    leans = rng.normal(0, 3e-4, (len(xyz), 2))
    return np.concatenate([leans, joints.reshape(len(xyz), -1)], axis=1)


def _text(frames: list[list[tuple[_Body, int]]], newline: str) -> str:
    """All lines by one `%`: 0.11 microseconds a number, 0.15 when formatted one by one."""
    tail = newline.join([" 0 0 0 0 0 0 %.7G %.7G 2", str(NUM_JOINTS), *[_JOINT_LINE] * NUM_JOINTS, ""])
    pieces = [f"{len(frames)}{newline}"]
    for frame in frames:
        pieces.append(f"{len(frame)}{newline}")
        pieces += [f"{body.body_id}{tail}" for body, _ in frame]
    values = [body.values[t] for frame in frames for body, t in frame]
    return "".join(pieces) % tuple(np.concatenate(values).tolist() if values else ())
