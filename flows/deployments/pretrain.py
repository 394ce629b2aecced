"""Pre-training as a flow run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.config import PretrainConfig
from flows.options import PretrainOptions
from flows.pretrain import pretrain, resolve, summary
from flows.run_folder import read_run
from flows.service import tracking
from flows.service.tracking import attempt, line_chart, link, markdown, name_run, picture, table, tell, tracked_flow
from models.training.runlog import read_log


@tracked_flow("pretrain")
def pretrain_flow(options: PretrainOptions, progress: bool = True) -> str:
    """Pre-train an encoder; returns the checkpoint's path.

    Args:
        options: what to train on which data, and where the run lies.
        progress: show a bar in the terminal.
    """
    config = resolve(options)
    name_run(config.title, run=options.run.name, **config.tags)
    begun, key = len(read_log(options.run)), options.run.name
    with tracking.progress(f"{key}-progress", "epochs trained", lambda: _epochs(options.run, config)):
        result = attempt(f"train-{options.method}", pretrain)(options, progress=progress)
    tell(summary(result))
    lines = read_log(options.run)
    table(f"{key}-epochs", _epoch_rows(lines), f"{summary(result)}; of all epochs at most 20 are shown")
    if lines:
        picture(f"{key}-curve", line_chart([line["loss"] for line in lines], "loss"), "loss by epoch")
    link(f"{key}-folder", options.run, "the run: checkpoints, log, configuration, results")
    markdown(f"{key}-provenance", _provenance(options.run, config, lines, begun), "what this run is made of")
    return str(result.checkpoint)


def _epochs(run: Path, config: PretrainConfig) -> tuple[int, int]:
    """Epochs that are done, and all."""
    return len(read_log(run)), config.train.total_epochs


def _epoch_rows(lines: Sequence[dict[str, Any]], most: int = 20) -> list[dict[str, Any]]:
    """Some epochs, the last one among them."""
    every = -(-len(lines) // most) or 1
    probes: dict[str, Any] = dict.fromkeys(name for line in lines for name in line.get("probe", {}))
    return [
        {
            "epoch": line["epoch"] + 1,
            "loss": round(line["loss"], 4),
            "rate": line["lr"],
            **{name: line.get("probe", {}).get(name) for name in probes},
            "samples/s": round(line["samples_per_second"]),
            "minutes": round(line["seconds"] / 60, 2),
        }
        for line in lines[(len(lines) - 1) % every :: every]
    ]


def _provenance(run: Path, config: PretrainConfig, lines: Sequence[dict[str, Any]], begun: int) -> str:
    record = read_run(run)
    hours = sum(line["seconds"] for line in lines[:begun]) / 3600
    origin = f"found {begun} of {config.train.total_epochs} epochs trained: {hours:.2g} hours saved"
    return "\n".join(
        (
            f"- {origin if begun else 'trained from the beginning'}",
            f"- data `{record.fingerprint}` (recipe `{record.recipe}`, store `{record.store}`)",
            *(f"- mixed with data `{fingerprint}`" for fingerprint in record.also),
            f"- code {record.revision}; {', '.join(f'{name} {number}' for name, number in record.versions.items())}",
            "",
            "```json",
            json.dumps(config.model_dump(mode="json"), indent=1),
            "```",
        )
    )
