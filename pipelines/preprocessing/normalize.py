"""The normalisation of JHang2020/PCM3 (`data_gen/preprocess.py`): fill, centre, turn to z, turn to x.

Frames are (T, M, V, C) float32 in metres; person 0 is the main body. The reference pads to 300 frames first; every step
here gives the same first T frames without the padding. `normalize` is compiled and does all steps; each is also there
alone, on whole arrays, with the same bits.
"""

import numpy as np
import numpy.typing as npt

from pipelines.preprocessing.bodies import present
from shards.skeleton import LEFT_SHOULDER, NUM_COORDINATES, NUM_JOINTS, RIGHT_SHOULDER, SPINE_BASE, SPINE_MID

Frames = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]

_JOINTS = np.array([SPINE_MID, SPINE_BASE, SPINE_MID, LEFT_SHOULDER, RIGHT_SHOULDER])


def normalize(frames: Frames, length: int | None = None) -> Frames:
    """Normalise a sequence.

    Args:
        frames: (T, M, V, C) float32.
        length: pad with zeros (or cut) to this many frames first, so that the filling runs on to the end as in the
            300-frame arrays of the reference; None keeps T.

    Returns:
        A new array of (T or length, M, V, C) float32. An all-zero sequence stays zero.
    """
    frames = np.ascontiguousarray(frames, np.float32)
    assert frames.shape[2:] == (NUM_JOINTS, NUM_COORDINATES)
    from pipelines.preprocessing import kernels  # not above: Numba takes 0.3 s to import

    return kernels.normalize(frames, len(frames) if length is None else length, _JOINTS)


def fill(body: Frames) -> Frames:
    """Fill the empty frames of one person, (T, V, C) float32.

    If frame 0 is empty, the frames with content move to the front, which closes every gap. What is empty behind the
    last frame with content is then filled by repeating everything before it. A gap in the middle otherwise stays.
    """
    there = present(body[:, None])[:, 0]
    where = np.flatnonzero(there)
    if not len(where):
        return body
    source = np.arange(where[-1] + 1) if there[0] else where
    return np.asarray(body[np.resize(source, len(body))])


def centre(frames: Frames) -> Frames:
    """Subtract person 0's middle of the spine, frame by frame. Joints whose coordinates sum to exactly 0 stay 0."""
    there = frames.sum(axis=-1, keepdims=True) != 0
    middle = frames[:, :1, SPINE_MID : SPINE_MID + 1]
    return np.asarray(np.where(there, frames - middle, 0), dtype=np.float32)


def align(frames: Frames, start: int, stop: int, target: Vector) -> Frames:
    """Turn all frames so that the bone from joint `start` to joint `stop` of person 0 in frame 0 points along `target`.

    Frames in which a person is absent are left as they are, and so is everything where the bone has no length or points
    there already.
    """
    if not len(frames):
        return frames
    bone = frames[0, 0, stop].astype(np.float64) - frames[0, 0, start].astype(np.float64)
    matrix = rotation_between(bone, target)
    if matrix is None:
        return frames
    # Three products and two sums, not `@`: the same bits whatever the linear algebra library.
    turned = sum(frames[..., c, None].astype(np.float64) * matrix[:, c] for c in range(NUM_COORDINATES))
    return np.asarray(np.where(present(frames)[:, :, None, None], turned, frames), dtype=np.float32)


def rotation_between(vector: Vector, target: Vector) -> npt.NDArray[np.float64] | None:
    """The matrix that turns `vector` the shortest way into the direction of the unit vector `target`.

    None if there is nothing to turn: thresholds of the reference are 1e-6 on |x|+|y|+|z| of the vector and of the axis,
    and on the angle. Sine and cosine come without the angle, so that the bits do not depend on a mathematical library.
    """
    from pipelines.preprocessing import kernels  # not above: Numba takes 0.3 s to import

    turns, matrix = kernels.rotation(*(np.array(v, np.float64) for v in (vector, target)))
    return matrix if turns else None
