"""Raw archives -> store and shards."""

from flows.machine.room import check_preprocess
from flows.options import PreprocessOptions
from pipelines.conversion.convert import ConvertResult, convert


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
