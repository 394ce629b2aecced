"""Configurations by their kind, of a package and of plug-ins that are installed in a folder on the path."""

import importlib
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, SerializeAsAny, ValidationError, WrapValidator

from shards.errors import ConfigError
from shards.registry import Kind, Registry, plugin_versions

_numbers = count()

MODULE = """
from typing import Literal
from {package}.base import SHAPES, Shape

@SHAPES.add
class {name}(Shape):
    kind: Literal["{kind}"] = "{kind}"
    size: int = 1
    corners: tuple[int, ...] = ()
"""

BASE = """
from shards.registry import Kind, Registry

class Shape(Kind):
    pass

SHAPES = Registry("shape", "{package}", "{package}.shapes")
"""


class Shapes:
    """A package of shapes with a registry of its own, and plug-ins for it; the names are new in every test."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, f"shapes_of_a_test_{next(_numbers)}"
        (folder / self.name).mkdir()
        (folder / self.name / "__init__.py").write_text("")
        self.module("base", BASE)

    def module(self, name: str, text: str = MODULE, /, **words: str) -> None:
        (self.folder / self.name / f"{name}.py").write_text(text.format(package=self.name, **words))

    def plugin(
        self, name: str, text: str, target: str = "", /, group: str = "", version: str = "1.2", **words: str
    ) -> str:
        """Install a package of one module; returns the module's name."""
        module = f"{self.name}_{name}"
        (self.folder / f"{module}.py").write_text(text.format(package=self.name, **words))
        info = self.folder / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        points = f"[{group or self.name + '.shapes'}]\n{name} = {module}{target}\n"
        (info / "entry_points.txt").write_text(points)
        importlib.invalidate_caches()
        return module

    @property
    def registry(self) -> Registry[Any]:
        found: Registry[Any] = importlib.import_module(f"{self.name}.base").SHAPES
        return found


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shapes]:
    monkeypatch.syspath_prepend(tmp_path)
    made = Shapes(tmp_path)
    made.module("round_", name="Circle", kind="circle")
    made.module("square", name="Square", kind="square")
    yield made
    for name in [name for name in sys.modules if name.startswith(made.name)]:
        del sys.modules[name]


def test_a_file_in_the_package_is_all_that_a_kind_needs(shapes: Shapes) -> None:
    assert shapes.registry.names() == ("circle", "square")
    assert shapes.registry.find("circle").__module__ == f"{shapes.name}.round_"
    assert shapes.registry.find("circle")(size=3).model_dump() == {"kind": "circle", "size": 3, "corners": ()}


def test_no_module_is_imported_before_a_kind_is_looked_up(shapes: Shapes) -> None:
    registry = shapes.registry
    assert f"{shapes.name}.square" not in sys.modules
    registry.find("circle")
    assert f"{shapes.name}.square" in sys.modules


@pytest.mark.parametrize(
    ("kind", "hint"), [("sqare", "; nearest: square$"), ("circles", "; nearest: circle$"), ("zzz", "$")]
)
def test_an_unknown_kind_is_told_with_all_there_are_and_the_nearest(shapes: Shapes, kind: str, hint: str) -> None:
    message = f"^shape '{kind}': found no such kind, expected one of circle, square{hint}"
    with pytest.raises(ConfigError, match=message):
        shapes.registry.find(kind)


def test_two_classes_of_one_kind_are_one_error_that_names_both_modules(shapes: Shapes) -> None:
    shapes.module("wheel", name="Wheel", kind="circle")
    message = f"shape 'circle': found it in {shapes.name}.round_ and in {shapes.name}.wheel, expected one of them"
    for _ in range(2):  # the second look is no less wrong than the first
        with pytest.raises(ConfigError, match=message):
            shapes.registry.find("square")


def test_two_classes_of_one_kind_in_one_file_are_refused_and_the_same_one_again_is_not(shapes: Shapes) -> None:
    registry: Registry[Any] = Registry("shape", shapes.name, "none")

    class Circle(Kind):
        kind: Literal["circle"] = "circle"

    class Ball(Kind):
        kind: Literal["circle"] = "circle"

    assert registry.add(Circle) is registry.add(Circle) is Circle
    with pytest.raises(ConfigError, match="shape 'circle': found it in"):
        registry.add(Ball)


def test_a_module_of_the_package_that_cannot_be_imported_is_told_each_time(shapes: Shapes) -> None:
    shapes.module("broken", "import no_such_module_anywhere")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
            shapes.registry.find("circle")


@pytest.mark.parametrize("target", ["", ":Star"])
def test_a_plug_in_adds_a_kind_by_its_module_or_its_class(shapes: Shapes, target: str) -> None:
    module = shapes.plugin("stars", MODULE, target, name="Star", kind="star")
    assert shapes.registry.names() == ("circle", "square", "star")
    assert shapes.registry.find("star").__module__ == module


def test_a_plug_in_of_another_group_is_not_imported(shapes: Shapes) -> None:
    shapes.plugin("stars", "raise RuntimeError", group=f"{shapes.name}.colours")
    assert shapes.registry.names() == ("circle", "square")


PLUGINS: dict[str, tuple[Callable[[Shapes], object], str]] = {
    "fails": (
        lambda shapes: shapes.plugin("stars", "raise RuntimeError('no luck')"),
        "found RuntimeError: no luck; expected it to be imported: mend or uninstall it",
    ),
    "needs a package that is not there": (
        lambda shapes: shapes.plugin("stars", "import no_such_module_anywhere"),
        "found ModuleNotFoundError: No module named 'no_such_module_anywhere'; expected it to be imported",
    ),
    "is no Python": (lambda shapes: shapes.plugin("stars", "def"), "found SyntaxError: .*; expected it to be imported"),
    "lacks its class": (
        lambda shapes: shapes.plugin("stars", MODULE, ":Moon", name="Star", kind="star"),
        "found AttributeError: .*'Moon'; expected it to be imported",
    ),
    "takes the name of a built-in kind": (
        lambda shapes: shapes.plugin("stars", MODULE, name="Star", kind="circle"),
        "shape 'circle': found it in {name}.round_ and in {name}_stars, expected one of them; give one another kind",
    ),
}


@pytest.mark.parametrize("case", PLUGINS)
def test_a_plug_in_that_cannot_be_used_is_one_error_that_names_it_and_its_package(shapes: Shapes, case: str) -> None:
    act, message = PLUGINS[case]
    act(shapes)
    named = rf"^plug-in 'stars' of stars 1\.2 \({shapes.name}\.shapes = {shapes.name}_stars(:Moon)?\): "
    for _ in range(2):
        with pytest.raises(ConfigError, match=named + message.format(name=shapes.name)):
            shapes.registry.find("circle")


def test_packages_with_plug_ins_are_told_with_their_versions(shapes: Shapes) -> None:
    before = plugin_versions()
    shapes.plugin("stars", "", group="skelstream.methods", version="3.4")
    shapes.plugin("moons", "", group="skelstream.encoders", version="0.1")
    shapes.plugin("colours", "", group="other.group")
    assert plugin_versions() == before | {"plug-in stars": "3.4", "plug-in moons": "0.1"}


@pytest.fixture
def drawing(shapes: Shapes) -> type[BaseModel]:
    """A model with a field of any shape."""
    registry, base = shapes.registry, importlib.import_module(f"{shapes.name}.base").Shape

    class Drawing(BaseModel):
        model_config = ConfigDict(strict=True)
        shape: Annotated[SerializeAsAny[base], WrapValidator(registry.validate)]  # type: ignore[valid-type]

    return Drawing


def test_a_field_takes_the_options_of_the_kind_that_is_named(drawing: type[BaseModel], shapes: Shapes) -> None:
    made = drawing(shape={"kind": "square", "size": 4, "corners": (1, 2)})
    assert type(made.shape) is shapes.registry.find("square")  # type: ignore[attr-defined]
    assert made.model_dump() == {"shape": {"kind": "square", "size": 4, "corners": (1, 2)}}
    assert drawing(shape=made.shape) == made  # type: ignore[attr-defined]


def test_a_field_goes_through_json_and_comes_back_as_it_was(drawing: type[BaseModel]) -> None:
    made = drawing(shape={"kind": "square", "corners": (1, 2)})
    assert drawing.model_validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "found no 'kind', expected one of circle, square"),
        ({"kind": "sqare"}, "shape 'sqare': found no such kind, expected one of circle, square; nearest: square"),
        ({"kind": 3}, "shape 3: found no such kind"),
        ({"kind": ["circle"]}, r"shape \['circle'\]: found no such kind"),
        ({"kind": None}, "shape None: found no such kind"),
        ({"kind": "square", "radius": 1}, r"shape\.radius\s+Extra inputs are not permitted"),
        ({"kind": "square", "size": "x"}, r"shape\.size\s+Input should be a valid integer"),
        ("square", "Input should be"),
    ],
)
def test_a_field_refuses_what_is_no_shape(drawing: type[BaseModel], value: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        drawing(shape=value)


def test_options_are_immutable(shapes: Shapes) -> None:
    circle = shapes.registry.find("circle")()
    with pytest.raises(ValidationError, match="frozen"):
        circle.size = 2
