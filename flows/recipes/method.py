"""What a method is to a user: a name, a line about it, a recipe, and variants of it; and the registry of all."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal

from flows.config import DataConfig, PretrainConfig
from shards.errors import ConfigError
from shards.registry import load_modules, load_plugins

Category = Literal["context", "generative", "contrastive", "hybrid"]
"""Class of the survey that PCM3++ comes from."""

Recipe = Callable[[DataConfig], PretrainConfig]
Changes = Mapping[str, Any]
"""Dotted names of options -> values."""

TINY = "tiny"
"""The variant that every method has: it trains in seconds on a CPU."""


@dataclass(frozen=True)
class Variant:
    """A named change of a method's configuration.

    Attributes:
        about: one line.
        changes: what it changes of a configuration, at any scale.
    """

    about: str
    changes: Callable[[PretrainConfig], Changes]


@dataclass(frozen=True)
class Method:
    """A method of pre-training.

    Attributes:
        name: as on the command line.
        about: one line.
        category: its class.
        venue: where it was published.
        source: owner/name of the released code, or "paper".
        recipe: its complete configuration on some data.
        variants: by name; "tiny" among them.
        departs: where it differs from the release or the paper, a sentence each.
        rows: of published ablations: what the paper says, the method that is it, its figures.
    """

    name: str
    about: str
    category: Category
    venue: str
    source: str
    recipe: Recipe
    variants: Mapping[str, Variant]
    departs: tuple[str, ...] = ()
    rows: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class Methods(Mapping[str, Method]):
    """All methods by name: those of the modules of `flows.recipes`, and those of plug-ins."""

    _known: dict[str, Method] = field(default_factory=dict)

    def add(self, method: Method) -> None:
        """Register a method.

        Raises:
            ConfigError: the name is taken, or cannot stand on the command line; or there is no variant "tiny".
        """
        before = self._known.get(method.name)
        if before is not None and before.recipe.__module__ != method.recipe.__module__:
            raise ConfigError(
                f"method {method.name!r}: found it in {before.recipe.__module__} and in {method.recipe.__module__},"
                " expected one of them; give one another name"
            )
        if not method.name or not all(c.isalnum() or c in "-_" for c in method.name):
            raise ConfigError(f"method {method.name!r}: expected a name of letters, digits, '-' and '_'")
        if TINY not in method.variants:
            raise ConfigError(
                f"method {method.name!r}: found no variant {TINY!r}, expected one for tests and first tries"
            )
        self._known[method.name] = method

    def __getitem__(self, name: str) -> Method:
        self._load()
        if name not in self._known:
            raise ConfigError(
                f"unknown method {name!r}, expected one of {', '.join(self)}{name_nearest(name, self._known)}"
            )
        return self._known[name]

    def __contains__(self, name: object) -> bool:  # a mapping's own waits for a KeyError
        self._load()
        return name in self._known

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._known))

    def __len__(self) -> int:
        self._load()
        return len(self._known)

    def _load(self) -> None:
        load_modules("flows.recipes")
        load_plugins("skelstream.methods")


METHODS = Methods()
"""All methods by name."""


def name_nearest(name: str, known: Iterable[str]) -> str:
    """The known names most like `name`, as the end of an error; empty where none is."""
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; nearest: {', '.join(near)}" if near else ""


def method(
    name: str,
    about: str,
    *,
    category: Category,
    venue: str,
    source: str,
    variants: Mapping[str, Variant],
    departs: tuple[str, ...] = (),
    rows: tuple[tuple[str, str, str], ...] = (),
) -> Callable[[Recipe], Recipe]:
    """Register the recipe of a method; a decorator. Arguments and errors as of `Method` and `Methods.add`."""

    def register(recipe: Recipe) -> Recipe:
        METHODS.add(Method(name, about, category, venue, source, recipe, variants, departs, rows))
        return recipe

    return register
