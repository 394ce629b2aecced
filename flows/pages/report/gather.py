"""All that a page needs of runs to show their exhibits, as JSON."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flows.config import PretrainConfig, read_config
from flows.pages.report.features import features_of, open_bench
from flows.pages.report.neighbours import Nearest, drawn, find_nearest, pick_queries
from flows.pages.report.pool import Pool, read_items
from flows.pages.report.prediction import predictions
from flows.run_folder import RunRecord, read_run
from flows.tasks.bench import Bench, Subject
from models.evaluation.embedding import maps, unit
from models.evaluation.features import Features
from models.training.checkpoint import load_checkpoint
from shards.catalog import class_names
from shards.errors import SkelstreamError

SUBJECTS: dict[Subject, str] = {
    "trained": "trained encoder",
    "random encoder": "untrained encoder",
    "coordinates": "coordinates",
}
"""Whose features are shown, and how a page calls them."""

PREDICTED = 3
"""Samples whose hidden joints are predicted."""

FEWEST = 30
"""Points of a map, however many benchmarks share the page."""

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Run:
    """A run with the seeds of all that differ from it in the seed alone."""

    folder: Path
    config: PretrainConfig
    record: RunRecord
    seeds: list[int]

    @property
    def benchmark(self) -> tuple[str, str, str]:
        return self.record.fingerprint, self.config.data.dataset, self.config.data.protocol


@dataclass(frozen=True)
class _Page:
    """What the runs of one page share."""

    samples: int
    queries: int
    seed: int
    pools: dict[str, Pool] = field(default_factory=dict)
    coordinates: dict[Any, dict[str, Any]] = field(default_factory=dict)


def gather(runs: Sequence[Path], *, samples: int = 300, queries: int = 4, seed: int = 0) -> dict[str, Any]:
    """The exhibits of runs: of those that differ in the seed alone, of the first.

    Nothing is written. Features are those that evaluations have kept in a run's folder, else they are extracted: of the
    samples shown, and of a gallery of `flows.pages.report.neighbours.GALLERY`. A part that cannot be shown says why in
    words.

    Args:
        runs: folders, in the order of the page.
        samples: test samples in each map; where a page shows more than two benchmarks, they share twice as many.
        queries: test samples whose neighbours are shown.
        seed: of what is drawn. Equal runs and arguments give equal exhibits.

    Returns:
        JSON of templates/exhibits.html: "subjects" (names), "classes" (of each data set), "pools" by
        fingerprint (see `Pool.as_json`) and "runs": "folder", "method", "dataset", "protocol", "stream", "seed",
        "seeds", "pool", and either "missing" (why there is nothing) or "maps", "neighbours" and "prediction", each of
        them perhaps with "missing".

    Raises:
        ConfigError: a folder holds no run.
    """
    firsts = _firsts(runs)
    page = _Page(shared(samples, len({run.benchmark for run in firsts})), queries, seed)
    told = [_run(page, run) for run in firsts]
    names = sorted({run.config.data.dataset for run in firsts})
    return {
        "subjects": SUBJECTS,
        "classes": {name: list(class_names(name)) for name in names},
        "pools": {name: pool.as_json() for name, pool in sorted(page.pools.items())},
        "runs": told,
    }


def shared(samples: int, benchmarks: int) -> int:
    """Samples of each map: as many as asked for of one or two benchmarks; more of them share as many as two have."""
    return min(samples, max(FEWEST, 2 * samples // max(1, benchmarks)))


def _firsts(runs: Sequence[Path]) -> list[_Run]:
    """The first run of each group whose seeds alone differ."""
    found: dict[str, _Run] = {}
    for folder in runs:
        config, record = read_config(folder / "config.json"), read_run(folder)
        tree = config.model_dump(mode="json")
        seed = tree["train"].pop("seed")
        key = json.dumps([tree, record.fingerprint, record.also], sort_keys=True)
        found.setdefault(key, _Run(folder, config, record, [])).seeds.append(seed)
    return list(found.values())


def _run(page: _Page, run: _Run) -> dict[str, Any]:
    data = run.config.data
    told: dict[str, Any] = {
        "folder": run.folder.name,
        "method": run.config.method,
        "dataset": data.dataset,
        "protocol": data.protocol,
        "stream": data.stream,
        "seed": run.seeds[0],
        "seeds": run.seeds,
        "pool": run.record.fingerprint,
    }
    try:
        bench = open_bench(run.folder, run.config, run.record)
        ids = drawn(bench.benchmark.facts("test").sample_id, page.samples, page.seed)
        pool = page.pools.setdefault(run.record.fingerprint, Pool(bench.benchmark.manifest))
        pool.add(bench.benchmark.split("test"), bench.benchmark.facts("test"), ids)
        trained = features_of(bench, "test", "trained", ids)
        untrained = features_of(bench, "test", "random encoder", ids)
        near: dict[Subject, Nearest | None] = {
            "trained": find_nearest(bench, "trained", trained, page.seed),
            "random encoder": find_nearest(bench, "random encoder", untrained, page.seed),
        }
        told["maps"] = {
            "ids": trained.sample_id.tolist(),
            "of": {
                "trained": _map(trained, near["trained"]),
                "random encoder": _map(untrained, near["random encoder"]),
                "coordinates": _coordinates(page, bench, ids),
            },
        }
        told["neighbours"] = _neighbours(page, bench, pool, near)
    except SkelstreamError as error:
        return told | {"missing": str(error)}
    return told | {"prediction": _prediction(bench, told["neighbours"]["queries"])}


def _map(features: Features, near: Nearest | None) -> dict[str, Any]:
    told = maps(unit(features.values.double().numpy()))
    return told | {"near": None if near is None else near.labels[:, 0].tolist()}


def _coordinates(page: _Page, bench: Bench, ids: Ids) -> dict[str, Any]:
    """The map of the coordinates, which all runs share that see them the same way."""
    benchmark = bench.benchmark
    key = (benchmark.manifest.fingerprint, benchmark.dataset, benchmark.protocol, benchmark.stream, benchmark.frames)
    if key not in page.coordinates:
        values = features_of(bench, "test", "coordinates", ids).values
        page.coordinates[key] = maps(values.double().numpy()) | {"near": None}
    return page.coordinates[key]


def _neighbours(page: _Page, bench: Bench, pool: Pool, near: dict[Subject, Nearest | None]) -> dict[str, Any]:
    found = {subject: nearest for subject, nearest in near.items() if nearest is not None}
    trained = found["trained"]
    queries = pick_queries(trained, page.queries, page.seed)
    for query in queries:
        query["near"] = {subject: nearest.of(query["id"]) for subject, nearest in found.items()}
    shown = {one[0] for query in queries for near in query["near"].values() for one in near}
    pool.add(bench.benchmark.split("train"), bench.benchmark.facts("train"), np.array(sorted(shown), np.int64))
    return {
        "queries": queries,
        "searched": trained.searched,
        "total": trained.total,
        "right": {subject: float(nearest.right.mean()) for subject, nearest in found.items()},
    }


def _prediction(bench: Bench, queries: list[dict[str, Any]]) -> dict[str, Any]:
    ids = [query["id"] for query in queries[:PREDICTED]]
    items = read_items(bench.benchmark.split("test"), bench.benchmark.facts("test"), np.array(sorted(ids), np.int64))
    items.sort(key=lambda item: ids.index(item.sample_id))
    try:
        return {"samples": predictions(bench.config, load_checkpoint(bench.source.checkpoint), items)}
    except SkelstreamError as error:
        return {"missing": str(error)}
