"""Named arrays in one .npz file, read without running any code."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import StoreError


def read_npz(path: Path, names: Sequence[str], what: str) -> dict[str, NDArray[Any]]:
    """Arrays of a file, in the order of `names`; others in it are ignored.

    Args:
        path: the file.
        names: of the arrays, two at least.
        what: the file holds, in the plural, for messages.

    Raises:
        StoreError: no such file, or one that is damaged, foreign or hostile, or lacks an array.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    # an altered zip or header fails in a dozen ways: BadZipFile, zlib.error, KeyError, EOFError, TokenError, ...
    except Exception as error:
        *others, last = (f"`{name}`" for name in names)
        raise StoreError(f"{path}: found no {what} ({error}), expected {', '.join(others)} and {last}") from error
