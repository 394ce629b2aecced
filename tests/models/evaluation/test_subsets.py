import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from models.evaluation.subsets import (
    FRACTIONS,
    Numbers,
    Subset,
    SubsetLists,
    draw_subset,
    split_by_subject,
    write_subsets,
)
from shards.errors import ConfigError

CLASSES = 5

# samples of each class or subject
Counts = st.lists(st.integers(1, 60), min_size=CLASSES, max_size=CLASSES)
Per = st.integers(1, 100)


def columns(counts: list[int], seed: int = 0) -> tuple[Numbers, Numbers]:
    """Classes or subjects (N,), so many of each, and sample ids (N,), both in random order."""
    rng = np.random.default_rng(seed)
    number = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    return number, rng.permutation(10 * len(number))[: len(number)]


def class_counts(subset: Subset, label: Numbers, sample_id: Numbers) -> list[int]:
    of_sample = dict(zip(sample_id.tolist(), label.tolist(), strict=True))
    found = [of_sample[number] for number in subset.sample_id]
    return [found.count(number) for number in range(CLASSES)]


@settings(deadline=None)
@given(Counts, Per, st.integers(0, 9))
def test_stratified_draws_take_the_rounded_share_of_each_class_and_at_least_one(
    counts: list[int], per_cent: int, seed: int
) -> None:
    label, sample_id = columns(counts, seed)
    subset = draw_subset(label, sample_id, CLASSES, per_cent / 100, stratified=True, seed=seed)
    for count, found in zip(counts, class_counts(subset, label, sample_id), strict=True):
        floor, rest = divmod(per_cent * count, 100)
        half_to_even = floor + (rest > 50 or (rest == 50 and floor % 2 == 1))
        assert found == max(1, half_to_even)
    assert subset.missing_classes == ()


@settings(deadline=None)
@given(Counts, Per, st.integers(0, 9))
def test_other_draws_take_the_share_of_the_split_rounded_down_and_name_missing_classes(
    counts: list[int], per_cent: int, seed: int
) -> None:
    label, sample_id = columns(counts, seed)
    expected = per_cent * len(label) // 100
    if not expected:
        with pytest.raises(ConfigError, match="which is none, expected one"):
            draw_subset(label, sample_id, CLASSES, per_cent / 100, stratified=False, seed=seed)
        return
    subset = draw_subset(label, sample_id, CLASSES, per_cent / 100, stratified=False, seed=seed)
    found = class_counts(subset, label, sample_id)
    assert sum(found) == len(subset.sample_id) == expected
    assert subset.samples == len(label)
    assert list(subset.missing_classes) == [number for number in range(CLASSES) if not found[number]]
    assert list(subset.sample_id) == sorted(set(subset.sample_id))


@settings(deadline=None)
@given(Counts, st.booleans(), st.integers(0, 9))
def test_a_draw_does_not_depend_on_the_order_of_the_rows(counts: list[int], stratified: bool, seed: int) -> None:
    label, sample_id = columns(counts)
    key = [f"sample {number}" for number in sample_id]
    order = np.random.default_rng(seed).permutation(len(label))
    first = draw_subset(label, sample_id, CLASSES, 0.5, stratified=stratified, seed=seed, key=key)
    second = draw_subset(
        label[order],
        sample_id[order],
        CLASSES,
        0.5,
        stratified=stratified,
        seed=seed,
        key=[key[row] for row in order],
    )
    assert first == second
    assert first.key == tuple(f"sample {number}" for number in first.sample_id)


@settings(deadline=None)
@given(Counts, st.booleans(), Per, Per)
def test_a_larger_fraction_contains_a_smaller_one(counts: list[int], stratified: bool, first: int, second: int) -> None:
    label, sample_id = columns([count + 20 for count in counts])
    small, large = (
        set(draw_subset(label, sample_id, CLASSES, per / 100, stratified=stratified, seed=1).sample_id)
        for per in sorted((first, second))
    )
    assert small <= large


def test_a_draw_is_this_one_on_every_machine_and_by_every_version() -> None:
    # sorted by the first raw numbers of PCG64(3), which numpy promises to keep
    label, sample_id = np.arange(10) % 2, 100 + np.arange(10)
    ranks = sorted(range(10), key=np.random.PCG64(3).random_raw(10).tolist().__getitem__)
    subset = draw_subset(label, sample_id, 2, 0.4, stratified=False, seed=3)
    assert subset.sample_id == tuple(sorted(100 + row for row in ranks[:4])) == (100, 104, 107, 109)


def test_seeds_draw_differently_and_every_sample_has_its_chance() -> None:
    label, sample_id = columns([100] * CLASSES)
    drawn = [draw_subset(label, sample_id, CLASSES, 0.2, stratified=True, seed=seed).sample_id for seed in range(60)]
    assert len(set(drawn)) == 60
    counts = np.unique(np.concatenate(drawn), return_counts=True)[1]
    # 500 samples, each drawn in 60 draws with probability 0.2: 12 times on average, with a deviation of 3.1
    assert len(counts) == 500
    assert counts.std() == pytest.approx(math.sqrt(60 * 0.2 * 0.8), rel=0.15)


def test_the_published_fractions_are_the_default() -> None:
    assert FRACTIONS == (0.01, 0.05, 0.1, 0.2)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, math.nan])
def test_fractions_out_of_range_are_refused(fraction: float) -> None:
    label, sample_id = columns([5] * CLASSES)
    with pytest.raises(ConfigError, match=r"label fraction: found .*, expected one above 0 and at most 1"):
        draw_subset(label, sample_id, CLASSES, fraction, stratified=True, seed=0)


@pytest.mark.parametrize("stratified", [False, True])
def test_a_class_that_the_split_lacks_is_named_among_the_missing(stratified: bool) -> None:
    label, sample_id = columns([5] * CLASSES)
    assert draw_subset(label, sample_id, 7, 1.0, stratified=stratified, seed=0).missing_classes == (5, 6)


def test_columns_that_do_not_fit_are_refused() -> None:
    label, sample_id = columns([5] * CLASSES)
    twice = sample_id.copy()
    twice[3] = twice[8]
    for arguments, message in [
        ((label[1:], sample_id), r"found labels of shape \(24,\) and sample ids of shape \(25,\)"),
        ((label, twice), f"found sample {twice[3]} more than once"),
        ((label, sample_id - 1000), "found sample id -.*, expected 0 or more"),
        ((label + 1, sample_id), r"found labels 1\.\.5, expected them in 0\.\.4"),
        ((label[:0], sample_id[:0]), "found no samples"),
    ]:
        with pytest.raises(ConfigError, match=message):
            draw_subset(*arguments, CLASSES, 0.5, stratified=True, seed=0)
    with pytest.raises(ConfigError, match="seed: found -1"):
        draw_subset(label, sample_id, CLASSES, 0.5, stratified=True, seed=-1)
    with pytest.raises(ConfigError, match="found 2 keys, expected one for each of 25"):
        draw_subset(label, sample_id, CLASSES, 0.5, stratified=True, seed=0, key=["a", "b"])


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=12), st.integers(1, 99), st.integers(0, 9))
def test_people_who_validate_are_not_trained_on(counts: list[int], per_cent: int, seed: int) -> None:
    subject, sample_id = columns(counts, seed)
    train, validation = split_by_subject(subject, sample_id, per_cent / 100, seed=seed)
    assert sorted([*train, *validation]) == sorted(sample_id)
    assert list(train) == sorted(train)
    assert list(validation) == sorted(validation)
    people = [set(subject[np.isin(sample_id, side)]) for side in (train, validation)]
    assert not people[0] & people[1]
    assert abs(len(people[1]) - per_cent * len(counts) / 100) <= 0.5 or len(people[1]) in (1, len(counts) - 1)
    order = np.random.default_rng(1).permutation(len(subject))
    again = split_by_subject(subject[order], sample_id[order], per_cent / 100, seed=seed)
    assert np.array_equal(train, again[0])
    assert np.array_equal(validation, again[1])


def test_seeds_choose_other_people_to_validate() -> None:
    subject, sample_id = columns([4] * 20)
    chosen = {tuple(split_by_subject(subject, sample_id, 0.25, seed=seed)[1]) for seed in range(8)}
    assert len(chosen) == 8
    assert {len(ids) for ids in chosen} == {20}


def test_splits_by_subject_that_cannot_be_are_refused() -> None:
    subject, sample_id = columns([5] * 4)
    unknown = np.where(subject == 2, -1, subject)
    with pytest.raises(ConfigError, match="found 5 of 20 samples of unknown subject, expected none"):
        split_by_subject(unknown, sample_id, 0.5, seed=0)
    with pytest.raises(ConfigError, match="found 1 subject, expected at least two"):
        split_by_subject(subject * 0, sample_id, 0.5, seed=0)
    for fraction in (0.0, 1.0, math.nan):
        with pytest.raises(ConfigError, match="validation fraction: found"):
            split_by_subject(subject, sample_id, fraction, seed=0)


def lists() -> SubsetLists:
    label, sample_id = columns([30, 20, 10, 5, 1])
    key = [f"S001C001P{number:03d}" for number in sample_id]
    subsets = [
        draw_subset(label, sample_id, CLASSES, fraction, stratified=stratified, seed=seed, key=key)
        for fraction in (0.05, 0.2)
        for stratified in (True, False)
        for seed in range(5)
    ]
    return SubsetLists(dataset="ntu60", protocol="xsub", subsets=tuple(subsets))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    drawn, path = lists(), tmp_path / "lists" / "subsets.json"
    write_subsets(path, drawn)
    assert SubsetLists.model_validate_json(path.read_bytes()) == drawn
    assert [subset.missing_classes for subset in drawn.subsets if not subset.stratified] != [()] * 10
    written = path.read_bytes()
    write_subsets(path, lists())
    assert path.read_bytes() == written
    assert [file.name for file in path.parent.iterdir()] == ["subsets.json"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_id": [4, 2]}, "found sample_id out of order or twice"),
        ({"sample_id": [2, 2]}, "found sample_id out of order or twice"),
        ({"sample_id": ["2", 4]}, r"subsets\.0\.sample_id\.0"),
        ({"sample_id": []}, r"subsets\.0\.sample_id"),
        ({"sample_id": [1, 2, 3]}, r"found 3 sample ids, which are not 0\.2 of 10 samples"),
        ({"fraction": 1.5}, r"subsets\.0\.fraction"),
        ({"key": ["one"]}, "found 1 keys, expected one for each of 2"),
        ({"author": "me"}, r"subsets\.0\.author"),
    ],
)
def test_lists_that_were_altered_are_refused(changes: dict[str, Any], message: str) -> None:
    good = {"fraction": 0.2, "stratified": False, "seed": 0, "samples": 10, "sample_id": [2, 4]}
    tree = {"version": 1, "dataset": "ntu60", "protocol": "xsub", "subsets": [good]}
    assert SubsetLists.model_validate_json(json.dumps(tree)).subsets[0].sample_id == (2, 4)
    with pytest.raises(ValidationError, match=message):
        SubsetLists.model_validate_json(json.dumps(tree | {"subsets": [good | changes]}))


def test_a_draw_stands_in_the_lists_once() -> None:
    subset = lists().subsets[0]
    with pytest.raises(ValidationError, match="found a draw twice"):
        SubsetLists(dataset="ntu60", protocol="xsub", subsets=(subset, subset))
