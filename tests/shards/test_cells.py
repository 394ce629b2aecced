"""Cells: equal names for equal memberships, and only for those."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.catalog import info_from_name, read_list
from shards.cells import cell_name, memberships
from shards.schema import SampleInfo

NTU = st.builds(
    lambda s, c, p, a: info_from_name("ntu", f"S{s:03d}C{c:03d}P{p:03d}R001A{a + 60 * (s > 17):03d}"),
    st.integers(1, 32), st.integers(1, 3), st.integers(1, 106), st.integers(1, 60),
)  # fmt: skip
PKU = st.sampled_from(read_list("pkummd2_xsub_train") + read_list("pkummd2_xsub_test")).map(
    lambda name: info_from_name("pkummd2", name)
)


@pytest.mark.parametrize(
    ("source", "name", "cell"),
    [
        ("ntu", "S001C001P001R001A001", "ntu60-xsub-train_xview-test_xset-test"),
        ("ntu", "S002C002P003R001A060", "ntu60-xsub-test_xview-train_xset-train"),
        ("ntu", "S018C001P045R001A061", "ntu120-xsub-train_xset-train"),
        ("ntu", "S019C003P041R002A120", "ntu120-xsub-test_xset-test"),
        ("pkummd1", "0002-L", "xsub-train_xview-test"),
        ("pkummd2", "A01N02-M", "xsub-test_xview-train"),
        ("nwucla", "a01_s01_e00_v03", "xview-test"),
    ],
)
def test_a_cell_is_named_by_its_sides(source: str, name: str, cell: str) -> None:
    assert cell_name(source, info_from_name(source, name)) == cell


def test_memberships_name_data_set_and_protocol() -> None:
    info = info_from_name("ntu", "S001C001P001R001A001")
    sides = {"ntu60/xsub": "train", "ntu60/xview": "test", "ntu120/xsub": "train", "ntu120/xset": "test"}
    assert memberships("ntu", info) == sides


@given(st.one_of(st.tuples(NTU, NTU).map(lambda p: ("ntu", *p)), st.tuples(PKU, PKU).map(lambda p: ("pkummd2", *p))))
def test_two_samples_share_a_cell_if_and_only_if_they_share_all_sides(pair: tuple[str, SampleInfo, SampleInfo]) -> None:
    source, a, b = pair
    assert (cell_name(source, a) == cell_name(source, b)) == (memberships(source, a) == memberships(source, b))


@given(NTU)
def test_a_cell_name_is_a_plain_folder_name(info: SampleInfo) -> None:
    assert re.fullmatch(r"[a-z0-9_-]+", cell_name("ntu", info))


def test_a_performer_that_only_ntu_120_trains_has_a_cell_of_their_own() -> None:
    official = info_from_name("ntu", "S001C001P003R001A001")
    impossible = info_from_name("ntu", "S001C001P045R001A001")
    assert cell_name("ntu", official) == "ntu60-xsub-test_xview-test_xset-test"
    assert cell_name("ntu", impossible) == "ntu60-xsub-test_xview-test_xsub-train_xset-test"
