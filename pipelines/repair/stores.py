"""Verification and repair of whole folders of stores: the checks of `shards.verify` with the window function of each
store's recipe."""

from collections.abc import Sequence

from pipelines.preprocessing.recipes import recipe
from pipelines.repair.deep import SHARE, deep_verify
from pipelines.repair.repair import repair
from shards.catalog import source
from shards.errors import SkelstreamError, StoreError
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


def repair_data(data: Place, raw: Sequence[Place] = (), *, progress: bool = False) -> list[str]:
    """Make broken files of every store below `data` again.

    Args:
        data: a store's folder, or the folder that holds several.
        raw: raw input of the stores; see `pipelines.repair.repair.repair`.
        progress: whether to show progress bars.

    Returns:
        What was done and what stays, one line each; empty when every file was as its manifest says.

    Raises:
        StoreError: there is no store, or some cannot be repaired; the others have been by then.
    """
    lines: list[str] = []
    errors: list[str] = []
    for folder in find_stores(data):
        try:
            lines += [f"{folder.name}: {line}" for line in repair(folder, raw, progress)]
        except SkelstreamError as error:
            errors.append(str(error))
    if errors:
        raise StoreError("\n".join([*errors, *(f"done: {line}" for line in lines)]))
    return lines
