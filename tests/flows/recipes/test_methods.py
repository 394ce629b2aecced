"""What a user can get wrong about methods, and about packages that add some: one clear error each, before training."""

from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from unittest.mock import patch

import pytest

from flows.config import VIEWS
from flows.options import PretrainOptions
from flows.pretrain import pretrain
from flows.recipes.listing import list_methods
from flows.recipes.method import METHODS
from models.encoders.encoder import ENCODERS
from models.objectives.objective import OBJECTIVES
from shards import registry
from shards.errors import ConfigError

Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path) -> Refused:
    """The error with which a pre-training is refused; its data do not exist, so nothing has been read by then."""

    def start(method: str, *overrides: str, streams: tuple[str, ...] = ("joint",)) -> str:
        options = PretrainOptions.model_validate(
            {
                "method": method,
                "data": str(tmp_path / "missing"),
                "dataset": "ntu60",
                "protocol": "xview",
                "streams": streams,
                "run": tmp_path / "run",
                "overrides": overrides,
            }
        )
        with pytest.raises(ConfigError) as raised:
            pretrain(options)
        assert not (tmp_path / "run").exists()
        assert "\n" not in str(raised.value)
        return str(raised.value)

    return start


def test_an_unknown_method_names_the_known_and_the_nearest(refused: Refused) -> None:
    error = refused("skeletonclear")
    assert error.startswith("unknown method 'skeletonclear', expected one of ")
    assert all(name in error for name in METHODS)
    assert "; nearest: skeletonclr" in error


def test_an_unknown_variant_names_those_of_the_method_and_the_nearest(refused: Refused) -> None:
    error = refused("mamp+tau-075")
    assert error == (
        f"unknown variant 'tau-075' of mamp, expected one of {', '.join(METHODS['mamp'].variants)}; nearest: tau-0.75"
    )
    assert "unknown variant 'no-clip' of mamp" in refused("mamp+no-clip"), "a variant of another method"


@pytest.mark.parametrize(
    ("method", "option"),
    [("skeletonclr", "objective.guidance=false"), ("mamp", "objective.queue_size=64"), ("pcm3pp", "views.tau=0.5")],
)
def test_an_option_of_another_method_is_refused(refused: Refused, method: str, option: str) -> None:
    assert refused(method, option).startswith(f"--set {option!r}: unknown key {option.partition('=')[0]!r}")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("objective.kind=moco",), "objective 'moco': found no such kind, expected one of mamp, pcm3pp, skeletonclr"),
        (("objective.encoder.kind=resnet",), "encoder 'resnet': found no such kind, expected one of gru, stgcn, "),
        (("views.kind=crops",), "views 'crops': found no such kind, expected one of "),
    ],
)
def test_an_unknown_kind_names_the_known_ones(refused: Refused, overrides: tuple[str, ...], message: str) -> None:
    assert message in refused("skeletonclr", *overrides)


@pytest.mark.parametrize("method", ["mamp", "pcm3pp", "skeleton-mae"])
def test_streams_that_a_method_cannot_take_are_refused(refused: Refused, method: str) -> None:
    error = refused(method, streams=("joint", "bone"))
    assert error.startswith(f"method {method!r}: views ")
    assert error.endswith(": found the streams joint, bone, expected one")


@pytest.mark.parametrize(
    ("method", "override", "message"),
    [
        ("mamp", "objective.encoder.kind=gru", "objective.encoder"),
        ("mamp", "views.frames=63", "frames"),
        ("pcm3pp", "objective.encoder.input_size=75", "75"),
        ("skeletonclr", "objective.encoder.temporal_kernel=4", "expected an odd number"),
    ],
)
def test_an_encoder_that_cannot_take_the_views_is_refused(
    refused: Refused, method: str, override: str, message: str
) -> None:
    assert message in refused(method, override)


Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a module under an entry point of that group; what it registers is forgotten after the test."""
    known = (METHODS._known, VIEWS._classes, OBJECTIVES._classes, ENCODERS._classes)
    list_methods()  # built-in ones are there, so that they are not forgotten with the others
    names = [ENCODERS.names(), OBJECTIVES.names(), VIEWS.names()]
    monkeypatch.syspath_prepend(tmp_path)
    points: list[EntryPoint] = []
    monkeypatch.setattr(registry, "entry_points", lambda group: [point for point in points if point.group == group])
    monkeypatch.setattr(registry, "_loaded", set())

    def add(group: str, source: str) -> None:
        name = f"plugin_{tmp_path.name}_{len(points)}".replace("-", "_")
        (tmp_path / f"{name}.py").write_text(source)
        points.append(EntryPoint("own", name, group))

    with patch.dict(known[0]), patch.dict(known[1]), patch.dict(known[2]), patch.dict(known[3]):
        yield add
    monkeypatch.undo()
    assert names == [ENCODERS.names(), OBJECTIVES.names(), VIEWS.names()]


OWN = """
from flows.recipes import recipe
from flows.recipes.method import METHODS, Variant, method

@method("{name}", "mine", category="contrastive", venue="nowhere", source="paper", variants={{{variants}}})
def own(data):
    return METHODS["pcm3pp-small"].recipe(data)
"""
TINY = '"tiny": METHODS["pcm3pp-small"].variants["tiny"]'

KIND = """
from typing import Literal
from {module} import {registry}, {base}

@{registry}.add
class Own({base}):
    kind: Literal["{kind}"] = "{kind}"
"""


def test_a_plug_in_adds_a_method(install: Install, refused: Refused) -> None:
    install("skelstream.methods", OWN.format(name="own-method", variants=TINY))
    assert METHODS["own-method"].about == "mine"
    assert "own-method" in list_methods()
    assert "missing" in refused_data(refused, "own-method+tiny")


def refused_data(refused: Refused, method: str) -> str:
    """The refusal of a method that is fine: of the data, which do not exist."""
    from shards.errors import StoreError

    with pytest.raises(StoreError) as raised:
        refused(method)
    return str(raised.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import a_package_that_is_not_there", "found ModuleNotFoundError: No module named 'a_package_that_is_not_"),
        ("1 / 0", "found ZeroDivisionError: division by zero; expected it to be imported: mend or uninstall it"),
        ("def broken(:", "found SyntaxError: "),
        (OWN.format(name="mamp", variants=TINY), "method 'mamp': found it in flows.recipes.mamp and in plugin_"),
        (OWN.format(name="own", variants=""), "method 'own': found no variant 'tiny', expected one"),
        (OWN.format(name="own+mine", variants=TINY), "method 'own+mine': expected a name of letters, digits"),
        (
            KIND.format(module="flows.config", registry="VIEWS", base="ViewsConfig", kind="mamp"),
            "views 'mamp': found it in flows.recipes.mamp and in plugin_",
        ),
        (
            KIND.format(
                module="models.objectives.objective", registry="OBJECTIVES", base="ObjectiveConfig", kind="pcm3pp"
            ),
            "objective 'pcm3pp': found it in models.objectives.pcm3pp and in plugin_",
        ),
    ],
    ids=["missing", "error", "syntax", "method", "tiny", "name", "views", "objective"],
)
def test_a_plug_in_that_cannot_be_used_stops_every_method(
    install: Install, refused: Refused, source: str, message: str
) -> None:
    install("skelstream.methods", source)
    for found in (refused("pcm3pp"), refused_by(lambda: list_methods()), refused_by(lambda: OBJECTIVES.find("mamp"))):
        assert found.startswith("plug-in 'own' (skelstream.methods = plugin_")
        assert message in found


def refused_by(call: Callable[[], object]) -> str:
    """The error of a call."""
    with pytest.raises(ConfigError) as raised:
        call()
    return str(raised.value)


def test_a_plug_in_that_takes_the_name_of_a_built_in_encoder_is_refused(install: Install, refused: Refused) -> None:
    source = KIND.format(module="models.encoders.encoder", registry="ENCODERS", base="EncoderConfig", kind="stgcn")
    install("skelstream.encoders", source)
    found = refused("skeletonclr", "objective.encoder.kind=gru")
    assert "plug-in 'own' (skelstream.encoders = plugin_" in found
    assert "encoder 'stgcn': found it in models.encoders.stgcn and in plugin_" in found


def test_two_plug_ins_of_one_name_are_refused(install: Install) -> None:
    for _ in range(2):
        install("skelstream.methods", OWN.format(name="own-method", variants=TINY))
    assert "method 'own-method': found it in plugin_" in refused_by(list_methods)
