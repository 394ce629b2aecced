"""Raw archives -> store and shards, as a plain function and as a Prefect flow."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal

from prefect import flow
from pydantic import BaseModel, ConfigDict, Field

from flows import tracking
from flows.guard import check_preprocess
from flows.options import PlaceText
from flows.tracking import attempt, link, markdown, name_run, table, tell
from pipelines.conversion.parts import FILES_PER_PART
from pipelines.conversion.recordings import list_recordings
from pipelines.convert import ConvertResult, convert, default_scratch
from shards.places import place


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

    scratch: Path | None = None
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


@flow(name="preprocess", validate_parameters=True)
def preprocess_flow(options: PreprocessOptions, progress: bool = True) -> str:
    """Convert raw archives; returns the store's folder.

    Args:
        options: what to convert and how.
        progress: show bars in the terminal.
    """
    name_run(f"{options.source} {options.recipe}", source=options.source, recipe=options.recipe)
    key = f"store-{options.source}-{options.recipe}"
    with tracking.progress(f"{key}-progress", "recordings parsed, then shards written", _measure(options)):
        result = attempt(f"convert-{options.source}", preprocess)(options, progress=progress)
    tell(result.summary())
    manifest = result.manifest
    cells = [{"cell": name, "samples": cell.samples, "frames": cell.frames} for name, cell in manifest.cells.items()]
    table(f"{key}-cells", cells, f"what {result.folder.name} holds: {manifest.describe()}")
    link(f"{key}-folder", result.folder, "the store: samples, shards, manifest")
    markdown(f"{key}-provenance", _provenance(result), "what this store is made of")
    return str(result.folder)


def _measure(options: PreprocessOptions) -> Callable[[], tuple[float, float]]:
    """How many units of the conversion are done, by the marks that they leave; and about how many there are."""
    out = place(options.out)
    local = out if isinstance(out, Path) else options.scratch or default_scratch()

    @cache
    def units() -> float:
        parts = -(-len(list_recordings(options.source, [place(path) for path in options.raw])) // FILES_PER_PART)
        return parts * 9 / 8  # shards and the store's own, of which nobody knows yet how many they are

    def measure() -> tuple[float, float]:
        works = sorted(
            local.glob(f".{options.source}-{options.recipe}-*.partial"), key=lambda path: path.stat().st_mtime
        )
        return len(list(works[-1].glob("done/*.json"))) if works else 0, units()

    return measure


def _provenance(result: ConvertResult) -> str:
    manifest = result.manifest
    size = sum(file.bytes for file in manifest.files) / 1e9
    origin = f"found it complete: {size:.3g} GB not written again" if result.reused else f"wrote {size:.3g} GB"
    return "\n".join(
        (
            f"- {origin}",
            f"- fingerprint `{manifest.fingerprint}`, recipe `{manifest.recipe}`, stored as {manifest.dtype}",
            f"- inventory of the raw files: SHA-256 `{manifest.inventory}`",
            f"- {len(manifest.dropped)} samples dropped, {len(manifest.repaired)} repaired, each named in the manifest",
        )
    )
