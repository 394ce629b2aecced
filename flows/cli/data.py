"""The commands of the data lane: from raw archives to shards that can be trusted, and looked at."""

import sys
from typing import TYPE_CHECKING

from flows.cli.command import command

if TYPE_CHECKING:  # the list of all commands needs none
    from flows.options import (
        DiffOptions,
        PlanOptions,
        PreprocessOptions,
        RecordOptions,
        RepairOptions,
        StatsOptions,
        SynthOptions,
        VerifyOptions,
        ViewOptions,
    )


@command("skelstream synth --source ntu --out raw --subjects 8 --classes 6 --samples 240 --zip")
def synth(options: "SynthOptions") -> None:
    """Write licence-free raw archives in an exact official format."""
    from pipelines.synthetic import synthesize

    print(synthesize(**dict(options), progress=True))


@command("skelstream plan ntu nturgbd_skeletons_s001_to_s017.zip nturgbd_skeletons_s018_to_s032.zip")
def plan(options: "PlanOptions") -> None:
    """Take inventory of raw archives and forecast a conversion; writes nothing."""
    from pipelines.planning.text import show_plan
    from shards.places import place

    out = None if options.out is None else place(options.out)
    print(show_plan(options.source, [place(raw) for raw in options.raw], out, options.recipe, options.dtype))


@command(
    "skelstream preprocess ntu nturgbd_skeletons_s*.zip --out data",
    "skelstream preprocess nwucla s3://bucket/nwucla.zip --out s3://bucket/data --dtype fixed",
)
def preprocess(options: "PreprocessOptions", how: "RecordOptions") -> None:
    """Convert raw archives into a store and shards."""
    from flows.service.recording import record
    from pipelines.conversion.convert import convert, find_existing
    from shards.places import place

    raw, out = [place(path) for path in options.raw], place(options.out)
    existing = None
    if not how.plain:
        existing = find_existing(options.source, raw, out, recipe=options.recipe, dtype=options.dtype)
    if existing is not None:  # nothing to record
        print(existing.summary())
        return

    def work(begun: bool) -> None:
        result = convert(
            options.source,
            raw,
            out,
            recipe=options.recipe,
            dtype=options.dtype,
            on_error=options.on_error,
            scheduler=options.scheduler,
            workers=options.workers,
            scratch=options.scratch,
            progress=True,
        )
        print(result.summary())

    record("flows.deployments.preprocess.preprocess_flow", options, work, plain=how.plain)


@command("skelstream verify data", "skelstream verify data --deep raw --share 0.1")
def verify(options: "VerifyOptions") -> int:
    """Recompute hashes, counts and splits of a store, and compare its shards with it."""
    from pipelines.repair.stores import verify_data
    from shards.places import place

    deep = [place(raw) for raw in options.deep]
    problems = verify_data(place(options.data), deep, share=options.share, seed=options.seed, progress=True)
    for problem in problems:
        print(problem)
    if problems:
        print("skelstream: the first may be the cause of others; see `skelstream repair`", file=sys.stderr)
    return 1 if problems else 0


@command("skelstream repair data raw")
def repair(options: "RepairOptions") -> None:
    """Rewrite the broken files of a store, and nothing else."""
    from pipelines.repair.stores import repair_data
    from shards.places import place

    done = repair_data(place(options.data), [place(raw) for raw in options.raw], progress=True)
    print("\n".join(done) or "nothing is broken")


@command("skelstream stats data --html quality.html")
def stats(options: "StatsOptions") -> None:
    """Measure the quality of a store's data."""
    from flows.pages.quality import stats as measure
    from shards.places import place

    print(measure(place(options.data), html=options.html, json=options.json_file, progress=True))


@command("skelstream diff-recipes data/ntu-pcm3-* data/ntu-ctrgcn-*")
def diff_recipes(options: "DiffOptions") -> None:
    """Show, sample by sample and in sum, where two stores differ."""
    from pipelines.quality.text import diff_recipes as compare
    from shards.places import place

    print(compare(place(options.a), place(options.b), csv=options.csv, progress=True))


@command(
    "skelstream view data S001C001P001R001A001",
    "skelstream view data S001C001P001R001A001 --views runs/pcm3pp --epoch 3 --out views.html",
)
def view(options: "ViewOptions") -> None:
    """Draw a sample and all its views as an animation in one HTML file."""
    from flows.pages.sample.page import ViewRequest, write_view
    from shards.places import place

    request = ViewRequest(data=place(options.data), **options.model_dump(exclude={"data", "out"}))
    print(f"wrote {write_view(request, options.out)}\nagain: {request.command}")
