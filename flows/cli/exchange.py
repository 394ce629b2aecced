"""The commands that give weights to others and take theirs."""

import argparse
from typing import Any

from flows.cli.data import command, local_path, place_text
from shards.catalog import DATASETS


def add_commands(commands: Any) -> None:
    """Add both."""
    _add_export(commands)
    _add_import(commands)


def _add_export(commands: Any) -> None:
    sub = command(commands, "export", _export, "write a run's encoder as safetensors and ONNX, with a model card")
    sub.add_argument("run", type=local_path, metavar="RUN", help="folder of a pre-training run")
    sub.add_argument("--checkpoint", type=local_path, metavar="FILE", help="of this run; without it the last one")
    sub.add_argument("--out", type=local_path, metavar="DIR", help="new or empty folder; without it RUN/export")


def _export(options: argparse.Namespace) -> None:
    from flows.exchange.export import export

    print(export(options.run, options.checkpoint, options.out or options.run / "export"))


def _add_import(commands: Any) -> None:
    sub = command(
        commands, "import-checkpoint", _import, "make a run that can be evaluated from released PCM3 or CMD weights"
    )
    sub.add_argument("method", choices=["pcm3", "cmd"], metavar="METHOD", help="%(choices)s: whose weights")
    sub.add_argument("file", type=local_path, metavar="FILE", help="weight file as released (.pth.tar)")
    sub.add_argument("--run", type=local_path, required=True, help="folder of the run; new or empty")
    sub.add_argument(
        "--data", type=place_text, required=True, help="folder of the store that evaluation will use; path or URL"
    )
    sub.add_argument("--dataset", required=True, choices=DATASETS, metavar="DATASET", help="%(choices)s")
    sub.add_argument("--protocol", required=True, help="xsub, xview or xset")
    sub.add_argument(
        "--stream",
        choices=["joint", "bone", "motion"],
        default="joint",
        help="what the weights were trained on; a file of CMD holds all three",
    )


def _import(options: argparse.Namespace) -> None:
    from flows.exchange.released import ImportOptions, import_released

    names = ("method", "file", "run", "data", "dataset", "protocol", "stream")
    print(import_released(ImportOptions(**{name: getattr(options, name) for name in names})))
