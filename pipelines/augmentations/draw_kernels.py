"""What draws need on the CPU, bit by bit as torch has it: the generator, choices, and the draws of PCM3.

A few torch calls take longer than the numbers of 128 samples: drawing the three views of PCM3 took 0.84 ms by torch
and takes 0.33 ms here.
"""

import numpy as np
import numpy.typing as npt

from pipelines.compiled import inlined, kernel

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@inlined
def _mix(state: np.uint64) -> np.uint64:
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    return state ^ (state >> np.uint64(31))


@inlined
def _state(sample_id: int, key: int) -> np.uint64:
    return _mix(np.uint64(sample_id) * _GOLDEN + np.uint64(key))


@inlined
def _number(state: np.uint64, number: int) -> float:
    """Number 0, 1, ... of a sample, in [0, 1)."""
    bits = _mix(state + np.uint64(number + 1) * _GOLDEN)
    return np.float64(np.int64(bits >> np.uint64(11))) * 2.0**-53


@kernel("void(Array(int64, 1, 'C', readonly=True), int64, float64[:,::1])")
def uniform_rows(sample_id: Integers, key: int, out: npt.NDArray[np.float64]) -> None:
    """Fill out (N, count) as `draws.uniform` does; `key` is the operation's `draws.word`, here and below."""
    for n in range(len(out)):
        state = _state(sample_id[n], key)
        for number in range(out.shape[1]):
            out[n, number] = _number(state, number)


@inlined
def _rank(draws: npt.NDArray[np.float64], out: Integers) -> None:
    for i in range(len(draws)):
        rank = 0
        for j in range(len(draws)):
            rank += (draws[j] < draws[i]) | ((draws[j] == draws[i]) & (j < i))
        if rank < len(out):
            out[rank] = i


@kernel("void(Array(float64, 2, 'C', readonly=True), int64[:,::1])")
def subset_rows(draws: npt.NDArray[np.float64], out: Integers) -> None:
    """Fill out (N, size) as `draws.subset` does: each number's rank is where it goes."""
    for n in range(len(out)):
        _rank(draws[n], out[n])


@kernel("void(Array(int64, 1, 'C', readonly=True), int64, Array(float32, 3, 'C', readonly=True), float32[:,:,::1])")
def take_rows(which: Integers, number: int, given: Floats, out: Floats) -> None:
    """out[n] = given[n] where which[n] is `number`; out (N, V, K), given (N, 1 or V, K)."""
    for n in range(len(out)):
        if which[n] == number:
            for v in range(out.shape[1]):
                for k in range(out.shape[2]):
                    out[n, v, k] = given[n, v if given.shape[1] > 1 else 0, k]


@kernel(
    "void(Array(int64, 1, 'C', readonly=True), Array(int64, 1, 'C', readonly=True), int64, float64, float64, int64,"
    " int64[::1], int64[::1])"
)
def crop_rows(
    sample_id: Integers, length: Integers, key: int, least: float, span: float, frames: int, first: Integers,
    kept: Integers,
) -> None:  # fmt: skip
    """Fill first and kept (N,) as `RandomCrop` does: a share `least` to `least + span`, at least `frames` frames."""
    for n in range(len(first)):
        state = _state(sample_id[n], key)
        share = _number(state, 0) * span + least
        kept[n] = min(max(int(np.floor(length[n] * share)), frames), length[n])
        first[n] = int(np.floor(_number(state, 1) * (length[n] - kept[n] + 1)))


@kernel("void(Array(int64, 1, 'C', readonly=True), int64, float64, float32[:,::1])")
def shear_rows(sample_id: Integers, key: int, amplitude: float, out: Floats) -> None:
    """Fill out (N, 9) as `Shear` does."""
    for n in range(len(out)):
        state, number = _state(sample_id[n], key), 0
        for entry in range(9):
            if entry % 4 == 0:
                out[n, entry] = 1
            else:
                out[n, entry] = np.float32((_number(state, number) * 2 - 1) * amplitude)
                number += 1


@kernel("void(Array(int64, 1, 'C', readonly=True), int64, int64, int64[:,::1], boolean[::1], float32[:,::1])")
def corruption_rows(
    sample_id: Integers, key_joints: int, key_how: int, joints: Integers, linear: npt.NDArray[np.bool_], matrix: Floats
) -> None:
    """Fill joints (N, K), linear (N,) and matrix (N, 9) as `JointCorruption` does."""
    draws = np.empty(25)
    for n in range(len(joints)):
        state = _state(sample_id[n], key_joints)
        for v in range(25):
            draws[v] = _number(state, v)
        _rank(draws, joints[n])
        state = _state(sample_id[n], key_how)
        linear[n] = _number(state, 0) >= 0.5
        for entry in range(9):
            matrix[n, entry] = np.float32(_number(state, entry + 1) * 2 - 1)


@kernel(
    "void(Array(int64, 2, 'C', readonly=True), Array(boolean, 1, 'C', readonly=True),"
    " Array(float32, 2, 'C', readonly=True), float32[:,:,::1])"
)
def corruption_maps(joints: Integers, linear: npt.NDArray[np.bool_], matrix: Floats, out: Floats) -> None:
    """Fill out (N, V, 9) as `joints.corruption_matrices` does."""
    for n in range(len(out)):
        for v in range(out.shape[1]):
            for entry in range(9):
                out[n, v, entry] = 1 if entry % 4 == 0 else 0
        for joint in joints[n]:
            for row in range(3):
                for column in range(3):
                    value = matrix[n, 3 * column + row]
                    # as a product, which keeps NaN and the sign of zero
                    out[n, joint, 3 * row + column] = value * np.float32(linear[n])
