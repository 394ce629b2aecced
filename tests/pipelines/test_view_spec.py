"""Views as data: what a specification accepts, how it is kept, and what its views share."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from pipelines.augmentations.vocabulary import OPERATIONS
from pipelines.views import make_views
from pipelines.views.spec import View, ViewSpec
from shards.batch import RaggedBatch

CROP = {"kind": "crop", "min_frames": 4}


def _spec(*views: dict[str, Any], frames: int = 16) -> ViewSpec:
    return ViewSpec.model_validate({"frames": frames, "views": views})


def _batch() -> RaggedBatch:
    length = torch.tensor([30, 1, 70])
    frames = torch.randn(101, 2, 25, 3, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([3, 9, 12])
    return RaggedBatch(frames, length.cumsum(0) - length, length, ids, ids)


def test_every_operation_names_its_source_and_is_known_by_its_kind() -> None:
    for kind, operation in OPERATIONS.items():
        assert operation.source, kind
        assert operation.model_fields["kind"].default == kind


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ([], "at least 1 item"),
        ([{"name": "a"}], "expected one crop, as the first operation"),
        ([{"name": "a", "operations": [{"kind": "shear"}, CROP]}], "expected one crop, as the first operation"),
        ([{"name": "a", "operations": [CROP, CROP]}], "expected one crop, as the first operation"),
        ([{"name": "a", "operations": [CROP]}] * 2, "found two views 'a'"),
        ([{"name": "b", "of": "a"}], "expected an earlier view"),
        ([{"name": "a", "operations": [CROP]}, {"name": "b", "of": "a", "operations": [CROP]}], "no crop behind"),
        ([{"name": "a", "operations": [CROP, {"kind": "pcm3_mix"}]}], "expected it first in a view made of another"),
        ([{"name": "a", "operations": [CROP, {"kind": "clip_mask"}, {"kind": "shear"}]}], "expected masks last"),
        (
            [
                {"name": "a", "operations": [CROP, {"kind": "clip_mask"}]},
                {"name": "b", "of": "a", "operations": [{"kind": "shear"}]},
            ],
            "expected only more masks",
        ),
        ([{"name": "a", "operations": [{"kind": "crup"}]}], "found operation kind 'crup', expected one of crop, "),
        ([{"name": "a", "operations": [{"kind": "crop", "min_ratio": 2}]}], "less than or equal to 1"),
        ([{"name": "a", "operations": [{"kind": "crop", "ratio": 1}]}], "Extra inputs are not permitted"),
        ([{"name": "a", "operations": [{"kind": "crop", "min_ratio": 0.9, "max_ratio": 0.5}]}], "at most max_ratio"),
    ],
)
def test_a_specification_that_makes_no_sense_is_refused(views: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        _spec(*views)


@pytest.mark.parametrize("weights", [(0.5,), (0.5, 0.6), (1.5, -0.5), (0.2, 0.3, 0.5)])
def test_a_choice_needs_a_probability_for_each_of_its_operations(weights: tuple[float, ...]) -> None:
    choice = {"kind": "one_of", "operations": [{"kind": "shear"}, {"kind": "joint_corruption"}], "weights": weights}
    with pytest.raises(ValidationError, match="expected 2 probabilities that sum to 1"):
        View.model_validate({"name": "a", "operations": [CROP, choice]})


@pytest.mark.parametrize("inner", [{"probability": 0.5}, {"share": "x"}])
def test_what_a_choice_would_ignore_is_refused(inner: dict[str, Any]) -> None:
    choice = {"kind": "one_of", "operations": [{"kind": "shear"}, {"kind": "flip", **inner}], "weights": (0.5, 0.5)}
    with pytest.raises(ValidationError, match="found flip with a choice, probability or share of its own"):
        View.model_validate({"name": "a", "operations": [CROP, choice]})


def test_two_mixed_views_are_refused() -> None:
    mix = {"kind": "pcm3_mix"}
    with pytest.raises(ValidationError, match="expected at most one"):
        _spec(
            {"name": "a", "operations": [CROP]},
            {"name": "b", "of": "a", "operations": [mix]},
            {"name": "c", "of": "a", "operations": [mix]},
        )


def test_views_that_share_a_word_draw_alike_and_others_do_not() -> None:
    shared = {**CROP, "share": "window"}
    shear = {"kind": "shear"}
    views = make_views(
        _batch(),
        _spec(
            {"name": "a", "operations": [shared]},
            {"name": "b", "operations": [shared]},
            {"name": "c", "operations": [CROP]},
            {"name": "d", "operations": [shared, shear]},
            {"name": "e", "operations": [shared, shear]},
        ),
        seed=0,
        epoch=0,
        step=0,
    ).views
    assert torch.equal(views["a"], views["b"])
    assert not torch.equal(views["a"], views["c"])
    assert not torch.equal(views["d"], views["e"])


def test_the_second_operation_of_a_kind_draws_for_itself() -> None:
    shear = {"kind": "shear"}
    views = make_views(
        _batch(),
        _spec(
            {"name": "once", "operations": [{**CROP, "share": "x"}, {**shear, "share": "x"}]},
            {"name": "twice", "operations": [{**CROP, "share": "x"}, {**shear, "share": "x"}, {**shear, "share": "x"}]},
        ),
        seed=0,
        epoch=0,
        step=0,
    ).views
    once, twice = (views[name].view(3, 16, 25, 3, 2).permute(0, 1, 4, 2, 3) for name in ("once", "twice"))
    # the matrix between them is a shear again, and not the first one
    second = torch.linalg.lstsq(once[0].reshape(-1, 3), twice[0].reshape(-1, 3)).solution.T
    assert torch.allclose(second.diagonal(), torch.ones(3), atol=1e-4)


def test_the_place_of_the_stream_among_the_operations_matters() -> None:
    # bones of sheared joints are sheared bones; but a corruption leaves other bones than it leaves joints
    corruption = {"kind": "joint_corruption", "share": "x"}
    bone, crop = {"kind": "stream", "stream": "bone"}, {**CROP, "share": "x"}
    views = make_views(
        _batch(),
        _spec(
            {"name": "behind", "operations": [crop, corruption, bone]},
            {"name": "before", "operations": [crop, bone, corruption]},
        ),
        seed=0,
        epoch=0,
        step=0,
    ).views
    assert not torch.allclose(views["behind"], views["before"], atol=1e-2)


def test_the_readme_lists_every_operation_and_its_example_is_a_specification() -> None:
    text = (Path(__file__).parents[2] / "pipelines" / "README.md").read_text(encoding="utf-8")
    table = text[text.index("### The vocabulary") : text.index("### Mixing data sets")]
    assert {kind for kind in OPERATIONS if f"`{kind}`" not in table} == set()
    example = table[table.index("```json") + 7 :].partition("```")[0]
    views = make_views(_batch(), ViewSpec.model_validate_json(example), seed=0, epoch=0, step=0)
    assert set(views.views) == {"query", "hidden"}
