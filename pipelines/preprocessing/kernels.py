"""Compiled passes over frames (T, M or S, 25, 3): where a body is, which bodies are kept, and the normalisation.

Sums that are compared with 0 add in NumPy's order, so that a body is absent here exactly where it is in NumPy's
`frames.sum(axis=(2, 3)) == 0`, also where numbers cancel. Only + - * / and square roots are used: results are the same
bits on every machine, which those of arc cosines are not.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.compiled import helper, inlined, kernel

Frames = npt.NDArray[np.float32]
Positions = npt.NDArray[np.float64]

_JOINTS, _COORDINATES = 25, 3
_VALUES = _JOINTS * _COORDINATES
_LANES = 8
_IN_LANES = _VALUES // _LANES * _LANES

_TOO_SMALL = 1e-6
_COSINE_OF_TOO_SMALL = 0.9999999999995
_X, _Z = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


@inlined
def _is_there(bodies: npt.NDArray[Any], t: int, slot: int) -> bool:
    """Whether the values of a body of (T, S, 75) do not sum to 0: eight partial sums, then the rest, as NumPy adds."""
    a, b, c, d = bodies[t, slot, 0], bodies[t, slot, 1], bodies[t, slot, 2], bodies[t, slot, 3]
    e, f, g, h = bodies[t, slot, 4], bodies[t, slot, 5], bodies[t, slot, 6], bodies[t, slot, 7]
    for i in range(_LANES, _IN_LANES, _LANES):
        a += bodies[t, slot, i]
        b += bodies[t, slot, i + 1]
        c += bodies[t, slot, i + 2]
        d += bodies[t, slot, i + 3]
        e += bodies[t, slot, i + 4]
        f += bodies[t, slot, i + 5]
        g += bodies[t, slot, i + 6]
        h += bodies[t, slot, i + 7]
    total = ((a + b) + (c + d)) + ((e + f) + (g + h))
    for i in range(_IN_LANES, _VALUES):
        total += bodies[t, slot, i]
    return bool(total != 0)


@kernel(
    "boolean[:,::1](Array(float64, 4, 'C', readonly=True))",
    "boolean[:,::1](Array(float32, 4, 'C', readonly=True))",
)
def present(frames: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Where a body is: (T, S, 25, 3) -> (T, S)."""
    T, S = frames.shape[:2]
    bodies, there = frames.reshape(T, S, _VALUES), np.empty((T, S), np.bool_)
    for t in range(T):
        for slot in range(S):
            there[t, slot] = _is_there(bodies, t, slot)
    return there


@helper
def _of_coordinates(sums: Positions) -> tuple[float, float, float]:
    """Add up 75 values by coordinate."""
    x = y = z = 0.0
    for i in range(0, _VALUES, _COORDINATES):
        x += sums[i]
        y += sums[i + 1]
        z += sums[i + 2]
    return x, y, z


@helper
def _spread(bodies: Positions, slot: int) -> float:
    """Standard deviations of x, y and z, added, over the bodies of a slot of (T, S, 75) that are there."""
    # 75 sums side by side: a single one a coordinate would wait for each of its additions.
    sums, means = np.zeros(_VALUES), np.empty(_VALUES)
    there = np.empty(len(bodies), np.bool_)
    n = 0
    for t in range(len(bodies)):
        there[t] = _is_there(bodies, t, slot)
        if there[t]:
            n += _JOINTS
            for i in range(_VALUES):
                sums[i] += bodies[t, slot, i]
    if n == 0:
        return 0.0
    x, y, z = _of_coordinates(sums)
    for j in range(_JOINTS):
        means[3 * j], means[3 * j + 1], means[3 * j + 2] = x / n, y / n, z / n
    sums[:] = 0.0
    for t in range(len(bodies)):
        if there[t]:
            for i in range(_VALUES):
                difference = bodies[t, slot, i] - means[i]
                sums[i] += difference * difference
    x, y, z = _of_coordinates(sums)
    return float(np.sqrt(x / n) + np.sqrt(y / n) + np.sqrt(z / n))


@kernel("float64[::1](Array(float64, 4, 'C', readonly=True), int64)")
def energies(frames: Positions, slots: int) -> Positions:
    """Spread of the first `slots` slots: (T, S, 25, 3) -> (slots,) metres."""
    T, S = frames.shape[:2]
    bodies, spreads = frames.reshape(T, S, _VALUES), np.empty(min(slots, S))
    for slot in range(spreads.size):
        spreads[slot] = _spread(bodies, slot)
    return spreads


@helper
def _largest(spreads: Positions, but: int) -> int:
    """Position of the largest one besides `but`, of equal ones the first; -1 if there is none."""
    found = -1
    for slot in range(spreads.size):
        if slot != but and (found < 0 or spreads[slot] > spreads[found]):
            found = slot
    return found


# One call, because every one gives the interpreter lock away and has to get it back: with a call a step, two threads
# chose bodies more slowly than one.
@kernel("Tuple((float32[:,:,:,::1], int64, int64))(Array(float64, 4, 'C', readonly=True), int64)")
def choose(frames: Positions, slots: int) -> tuple[Frames, int, int]:
    """The two of the first `slots` slots with the largest spread, the largest first.

    Returns:
        Their frames (T, 2, 25, 3), zeros where there is none; how many of the two are ever there; how many slots are.
    """
    T, S = frames.shape[:2]
    bodies, chosen = frames.reshape(T, S, _VALUES), np.zeros((T, 2, _VALUES), np.float32)
    spreads = np.zeros(min(slots, S))
    if spreads.size > 1:
        for slot in range(spreads.size):
            spreads[slot] = _spread(bodies, slot)
    first = _largest(spreads, -1)
    second = _largest(spreads, first)
    num_chosen = num_slots = 0
    for slot in range(S):
        there = False
        for t in range(T):
            there = there or _is_there(bodies, t, slot)
        num_slots += there
        if slot != first and slot != second:
            continue
        num_chosen += there
        person = 0 if slot == first else 1
        for t in range(T):
            for i in range(_VALUES):
                chosen[t, person, i] = bodies[t, slot, i]
    return chosen.reshape(T, 2, _JOINTS, _COORDINATES), num_chosen, num_slots


@helper
def _turn(vx: float, vy: float, vz: float, tx: float, ty: float, tz: float, matrix: Positions) -> bool:
    """Write the matrix that turns v into the direction of the unit vector t; False if there is nothing to turn.

    Rodrigues' formula R = I + sin K + (1 - cos) K K, where K is the cross-product matrix of the unit axis. Sine and
    cosine come from the lengths of cross and dot product, without the angle itself.
    """
    ax, ay, az = vy * tz - vz * ty, vz * tx - vx * tz, vx * ty - vy * tx
    if abs(vx) + abs(vy) + abs(vz) < _TOO_SMALL or abs(ax) + abs(ay) + abs(az) < _TOO_SMALL:
        return False
    length, across = np.sqrt(vx * vx + vy * vy + vz * vz), np.sqrt(ax * ax + ay * ay + az * az)
    sine, cosine = across / length, (vx * tx + vy * ty + vz * tz) / length
    if cosine > _COSINE_OF_TOO_SMALL:
        return False
    x, y, z, rest = ax / across, ay / across, az / across, 1.0 - cosine
    xy, xz, yz = rest * x * y, rest * x * z, rest * y * z
    matrix[0, 0], matrix[0, 1], matrix[0, 2] = 1.0 - rest * (y * y + z * z), xy - sine * z, xz + sine * y
    matrix[1, 0], matrix[1, 1], matrix[1, 2] = xy + sine * z, 1.0 - rest * (x * x + z * z), yz - sine * x
    matrix[2, 0], matrix[2, 1], matrix[2, 2] = xz - sine * y, yz + sine * x, 1.0 - rest * (x * x + y * y)
    return True


@kernel(
    "Tuple((boolean, float64[:,::1]))(Array(float64, 1, 'C', readonly=True), Array(float64, 1, 'C', readonly=True))"
)
def rotation(vector: Positions, target: Positions) -> tuple[bool, Positions]:
    """Whether there is something to turn, and the matrix."""
    matrix = np.eye(_COORDINATES)
    return _turn(vector[0], vector[1], vector[2], target[0], target[1], target[2], matrix), matrix


@helper
def _sources(bodies: Frames, length: int) -> npt.NDArray[np.int64]:
    """Which frame of (T, M, 75) each of `length` frames takes after filling, by person: (length, M), -1 for zeros."""
    T, M = min(len(bodies), length), bodies.shape[1]
    sources, kept = np.full((length, M), -1), np.empty(T, np.int64)
    for person in range(M):
        first = last = -1
        count = 0
        for t in range(T):
            sources[t, person] = t
            if _is_there(bodies, t, person):
                if count == 0:
                    first = t
                kept[count] = last = t
                count += 1
        if count == 0:
            continue
        if first == 0:
            count = last + 1
            for t in range(count):
                kept[t] = t
        at = 0
        for t in range(length):
            sources[t, person] = kept[at]
            at = at + 1 if at + 1 < count else 0
    return sources


@helper
def _centre(frames: Frames, sources: npt.NDArray[np.int64], joint: int, result: Frames) -> None:
    """Write the chosen frames minus person 0's `joint`; joints whose coordinates sum to 0 become 0."""
    for t in range(len(result)):
        x = y = z = np.float32(0)
        source = sources[t, 0]
        if source >= 0:
            x, y, z = frames[source, 0, joint, 0], frames[source, 0, joint, 1], frames[source, 0, joint, 2]
        for m in range(result.shape[1]):
            source = sources[t, m]
            if source < 0:
                continue
            for j in range(_JOINTS):
                there = frames[source, m, j, 0] + frames[source, m, j, 1] + frames[source, m, j, 2] != 0
                result[t, m, j, 0] = frames[source, m, j, 0] - x if there else np.float32(0)
                result[t, m, j, 1] = frames[source, m, j, 1] - y if there else np.float32(0)
                result[t, m, j, 2] = frames[source, m, j, 2] - z if there else np.float32(0)


@helper
def _align(frames: Frames, bodies: Frames, start: int, stop: int, target: tuple[float, float, float]) -> None:
    """Turn all bodies that are there so that a bone of frame 0, person 0 points along `target`; `bodies` is a view."""
    matrix = np.empty((_COORDINATES, _COORDINATES))
    vx = np.float64(frames[0, 0, stop, 0]) - np.float64(frames[0, 0, start, 0])
    vy = np.float64(frames[0, 0, stop, 1]) - np.float64(frames[0, 0, start, 1])
    vz = np.float64(frames[0, 0, stop, 2]) - np.float64(frames[0, 0, start, 2])
    if not _turn(vx, vy, vz, target[0], target[1], target[2], matrix):
        return
    (a, b, c), (d, e, f), (g, h, k) = matrix[0], matrix[1], matrix[2]
    for t in range(len(frames)):
        for m in range(frames.shape[1]):
            if not _is_there(bodies, t, m):
                continue
            for j in range(_JOINTS):
                x, y = np.float64(frames[t, m, j, 0]), np.float64(frames[t, m, j, 1])
                z = np.float64(frames[t, m, j, 2])
                # 0.0 in front: so that no -0.0 comes out, as from Python's sum of a list.
                frames[t, m, j, 0] = 0.0 + x * a + y * b + z * c
                frames[t, m, j, 1] = 0.0 + x * d + y * e + z * f
                frames[t, m, j, 2] = 0.0 + x * g + y * h + z * k


@kernel("float32[:,:,:,::1](Array(float32, 4, 'C', readonly=True), int64, int64[::1])")
def normalize(frames: Frames, length: int, joints: npt.NDArray[np.int64]) -> Frames:
    """Fill, centre and align to z and x, each as in `normalize.py`: (T, M, 25, 3) -> (length, M, 25, 3).

    Args:
        length: of the result; frames beyond T start as zeros.
        joints: of the centre, from and to which the first bone goes, and from and to which the second.
    """
    T, M = frames.shape[:2]
    result = np.zeros((length, M, _JOINTS, _COORDINATES), np.float32)
    if result.size > 0:
        bodies = result.reshape(length, M, _VALUES)
        _centre(frames, _sources(frames.reshape(T, M, _VALUES), length), joints[0], result)
        _align(result, bodies, joints[1], joints[2], _Z)
        _align(result, bodies, joints[3], joints[4], _X)
    return result
