"""Method recipes: functions that return a complete configuration. Data set, protocol and stream are arguments."""

from collections.abc import Callable

from flows.config import DataConfig, PretrainConfig
from flows.recipes.pcm3 import pcm3, pcm3pp, pcm3pp_small
from shards.errors import ConfigError

METHODS: dict[str, Callable[[DataConfig], PretrainConfig]] = {
    "pcm3pp": pcm3pp,
    "pcm3pp-small": pcm3pp_small,
    "pcm3": pcm3,
}


def recipe(method: str, data: DataConfig) -> PretrainConfig:
    """The published configuration of a method on that data; ConfigError names the known methods."""
    if method not in METHODS:
        raise ConfigError(f"unknown method {method!r}, expected one of {', '.join(METHODS)}")
    return METHODS[method](data)
