"""What a conversion would find, make, need and take; nothing is written.

Counts are exact: they come from names and label files. Sizes and times are estimates from a few recordings converted in
memory (`pipelines.planning.probing`), given with two standard errors.
"""

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.conversion.convert import default_scratch, find_existing
from pipelines.conversion.pack import Packing, plan_packing
from pipelines.conversion.parts import FRAME_BYTES
from pipelines.planning.inventory import Inventory, take_inventory
from pipelines.planning.probing import Estimate, Probe, probe_some, ratio_estimate
from pipelines.preprocessing.recipes import Recipe, recipe
from shards.cores import count_cores
from shards.encoding import STORAGES, Storage
from shards.errors import ConfigError, RawInputError, StoreError
from shards.places import Place, place
from shards.schema import Segment

# Measured on stores of 120 to 2,000 samples.
_TABLE_BYTES, _ROW_BYTES = 24_000, 20
_TAR_END_BYTES = 6_000
# Imports, empty tables and the first files of a conversion; and how many times the seconds of the probes it took beside
# that (measured on two threads, NTU and NW-UCLA files): it also writes, hashes, syncs, and writes records and indexes.
_START_SECONDS, _TIMES = 1.3, 1.3
QUICK_BYTES = 1_000_000_000
"""Of plain files that a plan reads to know their checksums, by which a finished conversion is found."""

_FLOOR = 0.02
"""Share of an estimate that its probes do not tell: ends of files, manifest, how samples fall into chunks."""


@dataclass(frozen=True)
class Forecast:
    """What a conversion would find, make, need and take.

    Attributes:
        inventory: what is there.
        recipe, dtype, data: of the conversion; no `data`, no look at a disk.
        probes: the recordings converted to measure the rest.
        cells, shards: how many.
        clip_frames: in the shards.
        frames: in the store.
        store_bytes, shard_bytes: on disk.
        work_bytes: most that the conversion needs at a time, result included.
        seconds: on `threads` threads.
        free_bytes: where the conversion works; None where it cannot be told.
        found: what is already there of this conversion.
    """

    inventory: Inventory
    recipe: str
    dtype: Storage
    data: Place | None
    probes: tuple[Probe, ...]
    cells: int
    shards: int
    clip_frames: Estimate
    frames: Estimate
    store_bytes: Estimate
    shard_bytes: Estimate
    work_bytes: Estimate
    seconds: Estimate
    threads: int
    free_bytes: int | None
    found: str
    took: float

    @property
    def enough(self) -> bool | None:
        """Whether the disk has room for the conversion, the uncertainty included; None where it cannot be told."""
        if self.free_bytes is None or math.isnan(self.work_bytes.value):
            return None
        return self.free_bytes >= self.work_bytes.value + 2 * self.work_bytes.error


def plan(
    source: str,
    raw: Sequence[Place | str],
    data: Place | str | None = None,
    recipe_name: str = "pcm3",
    dtype: Storage = "float32",
    samples_per_shard: int = 1024,
) -> Forecast:
    """Take inventory and forecast `pipelines.conversion.convert.convert` of the same arguments.

    Raises:
        ConfigError: an option cannot work.
        RawInputError: a path is missing, holds no raw file, or is a zip that cannot be trusted or read.
    """
    begun = time.perf_counter()
    if dtype not in STORAGES:
        raise ConfigError(f"found dtype {dtype!r}, expected {' or '.join(STORAGES)}")
    if samples_per_shard < 1:
        raise ConfigError(f"found {samples_per_shard} samples per shard, expected 1 or more")
    recipe_, threads = recipe(recipe_name, source), count_cores()
    places, out = [place(path) for path in raw], None if data is None else place(data)
    what = {"recipe": recipe_name, "dtype": dtype, "samples_per_shard": samples_per_shard}
    inventory = take_inventory(source, places)
    probes = probe_some(source, inventory.listed, recipe_, dtype, threads)
    packing = _packing(inventory, recipe_, samples_per_shard)
    sizes = _Sizes(inventory, [found for found in probes if not found.fault])
    frames, clip_frames = sizes.by_input([len(p.frames) for p in sizes.probes]), sizes.clip_frames(packing)
    store_bytes = sizes.by_input([p.stored for p in sizes.probes]) + Estimate(
        _TABLE_BYTES + _ROW_BYTES * len(inventory.listed)
    )
    shard_bytes = sizes.shard_bytes(packing)
    return Forecast(
        inventory=inventory,
        recipe=recipe_name,
        dtype=dtype,
        data=out,
        probes=tuple(probes),
        cells=len(packing.cells),
        shards=len(packing.shards),
        clip_frames=clip_frames,
        frames=frames,
        store_bytes=_floored(store_bytes),
        shard_bytes=_floored(shard_bytes),
        work_bytes=_floored(frames * FRAME_BYTES + store_bytes + shard_bytes),
        seconds=sizes.by_input([p.seconds for p in sizes.probes]) * (_TIMES / threads) + Estimate(_START_SECONDS),
        threads=threads,
        free_bytes=None if out is None else _free_bytes(out),
        found="" if out is None else _found(inventory, places, out, what),
        took=time.perf_counter() - begun,
    )


def _packing(inventory: Inventory, recipe_: Recipe, samples_per_shard: int) -> Packing:
    """Cells and shards as the conversion would plan them; lengths of trimmed samples count as 0, for nobody knows."""
    segments, lengths = None, [0] * len(inventory.listed)
    if inventory.untrimmed:
        segments = [
            Segment(video, a.row, a.start, a.end, a.label, a.confidence)
            for video, item in enumerate(inventory.listed)
            for a in item.actions
        ]
        lengths = [recipe_.clip_length(segment.end - segment.start) for segment in segments]
    infos = [item.info for item in inventory.listed]
    return plan_packing(inventory.source, infos, lengths, segments, samples_per_shard)


@dataclass(frozen=True)
class _Sizes:
    """Totals from the probes that could be converted."""

    inventory: Inventory
    probes: list[Probe]

    def by_input(self, wanted: Sequence[float]) -> Estimate:
        """From the bytes of skeleton files."""
        listed = self.inventory.listed
        total = sum(item.recording.skeleton.size for item in listed)
        return ratio_estimate([p.size for p in self.probes], wanted, total, len(listed))

    def clip_frames(self, packing: Packing) -> Estimate:
        """Label files tell those of actions exactly."""
        if self.inventory.untrimmed:
            return Estimate(sum(cell.frames for cell in packing.cells.values()))
        return self.by_input([p.clip_frames for p in self.probes])

    def shard_bytes(self, packing: Packing) -> Estimate:
        ends = Estimate(_TAR_END_BYTES * len(packing.shards))
        wanted = [p.packed for p in self.probes]
        if not self.inventory.untrimmed:
            return self.by_input(wanted) + ends
        total, count = self.clip_frames(packing).value, len(self.inventory.listed)
        return ratio_estimate([p.clip_frames for p in self.probes], wanted, total, count) + ends


def _floored(estimate: Estimate) -> Estimate:
    return Estimate(estimate.value, max(estimate.error, _FLOOR / 2 * estimate.value))


def _free_bytes(data: Place) -> int | None:
    """Of the disk that the conversion would work on: that of the nearest folder which exists."""
    folder = (data if isinstance(data, Path) else default_scratch()).absolute()
    there = next((f for f in (folder, *folder.parents) if f.exists()), None)
    return None if there is None else shutil.disk_usage(there).free


def _found(inventory: Inventory, raw: list[Place], data: Place, what: dict[str, Any]) -> str:
    """What is there already of the conversion, a finished store or a begun one; or why it would stop at once."""
    unread = [file for file in inventory.files if file.crc32 is None]
    if sum(file.size for file in unread) > QUICK_BYTES or any(not isinstance(file.path, Path) for file in unread):
        return f"not looked whether it is done already: that takes reading all {len(unread):,} plain files"
    try:
        existing = find_existing(inventory.source, raw, data, **what)
    except (RawInputError, StoreError) as error:
        return f"a conversion would stop at once: {error}"
    if existing is not None:
        return f"{existing.folder} holds this very conversion: nothing to do"
    name = f".{inventory.source}-{what['recipe']}-*.partial"
    begun = sorted(data.glob(name)) if isinstance(data, Path) and data.is_dir() else []
    return f"conversions begun: {', '.join(path.name for path in begun)}" if begun else ""
