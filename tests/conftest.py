"""Fixtures for all tests."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Material beside the checkout (golden numbers, a real data set); a user's clone has none of it."""
    if not (SHARED / "golden").is_dir():
        pytest.skip("no ../shared beside the checkout: golden numbers and real data are not there")
    return SHARED


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    """Numbers computed by the reference implementations."""
    return shared / "golden"
