"""Mixing, against one sample, frame and joint after the other."""

import math
from collections import Counter
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipelines.augmentations.mixing import Mix, apply_mix, draw_mix, partners, weight
from shards.errors import ConfigError
from shards.skeleton import BODY_PARTS


def _slow_mix(x: Tensor, mix: Mix) -> tuple[Tensor, Tensor]:
    """The mixed batch, and the partner's share of each entry as a mask (T, V)."""
    samples, frames, _, joints, _ = x.shape
    unit = frames // 16
    first, count = mix.first * unit, mix.length * unit
    pasted = {joint for part in mix.parts for joint in BODY_PARTS[part]}
    out, mask = x.clone(), torch.zeros(frames, joints)
    for n in range(samples):
        partner = x[(n + mix.shift) % samples]
        for t in range(frames):
            for joint in range(joints):
                if mix.mode == "mixup":
                    out[n, t, :, joint] = (1 - mix.blend) * x[n, t, :, joint] + mix.blend * partner[t, :, joint]
                    mask[t, joint] = mix.blend
                elif first <= t < first + count and joint in pasted:
                    source = t if mix.mode == "cut" else math.floor((t - first) * min(2 * count, frames) / count)
                    out[n, t, :, joint] = partner[source, :, joint]
                    mask[t, joint] = 1
    return out, mask


@pytest.mark.parametrize("mode", ["cut", "time", "mixup"])
@pytest.mark.parametrize("frames", [16, 32, 64])
@pytest.mark.parametrize(("first", "length"), [(0, 7), (9, 7), (3, 8), (0, 11), (5, 11)])
def test_a_mixed_batch_equals_mixing_entry_by_entry(
    mode: Literal["cut", "time", "mixup"], frames: int, first: int, length: int
) -> None:
    x = torch.randn(4, frames, 2, 25, 3)
    before = x.clone()
    mix = Mix(mode, shift=2, parts=(0, 3, 4), first=first, length=length, blend=0.3)
    expected, mask = _slow_mix(x, mix)
    torch.testing.assert_close(apply_mix(x, mix), expected)
    assert weight(mix) == pytest.approx(mask.mean().item(), abs=1e-6)
    assert torch.equal(x, before)


@settings(deadline=None)
@given(samples=st.integers(3, 200), step=st.integers(0, 10**6), epoch=st.integers(0, 500))
def test_a_drawn_mix_stays_within_its_bounds(samples: int, step: int, epoch: int) -> None:
    mix = draw_mix(samples, seed=0, epoch=epoch, step=step)
    assert 1 <= mix.shift <= samples - 2
    assert len(set(mix.parts)) == len(mix.parts) in (2, 3)
    assert set(mix.parts) <= set(range(5))
    assert 7 <= mix.length <= 11
    assert 0 <= mix.first <= 16 - mix.length
    assert 0 <= mix.blend < 1
    assert 0 <= weight(mix) < 1
    assert (partners(samples, mix) != torch.arange(samples)).all()
    assert sorted(partners(samples, mix).tolist()) == list(range(samples))


def test_every_value_is_drawn_as_often_as_published() -> None:
    count = 4000
    mixes = [draw_mix(8, seed=3, epoch=0, step=step) for step in range(count)]
    # standard deviation of a count of probability p: at most sqrt(4000 / 4) = 32
    modes = Counter(mix.mode for mix in mixes)
    assert modes == pytest.approx({"cut": count / 2, "time": count / 4, "mixup": count / 4}, abs=150)
    assert Counter(mix.shift for mix in mixes) == pytest.approx(dict.fromkeys(range(1, 7), count / 6), abs=120)
    assert Counter(mix.length for mix in mixes) == pytest.approx(dict.fromkeys(range(7, 12), count / 5), abs=120)
    assert Counter(len(mix.parts) for mix in mixes) == pytest.approx({2: count / 2, 3: count / 2}, abs=150)
    parts = Counter(part for mix in mixes for part in mix.parts)
    assert parts == pytest.approx(dict.fromkeys(range(5), count / 2), abs=150)
    assert Counter(mix.first for mix in mixes if mix.length == 11).keys() == set(range(6))
    assert sum(mix.blend for mix in mixes) / count == pytest.approx(0.5, abs=0.025)


@pytest.mark.parametrize("samples", [1, 2])
def test_a_batch_without_a_partner_is_refused(samples: int) -> None:
    with pytest.raises(ConfigError, match=f"batch of {samples}, expected at least 3"):
        draw_mix(samples, seed=0, epoch=0, step=0)
