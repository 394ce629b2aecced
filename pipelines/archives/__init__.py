"""Raw archives: folders and zips, in any layout, on a disk or in an object store, read without unpacking.

A raw file is matched by its base name alone: publishers and users nest, split and flatten the same archives in their
own ways.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

from isal import isal_zlib

from pipelines.archives.folders import Entry, Facts, entries, kind, stem
from pipelines.archives.rawfiles import RawFile, cause, read_at
from pipelines.archives.zips import ZIP, Archive, refuse_size, zip_files
from shards.errors import RawInputError, raw_error
from shards.places import Place, place
from shards.progress import Progress
from shards.remote import failures

__all__ = ["RawFile", "Survey", "find_files", "inventory_digest", "survey"]

_BLOCK = 1 << 23
# The time of a small remote file is the wait for an answer: more at once than botocore's pool of 10 keeps busy.
_REMOTE_THREADS = 16

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Survey:
    """What lies below the places that a user named.

    Attributes:
        files: raw files, sorted by name, then by content: the order does not depend on where they lie.
        ignored: how many other files there are by kind: a suffix, "no suffix", or "hidden" for hidden ones and
            `__MACOSX`. A suffix that is expected here by a user tells of a wrong source.
    """

    files: tuple[RawFile, ...]
    ignored: Mapping[str, int]

    def ignored_text(self) -> str:
        """For people: "3 .txt, 1 hidden"; empty if nothing was ignored."""
        return ", ".join(f"{count} {what}" for what, count in self.ignored.items())


def find_files(
    raw: Sequence[Place | str], suffixes: tuple[str, ...], *, allow_same_name: bool = False, progress: bool = False
) -> list[RawFile]:
    """The files of a `survey`, which see; what is ignored is logged."""
    found = survey(raw, suffixes, allow_same_name=allow_same_name, progress=progress)
    if found.ignored:
        _log.info("files that are no raw files (%s): %s", " or ".join(suffixes), found.ignored_text())
    return list(found.files)


def survey(
    raw: Sequence[Place | str],
    suffixes: tuple[str, ...],
    *,
    allow_same_name: bool = False,
    progress: bool = False,
    checksums: bool = True,
) -> Survey:
    """List the raw files of folders (with all below them), zips (also those in a folder or in a zip) and single files.

    Zips tell size and CRC in their directories. Plain files do not: each is read once, on several threads.

    Args:
        raw: paths and URLs; each must hold at least one raw file.
        suffixes: with their dots; case does not matter.
        allow_same_name: for sources whose skeleton and label files share one name.
        progress: show a bar while plain files are read for their CRC.
        checksums: False lists plain files without reading them; they have no CRC then.

    Raises:
        ConfigError: a URL of an unknown kind.
        RawInputError: a place that is missing, cannot be read or holds nothing; a zip that is damaged or hostile (see
            `pipelines.archives.zips`); two files of one name.
    """
    finding = _Finding(frozenset(suffix.lower() for suffix in suffixes))
    for where in map(place, raw):
        if not finding.add(where):
            raise raw_error(str(where), "", "no raw file", f"files that end in {' or '.join(suffixes)}")
    plain = _plain_files(finding.plain, progress, checksums)
    files = sorted([*plain, *finding.packed], key=lambda f: (f.name, f.suffix, f.size, f.crc32 or 0, f.origin))
    if not allow_same_name:
        _refuse_same_name(files)
    return Survey(tuple(files), dict(finding.ignored.most_common()))


def inventory_digest(files: Iterable[RawFile]) -> str:
    """Sha256 hex of what the files are (name, size, CRC), not of where they lie: a zip and its folder agree."""
    files = list(files)
    assert all(file.crc32 is not None for file in files), "listed with their checksums"
    rows = sorted(f"{f.name}{f.suffix}\t{f.size}\t{f.crc32:08x}\n" for f in files)
    # A file's name on a disk may be no text.
    return hashlib.sha256("".join(rows).encode(errors="surrogateescape")).hexdigest()


@dataclass
class _Finding:
    """Sorts the files below places: raw ones, those in zips, others."""

    suffixes: frozenset[str]
    plain: list[Entry] = field(default_factory=list)
    packed: list[RawFile] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)

    def add(self, root: Place) -> int:
        """How many raw files a place holds."""
        before = len(self.plain) + len(self.packed)
        for entry in entries(root):
            what = kind(entry.inner)
            if what in self.suffixes:
                self.plain.append(entry)
            elif what == ZIP or entry.place == root:  # a user may have named a zip in any way
                self.packed += zip_files(_archive(entry), self.suffixes, self.ignored)
            else:
                self.ignored[what] += 1
        return len(self.plain) + len(self.packed) - before


def _archive(entry: Entry) -> Archive:
    return Archive(entry.place, entry.facts().size, str(entry.place), entry.place.name)


def _refuse_same_name(files: list[RawFile]) -> None:
    for first, second in pairwise(files):
        if first.name == second.name:
            places = " and ".join(file.where for file in (first, second))
            raise raw_error(first.name + first.suffix, "", f"two files of this name: {places}", "one")


def _plain_files(found: list[Entry], progress: bool, checksums: bool) -> list[RawFile]:
    # Threads: CRCs and reads release the interpreter lock.
    remote = any(not isinstance(entry.place, Path) for entry in found)
    with ThreadPoolExecutor(_REMOTE_THREADS if remote else None) as pool:
        results = pool.map(partial(_plain_file, checksums=checksums), found)
        return list(Progress("listing", len(found), "file", shown=progress and bool(found)).over(results))


def _plain_file(entry: Entry, checksums: bool) -> RawFile:
    origin, facts = str(entry.place), entry.facts()
    refuse_size(facts.size, origin)
    checksum: Callable[[Place, Facts], int] = _remembered_checksum if facts.stamp else _checksum
    try:
        crc = checksum(entry.place, facts) if checksums else None
    except RawInputError:
        raise
    except failures(entry.place) as error:
        raise raw_error(origin, "", f"an unreadable file ({cause(error)})", "a readable one") from error
    return RawFile(stem(entry.inner), kind(entry.inner), origin, entry.place, facts.size, crc)


def _checksum(where: Place, facts: Facts) -> int:
    crc = done = 0
    while done < facts.size:
        block = read_at(where, done, min(_BLOCK, facts.size - done))
        if not block:
            raise raw_error(str(where), "", f"{done} bytes", f"the {facts.size} bytes that were listed")
        crc, done = isal_zlib.crc32(block, crc), done + len(block)
    return crc


@cache
def _remembered_checksum(where: Place, facts: Facts) -> int:
    """Listing happens twice in a first conversion (is the result there? then the work): plain files are read once."""
    return _checksum(where, facts)
