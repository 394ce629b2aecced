"""One self-contained page about one run or many, which opens offline: templates/report.html with what fills it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from flows.pages.report.classes import class_tables, confusions
from flows.pages.report.curves import run_curves
from flows.pages.report.gather import gather
from flows.pages.report.provenance import provenance
from flows.pages.report.quality import stores
from flows.pages.report.runs import Run, colourings, group_runs, read_runs, several
from flows.pages.report.score_figures import level_charts, reliability, timelines
from flows.pages.report.score_sections import sections
from flows.pages.report.tables import benchmarks, tiles
from flows.pages.report.views import sample_views
from flows.pages.web import assets
from shards.errors import ConfigError
from shards.files import write_atomic


def write_report(runs: Sequence[Path], out: Path, *, title: str | None = None) -> Path:
    """Write the page; what is not there (no results yet, a store that has moved) it says in words.

    Args:
        runs: folders of pre-training runs, scored or not.
        out: the page; written whole or not at all. Equal runs give equal bytes.
        title: stands above; None for what the runs are.

    Raises:
        ConfigError: no run, one twice, a folder that holds none, or an `out` that is a folder.
        SkelstreamError: a log, a file of results or of class scores is garbled.
    """
    if out.is_dir():
        raise ConfigError(f"--out: found the folder {out}, expected the name of a file")
    found = read_runs(runs)
    environment = Environment(loader=PackageLoader("flows.pages"), autoescape=select_autoescape(), trim_blocks=True)
    page = environment.get_template("report.html").render(_content(found, title))
    write_atomic(out, page.encode())
    return out


def _content(runs: Sequence[Run], title: str | None) -> dict[str, Any]:
    groups = group_runs(runs)
    tables = benchmarks(groups)
    matrices = confusions(groups)
    views = sample_views(runs)
    return {
        "title": title or _title(runs),
        "summary": f"{_title(runs)}. {_summary(runs)}" if title else _summary(runs),
        "facts": _facts(runs[0]) if len(runs) == 1 else {},
        "runs": runs,
        "groups": groups,
        "colourings": colourings(runs),
        "tiles": tiles(tables),
        "tables": tables,
        "curves": run_curves(runs),
        "class_tables": class_tables(groups),
        "confusions": matrices,
        "pictures": [own.picture for own in matrices],
        "reliability": reliability(groups),
        "levels": level_charts(groups),
        "timelines": timelines(groups),
        "exhibits": gather([run.path for run in runs]),
        "views": views,
        "kinds": [{"skeleton": kind.skeleton, "sequences": kind.sequences} for kind in views.kinds],
        "stores": stores(runs),
        "scores": {run.name: sections(run.results) for run in runs if run.results},
        "provenance": provenance(runs),
        "player": assets(),
    }


def _title(runs: Sequence[Run]) -> str:
    configs = [run.config for run in runs]
    methods = several([config.method for config in configs], "methods")
    data = several([f"{config.data.dataset} {config.data.protocol}" for config in configs], "protocols")
    streams = several([config.data.stream for config in configs], "streams")
    return f"{methods} on {data}, {streams}"


def _summary(runs: Sequence[Run]) -> str:
    """A sentence about all: how many, how long, scored or not."""
    seeds = several([str(run.config.train.seed) for run in runs], "seeds")
    what = "One run" if len(runs) == 1 else f"{len(runs)} runs"
    seed = f"seed {seeds}" if " " not in seeds else seeds
    epochs = sorted({len(run.log) for run in runs})
    trained = f"{epochs[0]}" if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}"
    hours = sum(run.hours for run in runs)
    scored = sum(1 for run in runs if run.results)
    unscored = f" {len(runs) - scored} of them without results." if scored < len(runs) else ""
    time = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"
    if len(runs) == 1:
        return f"{what}, {seed}, {trained} epochs, {time} of training."
    return f"{what}, {seed}, {trained} epochs each, {time} of training in all.{unscored}"


def _facts(run: Run) -> dict[str, str]:
    config, record, manifest = run.config, run.record, run.data.manifest
    model, train = config.objective.encoder, config.train
    stages = "".join(f", then {stage.epochs} of stage {stage.name}" for stage in train.stages if stage.epochs)
    return {
        "store": f"recipe {record.recipe}, fingerprint {record.fingerprint}",
        "samples": manifest.describe() if manifest is not None else "the store is not there any more",
        "encoder": model.describe(),
        "training": f"{train.epochs} epochs, batch {train.batch_size}, lr {train.lr}{stages}",
        "revision": record.revision,
    }
