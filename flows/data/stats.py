"""The quality of stores: a summary to read in a terminal, the numbers as JSON, the data quality page."""

from pathlib import Path

from flows.pages.quality import DROPPED_BODIES, amount, page, where
from pipelines.quality.statistics import Outliers, Spread, Statistics
from pipelines.quality.summary import statistics
from shards.files import write_atomic
from shards.frozen import Frozen
from shards.manifest import find_stores
from shards.places import Place


class Report(Frozen):
    """What `--json` writes."""

    stores: list[Statistics]


def stats(data: Place, html: Path | None = None, json: Path | None = None, progress: bool = False) -> str:
    """Measure every store below `data`.

    Args:
        data: a store's folder, or the folder that holds several.
        html: where to write the page; several stores are its sections.
        json: where to write the numbers, see `Report`.
        progress: show a bar for each store.

    Returns:
        A summary for people to read.

    Raises:
        StoreError: there is no store, or one is damaged.
    """
    folders = find_stores(data)
    found = [statistics(folder, progress=progress) for folder in folders]
    written = []
    if json is not None:
        write_atomic(json, (Report(stores=found).model_dump_json(indent=1) + "\n").encode())
        written.append(f"wrote {json}")
    if html is not None:
        write_atomic(html, page(list(zip(folders, found, strict=True))).encode())
        written.append(f"wrote {html}")
    return "\n".join([*map(summary, found), *written])


def summary(found: Statistics) -> str:
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
        *((f"worst {outliers.name}", _worst(outliers)) for outliers in found.outliers if outliers.samples),
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


def _worst(outliers: Outliers) -> str:
    worst = outliers.samples[0]
    return (
        f"{worst.key} {where(worst)}: {amount(worst.found, outliers.unit)}, usual {amount(worst.usual, outliers.unit)}"
    )
