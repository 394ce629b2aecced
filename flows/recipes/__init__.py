"""Method recipes: functions that return a complete configuration. Data set, protocol and stream are arguments."""

from collections.abc import Callable

from flows.config import DataConfig, PretrainConfig, changed, validated
from flows.recipes.pcm3 import pcm3, pcm3pp, pcm3pp_small
from flows.recipes.variants import VARIANTS
from shards.errors import ConfigError

METHODS: dict[str, Callable[[DataConfig], PretrainConfig]] = {
    "pcm3pp": pcm3pp,
    "pcm3pp-small": pcm3pp_small,
    "pcm3": pcm3,
}


def recipe(method: str, data: DataConfig) -> PretrainConfig:
    """The configuration of a method on that data: a name of `METHODS`, then "+" and a name of `VARIANTS`, repeatable.

    Raises:
        ConfigError: an unknown name (with the known ones), or a variant that changes nothing or does not fit the rest.
    """
    base, *variants = method.split("+")
    if base not in METHODS:
        raise ConfigError(f"unknown method {base!r}, expected one of {', '.join(METHODS)}")
    config, so_far = METHODS[base](data), base
    for name in variants:
        if name not in VARIANTS:
            raise ConfigError(f"unknown variant {name!r} of {so_far}, expected one of {', '.join(VARIANTS)}")
        variant = changed(config, VARIANTS[name](config))
        if variant == config:
            raise ConfigError(f"method {method!r}: {name!r} changes nothing of {so_far}, expected a variant that does")
        config, so_far = variant, f"{so_far}+{name}"
    return validated(PretrainConfig, changed(config, {"method": method}).model_dump(mode="json"), f"method {method!r}")
