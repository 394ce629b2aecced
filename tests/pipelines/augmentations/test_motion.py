"""Motion-aware masks, against one token after the other; the golden numbers are in tests/numerics."""

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pipelines.augmentations.motion import MotionMask, motion, scaled_motion, target_patches
from pipelines.augmentations.operation import Key, Samples
from shards.batch import flatten, unflatten
from shards.errors import ConfigError

KEY = Key(seed=1, epoch=0, step=0, view="masked")


def _samples(count: int) -> Samples:
    return Samples(torch.arange(count), torch.full((count,), 100))


def _slow_tokens(x: npt.NDArray[np.float64], patch: int) -> dict[tuple[int, int], npt.NDArray[np.float64]]:
    """(T, V, C) -> the numbers of each token (tp, v)."""
    return {
        (tp, v): np.concatenate([x[tp * patch + i, v] for i in range(patch)])
        for tp in range(len(x) // patch)
        for v in range(25)
    }


def _slow_visible(x: npt.NDArray[np.float64], rand: npt.NDArray[np.float64], operation: MotionMask) -> set[int]:
    """Tokens that stay of one person's sequence (T, V, C)."""
    tokens = _slow_tokens(x, operation.patch)
    moved = np.array([np.abs(tokens[max(tp, 1), v] - tokens[max(tp, 1) - 1, v]).mean() for tp, v in tokens])
    scaled = moved / (moved.max() * operation.tau + 1e-10)
    probability = np.exp(scaled) / np.exp(scaled).sum()
    noise = np.log(probability) - np.log(-np.log(rand + 1e-10) + 1e-10)
    return set(np.argsort(noise)[: int(len(noise) * (1 - operation.ratio))].tolist())


@pytest.mark.parametrize("operation", [MotionMask(), MotionMask(ratio=0.6, patch=8, tau=0.3)])
def test_each_person_is_masked_by_its_own_motion_in_whole_tokens(operation: MotionMask) -> None:
    x = torch.randn(3, 32, 2, 25, 3, dtype=torch.float64).cumsum(dim=1)
    x[2, :, 1] = 0
    params = operation.draw(_samples(3), KEY, 32)
    visible = operation.visible(x, params)
    for n in range(3):
        for m in range(2):
            kept = _slow_visible(x[n, :, m].numpy(), params[n, m].numpy(), operation)
            for t in range(32):
                expected = [t // operation.patch * 25 + v in kept for v in range(25)]
                assert visible[n, t, m].tolist() == expected


def test_tokens_that_move_more_are_hidden_more_often() -> None:
    x = torch.zeros(4000, 8, 2, 25, 3)
    x[:, 4:, :, 7] = 1
    operation = MotionMask(ratio=0.5, tau=0.25)
    hidden = ~operation.visible(x, operation.draw(_samples(4000), KEY, 8))[:, ::4, 0]
    share = hidden.double().mean(dim=(0, 1))
    others = share[[v for v in range(25) if v != 7]]
    assert share[7] > 0.9
    # standard error 0.0056
    assert (others - others.mean()).abs().max() < 0.03


def test_the_second_person_is_visible_where_only_the_main_one_is_masked_and_the_first_is_the_same() -> None:
    x = torch.randn(5, 16, 2, 25, 3)
    params = MotionMask().draw(_samples(5), KEY, 16)
    both, main = (MotionMask.model_validate({"persons": persons}).visible(x, params) for persons in ("both", "main"))
    assert main[:, :, 1].all()
    assert torch.equal(main[:, :, 0], both[:, :, 0])


def test_a_flat_view_is_masked_alike_and_no_sample_depends_on_its_batch() -> None:
    x = torch.randn(40, 16, 2, 25, 3)
    operation = MotionMask()
    every = operation.visible(x, operation.draw(_samples(40), KEY, 16))
    assert torch.equal(operation.visible(unflatten(flatten(x)), operation.draw(_samples(40), KEY, 16)), every)
    some = torch.tensor([33, 4])
    alone = operation.draw(Samples(some, torch.tensor([1, 2])), Key(1, 0, 7, "masked"), 16)
    assert torch.equal(operation.visible(x[some], alone), every[some])


def test_patches_hold_the_frames_of_a_token_one_after_the_other() -> None:
    x = torch.randn(2, 12, 25, 3, dtype=torch.float64)
    found = target_patches(x, 4)
    for n in range(2):
        for (tp, v), token in _slow_tokens(x[n].numpy(), 4).items():
            assert found[n, tp * 25 + v].tolist() == token.tolist()


@pytest.mark.parametrize("stride", [1, 2, 5])
def test_motion_is_a_later_frame_minus_this_one_and_ends_with_zeros(stride: int) -> None:
    x = torch.randn(2, 6, 25, 3)
    moved = motion(x, stride)
    for t in range(6):
        expected = x[:, t + stride] - x[:, t] if t + stride < 6 else torch.zeros(2, 25, 3)
        assert torch.equal(moved[:, t], expected)


def test_sequences_that_do_not_make_tokens_are_refused() -> None:
    with pytest.raises(ConfigError, match="view of 30 frames, expected a multiple of the 4 frames of a token"):
        MotionMask().draw(_samples(2), KEY, 30)
    with pytest.raises(ConfigError, match="view of 16 frames, expected two tokens of 16 frames at least"):
        scaled_motion(torch.zeros(1, 16, 25, 3), 16, 0.8)
    with pytest.raises(ConfigError, match=r"mask of 0\.99 of 50, which leaves none; expected one to stay"):
        MotionMask(ratio=0.99).draw(_samples(2), KEY, 8)
    with pytest.raises(ConfigError, match="found a stride of 4, expected 1 to 3 for 4 frames"):
        motion(torch.zeros(1, 4, 25, 3), 4)
