"""Options of the commands that give weights to others and take theirs."""

from typing import Annotated, Literal

from flows.options.argument import POSITIONAL, Argument
from flows.options.fields import DatasetName, LocalPath, Options, PlaceText, RunFolder
from shards.skeleton import Stream


class ExportOptions(Options):
    """Which run to export."""

    run: RunFolder

    checkpoint: Annotated[LocalPath | None, Argument(metavar="FILE")] = None
    """One of its checkpoints; without it the last."""

    out: Annotated[LocalPath | None, Argument(metavar="DIR")] = None
    """New or empty folder, or one that holds this very export; without it RUN/export."""

    stream: Stream | None = None
    """Whose encoder, of a run that has several."""


class ImportOptions(Options):
    """Which file, and the store on which its encoder will be evaluated."""

    method: Annotated[Literal["pcm3", "cmd"], POSITIONAL]
    """Whose weights."""

    file: Annotated[LocalPath, POSITIONAL]
    """Weight file as released (.pth.tar)."""

    run: LocalPath
    """Folder of the run; new or empty."""

    data: PlaceText
    """Folder of the store that evaluation will use; path or URL."""

    dataset: DatasetName

    protocol: str
    """Protocol of the data set: xsub, xview, xset, ..."""

    stream: Stream = "joint"
    """What the weights were trained on; a file of CMD holds all three."""
