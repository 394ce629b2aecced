"""Recordings: the raw files that belong together."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.archives import find_files
from pipelines.archives.rawfiles import RawFile
from pipelines.parsers import SUFFIXES, pkummd
from shards import catalog
from shards.errors import RawInputError
from shards.places import Place


@dataclass(frozen=True)
class Recording:
    """The raw files of one recording; an untrimmed video has a label file."""

    skeleton: RawFile
    labels: RawFile | None = None

    @property
    def key(self) -> str:
        return self.skeleton.name

    @property
    def files(self) -> tuple[RawFile, ...]:
        return (self.skeleton,) if self.labels is None else (self.skeleton, self.labels)

    def describe_error(self, error: RawInputError) -> str:
        """The message of an error about this recording, with the file in front where it names none of them."""
        message = str(error)
        return message if any(file.origin in message for file in self.files) else f"{self.skeleton.origin}: {message}"


def list_recordings(source: str, raw: Sequence[Place], progress: bool = False) -> list[Recording]:
    """All recordings of a source in folders and zips, sorted by key.

    Raises:
        RawInputError: nothing there, a damaged zip, two files of one name, a video without labels.
    """
    untrimmed = catalog.source(source).untrimmed
    files = find_files(raw, SUFFIXES[source], allow_same_name=untrimmed, progress=progress)
    if untrimmed:
        return [Recording(*pair) for pair in pkummd.pair_files(files)]
    return [Recording(file) for file in files]
