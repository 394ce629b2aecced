"""What `skelstream methods` shows: all methods in a table, one in full, and both as JSON."""

import json
from unittest.mock import patch

import pytest
import torch

from flows.build import build_objective
from flows.config import DataConfig, settable_keys
from flows.recipes import recipe
from flows.recipes.listing import WIDTH, describe_method, list_methods
from flows.recipes.method import METHODS, Method, Variant
from shards.errors import ConfigError

DATA = DataConfig(dataset="ntu60", protocol="xsub")


def test_the_table_has_a_row_of_each_method_and_a_line_about_it() -> None:
    lines = list_methods().splitlines()
    for number, method in enumerate(METHODS.values()):
        (row,) = [at for at, line in enumerate(lines) if line.split()[:2] == [method.name, method.category]]
        assert all(word in lines[row] for word in (method.source, recipe(method.name, DATA).objective.encoder.kind))
        assert any(line.strip() == method.about for line in lines[row + 1 : row + 5]), number


def test_columns_stand_below_their_headers() -> None:
    header, *lines = list_methods().splitlines()
    rows = [line for line in lines[: lines.index("")] if line.split()[0] in METHODS]
    assert len(rows) == len(METHODS)
    for name in ("class", "encoder", "streams", "source", "venue"):
        at = header.index(name)
        assert all(row[at - 1] == " " != row[at] for row in rows), name
    for name in ("parameters", "trained"):
        end = header.index(name) + len(name)
        assert all(row[end - 1].isdigit() and row[end] == " " for row in rows), name


@pytest.mark.parametrize("method", METHODS)
def test_no_line_is_longer_than_a_terminal(method: str) -> None:
    for text in (list_methods(), describe_method(method), describe_method(f"{method}+tiny")):
        assert max(map(len, text.splitlines())) <= WIDTH
        assert not any(line != line.rstrip() for line in text.splitlines())


def test_long_names_and_values_go_on_in_the_next_line() -> None:
    name = "a-method-whose-name-is-as-long-as-a-sentence-would-be"
    long = "something that is said of it at such a length that nobody would read it to its end in one breath, " * 3
    source = "an-organisation-of-many-words/a-repository-of-many-words"
    variants = {name: Variant(long, lambda _: {"train.seed": 1}), "tiny": Variant("small", lambda _: {})}
    whole = Method(
        name, long, "context", long, source, METHODS["pcm3pp"].recipe, variants, (long,), ((long, name, long),)
    )
    with patch.dict(METHODS._known, {name: whole}):
        for text in (list_methods(), describe_method(name)):
            assert max(map(len, text.splitlines())) <= WIDTH


def test_parameters_are_those_of_the_model_that_is_built_and_no_number_is_drawn() -> None:
    config = recipe("pcm3pp-small+tiny", DATA)
    before = torch.get_rng_state()
    found = json.loads(describe_method("pcm3pp-small+tiny", as_json=True))["parameters"]
    assert torch.equal(torch.get_rng_state(), before)
    objective = build_objective(config)
    trained = [parameter.numel() for parameter in objective.parameters() if parameter.requires_grad]
    assert found == {"encoder": sum(p.numel() for p in objective.encoder.parameters()), "trained": sum(trained)}
    assert len(trained) < len(list(objective.parameters())), "the key encoder is not trained"


def test_published_sizes_are_those_of_the_releases() -> None:
    found = {row["name"]: row["parameters"]["encoder"] for row in json.loads(list_methods(as_json=True))}
    gru = sum(
        2 * 3 * 1024 * (inputs + 1024 + 2) for inputs in (150, 2048, 2048)
    )  # three layers, two halves, three gates
    assert found["pcm3pp"] == gru + 2 * 150  # and the input norm


def test_the_streams_that_a_method_takes_are_counted() -> None:
    streams = {row["name"]: row["streams"] for row in json.loads(list_methods(as_json=True))}
    assert (streams["pcm3pp"], streams["skeletonclr"]) == ([1], [1, 2, 3])
    assert "1 to 3 of joint, bone, motion" in describe_method("skeletonclr")


def test_json_holds_what_the_text_says() -> None:
    rows = json.loads(list_methods(as_json=True))
    assert [row["name"] for row in rows] == [*METHODS]
    for row, method in zip(rows, METHODS.values(), strict=True):
        assert (row["about"], row["class"], row["venue"]) == (method.about, method.category, method.venue)
        assert row["variants"] == {name: variant.about for name, variant in method.variants.items()}
        assert row["departs"] == [*method.departs]


@pytest.mark.parametrize("method", METHODS)
def test_one_method_is_shown_in_full(method: str) -> None:
    config, text = recipe(method, DATA), describe_method(method)
    words = text.split()
    for key in settable_keys(config):
        if key.startswith(("views.", "objective.")) and key not in ("views.kind", "objective.kind"):
            assert key in words
    for view in config.views.spec(("joint",)).views:
        assert f"\n  {view.name} " in text
    for stage in config.train.stages:
        assert f"\n  {stage.name} " in text
    assert ", ".join(config.objective.terms) in text
    assert f"batch {config.train.batch_size}, rate {config.train.lr:g}" in text
    for sentence in METHODS[method].departs:
        assert " ".join(sentence.split()) in " ".join(words)
    for name, variant in METHODS[method].variants.items():
        assert f"{name} {variant.about}" in " ".join(words)


def test_variants_are_applied_and_named() -> None:
    text = describe_method("pcm3pp-small+no-clip+tiny")
    assert text.splitlines()[1:3] == [
        "  +no-clip: no clip of the key view is drawn to the key",
        "  +tiny: trains in seconds on a CPU",
    ]
    tree = json.loads(describe_method("pcm3pp-small+no-clip+tiny", as_json=True))
    assert tree["configuration"]["objective"]["pairs"] == ["base", "masked", "predicted", "mix"]
    assert tree["configuration"]["views"]["frames"] == tree["sees"]["frames"] == 16
    assert tree["terms"] == [*recipe("pcm3pp-small+no-clip+tiny", DATA).objective.terms]


def test_the_rows_of_published_ablations_are_shown_with_all_and_with_their_method() -> None:
    assert "and post-distillation: NTU 60 xsub 84.8, xview 91.0, detection 75.5" in list_methods()
    assert "rows of the ablations" in describe_method("pcm3pp")
    assert "rows of the ablations" not in describe_method("mamp")


def test_variants_that_several_methods_share_are_shown_once() -> None:
    text = list_methods()
    assert text.count("trains in seconds on a CPU") == 1
    assert "variants of pcm3, pcm3pp, pcm3pp-small, as in pcm3+no-novel-positives:" in text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pcm3p", r"^unknown method 'pcm3p', expected one of .*; nearest: pcm3"),
        ("pcm3pp+no-clips", r"^unknown variant 'no-clips' of pcm3pp, expected one of .*; nearest: no-clip"),
        ("pcm3+no-clip", "changes nothing of pcm3"),
        ("", "^unknown method ''"),
    ],
)
def test_an_unknown_name_is_one_error_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        describe_method(name)
