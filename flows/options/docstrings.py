"""What the docstrings of a model say of its fields: reference pages and lists of options are made of it."""

import re
from inspect import cleandoc

from pydantic import BaseModel


def read_docstrings(kind: type[BaseModel]) -> tuple[str, dict[str, str]]:
    """What a model says of the whole, and of each field: beside it, or in the docstring of its class or of a base."""
    about, fields = "", dict[str, str]()
    for base in reversed(kind.__mro__):
        about, _, attributes = cleandoc(base.__doc__ or "").partition("\nAttributes:\n")
        for entry in re.split(r"\n(?= {4}\w)", "\n" + attributes):
            names, _, line = entry.strip().partition(":")
            fields |= {name.strip(): " ".join(line.split()) for name in names.split(",")}
    fields |= {name: field.description for name, field in kind.model_fields.items() if field.description}
    known = {name: " ".join(fields[name].split()) for name in kind.model_fields if name in fields}
    return " ".join(about.split()), known
