"""The quality of a store, and the differences between two, as text for people."""

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.quality.differences import Compared, Differences, differences
from pipelines.quality.statistics import Outlier, Outliers, Spread, Statistics
from shards.manifest import Outcome
from shards.places import Place
from shards.skeleton import JOINT_NAMES

DROPPED_BODIES = {
    "dropped_by_rank": "beyond the two persons kept",
    "dropped_by_length": "too few frames",
    "dropped_by_spread": "too wide for a person",
    "dropped_by_overlap": "at the same time as a longer one",
}

SHOWN = 10
"""Samples that a summary names; the CSV file names all."""

_PERCENTILES = (50, 90, 99, 100)
_STEP_WIDTH = 24


def diff_recipes(a: Place, b: Place, csv: Path | None = None, progress: bool = False) -> str:
    """Compare two finished stores and say where they differ.

    Args:
        a, b: folders of stores of one source.
        csv: write the row of every sample to this file.
        progress: show a bar.

    Raises:
        ConfigError: they are of different sources.
        StoreError: one is unfinished or damaged.
        DiskError: the file cannot be written.
    """
    found = differences(a, b, progress=progress)
    lines = [describe_differences(found)]
    if csv is not None:
        found.write_csv(csv)
        lines.append(f"every sample: {csv}")
    return "\n".join(lines)


def describe_differences(found: Differences) -> str:
    """Steps side by side, samples of one store only, distances in sum, and the samples that differ most."""
    blocks = [_head(found), _steps(found), _samples(found)]
    if len(found.compared.keys):
        blocks.append(_sums(found.compared))
    if worst := found.most_different(SHOWN):
        blocks.append(_worst(found.compared, worst))
    return "\n\n".join("\n".join(block) for block in blocks)


def _head(found: Differences) -> Iterator[str]:
    for name, manifest in (("A", found.a), ("B", found.b)):
        text = f"{manifest.source}-{manifest.recipe}-{manifest.fingerprint}"
        yield f"{name}  {text}: {manifest.describe()}, {manifest.dtype}"
    same = found.a.inventory == found.b.inventory
    yield f"raw files: {'the same' if same else 'not the same'}"


def _steps(found: Differences) -> Iterator[str]:
    yield f"{'step':{_STEP_WIDTH}}  A | B"
    for a, b in pair_steps(found.a.recipe_steps, found.b.recipe_steps):
        name = str((a or b or {}).get("name"))
        if a == b:
            yield f"  {name:{_STEP_WIDTH}}{_parameters(a, a)}"
        elif a is None or b is None:
            yield f"* {name:{_STEP_WIDTH}}only {'A' if b is None else 'B'}: {_parameters(a or b, a or b)}"
        else:
            yield f"* {name:{_STEP_WIDTH}}{_parameters(a, b)} | {_parameters(b, a)}"


def pair_steps(
    a: Sequence[dict[str, Any]], b: Sequence[dict[str, Any]]
) -> list[tuple[dict[str, Any] | None, dict[str, Any] | None]]:
    """The steps of two recipes in order, those of one name beside each other; None where the other lacks it."""
    names_a, names_b = ([str(step.get("name")) for step in steps] for steps in (a, b))
    pairs: list[tuple[dict[str, Any] | None, dict[str, Any] | None]] = []
    for tag, a0, a1, b0, b1 in SequenceMatcher(None, names_a, names_b, autojunk=False).get_opcodes():
        if tag == "equal":
            pairs += zip(a[a0:a1], b[b0:b1], strict=True)
        else:
            pairs += [(step, None) for step in a[a0:a1]] + [(None, step) for step in b[b0:b1]]
    return pairs


def _parameters(step: dict[str, Any] | None, other: dict[str, Any] | None) -> str:
    """The parameters of a step, without those that the other has alike if any differs."""
    step, other = step or {}, other or {}
    differing = {key: value for key, value in step.items() if other.get(key, ...) != value}
    shown = differing or {} if step != other else step
    values = {key: "none" if value is None else value for key, value in shown.items() if key != "name"}
    return ", ".join(f"{key} {value}" for key, value in values.items()) or "-"


def _samples(found: Differences) -> Iterator[str]:
    c = found.compared
    counts = f"{len(c.keys):,} in both, {len(found.only_a):,} only in A, {len(found.only_b):,} only in B"
    yield f"samples: {counts}"
    yield from _only("A", found.only_a)
    yield from _only("B", found.only_b)
    if len(c.keys):
        same = int(((c.largest == 0) & (c.frames[:, 0] == c.frames[:, 1]) & (c.bodies[:, 0] == c.bodies[:, 1])).sum())
        yield f"  of those in both: {same:,} equal, {int((c.frames[:, 0] != c.frames[:, 1]).sum()):,} of other length,"
        other = int((c.bodies[:, 0] != c.bodies[:, 1]).sum())
        yield f"  {other:,} with another number of bodies, {int(c.swapped.sum()):,} with the two persons exchanged"


def _only(side: str, outcomes: Sequence[Outcome]) -> Iterator[str]:
    yield from (f"  only in {side}: {outcome.key}: {outcome.reason}" for outcome in outcomes[:SHOWN])
    if len(outcomes) > SHOWN:
        yield f"  ... and {len(outcomes) - SHOWN:,} more only in {side}"


def _sums(c: Compared) -> Iterator[str]:
    yield "over the samples in both" + " " * 12 + "".join(f"{_rank(p):>10}" for p in _PERCENTILES)
    difference = np.abs(c.frames[:, 0] - c.frames[:, 1]).astype(np.float64)
    rows = (
        ("frames, A and B apart", difference, "{:.0f}"),
        ("joints apart, mean (m)", c.mean, "{:.4f}"),
        ("joints apart, largest (m)", c.largest, "{:.4f}"),
        ("shape apart, main body (m)", c.shape, "{:.4f}"),
    )
    for title, values, form in rows:
        known = values[~np.isnan(values)]
        cells = [form.format(np.percentile(known, p)) if len(known) else "-" for p in _PERCENTILES]
        yield f"  {title:<34}" + "".join(f"{cell:>10}" for cell in cells)
    yield "joints: frame by frame from the first, persons by their place, where both are there"
    yield "shape: root mean square without every frame's centre and the best one rotation; near 0 the same movement"


def _rank(percentile: int) -> str:
    return {50: "median", 100: "largest"}.get(percentile, f"{percentile} %")


def _worst(c: Compared, worst: Sequence[int]) -> Iterator[str]:
    width = max(len(c.keys[i]) for i in worst)
    yield (
        "most different by shape"
        + " " * max(0, width - 21)
        + f"{'frames':>12}{'bodies':>9}{'mean':>9}{'largest':>9}{'shape':>9}"
    )
    for i in worst:
        frames, bodies = (f"{a} | {b}" for a, b in (c.frames[i], c.bodies[i]))
        numbers = "".join(f"{'-' if np.isnan(v[i]) else f'{v[i]:.4f}':>9}" for v in (c.mean, c.largest, c.shape))
        exchanged = "  persons exchanged" if c.swapped[i] else ""
        yield f"{'  ' + c.keys[i]:<{width}}{frames:>12}{bodies:>9}{numbers}{exchanged}"


def describe_quality(found: Statistics) -> str:
    """A store in some fifteen lines."""
    rows = [
        ("content", ", ".join(f"{number:,} {name}" for name, number in found.counts.items())),
        ("classes", _counted(found.classes, "labelled actions" if found.actions else "samples")),
        ("subjects", _counted(found.subjects, "recordings")),
        ("length", _spread(found.lengths)),
        *([("actions", _spread(found.actions))] if found.actions else []),
        ("bodies", ", ".join(f"{number:,} with {bodies}" for bodies, number in found.bodies.items())),
        ("empty frames", f"{found.empty_frames:,} ({found.empty_frames / max(1, found.counts['frames']):.2%})"),
        ("equal frames", f"{found.duplicates:,} ({found.duplicates / max(1, found.pairs):.2%})"),
        *_raw_rows(found),
        *(("dropped", f"{r.samples:,} {r.reason} (first {r.key})") for r in found.dropped[:5]),
        *(("repaired", f"{r.samples:,} {r.reason} (first {r.key})") for r in found.repaired[:5]),
        *((f"worst {outliers.name}", _describe_worst(outliers)) for outliers in found.outliers if outliers.samples),
    ]
    return "\n".join([found.store, *(f"  {name:<20} {text}" for name, text in rows)])


def _counted(counts: dict[str, int], unit: str) -> str:
    return f"{len(counts):,}, {min(counts.values()):,} to {max(counts.values()):,} {unit} each" if counts else "none"


def _spread(lengths: Spread) -> str:
    return f"{lengths.lowest:,.0f} to {lengths.highest:,.0f} frames, median {lengths.quantiles['0.5']:,.0f}"


def _raw_rows(found: Statistics) -> list[tuple[str, str]]:
    if found.raw is None:
        return []
    totals, recordings = found.raw.totals, found.raw.recordings
    rows = [
        ("raw empty frames", f"{totals['empty_frames']:,} in {recordings['empty_frames']:,} recordings"),
        ("tracking switches", f"{totals['switches']:,} in {recordings['switches']:,} recordings"),
    ]
    dropped = [f"{totals[name]:,} {why}" for name, why in DROPPED_BODIES.items() if totals[name]]
    return [*rows, ("bodies left out", "; ".join(dropped) or "none")]


def _describe_worst(outliers: Outliers) -> str:
    worst = outliers.samples[0]
    return (
        f"{worst.key} {where(worst)}: {amount(worst.found, outliers.unit)}, usual {amount(worst.usual, outliers.unit)}"
    )


def where(sample: Outlier) -> str:
    """The place in a sample, for people to read; frames count from 0."""
    joint = "" if sample.joint is None else f", {JOINT_NAMES[sample.joint]}"
    person = f" of person {sample.person}" if sample.person else ""
    return f"frame {sample.frame:,}{joint}{person}"


def amount(value: float, unit: str) -> str:
    """A number of an outlier, for people to read."""
    if unit == "share":
        return f"{value:.1%}"
    return f"{value:,.0f} frames" if unit == "frames" else f"{100 * value:,.1f} c{unit}"
