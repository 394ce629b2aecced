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

from pipelines.augmentations.draws import uniform
from pipelines.augmentations.mixing import (
    MODES,
    CutMix,
    Mixing,
    Mixup,
    PartnerMix,
    PCM3Mix,
    ResizedMix,
    SkeleMix,
    apply_mix,
    apply_mixings,
    weight,
)
from pipelines.augmentations.operation import Blend, Key, Samples
from shards.batch import flatten, unflatten
from shards.errors import ConfigError
from shards.skeleton import BODY_PARTS

ALL = (PCM3Mix(), CutMix(), ResizedMix(), Mixup(), SkeleMix(), SkeleMix(pasted="joints"))


def _key(step: int, epoch: int = 0, seed: int = 3) -> Key:
    return Key(seed, epoch, step, "mix")


def _samples(count: int) -> Samples:
    return Samples(torch.arange(count), torch.full((count,), 100))


def _drawn(operation: PartnerMix, step: int, rows: int = 8, epoch: int = 0) -> Blend:
    """How a batch is mixed."""
    return operation.draw_mix(_samples(rows), _key(step, epoch), rows)


def _drawn_each(operation: PartnerMix, count: int, step: int = 0) -> Blend:
    """How samples 0..count-1 are mixed, each in its own way."""
    return operation.model_copy(update={"scope": "sample"}).draw_mix(_samples(count), _key(step), 8)


def _joints_of(parts: list[int]) -> tuple[int, ...]:
    return tuple(sorted(joint for part in parts for joint in BODY_PARTS[part]))


def _slow_pcm3_mixing(number: int) -> Mixing:
    """What step or sample `number` draws, one number after the other."""
    _, count, length, first, branch, blend = uniform(3, 0, torch.tensor([number]), "mix", "batch", 6)[0].tolist()
    if branch <= 0.25:
        return Mixing("mixup", blend=blend)
    noise = uniform(3, 0, torch.tensor([number]), "mix", "parts", 5)[0].tolist()
    parts = sorted(range(5), key=lambda part: noise[part])[: 2 + math.floor(count * 2)]
    units = 7 + math.floor(length * 5)
    start = math.floor(first * (16 - units + 1))
    return Mixing("cut" if branch > 0.5 else "time", _joints_of(parts), start, units)


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
    mix = Mixing(mode, joints=_joints_of([1, 4]), first=2, length=9, blend=0.7)
    found = apply_mix(unflatten(flatten(x)), unflatten(flatten(partner)), mix)
    assert torch.equal(found, apply_mix(x, partner, mix))
    # so that the encoders' layout needs no further copy
    assert flatten(found).is_contiguous()


def _pasted_parts(mix: Mixing) -> list[int]:
    return [part for part, joints in enumerate(BODY_PARTS) if set(joints) <= set(mix.joints)]


@settings(deadline=None)
@given(operation=st.sampled_from(ALL), rows=st.integers(3, 200), step=st.integers(0, 10**6), epoch=st.integers(0, 500))
def test_a_drawn_mix_stays_within_its_bounds(operation: PartnerMix, rows: int, step: int, epoch: int) -> None:
    blend = _drawn(operation, step, rows, epoch)
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
        assert mix.joints == _joints_of(_pasted_parts(mix))


@pytest.mark.parametrize("scope", ["batch", "sample"])
def test_every_value_is_drawn_as_often_as_published(scope: str) -> None:
    count = 4000
    if scope == "sample":
        each = _drawn_each(PCM3Mix(), count).params
        mixes = [each.of(row) for row in range(count)]
    else:
        mixes = [_drawn(PCM3Mix(), step).params for step in range(count)]
    # standard deviation of a count of probability p: at most sqrt(4000 / 4) = 32
    modes = Counter(mix.mode for mix in mixes)
    assert modes == pytest.approx({"cut": count / 2, "time": count / 4, "mixup": count / 4}, abs=150)
    shifts = Counter(PCM3Mix().draw_shift(_key(step), 8) for step in range(count))
    assert shifts == pytest.approx(dict.fromkeys(range(1, 7), count / 6), abs=120)
    pasted = [mix for mix in mixes if mix.mode != "mixup"]
    third = len(pasted)
    assert Counter(mix.length for mix in pasted) == pytest.approx(dict.fromkeys(range(7, 12), third / 5), abs=120)
    assert Counter(len(_pasted_parts(mix)) for mix in pasted) == pytest.approx({2: third / 2, 3: third / 2}, abs=150)
    parts = Counter(part for mix in pasted for part in _pasted_parts(mix))
    assert parts == pytest.approx(dict.fromkeys(range(5), third / 2), abs=150)
    assert Counter(mix.first for mix in pasted if mix.length == 11).keys() == set(range(6))
    shares = [mix.blend for mix in mixes if mix.mode == "mixup"]
    # standard error 0.009
    assert sum(shares) / len(shares) == pytest.approx(0.5, abs=0.045)


def test_the_choice_of_pcm3_draws_what_each_of_the_three_draws_by_itself() -> None:
    ways = {"cut": CutMix(), "time": ResizedMix(), "mixup": Mixup()}
    seen = set()
    for step in range(40):
        blend = _drawn(PCM3Mix(), step)
        seen.add(blend.params.mode)
        assert _drawn(ways[blend.params.mode], step) == blend
        assert blend.params == _slow_pcm3_mixing(step)
    assert seen == set(ways)


@pytest.mark.parametrize("operation", ALL)
def test_a_sample_draws_by_its_number_what_a_batch_draws_by_its_step(operation: PartnerMix) -> None:
    each = _drawn_each(operation, 60, step=77)
    assert each.shift == _drawn(operation, 77).shift
    for number in range(60):
        alone = _drawn(operation, number)
        assert each.params.of(number) == alone.params
        assert each.params.weight[number].item() == alone.weight
    assert isinstance(each.weight, Tensor)
    torch.testing.assert_close(each.weight, each.params.weight.float())


def test_how_a_sample_is_mixed_does_not_depend_on_its_batch_or_step() -> None:
    operation, some = PCM3Mix(scope="sample"), torch.tensor([59, 3, 17])
    found = operation.draw_mix(Samples(some, torch.tensor([1, 2, 3])), _key(99), 40).params
    every = _drawn_each(operation, 60).params
    assert [found.of(row) for row in range(3)] == [every.of(number) for number in some.tolist()]
    other = operation.draw_mix(_samples(60), _key(0, epoch=1), 8).params
    assert [other.of(row) for row in range(60)] != [every.of(row) for row in range(60)]


@pytest.mark.parametrize("frames", [16, 32, 64, 48])
@pytest.mark.parametrize("operation", ALL)
def test_samples_mixed_each_in_its_own_way_equal_mixing_entry_by_entry(operation: PartnerMix, frames: int) -> None:
    blend = _drawn_each(operation, 12)
    x, partner = torch.randn(12, frames, 2, 25, 3), torch.randn(12, frames, 2, 25, 3)
    before = x.clone(), partner.clone()
    found = operation.apply_mix(x, partner, blend)
    modes = set()
    for row in range(12):
        mix = blend.params.of(row)
        modes.add(mix.mode)
        expected, mask = _slow_mix(x[row : row + 1], partner[row : row + 1], mix)
        if mix.mode == "mixup":
            torch.testing.assert_close(found[row : row + 1], expected)
        else:
            assert torch.equal(found[row : row + 1], expected)
        assert float(blend.weight[row]) == pytest.approx(mask.mean().item(), abs=1e-6)  # type: ignore[index]
    assert modes == set(MODES) if operation == PCM3Mix() else len(modes) == 1
    assert torch.equal(x, before[0])
    assert torch.equal(partner, before[1])
    flat = operation.apply_mix(unflatten(flatten(x)), unflatten(flatten(partner)), blend)
    assert torch.equal(flat, found)


def test_skelemix_of_body_parts_is_a_cutmix_and_cuts_shorter_views_in_fewer_units() -> None:
    for step in range(20):
        assert _drawn(SkeleMix(), step) == _drawn(CutMix(), step)
    short = SkeleMix(units=8, min_length=3, max_length=6)
    mixes = [_drawn(short, step).params for step in range(400)]
    assert {mix.length for mix in mixes} == {3, 4, 5, 6}
    assert {mix.first for mix in mixes} == set(range(6))
    x, partner = torch.zeros(3, 32, 2, 25, 3), torch.ones(3, 32, 2, 25, 3)
    for mix in mixes[:20]:
        mixed = short.apply_mix(x, partner, Blend(1, weight(mix), mix))
        assert mixed[..., mix.joints[0], 0].sum(dim=1).tolist() == [[4.0 * mix.length] * 2] * 3
        assert mixed.mean().item() == pytest.approx(weight(mix), abs=1e-6)


def test_skelemix_of_single_joints_takes_every_joint_and_every_number_equally_often() -> None:
    operation = SkeleMix(pasted="joints")
    drawn = [_drawn(operation, step).params.joints for step in range(3000)]
    assert Counter(map(len, drawn)) == pytest.approx(dict.fromkeys(range(10, 16), 500), abs=105)
    # half of the joints in the mean, standard deviation 27
    assert Counter(joint for joints in drawn for joint in joints) == pytest.approx(
        dict.fromkeys(range(25), 1500), abs=140
    )


@pytest.mark.parametrize("operation", [*ALL, PCM3Mix(scope="sample")])
@pytest.mark.parametrize("rows", [1, 2])
def test_a_batch_without_a_partner_is_refused(operation: PartnerMix, rows: int) -> None:
    with pytest.raises(ConfigError, match=f"batch of {rows}, expected at least 3"):
        _drawn(operation, 0, rows)


def test_a_view_that_cannot_be_cut_in_units_is_refused() -> None:
    x = torch.zeros(3, 40, 2, 25, 3)
    with pytest.raises(ConfigError, match="view of 40 frames, expected a multiple of 16"):
        apply_mix(x, x, Mixing("cut", (0,), 0, 7))
    with pytest.raises(ConfigError, match="view of 40 frames, expected a multiple of 16"):
        apply_mixings(x, x, _drawn_each(PCM3Mix(), 3).params)
    # a blend cuts nothing
    assert apply_mixings(x, x + 1, _drawn_each(Mixup(), 3).params).min() > 0


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
