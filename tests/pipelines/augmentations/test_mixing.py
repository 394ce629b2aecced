"""Mixing, against one sample, frame and joint after the other."""

import math
from collections import Counter
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from pipelines.augmentations.mixing import (
    CutMix,
    Mixing,
    Mixup,
    PartnerMix,
    PCM3Mix,
    ResizedMix,
    SkeleMix,
    apply_mix,
    joints_of,
    weight,
)
from pipelines.augmentations.operation import Blend, Key
from pipelines.views.layout import flatten, unflatten
from shards.errors import ConfigError
from shards.skeleton import BODY_PARTS

ALL = (PCM3Mix(), CutMix(), ResizedMix(), Mixup(), SkeleMix(), SkeleMix(pasted="joints"))


def _key(step: int, epoch: int = 0, seed: int = 3) -> Key:
    return Key(seed, epoch, step, "mix")


def _slow_mix(x: Tensor, partner: Tensor, mix: Mixing) -> tuple[Tensor, Tensor]:
    """The mixed batch, and the partner's share of each entry as a mask (T, V)."""
    samples, frames, _, joints, _ = x.shape
    unit = frames // mix.units
    first, count = mix.first * unit, mix.length * unit
    out, mask = x.clone(), torch.zeros(frames, joints)
    for n in range(samples):
        for t in range(frames):
            for joint in range(joints):
                if mix.mode == "mixup":
                    out[n, t, :, joint] = (1 - mix.blend) * x[n, t, :, joint] + mix.blend * partner[n, t, :, joint]
                    mask[t, joint] = mix.blend
                elif first <= t < first + count and joint in mix.joints:
                    source = t if mix.mode == "cut" else math.floor((t - first) * min(2 * count, frames) / count)
                    out[n, t, :, joint] = partner[n, source, :, joint]
                    mask[t, joint] = 1
    return out, mask


@pytest.mark.parametrize("mode", ["cut", "time", "mixup"])
@pytest.mark.parametrize(("frames", "units"), [(16, 16), (32, 16), (64, 16), (48, 12)])
@pytest.mark.parametrize(("first", "length"), [(0, 7), (5, 7), (3, 8), (0, 11), (1, 11)])
def test_a_mixed_batch_equals_mixing_entry_by_entry(
    mode: Literal["cut", "time", "mixup"], frames: int, units: int, first: int, length: int
) -> None:
    x, partner = torch.randn(3, frames, 2, 25, 3), torch.randn(3, frames, 2, 25, 3)
    before = x.clone(), partner.clone()
    mix = Mixing(mode, joints=(0, 4, 5, 9, 23, 24), first=first, length=length, units=units, blend=0.3)
    expected, mask = _slow_mix(x, partner, mix)
    torch.testing.assert_close(apply_mix(x, partner, mix), expected)
    assert weight(mix) == pytest.approx(mask.mean().item(), abs=1e-6)
    assert torch.equal(x, before[0])
    assert torch.equal(partner, before[1])


@pytest.mark.parametrize("mode", ["cut", "time", "mixup"])
def test_a_flat_view_is_mixed_alike_and_stays_flat(mode: Literal["cut", "time", "mixup"]) -> None:
    x, partner = torch.randn(3, 32, 2, 25, 3), torch.randn(3, 32, 2, 25, 3)
    mix = Mixing(mode, joints=joints_of((1, 4)), first=2, length=9, blend=0.7)
    found = apply_mix(unflatten(flatten(x)), unflatten(flatten(partner)), mix)
    assert torch.equal(found, apply_mix(x, partner, mix))
    # so that the encoders' layout needs no further copy
    assert flatten(found).is_contiguous()


def _pasted_parts(mix: Mixing) -> list[int]:
    return [part for part, joints in enumerate(BODY_PARTS) if set(joints) <= set(mix.joints)]


@settings(deadline=None)
@given(operation=st.sampled_from(ALL), rows=st.integers(3, 200), step=st.integers(0, 10**6), epoch=st.integers(0, 500))
def test_a_drawn_mix_stays_within_its_bounds(operation: PartnerMix, rows: int, step: int, epoch: int) -> None:
    blend = operation.draw_mix(rows, _key(step, epoch))
    mix = blend.params
    assert 1 <= blend.shift <= rows - 2
    assert 0 <= blend.weight < 1
    assert blend.weight == weight(mix)
    if mix.mode == "mixup":
        assert blend.weight == mix.blend
        return
    assert list(mix.joints) == sorted(set(mix.joints))
    assert set(mix.joints) <= set(range(25))
    assert 7 <= mix.length <= 11
    assert 0 <= mix.first <= 16 - mix.length
    if operation == SkeleMix(pasted="joints"):
        assert 10 <= len(mix.joints) <= 15
    else:
        assert len(_pasted_parts(mix)) in (2, 3)
        assert mix.joints == joints_of(_pasted_parts(mix))


def test_every_value_is_drawn_as_often_as_published() -> None:
    count = 4000
    blends = [PCM3Mix().draw_mix(8, _key(step)) for step in range(count)]
    mixes = [blend.params for blend in blends]
    # standard deviation of a count of probability p: at most sqrt(4000 / 4) = 32
    modes = Counter(mix.mode for mix in mixes)
    assert modes == pytest.approx({"cut": count / 2, "time": count / 4, "mixup": count / 4}, abs=150)
    assert Counter(blend.shift for blend in blends) == pytest.approx(dict.fromkeys(range(1, 7), count / 6), abs=120)
    pasted = [mix for mix in mixes if mix.mode != "mixup"]
    third = len(pasted)
    assert Counter(mix.length for mix in pasted) == pytest.approx(dict.fromkeys(range(7, 12), third / 5), abs=120)
    assert Counter(len(_pasted_parts(mix)) for mix in pasted) == pytest.approx({2: third / 2, 3: third / 2}, abs=150)
    parts = Counter(part for mix in pasted for part in _pasted_parts(mix))
    assert parts == pytest.approx(dict.fromkeys(range(5), third / 2), abs=150)
    assert Counter(mix.first for mix in pasted if mix.length == 11).keys() == set(range(6))
    shares = [blend.weight for blend in blends if blend.params.mode == "mixup"]
    # standard error 0.009
    assert sum(shares) / len(shares) == pytest.approx(0.5, abs=0.045)


def test_the_choice_of_pcm3_draws_what_each_of_the_three_draws_by_itself() -> None:
    ways = {"cut": CutMix(), "time": ResizedMix(), "mixup": Mixup()}
    seen = set()
    for step in range(40):
        blend = PCM3Mix().draw_mix(8, _key(step))
        seen.add(blend.params.mode)
        assert ways[blend.params.mode].draw_mix(8, _key(step)) == blend
    assert seen == set(ways)


def test_skelemix_of_body_parts_is_a_cutmix_and_cuts_shorter_views_in_fewer_units() -> None:
    for step in range(20):
        assert SkeleMix().draw_mix(8, _key(step)) == CutMix().draw_mix(8, _key(step))
    short = SkeleMix(units=8, min_length=3, max_length=6)
    mixes = [short.draw_mix(8, _key(step)).params for step in range(400)]
    assert {mix.length for mix in mixes} == {3, 4, 5, 6}
    assert {mix.first for mix in mixes} == set(range(6))
    x, partner = torch.zeros(3, 32, 2, 25, 3), torch.ones(3, 32, 2, 25, 3)
    for mix in mixes[:20]:
        mixed = short.apply_mix(x, partner, Blend(1, weight(mix), mix))
        assert mixed[..., mix.joints[0], 0].sum(dim=1).tolist() == [[4.0 * mix.length] * 2] * 3
        assert mixed.mean().item() == pytest.approx(weight(mix), abs=1e-6)


def test_skelemix_of_single_joints_takes_every_joint_and_every_number_equally_often() -> None:
    operation = SkeleMix(pasted="joints")
    drawn = [operation.draw_mix(8, _key(step)).params.joints for step in range(3000)]
    assert Counter(map(len, drawn)) == pytest.approx(dict.fromkeys(range(10, 16), 500), abs=105)
    # half of the joints in the mean, standard deviation 27
    assert Counter(joint for joints in drawn for joint in joints) == pytest.approx(
        dict.fromkeys(range(25), 1500), abs=140
    )


@pytest.mark.parametrize("operation", ALL)
@pytest.mark.parametrize("rows", [1, 2])
def test_a_batch_without_a_partner_is_refused(operation: PartnerMix, rows: int) -> None:
    with pytest.raises(ConfigError, match=f"batch of {rows}, expected at least 3"):
        operation.draw_mix(rows, _key(0))


def test_a_view_that_cannot_be_cut_in_units_is_refused() -> None:
    x = torch.zeros(3, 40, 2, 25, 3)
    with pytest.raises(ConfigError, match="view of 40 frames, expected a multiple of 16"):
        apply_mix(x, x, Mixing("cut", (0,), 0, 7))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_parts": 4}, "min_parts=4, expected at most max_parts=3"),
        ({"min_length": 12}, "min_length=12, expected at most max_length=11"),
        ({"max_length": 17}, "max_length=17, expected at most 16"),
        ({"units": 10}, "max_length=11, expected at most 10"),
        ({"max_parts": 6}, "max_parts"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SkeleMix.model_validate(options)
