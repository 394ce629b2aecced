"""The methods as text and as JSON: all of them in a table, or one in full."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from inspect import cleandoc
from itertools import zip_longest
from textwrap import fill, wrap
from typing import Any

import torch
from pydantic import BaseModel

from flows.config import DataConfig, PretrainConfig
from flows.options.docstrings import read_docstrings
from flows.recipes import recipe
from flows.recipes.method import METHODS, TINY, Method
from models.encoders.encoder import ENCODERS, EncoderConfig
from models.training.schedule import MAIN, TrainConfig
from pipelines.augmentations.operation import Operation
from pipelines.views.spec import View
from shards.errors import ConfigError
from shards.skeleton import STREAMS

WIDTH = 120
"""Characters of a line, at most."""

_INDENT = "  "
_LONG = 20
"""Characters of a value; what is said of a longer one stands below it."""
_HEADERS = ("method", "class", "encoder", "streams", "parameters", "trained", "source", "venue")
# the widest that a column may be; what is longer goes on in the next line. The last one has the rest of the line
_COLUMNS = (20, 11, 12, 7, 11, 11, 20)


@dataclass(frozen=True)
class Parameters:
    """How large a method is.

    Attributes:
        encoder: parameters of one encoder.
        trained: all that get a gradient: encoders of all streams, projectors, decoders.
    """

    encoder: int
    trained: int


@dataclass(frozen=True)
class Summary:
    """A method, or one with variants, in short.

    Attributes:
        method: what is known of it.
        name: with the variants.
        config: its configuration on NTU 60 xsub, of the fewest streams that it takes.
        streams: how many streams a run of it can have.
        parameters: of that configuration.
    """

    method: Method
    name: str
    config: PretrainConfig
    streams: tuple[int, ...]
    parameters: Parameters

    @property
    def encoder(self) -> str:
        """Kind of its encoder."""
        return self.config.objective.encoder.kind

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        method = self.method
        return {
            "name": self.name,
            "about": method.about,
            "class": method.category,
            "venue": method.venue,
            "source": method.source,
            "module": method.recipe.__module__,
            "encoder": self.encoder,
            "streams": self.streams,
            "parameters": asdict(self.parameters),
            "variants": {name: variant.about for name, variant in method.variants.items()},
            "departs": method.departs,
            "rows": [{"row": row, "method": name, "figures": figures} for row, name, figures in method.rows],
        }


def list_methods(as_json: bool = False) -> str:
    """All methods, their variants, and the rows of published ablations that they are; JSON: a list of objects.

    Raises:
        ConfigError: a plug-in cannot be used.
    """
    summaries = [_summarise(name) for name in METHODS]
    if as_json:
        return json.dumps([summary.to_json() for summary in summaries], indent=2)
    return "\n\n".join(("\n".join(_table(summaries)), *_variants(), *_rows(METHODS.values())))


def describe_method(name: str, as_json: bool = False) -> str:
    """One method in full, such as "pcm3pp" or "pcm3pp-small+no-clip"; JSON: an object.

    Raises:
        ConfigError: there is none of that name, or a variant does not fit; names the nearest.
    """
    summary = _summarise(name)
    spec = summary.config.views.spec(summary.config.data.streams)
    if as_json:
        configuration = summary.config.model_dump(mode="json", include={"views", "objective", "train"})
        sees = spec.model_dump(mode="json")
        tree = {"sees": sees, "terms": summary.config.objective.terms, "configuration": configuration}
        return json.dumps(summary.to_json() | tree, indent=2)
    method, objective = summary.method, summary.config.objective
    departs = (_hang(sentence, f"{_INDENT}- ") for sentence in method.departs)
    others = {key: variant.about for key, variant in method.variants.items() if key not in name.split("+")[1:]}
    parts = (
        _head(summary),
        cleandoc(method.recipe.__doc__ or ""),
        _section(f"what it sees, {spec.frames} frames in each view", _pairs(_views(spec.views))),
        _section("terms of the loss", [_INDENT + ", ".join(objective.terms)]),
        _section("schedule", _pairs(_schedule(summary.config.train))),
        _section("options of its own, set by --set NAME=VALUE", _options(summary.config)),
        _section(f"variants, joined by '+' as in {name}+{next(iter(others), TINY)}", _pairs(others.items())),
        _section("where it departs from the release", departs),
        *_rows((method,)),
    )
    return "\n\n".join(part for part in parts if part)


def _summarise(name: str) -> Summary:
    method = METHODS[name.partition("+")[0]]
    fitting: dict[int, PretrainConfig] = {}
    problem: ConfigError | None = None
    for count in range(1, len(STREAMS) + 1):
        try:
            fitting[count] = recipe(name, DataConfig(dataset="ntu60", protocol="xsub", streams=STREAMS[:count]))
        except ConfigError as error:
            problem = problem or error
    if problem is not None and not fitting:
        raise problem
    config = fitting[min(fitting)]
    return Summary(method, name, config, tuple(fitting), _count(config))


def _count(config: PretrainConfig) -> Parameters:
    with torch.device("meta"):  # no memory, no random numbers: the 54 million of PCM3++ take 10 ms
        objective = config.objective.build(config.data.streams, config.train.seed)
    encoder = next(iter(objective.encoders.values()))
    return Parameters(
        encoder=sum(parameter.numel() for parameter in encoder.parameters()),
        trained=sum(parameter.numel() for parameter in objective.parameters() if parameter.requires_grad),
    )


def _table(summaries: Sequence[Summary]) -> Iterator[str]:
    """A row of each method, and below it the line about it."""
    rows = [_cells(summary) for summary in summaries]
    needed = [max(map(len, column)) for column in zip(_HEADERS, *rows, strict=True)]
    widths = [*map(min, _COLUMNS, needed)]
    widths.append(min(needed[-1], WIDTH - sum(widths) - len(_INDENT) * len(widths)))
    yield from _lines(_HEADERS, widths)
    for summary, cells in zip(summaries, rows, strict=True):
        yield from _lines(cells, widths)
        yield _hang(summary.method.about, _INDENT)
    yield ""
    yield "parameters: of one encoder; trained: of all that gets a gradient, for the fewest streams that it takes"


def _cells(summary: Summary) -> tuple[str, ...]:
    method, parameters = summary.method, summary.parameters
    return (
        summary.name,
        method.category,
        summary.encoder,
        _range(summary.streams),
        f"{parameters.encoder:,}",
        f"{parameters.trained:,}",
        method.source,
        method.venue,
    )


def _range(counts: Sequence[int]) -> str:
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _lines(cells: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    """The lines of a row; numbers stand to the right."""
    wrapped = [wrap(cell, width) for cell, width in zip(cells, widths, strict=True)]
    for parts in zip_longest(*wrapped, fillvalue=""):
        aligned = (
            part.rjust(width) if header in ("parameters", "trained") else part.ljust(width)
            for header, part, width in zip(_HEADERS, parts, widths, strict=True)
        )
        yield _INDENT.join(aligned).rstrip()


def _variants() -> Iterator[str]:
    """A section for each group of methods that share variants."""
    sharing: dict[tuple[str, str], list[str]] = {}
    for method in METHODS.values():
        for name, variant in method.variants.items():
            sharing.setdefault((name, variant.about), []).append(method.name)
    groups: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for line, methods in sharing.items():
        groups.setdefault(tuple(methods), []).append(line)
    for names, lines in sorted(groups.items(), key=lambda group: (-len(group[0]), group[0])):
        whose = "every method" if len(names) == len(METHODS) else ", ".join(names)
        yield _section(f"variants of {whose}, as in {names[0]}+{lines[0][0]}", _pairs(lines))


def _rows(methods: Iterable[Method]) -> Iterator[str]:
    """A section for each method that is a row of published ablations."""
    for method in methods:
        rows = _pairs((name, f"{row}: {figures}") for row, name, figures in method.rows)
        if rows:
            yield _section(f"rows of the ablations published with {method.name}", rows)


def _head(summary: Summary) -> str:
    """What the table says, and the encoder's shape."""
    method, config, counts = summary.method, summary.config, summary.streams
    applied = summary.name.split("+")[1:]
    lines = [_hang(f"{summary.name}: {method.about}", "")]
    lines += [_hang(f"+{name}: {method.variants[name].about}", _INDENT) for name in applied]
    facts = {
        "class": method.category,
        "venue": method.venue,
        "source": method.source,
        "module": method.recipe.__module__,
        "encoder": config.objective.encoder.describe(),
        "streams": f"{_range(counts)} of {', '.join(STREAMS)}",
        "parameters": f"{summary.parameters.encoder:,} of one encoder, {summary.parameters.trained:,} trained",
    }
    return "\n".join((*lines, *_pairs(facts.items())))


def _views(views: Sequence[View]) -> Iterator[tuple[str, str]]:
    """Each view, and what is done to what."""
    for view in views:
        steps = "; ".join(map(_describe_operation, view.operations)) or "unchanged"
        yield view.name, steps if view.of is None else f"of {view.of}: {steps}"


def _describe_operation(operation: Operation) -> str:
    """Its kind and its options, but for those that are None."""
    options = {name: getattr(operation, name) for name in type(operation).model_fields if name != "kind"}
    if options.get("probability") == 1:  # as of nearly all
        del options["probability"]
    words = (f"{name} {_describe_value(value)}" for name, value in options.items() if value is not None)
    listed = ", ".join(words)
    return listed if listed.startswith(operation.kind) else f"{operation.kind} {listed}".rstrip()  # "stream joint"


def _describe_value(value: Any) -> str:
    if isinstance(value, Operation):
        return _describe_operation(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(_describe_value, value))})"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _schedule(train: TrainConfig) -> Iterator[tuple[str, str]]:
    """Each stage, for how long and how fast."""
    optimizer = train.optimizer.model_dump(exclude={"kind"})
    options = ", ".join(f"{name} {_describe_value(value)}" for name, value in optimizer.items())
    rate = f"rate {train.lr:g}"
    if train.warmup_epochs:
        rate += f", warm-up of {train.warmup_epochs} epochs"
    if train.schedule == "cosine":
        rate += f", cosine to {train.min_lr:g}"
    elif train.schedule == "plateau":
        rate += f", times {train.gamma:g} where the loss has not fallen for {train.patience} epochs"
    elif train.milestones:
        rate += f", times {train.gamma:g} from epoch {', '.join(map(str, train.milestones))} on"
    yield MAIN, f"{train.epochs} epochs, batch {train.batch_size}, {rate}; {train.optimizer.kind}: {options}"
    for stage in train.stages:
        words = [f"{stage.epochs} epochs"]
        words += ["the schedule goes on"] if stage.schedule == MAIN else [f"rate {stage.lr:g}, {stage.schedule}"]
        words += [] if stage.terms is None else [f"terms {', '.join(stage.terms)}"]
        yield stage.name, "; ".join(words)


def _options(config: PretrainConfig) -> Iterator[str]:
    """Name, value and meaning of each option of views and objective."""
    rows = [*_fields(config.views, "views."), *_fields(config.objective, "objective.")]
    name_width = max(len(name) for name, _, _ in rows)
    value_width = max(len(value) for _, value, _ in rows if len(value) <= _LONG)
    indent = " " * (name_width + value_width + 3 * len(_INDENT))
    for name, value, about in rows:
        start = f"{_INDENT}{name.ljust(name_width)}{_INDENT}"
        if len(value) <= _LONG:
            yield _hang(about, f"{start}{value.ljust(value_width)}{_INDENT}").rstrip()
        else:
            yield _hang(value, start)
            yield _hang(about, indent)


def _fields(model: BaseModel, prefix: str) -> Iterator[tuple[str, str, str]]:
    about = read_docstrings(type(model))[1]
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _fields(value, f"{prefix}{name}.")
        elif name == "kind":
            if isinstance(model, EncoderConfig):  # that of views and objective is the method's
                yield f"{prefix}kind", value, f"one of {', '.join(ENCODERS.names())}"
        else:
            shown = value if isinstance(value, str) else json.dumps(value, default=str)
            yield f"{prefix}{name}", f"{value:g}" if isinstance(value, float) else shown, about.get(name, "")


def _section(title: str, lines: Iterable[str]) -> str:
    """A title and what stands below it; empty without any line."""
    listed = [*lines]
    return "\n".join((_hang(f"{title}:", ""), *listed)) if listed else ""


def _pairs(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Names and what is said of them, in two columns."""
    listed = [*pairs]
    width = max((len(name) for name, _ in listed), default=0)
    return [_hang(text, f"{_INDENT}{name.ljust(width)}{_INDENT}") for name, text in listed]


def _hang(text: str, start: str) -> str:
    """A text behind `start`, whose further lines stand below its first."""
    return fill(text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start), break_on_hyphens=False) or start
