"""The reference of the command line and of every option, made from the code: `make docs` writes docs/reference/.

A test compares the written pages with what this makes, so that they cannot lag behind.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from inspect import cleandoc
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flows.benchmark.config import BenchmarkConfig, BenchmarkOptions, SpecialConfig
from flows.cli.listing import METHODS, VARIANTS
from flows.cli.main import parser
from flows.config import DataConfig
from flows.distill import DistillOptions
from flows.evaluate import EvaluateOptions
from flows.exchange.export import ExportOptions
from flows.options import LoaderOptions
from flows.preprocess import PreprocessOptions
from flows.pretrain import PretrainOptions
from flows.recipes import recipe
from flows.tasks.config import EvaluateConfig
from shards.files import write_atomic

_MADE = "<!-- made from the code by `make docs`; do not edit -->\n\n"

_FLOWS: dict[str, type[BaseModel]] = {
    "preprocess": PreprocessOptions,
    "pretrain": PretrainOptions,
    "evaluate": EvaluateOptions,
    "benchmark": BenchmarkOptions,
    "distill": DistillOptions,
    "export": ExportOptions,
    "loader of pretrain, evaluate and distill": LoaderOptions,
}

_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def pages() -> dict[str, str]:
    """Name of each page -> its Markdown."""
    return {"cli.md": _cli(), "configuration.md": _configuration()}


def write_pages(folder: Path) -> None:
    """Write all of them into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        write_atomic(folder / name, text.encode())


def _cli() -> str:
    root = parser()
    (commands,) = (action for action in root._actions if isinstance(action, argparse._SubParsersAction))
    parts = [
        _MADE,
        "# Command line\n\n",
        f"{root.description} `skelstream COMMAND --help` says the same as this page.\n",
    ]
    for name, sub in commands.choices.items():
        words = [f"skelstream {name}", *filter(None, map(_usage, sub._actions))]
        parts.append(f"\n## {name}\n\n{_sentence(sub.description)}\n\n```text\n{_wrapped(words)}\n```\n")
        rows = [row for action in sub._actions if (row := _argument(action)) is not None]
        if rows:
            parts.append("\n" + _table(("argument", "default", "what"), rows))
    return "".join(parts)


def _sentence(text: str | None) -> str:
    return f"{(text or '')[:1].upper()}{(text or '')[1:]}."


def _usage(action: argparse.Action) -> str:
    if isinstance(action, argparse._HelpAction):
        return ""
    shown = _shown(action)
    return shown if action.required else f"[{shown}]"


def _shown(action: argparse.Action) -> str:
    metavar = action.metavar
    if metavar is None and action.choices is not None:
        metavar = "{" + ",".join(map(str, action.choices)) + "}"
    value = str(metavar if metavar is not None else action.dest.upper())
    value += " ..." if action.nargs in ("+", "*") else ""
    if not action.option_strings:
        return value
    flag = max(action.option_strings, key=len)
    return flag if action.nargs == 0 else f"{flag} {value}"


def _wrapped(words: Sequence[str], width: int = 110) -> str:
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + 1 + len(word) > width:
            lines.append("   ")
        lines[-1] += f" {word}"
    return "\n".join(lines)


def _argument(action: argparse.Action) -> tuple[str, str, str] | None:
    if isinstance(action, argparse._HelpAction):
        return None
    text = (action.help or "") % {**vars(action), "choices": ", ".join(map(str, action.choices or ()))}
    text = re.sub(r" \(default: [^)]*\)$|default: \S+$", "", text)
    default = action.default
    silent = default is None or default is False or default == [] or action.required
    return f"`{_shown(action)}`", "" if silent else f"`{default}`", text


def _configuration() -> str:
    method = recipe("pcm3pp", DataConfig(dataset="ntu60", protocol="xview"))
    methods = "\n".join(f"- `{name}`: {line}" for name, line in (METHODS | VARIANTS).items())
    return "".join(
        [
            _MADE,
            "# Configuration\n\n",
            "Every value has one name and one default, which is the published one. `--set a.b=value` sets it; a name or"
            " a value that does not fit is an error.\nThe resolved configuration lies in each run's `config.json`.\n",
            "\n## `skelstream pretrain --set`\n\nDefaults are those of `pcm3pp`; a method recipe sets others, which its"
            f" `config.json` shows. Recipes, and variants joined by `+`:\n\n{methods}\n",
            *_options(method),
            "\n## `skelstream evaluate --set`\n",
            *_options(EvaluateConfig()),
            "\n## Options of flows\n\nThe same names in a deployment's parameters, in Prefect's form and in Python.\n",
            *(part for name, kind in _FLOWS.items() for part in _model(name, kind, {})),
            "\n## The file of a benchmark\n",
            *_model("top level", BenchmarkConfig, {}),
            *_model("an entry of special", SpecialConfig, {}),
        ]
    )


def _options(config: BaseModel, prefix: str = "") -> Iterator[str]:
    """A section for each model of a configuration."""
    values = {name: getattr(config, name) for name in type(config).model_fields}
    own = {name: value for name, value in values.items() if not isinstance(value, BaseModel)}
    if own:
        yield from _model(prefix.rstrip(".") or "top level", type(config), own, prefix)
    for name, value in values.items():
        if isinstance(value, BaseModel):
            yield from _options(value, f"{prefix}{name}.")


def _model(title: str, kind: type[BaseModel], values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    schema = kind.model_json_schema()
    about, fields = documented(kind)
    rows = []
    for name, found in schema["properties"].items():
        if values and name not in values:
            continue
        required = name in schema.get("required", ())
        shown = "" if required else f"`{_json(values.get(name, found.get('default')))}`"
        rows.append((f"`{prefix}{name}`", _type(found, schema.get("$defs", {})), shown, fields.get(name, "")))
    yield f"\n### {title}\n\n{about}\n\n"
    yield _table(("name", "type", "default", "what"), rows)


def documented(kind: type[BaseModel]) -> tuple[str, dict[str, str]]:
    """What a model says of the whole, and of each field: beside it, or in the docstring of its class or of a base."""
    fields: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        about, _, attributes = cleandoc(base.__doc__ or "").partition("\nAttributes:\n")
        for entry in re.split(r"\n(?= {4}\w)", "\n" + attributes):
            names, _, line = entry.strip().partition(":")
            fields |= {name.strip(): " ".join(line.split()) for name in names.split(",")}
    fields |= {name: field.description for name, field in kind.model_fields.items() if field.description}
    return " ".join(about.split()), {
        name: " ".join(fields[name].split()) for name in kind.model_fields if name in fields
    }


def _json(value: Any) -> str:
    return json.dumps(value, default=str)


def _type(schema: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """A type in words."""
    if "$ref" in schema:
        return _type(known[schema["$ref"].rpartition("/")[2]], known)
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(one, known) for one in schema["anyOf"]))
    kind = str(schema.get("type", "any"))
    kind = {"object": "mapping", "string": "text", "array": "list"}.get(kind, kind)
    bounds = [f"{sign} {schema[name]}" for name, sign in _BOUNDS.items() if name in schema]
    if kind == "list" and schema.get("items"):
        kind += f" of {_type(schema['items'], known)}"
    return " ".join([kind, ", ".join(bounds)]).strip()


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
