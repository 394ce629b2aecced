"""The catalogue: names, counts and lists."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.catalog import DATASETS, SOURCES, class_names, dataset, info_from_name, missing_samples, read_list, source
from shards.errors import ConfigError, RawInputError
from shards.schema import UNKNOWN, SampleInfo


@given(
    setup=st.integers(1, 32),
    camera=st.integers(1, 3),
    performer=st.integers(1, 106),
    replication=st.integers(1, 2),
    action=st.integers(1, 60),
)
def test_an_ntu_name_says_what_it_was_made_of(
    setup: int, camera: int, performer: int, replication: int, action: int
) -> None:
    action += 60 * (setup > 17)
    name = f"S{setup:03d}C{camera:03d}P{performer:03d}R{replication:03d}A{action:03d}"
    assert info_from_name("ntu", name) == SampleInfo(name, action - 1, performer, camera, setup, replication)


@pytest.mark.parametrize(
    ("source_name", "name", "expected"),
    [
        ("pkummd1", "0291-R", SampleInfo("0291-R", UNKNOWN, camera=3)),
        ("pkummd2", "A05N04-M", SampleInfo("A05N04-M", UNKNOWN, subject=4, camera=2, setup=5)),
        ("nwucla", "a12_s10_e03_v02", SampleInfo("a12_s10_e03_v02", 9, 10, 2, replication=3)),
        ("nwucla", "a08_s01_e00_v01", SampleInfo("a08_s01_e00_v01", 6, 1, 1, replication=0)),
    ],
)
def test_the_names_of_the_other_sources_are_read(source_name: str, name: str, expected: SampleInfo) -> None:
    assert info_from_name(source_name, name) == expected


@pytest.mark.parametrize(
    ("source_name", "name", "part"),
    [
        ("ntu", "S001C001P001R001A121", "action 121, expected an action from 1 to 120"),
        ("ntu", "S001C001P001R001A000", "action 0"),
        ("ntu", "S033C001P001R001A001", "setup 33, expected a setup from 1 to 32"),
        ("ntu", "S000C001P001R001A001", "setup 0"),
        ("ntu", "S001C004P001R001A001", "camera 4, expected a camera from 1 to 3"),
        ("ntu", "S001C000P001R001A001", "camera 0"),
        ("ntu", "S001C001P107R001A001", "performer 107, expected a performer from 1 to 106"),
        ("ntu", "S001C001P000R001A001", "performer 0"),
        ("ntu", "S001C001P001R003A001", "replication 3, expected a replication from 1 to 2"),
        ("ntu", "S001C001P001R000A001", "replication 0"),
        ("ntu", "S018C001P001R001A060", "action 60 in setup 18, expected an action from 61 to 120 in setups 18 to 32"),
        ("ntu", "S017C001P001R001A061", "action 61 in setup 17, expected an action from 1 to 60 in setups 1 to 17"),
        ("ntu", "S001C001P001R001A001.skeleton", "SsssCcccPpppRrrrAaaa"),
        ("ntu", "s001c001p001r001a001", "SsssCcccPpppRrrrAaaa"),
        ("pkummd1", "0002-X", "dddd-L"),
        ("pkummd2", "0002-L", "AddNdd-L"),
        ("nwucla", "a01_s11_e00_v01", "subject 11, expected a subject from 1 to 10"),
        ("nwucla", "a01_s00_e00_v01", "subject 0"),
        ("nwucla", "a01_s01_e00_v04", "camera 4, expected a camera from 1 to 3"),
        ("nwucla", "a01_s01_e00_v00", "camera 0"),
        ("nwucla", "a07_s01_e00_v01", "action 7"),
        ("nwucla", "a10_s01_e00_v01", "action 10"),
        ("nwucla", "../a01_s01_e00_v01", "aAA_sSS_eEE_vVV"),
    ],
)
def test_a_name_of_another_form_or_class_is_refused_and_named(source_name: str, name: str, part: str) -> None:
    with pytest.raises(RawInputError) as error:
        info_from_name(source_name, name)
    assert name in str(error.value)
    assert part in str(error.value)


def test_unknown_sources_and_data_sets_are_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="ntu, pkummd1, pkummd2, nwucla"):
        source("kinetics")
    with pytest.raises(ConfigError, match="ntu60, ntu120"):
        dataset("ntu")


def test_every_data_set_belongs_to_the_source_that_lists_it() -> None:
    assert {d.name: d.source for d in DATASETS.values()} == {n: s.name for s in SOURCES.values() for n in s.datasets}


def test_the_missing_list_is_ntu_120s_and_holds_ntu_60s() -> None:
    names = missing_samples("ntu")
    assert len(names) == 535
    assert sum(info_from_name("ntu", name).setup <= 17 for name in names) == 302
    assert missing_samples("nwucla") == frozenset()


@pytest.mark.parametrize("name", ["ntu_missing", "pkummd1_xsub_train", "pkummd1_xsub_test", "pkummd2_xsub_train"])
def test_a_list_has_no_repeated_name_and_no_prose(name: str) -> None:
    names = read_list(name)
    assert len(set(names)) == len(names)
    for entry in names:
        info_from_name(name.partition("_")[0], entry)


@pytest.mark.parametrize("name", DATASETS)
def test_every_class_of_the_data_sets_has_a_name_of_its_own(name: str) -> None:
    names = class_names(name)
    assert len(names) == len(set(names)) == dataset(name).num_classes
    assert not any(known.startswith("class ") for known in names)
