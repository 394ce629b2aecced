"""What raw archives hold, by their directories and names alone; for untrimmed sources the small label files are read.

Where a conversion stops at the first thing that is wrong, an inventory names them all.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from pipelines.archives import RawFile, survey
from pipelines.conversion.recordings import Recording
from pipelines.parsers import SUFFIXES, pkummd
from shards import catalog
from shards.cells import cell_name, memberships
from shards.errors import RawInputError, raw_error
from shards.places import Place
from shards.schema import SampleInfo, segment_key

# `parse_labels` wants the length of the video, which its frames alone tell.
_ANY_LENGTH = 10**9


@dataclass(frozen=True)
class Listed:
    """A recording that can be converted, as far as names and labels tell; `actions` of an untrimmed one."""

    recording: Recording
    info: SampleInfo
    cell: str
    actions: tuple[pkummd.LabelRow, ...] = ()


@dataclass(frozen=True)
class Side:
    """One side of a protocol: recordings found (for PKU-MMD videos, as in the official counts) and expected."""

    dataset: str
    protocol: str
    side: str
    found: int
    expected: int | None

    @property
    def missing(self) -> int:
        return 0 if self.expected is None else max(0, self.expected - self.found)


@dataclass(frozen=True)
class Inventory:
    """What is there, and what is not.

    Attributes:
        source: name of the source.
        files: all raw files.
        listed: recordings to convert, sorted by key.
        excused: recordings and label rows that the publishers are known to have wrong: always left out.
        blocks: what stops every conversion: two files of one name, a video without labels, labels without video.
        faults: what stops a conversion unless it may drop samples: names and label rows that are no sample's.
        strays: raw files that are no recording, such as split lists.
        absent: recordings on an official list that are not there.
        ignored: how many other files there are by kind, as text.
    """

    source: str
    files: tuple[RawFile, ...]
    listed: tuple[Listed, ...]
    excused: tuple[str, ...]
    blocks: tuple[str, ...]
    faults: tuple[str, ...]
    strays: tuple[str, ...]
    absent: tuple[str, ...]
    ignored: str

    @property
    def untrimmed(self) -> bool:
        return catalog.source(self.source).untrimmed

    @property
    def samples(self) -> int:
        """Recordings, or the actions of an untrimmed source."""
        return sum(len(item.actions) for item in self.listed) if self.untrimmed else len(self.listed)

    def tally(self, name: str) -> dict[int, int]:
        """Recordings by a field of `SampleInfo`, and samples by "label"; without those whose name does not tell it."""
        if name == "label" and self.untrimmed:
            return _tally(action.label for item in self.listed for action in item.actions)
        return _tally(getattr(item.info, name) for item in self.listed)

    def sides(self) -> list[Side]:
        """Both sides of every protocol of the data sets that have any recording here."""
        cells = Counter(item.cell for item in self.listed)
        examples = {item.cell: item.info for item in self.listed}
        found: Counter[tuple[str, str]] = Counter()
        for cell, count in cells.items():
            for protocol, side in memberships(self.source, examples[cell]).items():
                found[protocol, side] += count
        return [side for name in catalog.source(self.source).datasets for side in _sides_of(name, found)]


def _tally(values: Iterable[int]) -> dict[int, int]:
    return {value: count for value, count in sorted(Counter(values).items()) if value >= 0}


def _sides_of(dataset: str, found: Counter[tuple[str, str]]) -> list[Side]:
    sides = []
    for protocol in catalog.dataset(dataset).protocols:
        expected = catalog.dataset(dataset).counts.get(protocol) or (None, None)
        for side, number in zip(("train", "test"), expected, strict=True):
            sides.append(Side(dataset, protocol, side, found[f"{dataset}/{protocol}", side], number))
    return sides if any(side.found for side in sides) else []


def take_inventory(source: str, raw: Sequence[Place]) -> Inventory:
    """List the recordings of a source in folders and zips, and all that is wrong with them.

    Raises:
        ConfigError: unknown source.
        RawInputError: a path is missing, holds no raw file, or is a zip that cannot be trusted or read.
    """
    untrimmed = catalog.source(source).untrimmed
    found = survey(raw, SUFFIXES[source], allow_same_name=True, checksums=False)
    files = found.files
    strays = pkummd.not_videos(files) if untrimmed else []
    left_out = {file.name for file in strays}
    videos = [file for file in files if file.name not in left_out]
    finding = _Finding(source, pkummd.weigh_files(videos) if untrimmed else {})
    for name, group in groupby(files, key=lambda file: file.name):
        if name not in left_out:
            finding.add(name, list(group))
    return Inventory(
        source=source,
        files=files,
        listed=tuple(finding.listed),
        excused=tuple(finding.excused),
        blocks=tuple(finding.blocks),
        faults=tuple(finding.faults),
        strays=tuple(file.origin for file in strays),
        absent=_absent(source, {file.name for file in files}),
        ignored=found.ignored_text(),
    )


@dataclass
class _Finding:
    """Sorts what is found."""

    source: str
    weights: Mapping[RawFile, pkummd.Weight]
    listed: list[Listed] = field(default_factory=list)
    excused: list[str] = field(default_factory=list)
    blocks: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def add(self, name: str, files: list[RawFile]) -> None:
        try:
            untrimmed = catalog.source(self.source).untrimmed
            recording = Recording(*pkummd.pair(name, files, self.weights)) if untrimmed else _single(files)
        except RawInputError as error:
            self.blocks.append(str(error))
            return
        if name in catalog.missing_samples(self.source):
            self.excused.append(name)
            return
        try:
            # An official list may not know the recording, and then names no cell.
            info = catalog.info_from_name(self.source, name)
            cell = cell_name(self.source, info)
            actions = self._actions(recording)
        except RawInputError as error:
            self.faults.append(recording.describe_error(error))
            return
        self.listed.append(Listed(recording, info, cell, actions))

    def _actions(self, recording: Recording) -> tuple[pkummd.LabelRow, ...]:
        """The usable label rows of a video; the others are sorted too."""
        if recording.labels is None:
            return ()
        file, facts = recording.labels, catalog.source(self.source)
        rows, problems = pkummd.parse_labels(file.read(), file.origin, _ANY_LENGTH, facts.num_classes)
        known = facts.known_faults
        self.excused += [segment_key(recording.key, row) for row, _ in problems if (recording.key, row) in known]
        self.faults += [reason for row, reason in problems if (recording.key, row) not in known]
        return tuple(rows)


def _single(files: list[RawFile]) -> Recording:
    if len(files) > 1:
        name = files[0].name + files[0].suffix
        raise raw_error(
            name, "", f"{len(files)} files of this name: {' and '.join(file.where for file in files)}", "one"
        )
    return Recording(files[0])


def _absent(source: str, found: set[str]) -> tuple[str, ...]:
    """Names are listed officially for the cross-subject protocols of PKU-MMD alone."""
    if not source.startswith("pkummd"):
        return ()
    official = (name for part in ("train", "test") for name in catalog.read_list(f"{source}_xsub_{part}"))
    return tuple(sorted(set(official) - found))
