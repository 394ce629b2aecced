"""The commands that show what lies on the disk, and remove what nothing needs."""

import argparse
import sys
from pathlib import Path
from typing import Any

from flows.cli.data import command, local_path
from shards.errors import ConfigError


def add_commands(commands: Any) -> None:
    """Add both."""
    _add_list(commands)
    _add_prune(commands)


def _add_list(commands: Any) -> None:
    sub = command(commands, "list", _list, "show stores, runs, results and benchmarks: sizes, ages, who uses what")
    _add_folders(sub)
    sub.add_argument("--json", action="store_true", help="for programs")


def _add_prune(commands: Any) -> None:
    sub = command(
        commands,
        "prune",
        _prune,
        "remove, after asking, what nothing refers to: stores, features, leftovers; never runs, results or checkpoints",
    )
    _add_folders(sub)
    sub.add_argument("--yes", action="store_true", help="do not ask")


def _add_folders(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "folders", type=local_path, nargs="*", default=[Path()], metavar="FOLDER", help="where to look, all below"
    )


def _list(options: argparse.Namespace) -> None:
    from flows.storage.inventory import as_json, listing, take_inventory

    found = take_inventory(options.folders)
    print(as_json(found) if options.json else listing(found))


def _prune(options: argparse.Namespace) -> int:
    from flows.storage.prune import plan_pruning, remove
    from shards.amounts import describe_bytes

    planned = plan_pruning(options.folders)
    for removal in planned.removals:
        print(removal.line())
    for note in planned.notes:
        print(note)
    if not planned.removals:
        print("nothing to remove")
        return 0
    total = sum(removal.bytes for removal in planned.removals)
    if not options.yes and not _agreed(f"remove these {len(planned.removals)} ({describe_bytes(total)})? [y/N] "):
        print("nothing was removed")
        return 0
    kept = [removal for removal in planned.removals if not remove(removal, options.folders)]
    for removal in kept:
        print(f"stays, in use by now: {removal.path}")
    freed = total - sum(removal.bytes for removal in kept)
    print(f"removed {len(planned.removals) - len(kept)}, {describe_bytes(freed)}")
    return 0


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError("prune: found no terminal to ask on, expected one, or --yes; nothing was removed")
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False
