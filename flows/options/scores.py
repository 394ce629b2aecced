"""Options of the commands that score runs, and show what they are worth."""

from typing import Annotated, Literal

from pydantic import Field

from flows.options.argument import Argument
from flows.options.fields import (
    Device,
    Loader,
    LoaderOptions,
    LocalPath,
    MovedData,
    Options,
    Overrides,
    RunFolder,
    ShareGpu,
)
from shards.skeleton import Stream


class EvaluateOptions(Options):
    """Which run, which tasks."""

    run: RunFolder

    checkpoint: Annotated[str | None, Argument(metavar="NAME")] = None
    """Name of one in the run's folder, such as that of the end of the main stage; without it the last."""

    stream: Stream | None = None
    """Which encoder of a run that holds several; without it the only one, or the first."""

    tasks: Annotated[tuple[str, ...], Argument(metavar="TASK[,...]", several="commas")] = ("linear", "retrieval")
    """Tasks by name, or all for all that the run and its data allow."""

    data: MovedData = None

    overrides: Overrides = Field((), description="Values of the tasks' options, such as linear.epochs=100.")

    device: Device = "auto"

    share_gpu: ShareGpu = False

    loader: Loader = LoaderOptions()


class CompareOptions(Options):
    """Which results to show side by side."""

    results: Annotated[tuple[LocalPath, ...], Argument(metavar="RESULT", positional=True)]
    """Scored runs, or files of their results."""

    baselines: bool = False
    """Show the encoders before training too."""

    pool_seeds: bool = False
    """Make one of the runs that differ in nothing but the seed: mean, deviation."""

    format: Literal["markdown", "csv", "latex"] = "markdown"
    """Format of the tables."""


class ReportOptions(Options):
    """What the page is about."""

    runs: Annotated[tuple[LocalPath, ...], Argument(metavar="RUN", positional=True)]
    """Folders of pre-training runs."""

    out: Annotated[LocalPath | None, Argument(metavar="FILE")] = None
    """File of the page; without it RUN/report.html of a single run."""

    title: str | None = None
    """Title of the page; without it what the runs are."""
