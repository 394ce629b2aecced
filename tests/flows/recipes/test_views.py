"""What methods see: their views by kind, as data, and those of PCM3++ as published."""

from typing import Any, get_args

import pytest

from flows.config import VIEWS
from flows.recipes.pcm3 import PCM3PPViewsConfig
from flows.recipes.skeletonclr import SkeletonCLRViewsConfig
from pipelines.views.spec import ViewSpec
from shards.errors import ConfigError
from shards.skeleton import Stream


@pytest.mark.parametrize("stream", get_args(Stream))
@pytest.mark.parametrize("kind", VIEWS.names())
def test_a_specification_survives_being_written_as_json(kind: str, stream: Stream) -> None:
    spec = VIEWS.find(kind).model_validate({"kind": kind}).spec((stream,))
    again = ViewSpec.model_validate_json(spec.model_dump_json())
    assert again == spec
    assert [type(o) for view in again.views for o in view.operations] == [
        type(o) for view in spec.views for o in view.operations
    ]


def test_the_views_of_pcm3pp_are_those_of_the_paper() -> None:
    spec = PCM3PPViewsConfig(corrupt_probability=0.3, clip_frames=8).spec(("bone",))
    made = {view.name: (view.of, [operation.kind for operation in view.operations]) for view in spec.views}
    assert made == {
        "base": (None, ["crop", "one_of", "stream"]),
        "key": (None, ["crop", "one_of", "stream"]),
        "target": (None, ["crop", "shear", "stream"]),
        "masked": ("target", ["body_part_mask"]),
        "mix": ("base", ["pcm3_mix"]),
        "clip": ("key", ["clip_mask"]),
    }


def test_what_is_mixed_and_hidden_alike_can_be_chosen() -> None:
    def chosen(**options: Any) -> list[dict[str, Any]]:
        views = {view.name: view for view in PCM3PPViewsConfig(**options).spec(("joint",)).views}
        return [views[n].operations[0].model_dump(exclude={"share", "probability"}) for n in ("mix", "masked")]

    hidden = {"ratio": 0.6, "segments": 8, "scope": "batch", "persons": "main"}
    assert chosen() == [{"kind": "pcm3_mix", "scope": "batch"}, {"kind": "body_part_mask", **hidden}]
    other = {"ratio": 0.4, "segments": 4, "scope": "sample", "persons": "both"}
    assert chosen(
        mix_scope="sample", mask_granularity="joint", **{f"mask_{name}": value for name, value in other.items()}
    ) == [{"kind": "pcm3_mix", "scope": "sample"}, {"kind": "tube_mask", **other}]


@pytest.mark.parametrize("kind", sorted({*VIEWS.names()} - {"skeletonclr"}))
def test_views_of_a_method_of_one_stream_are_not_made_of_several(kind: str) -> None:
    views = VIEWS.find(kind).model_validate({"kind": kind})
    with pytest.raises(ConfigError, match=f"^views '{kind}': found the streams joint, bone, expected one"):
        views.spec(("joint", "bone"))


def test_several_streams_of_skeletonclr_are_made_of_the_same_draws() -> None:
    spec = SkeletonCLRViewsConfig(frames=16).spec(("joint", "motion"))
    made = {view.name: (view.of, [operation.kind for operation in view.operations]) for view in spec.views}
    drawn = ["centre_crop", "temporal_shift", "shear"]
    assert made == {
        "query": (None, drawn),
        "query/joint": ("query", ["stream"]),
        "query/motion": ("query", ["stream"]),
        "key": (None, drawn),
        "key/joint": ("key", ["stream"]),
        "key/motion": ("key", ["stream"]),
    }
    alone = SkeletonCLRViewsConfig(frames=16).spec(("motion",))
    assert [(view.name, view.of, [o.kind for o in view.operations]) for view in alone.views] == [
        (name, None, [*drawn, "stream"]) for name in ("query", "key")
    ]
