"""What a source and a data set are: the form of an entry in the catalogue, built in or one's own.

A *source* is what is converted into one store; a *data set* is a selection of it that benchmarks name.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Literal, Protocol

from shards.errors import raw_error
from shards.schema import RawSequence, SampleInfo

Side = Literal["train", "test"]
Rule = Callable[[SampleInfo], Side | None]
"""A protocol: on which side a sample stands; None when the data set does not hold it."""

_SEGMENT = re.compile(r"(.+)_\d{3,}")


@dataclass(frozen=True)
class DataSet:
    """A selection of a source.

    Attributes:
        name: as on the command line.
        source: name of the source it is selected from.
        num_classes: labels are 0..num_classes-1.
        rules: protocol -> its rule.
        counts: protocol -> official (train, test) counts without missing samples; of PKU-MMD videos, not actions. Empty
            where nothing is published.
        class_names: what people call the classes, in the order of the labels; empty where they have no names.
    """

    name: str
    source: str
    num_classes: int
    rules: Mapping[str, Rule]
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()

    @property
    def protocols(self) -> tuple[str, ...]:
        return tuple(self.rules)


@dataclass(frozen=True)
class Source:
    """One kind of raw archive.

    Attributes:
        name: as on the command line and in the names of stores.
        title: as people call it.
        num_classes: labels are 0..num_classes-1.
        info: what a file's name (without folder and suffix) tells of its sample; RawInputError where it is none of this
            source's.
        holds: the data sets in it.
        steps: what the parser does to what the file says, each with its parameters: recorded in the manifest and part
            of the store's identity.
        untrimmed: whether its recordings are videos with several labelled segments.
        nested: whether a data set holds every sample of those before it and agrees with them where they share a
            protocol; the names of cells are shorter then.
        missing: samples that the publishers say to leave out.
        known_faults: (key, row from 0) -> reason, for label rows that are wrong in the official release.
    """

    name: str
    title: str
    num_classes: int
    info: Callable[[str], SampleInfo]
    holds: tuple[DataSet, ...]
    steps: tuple[dict[str, Any], ...] = ()
    untrimmed: bool = False
    nested: bool = False
    missing: frozenset[str] = frozenset()
    known_faults: Mapping[tuple[str, int], str] = field(default_factory=dict)

    @property
    def datasets(self) -> tuple[str, ...]:
        return tuple(data.name for data in self.holds)


def by(
    what: Literal["subject", "camera", "setup", "replication"], *, train: Collection[int], test: Collection[int]
) -> Rule:
    """The rule by one number of a sample's name; RawInputError for a number on neither list."""
    assert set(train).isdisjoint(test), f"a {what} on both sides"

    def rule(info: SampleInfo) -> Side:
        number = getattr(info, what)
        if number in train:
            return "train"
        if number in test:
            return "test"
        raise raw_error(info.key, "name", f"{what} {number}", f"one of {sorted([*train, *test])}")

    return rule


def side(train: bool) -> Side:
    return "train" if train else "test"


def name_fields(pattern: re.Pattern[str], name: str, form: str) -> tuple[str, ...]:
    """The groups of a file's name.

    Args:
        pattern: of the whole name.
        form: of the name, as the error shows it.

    Raises:
        RawInputError: the name has another form.
    """
    match = pattern.fullmatch(name)
    if match is None:
        raise raw_error(name, "name", repr(name), f"the form {form}")
    return match.groups()


def read_list(name: str) -> tuple[str, ...]:
    """The names in `shards/resources/<name>.txt`: one a line, `#` begins a comment."""
    lines = (files("shards") / "resources" / f"{name}.txt").read_text(encoding="ascii").splitlines()
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def video_key(key: str) -> str:
    """Key of the video that a trimmed action comes from; a video's own key is returned as it is."""
    match = _SEGMENT.fullmatch(key)
    return match[1] if match else key


class Parser(Protocol):
    """A raw format. What varies (units, versions of the format) are options of the class's `__init__`."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What its files end in: lower case, with the dot."""

    def parse(self, data: bytes, name: str, origin: str) -> RawSequence:
        """Read one recording.

        Args:
            data: the file's bytes.
            name: its base name, which becomes the key.
            origin: the file for error messages.

        Raises:
            RawInputError: the file is not what the format demands.
        """


@dataclass(frozen=True)
class OwnSource:
    """A data set of one's own: the catalogue's entry, and how its files are read."""

    source: Source
    parser: Parser
