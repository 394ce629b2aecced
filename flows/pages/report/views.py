"""The views of a training sample that the runs of a report were trained on, for the page's player."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flows.pages.player import Picture, Sight, encode
from flows.pages.player import Run as Draws
from flows.pages.report.pool import bodies
from flows.pages.report.runs import Run, short_names
from flows.pages.web import skeleton, upwards
from pipelines.loaders.sample import STAND_IN, find_sample, read_neighbours
from shards.errors import ConfigError, SkelstreamError
from shards.places import Place
from shards.reader import read_index
from shards.skeleton import NUM_COORDINATES, NUM_JOINTS, NUM_PERSONS

KINDS = 8
"""Kinds of views that are shown: they take some 200 kB each."""

VIEW_NOTES = {
    "query": "what is drawn to the key",
    "base": "query: crop, then shear or joint corruption",
    "key": "key: the same kind of view, drawn anew",
    "mix": "the query mixed with another sample of the batch",
    "target": "what the masked prediction has to restore",
    "masked": "the same with body parts hidden in each segment",
    "clip": "a continuous piece of the key; the rest is zero",
}


@dataclass(frozen=True)
class SampleViews:
    """A stored sample and its views, as runs of one method saw it.

    Attributes:
        name: what was seen by whom.
        missing: why there is nothing to see; then the rest is empty.
        key: of the sample.
        skeleton, sequences: for the player.
    """

    name: str
    missing: str
    key: str
    skeleton: dict[str, Any]
    sequences: list[dict[str, Any]]


@dataclass(frozen=True)
class Shown:
    """The kinds of views of a report, and the names of those that it leaves out for its size."""

    kinds: list[SampleViews]
    left_out: list[str]


def sample_views(runs: Sequence[Run]) -> Shown:
    """Of each method, stream and data set, as the first of its runs saw the first training sample in epoch 0."""
    first: dict[tuple[str, str, str], Run] = {}
    for run in runs:
        spec = run.config.views.spec(run.config.data.streams)
        first.setdefault((spec.model_dump_json(), run.record.fingerprint, run.config.data.protocol), run)
    chosen = list(first.values())
    names = short_names([{name: own.properties[name] for name in ("method", "data", "stream")} for own in chosen])
    kinds = [_views(run, name) for run, name in zip(chosen[:KINDS], names, strict=False)]
    return Shown(kinds, names[KINDS:])


def _views(run: Run, name: str) -> SampleViews:
    data, config = run.data, run.config
    if data.folder is None or data.manifest is None:
        return SampleViews(name, data.missing, "", {}, [])
    try:
        found = find_sample(data.folder, _first_key(run, data.folder), config.data.dataset)
        spec = config.views.spec(config.data.streams)
        around = read_neighbours(found, STAND_IN if any(view.mix for view in spec.views) else 1)
        pictures = Sight(spec, around, Draws(config.train.seed, 0, 0)).pictures()
    except SkelstreamError as error:
        return SampleViews(name, str(error), "", {}, [])
    length = int(around.batch.length[0])
    stored = {
        "title": "stored sample",
        "caption": f"{length} frames",
        "count": length,
        "stream": "joint",
        "data": encode(around.batch.frames[:length].float().numpy()),
    }
    sequences = [stored, *(_sequence(picture, length) for picture in pictures)]
    persons = max(map(_persons, sequences))
    shown = skeleton(upwards(data.manifest.recipe_steps))
    return SampleViews(name, "", around.keys[0], shown, [_cut(one, persons) for one in sequences])


def _first_key(run: Run, folder: Place) -> str:
    assert run.data.manifest is not None
    protocol = f"{run.config.data.dataset}/{run.config.data.protocol}"
    for entry in run.data.manifest.shards:
        if run.data.manifest.cells[entry.cell].memberships.get(protocol) == "train":
            return read_index(folder / entry.path).keys[0]
    raise ConfigError(f"{folder.name}: found no training sample of {protocol}, expected one")


def _sequence(picture: Picture, length: int) -> dict[str, Any]:
    drawn = [f"{line.kind}: {line.drawn}" if line.drawn else line.kind for line in picture.lines]
    hidden = [f"hidden: {'; '.join(picture.hidden)}"] if picture.hidden else []
    targets = [f"to predict: {target}" for target in picture.targets]
    note = VIEW_NOTES.get(picture.name, "a view of the sample" if picture.of is None else f"made of {picture.of}")
    return {"title": picture.name, "caption": note, "lines": drawn + hidden + targets, "of": length, **picture.frames}


def _persons(sequence: dict[str, Any]) -> int:
    """Bodies up to the last that is in any frame."""
    names = [name for name in ("data", "ghost", "still") if name in sequence]
    return max(bodies(_frames(sequence[name], "<i2", NUM_COORDINATES)) for name in names)


def _cut(sequence: dict[str, Any], persons: int) -> dict[str, Any]:
    """The sequence of that many bodies alone: half the size where one person acts."""
    cut = {**sequence, "persons": persons}
    for name, kind, width in (("data", "<i2", 3), ("ghost", "<i2", 3), ("still", "<i2", 3), ("state", "u1", 1)):
        if name in sequence:
            values = np.ascontiguousarray(_frames(sequence[name], kind, width)[:, :persons])
            cut[name] = base64.b64encode(values.tobytes()).decode("ascii")
    return cut


def _frames(text: str, kind: str, width: int) -> Any:
    return np.frombuffer(base64.b64decode(text), dtype=kind).reshape(-1, NUM_PERSONS, NUM_JOINTS, width)
