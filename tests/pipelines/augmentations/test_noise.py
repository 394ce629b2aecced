"""Noise and blur, against one entry after the other in float64."""

import itertools
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pipelines.augmentations.draws import uniform
from pipelines.augmentations.noise import GaussianBlur, GaussianNoise, normal
from pipelines.augmentations.operation import Free, Key, Samples
from pipelines.views.draw import Step
from pipelines.views.render import apply_steps
from shards.batch import flatten

KEY = Key(seed=1, epoch=2, step=3, view="base")
FREE = [GaussianNoise(), GaussianNoise(present=True), GaussianBlur(), GaussianBlur(released=True)]


def _kind(operation: Free) -> str:
    return operation.kind


def _samples(count: int, first: int = 0) -> Samples:
    return Samples(torch.arange(first, first + count), torch.full((count,), 70))


def _applied(operation: Free, x: torch.Tensor, first: int = 0) -> torch.Tensor:
    return operation.apply(x, operation.draw(_samples(len(x), first), KEY, x.shape[1]))


@pytest.mark.parametrize("operation", FREE, ids=_kind)
@pytest.mark.parametrize("frames", [1, 7, 64])
def test_what_becomes_of_a_sample_does_not_depend_on_its_batch(operation: Free, frames: int) -> None:
    x = torch.randn(9, frames, 2, 25, 3)
    before = x.clone()
    together = _applied(operation, x)
    assert torch.equal(x, before)
    assert together.shape == x.shape
    assert together.dtype == torch.float32
    for row in range(9):
        assert torch.equal(_applied(operation, x[row : row + 1], row)[0], together[row])


@pytest.mark.parametrize("operation", [GaussianNoise(), GaussianBlur(min_sigma=1.0)], ids=_kind)
def test_probability_decides_which_samples_are_changed(operation: Free) -> None:
    samples = _samples(2000)
    x = flatten(torch.randn(1, 3, 2, 25, 3)).expand(2000, -1, -1)
    share = {}
    for probability in (0.0, 0.3, 1.0):
        sometimes = operation.model_copy(update={"probability": probability})
        step = Step(sometimes, sometimes.draw(samples, KEY, 3), sometimes.applies(samples, KEY))
        found, mask = apply_steps(x, (step,))
        assert mask is None
        share[probability] = (found != x).flatten(1).any(dim=1).float().mean().item()
    # standard deviation 0.01 at probability 0.3
    assert (share[0.0], share[1.0]) == (0, 1)
    assert abs(share[0.3] - 0.3) < 0.05


@pytest.mark.parametrize("frames", [1, 3])
def test_noise_of_an_entry_is_a_function_of_the_samples_key_and_its_place(frames: int) -> None:
    x = torch.randn(3, frames, 1, 5, 3)
    found = _applied(GaussianNoise(std=0.5), x)
    count = frames * 15 + frames % 2
    draws = uniform(1, 2, torch.arange(3), "base", "gaussian_noise", count).tolist()
    for n in range(3):
        for place in range(frames * 15):
            radius = math.sqrt(-2 * math.log(1 - draws[n][place % (count // 2)]))
            angle = 2 * math.pi * draws[n][place % (count // 2) + count // 2]
            noise = radius * (math.cos(angle) if place < count // 2 else math.sin(angle))
            assert found[n].flatten()[place].item() == pytest.approx(
                x[n].flatten()[place].item() + 0.5 * noise, abs=1e-5
            )


def test_noise_of_those_present_is_the_same_and_leaves_the_absent_zero_frame_by_frame() -> None:
    x = torch.randn(4, 6, 2, 25, 3)
    x[0, :, 1], x[1, 2:5, 0], x[2] = 0, 0, 0
    x[3, 0, 0, :24] = 0  # one joint away from the origin is a person
    everywhere, found = _applied(GaussianNoise(std=0.5), x), _applied(GaussianNoise(std=0.5, present=True), x)
    for n, t, m in itertools.product(range(4), range(6), range(2)):
        assert torch.equal(found[n, t, m], everywhere[n, t, m] if x[n, t, m].any() else x[n, t, m])
    assert not torch.equal(found, everywhere)


def test_noise_is_normal_and_independent_between_entries_samples_and_views() -> None:
    noise = _applied(GaussianNoise(), torch.zeros(400, 8, 2, 25, 3)).double() / 0.01
    # 480,000 numbers: standard errors 0.0014, 0.002, 0.0035 and 0.007
    assert abs(noise.mean()) < 0.007
    assert abs(noise.var() - 1) < 0.01
    assert abs((noise**3).mean()) < 0.028
    assert abs((noise**4).mean() - 3) < 0.07
    for limit, share in ((1.0, 0.6827), (2.0, 0.9545), (3.0, 0.9973)):
        assert abs((noise.abs() < limit).double().mean() - share) < 0.003
    # correlations over 400 samples or 1,200 entries: standard errors 0.05 and 0.029
    between_entries = torch.corrcoef(noise.flatten(1).T[::60])
    assert (between_entries - torch.eye(len(between_entries))).abs().max() < 0.25
    between_samples = torch.corrcoef(noise.flatten(1)[:20])
    assert (between_samples - torch.eye(20)).abs().max() < 0.15
    other = GaussianNoise().draw(_samples(400), Key(1, 2, 3, "key"), 8)
    again = GaussianNoise().apply(torch.zeros(400, 8, 2, 25, 3), other).double() / 0.01
    assert abs((again * noise).mean()) < 0.007


def test_the_smallest_and_the_largest_draw_give_finite_numbers() -> None:
    extremes = torch.tensor([[0.0, 1 - 2.0**-53, 0.0, 1 - 2.0**-53]], dtype=torch.float64)
    assert normal(extremes).isfinite().all()
    assert normal(extremes).abs().max() < 8.6


@pytest.mark.parametrize("frames", [1, 5, 40])
@pytest.mark.parametrize("kernel", [1, 15])
@pytest.mark.parametrize("released", [False, True])
def test_a_blur_is_the_weighted_sum_of_neighbours_in_time(frames: int, kernel: int, released: bool) -> None:
    x = torch.randn(6, frames, 2, 25, 3)
    operation = GaussianBlur(kernel=kernel, released=released)
    found = _applied(operation, x)
    draws = uniform(1, 2, torch.arange(6), "base", "gaussian_blur", 1)[:, 0].tolist()
    for n in range(6):
        sigma = 0.1 + 1.9 * draws[n]
        weights = [math.exp(-(k**2) / (2 * sigma**2)) for k in range(-(kernel // 2), kernel // 2 + 1)]
        total = 1.0 if released else sum(weights)
        for t in range(frames):
            expected = np.zeros((2, 25, 3))
            for k, weight in enumerate(weights, start=t - kernel // 2):
                if 0 <= k < frames or not released:
                    expected += weight / total * x[n, min(max(k, 0), frames - 1)].double().numpy()
            np.testing.assert_allclose(found[n, t].numpy(), expected, rtol=0, atol=2e-5)


def test_a_still_person_stays_as_large_unless_blurred_as_released() -> None:
    x = torch.randn(50, 1, 2, 25, 3).expand(-1, 64, -1, -1, -1)
    torch.testing.assert_close(_applied(GaussianBlur(), x), x, rtol=1e-5, atol=1e-6)
    wide = GaussianBlur(min_sigma=2.0, max_sigma=2.0, released=True)
    # sqrt(2 pi) * 2 in the middle, half of it and the middle weight's half at the ends
    assert (_applied(wide, x)[:, 32] / x[:, 32]).median().item() == pytest.approx(5.01, abs=0.01)
    assert (_applied(wide, x)[:, 0] / x[:, 0]).median().item() == pytest.approx(3.01, abs=0.01)


def test_widths_of_blurs_are_uniform() -> None:
    sigma = GaussianBlur().draw(_samples(20_000), KEY, 64)
    assert 0.1 <= sigma.min() < 0.102
    assert 1.998 < sigma.max() <= 2
    # standard errors 0.004 and 0.0019
    assert abs(sigma.mean() - 1.05) < 0.02
    assert abs(sigma.var() - 1.9**2 / 12) < 0.01


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (GaussianNoise, {"std": 0.0}),
        (GaussianBlur, {"kernel": 14}),
        (GaussianBlur, {"kernel": -1}),
        (GaussianBlur, {"min_sigma": 0.0}),
        (GaussianBlur, {"min_sigma": 2.0, "max_sigma": 1.0}),
        (GaussianBlur, {"probability": 2.0}),
    ],
)
def test_values_that_cannot_work_are_refused(kind: type[Free], options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        kind.model_validate(options)
