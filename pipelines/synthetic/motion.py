"""Bodies that move: a kinematic skeleton whose class is told by which limbs move, how far, how fast and in what phase.

Person space: metres, y up, the person at the origin faces -z, its left is -x. Camera space is Kinect's: x right, y up,
z away from the camera.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shards.skeleton import NUM_JOINTS

Array = npt.NDArray[np.float64]

# Kinematic parents, each before its children in ORDER (`shards.skeleton.PARENTS` is made for bones and has no root).
_PARENTS = (-1, 0, 20, 2, 20, 4, 5, 6, 20, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18, 1, 7, 7, 11, 11)
_ORDER = (0, 1, 20, 2, 3, 4, 5, 6, 7, 21, 22, 8, 9, 10, 11, 23, 24, 12, 13, 14, 15, 16, 17, 18, 19)

# Offset of each joint from its parent in an upright adult with hanging arms, metres.
_REST = np.array([
    (0, 0, 0), (0, 0.32, 0), (0, 0.08, 0), (0, 0.15, 0),
    (-0.17, -0.05, 0), (-0.02, -0.27, 0), (0, -0.24, 0), (0, -0.08, 0),
    (0.17, -0.05, 0), (0.02, -0.27, 0), (0, -0.24, 0), (0, -0.08, 0),
    (-0.08, -0.03, 0), (-0.01, -0.42, 0), (0, -0.40, 0), (0, -0.06, -0.12),
    (0.08, -0.03, 0), (0.01, -0.42, 0), (0, -0.40, 0), (0, -0.06, -0.12),
    (0, 0.22, 0), (0, -0.08, 0), (0.03, -0.03, -0.02), (0, -0.08, 0), (-0.03, -0.03, -0.02),
])  # fmt: skip

# Range of the mean angle (radians about x, y, z) of each joint that moves, limb by limb. About x, a hanging limb swings
# forward; about z, the left arm (drawn) is raised sideways by a negative angle. Right limbs mirror y and z.
_LIMBS: tuple[dict[int, tuple[tuple[float, float], ...]], ...] = (
    {4: ((-0.3, 2.4), (-0.3, 0.3), (-1.6, 0.0)), 5: ((0.0, 2.0), (0, 0), (0, 0))},
    {8: ((-0.3, 2.4), (-0.3, 0.3), (-1.6, 0.0)), 9: ((0.0, 2.0), (0, 0), (0, 0))},
    {12: ((-0.1, 0.9), (0, 0), (-0.3, 0.0)), 13: ((-1.2, 0.0), (0, 0), (0, 0))},
    {16: ((-0.1, 0.9), (0, 0), (-0.3, 0.0)), 17: ((-1.2, 0.0), (0, 0), (0, 0))},
    {1: ((-0.7, 0.1), (-0.5, 0.5), (-0.2, 0.2)), 2: ((-0.4, 0.2), (-0.4, 0.4), (0, 0))},
)
_MIRRORED_LIMBS = (1, 3)
_LIMB_WEIGHTS = (0.3, 0.3, 0.1, 0.1, 0.2)
_MOVING = tuple(sorted({joint for limb in _LIMBS for joint in limb}))

_RAMP = 0.15
_CLASS_STREAM, _SUBJECT_STREAM = 1, 2


@dataclass(frozen=True)
class Subject:
    """A person: `bones` (25, 1) scales, `posture` (25, 3) standing angles, and how fast and far it moves."""

    bones: Array
    posture: Array
    speed: float
    reach: float


@dataclass(frozen=True)
class Motion:
    """A class's part for one person.

    Attributes:
        mean: (25, 3) angles about which joints swing, radians.
        swing: (25, 3) amplitudes.
        cycles: (25, 1) swings in an action.
        phase: (25, 1) radians.
        travel: (3,) amplitude of the root's movement, metres.
    """

    mean: Array
    swing: Array
    cycles: Array
    phase: Array
    travel: Array


def subject(number: int, seed: int) -> Subject:
    """The person of that number: the same in every recording of one seed."""
    rng = np.random.default_rng([_SUBJECT_STREAM, seed, number])
    bones = rng.uniform(0.85, 1.15) * rng.uniform(0.95, 1.05, (NUM_JOINTS, 1))
    posture = np.zeros((NUM_JOINTS, 3))
    posture[list(_MOVING)] = rng.normal(0, 0.06, (len(_MOVING), 3))
    return Subject(bones, posture, rng.uniform(0.85, 1.15), rng.uniform(0.8, 1.15))


def class_motion(action: int, person: int) -> Motion:
    """What person 0 or 1 does in an action (from 0): the same for every seed, since a class is a class."""
    rng = np.random.default_rng([_CLASS_STREAM, action, person])
    mean, swing = np.zeros((NUM_JOINTS, 3)), np.zeros((NUM_JOINTS, 3))
    for limb in rng.choice(len(_LIMBS), size=rng.integers(2, 4), replace=False, p=_LIMB_WEIGHTS):
        sides = (1, -1, -1) if limb in _MIRRORED_LIMBS else (1, 1, 1)
        for joint, ranges in _LIMBS[limb].items():
            low, high = np.array(ranges, float).T
            mean[joint] = rng.uniform(low, high) * sides
            swing[joint] = rng.uniform(0.1, 0.35, 3) * (high - low)
    cycles = np.full((NUM_JOINTS, 1), rng.choice([1.0, 1.5, 2.0, 3.0, 4.0]))
    phase = rng.uniform(0, 2 * np.pi, (NUM_JOINTS, 1))
    travel = np.array([0.12, 0.08, 0.12]) * rng.uniform(-1, 1, 3) * (rng.random() < 0.4)
    return Motion(mean, swing, cycles, phase, travel)


def stillness() -> Motion:
    """Standing."""
    zeros = np.zeros((NUM_JOINTS, 3))
    return Motion(zeros, zeros, zeros[:, :1], zeros[:, :1], zeros[0])


def perform(motion: Motion, person: Subject, num_frames: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """One take of a motion, beginning and ending in the person's posture.

    Returns:
        Joints (T, 25, 3) in person space, and the joints' own rotations as quaternions (T, 25, 4), w first.
    """
    u = np.linspace(0, 1, num_frames)
    u = u + rng.uniform(-0.15, 0.15) * np.sin(np.pi * u)  # nobody keeps an even pace
    envelope = np.clip(np.minimum(u, 1 - u) / _RAMP, 0, 1)[:, None, None]
    turns = motion.cycles * person.speed * rng.uniform(0.9, 1.1) * u[:, None, None]
    beat = np.sin(2 * np.pi * turns + motion.phase + rng.normal(0, 0.5))
    reach = person.reach * rng.uniform(0.7, 1.2)
    mood = np.zeros_like(motion.mean)
    mood[list(_MOVING)] = rng.normal(0, 0.12, (len(_MOVING), 3))
    angles = person.posture + envelope * (reach * (motion.mean + motion.swing * beat) + mood)
    root = envelope[:, 0] * motion.travel * beat[:, 0]
    return _joints(angles, person.bones) + root[:, None], _quaternions(angles)


def _joints(angles: Array, bones: Array) -> Array:
    """Forward kinematics of rotation vectors (T, 25, 3)."""
    local = _rotations(angles)
    offsets = _REST * bones
    turned, places = np.empty_like(local), np.zeros_like(angles)
    for joint in _ORDER:
        parent = _PARENTS[joint]
        if parent < 0:
            turned[:, joint] = local[:, joint]
            continue
        turned[:, joint] = turned[:, parent] @ local[:, joint]
        places[:, joint] = places[:, parent] + turned[:, parent] @ offsets[joint]
    return places


def _rotations(vectors: Array) -> Array:
    """Rotation matrices (..., 3, 3) of rotation vectors (..., 3) by Rodrigues' formula."""
    angle = np.linalg.norm(vectors, axis=-1)[..., None, None]
    x, y, z = np.moveaxis(vectors / np.maximum(angle[..., 0], 1e-12), -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(*x.shape, 3, 3)
    rotations: Array = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)
    return rotations


def _quaternions(vectors: Array) -> Array:
    angle = np.linalg.norm(vectors, axis=-1, keepdims=True)
    axis = vectors / np.maximum(angle, 1e-12)
    return np.concatenate([np.cos(angle / 2), np.sin(angle / 2) * axis], axis=-1)


def place(joints: Array, heading: float, x: float = 0.0) -> Array:
    """Turn a person by `heading` (radians about y) and set it `x` metres aside in the room."""
    placed: Array = joints @ _yaw(heading).T + np.array([x, 0.0, 0.0])
    return placed


def film(joints: Array, yaw: float, rng: np.random.Generator, noise: float = 0.006) -> Array:
    """What a camera 3 m off at `yaw` (radians) sees of joints in the room: camera space, sensor noise in metres."""
    seen: Array = joints @ _yaw(yaw).T + np.array([0.0, -0.1, 3.0]) + rng.normal(0, noise, joints.shape)
    return seen


def _yaw(angle: float) -> Array:
    return _rotations(np.array([0.0, angle, 0.0]))
