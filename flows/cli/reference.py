"""The reference of the command line and of every option, made from the code: `make docs` writes docs/reference/.

A test compares the written pages with what this makes, so that they cannot lag behind.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flows.benchmark.config import BenchmarkConfig, SpecialConfig
from flows.cli.arguments import TypedField
from flows.cli.command import Command
from flows.cli.commands import ABOUT, GROUPS
from flows.config import VIEWS, DataConfig, PretrainConfig
from flows.options import (
    BenchmarkOptions,
    DistillOptions,
    EvaluateOptions,
    ExportOptions,
    LoaderOptions,
    PreprocessOptions,
    PretrainOptions,
)
from flows.options.docstrings import read_docstrings
from flows.recipes.method import METHODS
from flows.tasks.config import EvaluateConfig
from models.encoders.encoder import ENCODERS, EncoderConfig
from models.objectives.objective import OBJECTIVES
from models.training.optimizers import AdamConfig, AdamWConfig
from models.training.schedule import TrainConfig
from shards.files import write_atomic
from shards.registry import Registry

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
    parts = [
        _MADE,
        "# Command line\n\n",
        f"{ABOUT} `skelstream COMMAND --help` says the same as this page.\n",
    ]
    for title, commands in GROUPS.items():
        parts.append(f"\n## {title[0].upper()}{title[1:]}\n")
        for command in commands:
            parts += _command(command)
    return "".join(parts)


def _command(command: Command) -> Iterator[str]:
    fields = command.fields
    examples = "\n".join(command.examples)
    yield f"\n### {command.name}\n\n{command.about}\n\n```text\n{_usage(fields, command.name)}\n```\n"
    rows = [(f"`{typed.usage}`", typed.default and f"`{typed.default}`", typed.text) for typed in fields]
    if rows:
        yield "\n" + _table(("argument", "default", "what"), rows)
    yield f"\n```sh\n{examples}\n```\n"


def _usage(fields: Sequence[TypedField], name: str, width: int = 110) -> str:
    lines = [f"skelstream {name}"]
    for typed in fields:
        word = typed.usage if typed.required else f"[{typed.usage}]"
        if len(lines[-1]) + 1 + len(word) > width:
            lines.append("   ")
        lines[-1] += f" {word}"
    return "\n".join(lines)


def _configuration() -> str:
    return "".join(
        [
            _MADE,
            "# Configuration\n\n",
            "Every value has one name and one default, which is the published one. `--set a.b=value` sets it; a name or"
            " a value that does not fit is an error.\nThe resolved configuration lies in each run's `config.json`.\n",
            "\n## Methods\n\nA method is a complete configuration, to which variants are joined by `+`;"
            " `skelstream methods NAME` shows all of one.\n\n",
            *_methods(),
            "\n## `skelstream pretrain --set`\n\nWhat all methods have, then what each kind of views, objective and"
            " encoder has. A method sets others than these defaults.\n",
            *_model("top level", PretrainConfig, {"method": None, "init": None}),
            *_options(DataConfig(dataset="ntu60", protocol="xview"), "data."),
            *_options(TrainConfig(), "train."),
            *(part for kind in (AdamConfig, AdamWConfig) for part in _options(kind(), "train.optimizer.")),
            *_kinds(VIEWS, "views."),
            *_kinds(OBJECTIVES, "objective."),
            *_kinds(ENCODERS, "objective.encoder."),
            "\n## `skelstream evaluate --set`\n",
            *_options(EvaluateConfig()),
            "\n## Options of flows\n\nThe same names in a deployment's parameters, in Prefect's form and in Python.\n",
            *(part for name, kind in _FLOWS.items() for part in _model(name, kind, {})),
            "\n## The file of a benchmark\n",
            *_model("top level", BenchmarkConfig, {}),
            *_model("an entry of special", SpecialConfig, {}),
        ]
    )


def _methods() -> Iterator[str]:
    yield _table(("method", "what"), [(f"`{name}`", method.about) for name, method in METHODS.items()])
    variants: dict[tuple[str, str], list[str]] = {}
    for name, method in METHODS.items():
        for variant, known in method.variants.items():
            variants.setdefault((variant, known.about), []).append(f"`{name}`")
    rows = [(f"`{variant}`", ", ".join(names), about) for (variant, about), names in variants.items()]
    yield "\n" + _table(("variant", "of", "what"), rows)


def _kinds(registry: Registry[Any], prefix: str) -> Iterator[str]:
    """A section for each class of a registry."""
    for name in registry.names():
        yield from _fields(f"{prefix.rstrip('.')} of kind {name}", registry.find(name), prefix)


def _fields(title: str, kind: type[BaseModel], prefix: str) -> Iterator[str]:
    """A section for a model, and for each one within it; an encoder, which is of any kind, has its own."""
    found = {name: field.annotation for name, field in kind.model_fields.items()}
    models = {name: part for name, part in found.items() if isinstance(part, type) and issubclass(part, BaseModel)}
    own = {name: field.default for name, field in kind.model_fields.items() if name not in models}
    yield from _model(title, kind, own, prefix)
    for name, inner in models.items():
        if not issubclass(inner, EncoderConfig):
            yield from _fields(f"{title}: {name}", inner, f"{prefix}{name}.")


def _options(config: BaseModel, prefix: str = "") -> Iterator[str]:
    """A section for each model of a configuration."""
    values = {name: getattr(config, name) for name in type(config).model_fields}
    own = {name: value for name, value in values.items() if not isinstance(value, BaseModel)}
    if own:
        of_kind = f" of kind {own['kind']}" if "kind" in own else ""
        yield from _model(f"{prefix.rstrip('.') or 'top level'}{of_kind}", type(config), own, prefix)
    for name, value in values.items():
        if isinstance(value, BaseModel):
            yield from _options(value, f"{prefix}{name}.")


def _model(title: str, kind: type[BaseModel], values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    schema = kind.model_json_schema()
    about, fields = read_docstrings(kind)
    rows = []
    for name, found in schema["properties"].items():
        if name == "kind" or (values and name not in values):  # the title says which kind it is
            continue
        required = name in schema.get("required", ())
        shown = "" if required else f"`{_json(values.get(name, found.get('default')))}`"
        rows.append((f"`{prefix}{name}`", _type(found, schema.get("$defs", {})), shown, fields.get(name, "")))
    yield f"\n### {title}\n\n{about}\n\n"
    yield _table(("name", "type", "default", "what"), rows)


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
