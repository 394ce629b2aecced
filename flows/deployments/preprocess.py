"""Preprocessing as a flow run."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

from flows.options import PreprocessOptions
from flows.preprocess import preprocess
from flows.service import tracking
from flows.service.tracking import attempt, link, markdown, name_run, table, tell, tracked_flow
from pipelines.conversion.convert import ConvertResult, default_scratch
from pipelines.conversion.parts import FILES_PER_PART
from pipelines.conversion.recordings import list_recordings
from shards.places import place


@tracked_flow("preprocess")
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
