"""What an own source must keep to: its entry is checked once, what it makes of names and files each time."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from shards.errors import ConfigError, SkelstreamError, raw_error
from shards.schema import UNKNOWN, RawSequence, SampleInfo
from shards.skeleton import NUM_COORDINATES, NUM_JOINTS
from shards.sources import DataSet, OwnSource, Parser, Source

# A store's folder is <source>-<recipe>-<fingerprint>, a cell's <data set>-<protocol>-<side>_...: these forms keep both
# unambiguous.
_SOURCE_NAME = re.compile(r"[a-z][a-z0-9]*", re.ASCII)
_PROTOCOL_NAME = re.compile(r"[a-z][a-z0-9]*", re.ASCII)
_DATASET_SUFFIX = re.compile(r"(-[a-z0-9]+)*", re.ASCII)
_SUFFIX = re.compile(r"\.[a-z0-9]+", re.ASCII)
# Keys name members of tar files, where a dot would end the key.
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}", re.ASCII)

# What code that expects another content raises on it. Others are faults of the code and keep their traceback.
_CONTENT_ERRORS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def guard_source(own: OwnSource, name: str, where: str) -> OwnSource:
    """The same source, whose `info` and `parser` are checked at every call.

    Args:
        name: of the entry point.
        where: the entry point, for error messages.

    Raises:
        ConfigError: the entry is not what the catalogue can hold.
    """
    for found, expected in (*_source_problems(own.source, name), *_parser_problems(own.parser)):
        raise ConfigError(f"{where}: found {found}, expected {expected}")
    source = replace(own.source, info=partial(_info, own.source))
    return OwnSource(source, GuardedParser(own.parser, name))


def _source_problems(source: Source, name: str) -> Iterator[tuple[str, str]]:
    if source.name != name:
        yield f"the source {source.name!r}", f"{name!r}, the name of the entry point"
    if not _SOURCE_NAME.fullmatch(name):
        yield f"the name {name!r}", "lower-case letters and digits"
    if source.untrimmed:
        yield "untrimmed=True", "one file an action: only PKU-MMD's format has videos with label files"
    if source.nested or source.known_faults:
        yield "nested or known_faults", "neither, they describe official releases"
    if not source.steps or not all(_is_step(step) for step in source.steps):
        yield f"steps {source.steps!r}", 'at least one that JSON can hold, such as {"name": "parse", "version": 1}'
    if not source.holds or len(set(source.datasets)) < len(source.holds):
        yield f"the data sets {source.datasets}", "at least one, of different names"
    for data in source.holds:
        yield from _dataset_problems(data, source)


def _is_step(step: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(step)) == step and step["name"])
    except (LookupError, TypeError, ValueError):
        return False


def _dataset_problems(data: DataSet, source: Source) -> Iterator[tuple[str, str]]:
    suffix = data.name.removeprefix(source.name)
    if not data.name.startswith(source.name) or not _DATASET_SUFFIX.fullmatch(suffix):
        yield f"the data set {data.name!r}", f"{source.name} or {source.name}-... in lower-case letters and digits"
    if data.source != source.name:
        yield f"the data set {data.name!r} of source {data.source!r}", f"source {source.name!r}"
    if not 1 <= data.num_classes <= source.num_classes:
        yield f"{data.num_classes} classes in {data.name}", f"1 to the source's {source.num_classes}"
    if not data.rules or not all(_PROTOCOL_NAME.fullmatch(protocol) for protocol in data.rules):
        yield f"the protocols {data.protocols} of {data.name}", "at least one, in lower-case letters and digits"
    if len(data.class_names) not in (0, data.num_classes):
        yield f"{len(data.class_names)} names of classes in {data.name}", f"none or {data.num_classes}"
    if not data.counts.keys() <= data.rules.keys():
        yield f"counts of {sorted(data.counts)} in {data.name}", f"counts of its protocols {sorted(data.rules)}"


def _parser_problems(parser: Parser) -> Iterator[tuple[str, str]]:
    if not callable(getattr(parser, "parse", None)):
        yield f"the parser {parser!r}", "an object with a method parse(data, name, origin)"
    suffixes = getattr(parser, "suffixes", None)
    if not isinstance(suffixes, tuple) or not suffixes or not all(_SUFFIX.fullmatch(str(s)) for s in suffixes):
        yield f"the suffixes {suffixes!r}", 'a tuple such as (".json",)'


def _info(source: Source, name: str) -> SampleInfo:
    """What `source.info` tells of a name.

    Raises:
        RawInputError: it cannot read the name, or the name cannot be a key.
        ConfigError: what it tells cannot be: a fault of the code.
    """
    if not _KEY.fullmatch(name):
        raise raw_error(name, "name", repr(name), "at most 80 letters, digits, _ and -, a letter or digit first")
    try:
        info = source.info(name)
    except SkelstreamError:
        raise
    except _CONTENT_ERRORS as error:
        raise raw_error(name, "name", f"{type(error).__name__} ({error})", f"a name of source {source.name}") from error
    numbers = (info.subject, info.camera, info.setup, info.replication)
    if info.key != name or info.bodies != 1 or not all(type(n) is int and UNKNOWN <= n < 2**63 for n in numbers):
        raise ConfigError(
            f"info of source {source.name}: found {info} for {name!r}, expected this key, bodies 1 and numbers from 0, "
            f"or {UNKNOWN} where unknown"
        )
    if type(info.label) is not int or not 0 <= info.label < source.num_classes:
        raise raw_error(name, "name", f"label {info.label}", f"0 to {source.num_classes - 1}; 0 where there are none")
    return info


@dataclass(frozen=True)
class GuardedParser:
    """A parser whose results have the shape, and whose errors the form, of the built-in ones."""

    inner: Parser
    source: str

    @property
    def suffixes(self) -> tuple[str, ...]:
        return self.inner.suffixes

    def parse(self, data: bytes, name: str, origin: str) -> RawSequence:
        """As `Parser.parse`.

        Raises:
            RawInputError: from the parser, or made of a content error such as a KeyError; a number that is not finite.
            ConfigError: the result is no such sequence: a fault of the code.
        """
        try:
            raw = self.inner.parse(data, name, origin)
        except SkelstreamError:
            raise
        except _CONTENT_ERRORS as error:
            what = f"{type(error).__name__} ({error})"
            raise raw_error(origin, "", what, f"what the parser of {self.source} can read") from error
        if problem := _shape_problem(raw, name):
            raise ConfigError(f"parser of source {self.source}: found {problem} from {origin}")
        _refuse_non_finite(raw, origin)
        return raw


def _shape_problem(raw: RawSequence, name: str) -> str | None:
    import numpy as np  # not above: listing the names of data sets would wait for it

    if not isinstance(raw, RawSequence) or raw.key != name:
        return f"{type(raw).__name__} of key {getattr(raw, 'key', None)!r}, expected a RawSequence of key {name!r}"
    T, S = (*np.shape(raw.frames), 0, 0)[:2]
    expected = {
        "frames": (np.float64, (T, S, NUM_JOINTS, NUM_COORDINATES)),
        "num_bodies": (np.int64, (T,)),
        "body_ids": (np.int64, (T, S)),
    }
    for field, (dtype, shape) in expected.items():
        array = np.asarray(getattr(raw, field))
        if array.dtype != dtype or array.shape != shape:
            legend = {"frames": "(T, S, 25, 3)", "num_bodies": "(T,)", "body_ids": "(T, S)"}[field]
            return f"{field} of {array.dtype} {array.shape}, expected {np.dtype(dtype)} {legend}"
    if T and not (raw.num_bodies.min() >= 0 and raw.num_bodies.max() <= S):
        return f"num_bodies {raw.num_bodies.min()} to {raw.num_bodies.max()}, expected 0 to {S}"
    return None


def _refuse_non_finite(raw: RawSequence, origin: str) -> None:
    import numpy as np

    if not np.isfinite(raw.frames).all():
        frame, slot, joint, axis = np.argwhere(~np.isfinite(raw.frames))[0]
        found = f"{raw.frames[frame, slot, joint, axis]} in body {slot + 1}, joint {joint + 1}"
        raise raw_error(origin, f"frame {frame + 1}", found, "finite coordinates")
