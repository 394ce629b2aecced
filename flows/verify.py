"""Verification of whole stores: the checks of `shards.verify` with the window function of the store's recipe."""

from pathlib import Path

from pipelines.preprocessing.recipes import recipe
from shards.catalog import SOURCES
from shards.errors import StoreError
from shards.manifest import read_manifest
from shards.verify import verify


def store_folders(data: Path) -> list[Path]:
    """`data` itself when it is a store, else the stores in it; StoreError when there is none."""
    if (data / "manifest.json").is_file():
        return [data]
    prefixes = tuple(f"{name}-" for name in SOURCES)
    found = sorted(p for p in data.glob("*") if p.is_dir() and p.name.startswith(prefixes))
    if not found:
        raise StoreError(f"{data}: found no store, expected a folder with manifest.json or a folder of such folders")
    return found


def verify_data(data: Path, *, progress: bool = False) -> list[str]:
    """Every problem of every store below `data`, one line each; empty when all is good."""
    problems = []
    for folder in store_folders(data):
        if not (folder / "manifest.json").is_file():
            problems.append(f"{folder}: manifest.json is missing, the store is not complete")
            continue
        manifest = read_manifest(folder)
        window = recipe(manifest.recipe, manifest.source).window if SOURCES[manifest.source].untrimmed else None
        found = verify(folder, window, progress=progress)
        problems += [f"{folder.name}: {problem}" for problem in found]
        if progress:
            print(f"{folder}: {manifest.describe()}: {'good' if not found else f'{len(found)} problems'}")
    return problems
