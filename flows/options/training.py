"""Options of the commands that train, and of those that train and score."""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from flows.options.argument import OTHER, POSITIONAL, Argument
from flows.options.fields import (
    DatasetName,
    Device,
    Gpus,
    Loader,
    LoaderOptions,
    LocalPath,
    MovedData,
    Options,
    Overrides,
    PlaceText,
    RecordOptions,
    ShareGpu,
    SourceSamples,
    SourceWeight,
)
from shards.skeleton import Stream

_ALSO = "DATASET/PROTOCOL[=WEIGHT][@DATA]"


class MethodsOptions(Options):
    """Which methods to list."""

    name: Annotated[str | None, POSITIONAL] = None
    """One method or variant alone."""

    as_json: Annotated[bool, Argument("--json")] = False
    """Write JSON, for programs."""


class AlsoOptions(Options):
    """A further source of a mixture; also as text of the form DATASET/PROTOCOL[=WEIGHT][@DATA]."""

    dataset: str
    """Data set, such as ntu60 or nwucla."""

    protocol: str
    """Protocol of the data set, whose train side is used."""

    weight: SourceWeight = 1.0
    """How often an epoch takes each of its samples; 0.5 takes half of them, the other half in the next."""

    samples: SourceSamples | None = None
    """An epoch takes that many of them instead."""

    classes: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Label of each of its classes; without it those of an earlier source of the same archive, else behind the classes
    of the sources before."""

    data: PlaceText | None = None
    """Where its store lies; without it where the first one does."""

    @model_validator(mode="before")
    @classmethod
    def _read_text(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        match = re.fullmatch(r"([^/=@]+)/([^/=@]+)(?:=([^@]+))?(?:@(.+))?", given)
        if match is None:
            raise ValueError(f"found {given!r}, expected {_ALSO}")
        parts = zip(("dataset", "protocol", "weight", "data"), match.groups(), strict=True)
        return {name: part for name, part in parts if part is not None}


class PretrainOptions(Options):
    """What to train on which data, and where the run lies."""

    method: Annotated[str, Argument(positional=True, required=True)] = "pcm3pp"
    """Recipe, with its variants: pcm3pp, pcm3pp-small+no-clip, ... (`skelstream methods`)."""

    data: PlaceText
    """Folder of a store, or of several; path or URL."""

    dataset: DatasetName

    protocol: str
    """Protocol of the data set, whose train side is used: xsub, xview, xset, ..."""

    also: Annotated[tuple[AlsoOptions, ...], Argument(metavar=_ALSO, several="repeat")] = ()
    """Further data sets, mixed with the first one. WEIGHT: how often an epoch takes each of its samples, 1 if not said;
    DATA: where its store lies, if not where the first one does."""

    streams: Annotated[tuple[Stream, ...], Argument("--stream", "STREAM[,...]", several="commas")] = Field(
        ("joint",), min_length=1
    )
    """What a view is made of: joint, bone or motion; several give the method an encoder for each."""

    run: LocalPath
    """Folder of the run: checkpoints, log, and later its scores."""

    overrides: Overrides = ()

    resume: Annotated[bool, Argument(default=False)] = True
    """Go on from the last checkpoint of the folder; else a run that is there is an error."""

    init_from: Annotated[LocalPath | None, Argument(metavar="RUN")] = None
    """Folder of another run: start from its encoder."""

    freeze: int = Field(0, ge=0)
    """Give no gradient to so many of the encoder's first blocks."""

    device: Device = "auto"

    gpus: Gpus = None

    share_gpu: ShareGpu = False

    loader: Loader = LoaderOptions()


class DistillOptions(Options):
    """Which run, and for how long."""

    run: Annotated[LocalPath, POSITIONAL]
    """Folder of a run whose main stage is finished; it becomes the run with both stages."""

    epochs: int = Field(151, ge=1)
    """Epochs of the stage; the default is that of the author's configurations."""

    lr: float = Field(0.002, gt=0)
    """Learning rate of the stage."""

    data: MovedData = None

    device: Device = "auto"

    gpus: Gpus = None

    share_gpu: ShareGpu = False

    loader: Loader = LoaderOptions()


class BenchmarkOptions(Options):
    """Which benchmark."""

    file: Annotated[LocalPath, Argument(positional=True, required=True)] = Path("benchmark.yaml")
    """YAML file that describes it; `flows/benchmark/example.yaml` is one."""

    round: Annotated[str | None, Argument(metavar="NAME")] = None
    """Name of an earlier round to go on with; without it the present one."""


class PlannedOptions(RecordOptions):
    """Whether to run a benchmark at all."""

    plan: Annotated[bool, Argument(group=OTHER)] = False
    """Only show what is there, what is missing and what it costs."""


class DemoOptions(Options):
    """Where the demo works."""

    out: LocalPath = Path("demo")
    """Folder for everything that it makes."""
