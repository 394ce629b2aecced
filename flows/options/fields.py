"""Fields that the options of several commands share."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from flows.options.argument import OTHER, POSITIONAL, SPEED, Argument, list_datasets
from shards.frozen import Frozen
from shards.paths import expand_home, expand_place

LocalPath = Annotated[Path, AfterValidator(expand_home)]
"""A path of this machine, whose `~` is a home folder."""

PlaceText = Annotated[str, BeforeValidator(str), AfterValidator(expand_place)]
"""A path or URL; JSON and Prefect's forms know only text."""

# an epoch's order is made at once; that of more samples than these would not fit in memory
SourceWeight = Annotated[float, Field(gt=0, le=1000)]
SourceSamples = Annotated[int, Field(ge=1, le=100_000_000)]

LoaderKind = Literal["auto", "resident", "stream", "dali"]


class Options(Frozen):
    """The base of all options: the docstring below a field says what it is, and help and reference are made of it."""

    # schemas are built when they are first needed: --help needs none
    model_config = ConfigDict(use_attribute_docstrings=True, allow_inf_nan=False, defer_build=True)


class LoaderOptions(Options):
    """How samples reach the device. It changes speed and memory, never a sample, a view or their order."""

    loader: LoaderKind = "auto"
    """resident holds the split on the device, stream reads tar shards as it goes, dali has NVIDIA DALI make what it can
    of the views; auto takes resident when the split's frames fit in a quarter of the device's memory, else stream."""

    workers: int | None = Field(None, ge=0)
    """Threads that make batches ahead; without it none on the CPU, whose cores the trainer needs, and one for a GPU."""

    cache: Annotated[LocalPath | None, Argument(metavar="DIR")] = None
    """Folder where remote shards stay for the next epoch and run; without it they pass through a temporary one."""

    cache_gb: Annotated[float | None, Argument(metavar="GB")] = Field(None, gt=0, le=1e9)
    """What the cache takes at most, in 10^9 bytes; without it as much as the disk has."""


class RecordOptions(Options):
    """Whether Prefect records the command."""

    plain: Annotated[bool, Argument(group=OTHER)] = False
    """Run without Prefect: no server, no record of the run."""


StoreData = Annotated[
    PlaceText, POSITIONAL, Field(description="A store's folder, or the folder that holds the stores; path or URL.")
]
RunFolder = Annotated[LocalPath, POSITIONAL, Field(description="Folder of a pre-training run.")]
DatasetName = Annotated[
    str,
    Argument(metavar="DATASET", choices=list_datasets),
    Field(description="Data set, such as ntu60 or nwucla."),
]
MovedData = Annotated[
    PlaceText | None, Field(description="Folder of the store when it has moved since pre-training; path or URL.")
]
Overrides = Annotated[
    tuple[str, ...],
    Argument("--set", "a.b=v", several="repeat"),
    Field(description="Values of the configuration, such as train.epochs=100."),
]
Device = Annotated[str, Argument(group=SPEED), Field(description="auto, cpu, cuda or cuda:N.")]
Gpus = Annotated[
    int | None,
    Argument(group=SPEED),
    Field(
        ge=1,
        description="Processes of this machine, one a GPU (on the device cpu: so many), which share each batch; without"
        " it one. Those of several machines torchrun starts: torchrun ... -m -- skelstream pretrain ... --plain.",
    ),
]
ShareGpu = Annotated[
    bool,
    Argument(group=SPEED),
    Field(description="Compute on a GPU that another process has; else wait until one is free."),
]
Loader = Annotated[
    LoaderOptions, Argument(group=SPEED), Field(description="How samples reach the device; no result depends on it.")
]
