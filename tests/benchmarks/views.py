"""The views of PCM3++ against an obvious loop over samples, in one run.

    OMP_NUM_THREADS=1 python tests/benchmarks/views.py [--batch 128] [--rounds 10]

The reference makes the three augmented views of a sample (crop, resize, shear or corruption) with NumPy, one sample
after the other, as the released feeder does; ours makes all six views, mixing and masking included.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from pipelines.views import PCM3PPViewsConfig, pcm3pp_views
from shards.batch import RaggedBatch

FRAMES, JOINTS, CORRUPTED = 64, 25, 15
Array = npt.NDArray[np.float32]


def reference_view(sample: Array, random: np.random.Generator, always_shear: bool) -> Array:
    """(T, M, V, C) -> (64, M, V, C): crop, linear resize, then a shear or a joint corruption."""
    kept = min(max(int(len(sample) * random.uniform(0.1, 1)), FRAMES), len(sample))
    start = random.integers(0, len(sample) - kept + 1)
    crop = sample[start : start + kept]
    position = np.maximum((np.arange(FRAMES) + 0.5) * kept / FRAMES - 0.5, 0)
    lower = np.minimum(position.astype(int), kept - 1)
    upper = np.minimum(lower + 1, kept - 1)
    share = (position - lower)[:, None, None, None].astype(np.float32)
    view = crop[lower] * (1 - share) + crop[upper] * share
    if always_shear or random.random() >= 0.5:
        matrix = random.uniform(-1, 1, (3, 3)).astype(np.float32)
        np.fill_diagonal(matrix, 1)
        return np.asarray(view @ matrix.T)
    joints = random.permutation(JOINTS)[:CORRUPTED]
    view[:, :, joints] = view[:, :, joints] @ random.uniform(-1, 1, (3, 3)).astype(np.float32)
    return view


def reference(samples: list[Array], random: np.random.Generator) -> list[Array]:
    """The three views of every sample, stacked."""
    views = [[reference_view(sample, random, always) for always in (False, False, True)] for sample in samples]
    return [np.stack(view) for view in zip(*views, strict=True)]


def seconds(work: Callable[[], object], rounds: int) -> float:
    """Median of several calls after a first one."""
    times = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    random = np.random.default_rng(0)
    lengths = random.integers(40, 150, options.batch)
    samples = [random.standard_normal((length, 2, JOINTS, 3), dtype=np.float32) for length in lengths]
    length = torch.from_numpy(lengths)
    ids = torch.arange(options.batch)
    batch = RaggedBatch(torch.from_numpy(np.concatenate(samples)), length.cumsum(0) - length, length, ids, ids)

    loop = seconds(lambda: reference(samples, random), options.rounds)
    ours = seconds(
        lambda: pcm3pp_views(batch, PCM3PPViewsConfig(), stream="joint", seed=0, epoch=0, step=0), options.rounds
    )
    print(f"loop over samples, three views  {options.batch / loop:8.0f} samples/s")
    print(f"batched, all six views          {options.batch / ours:8.0f} samples/s  {loop / ours:.2f}x")


if __name__ == "__main__":
    main()
