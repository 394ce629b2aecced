"""Verification of whole stores: the checks of `shards.verify` with the window function of the store's recipe."""

from pathlib import Path

from pipelines.preprocessing.recipes import recipe
from shards.catalog import SOURCES, source
from shards.errors import SkelstreamError, StoreError
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
    return [problem for folder in store_folders(data) for problem in _verify_store(folder, progress)]


def _verify_store(folder: Path, progress: bool) -> list[str]:
    try:
        manifest = read_manifest(folder)
        window = recipe(manifest.recipe, manifest.source).window if source(manifest.source).untrimmed else None
    except SkelstreamError as error:  # of one store; the others are still looked at
        return [str(error) if str(folder) in str(error) else f"{folder}: {error}"]
    found = verify(folder, window, progress=progress)
    if progress:
        print(f"{folder}: {manifest.describe()}: {f'{len(found)} problems' if found else 'good'}")
    return [f"{folder.name}: {problem}" for problem in found]
