"""One self-contained page about a run: what it is, its scores, its curves, a few skeletons and their views."""

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
from flows.pretrain import RunRecord, read_run
from models.evaluation.results import TaskResult, read_results
from models.training.monitor import read_log
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
        results=_results(run),
        curves=_curves(run),
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
    model = config.objective.encoder
    return {
        "store": f"{manifest.source}, recipe {manifest.recipe}, fingerprint {manifest.fingerprint}",
        "samples": manifest.describe(),
        "encoder": f"GRU, {model.layers} layers, hidden {model.hidden}, {model.direction}",
        "training": f"{config.train.epochs} epochs, batch {config.train.batch_size}, lr {config.train.lr}",
        "revision": record.revision,
    }


def _results(run: Path) -> list[TaskResult]:
    return [result for path in sorted((run / "results").glob("*.json")) for result in read_results(path)]


def _curves(run: Path) -> list[Markup]:
    lines = read_log(run)
    if not lines:
        return []
    series: dict[str, list[float]] = {"total": [line["loss"] for line in lines]}
    for name in lines[-1]["terms"]:
        series[name] = [line["terms"].get(name, float("nan")) for line in lines]
    figures = [curves(series, "loss terms, weighted")]
    probed = [line for line in lines if line.get("probe")]
    if probed:
        names = list(probed[-1]["probe"])
        figures.append(
            curves(
                {name: [100 * line["probe"][name] for line in probed] for name in names},
                "online score, %",
                [line["epoch"] + 1 for line in probed],
            )
        )
    figures.append(curves({"samples/s": [line["samples_per_second"] for line in lines]}, "speed"))
    return [Markup(figure) for figure in figures]


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
