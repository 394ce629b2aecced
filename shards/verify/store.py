"""Verification: recompute all that a store's folder claims, and name everything that is wrong.

Here: the manifest, the files, the store. What the shards hold is compared with the store in `shards.verify.shards`.
"""

import hashlib
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise, zip_longest
from pathlib import Path

import numpy as np

from shards.catalog import info_from_name, missing_samples
from shards.catalog import source as source_of
from shards.errors import ConfigError, SkelstreamError, StoreError
from shards.manifest import (
    MANIFEST,
    STORE,
    FileEntry,
    Manifest,
    counts,
    encode_manifest,
    fingerprint,
    folder_name,
    read_manifest,
)
from shards.places import Place
from shards.progress import Progress
from shards.remote import failures
from shards.schema import SampleInfo, segment_key
from shards.skeleton import NUM_PERSONS
from shards.store import FRAMES_PER_SHARD, Store, open_store
from shards.verify.shards import Window, check_shards, expected_samples, on_threads

_BLOCK = 1 << 20

# Half a step of `fixed`, and half a unit in the last place of float16 and float32 relative to the largest value.
_HALF_STEP = 0.5e-4
_HALF_ULP_16 = 2.0**-11
_HALF_ULP_32 = 2.0**-24


def verify(folder: Place, window: Window | None = None, progress: bool = False) -> list[str]:
    """Recompute identity, hashes, store, cells, splits, counts and shards of a finished folder.

    Args:
        folder: `<source>-<recipe>-<fingerprint>`, local or remote.
        window: what the recipe does to a trimmed action of an untrimmed source, (n, M, V, C) -> (T, M, V, C); None
            leaves the frames as they are.
        progress: whether to show progress bars.

    Returns:
        Every problem in one line that names the file or sample; empty when all is good.
    """
    try:
        manifest = read_manifest(folder)
    except StoreError as error:
        return [str(error)]
    problems = [*check_identity(folder, manifest)]
    problems += check_files(folder, manifest, progress).lines()
    try:
        source_of(manifest.source)
        store = open_store(folder / STORE)
        infos = store.infos
    except ConfigError:  # named by its identity
        return problems
    except (StoreError, ValueError) as error:
        return [*problems, f"{STORE}: {error}"]
    problems += [*_rows(manifest, infos), *_quality(store), *_frames(manifest, store, progress)]
    wrong = list(_segments(manifest, store))
    if wrong:
        return [*problems, *wrong]
    problems += _counts(manifest, store)
    return [*problems, *check_shards(folder, manifest, store, window, progress)]


def _text(folder: Place, manifest: Manifest) -> Iterator[str]:
    """Whether the manifest is written as `encode_manifest` writes it: JSON has many forms of one content."""
    lines = (folder / MANIFEST).read_bytes().split(b"\n")
    pairs = enumerate(zip_longest(lines, encode_manifest(manifest).split(b"\n")), start=1)
    different = next((number for number, (line, other) in pairs if line != other), None)
    if different is not None:
        yield f"{MANIFEST}: line {different}: found another form, expected the text as it is written for its content"


def check_identity(folder: Place, manifest: Manifest) -> Iterator[str]:
    """What contradicts itself in a manifest, its text and the name of its folder."""
    yield from _text(folder, manifest)
    try:
        source_of(manifest.source)
    except ConfigError as error:
        yield f"{MANIFEST}: {error}"
    for step in manifest.recipe_steps:
        if step.get("name") == "recipe" and step.get("recipe") != manifest.recipe:
            yield f"{MANIFEST}: found recipe {manifest.recipe!r}, expected {step.get('recipe')!r} by its steps"
    name = fingerprint(manifest.source, manifest.inventory, manifest.recipe_steps, manifest.dtype)
    if manifest.fingerprint != name:
        yield f"{MANIFEST}: found fingerprint {manifest.fingerprint}, expected {name} by its source, recipe and format"
    expected = folder_name(manifest.source, manifest.recipe, name)
    if (folder.resolve() if isinstance(folder, Path) else folder).name != expected:
        yield f"{folder}: found a folder of this name, expected {expected}"
    if len({entry.path for entry in manifest.files}) != len(manifest.files):
        yield f"{MANIFEST}: found a file listed twice, expected each once"


@dataclass(frozen=True)
class FileCheck:
    """How the files of a folder differ from its manifest.

    Attributes:
        strays: files that the manifest does not list, sorted.
        broken: listed file -> what is wrong with it, sorted.
    """

    strays: tuple[str, ...]
    broken: dict[str, str]

    def lines(self) -> list[str]:
        strays = [f"{path}: found a file that the manifest does not list" for path in self.strays]
        return strays + [f"{path}: {reason}" for path, reason in self.broken.items()]


def check_files(folder: Place, manifest: Manifest, progress: bool = False) -> FileCheck:
    """Compare presence, size and SHA-256 of every file with the manifest."""
    there = _list_files(folder) - {MANIFEST}
    listed = {entry.path: entry for entry in manifest.files}
    broken = dict.fromkeys(sorted(listed.keys() - there), "found no file, expected one that the manifest lists")
    entries = [listed[path] for path in sorted(there & listed.keys())]
    total = sum(entry.bytes for entry in entries)
    with Progress("files", total, "B", shown=progress, scaled=True) as bar:
        for entry, fault in zip(
            entries, on_threads(partial(_file_fault, folder), entries, "", "", progress=False), strict=True
        ):
            if fault is not None:
                broken[entry.path] = fault
            bar.advance(entry.bytes)
    return FileCheck(tuple(sorted(there - listed.keys())), dict(sorted(broken.items())))


def _list_files(folder: Place) -> set[str]:
    """Paths of all files below a folder, relative to it."""
    if isinstance(folder, Path):
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    # One listing; asking each path whether it is a folder would be a request each.
    root = folder.path.rstrip("/")
    return {path[len(root) + 1 :] for path in folder.fs.find(root)}


def _file_fault(folder: Place, entry: FileEntry) -> str | None:
    path = folder / entry.path
    try:
        status = path.stat()
        if isinstance(path, Path) and not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for ever
            return "found something that is no file, expected a file"
        if status.st_size != entry.bytes:
            return f"found {status.st_size} bytes, expected {entry.bytes}"
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except failures(path) as error:
        return f"found an unreadable file ({error}), expected a readable one"
    return None if digest.hexdigest() == entry.sha256 else f"found other content, expected SHA-256 {entry.sha256}"


def _rows(manifest: Manifest, infos: list[SampleInfo]) -> Iterator[str]:
    for before, after in pairwise(info.key for info in infos):
        if before >= after:
            yield f"{STORE}: found {after} after {before}, expected keys sorted and unique"
    missing = missing_samples(manifest.source)
    for info in infos:
        try:
            named = replace(info_from_name(manifest.source, info.key), bodies=info.bodies)
        except SkelstreamError as error:
            yield f"{STORE}: {error}"
            continue
        if named != info:
            yield f"{STORE}: {info.key}: found {info}, expected {named} by its name"
        if not 0 <= info.bodies <= NUM_PERSONS:
            yield f"{STORE}: {info.key}: found {info.bodies} bodies, expected 0 to {NUM_PERSONS}"
        if info.key in missing:
            yield f"{STORE}: {info.key}: found a sample of the official missing list, expected none"


def _quality(store: Store) -> Iterator[str]:
    """A recipe may leave frames out, and a body it does not count is none: what cannot be, whatever the recipe."""
    if store.quality is None:
        return
    lengths = np.diff(store.offsets).tolist()
    for info, length, quality in zip(store.infos, lengths, store.quality, strict=True):
        where = f"{STORE}: quality of {info.key}"
        fields = vars(quality)
        negative = [name for name, value in fields.items() if value < 0]
        if negative:
            yield f"{where}: found {negative[0]} {fields[negative[0]]}, expected 0 or more"
        if quality.frames < length:
            yield f"{where}: found {quality.frames} raw frames, expected at least the {length} that are stored"
        if quality.empty_frames > quality.frames:
            yield f"{where}: found {quality.empty_frames} empty frames, expected at most its {quality.frames} frames"
        if quality.switches > quality.frames * quality.bodies:
            yield f"{where}: found {quality.switches} switches, expected at most one a frame and body"


def _frames(manifest: Manifest, store: Store, progress: bool) -> Iterator[str]:
    if store.dtype != manifest.dtype:
        yield f"{MANIFEST}: found dtype {manifest.dtype}, expected the store's {store.dtype}"
    firsts = range(0, store.num_frames, FRAMES_PER_SHARD)
    largest = 0.0
    for problems, value in on_threads(partial(_shard_of_frames, store), firsts, "store", "shard", progress=progress):
        yield from problems
        largest = max(largest, value)
    yield from _max_error(manifest, largest)


def _shard_of_frames(store: Store, first: int) -> tuple[list[str], float]:
    """Problems of one file of frames, and its largest finite absolute value."""
    try:
        frames = store.read(first, min(first + FRAMES_PER_SHARD, store.num_frames))
    except StoreError as error:
        return [f"{STORE}: {error}"], 0.0
    finite = np.isfinite(frames)
    if finite.all():
        return [], float(np.abs(frames).max())
    bad = first + np.flatnonzero(~finite.all(axis=(1, 2, 3)))
    keys = [store.infos[row].key for row in np.unique(np.searchsorted(store.offsets, bad, side="right") - 1)]
    found = "found a coordinate that is not finite, expected finite ones"
    return [f"{STORE}: {key}: {found}" for key in keys], float(np.abs(frames[finite]).max(initial=0.0))


def _max_error(manifest: Manifest, largest: float) -> Iterator[str]:
    """Whether the stated error is one that the storage can have made of values up to `largest`."""
    limit = {
        "float32": 0.0,
        "float16": largest * _HALF_ULP_16 * (1 + _HALF_ULP_16) + 2.0**-25,
        "fixed": _HALF_STEP + 2 * largest * _HALF_ULP_32,
    }[manifest.dtype]
    if not 0 <= manifest.max_error <= limit:
        expected = "0" if limit == 0 else f"0 to {limit:g}"
        yield f"{MANIFEST}: found max_error {manifest.max_error:g}, expected {expected} for {manifest.dtype}"


def _segments(manifest: Manifest, store: Store) -> Iterator[str]:
    source, segments = source_of(manifest.source), store.segments
    if (segments is not None) != source.untrimmed:
        found = "no segments" if segments is None else "segments"
        yield f"{STORE}: found {found}, expected {'some' if source.untrimmed else 'none'} for source {source.name}"
    for before, after in pairwise((s.video, s.row) for s in segments or ()):
        if before >= after:
            yield f"{STORE}: segments: found {after} after {before}, expected (video, row) sorted and unique"
    for number, s in enumerate(segments or ()):
        where = f"{STORE}: segment {number}"
        if not 0 <= s.video < len(store):
            yield f"{where}: found video {s.video}, expected 0 to {len(store) - 1}"
            continue
        length = int(store.offsets[s.video + 1] - store.offsets[s.video])
        where += f" ({segment_key(store.infos[s.video].key, s.row)})"
        if not 0 <= s.start < s.end <= length or s.row < 0:
            yield f"{where}: found frames {s.start} to {s.end} of row {s.row}, expected 0 <= start < end <= {length}"
        if not 0 <= s.label < source.num_classes:
            yield f"{where}: found label {s.label}, expected 0 to {source.num_classes - 1}"


def _counts(manifest: Manifest, store: Store) -> Iterator[str]:
    expected = counts(
        sequences=len(store),
        samples=len(expected_samples(store)),
        frames=store.num_frames,
        dropped=len(manifest.dropped),
        repaired=len(manifest.repaired),
    )
    for name in sorted(expected.keys() | manifest.counts.keys()):
        if manifest.counts.get(name) != expected.get(name):
            yield f"{MANIFEST}: found {manifest.counts.get(name)} {name}, expected {expected.get(name)}"
