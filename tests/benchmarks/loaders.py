"""The loaders with the views of PCM3++, beside an obvious NumPy reference and plain webdataset, in one run.

    OMP_NUM_THREADS=1 python tests/benchmarks/loaders.py [--engines resident stream dali] [--workers 0 1 2]
        [--files 600] [--batch 128] [--rounds 5] [--device cuda --bandwidth 4.8]

The reference makes the three augmented views of a sample (crop, resize, shear or corruption) with NumPy, one sample
after the other, as the released feeder does, from samples in memory; "webdataset" does the same with samples that it
reads and decodes, both in one process. Each engine makes the same three views, then all six with mixing, masks and
clip. A round takes a stretch of an epoch from each in turn; medians, and ratios of neighbours in time.

"stalled" is the share of time for which a trainer that needs `--step-ms` a step waits for its next batch. Where the
loader works in the trainer's own thread (0 workers) that is all of its time. The trainer sleeps: it leaves the
processor to the loader, as a GPU does.

"bandwidth", on a GPU: bytes of stored frames read (each window once a view) and of views written, per second, as a
share of `--bandwidth` in TB/s (4.8 of an H200).
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from flows.recipes.pcm3 import PCM3PPViewsConfig
from pipelines.conversion.convert import convert
from pipelines.loaders.loader import PREFETCH, Engine, TorchEngine, ViewLoader
from pipelines.loaders.mixture import Part, mix_parts
from pipelines.loaders.order import Partition
from pipelines.loaders.split import Split, open_split
from pipelines.synthetic import ntu
from pipelines.synthetic.archive import write_entries
from pipelines.views.spec import ViewSpec
from shards.batch import Views

FRAMES, JOINTS, CORRUPTED = 64, 25, 15
LENGTHS = (60, 140)
TARGET, STRETCH = 30, 60
SEED = 0
EPOCH = 32
"""How often an epoch takes each sample."""
Array = npt.NDArray[Any]


def reference_view(sample: Array, random: np.random.Generator, always_shear: bool) -> Array:
    """(T, M, V, C) -> (64, M, V, C): crop, linear resize, then a shear or a joint corruption."""
    kept = min(max(int(len(sample) * random.uniform(0.1, 1)), FRAMES), len(sample))
    start = random.integers(0, len(sample) - kept + 1)
    crop = sample[start : start + kept].astype(np.float32, copy=False)
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
    lost = random.uniform(-1, 1, (3, 3)) if random.random() >= 0.5 else np.zeros((3, 3))
    view[:, :, joints] = view[:, :, joints] @ lost.astype(np.float32)
    return np.asarray(view)


def reference_batch(samples: list[Array], random: np.random.Generator) -> list[Array]:
    """The three views of every sample, stacked."""
    views = [[reference_view(sample, random, always) for always in (False, False, True)] for sample in samples]
    return [np.stack(view) for view in zip(*views, strict=True)]


def webdataset_samples(paths: list[str]) -> Iterator[Array]:
    """Frames as plain webdataset reads and decodes them, without end."""
    import webdataset

    while True:
        data = webdataset.WebDataset(paths, shardshuffle=False, empty_check=False).decode()
        for sample in data:
            yield next(value for name, value in sample.items() if name.endswith("npy"))


@dataclass
class Contender:
    """What is timed: `step` makes a batch, which is dropped at once; `times` are seconds a sample, by round."""

    name: str
    step: Callable[[], object]
    batch: int
    times: list[float]

    def run(self, steps: int, ready: int) -> None:
        """Time `steps` batches after those that may be `ready` since the last round."""
        for _ in range(ready):
            self.step()
        begun = time.perf_counter()
        for _ in range(steps):
            self.step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append((time.perf_counter() - begun) / steps / self.batch)

    @property
    def rate(self) -> float:
        return 1 / statistics.median(self.times)

    def against(self, other: "Contender") -> float:
        """How many times as fast as another one, by rounds."""
        return statistics.median(o / t for t, o in zip(self.times, other.times, strict=True))


def make_shards(folder: Path, raw: Path, storage: Any) -> Split:
    """Synthetic recordings, converted as a user would."""
    made = convert("ntu", [raw], folder / storage, dtype=storage, on_error="drop", samples_per_shard=128)
    # a longer epoch of the same samples: what begins an epoch would weigh too much in one of two steps
    return mix_parts([Part(open_split(made.folder, "ntu60", "xsub", "train"), weight=EPOCH)])


def make_engine(name: str, split: Split, spec: ViewSpec, options: argparse.Namespace) -> Engine:
    device = torch.device(options.device)
    if name == "dali":
        from pipelines.loaders.dali import DaliEngine

        return DaliEngine(split, spec, device, seed=SEED, batch_size=options.batch)
    if name == "stream":
        from pipelines.loaders.stream import Stream

        return TorchEngine(Stream(split, device), spec, SEED)
    from pipelines.loaders.resident import Resident

    return TorchEngine(Resident(split, device), spec, SEED)


def endless(loader: ViewLoader) -> Iterator[Views]:
    """Epoch after epoch."""
    for epoch in count():
        yield from loader.epoch(epoch)


def stall(batches: Iterator[Views], steps: int, seconds: float) -> float:
    """Share of time for which a trainer of `seconds` a step waits."""
    next(batches)
    waited, begun = 0.0, time.perf_counter()
    for _ in range(steps):
        time.sleep(seconds)
        asked = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - asked
    return waited / (time.perf_counter() - begun)


def baselines(split: Split, options: argparse.Namespace) -> list[Contender]:
    """The reference first, then webdataset with and without views; all make batches as large as the engines do."""
    random, batch = np.random.default_rng(SEED), options.batch
    held = [
        item.frames
        for number, shard in enumerate(split.shards)
        for item in split.read(number, range(shard.entry.samples), split.index(number))
    ]
    paths = [str(shard.path) for shard in split.shards]
    read, made = webdataset_samples(paths), webdataset_samples(paths)

    def in_memory() -> object:
        return reference_batch([held[place] for place in random.choice(len(held), batch)], random)

    return [
        Contender("reference, in memory", in_memory, batch, []),
        Contender("webdataset + reference", lambda: reference_batch(list(islice(made, batch)), random), batch, []),
        Contender("webdataset, no views", lambda: list(islice(read, batch)), batch, []),
    ]


def moved_bytes(split: Split, rate: float, views: int) -> float:
    """Bytes a second: windows read and views written, at `rate` samples a second."""
    window = split.num_frames / split.num_samples * 0.8 * split.dtype.itemsize * 150
    return rate * views * (window + FRAMES * 150 * 4)


def measure(split: Split, storage: str, options: argparse.Namespace) -> None:
    """All contenders on one storage, and their rows."""
    six = PCM3PPViewsConfig(frames=FRAMES).spec(("joint",))
    specs = {"three": ViewSpec(frames=FRAMES, views=six.views[:3]), "six": six}
    slow, rows = baselines(split, options), []
    with contextlib.ExitStack() as stack:
        for name in options.engines:
            for workers in options.workers:
                pair, stalled = [], 0.0
                for views, spec in specs.items():
                    partition = Partition(split.order(seed=SEED).samples, options.batch)
                    engine = make_engine(name, split, spec, options)
                    loader = ViewLoader(engine, split.order(seed=SEED), partition, spec, seed=SEED, workers=workers)
                    stack.callback(loader.close)
                    batches = endless(loader)
                    stack.callback(batches.close)  # type: ignore[attr-defined] # a generator
                    pair.append(Contender(f"{name}, {workers} workers", partial(next, batches), options.batch, []))
                    if views == "six":
                        stalled = stall(batches, options.stall_steps, options.step_ms / 1e3)
                rows.append((pair, stalled))
        every = [*slow, *(contender for pair, _ in rows for contender in pair)]
        for contender in every:
            contender.step()
        for _ in range(options.rounds):
            for contender in every:
                contender.run(*((1, 1) if contender in slow else (options.steps, PREFETCH + 1)))
    print(f"\n{storage}: {split.num_samples} samples of {split.num_frames / split.num_samples:.0f} frames")
    print(f"{'':26} {'three views/s':>13} {'ratio':>7} {'goal':>9} {'all six/s':>10} {'stalled':>8}")
    for contender in slow:
        print(f"{contender.name:26} {contender.rate:13,.0f} {contender.against(slow[0]):6.1f}x")
    for (three, all_six), stalled in rows:
        goal = f"{TARGET}x, {STRETCH}x" if three.name.endswith(" 0 workers") else ""
        line = f"{three.name:26} {three.rate:13,.0f} {three.against(slow[0]):6.1f}x {goal:>9}"
        line += f" {all_six.rate:10,.0f} {stalled:8.1%}"
        if options.bandwidth:
            line += f"  bandwidth {moved_bytes(split, three.rate, 3) / options.bandwidth / 1e12:.1%}"
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", choices=("resident", "stream", "dali"), default=None)
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--storages", nargs="+", choices=("float32", "float16"), default=["float32", "float16"])
    parser.add_argument("--files", type=int, default=600, help="synthetic recordings")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="batches of a round")
    parser.add_argument("--step-ms", type=float, default=20, help="what the trainer needs a step")
    parser.add_argument("--stall-steps", type=int, default=50)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bandwidth", type=float, help="TB/s of the device's memory")
    options = parser.parse_args()
    options.engines = options.engines or ["resident", "stream", "dali"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "raw").mkdir()
        write_entries(ntu.entries(40, 60, options.files, SEED, LENGTHS), folder / "raw", zipped=True)
        for storage in options.storages:
            measure(make_shards(folder, folder / "raw", storage), storage, options)


if __name__ == "__main__":
    main()
