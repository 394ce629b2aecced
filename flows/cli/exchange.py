"""The commands that give weights to others and take theirs."""

from typing import TYPE_CHECKING

from flows.cli.command import command

if TYPE_CHECKING:  # the list of all commands needs none
    from flows.options import ExportOptions, ImportOptions


@command("skelstream export runs/pcm3pp --out encoder")
def export(options: "ExportOptions") -> None:
    """Write a run's encoder as safetensors and ONNX, with a model card."""
    from flows.exchange.export import export as write

    print(write(options.run, options.checkpoint, options.out or options.run / "export", options.stream))


@command(
    "skelstream import-checkpoint pcm3 checkpoint_0450.pth.tar --run runs/released --data data --dataset ntu60 \\\n"
    "      --protocol xview"
)
def import_checkpoint(options: "ImportOptions") -> None:
    """Make a run that can be evaluated from released PCM3 or CMD weights."""
    from flows.exchange.released import import_released

    print(import_released(options))
