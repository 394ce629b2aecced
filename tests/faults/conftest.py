"""A small store for the faults that befall a training."""

from pathlib import Path

import pytest

from pipelines.conversion.convert import convert
from pipelines.synthetic import synthesize


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of 48 synthetic NTU recordings; a file of tests may have another one."""
    folder = tmp_path_factory.mktemp("archives")
    raw = synthesize("ntu", folder / "raw", subjects=4, classes=4, samples=48, seed=0, zipped=True)
    return convert("ntu", [raw], folder / "data", workers=0).folder
