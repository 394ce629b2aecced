"""A store, run or benchmark on the disk, and its state, by names, sizes and small files; no tensor or frame is read."""

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flows.config import read_config
from flows.run_folder import read_import, read_run
from flows.scores.summary import of_task
from flows.tasks.registry import TASKS
from models.evaluation.feature_store import read_features
from models.exchange.export import FILE
from models.training.checkpoint import latest_checkpoint, read_header
from shards.errors import SkelstreamError, StoreError
from shards.manifest import MANIFEST, read_manifest

Kind = Literal["store", "run", "results", "features", "export", "benchmark", "leftover"]
State = Literal["complete", "unfinished", "damaged"]

PARTS = ("results", "features", "export")
"""Folders of a run that are things of their own."""

_EXPORTED = (FILE, "encoder.onnx", "README.md", "config.json")


@dataclass(frozen=True)
class Item:
    """A thing on the shelf.

    Attributes:
        path: its folder, or of a leftover its folder or file.
        bytes: of its files; of a run without results, features and export, which are items of their own.
        changed: when one of its files was last written, seconds since 1970.
        about: what it is, or why it is damaged or unfinished; for people.
        uses: what it refers to: fingerprints of stores, and absolute folders.
        name: by which others refer to it: the fingerprint of a store, else its absolute folder.
        used_by: who refers to it; filled when everything has been seen.
    """

    kind: Kind
    path: Path
    state: State
    bytes: int
    changed: float
    about: str
    uses: frozenset[str] = frozenset()
    name: str = ""
    used_by: tuple[str, ...] = ()


def extent(path: Path, leave_out: frozenset[Path] = frozenset()) -> tuple[int, float]:
    """Bytes of all files of a folder (or of a file), and when the last was written; links count as themselves."""
    found = list(files_below(path, leave_out)) or [path]
    size, changed = 0, 0.0
    for file in found:
        try:
            facts = file.lstat()
        except OSError:  # a writer has renamed or removed it
            continue
        size, changed = size + (0 if stat.S_ISDIR(facts.st_mode) else facts.st_size), max(changed, facts.st_mtime)
    return size, changed


def files_below(folder: Path, leave_out: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Every file below a folder, in order, not through links."""
    for where, folders, files in os.walk(folder):  # which leaves links alone unless told otherwise
        folders[:] = sorted(name for name in folders if Path(where, name) not in leave_out)
        yield from (Path(where, name) for name in sorted(files))


def store_item(folder: Path) -> Item:
    """A folder with a manifest, or with what would have one."""
    size, changed = extent(folder)
    if not (folder / MANIFEST).exists():
        return Item("store", folder, "unfinished", size, changed, f"no {MANIFEST}: an upload or copy that did not end")
    try:
        manifest = read_manifest(folder)
        for entry in manifest.files:
            _check_size(folder / entry.path, entry.bytes)
    except SkelstreamError as error:
        return Item("store", folder, "damaged", size, changed, str(error))
    about = f"{manifest.source}, recipe {manifest.recipe}, {manifest.counts.get('samples', 0):,} samples"
    return Item("store", folder, "complete", size, changed, about, name=manifest.fingerprint)


def conversion_item(folder: Path) -> Item:
    """The work folder of a conversion that has not ended."""
    size, changed = extent(folder)
    return Item("store", folder, "unfinished", size, changed, "a conversion: preprocess goes on with it")


def run_items(run: Path) -> list[Item]:
    """A run, and what it holds."""
    size, changed = extent(run, frozenset(run / name for name in PARTS))
    state, about, uses = _run_state(run)
    items = [Item("run", run, state, size, changed, about, frozenset(uses), str(run.absolute()))]
    items += [_results_item(run / "results")] if (run / "results").is_dir() else []
    items += [_features_item(run / "features")] if (run / "features").is_dir() else []
    return items


def export_item(folder: Path) -> Item:
    """Weights for others."""
    size, changed = extent(folder)
    missing = [name for name in _EXPORTED if not (folder / name).is_file()]
    if missing:
        return Item("export", folder, "damaged", size, changed, f"no {', '.join(missing)}")
    return Item("export", folder, "complete", size, changed, "encoder as safetensors and ONNX")


def benchmark_item(folder: Path) -> Item:
    """A benchmark's tables, and the rounds that have ended."""
    size, changed = extent(folder)
    uses: set[str] = set()
    rounds = sorted((folder / "rounds").glob("*.json"))
    root = folder.parent.parent  # <runs>/benchmarks/<name>
    for path in rounds:
        try:
            texts = [text for text in _texts(json.loads(path.read_bytes())) if text and len(text) < 4096]
        except (OSError, ValueError, RecursionError) as error:
            return Item("benchmark", folder, "damaged", size, changed, f"{path.name} cannot be read ({error})")
        uses |= {str((base / text).absolute()) for text in texts for base in (root, Path()) if "\0" not in text}
    about = f"rounds {', '.join(path.stem for path in rounds)}" if rounds else "no round has ended"
    return Item("benchmark", folder, "complete" if rounds else "unfinished", size, changed, about, frozenset(uses))


def _check_size(path: Path, expected: int) -> None:
    found = path.stat().st_size if path.is_file() else None
    if found != expected:
        raise StoreError(f"{path}: found {'no file' if found is None else f'{found} bytes'}, expected {expected} bytes")


def _run_state(run: Path) -> tuple[State, str, set[str]]:
    """State, what the run is, and fingerprints of its data."""
    uses: set[str] = set()
    try:
        record = read_run(run)
        uses = {record.fingerprint, *record.also}
        config, imported = read_config(run / "config.json"), read_import(run)
        path = latest_checkpoint(run)
        header = None if path is None else read_header(path, expect_fingerprint=record.fingerprint)
    except SkelstreamError as error:
        return "damaged", str(error), uses
    about = config.title
    if header is None:
        return "unfinished", f"{about}, no checkpoint yet", uses
    if imported is not None:
        return "complete", f"{about}, imported from {imported.repository}", uses
    total = config.train.total_epochs
    return "complete" if header.epoch >= total else "unfinished", f"{about}, epoch {header.epoch} of {total}", uses


def _results_item(folder: Path) -> Item:
    size, changed = extent(folder)
    tasks: dict[str, int] = {}
    uses: set[str] = set()
    for where in (folder, *sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())):
        for task in TASKS:
            try:
                rows = of_task(where, task)
            except SkelstreamError as error:
                return Item("results", folder, "damaged", size, changed, str(error), frozenset(uses))
            tasks |= {task: tasks.get(task, 0) + len(rows)} if rows else {}
            for row in rows:
                uses |= {row.fingerprint, *_fingerprints(row.details)}
    about = ", ".join(f"{task} ({count})" for task, count in tasks.items()) or "none yet"
    return Item("results", folder, "complete" if tasks else "unfinished", size, changed, about, frozenset(uses))


def _features_item(folder: Path) -> Item:
    size, changed = extent(folder)
    sets = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    for path in sets:
        try:
            read_features(path)
        except SkelstreamError as error:
            return Item("features", folder, "damaged", size, changed, str(error))
    return Item("features", folder, "complete", size, changed, f"{len(sets)} sets")


def _fingerprints(tree: Any) -> Iterator[str]:
    """Those of other data that a result depends on."""
    for key, value in tree.items() if isinstance(tree, dict) else ():
        if "fingerprint" in key and isinstance(value, str):
            yield value
        yield from _fingerprints(value)


def _texts(tree: Any) -> Iterator[str]:
    """Every text in a JSON tree."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict | list):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _texts(value)
