"""The commands of the data lane: from raw archives to shards that can be trusted."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flows.service.recording import record
from shards.catalog import SOURCES
from shards.errors import ConfigError
from shards.paths import expand_home, expand_place

if TYPE_CHECKING:
    from flows.options import LoaderOptions
    from shards.places import Place

Read = TypeVar("Read")

STORAGES = ["float32", "float16", "fixed"]
RECIPES = "pcm3, ctrgcn or raw"


def add_commands(commands: Any) -> None:
    """Add all of them, in the order of a user's way."""
    for add in (_add_synth, _add_plan, _add_preprocess, _add_verify, _add_repair, _add_stats, _add_diff_recipes):
        add(commands)


def command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int | None], text: str
) -> argparse.ArgumentParser:
    """A command of this name, which `run` carries out."""
    sub: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    sub.set_defaults(command=run)
    return sub


def local_path(text: str) -> Path:
    """A path that the user typed; what is wrong with it ends in the usage."""
    return _read_typed(expand_home, text)


def place_text(text: str) -> str:
    """A path or URL that the user typed."""
    return _read_typed(expand_place, text)


def _read_typed(read: Callable[[str], Read], text: str) -> Read:
    try:
        return read(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_loader(sub: argparse.ArgumentParser) -> None:
    """How samples reach which device; no result depends on it."""
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    sub.add_argument("--share-gpu", action="store_true", help="do not wait for a GPU that nobody else computes on")
    sub.add_argument(
        "--loader",
        choices=["auto", "resident", "stream", "dali"],
        default="auto",
        help="auto holds the split on the device if it fits, else streams the shards; it says which and why",
    )
    sub.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="threads that make batches ahead; without it none on the CPU, one for a GPU",
    )
    sub.add_argument("--cache", type=local_path, metavar="DIR", help="folder that keeps remote shards for later runs")
    sub.add_argument("--cache-gb", type=float, metavar="GB", help="that the cache takes at most")


def loader_options(options: argparse.Namespace) -> "LoaderOptions":
    from flows.config import validated
    from flows.options import LoaderOptions

    cache = None if options.cache is None else str(options.cache)
    named = {"loader": options.loader, "workers": options.workers, "cache": cache, "cache_gb": options.cache_gb}
    return validated(LoaderOptions, named, "loader")


def add_plain(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--plain", action="store_true", help="run without Prefect (no server, no record of the run)")


def _add_source(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("source", choices=SOURCES, metavar="SOURCE", help="%(choices)s")
    sub.add_argument("raw", nargs="+", metavar="RAW", help="zips, folders or files, in any layout; paths or URLs")


def _add_result(sub: argparse.ArgumentParser, *, required: bool) -> None:
    sub.add_argument("--out", required=required, metavar="DATA", help="folder that holds the stores; path or URL")
    sub.add_argument("--recipe", default="pcm3", help=f"preprocessing recipe: {RECIPES}")
    sub.add_argument(
        "--dtype", choices=STORAGES, default="float32", help="storage; float32 is exact, fixed has steps of 0.1 mm"
    )


def _add_data(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("data", metavar="DATA", help="a store's folder, or the folder that holds the stores; path or URL")


def _add_synth(commands: Any) -> None:
    sub = command(commands, "synth", _synth, "write licence-free raw archives in an exact official format")
    sub.add_argument("--source", required=True, choices=["ntu", "pkummd1", "pkummd2"], help="whose format")
    sub.add_argument("--out", type=local_path, required=True, help="new or empty folder")
    sub.add_argument("--subjects", type=int, default=8, help="performers")
    sub.add_argument("--classes", type=int, default=6, help="action classes")
    sub.add_argument("--samples", type=int, default=240, help="files")
    sub.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    sub.add_argument("--zip", action="store_true", help="a zip instead of a folder")


def _synth(options: argparse.Namespace) -> None:
    from pipelines.synthetic import synthesize

    print(
        synthesize(
            options.source,
            options.out,
            subjects=options.subjects,
            classes=options.classes,
            samples=options.samples,
            seed=options.seed,
            zipped=options.zip,
            progress=True,
        )
    )


def _add_plan(commands: Any) -> None:
    sub = command(commands, "plan", _plan, "take inventory of raw archives and forecast a conversion; writes nothing")
    _add_source(sub)
    _add_result(sub, required=False)


def _plan(options: argparse.Namespace) -> None:
    from flows.data.plan import show_plan

    out = None if options.out is None else _place(options.out)
    print(show_plan(options.source, _places(options.raw), out, options.recipe, options.dtype))


def _add_preprocess(commands: Any) -> None:
    sub = command(commands, "preprocess", _preprocess, "convert raw archives into a store and shards")
    _add_source(sub)
    _add_result(sub, required=True)
    sub.add_argument(
        "--on-error", choices=["stop", "drop"], default="stop", help="stop at a bad sample, or drop and report it"
    )
    sub.add_argument("--workers", type=int, metavar="N", help="threads; without it one a core")
    sub.add_argument("--scheduler", metavar="ADDRESS", help="Dask scheduler whose workers do the work instead")
    sub.add_argument(
        "--scratch",
        type=local_path,
        metavar="DIR",
        help="local folder to work in when DATA is a URL (~/.cache/skelstream)",
    )
    add_plain(sub)


def _preprocess(options: argparse.Namespace) -> None:
    from pipelines.conversion.convert import convert, find_existing

    raw, out = _places(options.raw), _place(options.out)
    how = {name: getattr(options, name) for name in ("on_error", "scheduler", "workers", "scratch")}
    what = {"recipe": options.recipe, "dtype": options.dtype}

    def work(begun: bool) -> None:
        print(convert(options.source, raw, out, **what, **how, progress=True).summary())

    existing = None if options.plain else find_existing(options.source, raw, out, **what)
    if options.plain:
        work(False)
    elif existing is not None:
        print(existing.summary())
    else:
        from flows.preprocess import PreprocessOptions

        request = {"source": options.source, "raw": tuple(map(str, raw)), "out": str(out)}
        record("flows.deployments.preprocess.preprocess_flow", PreprocessOptions(**request, **what, **how), work)


def _add_verify(commands: Any) -> None:
    sub = command(
        commands, "verify", _verify, "recompute hashes, counts and splits of a store, and compare its shards with it"
    )
    _add_data(sub)
    sub.add_argument("--deep", nargs="+", default=[], metavar="RAW", help="parse a random part of these archives again")
    sub.add_argument("--share", type=float, default=0.05, help="of the recordings that --deep parses again")
    sub.add_argument("--seed", type=int, default=0, help="of the choice of --deep")


def _verify(options: argparse.Namespace) -> int:
    from flows.data.verify import verify_data

    problems = verify_data(
        _place(options.data), _places(options.deep), share=options.share, seed=options.seed, progress=True
    )
    for problem in problems:
        print(problem)
    if problems:
        print("skelstream: the first may be the cause of others; see `skelstream repair`", file=sys.stderr)
    return 1 if problems else 0


def _add_repair(commands: Any) -> None:
    sub = command(commands, "repair", _repair, "rewrite the broken files of a store, and nothing else")
    sub.add_argument("data", metavar="DATA", help="a store's folder, or the folder that holds the stores; local")
    sub.add_argument("raw", nargs="*", metavar="RAW", help="the raw archives; shards alone need none")


def _repair(options: argparse.Namespace) -> None:
    from flows.data.repair import repair_data

    print("\n".join(repair_data(_place(options.data), _places(options.raw), progress=True)) or "nothing is broken")


def _add_stats(commands: Any) -> None:
    sub = command(commands, "stats", _stats, "measure the quality of a store's data")
    _add_data(sub)
    sub.add_argument("--html", type=local_path, metavar="FILE", help="write the data quality page")
    sub.add_argument("--json", type=local_path, metavar="FILE", help="write the numbers")


def _stats(options: argparse.Namespace) -> None:
    from flows.data.stats import stats

    print(stats(_place(options.data), html=options.html, json=options.json, progress=True))


def _add_diff_recipes(commands: Any) -> None:
    sub = command(commands, "diff-recipes", _diff_recipes, "show, sample by sample and in sum, where two stores differ")
    sub.add_argument("a", metavar="DATA_A", help="a store's folder")
    sub.add_argument("b", metavar="DATA_B", help="another one of the same source")
    sub.add_argument("--csv", type=local_path, metavar="FILE", help="write the row of every sample")


def _diff_recipes(options: argparse.Namespace) -> None:
    from flows.data.differences import diff_recipes

    print(diff_recipes(_place(options.a), _place(options.b), csv=options.csv, progress=True))


def _place(text: str) -> "Place":
    from shards.places import place  # fsspec takes longer than all else of --help

    return place(text)


def _places(texts: list[str]) -> "list[Place]":
    return [_place(text) for text in texts]
