"""What draws need on the CPU, each in one pass and bit by bit as torch has it: the generator, and choices."""

import numpy as np
import numpy.typing as npt

from pipelines.compiled import inlined, kernel

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


@inlined
def _mix(state: np.uint64) -> np.uint64:
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    return state ^ (state >> np.uint64(31))


@kernel("void(Array(int64, 1, 'C', readonly=True), int64, float64[:,::1])")
def uniform_rows(sample_id: npt.NDArray[np.int64], key: int, out: npt.NDArray[np.float64]) -> None:
    """Fill out (N, count) as `draws.uniform` does; `key` as a signed number."""
    for n in range(len(out)):
        state = _mix(np.uint64(sample_id[n]) * _GOLDEN + np.uint64(key))
        for number in range(out.shape[1]):
            bits = _mix(state + np.uint64(number + 1) * _GOLDEN)
            out[n, number] = np.float64(np.int64(bits >> np.uint64(11))) * 2.0**-53


@kernel("void(Array(float64, 2, 'C', readonly=True), int64[:,::1])")
def subset_rows(draws: npt.NDArray[np.float64], out: npt.NDArray[np.int64]) -> None:
    """Fill out (N, size) as `draws.subset` does: each number's rank is where it goes."""
    count, size = draws.shape[1], out.shape[1]
    for n in range(len(out)):
        for i in range(count):
            rank = 0
            for j in range(count):
                rank += (draws[n, j] < draws[n, i]) | ((draws[n, j] == draws[n, i]) & (j < i))
            if rank < size:
                out[n, rank] = i


@kernel("void(Array(int64, 1, 'C', readonly=True), int64, Array(float32, 3, 'C', readonly=True), float32[:,:,::1])")
def take_rows(
    which: npt.NDArray[np.int64], number: int, given: npt.NDArray[np.float32], out: npt.NDArray[np.float32]
) -> None:
    """out[n] = given[n] where which[n] is `number`; out (N, V, K), given (N, 1 or V, K)."""
    for n in range(len(out)):
        if which[n] == number:
            for v in range(out.shape[1]):
                for k in range(out.shape[2]):
                    out[n, v, k] = given[n, v if given.shape[1] > 1 else 0, k]
