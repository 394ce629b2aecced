"""Several data sets as one stream of samples."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipelines.loaders.split import Split, SplitSource
from shards.errors import ConfigError


@dataclass(frozen=True)
class Part:
    """What a mixture takes of a source.

    Attributes:
        split: the source, as `open_split` opens it.
        weight: epochs of the source that an epoch of the mixture takes: 1 takes each sample once, 0.5 half of them and
            the other half in the next epoch, 2 each one twice. Rounded to whole samples, at least one.
        samples: that an epoch takes, instead of a weight.
        classes: label of each of the source's classes in the mixture; None for those of an earlier source of the same
            kind (NTU 60 and 120, two sides of one protocol), else behind the labels of all sources before.
    """

    split: Split
    weight: float = 1.0
    samples: int | None = None
    classes: tuple[int, ...] | None = None


def mix_parts(parts: Sequence[Part]) -> Split:
    """One split of several; that of one part by itself has the order, labels and ids of its `Split`.

    The first source keeps its order and its samples' ids. Sources may differ in storage, fingerprint and data set. The
    same shard twice is refused: a weight says how often its samples are wanted, and an id is to mean one sample.

    Raises:
        ConfigError: no part; a weight or number of samples that takes nothing; sources that share a shard, or whose
            frames were made by different recipes; labels that are too few, too many, negative or out of range.
    """
    if not parts:
        raise ConfigError("found no source, expected at least one")
    assert all(len(part.split.sources) == 1 for part in parts), "a mixture of mixtures"
    _check_shards(parts)
    sources: list[SplitSource] = []
    for part, classes in zip(parts, _labels(parts), strict=True):
        sources.append(replace(part.split.sources[0], samples=_count(part), classes=classes))
    for source in sources:
        if source.recipe != sources[0].recipe:
            raise ConfigError(
                f"{source.name}: found data of the recipe {source.recipe}, expected {sources[0].recipe} as of"
                f" {sources[0].name}: mixed sources must be preprocessed alike"
            )
    shards = [replace(shard, source=number) for number, part in enumerate(parts) for shard in part.split.shards]
    return Split(tuple(shards), tuple(sources))


def _count(part: Part) -> int:
    """Samples of the source that an epoch takes."""
    name = part.split.sources[0].name
    if part.samples is not None:
        if part.samples < 1:
            raise ConfigError(f"{name}: found {part.samples} samples an epoch, expected at least 1")
        return part.samples
    if not 0 < part.weight < math.inf:
        raise ConfigError(f"{name}: found weight {part.weight}, expected a number above 0")
    return max(1, math.floor(part.weight * part.split.num_samples + 0.5))


def _check_shards(parts: Sequence[Part]) -> None:
    """Fingerprint and path tell a shard, wherever its store lies."""
    owner: dict[tuple[str, str], int] = {}
    for number, part in enumerate(parts):
        source = part.split.sources[0]
        for shard in part.split.shards:
            first = owner.setdefault((source.fingerprint, shard.entry.path), number)
            if first != number:
                raise ConfigError(
                    f"{source.name}: found {shard.path}, which {parts[first].split.sources[0].name} holds too, expected"
                    " sources without a common sample; a weight takes samples more often"
                )


def _labels(parts: Sequence[Part]) -> list[tuple[int, ...]]:
    """The labels of each source's classes."""
    sources = [part.split.sources[0] for part in parts]
    limit = sum(len(source.classes) for source in sources)
    first_of: dict[str, int] = {}
    end = 0
    found: list[tuple[int, ...]] = []
    for part, source in zip(parts, sources, strict=True):
        if part.classes is not None:
            _check_labels(source, part.classes, limit)
            found.append(part.classes)
            end = max(end, 1 + max(part.classes))
            continue
        if source.kind not in first_of:
            first_of[source.kind] = end
            end += max(len(other.classes) for other in sources if other.kind == source.kind)
        found.append(tuple(first_of[source.kind] + label for label in source.classes))
    return found


def _check_labels(source: SplitSource, labels: tuple[int, ...], limit: int) -> None:
    count = len(source.classes)
    if len(labels) != count:
        raise ConfigError(f"{source.name}: found {len(labels)} labels, expected one for each of {count} classes")
    for number, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < limit:
            raise ConfigError(
                f"{source.name}: found label {label!r} for class {number}, expected 0 to {limit - 1}: the sources have"
                f" {limit} classes together"
            )
