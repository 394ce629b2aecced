"""Trees of JSON objects, leaf by leaf."""

from typing import Any


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested objects by their dotted path."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        leaves |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return leaves


def first_difference(found: dict[str, Any], expected: dict[str, Any]) -> tuple[str, Any, Any] | None:
    """The first name whose values differ, with both; None stands for an absent one."""
    for name in dict.fromkeys([*expected, *found]):
        if found.get(name) != expected.get(name):
            return name, found.get(name), expected.get(name)
    return None
