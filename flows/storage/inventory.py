"""What lies below some folders, and who uses what."""

import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

from flows.run_folder import read_run
from flows.scores.summary import align_columns
from flows.storage.items import (
    Item,
    Kind,
    benchmark_item,
    conversion_item,
    export_item,
    extent,
    run_items,
    store_item,
)
from models.exchange.export import FILE
from shards.amounts import describe_bytes
from shards.errors import ConfigError, SkelstreamError
from shards.manifest import MANIFEST, SHARDS, STORE

TEMPORARY = re.compile(r"\.(?P<of>.+)\.[0-9a-f]{8}\.tmp")
"""Name of what `shards.files.atomic_path` and its like write before they rename it."""

_PARTIAL = re.compile(r"\.(?P<of>.+)\.partial")
UPLOADED = re.compile(r"\.(?P<of>.+)\.uploaded")
"""Name of a local store that has been uploaded and is on its way out."""

_FOREIGN = ("node_modules", "__pycache__")
_LONGEST_YAML = 1 << 20
_SHOWN = 2  # users that a line of the table names


@dataclass(frozen=True)
class Inventory:
    """Attributes:
    items: by kind, then path.
    unread: what could not be looked into, and why; what it refers to nobody knows.
    """

    items: tuple[Item, ...]
    unread: tuple[str, ...]

    def of(self, *kinds: Kind) -> list[Item]:
        """Items of some kinds."""
        return [item for item in self.items if item.kind in kinds]


def take_inventory(folders: Sequence[Path]) -> Inventory:
    """Find everything below the folders; links are not followed, but what they and YAML files name counts as used.

    Args:
        folders: on a local disk.

    Raises:
        ConfigError: one is a URL, or no folder.
    """
    for folder in folders:
        if "://" in str(folder).replace(":/", "://", 1) and not folder.exists():
            raise ConfigError(f"{folder}: found a URL, expected a folder on a local disk")
        if not folder.is_dir():
            raise ConfigError(f"{folder}: found no such folder, expected one that holds stores or runs")
    seen = _Seen()
    for folder in folders:
        seen.look_into(folder)
    order = get_args(Kind)
    items = sorted(
        (_with_users(item, seen) for item in seen.items.values()), key=lambda i: (order.index(i.kind), i.path)
    )
    return Inventory(tuple(items), tuple(seen.unread))


class _Seen:
    """What a walk has found so far.

    Attributes:
        items: by absolute path, so that folders which overlap count once.
        named: resolved folder -> files and links that name it.
        unread: as of `Inventory`.
    """

    def __init__(self) -> None:
        self.items: dict[Path, Item] = {}
        self.named: dict[Path, list[str]] = {}
        self.unread: list[str] = []

    def look_into(self, folder: Path) -> None:
        """Add a folder and what is below it."""
        try:
            with os.scandir(folder) as entries:
                names = {entry.name: entry for entry in entries}
        except OSError as error:
            self.unread.append(f"{folder}: {error.strerror}")
            return
        if STORE in names or {MANIFEST, SHARDS} <= names.keys():
            self._add(store_item(folder))
            return
        if "run.json" in names or {"config.json", "checkpoints"} <= names.keys():
            for item in run_items(folder):
                self._add(item)
        elif FILE in names:
            self._add(export_item(folder))
        elif "benchmark.yaml" in names and folder.parent.name == "benchmarks":
            self._add(benchmark_item(folder))
        for name, entry in sorted(names.items()):
            path = folder / name
            if entry.is_symlink():
                self._name(path, path)
                self._add_linked_run(path)
            elif entry.is_dir():
                self._look_at_folder(path)
            elif TEMPORARY.fullmatch(name):
                self._add(_leftover(path))
            elif path.suffix in (".yaml", ".yml"):
                for text in _words(path):
                    self._name_text(path, text)

    def _look_at_folder(self, path: Path) -> None:
        if TEMPORARY.fullmatch(path.name) or UPLOADED.fullmatch(path.name):
            self._add(_leftover(path))
        elif _PARTIAL.fullmatch(path.name):
            self._add(conversion_item(path))
        elif not path.name.startswith(".") and path.name not in _FOREIGN:
            self.look_into(path)

    def _add(self, item: Item) -> None:
        self.items.setdefault(item.path.absolute(), item)
        if item.state == "damaged" and item.kind in ("run", "results", "benchmark"):
            self.unread.append(item.about)

    def _add_linked_run(self, link: Path) -> None:
        """A run elsewhere that somebody has put here by a link uses its store all the same."""
        try:
            if (link / "run.json").is_file():
                record = read_run(link)
                for fingerprint in (record.fingerprint, *record.also):
                    self.named.setdefault(Path(fingerprint), []).append(str(link))
        except (OSError, SkelstreamError) as error:
            self.unread.append(str(error))

    def _name_text(self, by: Path, text: str) -> None:
        # relative to where its reader was started: most likely here, or one of the folders above the file
        for base in (Path(), *by.absolute().parents):
            self._name(by, base / text)

    def _name(self, by: Path, path: Path) -> None:
        try:
            found = path.resolve(strict=True)
        except (OSError, ValueError, RuntimeError):  # nothing there, or no path at all
            return
        users = self.named.setdefault(found, [])
        if str(by) not in users:
            users.append(str(by))


def _leftover(path: Path) -> Item:
    size, changed = extent(path)
    return Item("leftover", path, "unfinished", size, changed, "half-written, or left by a process that was killed")


def _words(path: Path) -> set[str]:
    """What may be a path in a YAML file, broken ones and those with tags included: each word, and each line's value."""
    try:
        if path.stat().st_size > _LONGEST_YAML:
            return set()
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    values = {re.sub(r"^.*?(?::\s|-\s)", "", line).strip(" \t\"'") for line in text.splitlines()}
    return {word for word in {*re.split(r"[\s\"'\[\]{},]+", text), *values} if word and len(word) < 1024}


def _with_users(item: Item, seen: _Seen) -> Item:
    others = (other for other in seen.items.values() if item.name and item.name in other.uses and other != item)
    users = [str(other.path) for other in others]
    if item.kind == "store":
        there = item.path.resolve()
        users += [user for where in (there, there.parent, Path(item.name)) for user in seen.named.get(where, [])]
    return replace(item, used_by=tuple(sorted(set(users))))


def listing(found: Inventory, now: float | None = None) -> str:
    """A table for people; `now` in seconds since 1970."""
    if not found.items:
        return "\n".join(["found no store, run, result, export or benchmark", *_unread(found)])
    then = time.time() if now is None else now
    rows = [("kind", "state", "size", "age", "where", "what; used by")]
    for item in found.items:
        size, age = describe_bytes(item.bytes), age_text(then - item.changed)
        rows.append((item.kind, item.state, size, age, str(item.path), item.about + _used(item)))
    total = sum(item.bytes for item in found.items)
    return "\n".join(
        [*align_columns(rows, right=(2, 3)), f"{len(found.items)} things, {describe_bytes(total)}", *_unread(found)]
    )


def _used(item: Item) -> str:
    if not item.used_by:
        return ""
    more = len(item.used_by) - _SHOWN
    return f"; used by {', '.join(item.used_by[:_SHOWN])}" + (f" and {more} more" if more > 0 else "")


def _unread(found: Inventory) -> list[str]:
    return [f"cannot be read: {text}" for text in found.unread]


def as_json(found: Inventory) -> str:
    """The same for programs; times as ISO 8601, UTC."""
    tree = [
        {
            "kind": item.kind,
            "path": str(item.path),
            "state": item.state,
            "bytes": item.bytes,
            "changed": datetime.fromtimestamp(item.changed, UTC).isoformat(timespec="seconds"),
            "about": item.about,
            "used_by": list(item.used_by),
        }
        for item in found.items
    ]
    return json.dumps(tree, indent=1)


def age_text(seconds: float) -> str:
    """How long ago, for people."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return "now"
