"""Recipe `pcm3` against numbers of the reference implementation (JHang2020/PCM3), run on synthetic recordings."""

import numpy as np
import pytest

from pipelines.preprocessing.bodies import choose_bodies, choose_slots, energies
from pipelines.preprocessing.normalize import normalize
from pipelines.preprocessing.recipes import MAX_FRAMES, recipe
from shards.errors import RawInputError
from shards.schema import RawSequence
from tests.numerics.golden import matching, numbers
from tests.numerics.recordings import NAMES, VIDEO, parsed, refusal, video

NTU, PKU = numbers("ntu_pcm3"), numbers("pku_pcm3")
EMPTY = [name for name in NAMES if not NTU[f"{name}__num_bodies"].any()]
# the reference stops at a longer recording; what it gives for the first frames has another name
LONG = [name for name in NAMES if NTU[f"{name}__num_frame"] > MAX_FRAMES]
FILLED = [name for name in NAMES if f"{name}__prenorm_300" in NTU]


def as_ctvm(frames: np.ndarray) -> np.ndarray:
    return frames.transpose(3, 0, 2, 1)


def cut(frames: int) -> list[str]:
    """The repairs of a sequence of so many frames."""
    return [f"cut from {frames} to {MAX_FRAMES} frames"] if frames > MAX_FRAMES else []


@pytest.mark.parametrize("name", NAMES)
def test_energies_and_chosen_slots_are_those_of_the_reference(name: str) -> None:
    frames, expected = NTU[f"{name}__raw"], NTU[f"{name}__energy"]
    np.testing.assert_allclose(energies(frames), expected, rtol=1e-9, atol=0)
    chosen, reference = choose_slots(frames), NTU[f"{name}__selected_slots"]
    np.testing.assert_array_equal(expected[chosen], expected[reference])  # the index of an empty slot is immaterial
    np.testing.assert_array_equal(chosen[expected[chosen] > 0], reference[expected[reference] > 0])


@pytest.mark.parametrize("name", NAMES)
def test_chosen_bodies_equal_the_reference_exactly(name: str) -> None:
    chosen, _, _ = choose_bodies(parsed(name).frames)
    np.testing.assert_array_equal(as_ctvm(chosen), NTU[f"{name}__selected"].astype(np.float32))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in EMPTY])
def test_recipe_from_raw_file_to_clip_equals_the_reference(name: str) -> None:
    pcm3 = recipe("pcm3", "ntu")
    frames, _, repairs, _ = pcm3.sample(parsed(name))
    clip = pcm3.window(frames)
    expected = NTU[f"{name}__prenorm_first300" if name in LONG else f"{name}__prenorm"]
    assert clip.dtype == np.float32
    np.testing.assert_allclose(as_ctvm(clip), expected, rtol=0, atol=1e-5)
    assert repairs == cut(int(NTU[f"{name}__num_frame"]))


@pytest.mark.parametrize("name", FILLED)
def test_filling_up_to_300_frames_equals_the_reference(name: str) -> None:
    frames, _, _, _ = recipe("pcm3", "ntu").sample(parsed(name))
    expected = NTU[f"{name}__prenorm_300"]
    np.testing.assert_allclose(as_ctvm(normalize(frames, length=expected.shape[1])), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", EMPTY)
def test_a_recording_without_a_body_stays_zero_and_is_refused_as_a_sample(name: str) -> None:
    raw = parsed(name)
    bodies = np.zeros((len(raw.frames), 2, 25, 3), dtype=np.float32)
    np.testing.assert_array_equal(as_ctvm(normalize(bodies)), NTU[f"{name}__prenorm"])
    with pytest.raises(RawInputError, match=refusal(int(NTU[f"{name}__num_frame"]))):
        recipe("pcm3", "ntu").sample(raw)


@pytest.mark.parametrize("instance", matching(PKU, "norm_*"))
def test_trimmed_actions_equal_the_reference(instance: str) -> None:
    frames_of_video = video()
    pcm3 = recipe("pcm3", "pkummd1")
    there, ids = np.zeros(len(frames_of_video), np.int64), np.zeros((len(frames_of_video), 2), np.int64)
    frames, _, repairs, _ = pcm3.sample(RawSequence(VIDEO, frames_of_video, there, ids))
    np.testing.assert_array_equal(frames, frames_of_video.astype(np.float32))
    assert repairs == []

    _, start, end, _ = PKU["label_table"][int(instance)]
    trimmed, expected = frames[start:end], PKU[f"norm_{instance}"]
    length = int(PKU["num_frame"][int(instance)])
    assert len(trimmed) == length
    np.testing.assert_array_equal(as_ctvm(trimmed), PKU[f"trim_{instance}"].astype(np.float32))
    np.testing.assert_allclose(as_ctvm(normalize(trimmed, length=expected.shape[1])), expected, rtol=0, atol=1e-5)
    clip = pcm3.window(trimmed)
    assert len(clip) == min(length, expected.shape[1])
    np.testing.assert_allclose(as_ctvm(clip), expected[:, : len(clip)], rtol=0, atol=1e-5)
    assert pcm3.repairs(length) == cut(length)


def test_every_labelled_action_of_the_video_has_numbers() -> None:
    assert sorted(map(int, matching(PKU, "norm_*"))) == list(range(len(PKU["label_table"])))
