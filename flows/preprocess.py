"""Raw archives -> store and shards, as a plain function and as a Prefect flow."""

from pathlib import Path
from typing import Literal

from prefect import flow, task
from pydantic import BaseModel, ConfigDict

from flows.options import PlaceText
from pipelines.convert import ConvertResult, convert


class PreprocessOptions(BaseModel):
    """What to convert and how. Options that change the bytes are part of the store's fingerprint.

    Attributes:
        source: name in `shards.catalog.SOURCES`.
        raw: folders and zips, any layout; paths or URLs.
        out: folder (path or URL) that holds the stores; the store becomes `<source>-<recipe>-<fingerprint>` in it.
        on_error: "stop" ends at the first bad sample; "drop" leaves bad samples out and reports each.
        scheduler: address of a Dask scheduler whose workers do the work; None works in this process.
        workers: threads of this process; None takes one a core.
        scratch: local folder to work in when `out` is a URL.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    raw: tuple[PlaceText, ...]
    out: PlaceText = "data"
    recipe: str = "pcm3"
    dtype: Literal["float32", "float16", "fixed"] = "float32"
    on_error: Literal["stop", "drop"] = "stop"
    scheduler: str | None = None
    workers: int | None = None
    scratch: Path | None = None


def preprocess(options: PreprocessOptions, *, progress: bool = False) -> ConvertResult:
    """Convert the archives unless a complete store of the same fingerprint is there."""
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


@flow(name="preprocess", validate_parameters=True)
def preprocess_flow(options: PreprocessOptions, progress: bool = True) -> str:
    """Convert raw archives; returns the store's folder."""
    result = task(name=f"convert-{options.source}")(preprocess)(options, progress=progress)
    print(result.summary())
    return str(result.folder)
