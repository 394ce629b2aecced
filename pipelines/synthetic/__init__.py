"""Raw archives from nothing: licence-free, in the exact official formats, with classes that can be learned."""

from collections.abc import Iterator
from pathlib import Path

from pipelines.synthetic import ntu, pkummd
from pipelines.synthetic.archive import Entry, new_folder, write_entries
from shards.errors import ConfigError
from shards.progress import Progress

SOURCES = ("ntu", "pkummd1", "pkummd2")


def synthesize(
    source: str,
    out: Path,
    *,
    subjects: int,
    classes: int,
    samples: int,
    seed: int,
    zipped: bool,
    progress: bool = False,
) -> Path:
    """Write a raw archive; the same arguments give the same bytes.

    The files have the oddities of the real ones that a conversion must stand: bodies that come, go and change ids,
    phantom bodies, empty frames, both line ends, exponents, and one recording of the missing list besides `samples`.

    Args:
        source: one of `SOURCES`.
        out: new or empty folder; becomes whole or not at all.
        subjects: performers, training and test ones of the official split in turn.
        classes: spread over the official ones, two-person actions among them.
        samples: recordings (ntu) or untrimmed videos. From 2 recordings a class or 2 videos (20 classes at most) on,
            every protocol trains and tests every class.
        seed: of the people and their takes; what a class does is the same for every seed.
        zipped: zips, as publishers ship them, or the folders these unpack to.
        progress: show a bar.

    Returns:
        `out`, which a conversion takes as it is.

    Raises:
        ConfigError: unknown source, numbers beyond what official names allow, or `out` is not empty.
    """
    if source not in SOURCES:
        raise ConfigError(f"unknown source {source!r} of synthetic archives, expected one of {', '.join(SOURCES)}")
    if samples < 1 or seed < 0:
        raise ConfigError(f"found {samples} samples and seed {seed}, expected at least 1 and 0")
    entries = _entries(source, subjects, classes, samples, seed)
    with new_folder(out) as folder, Progress(f"writing {source}", None, "file", shown=progress) as bar:
        write_entries(bar.over(entries), folder, zipped)
    return out


def _entries(source: str, subjects: int, classes: int, samples: int, seed: int) -> Iterator[Entry]:
    if source == "ntu":
        return ntu.entries(subjects, classes, samples, seed)
    return pkummd.entries(source, subjects, classes, samples, seed)
