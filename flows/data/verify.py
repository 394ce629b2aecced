"""Verification of whole stores: the checks of `shards.verify.store` with the window function of the store's recipe."""

from collections.abc import Sequence

from pipelines.preprocessing.recipes import recipe
from pipelines.repair.deep import SHARE, deep_verify
from shards.catalog import source
from shards.errors import SkelstreamError
from shards.manifest import find_stores, read_manifest
from shards.places import Place
from shards.verify.store import verify


def verify_data(
    data: Place, deep_raw: Sequence[Place] = (), *, share: float = SHARE, seed: int = 0, progress: bool = False
) -> list[str]:
    """Every problem of every store below `data`, one line each; empty when all is good.

    Args:
        data: a store's folder, or the folder that holds several.
        deep_raw: raw input of which a random part is converted again and compared; empty leaves that out.
        share, seed: of that part, see `pipelines.repair.deep.deep_verify`.
        progress: whether to show progress bars and say what was looked at.
    """
    folders = find_stores(data)
    return [problem for folder in folders for problem in _verify_store(folder, deep_raw, share, seed, progress)]


def _verify_store(folder: Place, deep_raw: Sequence[Place], share: float, seed: int, progress: bool) -> list[str]:
    try:
        manifest = read_manifest(folder)
        window = recipe(manifest.recipe, manifest.source).window if source(manifest.source).untrimmed else None
    except SkelstreamError as error:  # of one store; the others are still looked at
        return [str(error) if str(folder) in str(error) else f"{folder}: {error}"]
    found = verify(folder, window, progress=progress)
    if deep_raw:
        found += _deep(folder, deep_raw, share, seed, progress)
    if progress:
        print(f"{folder}: {manifest.describe()}: {f'{len(found)} problems' if found else 'good'}")
    return [f"{folder.name}: {problem}" for problem in found]


def _deep(folder: Place, raw: Sequence[Place], share: float, seed: int, progress: bool) -> list[str]:
    try:
        check = deep_verify(folder, raw, share, seed, progress)
    except SkelstreamError as error:
        return [f"{error}"]
    if progress:
        print(f"{folder}: {check.describe()}")
    return check.problems
