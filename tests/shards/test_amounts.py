"""Bytes and times are told in the unit that suits them."""

import pytest

from shards.amounts import describe_bytes, describe_duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.96, "10.0 s"), (35, "35 s"), (89.4, "89 s"), (90, "2 min"), (5399, "90 min"), (12_240, "3.4 h")],
)
def test_times_are_in_the_unit_that_suits_them(seconds: float, text: str) -> None:
    assert describe_duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1_000, "1 kB"),
        (2_340_000, "2.34 MB"),
        (640_000_000, "640 MB"),
        (5.8e9, "5.8 GB"),
        (7e12, "7 TB"),
    ],
)
def test_sizes_are_in_the_unit_that_suits_them(count: float, text: str) -> None:
    assert describe_bytes(count) == text
