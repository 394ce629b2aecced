"""Repair of whole folders of stores."""

from collections.abc import Sequence

from pipelines.repair.repair import repair
from shards.errors import SkelstreamError, StoreError
from shards.manifest import find_stores
from shards.places import Place


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
