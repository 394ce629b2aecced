"""The compiled part of `pipelines.quality.measures`: what samples are like, each pass over all frames of a block."""

import math

import numpy as np
import numpy.typing as npt

from pipelines.compiled import helper, kernel

Frames = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]

_FRAMES = "float32[:,:,:,::1]"
_THERE = "boolean[:,::1]"
_OFFSETS = "Array(int64, 1, 'C', True)"
_BONES = "float32[:,:,::1]"


@helper
def _distance(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    x, y, z = float(a[0]) - float(b[0]), float(a[1]) - float(b[1]), float(a[2]) - float(b[2])
    return math.sqrt(x * x + y * y + z * z)


@helper
def _deviation(values: npt.NDArray[np.float64]) -> float:
    mean = values.sum() / len(values)
    total = 0.0
    for value in values:
        total += (value - mean) ** 2
    return math.sqrt(total / len(values))


@helper
def _quantile(values: npt.NDArray[np.float64], share: float) -> float:
    """As `np.quantile`, but the values change places (Hoare's selection: 5 times faster to compile, and no copy)."""
    exact = share * (len(values) - 1)
    wanted = int(exact)
    left, right = 0, len(values) - 1
    while left < right:
        pivot, low, high = values[(left + right) // 2], left, right
        while low <= high:
            while values[low] < pivot:
                low += 1
            while values[high] > pivot:
                high -= 1
            if low <= high:
                values[low], values[high] = values[high], values[low]
                low += 1
                high -= 1
        if wanted <= high:
            right = high
        elif wanted >= low:
            left = low
        else:
            break
    found: float = values[wanted]
    if exact > wanted:
        found += (exact - wanted) * (values[wanted + 1 :].min() - found)
    return found


@kernel(f"void({_FRAMES}, {_THERE}, {_OFFSETS}, int64[::1], {_BONES}, {_BONES})")
def measure_bones(
    frames: Frames,
    there: npt.NDArray[np.bool_],
    offsets: Counts,
    parents: Counts,
    lengths: npt.NDArray[np.float32],
    variations: npt.NDArray[np.float32],
) -> None:
    """Fill in median and standard deviation of each bone's length; `measures.Measures` has the shapes."""
    _, num_persons, num_joints, _ = frames.shape
    for sample in range(len(offsets) - 1):
        first, stop = offsets[sample], offsets[sample + 1]
        values = np.empty((num_joints, stop - first))
        for person in range(num_persons):
            count = 0
            for t in range(first, stop):
                if there[t, person]:
                    body = frames[t, person]
                    for joint in range(num_joints):
                        values[joint, count] = _distance(body[joint], body[parents[joint]])
                    count += 1
            for joint in range(num_joints):
                if count and parents[joint] != joint:
                    variations[sample, person, joint] = _deviation(values[joint, :count])
                    lengths[sample, person, joint] = _quantile(values[joint, :count], 0.5)


@helper
def _same(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> bool:
    return bool(a[0] == b[0] and a[1] == b[1] and a[2] == b[2])


@helper
def _count_step(distance: float, steps: float, counts: Counts) -> None:
    # an infinite or huge distance is no integer
    counts[int(distance * steps) if distance * steps < len(counts) - 1 else len(counts) - 1] += 1


@helper
def _move(
    before: npt.NDArray[np.float32],
    after: npt.NDArray[np.float32],
    steps: float,
    distances: npt.NDArray[np.float64],
    speeds: Counts,
    frozen: Counts,
) -> bool:
    """Count how far the joints of one body move; whether none moves."""
    still = 0
    for joint in range(len(before)):
        distances[joint] = _distance(before[joint], after[joint])
        _count_step(distances[joint], steps, speeds[joint])
        if _same(before[joint], after[joint]):
            still += 1
            frozen[joint] += before[joint, 0] != 0 or before[joint, 1] != 0 or before[joint, 2] != 0
    return still == len(before)


@kernel(
    f"void({_FRAMES}, {_THERE}, {_OFFSETS}, float64, float64, float32[::1], float32[::1], int64[::1], int64[::1], "
    "int64[:,::1], int64[::1])"
)
def measure_motion(
    frames: Frames,
    there: npt.NDArray[np.bool_],
    offsets: Counts,
    steps: float,
    fast: float,
    top_speeds: npt.NDArray[np.float32],
    fast_speeds: npt.NDArray[np.float32],
    pairs: Counts,
    duplicates: Counts,
    speeds: Counts,
    frozen: Counts,
) -> None:
    """Fill in all that is measured between neighbouring frames; `steps` is a metre in steps of `speeds`."""
    _, num_persons, num_joints, _ = frames.shape
    for sample in range(len(offsets) - 1):
        first, stop = offsets[sample], offsets[sample + 1]
        distances = np.empty((stop - first) * num_persons * num_joints)
        count = 0
        for t in range(first + 1, stop):
            movers = still = changed = 0
            for person in range(num_persons):
                if there[t - 1, person] and there[t, person]:
                    movers += 1
                    into = distances[count : count + num_joints]
                    still += _move(frames[t - 1, person], frames[t, person], steps, into, speeds, frozen)
                    count += num_joints
                elif there[t - 1, person] or there[t, person]:
                    changed += 1
            pairs[sample] += movers > 0
            duplicates[sample] += movers > 0 and still == movers and not changed
        if count:
            top_speeds[sample] = distances[:count].max()
            fast_speeds[sample] = _quantile(distances[:count], fast)


@kernel(f"void({_FRAMES}, {_THERE}, float32[::1], float32[::1])")
def measure_range(
    frames: Frames, there: npt.NDArray[np.bool_], lowest: npt.NDArray[np.float32], highest: npt.NDArray[np.float32]
) -> None:
    """Widen lowest and highest to all bodies; ten times as fast as NumPy along rows of three."""
    num_frames, num_persons, num_joints, num_coordinates = frames.shape
    for t in range(num_frames):
        for person in range(num_persons):
            if there[t, person]:
                for joint in range(num_joints):
                    for c in range(num_coordinates):
                        lowest[c] = min(lowest[c], frames[t, person, joint, c])
                        highest[c] = max(highest[c], frames[t, person, joint, c])
