"""Bytes a sample and speed of the three storages, beside two protocols of padded float32; and why zstd level 2.

    OMP_NUM_THREADS=1 python tests/benchmarks/storage.py [--samples 1000] [--rounds 3] [--levels]

The reference keeps each sample twice, once for each protocol, padded to 300 frames of two persons in float32: 360,000
bytes. Samples are synthetic NTU recordings of 108 frames in the mean, prepared by the recipe `pcm3`. Their sensor noise
is white, 6 mm: the entropy of the differences, also printed, is what no coding of them one by one can go below.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numcodecs import blosc

from pipelines.parsers import parse
from pipelines.preprocessing.recipes import recipe
from pipelines.synthetic import ntu
from shards.encoding import STORAGES, Storage, encode_array, kept, to_units
from shards.errors import RawInputError
from shards.reader import read_index, read_samples
from shards.schema import SampleInfo
from shards.store import FRAMES_PER_CHUNK, FRAMES_PER_SHARD, create, open_store, write_frames
from shards.writer import sample_record, write_shard

PADDED = 300 * 2 * 25 * 3 * 4 * 2
TARGETS: dict[Storage, int] = {"float32": 10, "float16": 20, "fixed": 30}
LENGTHS = (60, 150)

Frames = npt.NDArray[np.float32]


def make_samples(number: int) -> list[Frames]:
    """Prepared synthetic recordings, each (T, 2, 25, 3)."""
    prepare, samples = recipe("pcm3", "ntu"), []
    for entry in ntu.entries(20, 20, number, 0, LENGTHS):
        raw = parse("ntu", entry.data, Path(entry.path).stem, entry.path)
        try:
            samples.append(prepare.window(prepare.sample(raw)[0]))
        except RawInputError:  # one of the publishers' missing list
            continue
    return samples


def seconds(work: Callable[[], object], rounds: int) -> float:
    """Least of several calls."""
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def measure(storage: Storage, samples: list[Frames], rounds: int, root: Path) -> None:
    """Write and read one storage, and print its row."""
    flat, count = np.concatenate(samples), len(samples)
    keys = [f"S{i:06d}" for i in range(count)]
    store, shard = root / storage / "store.zarr", root / storage / "shards" / "000000.tar"
    create(store, [SampleInfo(key, 0) for key in keys], [len(s) for s in samples], None, storage)
    errors = []

    def write_store() -> None:
        for first in range(0, len(flat), FRAMES_PER_SHARD):
            errors.append(write_frames(store, first, flat[first : first + FRAMES_PER_SHARD]))

    def members() -> Iterator[tuple[str, Frames, dict[str, Any]]]:
        identity: dict[str, Any] = {"source": "ntu", "recipe": "pcm3", "fingerprint": "0" * 12}
        for i, frames in enumerate(stored):
            yield keys[i], frames, sample_record(SampleInfo(keys[i], 0), index=i, frames=len(frames), **identity)

    written = seconds(write_store, rounds)
    stored = [kept(frames, storage, "") for frames in samples]
    packed = seconds(lambda: write_shard(shard, members(), storage), rounds)
    opened, index = open_store(store), read_index(shard)
    order = np.random.default_rng(0).permutation(count).tolist()
    in_order = seconds(lambda: [opened.read(f, min(f + 16384, len(flat))) for f in range(0, len(flat), 16384)], rounds)
    at_random = seconds(lambda: [opened.sample(i) for i in order[:200]], rounds)
    from_shard = seconds(lambda: read_samples(shard, order, index), rounds)
    alone, tars = size_of(store) / count, size_of(shard.parent) / count
    ratios = " ".join(f"{size:9,.0f} {PADDED / size:5.1f}x" for size in (alone, tars, alone + tars))
    print(
        f"{storage:8} {ratios}  {TARGETS[storage]:4}x  {max(errors) * 1e3:7.4f} {count / written:8,.0f}"
        f" {count / packed:8,.0f} {count / in_order:8,.0f} {200 / at_random:8,.0f} {count / from_shard:8,.0f}",
        flush=True,
    )


def entropy(samples: list[Frames]) -> float:
    """Bytes a sample of the differences of `fixed`, persons that are there, each by its own frequency."""
    differences = [np.diff(to_units(s, ""), axis=0)[:, (s != 0).any(axis=(0, 2, 3))].ravel() for s in samples]
    values = np.concatenate(differences)
    _, counts = np.unique(values, return_counts=True)
    share = counts / counts.sum()
    return float(-(share * np.log2(share)).sum() * len(values) / 8 / len(samples))


def levels(samples: list[Frames], rounds: int) -> None:
    """Size and speed of the chunks of a store by level of zstd, in the format's layout and frame after frame."""
    flat = np.concatenate(samples)
    print(f"\n{'chunks of':9} {'layout':>16} {'level':>5} {'bytes':>7} {'write MB/s':>10} {'read MB/s':>9}")
    for storage in STORAGES:
        stored, _ = encode_array(flat, storage, FRAMES_PER_CHUNK, "")
        shuffle = blosc.BITSHUFFLE if storage == "fixed" else blosc.SHUFFLE
        for layout, axis in (("time last", -1), ("frame after frame", 0)):
            starts = range(0, len(flat), FRAMES_PER_CHUNK)
            chunks = [np.ascontiguousarray(np.moveaxis(stored[i : i + FRAMES_PER_CHUNK], 0, axis)) for i in starts]
            for level in (1, 2, 3, 5):
                pack = lambda: [blosc.compress(c, b"zstd", level, shuffle) for c in chunks]  # noqa: B023, E731 - called at once
                packed = pack()
                writing = seconds(pack, rounds)
                reading = seconds(lambda: [blosc.decompress(p) for p in packed], rounds)  # noqa: B023 - called at once
                size = sum(map(len, packed)) / len(samples)
                speeds = f"{flat.nbytes / writing / 1e6:10.0f} {flat.nbytes / reading / 1e6:9.0f}"
                print(f"{storage:9} {layout:>16} {level:5} {size:7,.0f} {speeds}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--levels", action="store_true")
    options = parser.parse_args()
    samples = make_samples(options.samples)
    mean = np.mean([len(s) for s in samples])
    print(f"{len(samples)} samples of {mean:.0f} frames; reference {PADDED:,} bytes a sample")
    print(f"ragged float32 {mean * 600:,.0f}; entropy of the differences in 0.1 mm {entropy(samples):,.0f}")
    print(
        f"{'':8} {'store alone':>16} {'shards alone':>16} {'both':>16}  {'goal':>5}  {'max mm':>7} {'samples/s:':>10}"
    )
    print(f"{'':74} {'store':>8} {'shards':>8} {'in order':>8} {'random':>8} {'shards':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for storage in STORAGES:
            measure(storage, samples, options.rounds, Path(folder))
    if options.levels:
        levels(samples, options.rounds)


if __name__ == "__main__":
    main()
