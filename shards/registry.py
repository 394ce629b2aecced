"""Configurations by their `kind`: those that lie in a package of this house, and those of installed plug-ins."""

import importlib
import json
import pkgutil
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from threading import get_ident
from typing import Any, Generic, TypeVar

from pydantic import ValidationInfo, ValidatorFunctionWrapHandler

from shards.errors import ConfigError
from shards.frozen import Frozen


class Kind(Frozen):
    """Base of the configurations that a registry holds: immutable, and an unknown key is an error.

    Attributes:
        kind: a subclass narrows it to its own name, `kind: Literal["gru"] = "gru"`.
    """

    kind: str


C = TypeVar("C", bound=Kind)


class Registry(Generic[C]):
    """The classes of one base by their `kind`.

    A class registers itself by being decorated with `add`. The modules of `package` are imported when a kind is first
    looked up, so that a new file there is all that a new kind needs. A plug-in names a module or a class in an entry
    point of `group`.
    """

    def __init__(self, what: str, package: str, group: str) -> None:
        """`what` the registry holds, in the singular, for errors."""
        self._what, self._package, self._group = what, package, group
        self._classes: dict[str, type[C]] = {}

    def add(self, cls: type[C]) -> type[C]:
        """Register a class under the default of its `kind`; a decorator.

        Raises:
            ConfigError: another class has that kind.
        """
        kind = cls.model_fields["kind"].default
        before = self._classes.get(kind)
        if before is not None and (before.__module__, before.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ConfigError(
                f"{self._what} {kind!r}: found it in {before.__module__} and in {cls.__module__}, expected one of them;"
                " give one another kind"
            )
        self._classes[kind] = cls
        return cls

    def names(self) -> tuple[str, ...]:
        """All kinds, in alphabetical order."""
        self._load()
        return tuple(sorted(self._classes))

    def find(self, kind: str) -> type[C]:
        """The class of a kind.

        Raises:
            ConfigError: there is none, or a plug-in cannot be imported.
        """
        self._load()
        if not isinstance(kind, str) or kind not in self._classes:
            near = get_close_matches(str(kind), self._classes, n=3, cutoff=0.5)
            hint = f"; nearest: {', '.join(near)}" if near else ""
            raise ConfigError(
                f"{self._what} {kind!r}: found no such kind, expected one of {', '.join(self.names())}{hint}"
            )
        return self._classes[kind]

    def validate(self, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        """For pydantic's `WrapValidator`: an object as an instance of the class that its `kind` names."""
        if not isinstance(value, dict):
            return handler(value)
        if "kind" not in value:
            raise ValueError(f"found no 'kind', expected one of {', '.join(self.names())}")
        try:
            cls = self.find(value["kind"])
        except ConfigError as error:
            raise ValueError(str(error)) from error
        if info.mode == "json":  # only there a list is a strict tuple
            return cls.model_validate_json(json.dumps(value), strict=True)
        return cls.model_validate(value)

    def _load(self) -> None:
        load_modules(self._package)
        load_plugins(self._group)


@cache
def load_modules(package: str) -> None:
    """Import all modules of a package, so that what they register is there."""
    found = importlib.import_module(package)
    for module in pkgutil.iter_modules(found.__path__):
        importlib.import_module(f"{package}.{module.name}")


_loaded: set[str] = set()
"""Groups of entry points whose packages are imported."""
_begun: set[tuple[int, str]] = set()
"""Groups that are being imported, by thread."""


def load_plugins(group: str) -> None:
    """Import what installed packages name in entry points of a group, once.

    A package that looks something up while it is imported finds what is there by then.

    Raises:
        ConfigError: one cannot be imported, or registers a name that is taken; the next call says so again.
    """
    call = (get_ident(), group)
    if group in _loaded or call in _begun:
        return
    _begun.add(call)
    try:
        for point in entry_points(group=group):
            _load(point)
        _loaded.add(group)
    finally:
        _begun.discard(call)


def _load(point: EntryPoint) -> None:
    try:
        point.load()
    except ConfigError as error:
        raise ConfigError(f"{_describe(point)}: {error}") from error
    except Exception as error:
        raise ConfigError(
            f"{_describe(point)}: found {type(error).__name__}: {error}; expected it to be imported: mend or"
            " uninstall it"
        ) from error


def _describe(point: EntryPoint) -> str:
    whose = "" if point.dist is None else f" of {point.dist.name} {point.dist.version}"
    return f"plug-in {point.name!r}{whose} ({point.group} = {point.value})"


def plugin_versions() -> dict[str, str]:
    """The installed packages that have plug-ins of methods or encoders, with their versions."""
    groups = ("skelstream.methods", "skelstream.encoders")
    found = [point.dist for group in groups for point in entry_points(group=group) if point.dist is not None]
    return {f"plug-in {package.name}": package.version for package in found}
