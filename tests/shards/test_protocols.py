"""The official splits, exact on the lists of all official names."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.catalog import DATASETS, SOURCES, info_from_name, missing_samples, read_list
from shards.errors import ConfigError, RawInputError
from shards.protocols import split, video_key
from shards.schema import SampleInfo, segment_key
from shards.sources.ntu import NTU60_TRAIN_SUBJECTS, NTU120_TRAIN_SUBJECTS

# Who performed in which setup; with 3 cameras, 2 replications and 60 actions (setups 1-17: 1-60, 18-32: 61-120) these
# are all names of NTU RGB+D 120. Read off the performer statistics of Uason-Chen/CTR-GCN.
NTU_PERFORMERS = {
    1: "1-8", 2: "3 7-14", 3: "1 2 7 8 15-19", 4: "3 7 8 20", 5: "4 10 13 15-18 21", 6: "1 7 8 15-17 19 22-24",
    7: "1 7 8 15-19 25-28", 8: "1 7 8 15 19 25 29-36", 9: "7 8 15-17 19 25", 10: "7 8 13 15-19 21 25",
    11: "1 2 7 8 15-19 25 27 28 38", 12: "7 8 15-19 25 27 28 37", 13: "7 8 15-19 25 27 28 37",
    14: "7 8 15 17 19 25 27 37 39", 15: "7 8 15-17 19 25 37", 16: "7 8 19 21 25 39 40", 17: "3 7-9 15-17 20",
    18: "8 41-45", 19: "8 41 42 46-51", 20: "8 41 43 44 52-54", 21: "55-60", 22: "61-67", 23: "55-68",
    24: "57 60-64 67", 25: "55 56 58 59 65 66 68", 26: "8 41 44 49-51 69-72 74-77", 27: "6 8 11 41 43 44 78-86",
    28: "8 41-43 46 48 70 73 87", 29: "6 8 41 43 44 48 49 51 67 74 75 80 88-90",
    30: "8 11 41 43 44 48 67 75 76 81 85 88 91-96", 31: "6 8 41-44 51 67 82 85 96-101", 32: "8 41 43 44 67 102-106",
}  # fmt: skip


def performers(spans: str) -> Iterator[int]:
    for span in spans.split():
        first, _, last = span.partition("-")
        yield from range(int(first), int(last or first) + 1)


@pytest.fixture(scope="module")
def ntu_infos() -> list[SampleInfo]:
    return [
        SampleInfo(f"S{s:03d}C{c:03d}P{p:03d}R{r:03d}A{a + 1:03d}", a, p, c, s, r)
        for s, spans in NTU_PERFORMERS.items()
        for p in performers(spans)
        for c in (1, 2, 3)
        for r in (1, 2)
        for a in (range(60) if s <= 17 else range(60, 120))
    ]


def counted(dataset: str, protocol: str, infos: list[SampleInfo]) -> tuple[int, int]:
    sides = Counter(split(dataset, protocol, info) for info in infos)
    return sides["train"], sides["test"]


@pytest.mark.parametrize(
    ("dataset", "protocol", "with_missing"),
    [
        ("ntu60", "xsub", (40_320, 16_560)),
        ("ntu60", "xview", (37_920, 18_960)),
        ("ntu120", "xsub", (63_360, 51_120)),
        ("ntu120", "xset", (54_720, 59_760)),
    ],
)
def test_ntu_counts_are_the_official_ones_with_and_without_missing_samples(
    ntu_infos: list[SampleInfo], dataset: str, protocol: str, with_missing: tuple[int, int]
) -> None:
    present = [info for info in ntu_infos if info.key not in missing_samples("ntu")]
    assert counted(dataset, protocol, ntu_infos) == with_missing
    assert counted(dataset, protocol, present) == DATASETS[dataset].counts[protocol]


def test_every_missing_sample_is_an_official_name(ntu_infos: list[SampleInfo]) -> None:
    names = {info.key for info in ntu_infos}
    assert len(names) == len(ntu_infos) == 114_480
    assert missing_samples("ntu") <= names
    assert ntu_infos[::997] == [info_from_name("ntu", info.key) for info in ntu_infos[::997]]


def test_the_training_performers_are_as_many_as_published() -> None:
    assert len(NTU60_TRAIN_SUBJECTS) == 20
    assert len(NTU120_TRAIN_SUBJECTS) == 53


@pytest.mark.parametrize("source", ["pkummd1", "pkummd2"])
def test_pku_counts_are_the_official_ones(source: str) -> None:
    names = read_list(f"{source}_xsub_train") + read_list(f"{source}_xsub_test")
    infos = [info_from_name(source, name) for name in names]
    assert len(set(names)) == len(names)
    for protocol, official in DATASETS[source].counts.items():
        assert counted(source, protocol, infos) == official


def test_nwucla_counts_are_the_official_ones_on_the_real_archive(shared: Path) -> None:
    archive = shared / "data" / "nw-ucla" / "all_sqe.zip"
    if not archive.is_file():
        pytest.skip("the NW-UCLA archive is not there")
    with ZipFile(archive) as file:
        names = [Path(name).stem for name in file.namelist() if name.endswith(".json")]
    assert counted("nwucla", "xview", [info_from_name("nwucla", n) for n in names]) == (1_020, 464)


ANY_INFO = st.one_of(
    st.builds(
        lambda s, c, p, r, a: (
            "ntu", info_from_name("ntu", f"S{s:03d}C{c:03d}P{p:03d}R{r:03d}A{a + 60 * (s > 17):03d}")
        ),
        st.integers(1, 32), st.integers(1, 3), st.integers(1, 106), st.integers(1, 2), st.integers(1, 60),
    ),
    st.sampled_from(["pkummd1", "pkummd2"]).flatmap(
        lambda s: st.sampled_from(read_list(f"{s}_xsub_train") + read_list(f"{s}_xsub_test")).map(
            lambda name: (s, info_from_name(s, name))
        )
    ),
    st.builds(
        lambda s, e, v: ("nwucla", info_from_name("nwucla", f"a01_s{s:02d}_e{e:02d}_v{v:02d}")),
        st.integers(1, 10), st.integers(0, 9), st.integers(1, 3),
    ),
)  # fmt: skip


@given(ANY_INFO)
def test_a_sample_of_a_data_set_stands_on_exactly_one_side(sample: tuple[str, SampleInfo]) -> None:
    source, info = sample
    for dataset in SOURCES[source].datasets:
        held = dataset != "ntu60" or (info.setup <= 17 and info.label < 60)
        for protocol in DATASETS[dataset].protocols:
            assert (split(dataset, protocol, info) in ("train", "test")) == held
            assert (split(dataset, protocol, info) is None) != held


@given(st.sampled_from(read_list("pkummd1_xsub_train") + read_list("pkummd1_xsub_test")), st.integers(0, 1200))
def test_a_trimmed_action_stands_where_its_video_stands(video: str, row: int) -> None:
    info = info_from_name("pkummd1", video)
    action = SampleInfo(segment_key(video, row), 3, camera=info.camera)
    assert video_key(action.key) == video_key(video) == video
    for protocol in ("xsub", "xview"):
        assert split("pkummd1", protocol, action) == split("pkummd1", protocol, info)


def test_xview_of_pku_trains_on_middle_and_right() -> None:
    sides = {view: split("pkummd1", "xview", info_from_name("pkummd1", f"0002-{view}")) for view in "LMR"}
    assert sides == {"L": "test", "M": "train", "R": "train"}


@pytest.mark.parametrize(("source", "name"), [("pkummd1", "0001-L"), ("pkummd2", "A05N04-M")])
def test_a_video_that_no_official_list_knows_is_named(source: str, name: str) -> None:
    with pytest.raises(RawInputError, match=name):
        split(source, "xsub", info_from_name(source, name))


def test_a_camera_that_no_protocol_knows_is_named() -> None:
    with pytest.raises(RawInputError, match=r"a01_s01_e00_v04.*camera 4"):
        split("nwucla", "xview", SampleInfo("a01_s01_e00_v04", 0, camera=4))


@pytest.mark.parametrize(
    ("dataset", "protocol", "known"),
    [("ntu", "xsub", "ntu60, ntu120"), ("ntu60", "xset", "xsub, xview"), ("nwucla", "xsub", "xview")],
)
def test_unknown_names_are_answered_with_the_known_ones(dataset: str, protocol: str, known: str) -> None:
    with pytest.raises(ConfigError, match=known):
        split(dataset, protocol, info_from_name("ntu", "S001C001P001R001A001"))
