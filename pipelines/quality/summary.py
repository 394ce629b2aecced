"""The statistics of a store: what is in it, what its recordings were like, and its worst samples."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.quality.measures import Measures, measure_store, speed_quantile
from pipelines.quality.outliers import NO_BONE, Ranking, bone_medians, rankings
from pipelines.quality.statistics import (
    Bone,
    Histogram,
    Joint,
    Outlier,
    Outliers,
    RawQuality,
    Reason,
    Spread,
    Statistics,
)
from shards.manifest import STORE, Manifest, Outcome, read_manifest
from shards.places import Place
from shards.schema import UNKNOWN, Quality
from shards.skeleton import JOINT_NAMES, PARENTS
from shards.store import Store, open_store

WORST = 30
"""Samples in a list of outliers."""

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BINS = 30


def statistics(folder: Place, *, worst: int = WORST, progress: bool = False) -> Statistics:
    """Measure a finished store.

    Args:
        folder: of the store, with its manifest.
        worst: samples in each list of outliers.
        progress: show a bar.

    Raises:
        StoreError: the folder is unfinished or damaged.
    """
    manifest, store = read_manifest(folder), open_store(folder / STORE)
    measures = measure_store(store, progress=progress)
    return Statistics(
        store=folder.name,
        **_describe(manifest),
        **_count(store),
        lengths=spread(np.diff(store.offsets)),
        actions=spread([s.end - s.start for s in store.segments]) if store.segments else None,
        raw=None if store.quality is None else raw_quality(store.quality),
        **_measured(measures),
        outliers=[_outliers(store, ranking, worst) for ranking in rankings(store, measures)],
    )


def _describe(manifest: Manifest) -> dict[str, Any]:
    sides: dict[str, Counter[str]] = {}
    for cell in manifest.cells.values():
        for protocol, side in cell.memberships.items():
            sides.setdefault(protocol, Counter())[side] += cell.samples
    return {
        "source": manifest.source,
        "recipe": manifest.recipe,
        "dtype": manifest.dtype,
        "max_error": manifest.max_error,
        "counts": manifest.counts,
        "sides": {protocol: dict(sorted(sides[protocol].items(), reverse=True)) for protocol in sorted(sides)},
        "dropped": reasons(manifest.dropped),
        "repaired": reasons(manifest.repaired),
    }


def _count(store: Store) -> dict[str, dict[str, int]]:
    infos = store.infos
    labels = [row.label for row in (infos if store.segments is None else store.segments)]
    return {
        "classes": tally(labels),
        "subjects": tally(info.subject for info in infos),
        "cameras": tally(info.camera for info in infos),
        "setups": tally(info.setup for info in infos),
        "bodies": tally(info.bodies for info in infos),
    }


def _measured(measures: Measures) -> dict[str, Any]:
    some = bool(np.isfinite(measures.lowest).all())
    return {
        "empty_frames": int(measures.empty.sum()),
        "pairs": int(measures.pairs.sum()),
        "duplicates": int(measures.duplicates.sum()),
        "bones": _bones(measures),
        "joints": [_joint(measures, joint) for joint in range(len(JOINT_NAMES))],
        "top_speeds": spread(measures.top_speeds),
        "fast_speeds": spread(measures.fast_speeds),
        "lowest": measures.lowest.tolist() if some else [0.0] * len(measures.lowest),
        "highest": measures.highest.tolist() if some else [0.0] * len(measures.highest),
    }


def tally(numbers: Iterable[int]) -> dict[str, int]:
    """How often each number is there, by its text, in the order of the numbers."""
    counted = Counter(numbers)
    return {"unknown" if number == UNKNOWN else str(number): counted[number] for number in sorted(counted)}


def spread(values: npt.ArrayLike) -> Spread:
    """Describe at least one finite number."""
    array = np.asarray(values, dtype=np.float64)
    quantiles = np.quantile(array, QUANTILES).tolist()
    return Spread(
        lowest=float(array.min()),
        highest=float(array.max()),
        mean=float(array.mean()),
        quantiles={f"{share:g}": value for share, value in zip(QUANTILES, quantiles, strict=True)},
        histogram=histogram(array),
    )


def histogram(array: npt.NDArray[np.float64]) -> Histogram:
    """Equal bins up to the quantile 0.99; what lies above is `beyond`, so that one giant does not hide all others.

    Where all values up to there are equal it has one bin. Bins of whole numbers (frames) are whole numbers wide: others
    would hold now more of them, now fewer, and rise and fall like a comb.
    """
    top = float(np.quantile(array, QUANTILES[-1], method="higher"))
    within = array[array <= top]
    low = float(within.min())
    if low == top:
        return Histogram(edges=[low, top], counts=[len(within)], beyond=len(array) - len(within))
    edges = np.linspace(low, top, BINS + 1)
    if (array == np.round(array)).all():
        edges = np.arange(low, top + 1, np.ceil((top - low + 1) / BINS))
        edges = np.append(edges, edges[-1] + (edges[-1] - edges[-2]))
        within = array[array < edges[-1]]
    counts, _ = np.histogram(within, bins=edges)
    return Histogram(edges=edges.tolist(), counts=counts.tolist(), beyond=len(array) - len(within))


def raw_quality(quality: Sequence[Quality]) -> RawQuality:
    """Sum up what the recordings were like."""
    columns = {field.name: [getattr(row, field.name) for row in quality] for field in fields(Quality)}
    return RawQuality(
        totals={name: sum(column) for name, column in columns.items()},
        recordings={name: sum(value != 0 for value in column) for name, column in columns.items()},
        bodies=tally(columns["bodies"]),
        ids=tally(columns["ids"]),
    )


_FOUND = ": found "
_number = partial(re.compile(r"\d+(?:[.,]\d+)*").sub, "…")


def reasons(outcomes: Sequence[Outcome]) -> list[Reason]:
    """Group outcomes by what is left of their reasons without the file and without numbers."""
    keys: dict[str, list[str]] = {}
    for outcome in outcomes:
        _, found, rest = outcome.reason.partition(_FOUND)
        keys.setdefault(_number(found.removeprefix(": ") + rest if found else outcome.reason), []).append(outcome.key)
    ordered = sorted(keys.items(), key=lambda item: (-len(item[1]), item[0]))
    return [Reason(reason=reason, samples=len(names), key=names[0]) for reason, names in ordered]


def _bones(measures: Measures) -> list[Bone]:
    length, variation = bone_medians(measures.lengths), bone_medians(measures.variations)
    bones = []
    for joint, parent in enumerate(PARENTS):
        if joint == parent:
            continue
        values = measures.lengths[..., joint]
        known = values[~np.isnan(values)]
        there = bool(len(known) and length[joint] >= NO_BONE)
        low, high = np.quantile(known, (0.05, 0.95)).tolist() if there else (0.0, 0.0)
        bones.append(
            Bone(
                joint=joint,
                name=f"{JOINT_NAMES[parent]} to {JOINT_NAMES[joint]}",
                length=float(length[joint]) if there else 0.0,
                low=low,
                high=high,
                variation=float(variation[joint]) if there else 0.0,
            )
        )
    return bones


def _joint(measures: Measures, joint: int) -> Joint:
    counts = measures.speeds[joint]
    return Joint(
        joint=joint,
        name=JOINT_NAMES[joint],
        median=speed_quantile(counts, 0.5),
        fast=speed_quantile(counts, 0.99),
        frozen=int(measures.frozen[joint]) / max(1, int(counts.sum())),
    )


def _outliers(store: Store, ranking: Ranking, worst: int) -> Outliers:
    samples = []
    for number in ranking.worst(worst):
        where, info = ranking.locate(store.sample(number), number), store.infos[number]
        samples.append(
            Outlier(
                number=number,
                key=info.key,
                label=info.label,
                score=float(ranking.score[number]),
                found=float(ranking.found[number]),
                usual=float(ranking.usual[number]),
                **where._asdict(),
            )
        )
    return Outliers(name=ranking.name, unit=ranking.unit, scores=spread(ranking.score), samples=samples)
