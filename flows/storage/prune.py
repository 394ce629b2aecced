"""What nothing refers to: what killed processes left, features whose checkpoint is gone, and stores that nobody uses.

Runs, results and checkpoints are never removed. Every removal holds the lock of those who write there, so that one who
is at work keeps what it has; what is removed loses its name first, so that nothing half-removed passes for whole.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from secrets import token_hex
from typing import Literal

from flows.storage.inventory import TEMPORARY, UPLOADED, Inventory, age_text, take_inventory
from flows.storage.items import Item, extent
from models.evaluation.feature_store import ABOUT
from models.training.checkpoint import FOLDER
from shards.amounts import describe_bytes
from shards.errors import SkelstreamError
from shards.files import lock_file, sha256_file, sync

MIN_REST_SECONDS = 3600.0
"""Seconds after which a temporary file that no lock protects counts as left: writing one takes less."""

ABANDONED_SECONDS = 7 * 86400.0
"""Seconds after which an unfinished conversion that nobody works on counts as given up: it could still go on."""

_FEATURES = re.compile(r"[0-9a-f]{16}")
_LOCK = ".lock"

Kind = Literal["leftover", "features", "store"]


@dataclass(frozen=True)
class Removal:
    """Something that nothing refers to.

    Attributes:
        path: a folder or a file.
        changed: when one of its files was last written.
        reason: why it may go, for people.
        lock: file that those who write it hold.
        is_lasting: the lock's file stays when it is released; else whoever held it takes it away.
    """

    kind: Kind
    path: Path
    bytes: int
    changed: float
    reason: str
    lock: Path
    is_lasting: bool

    def line(self) -> str:
        """For people to read."""
        return f"{describe_bytes(self.bytes):>8}  {self.path}: {self.reason}"


@dataclass(frozen=True)
class Pruning:
    """What may go, and what is left alone although it might look as if it could go."""

    removals: tuple[Removal, ...]
    notes: tuple[str, ...]


def plan_pruning(folders: Sequence[Path], now: float | None = None) -> Pruning:
    """Everything below the folders that nothing below them refers to; nothing is touched.

    Args:
        folders: on a local disk; those of the runs must be among them, or no store is offered.
        now: seconds since 1970.

    Raises:
        ConfigError: as of `take_inventory`.
    """
    then = time.time() if now is None else now
    found = take_inventory(folders)
    removals = [_of_leftover(item) for item in found.of("leftover") if _is_left(item, then)]
    removals += [_of_conversion(item, then) for item in found.of("store") if _is_given_up(item, then)]
    for item in found.of("run"):
        removals += _without_checkpoint(item.path)
    notes = _describe_unreadable(found, folders)
    if not notes:
        removals += [_of_store(item) for item in found.of("store") if item.name and not item.used_by]
    return Pruning(tuple(removals), tuple(notes))


def remove(removal: Removal, folders: Sequence[Path]) -> bool:
    """Remove it unless somebody is at work on it, or something has come to refer to it; whether it is gone.

    Args:
        removal: of `plan_pruning`.
        folders: of the same.
    """
    path = removal.path
    with _alone(removal) as is_free:
        if not is_free or path.is_symlink() or not path.exists():
            return not path.exists()
        if extent(path)[1] != removal.changed:
            return False  # somebody went on with it
        if removal.kind == "features" and not _is_orphan(path, path.parent.parent):
            return False
        if path.is_file():
            path.unlink()
            return True
        gone = path if TEMPORARY.fullmatch(path.name) else path.with_name(f".{path.name}.{token_hex(4)}.tmp")
        path.rename(gone)
        if removal.kind == "store" and _is_wanted(path, folders):
            gone.rename(path)
            return False
        shutil.rmtree(gone)
        sync(path.parent)
    return True


def _is_left(item: Item, now: float) -> bool:
    """Whether a lock tells if somebody still writes it, or it has rested."""
    return (
        _lasting_lock(item.path) is not None
        or item.path.parent.name == "features"
        or now - item.changed >= MIN_REST_SECONDS
    )


def _of_leftover(item: Item) -> Removal:
    match = TEMPORARY.fullmatch(item.path.name) or UPLOADED.fullmatch(item.path.name)
    assert match is not None, item.path
    lasting = _lasting_lock(item.path)
    lock = lasting or item.path.with_name(f".{match['of']}{_LOCK}")
    return Removal("leftover", item.path, item.bytes, item.changed, item.about, lock, lasting is not None)


def _lasting_lock(path: Path) -> Path | None:
    """The lock of whoever trains a run or scores it, if the file is a checkpoint or result of one."""
    for folder in path.parents:
        if (folder / "run.json").is_file():
            part = path.relative_to(folder).parts[0]
            return {FOLDER: folder / _LOCK, "results": folder / "results" / _LOCK}.get(part)
    return None


def _is_given_up(item: Item, now: float) -> bool:
    return item.path.name.endswith(".partial") and now - item.changed >= ABANDONED_SECONDS


def _of_conversion(item: Item, now: float) -> Removal:
    name = item.path.name.removesuffix(".partial")
    reason = f"conversion that stopped {age_text(now - item.changed)} ago; preprocess would go on with it"
    lock = item.path.with_name(f"{name}{_LOCK}")
    return Removal("leftover", item.path, item.bytes, item.changed, reason, lock, is_lasting=False)


def _of_store(item: Item) -> Removal:
    reason = f"no run, result, benchmark or YAML file below the given folders refers to it ({item.about})"
    lock = item.path.with_name(f".{item.path.name}{_LOCK}")
    return Removal("store", item.path, item.bytes, item.changed, reason, lock, is_lasting=False)


def _without_checkpoint(run: Path) -> Iterator[Removal]:
    for path in sorted((run / "features").glob("*/")):
        if _FEATURES.fullmatch(path.name) and not path.is_symlink() and _is_orphan(path, run):
            lock = path.with_name(f".{path.name}{_LOCK}")
            reason = "features of a checkpoint that is gone"
            yield Removal("features", path, *extent(path), reason, lock, is_lasting=False)


def _is_orphan(features: Path, run: Path) -> bool:
    """Whether features are of a checkpoint that is not in the run; those that cannot be read are the evaluation's."""
    try:
        encoder = json.loads((features / ABOUT).read_bytes())["about"]["encoder"]
        wanted = encoder.get("checkpoint_sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    if wanted is None:
        return False
    try:
        stats = [(path, path.stat()) for path in sorted((run / FOLDER).glob("*.pt"))]
        return all(_sha256(path, facts.st_mtime_ns, facts.st_size) != wanted for path, facts in stats)
    except OSError:  # a training writes and removes checkpoints just now
        return False


@lru_cache(maxsize=256)
def _sha256(path: Path, changed: int, size: int) -> str:
    """Of a file of that time and size: a checkpoint may be 0.6 GB, and is asked for once for each set of features."""
    return sha256_file(path)


def _describe_unreadable(found: Inventory, folders: Sequence[Path]) -> list[str]:
    """Why nobody can tell which stores are in use."""
    where = ", ".join(map(str, folders))
    if not found.of("store"):
        return []
    if not found.of("run", "benchmark"):
        return [f"stores stay: found no run and no benchmark below {where}, expected their folder among those given"]
    return [f"stores stay, since nobody can tell what this one uses: {text}" for text in found.unread]


def _is_wanted(path: Path, folders: Sequence[Path]) -> bool:
    """Whether something has come to refer to a store since it was planned to go; under doubt it is wanted."""
    try:
        found = take_inventory(folders)
    except SkelstreamError:
        return True
    name = path.name.rpartition("-")[2]
    return bool(_describe_unreadable(found, folders)) or any(name in item.uses for item in found.items)


@contextmanager
def _alone(removal: Removal) -> Iterator[bool]:
    """Hold the lock of those who write there; whether it was to be had."""
    if removal.is_lasting and not removal.lock.exists():
        yield True  # nobody has taken it since the file was seen: it was there before any lock
        return
    try:
        descriptor = lock_file(removal.lock, create=not removal.is_lasting)
    except OSError:  # a link, or a folder that may not be written: nothing to remove there
        descriptor = None
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            if not removal.is_lasting:
                removal.lock.unlink(missing_ok=True)
            os.close(descriptor)
