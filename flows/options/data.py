"""Options of the commands of the data lane."""

from typing import Annotated, Literal

from pydantic import Field

from flows.options.argument import POSITIONAL, Argument, list_datasets, list_sources
from flows.options.fields import LocalPath, Options, PlaceText, StoreData
from shards.skeleton import Stream


class SynthOptions(Options):
    """Which archives to make up."""

    source: Literal["ntu", "pkummd1", "pkummd2"]
    """Whose format the archives have."""

    out: LocalPath
    """New or empty folder."""

    subjects: int = 8
    """Number of performers."""

    classes: int = 6
    """Number of action classes."""

    samples: int = 240
    """Number of recordings."""

    seed: int = 0
    """Seed of everything that is drawn."""

    zipped: Annotated[bool, Argument("--zip")] = False
    """Write zips instead of folders."""


class _ConversionOptions(Options):
    source: Annotated[str, Argument(positional=True, choices=list_sources)]
    """Where the archives come from, such as ntu or nwucla."""

    raw: Annotated[tuple[PlaceText, ...], POSITIONAL]
    """Zips, folders or files, in any layout; paths or URLs."""

    recipe: str = "pcm3"
    """Recipe of the preprocessing: pcm3, ctrgcn or raw."""

    dtype: Literal["float32", "float16", "fixed"] = "float32"
    """How coordinates are stored: float32 is exact, fixed has steps of 0.1 mm."""


class PlanOptions(_ConversionOptions):
    """Which conversion to forecast."""

    out: Annotated[PlaceText | None, Argument(metavar="DATA")] = None
    """Folder (path or URL) that would hold the stores: what is there is found."""


class PreprocessOptions(_ConversionOptions):
    """What to convert and how. Options that change the bytes are part of the store's fingerprint."""

    out: Annotated[PlaceText, Argument(metavar="DATA", required=True)] = "data"
    """Folder (path or URL) that holds the stores; the store becomes `<source>-<recipe>-<fingerprint>` in it."""

    on_error: Literal["stop", "drop"] = "stop"
    """stop ends at the first bad sample; drop leaves bad samples out and reports each."""

    scheduler: Annotated[str | None, Argument(metavar="ADDRESS")] = None
    """Address of a Dask scheduler whose workers do the work; without it, this process does."""

    workers: int | None = Field(None, ge=0)
    """Threads of this process; without it one a core."""

    scratch: Annotated[LocalPath | None, Argument(metavar="DIR")] = None
    """Local folder to work in when the stores lie at a URL; without it ~/.cache/skelstream."""


class VerifyOptions(Options):
    """Which stores to check, and how deeply."""

    data: StoreData

    deep: Annotated[tuple[PlaceText, ...], Argument(metavar="RAW")] = ()
    """Parse a random part of these raw archives again."""

    share: float = 0.05
    """Share of the recordings that --deep parses again."""

    seed: int = 0
    """Seed by which --deep chooses them."""


class RepairOptions(Options):
    """Which stores to repair, and from what."""

    data: Annotated[PlaceText, POSITIONAL]
    """A store's folder, or the folder that holds the stores; local."""

    raw: Annotated[tuple[PlaceText, ...], POSITIONAL] = ()
    """The raw archives; shards alone need none."""


class StatsOptions(Options):
    """Which stores to measure, and where to write what was found."""

    data: StoreData

    html: Annotated[LocalPath | None, Argument(metavar="FILE")] = None
    """Write the data quality page to this file."""

    json_file: Annotated[LocalPath | None, Argument("--json", "FILE")] = None
    """Write the numbers to this file."""


class DiffOptions(Options):
    """Which two stores to compare."""

    a: Annotated[PlaceText, Argument(metavar="DATA_A", positional=True)]
    """A store's folder."""

    b: Annotated[PlaceText, Argument(metavar="DATA_B", positional=True)]
    """Another one of the same source."""

    csv: Annotated[LocalPath | None, Argument(metavar="FILE")] = None
    """Write a row about every sample to this file."""


class ViewOptions(Options):
    """Which views of which sample to draw."""

    data: StoreData

    key: Annotated[str, POSITIONAL]
    """Key of the sample, such as S001C001P001R001A001."""

    views: PlaceText = "pcm3pp"
    """What a method sees (pcm3pp, mamp, skeletonclr, ...), a .json file of a ViewSpec, all (a view for each operation),
    or the folder of a run: then also what its last checkpoint predicts of hidden joints, and the nearest training
    samples."""

    stream: Stream = "joint"
    """Stream of a method's views."""

    seed: int | None = None
    """Seed of the run to replay; without it that of the run in --views, else 0."""

    epoch: int = 0
    """Epoch to replay, from 0."""

    step: int = 0
    """Global batch of that epoch, for what a whole batch shares."""

    frames: Annotated[int | None, Argument(metavar="T")] = None
    """Frames of a method's views; without it the method's own."""

    dataset: Annotated[str | None, Argument(metavar="DATASET", choices=list_datasets)] = None
    """Data set whose store holds the sample; without it any."""

    out: Annotated[LocalPath | None, Argument(metavar="FILE")] = None
    """File of the page; without it KEY.html."""
