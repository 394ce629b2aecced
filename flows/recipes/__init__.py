"""Method recipes: what a method sees and for how long. Data set, protocol and streams are arguments."""

from pydantic import ValidationError

from flows.config import DataConfig, PretrainConfig, change_values, describe_problems, validate_tree
from flows.recipes.method import METHODS, name_nearest
from shards.errors import ConfigError


def recipe(method: str, data: DataConfig) -> PretrainConfig:
    """The configuration of a method on that data: a name of `METHODS`, then "+" and a name of its variants, repeatable.

    Raises:
        ConfigError: an unknown name (with the known ones), a method that cannot take the data's streams, or a variant
            that changes nothing or does not fit the rest.
    """
    base, *variants = method.split("+")
    known = METHODS[base]
    try:
        config, so_far = known.recipe(data), base
    except ValidationError as error:
        raise ConfigError(f"method {base!r}: {describe_problems(error)}") from error
    for name in variants:
        if name not in known.variants:
            raise ConfigError(
                f"unknown variant {name!r} of {so_far}, expected one of {', '.join(known.variants)}"
                f"{name_nearest(name, known.variants)}"
            )
        variant = change_values(config, known.variants[name].changes(config))
        if variant == config:
            raise ConfigError(f"method {method!r}: {name!r} changes nothing of {so_far}, expected a variant that does")
        config, so_far = variant, f"{so_far}+{name}"
    return validate_tree(
        PretrainConfig, change_values(config, {"method": method}).model_dump(mode="json"), f"method {method!r}"
    )
