"""Golden numbers: what reference implementations gave, and the rule that makes their weights.

They lie beside the checkout, in ../shared/golden; SKELSTREAM_GOLDEN=DIR reads another set of the same form. A module
that imports this one is skipped where there are none. Tests take every name, case and size from the files.
"""

import json
import os
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import pytest

_Case = TypeVar("_Case")

_NAMED = os.environ.get("SKELSTREAM_GOLDEN")
FOLDER = Path(_NAMED) if _NAMED else Path(__file__).resolve().parents[3] / "shared" / "golden"
if not FOLDER.is_dir():
    if _NAMED:
        pytest.fail(f"SKELSTREAM_GOLDEN={_NAMED}: no such folder", pytrace=False)
    pytest.skip("no ../shared/golden beside the checkout and no SKELSTREAM_GOLDEN", allow_module_level=True)

_PREFIX_FILE = FOLDER / "prefix.txt"
PREFIX = _PREFIX_FILE.read_text(encoding="utf-8").strip() if _PREFIX_FILE.exists() else ""


@cache
def numbers(name: str) -> Mapping[str, np.ndarray]:
    """The arrays of one file, such as "augment" or "methods/stgcn"."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        return MappingProxyType(dict(file))


@cache
def facts(name: str) -> dict[str, Any]:
    """What is stored beside the arrays as json."""
    stored: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return stored


def found(cases: Iterable[_Case]) -> list[_Case]:
    """Cases read from a file, for a parametrised test: pytest skips an empty list in silence, here it is an error."""
    listed = list(cases)
    if not listed:
        pytest.fail(f"{FOLDER} has no case for this test", pytrace=False)
    return listed


def matching(arrays: Iterable[str], pattern: str) -> list[str]:
    """What the star of a pattern such as "shear_*_in" stands for in the names of arrays; at least one fits."""
    whole = re.compile(re.escape(pattern).replace(r"\*", "(.+)"))
    return found(match[1] for name in arrays if (match := whole.fullmatch(name)))


def generator(name: str) -> np.random.RandomState:
    """The random numbers that belong to a name; the prefix of the set is put before it."""
    return np.random.RandomState(zlib.crc32((PREFIX + name).encode()) & 0x7FFFFFFF)


def weight(name: str, shape: Sequence[int], scale: float = 1.0) -> np.ndarray:
    """The weight of that name by the rule of the set: normal numbers times a scale that every file states."""
    return np.asarray(generator(name).standard_normal(tuple(shape))).astype(np.float32) * np.float32(scale)
