"""Raw archives -> store and shards."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from flows.machine.room import check_preprocess
from flows.options import LocalPath, PlaceText
from pipelines.conversion.convert import ConvertResult, convert


class PreprocessOptions(BaseModel):
    """What to convert and how. Options that change the bytes are part of the store's fingerprint."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    source: str
    """Where the archives come from: ntu, nwucla, pkummd1, ... (`shards.catalog.SOURCES`)."""

    raw: tuple[PlaceText, ...]
    """Folders and zips, in any layout; paths or URLs."""

    out: PlaceText = "data"
    """Folder (path or URL) that holds the stores; the store becomes `<source>-<recipe>-<fingerprint>` in it."""

    recipe: str = "pcm3"
    """Of the preprocessing: pcm3, ctrgcn or raw."""

    dtype: Literal["float32", "float16", "fixed"] = "float32"
    """How coordinates are stored: float32 is exact, fixed has steps of 0.1 mm."""

    on_error: Literal["stop", "drop"] = "stop"
    """stop ends at the first bad sample; drop leaves bad samples out and reports each."""

    scheduler: str | None = None
    """Address of a Dask scheduler whose workers do the work; without it, this process does."""

    workers: int | None = Field(None, ge=0)
    """Threads of this process; without it one a core."""

    scratch: LocalPath | None = None
    """Local folder to work in when `out` is a URL; without it ~/.cache/skelstream."""


def preprocess(options: PreprocessOptions, *, progress: bool = False) -> ConvertResult:
    """Convert the archives unless a complete store of the same fingerprint is there; ShortageError where the disk is
    short for it."""
    check_preprocess(
        options.source, options.raw, options.out, recipe=options.recipe, dtype=options.dtype, scratch=options.scratch
    )
    return convert(
        options.source,
        options.raw,
        options.out,
        recipe=options.recipe,
        dtype=options.dtype,
        on_error=options.on_error,
        scheduler=options.scheduler,
        workers=options.workers,
        scratch=options.scratch,
        progress=progress,
    )
