"""The commands that show what lies on the disk, and remove what nothing needs."""

import sys
from typing import TYPE_CHECKING

from flows.cli.command import command
from shards.errors import ConfigError

if TYPE_CHECKING:  # the list of all commands needs none
    from flows.options import ListOptions, PruneOptions


@command("skelstream list data runs", name="list")
def list_items(options: "ListOptions") -> None:
    """Show stores, runs, results and benchmarks: sizes, ages, who uses what."""
    from flows.storage.inventory import as_json, listing, take_inventory

    found = take_inventory(options.folders)
    print(as_json(found) if options.as_json else listing(found))


@command("skelstream prune data runs")
def prune(options: "PruneOptions") -> None:
    """Remove, after asking, what nothing refers to: stores, features, leftovers; never runs, results or checkpoints."""
    from flows.storage.prune import plan_pruning, remove
    from shards.amounts import describe_bytes

    planned = plan_pruning(options.folders)
    for removal in planned.removals:
        print(removal.line())
    for note in planned.notes:
        print(note)
    if not planned.removals:
        print("nothing to remove")
        return
    total = sum(removal.bytes for removal in planned.removals)
    if not options.yes and not _ask(f"remove these {len(planned.removals)} ({describe_bytes(total)})? [y/N] "):
        print("nothing was removed")
        return
    kept = [removal for removal in planned.removals if not remove(removal, options.folders)]
    for removal in kept:
        print(f"stays, in use by now: {removal.path}")
    freed = total - sum(removal.bytes for removal in kept)
    print(f"removed {len(planned.removals) - len(kept)}, {describe_bytes(freed)}")


def _ask(question: str) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError("prune: found no terminal to ask on, expected one, or --yes; nothing was removed")
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False
