"""What the data of the runs are like: what a store's manifest and tables tell without reading its frames."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from flows.pages.charts import count_bars, histogram_bars
from flows.pages.report.runs import Run
from pipelines.quality.statistics import Reason
from pipelines.quality.summary import reasons, spread, tally
from shards.errors import StoreError
from shards.manifest import STORE, Manifest, Outcome
from shards.places import Place
from shards.store import open_store

SHOWN = 100
"""Samples that are named of those left out or mended."""


@dataclass(frozen=True)
class Outcomes:
    """Samples that were "dropped" or "repaired": by reason, and the first of them by name."""

    name: str
    count: int
    reasons: list[Reason]
    first: list[Outcome]


@dataclass(frozen=True)
class StoreQuality:
    """A store of the report.

    Attributes:
        name: of its folder, or of what was looked for.
        missing: why there is nothing to tell; then the rest is empty.
        facts: what it is.
        sides: "data set/protocol" -> side -> samples.
        charts: counts and lengths.
        outcomes: what was left out or mended.
        runs: names of the runs that were trained on it.
    """

    name: str
    missing: str
    facts: dict[str, str]
    sides: dict[str, dict[str, int]]
    charts: list[Markup]
    outcomes: list[Outcomes]
    runs: list[str]


def stores(runs: Sequence[Run]) -> list[StoreQuality]:
    """Each store of the runs once."""
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        found.setdefault((run.record.fingerprint, run.data.missing), []).append(run)
    return [_store(own[0], [run.name for run in own]) for own in found.values()]


def _store(run: Run, runs: list[str]) -> StoreQuality:
    data = run.data
    if data.folder is None or data.manifest is None:
        return StoreQuality(f"{run.config.data.dataset}, {run.record.fingerprint}", data.missing, {}, {}, [], [], runs)
    manifest = data.manifest
    facts = {
        "source": manifest.source,
        "recipe": manifest.recipe,
        "fingerprint": manifest.fingerprint,
        "content": manifest.describe(),
        "kept as": f"{manifest.dtype}, rounded by {1000 * manifest.max_error:.2g} mm at most",
    }
    try:
        charts = _charts(data.folder)
    except StoreError as error:
        return StoreQuality(data.folder.name, str(error), facts, _sides(manifest), [], _outcomes(manifest), runs)
    return StoreQuality(data.folder.name, "", facts, _sides(manifest), charts, _outcomes(manifest), runs)


def _sides(manifest: Manifest) -> dict[str, dict[str, int]]:
    sides: dict[str, dict[str, int]] = {}
    for cell in manifest.cells.values():
        for protocol, side in cell.memberships.items():
            own = sides.setdefault(protocol, {"train": 0, "test": 0})
            own[side] = own.get(side, 0) + cell.samples
    return dict(sorted(sides.items()))


def _outcomes(manifest: Manifest) -> list[Outcomes]:
    both = {"dropped": manifest.dropped, "repaired": manifest.repaired}
    return [Outcomes(name, len(own), reasons(own), own[:SHOWN]) for name, own in both.items()]


def _charts(folder: Place) -> list[Markup]:
    store = open_store(folder / STORE)
    infos, segments = store.infos, store.segments
    rows, of = ("samples", "samples") if segments is None else ("videos", "actions")
    charts = [
        histogram_bars(f"length of {rows}, frames", spread(np.diff(store.offsets)).histogram, "frames", rows, 0),
        count_bars("classes", tally(row.label for row in (infos if segments is None else segments)), of),
    ]
    for name in ("subject", "camera", "setup"):
        counts = tally(getattr(info, name) for info in infos)
        if list(counts) != ["unknown"]:
            charts.append(count_bars(f"{name}s", counts, rows))
    return [*charts, count_bars("bodies", tally(info.bodies for info in infos), rows)]
