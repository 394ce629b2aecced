"""A run whose evaluation has kept features, and its exhibits."""

from pathlib import Path
from typing import Any

import pytest

from flows.pages.report.gather import gather


@pytest.fixture(scope="session")
def told(scored: Path) -> dict[str, Any]:
    """The exhibits of that run."""
    return gather([scored], queries=4)
