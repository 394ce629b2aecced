"""What a conversion costs, measured on a few recordings: they are parsed, prepared and encoded for real, in memory.

All totals are ratio estimates: what the probes cost by byte of input, times all bytes of input. The size of a text file
tells of its frames and bodies, so that 32 probes give the frames of NTU RGB+D within a few per cent.
"""

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from numcodecs import blosc

from pipelines.parsers import parse
from pipelines.planning.inventory import Listed
from pipelines.preprocessing.recipes import Recipe
from shards.encoding import FRAME_SHAPE, ZSTD_LEVEL, Storage, encode_array, encode_member
from shards.errors import SkelstreamError
from shards.schema import segment_key
from shards.store import FRAMES_PER_CHUNK
from shards.writer import BLOCK, encode_record, sample_record

PROBES = 32
MIN_PROBES = 6
PROBED_BYTES = 24_000_000
"""Files of NTU RGB+D have 0.3 MB each, videos of PKU-MMD 6 MB: fewer of these tell as much."""

Frames = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error."""

    value: float
    error: float = 0.0

    def __add__(self, other: "Estimate") -> "Estimate":
        # All come from the same probes: errors add up in full.
        return Estimate(self.value + other.value, self.error + other.error)

    def __mul__(self, factor: float) -> "Estimate":
        return Estimate(self.value * factor, self.error * factor)


@dataclass(frozen=True)
class Probe:
    """One recording, converted.

    Attributes:
        listed: the recording.
        frames: that the store would hold, (T, M, V, C).
        stored: their bytes in the store, encoded alone.
        clip_frames: of its samples, as far as names and labels tell.
        packed: bytes of those that the recipe takes, in tar shards, with headers, records and lines of the index.
        seconds: of one thread.
        fault: why it cannot be converted; then nothing else is measured.
    """

    listed: Listed
    frames: Frames
    stored: float = 0.0
    clip_frames: int = 0
    packed: int = 0
    seconds: float = 0.0
    fault: str = ""

    @property
    def size(self) -> int:
        return self.listed.recording.skeleton.size


def probe_some(source: str, listed: Sequence[Listed], recipe: Recipe, dtype: Storage, threads: int) -> list[Probe]:
    """Convert a few recordings of all sizes on so many threads, always the same ones of the same list."""
    chosen = choose(listed)
    work = partial(probe, source, recipe, dtype)
    if chosen:
        work(chosen[0])  # whatever is compiled or imported at first use is no cost of a recording
    with ThreadPoolExecutor(max(1, min(threads, len(chosen)))) as pool:
        probes = list(pool.map(work, chosen))
    good = [number for number, found in enumerate(probes) if not found.fault]
    return probes if not good else _share_chunks(probes, good, dtype)


def choose(listed: Sequence[Listed], seed: int = 0) -> list[Listed]:
    """One of each of up to 32 groups of like size, small to large."""
    by_size = sorted(listed, key=lambda item: (item.recording.skeleton.size, item.recording.key))
    if not by_size:
        return []
    mean = sum(item.recording.skeleton.size for item in by_size) / len(by_size)
    count = min(len(by_size), PROBES, max(MIN_PROBES, int(PROBED_BYTES / max(1, mean))))
    random = np.random.default_rng(seed)
    edges = np.linspace(0, len(by_size), count + 1).astype(int)
    return [by_size[random.integers(a, b)] for a, b in pairwise(edges.tolist())]


def probe(source: str, recipe: Recipe, dtype: Storage, listed: Listed) -> Probe:
    """Do with one recording what a conversion does, but for the disk."""
    begun, skeleton = time.perf_counter(), listed.recording.skeleton
    try:
        sample = recipe.sample(parse(source, skeleton.read(), skeleton.name, skeleton.origin))
        frames = sample.frames if recipe.trims else recipe.window(sample.frames)
        stored = _stored_bytes(frames, dtype)
        packed = sum(_packed_bytes(source, recipe, dtype, listed, *clip) for clip in _clips(recipe, listed, frames))
    except SkelstreamError as error:
        return Probe(listed, np.zeros((0, *FRAME_SHAPE), np.float32), fault=str(error))
    seconds = time.perf_counter() - begun
    lengths = [recipe.clip_length(a.end - a.start) for a in listed.actions] if recipe.trims else [len(frames)]
    return Probe(listed, frames, stored, sum(lengths), packed, seconds)


def _clips(recipe: Recipe, listed: Listed, frames: Frames) -> Iterator[tuple[str, Frames]]:
    """Key and frames of each sample that the shards would hold."""
    key = listed.recording.key
    if not recipe.trims:
        yield key, frames
    for action in listed.actions:
        clip = frames[action.start : action.end]
        if recipe.refuses(clip) is None:
            yield segment_key(key, action.row), recipe.window(clip)


def _stored_bytes(frames: Frames, dtype: Storage) -> int:
    """Of frames in a store, as `shards.store` lays out a chunk: compressed along time, a checksum, a place."""
    total = 0
    shuffle = blosc.BITSHUFFLE if dtype == "fixed" else blosc.SHUFFLE
    for first in range(0, len(frames), FRAMES_PER_CHUNK):
        chunk, _ = encode_array(frames[first : first + FRAMES_PER_CHUNK], dtype, FRAMES_PER_CHUNK, "probe")
        data = blosc.compress(np.ascontiguousarray(np.moveaxis(chunk, 0, -1)), b"zstd", ZSTD_LEVEL, shuffle)
        hashlib.sha256(data).digest()
        total += len(data) + 4 + 16
    return total


def _packed_bytes(source: str, recipe: Recipe, dtype: Storage, listed: Listed, key: str, clip: Frames) -> int:
    """Of a sample in a tar shard and its index."""
    info = replace(listed.info, key=key)
    record = sample_record(info, index=10**5, frames=len(clip), source=source, recipe=recipe.name, fingerprint="0" * 12)
    place = 0 if listed.recording.labels is None else 80
    members = [encode_member(clip, dtype, key), encode_record(record) + bytes(place)]
    for data in members:
        hashlib.sha256(data).digest()
    return sum(BLOCK + math.ceil(len(data) / BLOCK) * BLOCK for data in members) + 2 * len(key) + 64


def _share_chunks(probes: list[Probe], good: list[int], dtype: Storage) -> list[Probe]:
    """In a store, samples share chunks, which compress better than the short ones of single samples."""
    together = _stored_bytes(np.concatenate([probes[number].frames for number in good]), dtype)
    factor = together / sum(probes[number].stored for number in good)
    return [replace(found, stored=found.stored * factor) for found in probes]


def ratio_estimate(known: Sequence[float], wanted: Sequence[float], total: float, count: int) -> Estimate:
    """Total of a number that the probes tell, from one that is known of all.

    Args:
        known: of each probe, the number whose total is known, such as its bytes.
        wanted: of each probe, the other one.
        total: of the known number over all recordings.
        count: of all recordings.

    Returns:
        The ratio estimate, and the standard error of a simple random sample without replacement. The probes are spread
        over all sizes and do better than that.
    """
    x, y = np.asarray(known, dtype=float), np.asarray(wanted, dtype=float)
    if not len(x) or not x.sum():
        return Estimate(math.nan, math.nan)
    ratio = float(y.sum() / x.sum())
    if len(x) == 1:
        return Estimate(ratio * total, 0.0 if count == 1 else math.nan)
    spread = math.sqrt(float(((y - ratio * x) ** 2).sum()) / (len(x) - 1))
    unseen = max(0.0, 1 - len(x) / count)
    return Estimate(ratio * total, total / float(x.mean()) * spread * math.sqrt(unseen / len(x)))
