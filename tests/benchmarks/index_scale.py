"""The index of a store of 100 million sequences: memory and lookup time of what finds a sample, beside alternatives.

    OMP_NUM_THREADS=1 python tests/benchmarks/index_scale.py [--samples 100000000] [--only NAME ...]

No frames are made. Every row is measured in a process of its own, without what its libraries hold: `held` is what stays
in memory, `peak` the most it took on the way. Rows of Python objects would not fit at full size: they are measured with
the number of samples in the column `at` and scaled, since each grows in proportion. Mapped files do not count as
memory, for the system takes their pages back when it needs them; they are read from the page cache here. 100 million
take 5 GB of memory and 2.8 GB of the temporary folder.
"""

import argparse
import gc
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SAMPLES = 100_000_000
MEAN_FRAMES = 64
SAMPLES_PER_SHARD = 1024
KEY_BYTES = 20
BATCH = 128
SPARSE = 1024
"""Keys between two of a sparse index: the block it points to has 20 kB, one request to an object store."""
OBJECTS_AT = 500_000
ORDER_AT = 5_000_000
FILES_AT = 100_000
_CHUNK = 5_000_000

Keys = npt.NDArray[np.bytes_]


@dataclass(frozen=True)
class Row:
    """Bytes and seconds scaled to all samples, and microseconds of one lookup."""

    at: int
    held: float
    peak: float
    build: float
    lookups: dict[str, float] = field(default_factory=dict)


def resident() -> int:
    """Bytes of memory of this process that are no file's."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024


class Meter:
    """Watches the memory of a `with` block; `row` is to be called in it, while what was built is still held."""

    def __enter__(self) -> "Meter":
        gc.collect()
        self._begin = self._highest = resident()
        self._end = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        self._clock = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._watch.join()

    def _look(self) -> None:
        while not self._end.wait(0.005):
            self._highest = max(self._highest, resident())

    def row(self, at: int, samples: int, **lookups: Callable[[], object]) -> Row:
        build = time.perf_counter() - self._clock
        gc.collect()
        self._highest = max(self._highest, resident())
        held, peak, scale = resident() - self._begin, self._highest - self._begin, samples / at
        times = {name: microseconds(work) for name, work in lookups.items()}
        return Row(at, held * scale, peak * scale, build * scale, times)


def microseconds(work: Callable[[], object], least: float = 0.5) -> float:
    """Mean of many calls, each of which draws its own random number; the first ones warm up."""
    for _ in range(10):
        work()
    calls, begun = 0, time.perf_counter()
    while (passed := time.perf_counter() - begun) < least:
        work()
        calls += 1
    return passed / calls * 1e6


def draw(count: int, seed: int = 0) -> Callable[[], int]:
    """Random numbers below `count`; few enough to weigh nothing, and enough to miss the processor's caches."""
    numbers = cycle(np.random.default_rng(seed).integers(0, count, 50_000).tolist())
    return lambda: next(numbers)


# What a store holds a sample: offsets, keys, columns


def lengths(count: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(1).integers(MEAN_FRAMES // 2, 3 * MEAN_FRAMES // 2, count)


def make_offsets(count: int) -> npt.NDArray[np.int64]:
    offsets = np.zeros(count + 1, dtype=np.int64)
    offsets[1:] = lengths(count)
    return np.cumsum(offsets, out=offsets)


def fill_keys(keys: npt.NDArray[np.uint8], first: int) -> None:
    """Sorted keys S0000000000000000123 of rows `first` and on, by arithmetic on columns of digits."""
    number = np.arange(first, first + len(keys))
    keys[:, 0] = ord("S")
    for column in range(KEY_BYTES - 1, 0, -1):
        number, digit = np.divmod(number, 10) if number[-1] else (number, 0)
        keys[:, column] = digit + ord("0")


def key_of(row: int) -> bytes:
    return f"S{row:0{KEY_BYTES - 1}d}".encode()


def find(keys: Keys, row: int) -> int:
    """Binary search of a row's key; numpy would copy all keys if the sought one had another width."""
    found = int(np.searchsorted(keys, np.array([key_of(row)], dtype=keys.dtype))[0])
    assert found == row
    return found


def probe_offsets(samples: int, folder: Path) -> Row:
    with Meter() as meter:
        offsets = make_offsets(samples)
        assert not (np.diff(offsets) < 1).any()  # as `open_store` checks them
        sample, frame = draw(samples), draw(int(offsets[-1]), 1)

        def window() -> int:
            row = sample()
            return int(offsets[row + 1]) - int(offsets[row])

        return meter.row(
            samples,
            samples,
            **{
                "id -> frames": window,
                "frame -> id": lambda: int(np.searchsorted(offsets, frame(), side="right")) - 1,
            },
        )


def probe_keys(samples: int, folder: Path) -> Row:
    with Meter() as meter:
        table = np.empty((samples, KEY_BYTES), dtype=np.uint8)
        for first in range(0, samples, _CHUNK):
            fill_keys(table[first : first + _CHUNK], first)
        assert table.max() < 128  # as `open_store` checks them
        row = draw(samples)
        keys: Keys = table.view(f"S{KEY_BYTES}")[:, 0]
        return meter.row(samples, samples, **{"key -> id": lambda: find(keys, row())})


def probe_columns(samples: int, folder: Path) -> Row:
    from shards.tables import INFO_COLUMNS

    with Meter() as meter:
        columns = [np.full(samples, number, dtype=np.int32) for number in range(len(INFO_COLUMNS))]
        row = draw(samples)
        return meter.row(samples, samples, **{"id -> labels": lambda: [int(c[n]) for n in [row()] for c in columns]})


def probe_infos(samples: int, folder: Path) -> Row:
    """`Store.infos` builds them from columns that it holds anyway."""
    from shards.schema import SampleInfo

    at = min(samples, OBJECTS_AT)
    with Meter() as meter:
        # Numbers of performers and cameras are small, which Python keeps once; labels too.
        infos = [SampleInfo(key_of(n).decode(), n % 120, n % 106, n % 3, n % 32, n % 2, 1) for n in range(at)]
        row = draw(at)
        return meter.row(at, samples, **{"id -> info": lambda: infos[row()]})


def probe_dictionary(samples: int, folder: Path) -> Row:
    at = min(samples, OBJECTS_AT)
    with Meter() as meter:
        ids = {key_of(number).decode(): number for number in range(at)}
        row = draw(at)
        return meter.row(at, samples, **{"key -> id": lambda: ids[key_of(row()).decode()]})


def probe_mapped(samples: int, folder: Path) -> Row:
    """Offsets and keys in files, and in memory every 1024th key."""
    write_tables(samples, folder)
    with Meter() as meter:
        offsets = np.memmap(folder / "offsets", dtype=np.int64, mode="r")
        keys: Keys = np.memmap(folder / "keys", dtype=f"S{KEY_BYTES}", mode="r")
        sparse = np.array(keys[::SPARSE])
        row, other = draw(samples), draw(samples, 1)

        def block_then_row() -> int:
            number = other()
            sought = np.array([key_of(number)], dtype=keys.dtype)
            block = int(np.searchsorted(sparse, sought, side="right")[0] - 1) * SPARSE
            found = block + int(np.searchsorted(keys[block : block + SPARSE], sought)[0])
            assert found == number
            return found

        def window() -> int:
            number = row()
            return int(offsets[number + 1]) - int(offsets[number])

        return meter.row(samples, samples, **{"id -> frames": window, "key -> id": block_then_row})


def write_tables(samples: int, folder: Path) -> None:
    random, end = np.random.default_rng(1), 0
    with (folder / "offsets").open("wb") as offsets, (folder / "keys").open("wb") as keys:
        offsets.write(np.int64(0).tobytes())
        for first in range(0, samples, _CHUNK):
            count = min(_CHUNK, samples - first)
            stops = end + np.cumsum(random.integers(MEAN_FRAMES // 2, 3 * MEAN_FRAMES // 2, count))
            end = int(stops[-1])
            stops.tofile(offsets)
            block = np.empty((count, KEY_BYTES), dtype=np.uint8)
            fill_keys(block, first)
            block.tofile(keys)


# What a conversion holds a recording


def probe_listing(samples: int, folder: Path) -> Row:
    """The raw files, and the recordings made of them."""
    import zipfile

    from pipelines.archives import find_files
    from pipelines.conversion.recordings import Recording

    at = min(samples, FILES_AT)
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for number in range(at):
            archive.writestr(f"inner/{key_of(number).decode()}.skeleton", b"")
    with Meter() as meter:
        files = find_files([folder / "a.zip"], (".skeleton",))
        recordings = [Recording(file) for file in files]
        assert len(recordings) == at
        return meter.row(at, samples)


def probe_packing(samples: int, folder: Path) -> Row:
    """The plan of all cells and shards, beside the infos that it is made of."""
    from pipelines.conversion.pack import plan_packing
    from shards.schema import SampleInfo

    at = min(samples, OBJECTS_AT)
    infos = [SampleInfo(key_of(n).decode(), n % 120, 1 + n % 106, 1 + n % 3, 1 + n % 32, 1, 1) for n in range(at)]
    lengths = [MEAN_FRAMES] * at
    with Meter() as meter:
        packing = plan_packing("ntu", infos, lengths, None, SAMPLES_PER_SHARD)
        row = meter.row(at, samples)
    assert sum(len(shard.ids) for shard in packing.shards) == at
    return row


# The manifest and the indexes of shards


def probe_manifest(samples: int, folder: Path) -> Row:
    """Reading one: an entry a shard, and one a file."""
    from shards.manifest import read_manifest, write_manifest

    write_manifest(folder, make_manifest(samples))
    with Meter() as meter:
        manifest = read_manifest(folder)
        cell = "ntu60-xsub-train"

        def side() -> int:
            return sum(shard.samples for shard in manifest.shards if shard.cell == cell)

        row = meter.row(samples, samples, **{"all shards of a side": side})
    size = (folder / "manifest.json").stat().st_size
    print(f"  manifest.json: {size / 1e6:,.0f} MB, {len(manifest.files):,} files, {len(manifest.shards):,} shards")
    return row


def make_manifest(samples: int) -> Any:
    from shards.manifest import CellEntry, FileEntry, Manifest, ShardEntry, counts
    from shards.schema import FORMAT_VERSION
    from shards.store import FRAMES_PER_SHARD

    frames, cell, digest = samples * MEAN_FRAMES, "ntu60-xsub-train", "0" * 64
    paths = [f"shards/{cell}/{number:06d}" for number in range(-(-samples // SAMPLES_PER_SHARD))]
    stored = [f"store.zarr/frames/c/{number}/0/0/0" for number in range(-(-frames // FRAMES_PER_SHARD))]
    names = sorted([*stored, *(f"{path}.{suffix}" for path in paths for suffix in ("idx", "tar"))])
    shard_frames = SAMPLES_PER_SHARD * MEAN_FRAMES
    shards = [
        ShardEntry(cell=cell, path=f"{p}.tar", index=f"{p}.idx", samples=SAMPLES_PER_SHARD, frames=shard_frames)
        for p in paths
    ]
    return Manifest(
        format_version=FORMAT_VERSION,
        source="ntu",
        recipe="pcm3",
        recipe_steps=[],
        inventory=digest,
        fingerprint="0" * 12,
        counts=counts(sequences=samples, samples=samples, frames=frames, dropped=0, repaired=0),
        dtype="float32",
        max_error=0.0,
        cells={cell: CellEntry(memberships={"ntu60/xsub": "train"}, samples=samples, frames=frames)},
        shards=shards,
        files=[FileEntry(path=name, bytes=10_000_000, sha256=digest) for name in names],
        dropped=[],
        repaired=[],
    )


def probe_indexes(samples: int, folder: Path) -> Row:
    """The text indexes of all shards, were they all held; a stream loader holds eight."""
    from shards.reader import ShardIndex, read_index

    shards = 50
    write_index(folder / "000000.idx")
    with Meter() as meter:
        indexes: list[ShardIndex] = [read_index(folder / "000000.tar") for _ in range(shards)]
        assert len(indexes[0]) == SAMPLES_PER_SHARD
        return meter.row(
            shards * SAMPLES_PER_SHARD,
            samples,
            **{"one index": lambda: read_index(folder / "000000.tar"), "of 16,384": _read_large(folder)},
        )


def _read_large(folder: Path) -> Callable[[], object]:
    from shards.reader import read_index

    write_index(folder / "000001.idx", 16_384)
    return lambda: read_index(folder / "000001.tar")


def write_index(path: Path, count: int = SAMPLES_PER_SHARD) -> None:
    lines, offset = [f"v1.2 {count}"], 0
    for number in range(count):
        key, size = key_of(number).decode(), 128 + 600 * MEAN_FRAMES
        after = offset + 512 + -(-size // 512) * 512
        lines.append(f"frames.npy {offset + 512} {size} {key}.frames.npy json {after + 512} 300 {key}.json")
        offset = after + 1024
    path.write_text("\n".join(lines) + "\n")


def probe_binary_indexes(samples: int, folder: Path) -> Row:
    """The same as arrays in one file a shard: keys, and where the two members begin and end."""
    shards = 50
    write_index(folder / "000000.idx")
    from shards.reader import read_index

    index = read_index(folder / "000000.tar")
    np.save(folder / "spans.npy", index.spans)
    np.save(folder / "keys.npy", np.array([key.encode() for key in index.keys]))

    def read() -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        return np.load(folder / "spans.npy"), np.load(folder / "keys.npy")

    with Meter() as meter:
        indexes = [read() for _ in range(shards)]
        assert len(indexes[0][0]) == SAMPLES_PER_SHARD
        return meter.row(shards * SAMPLES_PER_SHARD, samples, **{"one index": read})


# The order of an epoch


def probe_windowed(samples: int, folder: Path) -> Row:
    """The order of an epoch in windows, made whole at its beginning, as `Order.epoch` makes it."""
    from pipelines.loaders.order import windowed

    at = min(samples, ORDER_AT)
    sizes = [SAMPLES_PER_SHARD] * (at // SAMPLES_PER_SHARD)
    windowed(sizes[:8], 4, seed=0, epoch=0)
    with Meter() as meter:
        places = windowed(sizes, 4, seed=0, epoch=0)
        step = draw(at // BATCH)

        def batch() -> Any:
            first = step() * BATCH
            return places[first : first + BATCH]

        return meter.row(at, samples, **{"batch of 128": batch})


class LazyOrder:
    """The same order by arithmetic: a permutation of the shards, and of a window when a position falls into it."""

    def __init__(self, sizes: npt.NDArray[np.int64], window: int, *, seed: int, epoch: int) -> None:
        from pipelines.loaders.order import permutation

        self._shards = permutation(len(sizes), seed=seed, epoch=epoch, name="shards")
        self._sizes, self._window = sizes[self._shards], window
        ends = np.cumsum(self._sizes)
        self._ends = ends[[*range(window - 1, len(sizes) - 1, window), len(sizes) - 1]]
        self._draw = partial(permutation, seed=seed, epoch=epoch)
        self._order = lru_cache(2)(self._places)

    def _places(self, number: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        part = slice(number * self._window, (number + 1) * self._window)
        sizes = self._sizes[part]
        order = self._draw(int(sizes.sum()), name=f"window {number}")
        rows = np.concatenate([np.arange(size) for size in sizes])
        return np.repeat(self._shards[part], sizes)[order], rows[order]

    def __getitem__(self, part: slice) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        first, last = np.searchsorted(self._ends, [part.start, part.stop - 1], side="right").tolist()
        begin = int(self._ends[first - 1]) if first else 0
        places = [self._order(number) for number in range(first, last + 1)]
        inside = slice(part.start - begin, part.stop - begin)
        shard, row = (np.concatenate(columns)[inside] for columns in zip(*places, strict=True))
        return shard, row


def probe_lazy(samples: int, folder: Path) -> Row:
    check_lazy()
    sizes = np.full(samples // SAMPLES_PER_SHARD, SAMPLES_PER_SHARD)
    with Meter() as meter:
        order = LazyOrder(sizes, 4, seed=0, epoch=0)
        step, steps = draw(int(sizes.sum()) // BATCH), cycle(range(int(sizes.sum()) // BATCH))

        def at(number: int) -> Any:
            return order[number * BATCH : (number + 1) * BATCH]

        return meter.row(
            samples,
            samples,
            **{"batch of 128, in turn": lambda: at(next(steps)), "anywhere": lambda: at(step())},
        )


def check_lazy() -> None:
    """Equal to what `windowed` makes whole."""
    from pipelines.loaders.order import windowed

    sizes = np.random.default_rng(0).integers(1, 50, 23)
    order, whole = LazyOrder(sizes, 4, seed=3, epoch=2), windowed(sizes.tolist(), 4, seed=3, epoch=2)
    for first in range(0, int(sizes.sum()), 7):
        stop = min(first + 7, int(sizes.sum()))
        shard, row = order[first:stop]
        assert (shard == whole.shard[first:stop]).all()
        assert (row == whole.row[first:stop]).all()


def probe_permutation(samples: int, folder: Path) -> Row:
    """A permutation of all samples, as a window of all shards needs it."""
    from pipelines.loaders.order import permutation

    at = min(samples, ORDER_AT)
    permutation(1000, seed=0, epoch=0, name="samples")
    with Meter() as meter:
        order = permutation(at, seed=0, epoch=0, name="samples")
        step = draw(at // BATCH)
        return meter.row(at, samples, **{"batch of 128": lambda: order[step() * BATCH :][:BATCH]})


def probe_cipher(samples: int, folder: Path) -> Row:
    """A permutation that is computed where it is asked: a four-round Feistel network on the bits of the position."""
    check_cipher()
    with Meter() as meter:
        step = draw(samples // BATCH)
        return meter.row(
            samples, samples, **{"batch of 128": lambda: encipher(np.arange(BATCH) + step() * BATCH, samples, 7)}
        )


def encipher(position: npt.NDArray[np.int64], count: int, seed: int) -> npt.NDArray[np.int64]:
    """Places of positions 0..count-1 in a random order; those beyond `count` walk on until they are inside."""
    half = ((count - 1).bit_length() + 1) // 2
    mask = np.uint64((1 << half) - 1)
    place = position.astype(np.uint64)
    outside = np.ones(len(place), dtype=bool)
    while outside.any():
        place[outside] = _rounds(place[outside], half, mask, seed)
        outside = place >= count
    return place.astype(np.int64)


def _rounds(place: npt.NDArray[np.uint64], half: int, mask: Any, seed: int) -> npt.NDArray[np.uint64]:
    left, right = place >> np.uint64(half), place & mask
    for number in range(4):
        mixed = (right + np.uint64(seed * 4 + number + 1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        left, right = right, left ^ ((mixed >> np.uint64(32)) & mask)
    return np.asarray(left << np.uint64(half) | right)


def check_cipher() -> None:
    for count in (2, 5, 1000, 4097):
        assert sorted(encipher(np.arange(count), count, 1).tolist()) == list(range(count))


PROBES: dict[str, tuple[str, Callable[[int, Path], Row]]] = {
    "offsets": ("store: offsets, int64", probe_offsets),
    "keys": ("store: keys, uint8 x 20", probe_keys),
    "columns": ("store: six int32 columns", probe_columns),
    "infos": ("store: infos, a list of objects", probe_infos),
    "dictionary": ("alternative: dict of keys", probe_dictionary),
    "mapped": ("alternative: mapped, sparse keys", probe_mapped),
    "listing": ("conversion: list of raw files", probe_listing),
    "packing": ("conversion: plan of shards", probe_packing),
    "manifest": ("manifest, one JSON", probe_manifest),
    "indexes": ("shard indexes, text, all held", probe_indexes),
    "binary": ("alternative: arrays, all held", probe_binary_indexes),
    "windowed": ("order: windows, whole", probe_windowed),
    "lazy": ("alternative: windows when asked", probe_lazy),
    "permutation": ("order: all samples, whole", probe_permutation),
    "cipher": ("alternative: computed when asked", probe_cipher),
}


def run(name: str, samples: int) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        return PROBES[name][1](samples, Path(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--only", nargs="+", choices=list(PROBES), default=list(PROBES))
    options = parser.parse_args()
    print(f"{'for ' + format(options.samples, ',') + ' samples':<34} {'at':>11} {'held MB':>8} {'peak MB':>8} {'s':>8}")
    for name in options.only:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            row = pool.submit(run, name, options.samples).result()
        lookups = ", ".join(f"{what} {time:,.1f} us" for what, time in row.lookups.items())
        numbers = f"{row.at:11,} {row.held / 1e6:8,.0f} {row.peak / 1e6:8,.0f} {row.build:8,.1f}"
        print(f"{PROBES[name][0]:<34} {numbers}  {lookups}", flush=True)


if __name__ == "__main__":
    main()
