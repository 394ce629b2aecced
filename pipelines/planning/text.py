"""A forecast as text for people."""

import math
from collections.abc import Callable, Sequence

from pipelines.planning.forecast import Forecast, plan
from pipelines.planning.inventory import Inventory, Side
from pipelines.planning.probing import Estimate
from shards.amounts import describe_bytes, describe_duration
from shards.encoding import Storage
from shards.places import Place

SHOWN = 5
"""Files that a summary names of each kind."""

_WIDTH = 100
_SHORT = 25


def summary(forecast: Forecast) -> str:
    """What is there, what is missing, and what a conversion would make of it."""
    inventory = forecast.inventory
    return "\n".join([*_input_lines(inventory), *_count_lines(inventory), *_forecast_lines(forecast)])


def _input_lines(inventory: Inventory) -> list[str]:
    files = inventory.files
    zips = {file.path for file in files if file.member}
    packed = sum(file.member.compressed_size if file.member else file.size for file in files)
    plain = sum(1 for file in files if not file.member)
    where = " and ".join([*([f"{len(zips)} zips"] if zips else []), *([f"{plain:,} plain files"] if plain else [])])
    lines = [
        f"{inventory.source}: {len(files):,} raw files in {where}, {describe_bytes(sum(f.size for f in files))}"
        + (f" ({describe_bytes(packed)} as they lie)" if zips else ""),
        f"  {len(inventory.listed):,} recordings to convert, {inventory.samples:,} samples",
    ]
    for title, found in (
        ("stops any conversion", inventory.blocks),
        ("faulty", inventory.faults),
        ("left out, as the publishers say", inventory.excused),
        ("no recordings of this source", inventory.strays),
        ("on the official list, not here", inventory.absent),
    ):
        lines += _named(title, found)
    return [*lines, *([f"  other files: {inventory.ignored}"] if inventory.ignored else [])]


def _named(title: str, found: Sequence[str]) -> list[str]:
    if not found:
        return []
    if max(map(len, found)) < _SHORT:
        rest = f" ... and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
        return [f"  {title}: {len(found):,}: {', '.join(found[:SHOWN])}{rest}"]
    rest_lines = [f"    ... and {len(found) - SHOWN:,} more"] if len(found) > SHOWN else []
    return [f"  {title}: {len(found):,}", *(f"    {text}" for text in found[:SHOWN]), *rest_lines]


def _count_lines(inventory: Inventory) -> list[str]:
    lines = []
    for field, title in (("label", "class"), ("subject", "subject"), ("camera", "camera"), ("setup", "setup")):
        tally = inventory.tally(field)
        if tally:
            # people count classes as the publishers do, from 1
            shown = {number + (field == "label"): count for number, count in tally.items()}
            unit = "samples" if field == "label" or not inventory.untrimmed else "videos"
            lines += _wrapped(f"  {unit} a {title} ({len(tally)}): ", runs(shown))
    unit = "videos" if inventory.untrimmed else "samples"
    return lines + [_side_line(side, unit) for side in inventory.sides()]


def runs(counts: dict[int, int]) -> list[str]:
    """Numbers in a row that have the same count are told together: {1: 4, 2: 4, 5: 3} -> ["1-2: 4", "5: 3"]."""
    spans: list[tuple[int, int]] = []
    for number in sorted(counts):
        first, last = spans[-1] if spans else (number, number)
        if number == last + 1 and counts[number] == counts[last]:
            spans[-1] = (first, number)
        else:
            spans.append((number, number))
    return [f"{a}: {counts[a]:,}" if a == b else f"{a}-{b}: {counts[a]:,}" for a, b in spans]


def _wrapped(title: str, items: list[str]) -> list[str]:
    lines = [title]
    for number, item in enumerate(items):
        text = item + (", " if number + 1 < len(items) else "")
        if len(lines[-1]) + len(text) > _WIDTH:
            lines.append("    ")
        lines[-1] += text
    return [line.rstrip() for line in lines]


def _side_line(side: Side, unit: str) -> str:
    name = f"  {side.dataset}/{side.protocol} {side.side}: "
    if side.expected is None:
        return f"{name}{side.found:,} {unit}"
    if side.found == side.expected:
        return f"{name}{side.found:,} {unit}, all of the official ones"
    return f"{name}{side.expected:,} {unit} expected, {side.found:,} found"


def _forecast_lines(forecast: Forecast) -> list[str]:
    good = [probe for probe in forecast.probes if not probe.fault]
    bad = [probe.fault for probe in forecast.probes if probe.fault]
    lines = [f"forecast for recipe {forecast.recipe}, {forecast.dtype}; {len(good)} recordings converted to measure:"]
    lines += _named(f"cannot be converted, of {len(forecast.probes)} tried", bad)
    if good:
        lines += [
            f"  frames: {_with_error(forecast.frames, '{:,.0f}'.format)}",
            f"  store: {_with_error(forecast.store_bytes, describe_bytes)}",
            f"  shards: {forecast.shards:,} in {forecast.cells:,} cells,"
            f" {_with_error(forecast.shard_bytes, describe_bytes)}",
            f"  room needed while converting: {_with_error(forecast.work_bytes, describe_bytes)}{_room(forecast)}",
            f"  time: about {describe_duration(forecast.seconds.value)} on {forecast.threads} threads,"
            " if the disk keeps up",
        ]
    return [*lines, *([f"  {forecast.found}"] if forecast.found else []), f"  planned in {forecast.took:.1f} s"]


def _room(forecast: Forecast) -> str:
    if forecast.free_bytes is None:
        return ""
    free = f"; {describe_bytes(forecast.free_bytes)} free"
    return free if forecast.enough else f"{free}: NOT ENOUGH"


def _with_error(estimate: Estimate, shown: Callable[[float], str]) -> str:
    if math.isnan(estimate.error):
        return f"about {shown(estimate.value)}, by one recording"
    if not estimate.error:
        return shown(estimate.value)
    return f"{shown(estimate.value)} ± {200 * estimate.error / estimate.value:.0f} %"


def show_plan(
    source: str,
    raw: Sequence[Place | str],
    out: Place | str | None = None,
    recipe: str = "pcm3",
    dtype: Storage = "float32",
    samples_per_shard: int = 1024,
) -> str:
    """The forecast of `preprocess` with the same arguments, as text; writes nothing.

    Args:
        out: folder that would hold the stores; None leaves out what is there already and the free disk.

    Raises:
        ConfigError, RawInputError: as `pipelines.planning.forecast.plan`.
    """
    return summary(plan(source, raw, out, recipe, dtype, samples_per_shard))
