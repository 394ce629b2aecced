"""Recipe `pcm3` against numbers of the reference implementation (JHang2020/PCM3), run on synthetic recordings."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipelines.parsers import ntu
from pipelines.preprocessing.bodies import choose_bodies, choose_slots, energies
from pipelines.preprocessing.normalize import normalize
from pipelines.preprocessing.recipes import recipe
from shards.errors import RawInputError
from shards.schema import RawSequence

NTU_NAMES = [
    "S001C001P001R001A001",
    "S001C003P008R002A010",
    "S002C002P003R001A055",
    "S002C003P012R002A055",
    "S003C001P007R002A058",
    "S004C002P010R001A043",
    "S005C003P015R001A024",
    "S006C001P019R002A050",
    "S007C003P026R001A052",
    "S008C001P033R002A056",
    "S009C002P007R001A032",
    "S010C001P013R002A006",
    "S011C002P001R001A027",
    "S012C003P017R001A018",
    "S013C001P025R001A057",
    "S014C002P019R002A030",
    "S015C001P037R001A060",
    "S016C001P040R001A059",
]
EMPTY = ("S009C002P007R001A032", "S014C002P019R002A030")
LONG = "S011C002P001R001A027"
FILLED_TO_300 = ("S002C002P003R001A055", "S005C003P015R001A024", "S016C001P040R001A059")
PKU_INSTANCES = range(12)


@pytest.fixture(scope="module")
def ntu_numbers(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "ntu_pcm3.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def pku_numbers(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "pku_pcm3.npz") as file:
        return dict(file)


def parsed(golden: Path, name: str) -> RawSequence:
    path = golden / "ntu_raw" / f"{name}.skeleton"
    return ntu.parse(path.read_bytes(), name, path.name)


def as_ctvm(frames: np.ndarray) -> np.ndarray:
    return frames.transpose(3, 0, 2, 1)


def test_every_golden_recording_is_in_the_list(golden: Path) -> None:
    assert sorted(json.loads((golden / "ntu_files.json").read_text())) == NTU_NAMES


@pytest.mark.parametrize("name", NTU_NAMES)
def test_energies_and_chosen_slots_are_those_of_the_reference(ntu_numbers: dict[str, np.ndarray], name: str) -> None:
    frames, expected = ntu_numbers[f"{name}__raw"], ntu_numbers[f"{name}__energy"]
    np.testing.assert_allclose(energies(frames), expected, rtol=1e-9, atol=0)
    chosen, reference = choose_slots(frames), ntu_numbers[f"{name}__selected_slots"]
    np.testing.assert_array_equal(expected[chosen], expected[reference])  # the index of an empty slot is immaterial
    np.testing.assert_array_equal(chosen[expected[chosen] > 0], reference[expected[reference] > 0])


@pytest.mark.parametrize("name", NTU_NAMES)
def test_chosen_bodies_equal_the_reference_exactly(golden: Path, ntu_numbers: dict[str, np.ndarray], name: str) -> None:
    chosen, _, _ = choose_bodies(parsed(golden, name).frames)
    np.testing.assert_array_equal(as_ctvm(chosen), ntu_numbers[f"{name}__selected"].astype(np.float32))


@pytest.mark.parametrize("name", [name for name in NTU_NAMES if name not in EMPTY])
def test_recipe_from_raw_file_to_clip_equals_the_reference(
    golden: Path, ntu_numbers: dict[str, np.ndarray], name: str
) -> None:
    pcm3 = recipe("pcm3", "ntu")
    frames, _, repairs, _ = pcm3.sample(parsed(golden, name))
    clip = pcm3.window(frames)
    expected = ntu_numbers[f"{name}__prenorm_first300" if name == LONG else f"{name}__prenorm"]
    assert clip.dtype == np.float32
    np.testing.assert_allclose(as_ctvm(clip), expected, rtol=0, atol=1e-5)
    assert repairs == (["cut from 312 to 300 frames"] if name == LONG else [])


@pytest.mark.parametrize("name", FILLED_TO_300)
def test_filling_up_to_300_frames_equals_the_reference(
    golden: Path, ntu_numbers: dict[str, np.ndarray], name: str
) -> None:
    frames, _, _, _ = recipe("pcm3", "ntu").sample(parsed(golden, name))
    expected = ntu_numbers[f"{name}__prenorm_300"]
    np.testing.assert_allclose(as_ctvm(normalize(frames, length=300)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", EMPTY)
def test_a_recording_without_a_body_stays_zero_and_is_refused_as_a_sample(
    golden: Path, ntu_numbers: dict[str, np.ndarray], name: str
) -> None:
    raw = parsed(golden, name)
    bodies = np.zeros((len(raw.frames), 2, 25, 3), dtype=np.float32)
    np.testing.assert_array_equal(as_ctvm(normalize(bodies)), ntu_numbers[f"{name}__prenorm"])
    with pytest.raises(RawInputError, match=r"found (0 frames|no body in any of 12 frames)"):
        recipe("pcm3", "ntu").sample(raw)


@pytest.mark.parametrize("instance", PKU_INSTANCES)
def test_trimmed_actions_equal_the_reference(golden: Path, pku_numbers: dict[str, np.ndarray], instance: int) -> None:
    video = np.loadtxt(golden / "pku" / "0901-M.txt").reshape(-1, 2, 25, 3)
    pcm3 = recipe("pcm3", "pkummd1")
    raw = RawSequence("0901-M", video, np.zeros(len(video), np.int64), np.zeros((len(video), 2), np.int64))
    frames, _, repairs, _ = pcm3.sample(raw)
    np.testing.assert_array_equal(frames, video.astype(np.float32))
    assert repairs == []

    _, start, end, _ = pku_numbers["label_table"][instance]
    trimmed, expected = frames[start:end], pku_numbers[f"norm_{instance:02d}"]
    np.testing.assert_array_equal(as_ctvm(trimmed), pku_numbers[f"trim_{instance:02d}"].astype(np.float32))
    np.testing.assert_allclose(as_ctvm(normalize(trimmed, length=300)), expected, rtol=0, atol=1e-5)
    clip = pcm3.window(trimmed)
    assert len(clip) == min(len(trimmed), 300)
    np.testing.assert_allclose(as_ctvm(clip), expected[:, : len(clip)], rtol=0, atol=1e-5)
    assert pcm3.repairs(end - start) == (["cut from 315 to 300 frames"] if instance == 6 else [])
