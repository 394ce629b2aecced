"""The data quality page: one file that opens offline, with every outlier's frames in it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from flows.pages.charts import count_bars, histogram_bars, pose
from flows.pages.web import assets, encode, skeleton, upwards
from pipelines.preprocessing.bodies import present
from pipelines.quality.statistics import Outlier, Outliers, Spread, Statistics
from pipelines.quality.summary import statistics
from pipelines.quality.text import DROPPED_BODIES, amount, describe_quality, where
from shards.catalog import source
from shards.files import write_atomic
from shards.frozen import Frozen
from shards.manifest import STORE, Manifest, find_stores, read_manifest
from shards.places import Place
from shards.skeleton import NUM_COORDINATES, NUM_JOINTS
from shards.store import Store, open_store

CLIP_FRAMES = 120
"""Frames of an outlier in the page, half of them before the worst one: four seconds at 30 Hz."""

CLIP_BUDGET = 4_000_000
"""Characters that the clips of a page may take, an equal part for each store; with more of them each is shorter."""

MEANINGS = {
    "bone variation": "A bone's length changes over time: standard deviation, against the median of all samples for "
    "this bone. Joints that jump, and persons who are mixed up.",
    "bone length": "A bone's median length is unusual, against the median of all samples for this bone. Bodies that "
    "are no bodies, and people of unusual size.",
    "speed": "The largest distance that a joint moves from one frame to the next. Jumps, and persons who change "
    "places.",
    "emptiness": "The share of frames that show nobody, in the raw recording or in the store, whichever is larger.",
    "duration": "Longer or shorter than the median by the largest factor.",
}


@dataclass(frozen=True)
class Clip:
    """Frames first..stop-1 of a row of the store."""

    number: int
    first: int
    stop: int


@dataclass(frozen=True)
class Row:
    """An outlier in its table; `clip` is its place among the store's clips."""

    outlier: Outlier
    clip: int
    pose: Markup
    where: str
    found: str
    usual: str
    bone: bool


@dataclass(frozen=True)
class Table:
    """A list of outliers with all it shows."""

    name: str
    meaning: str
    chart: Markup
    rows: list[Row]


def page(stores: Sequence[tuple[Place, Statistics]]) -> str:
    """The page of one or several stores and their statistics; equal stores give equal pages."""
    environment = Environment(loader=PackageLoader("flows.pages"), autoescape=select_autoescape(), trim_blocks=True)
    environment.filters["percent"] = lambda part, whole: f"{part / max(1, whole):.2%}"
    sections = [_section(folder, found, CLIP_BUDGET // len(stores)) for folder, found in stores]
    return environment.get_template("stats.html").render(
        why_dropped=DROPPED_BODIES,
        title=stores[0][1].store if len(stores) == 1 else f"{len(stores)} stores",
        sections=sections,
        player=assets(),
        viewer={
            "stores": [{"skeleton": skeleton(section["up"]), "clips": section["clips"]} for section in sections],
        },
    )


def _section(folder: Place, found: Statistics, budget: int) -> dict[str, Any]:
    store = open_store(folder / STORE)
    up = upwards_in_store(read_manifest(folder))
    clips = choose_clips(found, np.diff(store.offsets), budget)
    places = {clip: place for place, clip in enumerate(dict.fromkeys(clips.values()))}
    frames = {clip: _frames(store, clip) for clip in places}
    tables = []
    for outliers in found.outliers:
        rows = [
            _row(sample, outliers, places[clip], frames[clip][sample.frame - clip.first], up)
            for sample in outliers.samples
            for clip in [clips[outliers.name, sample.number]]
        ]
        tables.append(Table(outliers.name, MEANINGS[outliers.name], _score_chart(outliers), rows))
    return {
        "found": found,
        "up": up,
        "counts": _count_charts(found),
        "lengths": _length_charts(found),
        "motion": [_centimetres("largest speed of a sample", found.top_speeds, "cm/frame")],
        "tables": tables,
        "clips": [{"first": clip.first, **encode_clip(frames[clip])} for clip in places],
    }


def upwards_in_store(manifest: Manifest) -> int:
    """The coordinate of the store's frames that points upwards: y of a camera, unless the recipe has turned them."""
    # of an untrimmed source the store holds whole videos, which no recipe turns
    return 1 if source(manifest.source).untrimmed else upwards(manifest.recipe_steps)


def choose_clips(found: Statistics, lengths: npt.NDArray[np.int64], budget: int) -> dict[tuple[str, int], Clip]:
    """Which frames each outlier shows: (list, number of the sample) -> clip, as long as so many characters allow."""
    for frames in range(CLIP_FRAMES, 0, -1):
        clips = {
            (outliers.name, sample.number): _around(sample, int(lengths[sample.number]), frames)
            for outliers in found.outliers
            for sample in outliers.samples
        }
        if sum(_characters(clip, found) for clip in set(clips.values())) <= budget:
            break
    return clips


def _around(sample: Outlier, length: int, frames: int) -> Clip:
    first = max(0, min(sample.frame - frames // 2, length - frames))
    return Clip(sample.number, first, min(length, first + frames))


def _characters(clip: Clip, found: Statistics) -> int:
    persons = 2 if "2" in found.bodies else 1
    return math.ceil((clip.stop - clip.first) * persons * NUM_JOINTS * NUM_COORDINATES * 2 / 3) * 4


def _frames(store: Store, clip: Clip) -> npt.NDArray[np.float32]:
    begin = int(store.offsets[clip.number])
    return store.read(begin + clip.first, begin + clip.stop)


def encode_clip(frames: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Frames (T, M, V, C) as a sequence of the player; persons who are never there are left out behind the last one."""
    persons = int(np.flatnonzero(present(frames).any(axis=0)).max(initial=0)) + 1
    return {"count": len(frames), "persons": persons, "data": encode(frames[:, :persons])}


def _row(sample: Outlier, outliers: Outliers, clip: int, bodies: npt.NDArray[np.float32], up: int) -> Row:
    return Row(
        outlier=sample,
        clip=clip,
        pose=pose(bodies, up, sample.person, sample.joint),
        where=where(sample),
        found=amount(sample.found, outliers.unit),
        usual=amount(sample.usual, outliers.unit),
        bone=outliers.unit == "m",
    )


def _count_charts(found: Statistics) -> list[Markup]:
    rows = "videos" if found.actions else "samples"
    charts = [count_bars("classes", found.classes, "actions" if found.actions else "samples")]
    for name, counts in (("subjects", found.subjects), ("cameras", found.cameras), ("setups", found.setups)):
        if list(counts) != ["unknown"]:
            charts.append(count_bars(name, counts, rows))
    return [*charts, count_bars("bodies", found.bodies, rows)]


def _length_charts(found: Statistics) -> list[Markup]:
    of = "videos" if found.actions else "samples"
    charts = [histogram_bars(f"length of {of}, frames", found.lengths.histogram, "frames", of, 0)]
    if found.actions:
        charts.append(histogram_bars("length of actions, frames", found.actions.histogram, "frames", "actions", 0))
    return charts


def _score_chart(outliers: Outliers) -> Markup:
    if outliers.unit == "m/frame":
        return _centimetres("all samples, cm/frame", outliers.scores, "cm/frame")
    if outliers.unit == "share":
        return _centimetres("all samples, %", outliers.scores, "%")
    title = "all samples, robust z" if outliers.unit == "m" else "all samples, times the median or its inverse"
    return histogram_bars(title, outliers.scores.histogram, "", "samples", 1)


def _centimetres(title: str, spread: Spread, unit: str) -> Markup:
    hundredfold = spread.histogram.model_copy(update={"edges": [100 * edge for edge in spread.histogram.edges]})
    return histogram_bars(title, hundredfold, unit, "samples", 1)


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
    return "\n".join([*map(describe_quality, found), *written])
