"""Sizes and times as people read them."""

import pytest

from shards.amounts import describe_bytes, describe_duration


@pytest.mark.parametrize(
    ("count", "text"),
    [
        *((0, "0 bytes"), (999, "999 bytes"), (1_000, "1 kB"), (1_500, "1.5 kB"), (99_950, "100 kB")),
        *((999_600, "1000 kB"), (2_340_000, "2.34 MB"), (2_500_000, "2.5 MB"), (640_000_000, "640 MB")),
        *((5e9, "5 GB"), (5_800_000_000, "5.8 GB"), (3_000_000_000_000, "3 TB"), (7e12, "7 TB"), (4e15, "4000 TB")),
    ],
)
def test_sizes_are_in_the_unit_that_suits_them(count: float, text: str) -> None:
    assert describe_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0.0 s"), (3.52, "3.5 s"), (35, "35 s"), (89.4, "89 s"), (119.4, "2 min"), (120, "2 min")),
        *((5399, "90 min"), (5400, "1.5 h"), (7199, "2.0 h"), (12_240, "3.4 h")),
    ],
)
def test_times_are_in_the_unit_that_suits_them(seconds: float, text: str) -> None:
    assert describe_duration(seconds) == text
