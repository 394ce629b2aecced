"""One self-contained page about a run: what it is, its scores, its curves, a few skeletons and their views."""

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from flows.build import open_views
from flows.config import PretrainConfig, read_config
from flows.drawing import curves, strip
from flows.options import LoaderOptions
from flows.run_folder import RunRecord, read_run
from flows.score_sections import sections
from flows.tasks.summary import stored
from models.training.runlog import read_log
from pipelines.loaders.split import Split, open_split
from pipelines.views.layout import unflatten
from pipelines.views.methods import evaluation_spec
from pipelines.views.spec import ViewSpec
from shards.batch import Views
from shards.errors import StoreError
from shards.manifest import Manifest, find_store, read_manifest, write_atomic
from shards.places import Place, place

SHOWN = 3
"""Sequences drawn."""

VIEW_NOTES = {
    "base": "query: crop, then shear or joint corruption",
    "key": "key: the same kind of view, drawn anew",
    "mix": "the query mixed with another sample of the batch",
    "target": "what the masked prediction has to restore",
    "masked": "the same with body parts hidden in each segment",
    "clip": "a continuous piece of the key; the rest is zero",
}


@dataclass(frozen=True)
class Picture:
    """A drawn sequence with its caption."""

    caption: str
    svg: Markup


def write_report(run: Path, out: Path) -> Path:
    """Write the page of a run; sections without data (no results yet) say so.

    Raises:
        ConfigError: the folder holds no run.
        StoreError: the store of the run is not there any more.
    """
    config, record = read_config(run / "config.json"), read_run(run)
    folder = find_store(place(record.store), config.data.dataset)
    manifest = read_manifest(folder)
    if manifest.fingerprint != record.fingerprint:
        raise StoreError(f"{folder}: found fingerprint {manifest.fingerprint}, expected {record.fingerprint} of {run}")
    environment = Environment(loader=PackageLoader("flows"), autoescape=select_autoescape(), trim_blocks=True)
    page = environment.get_template("report.html").render(
        title=f"{config.method} on {config.data.dataset} {config.data.protocol}, {config.data.stream}",
        facts=_facts(config, record, manifest),
        sections=sections(run / "results", stored(run / "results")),
        curves=run_curves(run, config.train.epochs),
        sequences=_sequences(folder, config, _up(manifest)),
        views=_views(folder, config, _up(manifest)),
        dropped=manifest.dropped,
        repaired=manifest.repaired,
        config=config.model_dump_json(indent=2),
        record=record.model_dump_json(indent=2),
    )
    write_atomic(out, page.encode())
    return out


def _facts(config: PretrainConfig, record: RunRecord, manifest: Manifest) -> dict[str, str]:
    model, train = config.objective.encoder, config.train
    post = f", then {train.post.epochs} of post-distillation, lr {train.post.lr}" if train.post.epochs else ""
    return {
        "store": f"{manifest.source}, recipe {manifest.recipe}, fingerprint {manifest.fingerprint}",
        "samples": manifest.describe(),
        "encoder": f"GRU, {model.layers} layers, hidden {model.hidden}, {model.direction}",
        "training": f"{train.epochs} epochs, batch {train.batch_size}, lr {train.lr}{post}",
        "revision": record.revision,
    }


def run_curves(run: Path, epochs: int) -> list[Markup]:
    """A chart of each kind of number that the log has of the epochs; logs of older versions have fewer kinds.

    Args:
        run: folder of the run.
        epochs: of the main stage; where the log goes on, post-distillation is marked.
    """
    lines = read_log(run)
    stage = (epochs, "post-distillation") if lines and lines[-1]["epoch"] >= epochs else None
    metrics = [line.get("metrics", {}) for line in lines]
    accuracy = [
        {name.removeprefix("accuracy/"): 100 * value for name, value in row.items() if name.startswith("accuracy/")}
        for row in metrics
    ]
    figures = {
        "loss terms, weighted": [{"total": line["loss"], **line["terms"]} for line in lines],
        "queries nearest to their own key, %": accuracy,
        "online score, %": [{name: 100 * x for name, x in line.get("probe", {}).items()} for line in lines],
        "spread of the normalised features": _renamed(metrics, {"feature_std": "standard deviation"}),
        "effective rank of the features": _renamed(metrics, {"effective_rank": "effective rank"}),
        "gradient norm": _renamed(metrics, {"gradient_norm": "mean", "gradient_norm_max": "largest"}),
        "learning rate": _renamed(lines, {"lr": "learning rate"}),
        "samples a second": _renamed(lines, {"samples_per_second": "samples/s"}),
        "time that waited for data, %": [
            {"stalled": 100 * line["stalled"]} if "stalled" in line else {} for line in lines
        ],
    }
    return [Markup(curves(_series(rows), title, stage)) for title, rows in figures.items() if any(rows)]


def _renamed(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> list[dict[str, float]]:
    """Of each row the values that have a name, under that name."""
    return [{shown: row[name] for name, shown in names.items() if name in row} for row in rows]


def _series(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """The values of each name in all rows, NaN where a row has none."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name, math.nan) for row in rows] for name in names}


def _sequences(folder: Place, config: PretrainConfig, up: int) -> list[Picture]:
    split = open_split(folder, config.data.dataset, config.data.protocol, "test")
    views = _first(split, evaluation_spec("full", "joint", config.views.frames), SHOWN)
    return [
        Picture(f"class {int(views.label[row])}, sample {int(views.sample_id[row])}", _draw(views, "x", row, up))
        for row in range(len(views))
    ]


def _views(folder: Place, config: PretrainConfig, up: int) -> list[Picture]:
    split = open_split(folder, config.data.dataset, config.data.protocol, "train")
    views = _first(split, config.views.spec(config.data.stream), 4)
    draw = partial(_draw, views, row=0, up=up)
    return [Picture(f"{name}: {note}", draw(name)) for name, note in VIEW_NOTES.items()]


def _first(split: Split, spec: ViewSpec, count: int) -> Views:
    """The views of the first samples of an epoch."""
    loader = open_views(
        split,
        spec,
        LoaderOptions(loader="stream", workers=0),
        window=1,
        batch_size=count,
        seed=0,
        device=torch.device("cpu"),
        drop_last=False,
    )
    with closing(loader):
        return next(loader.epoch(0))


def _draw(views: Views, name: str, row: int, up: int) -> Markup:
    x = unflatten(views.views[name][row : row + 1])[0]
    visible: Any = None
    if name in views.masks:
        mask = views.masks[name]
        whole = mask[row if len(mask) > 1 else 0].expand(x.shape[0], views.views[name].shape[2])
        visible = unflatten(whole[None].float())[0][..., 0].numpy() > 0
    return Markup(strip(np.asarray(x.numpy()), visible, up))


def _up(manifest: Manifest) -> int:
    """The coordinate that points upwards: the recipe pcm3 turns the spine to z, cameras have y upwards."""
    return 2 if manifest.recipe == "pcm3" else 1
