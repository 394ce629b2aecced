"""Each command takes what its examples say, has the defaults of its models, and explains all that it takes."""

import shlex
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel

from flows.cli.command import Command
from flows.cli.commands import COMMANDS, read_command
from flows.options import LoaderOptions, PretrainOptions

EXAMPLES = [example for command in COMMANDS.values() for example in command.examples]
TYPED_BY_HAND = {("pretrain", "options", "resume"): (False, True)}
"""Where the command line has another default than flows: what both have."""


def read(words: list[str]) -> dict[str, BaseModel]:
    """The options that a command would be called with."""
    call = read_command(words)
    assert isinstance(call, partial)
    return call.keywords


def words_of(example: str) -> list[str]:
    """What the shell makes of it."""
    return shlex.split(example.partition(" > ")[0].replace("\\\n", " "))[1:]


def typed_words(command: Command) -> list[str]:
    """The least that a command takes."""
    names: dict[str, str] = {"source": "ntu", "dataset": "ntu60", "method": "pcm3", "shell": "zsh"}
    words = [command.name]
    for typed in command.fields:
        if typed.required:
            value = names.get(typed.place[-1], "x")
            words += [value] if typed.argument.positional else [typed.label, value]
    return words


def leaves(options: BaseModel) -> dict[tuple[str, ...], Any]:
    found: dict[tuple[str, ...], Any] = {}
    for name, value in options:
        if isinstance(value, LoaderOptions):
            found |= {(name, inner): inner_value for inner, inner_value in value}
        else:
            found[(name,)] = value
    return found


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_a_command(example: str) -> None:
    assert example.startswith("skelstream ")
    read(words_of(example))


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
def test_what_is_not_typed_has_the_default_of_the_model(command: Command) -> None:
    options = read(typed_words(command))
    models = command.models
    assert list(options) == list(models)
    for typed in command.fields:
        parameter, *place = typed.place
        value = leaves(options[parameter])[tuple(place)]
        if (command.name, *typed.place) in TYPED_BY_HAND:
            assert (value, typed.field.default) == TYPED_BY_HAND[command.name, *typed.place]
        elif not typed.required:
            assert value == typed.field.default
            assert typed.default == "" or str(value) in (typed.default, "True") or isinstance(value, tuple)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
def test_all_that_a_command_takes_is_explained(command: Command) -> None:
    assert command.about.endswith(".")
    assert command.examples
    labels = [typed.label for typed in command.fields]
    assert len(set(labels)) == len(labels)
    for typed in command.fields:
        assert typed.text.endswith("."), typed.label
        assert typed.text[:1].isupper() or typed.text.startswith(("auto", "stop", "resident")), typed.label
    for line in command.make_parser().format_help().splitlines():
        assert len(line) <= 100 or line.startswith(("usage:", "  skelstream")), line


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
def test_every_field_of_the_options_can_be_typed(command: Command) -> None:
    typed = {field.place for field in command.fields}
    for parameter, model in command.models.items():
        for name, field in model.model_fields.items():
            inner = LoaderOptions.model_fields if field.annotation is LoaderOptions else ()
            assert {(parameter, name, within) for within in inner} or {(parameter, name)} <= typed
            assert field.description, name


def test_options_are_read_in_any_order_and_form() -> None:
    loader = ["--workers", "2", "--cache=~/c", "--cache-gb", "1.5", "--loader", "stream"]
    given = ["--data", "s3://b/d", "--dataset=ntu60", "--protocol", "xview", "--run", "r"]
    more = [
        "--set",
        "a.b=1",
        "--also",
        "ntu120/xsub=2@~/e",
        "--stream",
        " bone, joint,bone",
        "--set",
        "c=d",
        "--freeze=2",
    ]
    for words in (
        ["pretrain", "pcm3", *given, *loader, *more, "--init-from", "q", "--resume", "--plain"],
        ["pretrain", *loader, *more, "--init-from=q", "--plain", *given, "--resume", "pcm3"],
    ):
        options, how = read(words).values()
        assert isinstance(options, PretrainOptions)
        assert how.model_dump() == {"plain": True}
        assert options == PretrainOptions(
            method="pcm3",
            data="s3://b/d",
            dataset="ntu60",
            protocol="xview",
            also=({"dataset": "ntu120", "protocol": "xsub", "weight": 2.0, "data": "~/e"},),
            streams=("bone", "joint"),
            run="r",
            overrides=("a.b=1", "c=d"),
            resume=True,
            init_from="q",
            freeze=2,
            loader=LoaderOptions(workers=2, cache="~/c", cache_gb=1.5, loader="stream"),
        )


def test_options_may_stand_among_the_words_of_a_positional() -> None:
    (options, how) = read(["preprocess", "ntu", "a.zip", "--out", "data", "b.zip", "--dtype", "fixed", "c"]).values()
    assert (options.source, options.raw, options.out, options.dtype) == (
        "ntu",
        ("a.zip", "b.zip", "c"),
        "data",
        "fixed",
    )
    assert not how.plain
    (options,) = read(["verify", "data", "--deep", "a", "b", "--share", "0.5"]).values()
    assert (options.data, options.deep, options.share) == ("data", ("a", "b"), 0.5)
    (options,) = read(["list", "--json", "a", "b"]).values()
    assert ([str(path) for path in options.folders], options.as_json) == (["a", "b"], True)
    (options,) = read(["serve", "--port", "1", "a.yaml"]).values()
    assert ([str(path) for path in options.files], options.port) == (["a.yaml"], 1)
